//! Connections that serve one object after the other must never show one of them another's rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{ClassId, Engine};
use dovehouse_sqlbridge::{Pool, PoolSizes, SharedObject, Slot, SqlPolicy};

mod common;

use common::{id, open};

fn pool(hot: usize, open: usize, idle: usize) -> Pool {
    Pool::new(SqlPolicy::native(), PoolSizes { hot, open, idle })
}

fn object(engine: &Engine, class: ClassId, number: u8) -> SharedObject {
    Arc::new(engine.wake(class, id(number)).unwrap().into())
}

fn run(slot: &Slot, sql: &str) {
    slot.database().unwrap().exec(sql, ()).unwrap();
}

fn number(slot: &Slot, sql: &str) -> i64 {
    let database = slot.database().unwrap();
    database
        .exec(sql, ())
        .unwrap()
        .one()
        .unwrap()
        .get(0)
        .unwrap()
}

fn commit(slot: &Slot) {
    slot.database().unwrap().commit().unwrap();
}

#[test]
fn a_connection_that_goes_on_has_the_keys_of_the_object_that_it_serves() {
    let fs = SimFs::new(1);
    let (engine, class) = open(&fs).unwrap();
    let pool = pool(1, 1, 1);
    for at in 1..=3 {
        let slot = pool.slot(object(&engine, class, at));
        assert_eq!(number(&slot, "SELECT count(*) FROM kv"), 0);
        run(&slot, &format!("INSERT INTO kv VALUES ('key', '{at}')"));
        commit(&slot);
    }
    assert_eq!(pool.counts(), (0, 0, 1), "one connection served them all");
    for at in 1..=3 {
        let object = object(&engine, class, at);
        let value = object
            .lock()
            .get(b"key")
            .unwrap()
            .map(|value| value.into_owned());
        assert_eq!(value, Some(at.to_string().into_bytes()));
        let slot = pool.slot(object);
        let sql = "SELECT CAST(CAST(value AS TEXT) AS INTEGER) FROM kv WHERE key = 'key'";
        assert_eq!(number(&slot, sql), i64::from(at));
    }
}

#[test]
fn a_connection_goes_on_to_an_object_with_the_same_schema_and_sees_that_one_only() {
    let fs = SimFs::new(1);
    let (engine, class) = open(&fs).unwrap();
    let pool = pool(4, 4, 4);
    for at in 1..=2 {
        let slot = pool.slot(object(&engine, class, at));
        run(&slot, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
        run(&slot, &format!("INSERT INTO t(b) VALUES ({at}0)"));
        assert_eq!(number(&slot, "SELECT last_insert_rowid()"), 1);
        commit(&slot);
        assert_eq!(number(&slot, "SELECT b FROM t"), i64::from(at) * 10);
    }
    assert_eq!(pool.counts(), (0, 0, 2));
    let (first, second) = (
        pool.slot(object(&engine, class, 1)),
        pool.slot(object(&engine, class, 2)),
    );
    // The change counters are equal, so nothing but the bridge tells the caches apart.
    assert_eq!(number(&second, "SELECT b FROM t"), 20);
    assert_eq!(number(&first, "SELECT b FROM t"), 10);
    assert_eq!(pool.counts(), (2, 0, 0), "both connections were used again");
    assert_eq!(number(&first, "SELECT last_insert_rowid()"), 0);
    run(&first, "INSERT INTO t(b) VALUES (11)");
    commit(&first);
    assert_eq!(number(&first, "SELECT sum(b) FROM t"), 21);
    assert_eq!(number(&second, "SELECT sum(b) FROM t"), 20);
}

/// Both have schema cookie 1, and their tables the same root page.
#[test]
fn two_schemas_with_equal_cookies_never_share_a_connection() {
    let fs = SimFs::new(2);
    let (engine, class) = open(&fs).unwrap();
    let pool = pool(4, 4, 4);
    for (at, schema) in [(1, "CREATE TABLE t(a, b)"), (2, "CREATE TABLE t(b, a)")] {
        let slot = pool.slot(object(&engine, class, at));
        run(&slot, schema);
        run(&slot, "INSERT INTO t(a, b) VALUES (1, 2)");
        commit(&slot);
        assert_eq!(number(&slot, "PRAGMA schema_version"), 1);
    }
    for at in [2, 1, 2] {
        let slot = pool.slot(object(&engine, class, at));
        assert_eq!(number(&slot, "SELECT a FROM t"), 1);
        assert_eq!(number(&slot, "SELECT b FROM t"), 2);
        assert_eq!(pool.counts(), (1, 0, 1), "its own schema's connection");
    }
}

#[test]
fn what_lives_in_a_connection_is_not_inherited() {
    let fs = SimFs::new(3);
    let (engine, class) = open(&fs).unwrap();
    for personal in [
        "PRAGMA foreign_keys = OFF",
        "CREATE TEMP TABLE mine(a)",
        "CREATE VIRTUAL TABLE words USING fts5(word)",
    ] {
        let pool = pool(1, 1, 4);
        let first = pool.slot(object(&engine, class, 1));
        run(&first, personal);
        commit(&first);
        let second = pool.slot(object(&engine, class, 2));
        assert_eq!(number(&second, "PRAGMA foreign_keys"), 1, "{personal}");
        assert_eq!(
            number(&second, "SELECT count(*) FROM sqlite_temp_schema"),
            0
        );
        drop(first);
        assert_eq!(pool.counts().2, 0, "{personal}");
        let third = pool.slot(object(&engine, class, 3));
        assert_eq!(number(&third, "PRAGMA foreign_keys"), 1, "{personal}");
        let mut cleared = object(&engine, class, 1);
        Arc::get_mut(&mut cleared).unwrap().get_mut().clear(false);
        cleared.lock().commit().unwrap();
    }
}

/// What SQLite read of a cleared object is nothing once the clearing is undone.
#[test]
fn a_database_that_was_opened_on_a_cleared_object_sees_what_comes_back() {
    let fs = SimFs::new(4);
    let (engine, class) = open(&fs).unwrap();
    let pool = pool(1, 1, 1);
    let cleared = object(&engine, class, 1);
    let slot = pool.slot(cleared.clone());
    run(&slot, "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1)");
    commit(&slot);
    for round in 0..2 {
        slot.close();
        cleared.lock().clear(false);
        let database = slot.database().unwrap();
        if round == 0 {
            database.rollback();
        } else {
            run(&slot, "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (2)");
            let again = "INSERT OR ROLLBACK INTO t VALUES (2)";
            assert!(database.exec(again, ()).is_err());
        }
        assert_eq!(number(&slot, "SELECT a FROM t"), 1, "round {round}");
        run(&slot, "INSERT INTO t VALUES (3)");
        commit(&slot);
        run(&slot, "DELETE FROM t WHERE a = 3");
        commit(&slot);
        assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_database_that_is_held_beyond_its_slot_is_of_no_use() {
    let fs = SimFs::new(5);
    let (engine, class) = open(&fs).unwrap();
    let pool = pool(1, 1, 1);
    let slot = pool.slot(object(&engine, class, 1));
    run(&slot, "CREATE TABLE t(a)");
    commit(&slot);
    let held = slot.database().unwrap();
    slot.close();
    assert!(
        held.exec("INSERT INTO t VALUES (1)", ())
            .and_then(|_| held.commit())
            .is_err()
    );
    assert_eq!(number(&slot, "SELECT count(*) FROM t"), 0);
}

/// Many objects of a few schemas through a pool that has room for few, and a model beside it.
#[test]
fn objects_in_a_crowded_pool_keep_their_rows() {
    const OBJECTS: u8 = 24;
    let schemas = [
        "CREATE TABLE t(k INTEGER PRIMARY KEY, v INTEGER)",
        "CREATE TABLE t(v INTEGER, k INTEGER PRIMARY KEY)",
        "CREATE TABLE t(k INTEGER PRIMARY KEY, v INTEGER); CREATE INDEX by_v ON t(v)",
    ];
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let fs = SimFs::new(seed);
        let (engine, class) = open(&fs).unwrap();
        let pool = pool(2, 4, 3);
        let mut models = vec![BTreeMap::new(); OBJECTS.into()];
        let mut slots: Vec<Option<Slot>> = (0..OBJECTS).map(|_| None).collect();
        for step in 0..400 {
            let at = random.usize(..models.len());
            if random.u8(..8) == 0 {
                slots[at] = None;
                continue;
            }
            let slot =
                slots[at].get_or_insert_with(|| pool.slot(object(&engine, class, at as u8 + 1)));
            let model = &mut models[at];
            if number(slot, "SELECT count(*) FROM sqlite_schema") == 0 {
                run(slot, schemas[at % schemas.len()]);
            }
            let (key, value) = (random.i64(..10), random.i64(..1000));
            run(
                slot,
                &format!("REPLACE INTO t(k, v) VALUES ({key}, {value})"),
            );
            if random.u8(..4) == 0 {
                slot.database().unwrap().rollback();
            } else {
                commit(slot);
                model.insert(key, value);
            }
            if number(slot, "SELECT count(*) FROM sqlite_schema") == 0 {
                assert!(model.is_empty(), "seed {seed}, step {step}");
                continue;
            }
            let rows: Vec<(i64, i64)> = {
                let database = slot.database().unwrap();
                let rows = database.exec("SELECT k, v FROM t ORDER BY k", ()).unwrap();
                rows.deserialize().unwrap()
            };
            assert_eq!(
                rows,
                model.clone().into_iter().collect::<Vec<_>>(),
                "seed {seed}, step {step}"
            );
            let (hot, released, idle) = pool.counts();
            assert!(hot <= 2 && hot + released <= 4 && idle <= 3);
        }
        for slot in slots.iter().flatten() {
            let broken = slot.database().unwrap().integrity_check().unwrap();
            assert_eq!(broken, Vec::<String>::new(), "seed {seed}");
        }
    }
}
