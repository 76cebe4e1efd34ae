//! The first row of a sleeping object, warm: with connections handed on, with a connection opened for
//! each, and by opening a file of stock SQLite.

use std::time::{Duration, Instant};

use dovehouse_sqlbridge::{Connection, Database, Pool, PoolSizes, SqlPolicy};
use hdrhistogram::Histogram;

use super::super::{Run, histogram, record};
use super::{BODY, INSERT, load, object, stock};
use crate::exit::Failure;
use crate::output;

const SELECT: &str = "SELECT body FROM note WHERE id = 1";
/// Files of stock SQLite; more would ask the file system instead.
const FILES_MAX: u64 = 10_000;

pub(in super::super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = load(run, &engine)?;
    engine.compact()?;
    let pool = Pool::new(SqlPolicy::native(), PoolSizes::default());
    let pooled = measure(run, |number| {
        let slot = pool.slot(object(&engine, class, run.seed, number)?);
        let database = slot.database()?;
        let row = database.exec(SELECT, ())?.one()?;
        Ok(row.get(0)?)
    })?;
    run.note_latency("", &pooled);
    let opened = measure(run, |number| {
        let database = Database::open(object(&engine, class, run.seed, number)?)?;
        Ok(database.exec(SELECT, ())?.one()?.get(0)?)
    })?;
    run.note_latency("opened_", &opened);
    let files = run.objects.min(FILES_MAX);
    let dir = run.dir.with_file_name("stock");
    std::fs::create_dir_all(&dir)?;
    let path = |number: u64| dir.join(format!("{number}.sqlite"));
    for number in 0..files {
        let file = stock(&path(number), "OFF")?;
        file.exec(INSERT, ("somebody", BODY))?;
    }
    let stock = measure(run, |number| {
        let file = Connection::open_file(&path(number % files))?;
        Ok(file.exec(SELECT, ())?.one()?.get(0)?)
    })?;
    run.note_latency("stock_", &stock);
    std::fs::remove_dir_all(&dir)?;
    engine.close()?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn measure(
    run: &Run,
    first_row: impl Fn(u64) -> Result<String, Failure>,
) -> Result<Histogram<u64>, Failure> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let (mut latency, time) = (histogram(), Duration::from_secs(run.seconds));
    let bar = output::progress(run.seconds, "seconds");
    let start = Instant::now();
    while start.elapsed() < time {
        let number = rng.u64(..run.objects);
        let since = Instant::now();
        let body = first_row(number)?;
        record(&mut latency, since.elapsed());
        assert_eq!(body, BODY, "every object has this row");
        bar.set_position(start.elapsed().as_secs());
    }
    bar.finish_and_clear();
    Ok(latency)
}
