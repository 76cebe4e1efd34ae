//! An object's keys as the table `kv`: what SQL writes there is what the engine has, in the turn's
//! transaction, and a savepoint is one for tables, keys and alarm.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Alarm, ClassId, Engine, Error as EngineError, List, Quota};
use dovehouse_sqlbridge::{Error, Rule, SqlPolicy};

#[path = "../common/mod.rs"]
mod common;
mod model;

use common::{Awake, open, wake, wake_with};

fn set_up(seed: u64) -> (SimFs, Engine, ClassId, Awake) {
    let fs = SimFs::new(seed);
    let (engine, class) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    (fs, engine, class, awake)
}

fn texts(awake: &Awake, sql: &str) -> Vec<String> {
    let rows = awake.database.exec(sql, ()).unwrap().to_vec().unwrap();
    rows.iter().map(|row| row.get(0).unwrap()).collect()
}

/// The code of SQLite's error, and its words.
fn refused(awake: &Awake, sql: &str) -> (i32, String) {
    match awake.database.exec(sql, ()) {
        Err(Error::Sqlite { code, message }) => (code, message),
        other => panic!("{sql}: {other:?}"),
    }
}

fn keys(awake: &Awake) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let object = awake.object.lock();
    let listed = object.list(&List::all()).map(|listed| listed.unwrap());
    listed
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect()
}

fn put(awake: &Awake, keys: &[&str]) {
    for key in keys {
        awake
            .object
            .lock()
            .put(key.as_bytes(), key.as_bytes())
            .unwrap();
    }
}

#[test]
fn keys_put_by_the_engine_are_rows_and_rows_put_by_sql_are_keys_of_one_record() {
    let (fs, engine, class, awake) = set_up(1);
    awake.run("CREATE TABLE t(a)");
    awake.commit();
    let before = engine.stats().log.records;
    put(&awake, &["native"]);
    awake.run("INSERT INTO kv VALUES ('sql', 'text'), (x'00ff', x'01')");
    awake.run("INSERT INTO t SELECT value FROM kv WHERE key = 'native'");
    awake.run("UPDATE kv SET value = CAST(value AS TEXT) || '!' WHERE key = 'sql'");
    awake.run("DELETE FROM kv WHERE key = 'native'");
    assert_eq!(awake.object.lock().get(b"native").unwrap(), None);
    awake.object.lock().set_alarm(Alarm {
        due_ms: 7,
        ..Alarm::default()
    });
    awake.commit();
    assert_eq!(engine.stats().log.records, before + 1);
    drop(awake);

    let (engine, class_again) = open(&fs.power_loss()).unwrap();
    assert_eq!(class, class_again);
    let awake = wake(&engine, class, 1);
    let expected = [(&b"\x00\xff"[..], &b"\x01"[..]), (b"sql", b"text!")];
    assert_eq!(
        keys(&awake),
        expected
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .into()
    );
    assert_eq!(texts(&awake, "SELECT CAST(a AS TEXT) FROM t"), ["native"]);
    assert_eq!(awake.object.lock().alarms()[0].due_ms, 7);
    awake.assert_whole();
}

#[test]
fn a_turn_that_writes_keys_by_sql_alone_is_one_record_and_a_rollback_none() {
    let (fs, engine, class, awake) = set_up(2);
    let before = engine.stats().log.records;
    awake.run("INSERT INTO kv VALUES ('a', 'b')");
    awake.commit();
    assert_eq!(engine.stats().log.records, before + 1);
    awake.run("UPDATE kv SET value = 'c'");
    awake.database.rollback();
    awake.run("UPDATE kv SET value = value");
    awake.commit();
    assert_eq!(
        engine.stats().log.records,
        before + 1,
        "nothing has changed"
    );
    drop(awake);
    let (engine, _) = open(&fs.power_loss()).unwrap();
    assert_eq!(
        keys(&wake(&engine, class, 1)),
        [(b"a".to_vec(), b"b".to_vec())].into()
    );
}

#[test]
fn a_savepoint_that_is_rolled_back_restores_tables_keys_and_alarm() {
    let (_fs, _engine, _class, awake) = set_up(3);
    let alarm = |due_ms| Alarm {
        due_ms,
        ..Alarm::default()
    };
    awake.run("CREATE TABLE t(a)");
    awake.run("INSERT INTO t VALUES (1)");
    awake.run("INSERT INTO kv VALUES ('kept', '1'), ('changed', '1')");
    awake.object.lock().set_alarm(alarm(1));
    let before = keys(&awake);
    for outer_fails in [true, false] {
        let done: Result<(), Error> = awake.database.transaction(|database| {
            awake.object.lock().put(b"outer", b"1").unwrap();
            database.exec("INSERT INTO t VALUES (2)", ())?;
            database.exec("UPDATE kv SET value = '2' WHERE key = 'changed'", ())?;
            awake.object.lock().set_alarm(alarm(2));
            let inner: Result<(), Error> = database.transaction(|database| {
                database.exec("DELETE FROM t", ())?;
                database.exec("DELETE FROM kv", ())?;
                database.exec("INSERT INTO kv VALUES ('inner', '1')", ())?;
                awake.object.lock().clear_alarm("");
                Err(Error::NoDatabase)
            });
            assert!(inner.is_err());
            assert_eq!(keys(&awake).len(), 3);
            assert_eq!(keys(&awake)[&b"changed"[..]], b"2");
            assert_eq!(awake.object.lock().alarms(), [alarm(2)]);
            assert_eq!(awake.number("SELECT count(*) FROM t"), 2);
            match outer_fails {
                true => Err(Error::NoDatabase),
                false => Ok(()),
            }
        });
        assert_eq!(done.is_err(), outer_fails);
        if outer_fails {
            assert_eq!(keys(&awake), before);
            assert_eq!(awake.object.lock().alarms(), [alarm(1)]);
            assert_eq!(awake.number("SELECT count(*) FROM t"), 1);
        }
    }
    awake.commit();
    assert_eq!(awake.number("SELECT count(*) FROM kv"), 3);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 2);
}

#[test]
fn a_statement_that_fails_in_the_middle_takes_its_keys_back_and_no_others() {
    let (_fs, _engine, _class, awake) = set_up(4);
    awake.run("CREATE TABLE t(a UNIQUE)");
    awake.run("CREATE TABLE source(a, b)");
    awake.run("INSERT INTO source VALUES ('x', 1), ('y', 1), ('taken', 1), ('z', 1)");
    awake.run(
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO kv VALUES ('of ' || new.a, ''); END",
    );
    put(&awake, &["taken", "other"]);
    awake.run("INSERT INTO t VALUES ('y')");
    let before = keys(&awake);
    for sql in [
        "INSERT INTO kv SELECT a, b || '' FROM source",
        "INSERT INTO kv VALUES ('x', ''), ('y', ''), ('z', 5)",
        "UPDATE kv SET key = 'same'",
        // The table fails, and what its trigger wrote goes with it.
        "INSERT INTO t SELECT a FROM source",
    ] {
        refused(&awake, sql);
        assert_eq!(keys(&awake), before, "{sql}");
        assert_eq!(awake.number("SELECT count(*) FROM t"), 1, "{sql}");
    }
    awake.run("INSERT OR IGNORE INTO kv SELECT a, b || '' FROM source");
    assert_eq!(keys(&awake).len(), before.len() + 3);
    awake.run("REPLACE INTO kv VALUES ('taken', 'anew')");
    awake.run("UPDATE OR REPLACE kv SET key = 'taken' WHERE key = 'x'");
    assert_eq!(keys(&awake)[&b"taken"[..]], b"1");
    assert!(!keys(&awake).contains_key(&b"x"[..]));
    awake.commit();
    // This one takes the whole turn with it.
    put(&awake, &["native"]);
    let before = keys(&awake);
    refused(
        &awake,
        "INSERT OR ROLLBACK INTO kv VALUES ('new', ''), ('taken', '')",
    );
    assert_eq!(keys(&awake).len(), before.len() - 1);
    awake.commit();
}

#[test]
fn what_is_no_key_or_value_is_refused_by_name() {
    let (_fs, _engine, _class, awake) = set_up(5);
    let (code, message) = refused(&awake, "INSERT INTO kv VALUES (1, 'a')");
    assert!(
        code == 20 && message.contains("a key of kv is text or a blob, not a number"),
        "{message}"
    );
    assert!(
        refused(&awake, "INSERT INTO kv(key) VALUES ('a')")
            .1
            .contains("not NULL")
    );
    assert!(
        refused(&awake, "INSERT INTO kv VALUES (zeroblob(5000), '')")
            .1
            .contains("key")
    );
    awake.run("INSERT INTO kv VALUES ('a', '')");
    let (code, message) = refused(&awake, "INSERT INTO kv VALUES ('a', '')");
    assert!(code == 19 && message.contains("kv.key"), "{message}");
    // What SQLite does not do for virtual tables, as docs/sql.md says.
    refused(
        &awake,
        "INSERT INTO kv VALUES ('a', '') ON CONFLICT(key) DO UPDATE SET value = 'b'",
    );
    refused(&awake, "DELETE FROM kv RETURNING key");
    refused(
        &awake,
        "CREATE TRIGGER tr AFTER INSERT ON kv BEGIN SELECT 1; END",
    );
    refused(&awake, "CREATE INDEX i ON kv(value)");
    refused(&awake, "CREATE VIRTUAL TABLE other USING kv");
    assert_eq!(
        texts(&awake, "INSERT INTO kv VALUES ('r', '') RETURNING key"),
        ["r"]
    );
    awake.commit();
    assert_eq!(keys(&awake).len(), 2);
}

#[test]
fn under_cloudflares_rules_the_name_is_the_applications() {
    let fs = SimFs::new(13);
    let (engine, class) = open(&fs).unwrap();
    let awake = wake_with(&engine, class, 1, &SqlPolicy::cloudflare());
    awake.object.lock().put(b"a", b"b").unwrap();
    let shown = awake.database.exec("SELECT * FROM kv", ());
    assert!(matches!(shown, Err(Error::Sqlite { .. })), "{shown:?}");
    let made = awake
        .database
        .exec("CREATE VIRTUAL TABLE other USING kv", ());
    assert!(
        matches!(
            made,
            Err(Error::Denied {
                rule: Rule::VirtualTable,
                ..
            })
        ),
        "{made:?}"
    );
}

#[test]
fn a_table_of_this_name_goes_before_and_leaves_the_keys_alone() {
    let (_fs, _engine, _class, awake) = set_up(6);
    put(&awake, &["a"]);
    assert_eq!(awake.number("SELECT count(*) FROM kv"), 1);
    awake.run("CREATE TABLE kv(key, value, more)");
    assert_eq!(awake.number("SELECT count(*) FROM kv"), 0);
    awake.run("INSERT INTO kv VALUES (1, 2, 3)");
    awake.run("DROP TABLE kv");
    assert_eq!(texts(&awake, "SELECT key FROM kv"), ["a"]);
}

#[test]
fn ranges_orders_and_prefixes_are_found_by_key_and_not_by_a_scan() {
    let (_fs, _engine, _class, awake) = set_up(7);
    put(&awake, &["a", "b/1", "b/2", "b/3", "c", "ü"]);
    for (sql, expected) in [
        ("WHERE key = 'c'", "c"),
        ("WHERE key = CAST('c' AS BLOB)", "c"),
        ("WHERE key > 'b' AND key < 'b/3'", "b/1 b/2"),
        (
            "WHERE key BETWEEN 'b/2' AND 'c' ORDER BY key DESC",
            "c b/3 b/2",
        ),
        ("WHERE key GLOB 'b/[23]*' ORDER BY key", "b/2 b/3"),
        ("WHERE key IN ('ü', 'a', 'none') ORDER BY key", "a ü"),
        ("ORDER BY key DESC LIMIT 2", "ü c"),
        ("ORDER BY key LIMIT 2 OFFSET 2", "b/2 b/3"),
        ("WHERE key LIKE 'B/%' ORDER BY value DESC", "b/3 b/2 b/1"),
        ("WHERE key = 'C' COLLATE NOCASE", "c"),
        ("WHERE key IS NULL OR key < 5 OR key = 7", ""),
        (
            "WHERE key >= 5 AND key >= 'b/3' AND key > 'b/3' AND key <> 'c'",
            "ü",
        ),
        ("WHERE key = (SELECT max(key) FROM kv)", "ü"),
    ] {
        assert_eq!(
            texts(&awake, &format!("SELECT key FROM kv {sql}")).join(" "),
            expected,
            "{sql}"
        );
    }
    let plan = |sql: &str| {
        let rows = awake
            .database
            .exec(&format!("EXPLAIN QUERY PLAN SELECT * FROM kv {sql}"), ());
        let rows = rows.unwrap().to_vec().unwrap();
        rows.iter()
            .map(|row| row.get::<String>("detail").unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        plan("WHERE key > 'a' ORDER BY key DESC").len(),
        1,
        "no sorter"
    );
    assert_eq!(plan("WHERE key > 'a' ORDER BY value").len(), 2);
    awake.run("CREATE TABLE t(k)");
    awake.run("INSERT INTO t VALUES ('a'), ('c')");
    // The keys are the inner side, found one by one.
    let joined = plan("JOIN t ON t.k = kv.key");
    assert!(
        joined[0].contains("SCAN t") && joined[1].contains("kv VIRTUAL TABLE"),
        "{joined:?}"
    );
}

#[test]
fn a_scan_reads_some_keys_at_a_time_and_sees_all_of_them_once_while_they_change() {
    let (_fs, _engine, _class, awake) = set_up(8);
    for number in 0..1000 {
        awake
            .object
            .lock()
            .put(format!("{number:04}").as_bytes(), &[0; 300])
            .unwrap();
    }
    assert_eq!(awake.number("SELECT count(*) FROM kv"), 1000);
    assert_eq!(
        awake.number("SELECT count(DISTINCT key) FROM (SELECT key FROM kv ORDER BY key DESC)"),
        1000
    );
    awake.run("UPDATE kv SET key = 'x' || key WHERE key % 2 = 0");
    awake.run("INSERT INTO kv SELECT 'y' || key, value FROM kv WHERE key >= 'x'");
    awake.run("DELETE FROM kv WHERE substr(key, 1, 1) = 'x'");
    assert_eq!(awake.number("SELECT count(*) FROM kv WHERE key < 'x'"), 500);
    assert_eq!(
        awake.number("SELECT count(*) FROM kv WHERE key GLOB 'yx*'"),
        500
    );
    awake.commit();
}

#[test]
fn a_cursor_over_keys_goes_on_over_commits_and_ends_with_a_rollback() {
    let (_fs, _engine, _class, awake) = set_up(12);
    for number in 0..100 {
        put(&awake, &[&format!("{number:02}")]);
    }
    awake.commit();
    let sql = "SELECT key FROM kv WHERE key < '90' ORDER BY key DESC";
    let mut cursor = awake.database.exec(sql, ()).unwrap();
    let mut next = || {
        cursor
            .next()
            .unwrap()
            .map(|row| row.get::<String>(0).unwrap())
    };
    assert_eq!(next().as_deref(), Some("89"));
    awake.run("DELETE FROM kv WHERE key BETWEEN '05' AND '80'");
    put(&awake, &["03b"]);
    awake.commit();
    let rest: Vec<String> = std::iter::from_fn(next).collect();
    let tail = ["04", "03b", "03", "02", "01", "00"];
    assert!(rest.ends_with(&tail.map(String::from)), "{rest:?}");

    let mut cursor = awake.database.exec(sql, ()).unwrap();
    awake.run("DELETE FROM kv");
    awake.database.rollback();
    assert!(matches!(cursor.next(), Err(Error::Canceled)));
    assert_eq!(awake.number("SELECT count(*) FROM kv"), 25);
}

#[test]
fn a_turn_beyond_its_quota_is_refused_whole_and_the_next_one_goes_on() {
    let (_fs, engine, class, awake) = set_up(9);
    awake.run("INSERT INTO kv VALUES ('a', '1')");
    awake.commit();
    engine.set_quota(
        class,
        Quota {
            object_bytes: Some(4000),
            ..Quota::default()
        },
    );
    awake.run("INSERT INTO kv VALUES ('large', zeroblob(9000))");
    let refused = awake.database.commit();
    assert!(
        matches!(refused, Err(Error::Engine(EngineError::Quota { .. }))),
        "{refused:?}"
    );
    awake.run("UPDATE kv SET value = '2'");
    awake.commit();
    assert_eq!(keys(&awake), [(b"a".to_vec(), b"2".to_vec())].into());
    awake.assert_whole();
}

/// An engine that keeps little of an open transaction in memory.
fn open_tight(fs: &SimFs) -> (Engine, ClassId) {
    let builder = Engine::builder("store").fs(Arc::new(fs.clone()));
    let builder = builder
        .segment_bytes(1 << 20)
        .open_transaction_bytes(40 << 10);
    let engine = builder.without_threads().open().unwrap();
    let class = engine.class("Test").unwrap();
    (engine, class)
}

#[test]
fn a_statement_that_is_too_much_for_its_transaction_undoes_the_turn_and_the_next_one_goes_on() {
    let fs = SimFs::new(10);
    let (engine, class) = open_tight(&fs);
    let quota = Quota {
        transaction_bytes: Some(300 << 10),
        ..Quota::default()
    };
    engine.set_quota(class, quota);
    let awake = wake(&engine, class, 1);
    awake.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)");
    awake.run("INSERT INTO kv VALUES ('kept', '')");
    awake.commit();
    awake.run("PRAGMA cache_size = 5");
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)";
    for sql in [
        format!("{numbers} INSERT INTO kv SELECT 'key ' || i, randomblob(1000) FROM n"),
        // Pages are too much here, when the cache spills them.
        format!("{numbers} INSERT INTO t(a) SELECT randomblob(1000) FROM n"),
    ] {
        put(&awake, &["native"]);
        awake.run("INSERT INTO kv VALUES ('sql', '')");
        let nested = awake.database.transaction(|database| {
            awake.run("INSERT INTO kv VALUES ('nested', '')");
            database.exec(&sql, ()).map(drop)
        });
        assert!(
            matches!(nested, Err(Error::Engine(EngineError::Quota { .. }))),
            "{nested:?}"
        );
        assert_eq!(texts(&awake, "SELECT key FROM kv"), ["kept"]);
        assert_eq!(awake.number("SELECT count(*) FROM t"), 0);
        awake.assert_whole();
    }
    awake.run("INSERT INTO t(a) SELECT key FROM kv");
    awake.commit();
    assert_eq!(awake.number("SELECT count(*) FROM t"), 1);
}

#[test]
fn a_damaged_key_fails_the_statement_that_reads_it_with_the_engines_words() {
    let (fs, engine, class, awake) = set_up(11);
    let mut random = fastrand::Rng::with_seed(11);
    for number in 0..3000 {
        let mut value = [0; 60];
        random.fill(&mut value);
        awake
            .object
            .lock()
            .put(format!("{number:04}").as_bytes(), &value)
            .unwrap();
    }
    awake.commit();
    let wanted = keys(&awake)[&b"1500"[..]].clone();
    drop((awake, engine));
    for name in fs.list(Path::new("store")).unwrap() {
        let path = Path::new("store").join(&name);
        let content = fs.content(&path).unwrap();
        let at = content
            .windows(wanted.len())
            .position(|window| window == wanted);
        if let Some(at) = at.filter(|_| name.starts_with("segment-")) {
            fs.rot(&path, at as u64, |byte| *byte ^= 1);
        }
    }
    let (engine, _) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    for sql in [
        "SELECT value FROM kv WHERE key = '1500'",
        "SELECT count(*) FROM kv",
        "INSERT INTO kv VALUES ('1500', '')",
    ] {
        let failed = awake.database.exec(sql, ());
        assert!(
            matches!(failed, Err(Error::Engine(EngineError::Damaged { .. }))),
            "{sql}: {failed:?}"
        );
    }
    assert_eq!(
        awake.number("SELECT count(*) FROM kv WHERE key < '0500'"),
        500
    );
    awake.run("INSERT INTO kv VALUES ('0000b', '')");
    awake.commit();
}
