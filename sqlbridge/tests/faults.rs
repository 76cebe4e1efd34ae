//! Every call that SQLite makes to the VFS fails once, with every code that it might meet, in transactions of
//! every kind. Whatever SQLite then says, the database is whole, it is as before the transaction or as after it,
//! keys and rows agree, and a woken object is the same as the one at hand.

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_sqlbridge::Error;
use dovehouse_sqlbridge::faults::{self, Fault};

mod common;

use common::{Awake, open, wake};

/// `SQLITE_IOERR`, `FULL`, `NOMEM`, `BUSY` and `INTERRUPT`.
const CODES: [i32; 5] = [10, 13, 7, 5, 9];

/// A kind of transaction: a name, and what it does. All of them move `state` from 1 to 2, as a key and as a
/// row.
type Transaction = (&'static str, fn(&Awake) -> Result<(), Error>);

const TRANSACTIONS: &[Transaction] = &[
    ("insert", |awake| {
        both(awake)?;
        run(awake, "INSERT INTO t(b) VALUES (1), (2)")
    }),
    ("spill", |awake| {
        both(awake)?;
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
            INSERT INTO t(a) SELECT randomblob(1000) FROM n";
        run(awake, sql)?;
        run(awake, "UPDATE t SET b = b + 1, a = randomblob(800)")
    }),
    ("savepoint", |awake| {
        both(awake)?;
        let undone = awake.database.transaction(|database| {
            database.exec("UPDATE t SET a = randomblob(1100)", &[])?;
            awake.object.lock().put(b"state", b"3")?;
            database.exec("INSERT INTO t(a) SELECT randomblob(900) FROM t", &[])?;
            Err::<(), _>(Error::NoDatabase)
        });
        match undone {
            Err(Error::NoDatabase) => run(awake, "DELETE FROM t WHERE id % 5 = 0"),
            Err(error) => Err(error),
            Ok(()) => unreachable!("it ends with an error"),
        }
    }),
    ("schema", |awake| {
        both(awake)?;
        run(
            awake,
            "CREATE TABLE u(x UNIQUE, y); CREATE INDEX by_b ON t(b, a)",
        )?;
        run(
            awake,
            "INSERT INTO u SELECT id, b FROM t; ALTER TABLE t ADD COLUMN c DEFAULT 5",
        )?;
        run(awake, "DROP TABLE u")
    }),
    ("shrink", |awake| {
        both(awake)?;
        run(
            awake,
            "DELETE FROM t WHERE id > 10; PRAGMA incremental_vacuum",
        )
    }),
    ("keys by SQL", |awake| {
        run(
            awake,
            "UPDATE state SET s = 2; UPDATE kv SET value = '2' WHERE key = 'state'",
        )?;
        run(
            awake,
            "INSERT INTO kv SELECT 'key' || id, a FROM t; DELETE FROM kv WHERE key GLOB 'key1*'",
        )
    }),
    ("vacuum", |awake| {
        awake.database.vacuum()?;
        awake.database.commit()?;
        both(awake)?;
        run(awake, "DELETE FROM t WHERE id = 1")
    }),
    ("sort", |awake| {
        both(awake)?;
        run(
            awake,
            "CREATE TEMP TABLE x AS SELECT * FROM t, (SELECT 1 UNION SELECT 2) ORDER BY a",
        )?;
        run(
            awake,
            "INSERT INTO t(a) SELECT a FROM x ORDER BY b, a LIMIT 20; DROP TABLE x",
        )
    }),
];

fn run(awake: &Awake, sql: &str) -> Result<(), Error> {
    awake.database.exec(sql, &[]).map(drop)
}

fn both(awake: &Awake) -> Result<(), Error> {
    awake.object.lock().put(b"state", b"2")?;
    run(awake, "UPDATE state SET s = 2")
}

/// The state in its two places, and how many rows the table has.
fn state_of(awake: &Awake) -> (i64, i64, i64) {
    let object = awake.object.lock();
    let key = object.get(b"state").unwrap().unwrap().into_owned();
    drop(object);
    let key = String::from_utf8(key).unwrap().parse().unwrap();
    let rows = awake.number("SELECT count(*) FROM t");
    (key, awake.number("SELECT s FROM state"), rows)
}

/// What a connection sees, from the pages alone.
fn pages_of(awake: &Awake) -> Vec<Option<std::sync::Arc<[u8]>>> {
    let object = awake.object.lock();
    (1..=object.page_count())
        .map(|number| object.page(number).unwrap())
        .collect()
}

fn assert_counted(awake: &Awake) {
    let object = awake.object.lock();
    let page = object.page(1).unwrap().unwrap();
    let counted = u32::from_be_bytes(page[28..32].try_into().unwrap());
    assert_eq!(counted, object.page_count(), "page 1 counts the pages");
}

/// An object with some rows, on a disk of its own.
fn prepared() -> SimFs {
    let fs = SimFs::new(1);
    let (engine, class) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    awake.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB, b INTEGER DEFAULT 0)");
    awake.run("CREATE TABLE state(s); INSERT INTO state VALUES (1)");
    awake.fill(40, 1000);
    awake.object.lock().put(b"state", b"1").unwrap();
    awake.commit();
    engine.close().unwrap();
    drop(awake);
    fs
}

/// The same rows, spilling all the time.
fn reopened(engine: &dovehouse_engine::Engine, class: dovehouse_engine::ClassId) -> Awake {
    let awake = wake(engine, class, 1);
    awake.run("PRAGMA cache_size = 5");
    awake
}

/// Runs the transaction with a fault. Returns how many calls there were and whether it committed.
fn attempt(disk: &SimFs, transaction: &Transaction, fault: Option<(u64, Fault)>) -> (u64, bool) {
    let fs = disk.process_death();
    let (engine, class) = open(&fs).unwrap();
    let awake = reopened(&engine, class);
    let before = state_of(&awake);
    let name = transaction.0;

    faults::arm(fault);
    let done = transaction.1(&awake).and_then(|()| awake.database.commit());
    let calls = faults::calls();
    faults::arm(None);

    let committed = done.is_ok();
    match done {
        Ok(ticket) => {
            ticket.expect("something was written").wait().unwrap();
        }
        // A program gives a failed turn up.
        Err(_) => awake.database.rollback(),
    }
    let what = format!("{name}, {fault:?}, committed: {committed}");
    let found = awake.database.integrity_check().expect(&what);
    assert_eq!(found, Vec::<String>::new(), "{what}");
    let after = state_of(&awake);
    assert_eq!(after.0, after.1, "{what}: key and row");
    assert_eq!(after.0, if committed { 2 } else { 1 }, "{what}");
    if !committed {
        assert_eq!(after, before, "{what}");
    }
    // It goes on working, and nothing of the failed attempt gets into the next commit.
    awake.run("INSERT INTO t(b) VALUES (7)");
    awake.commit();
    let (last, pages) = (state_of(&awake), pages_of(&awake));
    assert_eq!(last.2, after.2 + 1, "{what}");
    assert_counted(&awake);
    drop(awake);
    let awake = reopened(&engine, class);
    assert_eq!(state_of(&awake), last, "{what}: woken");
    assert!(pages_of(&awake) == pages, "{what}: other pages when woken");
    awake.assert_whole();
    (calls, committed)
}

/// All calls with `DOVEHOUSE_FAULTS` set; otherwise some of them, others for each code.
fn step() -> u64 {
    if std::env::var_os("DOVEHOUSE_FAULTS").is_some() {
        1
    } else {
        17
    }
}

#[test]
fn a_fault_at_any_call_leaves_the_old_state_or_the_new_one() {
    let disk = prepared();
    let (mut attempts, mut commits) = (0, 0);
    for transaction in TRANSACTIONS {
        let (calls, committed) = attempt(&disk, transaction, None);
        assert!(committed && calls >= 15, "{}: {calls} calls", transaction.0);
        for (first, code) in (0..).zip(CODES) {
            let mut at = first % step();
            while at < calls {
                let (_, committed) = attempt(&disk, transaction, Some((at, Fault::Code(code))));
                attempts += 1;
                commits += u32::from(committed);
                at += step();
            }
            // The last calls are the commit.
            for at in calls.saturating_sub(6)..calls {
                attempt(&disk, transaction, Some((at, Fault::Code(code))));
            }
        }
    }
    println!("{attempts} attempts, of which {commits} committed in spite of the fault");
}

#[test]
fn a_panic_in_a_callback_is_an_error_of_the_disk_and_nothing_else() {
    let disk = prepared();
    for transaction in &TRANSACTIONS[..2] {
        let (calls, _) = attempt(&disk, transaction, None);
        for at in (0..calls).step_by(step() as usize) {
            attempt(&disk, transaction, Some((at, Fault::Panic)));
        }
    }
}
