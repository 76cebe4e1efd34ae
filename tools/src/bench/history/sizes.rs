//! Bytes of history for each commit, beside those of the log.

use dovehouse_engine::{Engine, ObjectId, Stats};

use super::super::{Run, content};
use crate::exit::Failure;
use crate::output;

/// Commits of each object.
const ROUNDS: u64 = 20;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    keys(run)?;
    #[cfg(feature = "sql")]
    sql(run)?;
    Ok(())
}

/// A key of three of many objects is written, each commit by itself.
fn keys(run: &mut Run) -> Result<(), Failure> {
    let engine = Engine::open(run.dir.join("kv"))?;
    let class = content::load_filled(&engine, run)?;
    settle(&engine)?;
    let before = engine.stats();
    let wake = |number| engine.wake(class, content::id(run.seed, number));
    let mut objects = (0..run.objects).map(wake).collect::<Result<Vec<_>, _>>()?;
    let bar = output::progress(ROUNDS, "commits of each object");
    let mut rng = fastrand::Rng::with_seed(run.seed);
    for _ in 0..ROUNDS {
        let mut last = None;
        for (number, object) in (0..).zip(&mut objects) {
            let entry = rng.usize(..content::VALUES);
            content::put(object, run.kind, &mut rng, number, entry)?;
            last = object.commit()?.or(last);
        }
        content::wait(last)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    reach_back(&engine, content::id(run.seed, 0))?;
    note(run, &engine, &before, "kv", ROUNDS * run.objects)?;
    drop(objects);
    engine.close()?;
    drop(engine);
    Ok(std::fs::remove_dir_all(run.dir.join("kv"))?)
}

/// A row is inserted into each of some databases, or one updated, in turn.
#[cfg(feature = "sql")]
fn sql(run: &mut Run) -> Result<(), Failure> {
    let engine = Engine::open(run.dir.join("sql"))?;
    let databases = super::super::sql::open_databases(run, &engine, run.objects.div_ceil(10))?;
    settle(&engine)?;
    let before = engine.stats();
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let bar = output::progress(ROUNDS, "transactions of each database");
    for round in 0..ROUNDS {
        let mut last = None;
        for database in &databases {
            super::super::sql::write_row(database, round, &mut rng)?;
            last = database.commit()?.or(last);
        }
        content::wait(last)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let commits = ROUNDS * databases.len() as u64;
    reach_back(&engine, content::id(run.seed, 0))?;
    note(run, &engine, &before, "sql", commits)?;
    drop(databases);
    engine.close()?;
    drop(engine);
    Ok(std::fs::remove_dir_all(run.dir.join("sql"))?)
}

/// What is measured is history that tells something.
fn reach_back(engine: &Engine, id: ObjectId) -> Result<(), Failure> {
    for moment in engine.history(&id)? {
        let past = engine.past(&id, &moment?.bookmark)?;
        assert!(!past.is_empty(), "it never was after the first commit");
    }
    Ok(())
}

/// All of history in tables, and these merged.
pub(super) fn settle(engine: &Engine) -> Result<(), Failure> {
    engine.checkpoint()?;
    loop {
        let before = engine.stats().history.tables;
        engine.keep_up()?;
        engine.checkpoint()?;
        if engine.stats().history.tables >= before {
            return Ok(());
        }
    }
}

pub(super) fn note(
    run: &mut Run,
    engine: &Engine,
    before: &Stats,
    prefix: &str,
    commits: u64,
) -> Result<(), Failure> {
    settle(engine)?;
    let after = engine.stats();
    let history = (after.history.table_bytes - before.history.table_bytes) as f64;
    let log = (after.log.log_bytes - before.log.log_bytes) as f64;
    run.note(&format!("{prefix}_commits"), commits);
    let per_commit = history / commits as f64;
    run.note_number(&format!("{prefix}_history_bytes_per_op"), per_commit);
    run.note_number(&format!("{prefix}_log_bytes_per_op"), log / commits as f64);
    run.note_number(&format!("{prefix}_history_of_log"), history / log);
    Ok(())
}
