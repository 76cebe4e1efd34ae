//! Databases as they were: after every commit of random statements the object's image is kept beside it, and each can
//! be had again, page for page, through compaction, crashes and reopening.

use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::wal::sim::{SimFs, for_each_seed};
use dovehouse_engine::{Alarm, Bookmark, ClassId, Engine, Error as EngineError, Retention};
use dovehouse_sqlbridge::{
    AlarmChange, AlarmState, Connection, Counts, Database, Diff, Error, SharedObject, Value,
};
use fastrand::Rng;
use parking_lot::Mutex;

mod common;

use common::statements::statement;
use common::{Awake, id, wake};

/// An image after a commit; none before the first table.
type Shadow = (Bookmark, Option<Vec<u8>>);

fn open(fs: &SimFs) -> (Engine, ClassId) {
    let builder = Engine::builder("store").fs(Arc::new(fs.clone()));
    let builder = builder.segment_bytes(256 << 10).without_threads();
    let engine = builder.retention(Retention::Forever).open().unwrap();
    let class = engine.class("Test").unwrap();
    (engine, class)
}

fn export(object: &SharedObject, file: &Path) -> Option<Vec<u8>> {
    let _ = std::fs::remove_file(file);
    match Database::export(&object.lock(), file) {
        Ok(unreadable) => assert!(unreadable.is_empty(), "{unreadable:?}"),
        Err(Error::NoDatabase) => return None,
        Err(error) => panic!("{error}"),
    }
    Some(std::fs::read(file).unwrap())
}

fn past(engine: &Engine, bookmark: &Bookmark) -> SharedObject {
    Arc::new(engine.past(&id(1), bookmark).unwrap().into())
}

fn is_whole(database: &Database) {
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
}

/// That some of the images can be had again, several at once.
fn check(engine: &Engine, shadows: &[Shadow], rng: &mut Rng, file: &Path, count: usize) {
    let mut open = Vec::new();
    for _ in 0..count.min(shadows.len()) {
        let (bookmark, image) = &shadows[rng.usize(..shadows.len())];
        let object = past(engine, bookmark);
        let found = export(&object, file);
        assert!(
            found == *image,
            "the image at {} of {}",
            bookmark.seq(),
            shadows.len()
        );
        open.push(Database::open(object).unwrap());
    }
    open.iter().for_each(is_whole);
    if file.exists() {
        let stock = Connection::open_file(file).unwrap();
        assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
    }
}

/// A turn of some statements, now and then of many.
fn turn(awake: &Awake, rng: &mut Rng) {
    let statements = match rng.u8(..6) {
        0 => rng.u32(10..40),
        _ => rng.u32(1..6),
    };
    for _ in 0..statements {
        let (sql, parameters) = statement(rng);
        // It may not suit the tables that there are.
        let _ = awake.database.exec(&sql, &parameters);
    }
    if rng.u8(..4) == 0 {
        awake
            .object
            .lock()
            .put(&[b'k', rng.u8(..4)], &[rng.u8(..)])
            .unwrap();
    }
    if rng.u8(..12) == 0 {
        for table in 0..4 {
            awake.run(&format!("DROP TABLE IF EXISTS t{table}"));
        }
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let mut fs = SimFs::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    let shadows: Arc<Mutex<Vec<Shadow>>> = Arc::default();
    let hook = |fs: &SimFs, mut sampler: Rng| {
        let (held, crashed) = (shadows.clone(), dir.path().join("crashed"));
        fs.on_operation(move |image| {
            if sampler.u8(..100) == 0 {
                let disk = match sampler.bool() {
                    true => image.process_death(),
                    false => image.power_loss(),
                };
                let known = held.lock().clone();
                check(&open(&disk).0, &known, &mut sampler, &crashed, 2);
            }
        });
    };
    hook(&fs, rng.fork());
    let (mut engine, mut class) = open(&fs);
    let mut awake = wake(&engine, class, 1);
    for _ in 0..30 {
        if rng.u8(..10) == 0 {
            awake.database.vacuum().unwrap();
        } else {
            turn(&awake, &mut rng);
        }
        awake.commit();
        let mut object = awake.object.lock();
        if object.seq() > 0 {
            let bookmark = object.bookmark().unwrap();
            drop(object);
            let image = export(&awake.object, &file);
            shadows.lock().push((bookmark, image));
        } else {
            drop(object);
        }
        match rng.u8(..8) {
            0 => {
                let known = shadows.lock().clone();
                check(&engine, &known, &mut rng, &file, 4);
            }
            1 => drop(engine.compact().unwrap()),
            2 => {
                fs.clear_hook();
                drop(awake);
                drop(engine);
                fs = match rng.bool() {
                    true => fs.process_death(),
                    false => fs.power_loss(),
                };
                hook(&fs, rng.fork());
                (engine, class) = open(&fs);
                awake = wake(&engine, class, 1);
            }
            _ => engine.keep_up().unwrap(),
        }
    }
    fs.clear_hook();
    let known = shadows.lock().clone();
    check(&engine, &known, &mut rng, &file, 12);
    // Back to one of them.
    let Some((bookmark, image)) = known.get(rng.usize(..known.len().max(1))) else {
        return Ok(());
    };
    let Awake { database, object } = awake;
    drop(database);
    object
        .lock()
        .restore(bookmark, false)
        .map_err(|error| error.to_string())?;
    let database = Database::open(object.clone()).unwrap();
    database.commit().unwrap();
    is_whole(&database);
    assert!(
        export(&object, &file) == *image,
        "the image after the restore"
    );
    Ok(())
}

#[test]
fn the_image_of_every_commit_can_be_had_again() {
    for_each_seed(16, "-p dovehouse-sqlbridge-core --test history", run);
}

#[test]
fn a_database_of_the_past_reads_and_refuses_to_write() {
    let (engine, class) = open(&SimFs::new(1));
    let awake = wake(&engine, class, 1);
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.commit();
    let empty = awake.object.lock().bookmark().unwrap();
    awake.run("CREATE TABLE t(a)");
    awake.run("INSERT INTO t VALUES (1), (2)");
    awake.commit();
    let two = awake.object.lock().bookmark().unwrap();
    awake.run("DELETE FROM t");
    awake.commit();

    let databases = [empty, two].map(|bookmark| Database::open(past(&engine, &bookmark)).unwrap());
    let count = |database: &Database, of: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {of}");
        database
            .exec(&sql, ())
            .unwrap()
            .one()
            .unwrap()
            .get(0)
            .unwrap()
    };
    for (database, (tables, rows)) in databases.iter().zip([(0, None), (1, Some(2))]) {
        is_whole(database);
        assert_eq!(
            (count(database, "sqlite_schema"), count(database, "kv")),
            (tables, 1)
        );
        assert_eq!(rows.map(|_| count(database, "t")), rows);
        for sql in [
            "CREATE TABLE u(a)",
            "DELETE FROM kv",
            "INSERT INTO kv VALUES ('a', 'b')",
            "SELECT 1; CREATE TABLE u(a)",
        ] {
            let refused = database.exec(sql, ()).unwrap_err();
            assert!(
                matches!(refused, Error::Engine(EngineError::Past { .. })),
                "{sql}: {refused}"
            );
            assert!(refused.to_string().contains("can be read, not changed"));
        }
        assert!(matches!(
            database.vacuum(),
            Err(Error::Engine(EngineError::Past { .. }))
        ));
        // Reading inside a transaction is no writing, and a turn that only reads ends as any other.
        assert_eq!(
            database
                .transaction(|inner| Ok::<_, Error>(count(inner, "kv")))
                .unwrap(),
            1
        );
        assert!(database.commit().unwrap().is_none());
    }
    assert_eq!(count(&awake.database, "t"), 0);
}

#[test]
fn a_diff_names_keys_alarms_schema_and_rows() {
    let (engine, class) = open(&SimFs::new(1));
    let awake = wake(&engine, class, 1);
    for (key, value) in [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")] {
        awake.object.lock().put(key, value).unwrap();
    }
    for sql in [
        "CREATE TABLE plain(a, b)",
        "CREATE TABLE named(name TEXT COLLATE NOCASE PRIMARY KEY, a) WITHOUT ROWID",
        "CREATE TABLE pairs(a, b, c, PRIMARY KEY(b, a))",
        "CREATE TABLE wide(id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE gone(a)",
        "CREATE TABLE same(a)",
        "CREATE TABLE \"odd \"\" name\"(rowid, _rowid_, oid)",
        "INSERT INTO plain VALUES (1, 'x'), (2, 'y'), (3, NULL)",
        "INSERT INTO named VALUES ('b', 1), ('A', 1), ('C', 1), ('\u{e9}', x'00ff')",
        "INSERT INTO pairs VALUES (1, 'x', 0), (2, 'x', 0), (1.5, 'x', 0), ('t', NULL, 0)",
        "INSERT INTO wide VALUES (1, 1), (2, 2)",
        "INSERT INTO gone VALUES (1)",
        "INSERT INTO same VALUES (1)",
        "INSERT INTO \"odd \"\" name\" VALUES (1, 2, 3)",
    ] {
        awake.run(sql);
    }
    let alarm = |name: &str, due_ms, schedule: &str| Alarm {
        name: name.into(),
        due_ms,
        schedule: schedule.into(),
        ..Alarm::default()
    };
    for name in ["same", "", "gone", "scheduled"] {
        awake.object.lock().set_alarm(alarm(name, 1, ""));
    }
    awake.commit();
    let before = awake.object.lock().bookmark().unwrap();
    awake.object.lock().set_alarm(alarm("", 2, ""));
    awake.object.lock().clear_alarm("gone");
    awake.object.lock().set_alarm(alarm("new", 1, ""));
    awake
        .object
        .lock()
        .set_alarm(alarm("scheduled", 1, "UTC * * * * *"));
    awake.object.lock().put(b"b", b"2").unwrap();
    awake.object.lock().delete(b"c").unwrap();
    awake.object.lock().put(b"d", b"2").unwrap();
    for sql in [
        "UPDATE plain SET b = 'z' WHERE a = 2",
        "DELETE FROM plain WHERE a = 1",
        "INSERT INTO plain VALUES (4, 4), (5, 5)",
        "REPLACE INTO named VALUES ('a', 2)",
        "DELETE FROM named WHERE name = 'b'",
        "DELETE FROM pairs WHERE a = 1.5",
        "INSERT INTO pairs VALUES (1, 'w', 1)",
        "ALTER TABLE wide ADD COLUMN b DEFAULT 7",
        "UPDATE wide SET a = 3 WHERE id = 2",
        "DROP TABLE gone",
        "CREATE INDEX i ON plain(a)",
        "UPDATE \"odd \"\" name\" SET oid = 4",
    ] {
        awake.run(sql);
    }
    awake.commit();
    let after = awake.object.lock().bookmark().unwrap();

    let diff = |one: &Bookmark, other: &Bookmark, limit| {
        Diff::between(&past(&engine, one), &past(&engine, other), limit).unwrap()
    };
    assert!(diff(&after, &after, 10).is_empty());
    let found = diff(&before, &after, 1);
    let numbers = |counts: &Counts| [counts.added, counts.removed, counts.changed];
    assert_eq!(numbers(&found.keys.counts), [1, 1, 1]);
    assert_eq!(found.keys.listed.len(), 1);
    assert_eq!(found.keys.listed[0].key, b"b");
    let alarms = |diff: &Diff| -> Vec<(String, Option<u64>, Option<u64>)> {
        let due = |state: &Option<AlarmState>| state.as_ref().map(|state| state.due_ms);
        let change =
            |change: &AlarmChange| (change.name.clone(), due(&change.before), due(&change.after));
        diff.alarms.iter().map(change).collect()
    };
    assert_eq!(
        alarms(&found),
        [
            (String::new(), Some(1), Some(2)),
            ("gone".into(), Some(1), None),
            ("new".into(), None, Some(1)),
            ("scheduled".into(), Some(1), Some(1)),
        ]
    );
    let scheduled = found.alarms[3].after.as_ref().unwrap();
    assert_eq!(scheduled.schedule, "UTC * * * * *");
    let schema = |diff: &Diff| -> Vec<(String, bool, bool)> {
        let change = |change: &dovehouse_sqlbridge::SchemaChange| {
            (
                change.name.clone(),
                change.before.is_some(),
                change.after.is_some(),
            )
        };
        diff.schema.iter().map(change).collect()
    };
    assert_eq!(
        schema(&found),
        [
            ("i".to_owned(), false, true),
            ("gone".to_owned(), true, false),
            ("wide".to_owned(), true, true)
        ]
    );
    let tables = |diff: &Diff| -> Vec<(String, [u64; 3])> {
        let tables = diff.tables.iter();
        tables
            .map(|table| (table.name.clone(), numbers(&table.counts)))
            .collect()
    };
    let named = |list: &[(&str, [u64; 3])]| -> Vec<(String, [u64; 3])> {
        list.iter()
            .map(|(name, counts)| ((*name).to_owned(), *counts))
            .collect()
    };
    assert_eq!(
        tables(&found),
        named(&[
            ("gone", [0, 1, 0]),
            // 'A' was replaced by 'a'.
            ("named", [1, 2, 0]),
            ("odd \" name", [1, 1, 0]),
            ("pairs", [1, 1, 0]),
            ("plain", [2, 1, 1]),
            ("wide", [0, 0, 1]),
        ])
    );
    let plain = &found.tables[4];
    assert_eq!(
        (plain.key.join(","), plain.listed.len()),
        ("rowid".to_owned(), 1)
    );
    assert_eq!(
        plain.listed[0].before,
        Some(vec![Value::from(1), "x".into()])
    );
    let all = diff(&before, &after, 100);
    assert!(
        all.tables
            .iter()
            .all(|table| table.listed.len() as u64 == table.counts.total())
    );
    // The other way round it is the opposite.
    let back = diff(&after, &before, 100);
    for (one, other) in all.tables.iter().zip(&back.tables) {
        let [added, removed, changed] = numbers(&one.counts);
        assert_eq!(
            numbers(&other.counts),
            [removed, added, changed],
            "{}",
            one.name
        );
    }
}
