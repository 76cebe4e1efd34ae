//! Many awake objects that have used their database, a tenth of them hot and four with a connection: what they
//! take, and what one takes at each level of the pool.

use dovehouse_sqlbridge::{Pool, PoolSizes, Slot, SqlPolicy};

use super::super::{Run, machine};
use super::{load, object};
use crate::exit::Failure;
use crate::output;

const SELECT: &str = "SELECT body FROM note WHERE id = 1";

pub(in super::super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = load(run, &engine)?;
    let objects = run.objects as usize;
    let before = machine::rss_bytes();
    let sizes = PoolSizes {
        hot: (objects / 10).max(1),
        open: (objects * 4 / 10).max(1),
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
    run.note("closed", objects - hot - released);
    run.note("rss_bytes", machine::rss_bytes());
    run.note("rss_bytes_before", before);
    // SQLite allocates beside what the process's own count sees, so it says itself.
    slots.clear();
    drop(pool);
    let in_use = || Some(machine::heap_bytes()? + dovehouse_sqlbridge::memory_used());
    for (name, hot, open) in [("hot", 200, 200), ("released", 1, 200), ("closed", 1, 1)] {
        let before = in_use();
        let sizes = PoolSizes { hot, open, idle: 0 };
        let pool = Pool::new(SqlPolicy::native(), sizes);
        let mut slots = Vec::new();
        for number in 0..run.objects.min(200) {
            let slot = pool.slot(object(&engine, class, run.seed, number)?);
            slot.database()?.exec(SELECT, ())?.one()?;
            slots.push(slot);
        }
        let taken = in_use()
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before));
        let each = taken.map(|taken| taken / slots.len() as u64);
        run.note(&format!("{name}_bytes_each"), each);
    }
    engine.close()?;
    Ok(())
}
