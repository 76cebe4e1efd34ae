//! One object in one turn: inserts, point selects and gets of keys, beside stock SQLite on a file with
//! `synchronous` FULL and OFF.

use std::time::Instant;

use dovehouse_sqlbridge::{Connection, Database};

use super::super::{Run, content};
use super::{BODY, INSERT, SCHEMA, object, stock};
use crate::exit::Failure;
use crate::output;

const SELECT: &str = "SELECT body FROM note WHERE id = ?";

pub(in super::super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = engine.class("Bench")?;
    let object = object(&engine, class, run.seed, 0)?;
    let database = Database::open(object.clone())?;
    database.exec(SCHEMA, ())?;
    let rows = run.objects;
    let insert = |number: u64| {
        database.exec(INSERT, (format!("author {}", number % 100), BODY))?;
        Ok(())
    };
    let each = time(rows, "inserts", insert)?;
    run.note_number("insert_us", each);
    let commit = time(1, "commit", |_| {
        let ticket = database.commit()?.expect("rows are new");
        ticket.wait().map_err(content::engine_error)?;
        Ok(())
    })?;
    run.note_number("commit_ms", commit / 1000.0);
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let select = |_| {
        let id = rng.u64(1..=rows) as i64;
        let body: String = database.exec(SELECT, (id,))?.one()?.get(0)?;
        assert_eq!(body, BODY, "every row has this body");
        Ok(())
    };
    let each = time(rows, "selects", select)?;
    run.note_number("select_us", each);
    let key = |number: u64| format!("note:{:08}", number % 10_000);
    for number in 0..rows.min(10_000) {
        object.lock().put(key(number).as_bytes(), BODY.as_bytes())?;
    }
    let get = |number| {
        let object = object.lock();
        let value = object.get(key(number).as_bytes())?;
        assert_eq!(
            value.as_deref(),
            Some(BODY.as_bytes()),
            "every key has this value"
        );
        Ok(())
    };
    let each = time(rows.min(10_000), "gets", get)?;
    run.note_number("get_us", each);
    database.commit()?;
    for synchronous in ["FULL", "OFF"] {
        let path = run
            .dir
            .with_file_name(format!("stock-{synchronous}.sqlite"));
        let (insert, commit, select) = measure_stock(run, &stock(&path, synchronous)?)?;
        let prefix = format!("stock_{}_", synchronous.to_lowercase());
        run.note_number(&format!("{prefix}insert_us"), insert);
        run.note_number(&format!("{prefix}commit_ms"), commit / 1000.0);
        run.note_number(&format!("{prefix}select_us"), select);
        std::fs::remove_file(&path)?;
    }
    drop(database);
    engine.close()?;
    Ok(())
}

/// Microseconds for an insert, the commit, and a select.
fn measure_stock(run: &Run, file: &Connection) -> Result<(f64, f64, f64), Failure> {
    file.exec("BEGIN", ())?;
    let insert = time(run.objects, "inserts, stock", |number| {
        file.exec(INSERT, (format!("author {}", number % 100), BODY))?;
        Ok(())
    })?;
    let commit = time(1, "commit, stock", |_| {
        file.exec("COMMIT", ())?;
        Ok(())
    })?;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let select = time(run.objects, "selects, stock", |_| {
        let id = rng.u64(1..=run.objects) as i64;
        let body: String = file.exec(SELECT, (id,))?.one()?.get(0)?;
        assert_eq!(body, BODY, "every row has this body");
        Ok(())
    })?;
    Ok((insert, commit, select))
}

/// Microseconds for each of so many calls.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn time(
    calls: u64,
    what: &'static str,
    mut act: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let bar = output::progress(calls, what);
    let start = Instant::now();
    for call in 0..calls {
        act(call)?;
        if call % 8192 == 0 {
            bar.set_position(call);
        }
    }
    let elapsed = start.elapsed();
    bar.finish_and_clear();
    Ok(elapsed.as_secs_f64() * 1e6 / calls as f64)
}
