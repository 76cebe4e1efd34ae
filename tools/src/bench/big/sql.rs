//! One object filled by SQL, with a tiny one beside it, and stock SQLite on a file of its own with the same
//! rows: loading them, updates of one row, scans, rows that are in no cache, a kill in the midst of updates,
//! and whether every row is what was written last.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dovehouse_engine::{ClassId, Engine};
use dovehouse_sqlbridge::{Budget, Connection, Database, SharedObject, SqlPolicy, Value};

use super::{
    KILL_AFTER, KILLED, Run, TINY, content, forget_files, histogram, kill_after, record, wake,
};
use crate::exit::{FAILURE, Failure};
use crate::output;

/// The object that is filled.
const BIG: u64 = 5;

/// A row takes a fourth of a page, with what SQLite writes around it.
const ROWS_PER_PAGE: u64 = 4;
const PAYLOAD_BYTES: usize = 1000;
/// One transaction of the load: 64 MiB.
const LOAD_ROWS: u64 = 64 << 10;
/// Rows of the tiny object.
const TINY_ROWS: u64 = 8;
/// Rows that are read back at once.
const READ_ROWS: u64 = 4096;

/// Half of it does not compress. The first bytes say when it was written.
fn payload(seed: u64, id: u64, round: u64) -> Vec<u8> {
    let mut payload = vec![b' '; PAYLOAD_BYTES];
    let seed = seed ^ id.rotate_left(40) ^ round;
    fastrand::Rng::with_seed(seed).fill(&mut payload[..PAYLOAD_BYTES / 2]);
    payload[..8].copy_from_slice(&round.to_le_bytes());
    payload
}

/// A database, here or there.
enum Base {
    House(Database),
    Stock(Connection),
}

impl Base {
    fn house(run: &Run, engine: &Engine, class: ClassId, which: u64) -> Result<Self, Failure> {
        let object: SharedObject = Arc::new(wake(run, engine, class, which)?.into());
        // A scan of it all takes its time.
        let policy = SqlPolicy::native().budget(Budget::Unlimited);
        Ok(Base::House(Database::open_with(object, &policy)?))
    }

    /// As much cache as the engine gives to what it has read of big objects.
    fn stock(path: &Path) -> Result<Self, Failure> {
        let connection = Connection::open_file(path)?;
        let setup =
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32768";
        connection.exec(setup, ())?;
        Ok(Base::Stock(connection))
    }

    /// The rows that a statement gives.
    fn exec(&self, sql: &str, parameters: &[Value]) -> Result<Vec<Vec<Value>>, Failure> {
        let rows: Result<_, _> = match self {
            Base::House(database) => database.exec(sql, parameters)?.raw().collect(),
            Base::Stock(connection) => connection.exec(sql, parameters)?.raw().collect(),
        };
        Ok(rows?)
    }

    /// The only value of the only row.
    fn value(&self, sql: &str, parameters: &[Value]) -> Result<Value, Failure> {
        match self.exec(sql, parameters)?.as_mut_slice() {
            [row] if row.len() == 1 => Ok(std::mem::take(&mut row[0])),
            rows => Err(Failure::new(
                FAILURE,
                format!("{} rows of {sql}", rows.len()),
            )),
        }
    }

    /// A transaction that is durable at its end.
    fn durably(&self, act: impl FnOnce(&Self) -> Result<(), Failure>) -> Result<(), Failure> {
        match self {
            Base::House(database) => {
                act(self)?;
                if let Some(ticket) = database.commit()? {
                    ticket.wait().map_err(content::engine_error)?;
                }
                Ok(())
            }
            Base::Stock(connection) => {
                connection.exec("BEGIN", ())?;
                act(self)?;
                connection.exec("COMMIT", ())?;
                Ok(())
            }
        }
    }

    fn update(&self, seed: u64, id: u64, round: u64) -> Result<(), Failure> {
        let payload = payload(seed, id, round).into();
        self.durably(|base| {
            let sql = "UPDATE item SET payload = ? WHERE id = ?";
            base.exec(sql, &[payload, number(id)]).map(drop)
        })
    }

    fn payload(&self, id: u64) -> Result<Value, Failure> {
        self.value("SELECT payload FROM item WHERE id = ?", &[number(id)])
    }

    /// When a row was written last.
    fn round(&self, id: u64) -> Result<u64, Failure> {
        let round = match self.payload(id)? {
            Value::Blob(payload) => payload.first_chunk().copied(),
            _ => None,
        };
        Ok(u64::from_le_bytes(round.unwrap_or_default()))
    }

    fn integrity_check(&self) -> Result<(), Failure> {
        let found = match self {
            Base::House(database) => database.integrity_check()?,
            Base::Stock(connection) => connection.integrity_check()?,
        };
        match found.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(FAILURE, found.join("\n"))),
        }
    }
}

fn number(id: u64) -> Value {
    Value::Integer(id as i64)
}

fn stock_path(run: &Run) -> PathBuf {
    run.dir.with_extension("sqlite")
}

/// How many rows of a size make up what is asked for in pages.
fn rows(run: &Run) -> u64 {
    run.objects * ROWS_PER_PAGE
}

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let rows = rows(run);
    run.note("rows", rows);
    let engine = run.open()?;
    let class = engine.class("Big")?;
    let big = Base::house(run, &engine, class, BIG)?;
    load(run, &big, rows, "", "rows")?;
    let tiny = Base::house(run, &engine, class, TINY)?;
    load(run, &tiny, TINY_ROWS, "tiny_", "rows of a tiny object")?;
    let stock = Base::stock(&stock_path(run))?;
    load(run, &stock, rows, "sqlite_", "rows of stock SQLite")?;
    let mut newest = updates(run, [&big, &tiny, &stock], rows)?;
    for (base, prefix) in [(&big, ""), (&stock, "sqlite_")] {
        scans(run, base, prefix)?;
        row_reads(run, base, rows, prefix)?;
    }
    sizes(run, &engine, &stock)?;
    drop((big, tiny));
    engine.close()?;
    drop(engine);
    killed(run, rows, &mut newest)?;
    verify(run, rows, &newest)?;
    checks(run, &stock)?;
    drop(stock);
    for suffix in ["", "-wal", "-shm"] {
        let mut path = stock_path(run).into_os_string();
        path.push(suffix);
        let path = PathBuf::from(path);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn load(
    run: &mut Run,
    base: &Base,
    rows: u64,
    prefix: &str,
    what: &'static str,
) -> Result<(), Failure> {
    let bar = output::progress(rows, what);
    let start = Instant::now();
    base.durably(|base| {
        let sql = "CREATE TABLE item(id INTEGER PRIMARY KEY, payload BLOB NOT NULL)";
        base.exec(sql, &[]).map(drop)
    })?;
    for first in (1..=rows).step_by(LOAD_ROWS as usize) {
        base.durably(|base| {
            for id in first..=rows.min(first + LOAD_ROWS - 1) {
                let row = [number(id), payload(run.seed, id, 0).into()];
                base.exec("INSERT INTO item VALUES (?, ?)", &row)?;
            }
            Ok(())
        })?;
        bar.set_position(first);
    }
    bar.finish_and_clear();
    if rows > TINY_ROWS {
        let seconds = start.elapsed().as_secs_f64();
        let bytes = rows as f64 * PAYLOAD_BYTES as f64;
        run.note_number(&format!("{prefix}load_s"), seconds);
        run.note_number(&format!("{prefix}load_mb_per_s"), bytes / seconds / 1e6);
    }
    Ok(())
}

/// Updates of one row, in turn in the big object, in a tiny one, and in stock SQLite. Returns when each row of
/// the big object that was changed was written last.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn updates(run: &mut Run, bases: [&Base; 3], rows: u64) -> Result<HashMap<u64, u64>, Failure> {
    let mut times = [histogram(), histogram(), histogram()];
    let mut newest = HashMap::new();
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed().as_secs() < run.seconds {
        round += 1;
        let id = rng.u64(1..=rows);
        let ids = [id, rng.u64(1..=TINY_ROWS), id];
        for ((base, id), times) in bases.into_iter().zip(ids).zip(&mut times) {
            let begun = Instant::now();
            base.update(run.seed, id, round)?;
            record(times, begun.elapsed());
        }
        newest.insert(id, round);
    }
    for (prefix, times) in ["", "tiny_", "sqlite_"].into_iter().zip(&times) {
        run.note_latency(&format!("{prefix}update_"), times);
    }
    run.note("updates", round);
    Ok(newest)
}

/// All rows in sequence.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn scans(run: &mut Run, base: &Base, prefix: &str) -> Result<(), Failure> {
    for pass in ["scan_first", "scan_warm"] {
        let start = Instant::now();
        let sum = base.value("SELECT sum(length(payload)) FROM item", &[])?;
        let seconds = start.elapsed().as_secs_f64();
        if let Value::Integer(bytes) = sum {
            let name = format!("{prefix}{pass}_mb_per_s");
            run.note_number(&name, bytes as f64 / seconds / 1e6);
        }
    }
    Ok(())
}

/// Random rows, warm, and with the files dropped from the system's cache.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn row_reads(run: &mut Run, base: &Base, rows: u64, prefix: &str) -> Result<(), Failure> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let mut read = |times: &mut _| {
        let id = rng.u64(1..=rows);
        let start = Instant::now();
        let found = base.payload(id)?;
        record(times, start.elapsed());
        std::hint::black_box(found);
        Ok::<_, Failure>(())
    };
    let (mut warm, mut cold) = (histogram(), histogram());
    for _ in 0..rows.min(100_000) {
        read(&mut warm)?;
    }
    for _ in 0..20 {
        match base {
            Base::House(_) => forget_files(&run.dir, "segment-")?,
            Base::Stock(_) => {
                let dir = run.dir.parent().expect("it is in a directory");
                let path = stock_path(run);
                let name = path.file_name().expect("it has a name");
                forget_files(dir, &name.to_string_lossy())?;
            }
        }
        for _ in 0..50 {
            read(&mut cold)?;
        }
    }
    run.note_latency(&format!("{prefix}row_warm_"), &warm);
    run.note_latency(&format!("{prefix}row_cold_"), &cold);
    Ok(())
}

fn sizes(run: &mut Run, engine: &Engine, stock: &Base) -> Result<(), Failure> {
    super::sizes(run, engine);
    stock.exec("PRAGMA wal_checkpoint(TRUNCATE)", &[])?;
    run.note(
        "sqlite_file_bytes",
        std::fs::metadata(stock_path(run))?.len(),
    );
    Ok(())
}

/// Another process updates rows until it is killed; what it said was durable is there. Notes what it wrote.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn killed(run: &mut Run, rows: u64, newest: &mut HashMap<u64, u64>) -> Result<(), Failure> {
    let acknowledged = kill_after(run, KILL_AFTER)?;
    run.note("killed_after_commits", acknowledged);
    let start = Instant::now();
    let engine = run.open()?;
    run.note_number("open_after_kill_ms", start.elapsed().as_secs_f64() * 1000.0);
    let class = engine.class("Big")?;
    let big = Base::house(run, &engine, class, BIG)?;
    big.payload(1)?;
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    run.note_number("first_row_after_kill_ms", ms);
    // Some that it did not come to say may be there too.
    for round in acknowledged.saturating_sub(rows) + 1.. {
        let id = round % rows + 1;
        let found = big.round(id)?;
        if found >= KILLED + round {
            newest.insert(id, found);
        } else if round <= acknowledged {
            let message = format!("update {round} of {acknowledged} is lost");
            return Err(Failure::new(FAILURE, message));
        } else {
            break;
        }
    }
    drop(big);
    Ok(engine.close()?)
}

/// What the killed process does.
pub(super) fn until_killed(run: &Run) -> Result<(), Failure> {
    let rows = rows(run);
    let engine = run.open()?;
    let class = engine.class("Big")?;
    let big = Base::house(run, &engine, class, BIG)?;
    for round in 1.. {
        big.update(run.seed, round % rows + 1, KILLED + round)?;
        output::print(round)?;
    }
    Ok(())
}

/// Every row is what was written last.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn verify(run: &mut Run, rows: u64, newest: &HashMap<u64, u64>) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = engine.class("Big")?;
    let big = Base::house(run, &engine, class, BIG)?;
    let bar = output::progress(rows, "rows read back");
    let start = Instant::now();
    let mut next = 1;
    loop {
        let sql = "SELECT id, payload FROM item WHERE id >= ? ORDER BY id LIMIT ?";
        let found = big.exec(sql, &[number(next), number(READ_ROWS)])?;
        if found.is_empty() {
            break;
        }
        for row in found {
            let round = newest.get(&next).copied().unwrap_or(0);
            if row != [number(next), payload(run.seed, next, round).into()] {
                let message = format!("row {next} is not what was written last");
                return Err(Failure::new(FAILURE, message));
            }
            next += 1;
        }
        bar.set_position(next);
    }
    bar.finish_and_clear();
    if next != rows + 1 {
        let message = format!("there are {} rows instead of {rows}", next - 1);
        return Err(Failure::new(FAILURE, message));
    }
    run.note_number("read_back_s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    big.integrity_check()?;
    run.note_number("integrity_check_s", start.elapsed().as_secs_f64());
    drop(big);
    Ok(engine.close()?)
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn checks(run: &mut Run, stock: &Base) -> Result<(), Failure> {
    let start = Instant::now();
    stock.integrity_check()?;
    run.note_number("sqlite_integrity_check_s", start.elapsed().as_secs_f64());
    Ok(())
}
