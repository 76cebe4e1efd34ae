//! A store as tables: what they show is there, damage is named, and no application sees them.

use std::sync::Arc;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Alarm, Engine};
use dovehouse_sqlbridge::{Connection, Row, Value};

mod common;

use common::{id, open, wake};

const TABLES: [&str; 6] = [
    "objects",
    "segments",
    "history",
    "alarms",
    "dictionaries",
    "damage",
];

fn query(store: &Connection, sql: &str) -> Vec<Row> {
    let rows = store.exec(sql, ()).and_then(|cursor| cursor.to_vec());
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn number(store: &Connection, sql: &str) -> i64 {
    query(store, sql)[0].get(0).unwrap()
}

/// Three objects of a class, one of them with alarms, and one that was erased.
fn fill(engine: &Engine) {
    let class = engine.class_of("tenant", "Test").unwrap();
    for number in 1..=3 {
        let mut object = engine.wake(class, id(number)).unwrap();
        object.set_name(&format!("object {number}"));
        object.put(b"key", &[number; 100]).unwrap();
        object.commit().unwrap().unwrap().wait().unwrap();
        object.put(b"other", b"value").unwrap();
        if number == 2 {
            for (name, due_ms) in [("", 9_000), ("second", 5_000)] {
                object.set_alarm(Alarm {
                    name: name.into(),
                    due_ms: 1_700_000_000_000 + due_ms,
                    ..Alarm::default()
                });
            }
        }
        if number == 3 {
            object.clear(false);
        }
        object.commit().unwrap().unwrap().wait().unwrap();
        std::mem::forget(object); // Its deltas stay: sleeping would write it whole.
    }
}

#[test]
fn objects_history_and_alarms_are_those_of_the_store_as_it_is_now() {
    let fs = SimFs::new(1);
    let (engine, _) = open(&fs).unwrap();
    fill(&engine);
    let engine = Arc::new(engine);
    let store = Connection::open_store(engine.clone()).unwrap();

    let rows = query(
        &store,
        "SELECT id, tenant, class, name, seq, depth, erased FROM objects ORDER BY slot",
    );
    assert_eq!(rows.len(), 3);
    let second: Vec<Value> = rows[1].values().to_vec();
    let expected = [
        id(2).to_string().into(),
        "tenant".into(),
        "Test".into(),
        "object 2".into(),
        2.into(),
        1.into(),
        0.into(),
    ];
    assert_eq!(second, expected);
    assert_eq!(number(&store, "SELECT sum(erased) FROM objects"), 1);

    // By id, by slot, by a slot that is a text, and by one that is nobody's.
    for (condition, count) in [
        (format!("id = '{}'", id(2)), 1),
        (format!("id = '{}'", id(9)), 0),
        ("slot = 2".into(), 1),
        ("slot = '2'".into(), 1),
        ("slot IN (0, 1, 2, -1, 99)".into(), 2),
    ] {
        let sql = format!("SELECT count(*) FROM objects WHERE {condition}");
        assert_eq!(number(&store, &sql), count, "{sql}");
    }

    let sql = "SELECT group_concat(kind, ' ' ORDER BY h.seq) AS kinds FROM history h JOIN objects o USING (slot)
        GROUP BY o.id ORDER BY o.slot";
    let kinds: Vec<String> = query(&store, sql)
        .iter()
        .map(|row| row.get(0).unwrap())
        .collect();
    assert_eq!(kinds, ["image delta", "image delta", "image erase"]);
    let newest = "SELECT count(*) FROM objects o JOIN history h USING (segno, offset, slot) WHERE o.seq = h.seq";
    assert_eq!(
        number(&store, newest),
        3,
        "every newest record is where the index says"
    );

    let alarms = query(
        &store,
        "SELECT name, due_ms, id FROM alarms ORDER BY due_ms",
    );
    let names: Vec<String> = alarms.iter().map(|row| row.get("name").unwrap()).collect();
    assert_eq!(
        names,
        ["second", ""],
        "the image has none yet, its delta does"
    );
    assert_eq!(alarms[0].get::<String>("id").unwrap(), id(2).to_string());

    let used = number(
        &store,
        "SELECT sum(used_bytes) FROM segments WHERE role = 'log'",
    );
    assert!(used > 0);
    assert_eq!(number(&store, "SELECT count(*) FROM damage"), 0);
    assert!(number(&store, "SELECT count(*) FROM dictionaries") <= 1);

    // What happens later is there with the next statement.
    let class = engine.class("Other").unwrap();
    let mut object = engine.wake(class, id(7)).unwrap();
    object.put(b"a", b"b").unwrap();
    object.commit().unwrap().unwrap().wait().unwrap();
    assert_eq!(
        number(
            &store,
            "SELECT count(*) FROM objects WHERE class = 'Other' AND tenant = ''"
        ),
        1
    );
}

#[test]
fn a_damaged_object_is_missing_from_its_table_and_named_as_damage() {
    let fs = SimFs::new(2);
    let (engine, _) = open(&fs).unwrap();
    fill(&engine);
    engine.checkpoint().unwrap();
    let info = engine.objects().nth(1).unwrap().unwrap();
    let segment = engine
        .log()
        .segments()
        .into_iter()
        .find(|segment| segment.segno == info.entry.head.segno());
    let path = segment.unwrap().path.clone();
    fs.rot(&path, u64::from(info.entry.head.offset() + 40), |byte| {
        *byte ^= 1
    });
    let store = Connection::open_store(Arc::new(engine)).unwrap();
    assert_eq!(number(&store, "SELECT count(*) FROM objects"), 2);
    let parts = query(&store, "SELECT DISTINCT part FROM damage ORDER BY part");
    let parts: Vec<String> = parts.iter().map(|row| row.get(0).unwrap()).collect();
    assert_eq!(parts, ["alarms", "log", "objects"]);
    assert_eq!(
        number(&store, "SELECT count(*) FROM history WHERE slot = 1"),
        2,
        "the rest can be read"
    );
}

#[test]
fn an_object_knows_none_of_the_stores_tables_and_the_store_no_keys() {
    let fs = SimFs::new(3);
    let (engine, class) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    for table in TABLES {
        let error = awake
            .database
            .exec(&format!("SELECT * FROM {table}"), ())
            .unwrap_err();
        assert!(error.to_string().contains("no such table"), "{error}");
    }
    awake.run("CREATE TABLE objects(a)");
    awake.run("INSERT INTO objects VALUES (1)");
    assert_eq!(
        awake.number("SELECT count(*) FROM objects"),
        1,
        "the name is free"
    );
    awake.commit();
    drop(awake);
    let store = Connection::open_store(Arc::new(engine)).unwrap();
    assert!(store.exec("SELECT * FROM kv", ()).is_err());
    for table in TABLES {
        query(&store, &format!("SELECT * FROM {table}"));
        let error = store.exec(&format!("DELETE FROM {table}"), ()).unwrap_err();
        assert!(error.to_string().contains("may not be modified"), "{error}");
    }
}
