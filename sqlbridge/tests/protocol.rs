//! The protocol between SQLite and the object: what becomes a record when, and what an error leaves.

use dovehouse_engine::wal::sim::{Failure, Fault, Operation, SimFs};
use dovehouse_engine::{Alarm, Error as EngineError, Quota, wal::Error as LogError};
use dovehouse_sqlbridge::{Connection, Database, Error, Rule};

mod common;

use common::{Awake, id, open, wake};

fn set_up(seed: u64) -> (SimFs, dovehouse_engine::Engine, dovehouse_engine::ClassId) {
    let fs = SimFs::new(seed);
    let (engine, class) = open(&fs).unwrap();
    (fs, engine, class)
}

fn with_table(engine: &dovehouse_engine::Engine, class: dovehouse_engine::ClassId) -> Awake {
    let awake = wake(engine, class, 1);
    awake.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB, b INTEGER DEFAULT 0)");
    awake.commit();
    awake
}

#[test]
fn tables_keys_and_alarm_of_one_turn_are_one_record() {
    let (fs, engine, class) = set_up(1);
    let awake = with_table(&engine, class);
    let before = engine.stats().log.records;
    awake.run("INSERT INTO t(b) VALUES (7)");
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.run("INSERT INTO t(b) VALUES (8)");
    awake.object.lock().set_alarm(Alarm {
        due_ms: 1_700_000_000_001,
        ..Alarm::default()
    });
    awake.commit();
    assert_eq!(engine.stats().log.records, before + 1);

    let fs = fs.power_loss();
    let (engine, class) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.number("SELECT sum(b) FROM t"), 15);
    assert_eq!(
        awake.object.lock().get(b"key").unwrap().as_deref(),
        Some(&b"value"[..])
    );
    assert_eq!(awake.object.lock().alarms()[0].due_ms, 1_700_000_000_001);
    awake.assert_whole();
}

#[test]
fn a_turn_that_only_reads_takes_no_record_and_one_that_only_puts_takes_one() {
    let (_fs, engine, class) = set_up(2);
    let awake = with_table(&engine, class);
    let before = engine.stats().log.records;
    assert_eq!(awake.number("SELECT count(*) FROM t"), 0);
    awake.commit();
    awake.run("UPDATE t SET b = 1");
    awake.commit();
    assert_eq!(
        engine.stats().log.records,
        before,
        "an update of no row changes no page"
    );
    awake.run("UPDATE t SET b = 1");
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.commit();
    assert_eq!(engine.stats().log.records, before + 1);
}

#[test]
fn an_object_that_was_only_looked_at_leaves_nothing() {
    let (fs, engine, class) = set_up(3);
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.number("SELECT count(*) FROM sqlite_schema"), 0);
    awake.commit();
    drop(awake);
    assert_eq!(engine.objects().count(), 0);
    drop(engine);
    assert_eq!(open(&fs.power_loss()).unwrap().0.objects().count(), 0);
}

#[test]
fn a_rollback_takes_back_tables_keys_and_alarm_even_after_the_cache_has_spilled() {
    let (_fs, engine, class) = set_up(4);
    let awake = with_table(&engine, class);
    awake.run("INSERT INTO t(b) VALUES (1)");
    awake.object.lock().put(b"key", b"old").unwrap();
    awake.commit();
    for rows in [1, 150] {
        awake.object.lock().put(b"key", b"new").unwrap();
        awake.object.lock().set_alarm(Alarm {
            due_ms: 5,
            ..Alarm::default()
        });
        awake.run("PRAGMA cache_size = 5");
        awake.fill(rows, 1000);
        awake.database.rollback();
        assert_eq!(awake.number("SELECT count(*) FROM t"), 1);
        assert_eq!(
            awake.object.lock().get(b"key").unwrap().as_deref(),
            Some(&b"old"[..])
        );
        assert!(awake.object.lock().alarms().is_empty());
        awake.assert_whole();
    }
    awake.commit();
}

#[test]
fn a_transaction_larger_than_the_cache_commits_whole() {
    let (fs, engine, class) = set_up(5);
    let awake = with_table(&engine, class);
    awake.run("PRAGMA cache_size = 5");
    let before = engine.stats().log.records;
    awake.fill(100, 1000);
    awake.run("UPDATE t SET b = id");
    awake.run("DELETE FROM t WHERE id % 3 = 0");
    awake.commit();
    assert_eq!(engine.stats().log.records, before + 1);
    drop(awake);
    let (engine, class) = open(&fs.power_loss()).unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 67);
    awake.assert_whole();
}

#[test]
fn a_nested_transaction_that_fails_leaves_what_was_before_it() {
    let (fs, engine, class) = set_up(6);
    let awake = with_table(&engine, class);
    // Spilled before and after the savepoint, so that both kinds of undo meet the same pages.
    awake.run("PRAGMA cache_size = 5");
    awake.fill(50, 1000);
    awake.object.lock().put(b"outer", b"1").unwrap();
    let failed: Result<(), Error> = awake.database.transaction(|database| {
        database.exec("UPDATE t SET b = 99, a = randomblob(900)", &[])?;
        awake.object.lock().put(b"inner", b"1").unwrap();
        awake.object.lock().delete(b"outer").unwrap();
        database.transaction(|database| {
            database.exec("DELETE FROM t", &[])?;
            awake.object.lock().put(b"innermost", b"1").unwrap();
            Ok::<_, Error>(())
        })?;
        assert!(database.exec("SELECT 1 FROM t", ())?.is_empty());
        Err(Error::NoDatabase)
    });
    assert!(failed.is_err());
    let kept: Result<(), Error> = awake.database.transaction(|database| {
        awake.object.lock().put(b"kept", b"1").unwrap();
        database.exec("INSERT INTO t(b) VALUES (1)", &[]).map(drop)
    });
    kept.unwrap();
    awake.commit();
    drop(awake);
    let (engine, class) = open(&fs.power_loss()).unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(
        (
            awake.number("SELECT count(*) FROM t"),
            awake.number("SELECT sum(b) FROM t")
        ),
        (51, 1)
    );
    let keys: Vec<_> = {
        let object = awake.object.lock();
        object
            .list(&dovehouse_engine::List::all())
            .map(|listed| listed.unwrap().0.into_owned())
            .collect()
    };
    assert_eq!(keys, [b"kept".to_vec(), b"outer".to_vec()]);
    awake.assert_whole();
}

#[test]
fn a_constraint_that_fails_undoes_its_statement_only() {
    let (_fs, engine, class) = set_up(7);
    let awake = with_table(&engine, class);
    awake.run("CREATE UNIQUE INDEX one ON t(b)");
    awake.run("INSERT INTO t(b) VALUES (1)");
    awake.object.lock().put(b"key", b"value").unwrap();
    let error = awake
        .database
        .exec("INSERT INTO t(b) VALUES (2), (1)", &[])
        .unwrap_err();
    assert!(error.to_string().contains("UNIQUE"), "{error}");
    awake.commit();
    assert_eq!(awake.number("SELECT count(*) FROM t"), 1);
    assert_eq!(
        awake.object.lock().get(b"key").unwrap().as_deref(),
        Some(&b"value"[..])
    );
}

#[test]
fn a_commit_that_sqlite_refuses_undoes_the_whole_turn() {
    let (_fs, engine, class) = set_up(8);
    let awake = with_table(&engine, class);
    awake.run("CREATE TABLE child(parent REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)");
    awake.commit();
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.run("INSERT INTO child VALUES (42)");
    let error = awake.database.commit().unwrap_err();
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    assert_eq!(awake.number("SELECT count(*) FROM child"), 0);
    assert_eq!(awake.object.lock().get(b"key").unwrap().as_deref(), None);
    awake.run("INSERT INTO t(id) VALUES (42); INSERT INTO child VALUES (42)");
    awake.commit();
    awake.assert_whole();
}

#[test]
fn a_state_beyond_its_quota_or_the_disk_is_refused_by_name_and_the_old_one_stays() {
    for full in [false, true] {
        let (fs, engine, class) = set_up(9);
        let awake = with_table(&engine, class);
        awake.run("INSERT INTO t(b) VALUES (1)");
        awake.commit();
        if full {
            fs.set_capacity(Some(0));
        } else {
            let quota = Quota {
                object_bytes: Some(1 << 20),
                ..Quota::default()
            };
            engine.set_quota(class, quota);
        }
        let refused = loop {
            awake.object.lock().put(b"key", b"value").unwrap();
            if full {
                awake.run("DELETE FROM t WHERE length(a) > 1");
            }
            awake.fill(if full { 100 } else { 300 }, 1000);
            match awake.database.commit() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        match &refused {
            Error::Engine(EngineError::Quota { .. }) => assert!(!full),
            Error::Engine(EngineError::Log(LogError::Full { .. })) => assert!(full),
            other => panic!("{other}"),
        }
        let count = awake.number("SELECT count(*) FROM t");
        awake.assert_whole();
        fs.set_capacity(None);
        engine.set_quota(class, Quota::default());
        awake.run("INSERT INTO t(b) VALUES (2)");
        awake.commit();
        drop(awake);
        let (engine, class) = open(&fs.power_loss()).unwrap();
        let awake = wake(&engine, class, 1);
        assert_eq!(awake.number("SELECT count(*) FROM t"), count + 1);
        awake.assert_whole();
    }
}

#[test]
fn after_a_failed_write_the_object_reads_as_it_was_durable() {
    let (fs, engine, class) = set_up(10);
    let awake = with_table(&engine, class);
    awake.run("INSERT INTO t(b) VALUES (1)");
    awake.commit();
    fs.inject(Fault {
        operation: Operation::Write,
        name: "segment",
        after: 0,
        failure: Failure::Eio,
        lasting: false,
    });
    awake.run("INSERT INTO t(b) VALUES (2)");
    let ticket = awake.database.commit().unwrap().unwrap();
    assert!(ticket.wait().is_err());
    awake.run("INSERT INTO t(b) VALUES (3)");
    assert!(awake.database.commit().is_err());
    drop(awake);
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.number("SELECT sum(b) FROM t"), 1);
    awake.assert_whole();
}

#[test]
fn statements_that_would_leave_the_turn_or_the_object_are_refused() {
    let (_fs, engine, class) = set_up(11);
    let awake = with_table(&engine, class);
    for sql in [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "RELEASE a",
        "ATTACH 'x' AS y",
        "DETACH main",
    ] {
        let error = awake.database.exec(sql, &[]).unwrap_err();
        assert!(
            matches!(&error, Error::Denied { what, .. } if sql.starts_with(what.as_str())),
            "{sql}: {error}"
        );
    }
    assert!(awake.database.exec("VACUUM", &[]).is_err());
    for pragma in [
        "journal_mode = WAL",
        "locking_mode = NORMAL",
        "synchronous = OFF",
        "page_size = 512",
    ] {
        let error = awake
            .database
            .exec(&format!("PRAGMA {pragma}"), &[])
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Denied {
                    rule: Rule::StoreSetting,
                    ..
                }
            ),
            "{pragma}: {error}"
        );
    }
    let mode = awake
        .database
        .exec("PRAGMA journal_mode", &[])
        .unwrap()
        .one()
        .unwrap();
    assert_eq!(mode.get::<String>(0).unwrap(), "truncate");
    awake.run("INSERT INTO t(b) VALUES (1)");
    awake.commit();
    awake.assert_whole();
}

#[test]
fn a_database_that_shrinks_gives_its_pages_back() {
    let (fs, engine, class) = set_up(12);
    let awake = with_table(&engine, class);
    awake.fill(100, 1000);
    awake.commit();
    let grown = awake.object.lock().page_count();
    awake.run("DELETE FROM t");
    awake.run("PRAGMA incremental_vacuum");
    awake.commit();
    let shrunk = awake.object.lock().page_count();
    assert!(shrunk * 4 < grown, "{grown} pages became {shrunk}");
    awake.assert_whole();
    drop(awake);
    let (engine, class) = open(&fs.power_loss()).unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.object.lock().page_count(), shrunk);
    awake.assert_whole();
}

#[test]
fn an_exported_database_is_one_for_stock_sqlite() {
    let (_fs, engine, class) = set_up(13);
    let awake = with_table(&engine, class);
    awake.run("CREATE INDEX by_b ON t(b); CREATE VIEW v AS SELECT * FROM t");
    awake.fill(30, 500);
    awake.run("DELETE FROM t WHERE id % 2 = 0");
    awake.commit();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.sqlite");
    Database::export(&awake.object.lock(), &path).unwrap();
    assert!(matches!(
        Database::export(&awake.object.lock(), &path),
        Err(Error::Export { .. })
    ));
    let stock = Connection::open_file(&path).unwrap();
    assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
    let count: i64 = stock
        .exec("SELECT count(*) FROM v", &[])
        .unwrap()
        .one()
        .unwrap()
        .get(0)
        .unwrap();
    assert_eq!(count, 15);
    stock.exec("INSERT INTO t(b) VALUES (1)", &[]).unwrap();

    let empty = engine.wake(class, id(2)).unwrap();
    assert!(matches!(
        Database::export(&empty, &dir.path().join("none")),
        Err(Error::NoDatabase)
    ));
}

#[test]
fn a_database_wakes_as_it_fell_asleep_after_every_kind_of_change() {
    let (_fs, engine, class) = set_up(14);
    let mut rng = fastrand::Rng::with_seed(14);
    let (mut expected, mut rows) = (0, 0);
    drop(with_table(&engine, class));
    for round in 0..60 {
        let awake = wake(&engine, class, 1);
        assert_eq!(
            awake.number("SELECT count(*) FROM t"),
            rows,
            "round {round}"
        );
        assert_eq!(
            awake.number("SELECT coalesce(sum(b), 0) FROM t"),
            expected,
            "round {round}"
        );
        for _ in 0..rng.usize(1..4) {
            let before = awake.number("SELECT count(*) FROM t");
            match rng.u8(0..4) {
                0 => awake.fill(rng.i64(1..30), rng.i64(1..3000)),
                1 => awake.run("DELETE FROM t WHERE id % 2 = abs(random()) % 2"),
                2 => awake.run("UPDATE t SET b = b + 1 WHERE id % 3 = 0"),
                _ => awake.run("INSERT INTO t(b) VALUES (5)"),
            }
            if rng.u8(0..4) == 0 || before > 150 {
                awake.run("DELETE FROM t WHERE length(a) > 1000; PRAGMA incremental_vacuum");
            }
            awake.commit();
        }
        rows = awake.number("SELECT count(*) FROM t");
        expected = awake.number("SELECT coalesce(sum(b), 0) FROM t");
        awake.assert_whole();
    }
}

#[test]
fn a_small_change_is_a_small_record() {
    let (_fs, engine, class) = set_up(15);
    let awake = wake(&engine, class, 1);
    awake.run("CREATE TABLE message(id INTEGER PRIMARY KEY, author TEXT, body TEXT)");
    awake.run("CREATE INDEX by_author ON message(author)");
    let post = |n: i64| {
        let sql = "INSERT INTO message(author, body) VALUES (?, ?)";
        let text = format!("message number {n}");
        awake
            .database
            .exec(sql, &["ada".into(), text.as_str().into()])
            .unwrap();
        awake.commit();
    };
    (0..40).for_each(post);
    let bytes = |act: &dyn Fn()| {
        let records = || -> usize {
            let log = engine.log();
            let batches = log
                .segments()
                .iter()
                .flat_map(|segment| log.batches(segment))
                .collect::<Vec<_>>();
            let sizes = batches.iter().map(|batch| {
                let records = batch
                    .as_ref()
                    .unwrap()
                    .records()
                    .map(|record| record.stored_bytes() as usize);
                records.sum::<usize>()
            });
            sizes.sum()
        };
        let before = records();
        act();
        records() - before
    };
    let insert = bytes(&|| post(41));
    let update = bytes(&|| {
        awake.run("UPDATE message SET author = 'bob' WHERE id = 20");
        awake.commit();
    });
    println!("one row inserted: {insert} bytes; one updated: {update} bytes");
    assert!(insert < 400 && update < 300, "{insert} and {update}");
}
