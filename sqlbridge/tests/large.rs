//! What is larger than a turn's usual few pages: rebuilt databases, and transactions beyond memory.

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Error as EngineError, Quota};
use dovehouse_sqlbridge::Error;

mod common;

use common::{Awake, open, wake};

/// An object with rows of a kilobyte, every other one deleted.
fn holey(engine: &dovehouse_engine::Engine, class: dovehouse_engine::ClassId, rows: i64) -> Awake {
    let awake = wake(engine, class, 1);
    awake.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB, b INTEGER DEFAULT 0)");
    awake.fill(rows, 1000);
    awake.commit();
    awake.run("DELETE FROM t WHERE id % 2 = 0");
    awake.commit();
    awake
}

#[test]
fn a_vacuum_is_one_record_and_gives_the_pages_back() {
    let fs = SimFs::new(1);
    let (engine, class) = open(&fs).unwrap();
    let awake = holey(&engine, class, 80);
    let (pages, records) = (awake.object.lock().page_count(), engine.stats().log.records);
    awake.run("INSERT INTO t(b) VALUES (7)");
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.database.vacuum().unwrap_err();
    awake.commit();
    awake.database.vacuum().unwrap();
    awake.commit();
    assert_eq!(engine.stats().log.records, records + 2);
    let vacuumed = awake.object.lock().page_count();
    assert!(vacuumed * 3 < pages * 2, "{pages} pages became {vacuumed}");
    awake.assert_whole();
    assert!(
        awake.database.exec("VACUUM", ()).is_err(),
        "it is no part of a turn"
    );
    drop(awake);

    let (engine, class) = open(&fs.power_loss()).unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.object.lock().page_count(), vacuumed);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 41);
    assert_eq!(awake.number("PRAGMA auto_vacuum"), 2, "incremental, still");
    assert_eq!(
        awake.object.lock().get(b"key").unwrap().as_deref(),
        Some(&b"value"[..])
    );
    awake.assert_whole();
}

#[test]
fn a_vacuum_beyond_what_a_transaction_may_write_is_refused_and_changes_nothing() {
    let fs = SimFs::new(2);
    let (engine, class) = open(&fs).unwrap();
    let awake = holey(&engine, class, 400);
    assert!(awake.object.lock().is_big());
    let before = awake.object.lock().page_count();
    let limit = |transaction_bytes| {
        let quota = Quota {
            transaction_bytes,
            ..Quota::default()
        };
        engine.set_quota(class, quota);
    };
    limit(Some(64 << 10));
    let refused = awake.database.vacuum().unwrap_err();
    assert!(
        matches!(refused, Error::Engine(EngineError::Quota { .. })),
        "{refused}"
    );
    assert_eq!(awake.object.lock().page_count(), before);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 200);
    awake.assert_whole();
    limit(None);
    awake.database.vacuum().unwrap();
    awake.commit();
    assert!(awake.object.lock().page_count() < before);
    awake.assert_whole();
}

#[test]
fn an_object_without_tables_can_be_vacuumed() {
    let fs = SimFs::new(3);
    let (engine, class) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    awake.database.vacuum().unwrap();
    awake.commit();
    awake.run("CREATE TABLE t(a)");
    awake.commit();
    awake.assert_whole();
}

/// Files of this process that have no name any more.
fn unnamed_files() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return 1; // Another system: nothing to see.
    };
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().ends_with("(deleted)"))
        .count()
}

#[test]
fn the_journal_of_a_large_transaction_is_on_the_disk_and_undoes_all_of_it() {
    let fs = SimFs::new(4);
    let (engine, class) = common::open_with(&fs, 8 << 20).unwrap();
    let awake = wake(&engine, class, 1);
    awake.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB, b INTEGER DEFAULT 0)");
    awake.fill(2_500, 1000);
    awake.commit();
    let sum = "SELECT sum(length(a) + id) FROM t";
    let (before, pages) = (awake.number(sum), awake.object.lock().page_count());
    for commits in [false, true] {
        awake.run("UPDATE t SET a = randomblob(1000 + id % 50)");
        assert!(unnamed_files() > 0, "the originals are in a scratch file");
        awake.run("CREATE TEMP TABLE sorted AS SELECT a FROM t ORDER BY a");
        awake.run("DROP TABLE sorted; DELETE FROM t WHERE id % 2 = 0");
        if commits {
            awake.commit();
            break;
        }
        awake.database.rollback();
        assert_eq!(awake.number(sum), before);
        assert_eq!(awake.object.lock().page_count(), pages);
        awake.assert_whole();
    }
    drop(awake);
    let (engine, class) = common::open_with(&fs.power_loss(), 8 << 20).unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 1_250);
    awake.assert_whole();
}
