//! Many awake objects with an open database: what each takes at each level of the pool.

use dovehouse_sqlbridge::{Pool, PoolSizes, Slot, SqlPolicy};

use super::super::{Run, machine};
use super::{load, object};
use crate::exit::Failure;
use crate::output;

const SELECT: &str = "SELECT body FROM note WHERE id = 1";

pub(in super::super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = load(run, &engine)?;
    let open = run.objects as usize;
    let before = (machine::rss_bytes(), machine::heap_bytes());
    let sizes = PoolSizes {
        hot: (open / 10).max(1),
        open,
        ..PoolSizes::default()
    };
    let pool = Pool::new(SqlPolicy::native(), sizes);
    let bar = output::progress(run.objects, "opened");
    let mut slots: Vec<Slot> = Vec::new();
    for number in 0..run.objects {
        let slot = pool.slot(object(&engine, class, run.seed, number)?);
        slot.database()?.exec(SELECT, ())?.one()?;
        slots.push(slot);
        bar.set_position(number);
    }
    bar.finish_and_clear();
    let (hot, released, _) = pool.counts();
    run.note("hot", hot);
    run.note("released", released);
    let heap = |before: u64| machine::heap_bytes().saturating_sub(before);
    run.note("heap_bytes", heap(before.1));
    run.note("rss_bytes", machine::rss_bytes());
    run.note("rss_bytes_before", before.0);
    slots.clear();
    drop(pool);
    for (name, hot, open) in [("hot", 200, 200), ("released", 1, 200), ("closed", 1, 1)] {
        let before = machine::heap_bytes();
        let sizes = PoolSizes { hot, open, idle: 0 };
        let pool = Pool::new(SqlPolicy::native(), sizes);
        let mut slots = Vec::new();
        for number in 0..run.objects.min(200) {
            let slot = pool.slot(object(&engine, class, run.seed, number)?);
            slot.database()?.exec(SELECT, ())?.one()?;
            slots.push(slot);
        }
        let each = heap(before) / slots.len() as u64;
        run.note(&format!("{name}_bytes_each"), each);
    }
    engine.close()?;
    Ok(())
}
