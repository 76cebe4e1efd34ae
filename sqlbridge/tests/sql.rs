//! What an application does with SQL: cursors, parameters, migrations, inner transactions.

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Alarm, PAGE_BYTES};
use dovehouse_sqlbridge::{Error, Value};

mod common;

use common::{Awake, open, wake};

fn awake(seed: u64) -> (dovehouse_engine::Engine, Awake) {
    let fs = SimFs::new(seed);
    let (engine, class) = open(&fs).unwrap();
    let awake = wake(&engine, class, 1);
    awake.run("CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    awake.run("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')");
    awake.commit();
    (engine, awake)
}

#[test]
fn a_cursor_gives_rows_as_they_are_asked_for() {
    let (_engine, awake) = awake(1);
    let database = &awake.database;
    let mut cursor = database.exec("SELECT id, a FROM t", ()).unwrap();
    assert_eq!(cursor.column_names(), ["id", "a"]);
    assert_eq!(cursor.next().unwrap().unwrap().get::<i64>(0).unwrap(), 1);
    let rest: Vec<(i64, String)> = cursor.deserialize().unwrap();
    assert_eq!(rest, [(2, "two".into()), (3, "three".into())]);
    let raw: Vec<Vec<Value>> = database
        .exec("SELECT a, a FROM t WHERE id = ?", (2,))
        .unwrap()
        .raw()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(raw, [["two".into(), "two".into()]]);
    for (sql, found) in [("SELECT * FROM t", "several"), ("SELECT 1 WHERE 0", "none")] {
        let error = database.exec(sql, ()).unwrap().one().unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
    }
}

#[test]
fn cursors_of_one_text_do_not_disturb_each_other_nor_the_commit() {
    let (_engine, awake) = awake(2);
    let database = &awake.database;
    let select = "SELECT id FROM t";
    let mut first = database.exec(select, ()).unwrap();
    let mut second = database.exec(select, ()).unwrap();
    assert_eq!(first.next().unwrap().unwrap().get::<i64>(0).unwrap(), 1);
    assert_eq!(second.next().unwrap().unwrap().get::<i64>(0).unwrap(), 1);
    awake.run("UPDATE t SET a = 'changed' WHERE id = 3");
    awake.commit();
    assert_eq!(first.to_vec().unwrap().len(), 2);
    let mut returning = database
        .exec("INSERT INTO t(a) VALUES ('x'), ('y') RETURNING id", ())
        .unwrap();
    assert_eq!(returning.next().unwrap().unwrap().get::<i64>(0).unwrap(), 4);
    awake.commit();
    assert_eq!(returning.to_vec().unwrap().len(), 1);
    drop(second);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 5);
}

#[test]
fn a_cursor_of_a_turn_that_was_undone_ends_with_an_error() {
    let (_engine, awake) = awake(3);
    let database = &awake.database;
    awake.run("INSERT INTO t(a) VALUES ('four')");
    let mut cursor = database.exec("SELECT id FROM t", ()).unwrap();
    database.rollback();
    let error = cursor.next().unwrap_err();
    assert!(matches!(error, Error::Canceled), "{error:?}");
    assert_eq!(awake.number("SELECT count(*) FROM t"), 3);

    let mut outside = database.exec("SELECT id FROM t", ()).unwrap();
    let inner: Result<_, Error> = database.transaction(|database| {
        let mut inside = database.exec("SELECT id FROM t", ()).unwrap();
        let undone: Result<(), Error> = database.transaction(|_| Err(Error::NoDatabase));
        undone.unwrap_err();
        assert_eq!(inside.next().unwrap().unwrap().get::<i64>(0).unwrap(), 1);
        Err::<(), _>(Error::NoDatabase)
    });
    inner.unwrap_err();
    assert_eq!(outside.next().unwrap().unwrap().get::<i64>(0).unwrap(), 1);
    assert_eq!(outside.to_vec().unwrap().len(), 2);
}

#[test]
fn wrong_parameters_are_counted_and_those_of_an_earlier_statement_refused() {
    let (_engine, awake) = awake(4);
    let database = &awake.database;
    let error = database.exec("SELECT ?, ?", (1,)).unwrap_err();
    let Error::Parameters { expected, given } = error else {
        panic!("{error:?}");
    };
    assert_eq!((expected, given), (2, 1));
    let error = database.exec("SELECT ?; SELECT ?", (1,)).unwrap_err();
    assert!(error.to_string().contains("only the last"), "{error}");
    let row = database
        .exec("SELECT ?2, ?1, :x", ("a", 2.5, Option::<i64>::None))
        .unwrap()
        .one()
        .unwrap();
    assert_eq!(row.values(), [2.5.into(), "a".into(), Value::Null]);
}

#[test]
fn migrations_are_applied_once_all_or_none_and_a_newer_schema_is_refused() {
    let (_engine, awake) = awake(5);
    let database = &awake.database;
    let steps = [
        "CREATE TABLE bird(name); CREATE INDEX birds ON bird(name)",
        "ALTER TABLE bird ADD COLUMN ring",
    ];
    assert_eq!(database.migrate(&steps[..1]).unwrap(), 1);
    let broken = [steps[0], steps[1], "CREATE TABLE bird(again)"];
    database.migrate(&broken).unwrap_err();
    let columns = "SELECT count(*) FROM pragma_table_info('bird')";
    assert_eq!(awake.number(columns), 1, "a failed migration leaves none");
    assert_eq!(database.migrate(&steps).unwrap(), 1);
    assert_eq!(database.migrate(&steps).unwrap(), 0);
    awake.commit();
    assert_eq!(awake.number(columns), 2);
    let error = database.migrate(&steps[..1]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NewerSchema {
                applied: 2,
                known: 1
            }
        ),
        "{error:?}"
    );
}

#[test]
fn inner_transactions_nest_and_take_tables_keys_and_alarm_back() {
    let (_engine, awake) = awake(6);
    let database = &awake.database;
    let object = &awake.object;
    let alarm = |due_ms| Alarm {
        due_ms,
        ..Alarm::default()
    };
    let outer: Result<(), Error> = database.transaction(|database| {
        awake.run("INSERT INTO t(a) VALUES ('outer')");
        object.lock().put(b"key", b"outer").unwrap();
        object.lock().set_alarm(alarm(1_700_000_000_001));
        let inner: Result<(), Error> = database.transaction(|_| {
            awake.run("INSERT INTO t(a) VALUES ('inner')");
            object.lock().put(b"key", b"inner").unwrap();
            object.lock().set_alarm(alarm(1_700_000_000_002));
            Err(Error::NoDatabase)
        });
        inner.unwrap_err();
        Ok(())
    });
    outer.unwrap();
    awake.commit();
    assert_eq!(awake.number("SELECT count(*) FROM t"), 4);
    let object = object.lock();
    assert_eq!(object.get(b"key").unwrap().as_deref(), Some(&b"outer"[..]));
    assert_eq!(object.alarms()[0].due_ms, 1_700_000_000_001);
}

/// `OR ROLLBACK` makes SQLite give up the whole turn, as an interrupted write does.
#[test]
fn an_inner_transaction_whose_turn_was_undone_does_not_end_as_one_of_the_next() {
    let (_engine, awake) = awake(8);
    let database = &awake.database;
    let fail = || database.exec("INSERT OR ROLLBACK INTO t VALUES (1, 'again')", ());
    let outer: Result<(), Error> = database.transaction(|_| {
        fail().unwrap_err();
        awake.run("INSERT INTO t(a) VALUES ('of another turn')");
        Ok(())
    });
    assert!(matches!(outer, Err(Error::TurnUndone)), "{outer:?}");
    let own: Result<(), Error> = database.transaction(|_| {
        fail().unwrap_err();
        awake.run("INSERT INTO t(a) VALUES ('of another turn')");
        Err(Error::NoDatabase)
    });
    assert!(matches!(own, Err(Error::NoDatabase)), "{own:?}");
    awake.commit();
    assert_eq!(awake.number("SELECT count(*) FROM t"), 3);
}

#[test]
fn optimizing_does_not_end_the_turn() {
    let (_engine, awake) = awake(9);
    awake.run("CREATE INDEX by_a ON t(a)");
    awake.commit();
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.run("PRAGMA optimize = 0x10002");
    awake.database.rollback();
    assert_eq!(awake.object.lock().get(b"key").unwrap(), None);
    assert_eq!(
        awake.number("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'"),
        0
    );
}

#[test]
fn vacuum_gives_pages_back_in_a_turn_of_its_own() {
    let (engine, awake) = awake(7);
    awake.run("CREATE TABLE big(a BLOB)");
    awake
        .database
        .exec(
            "INSERT INTO big VALUES (zeroblob(?))",
            (40 * PAGE_BYTES as i64,),
        )
        .unwrap();
    awake.run("DELETE FROM big");
    let refused = awake.database.vacuum().unwrap_err();
    assert!(refused.to_string().contains("turn of its own"), "{refused}");
    awake.commit();
    let (pages, size) = (
        awake.object.lock().page_count(),
        awake.database.size().unwrap(),
    );
    awake.object.lock().put(b"beside", b"1").unwrap();
    let refused = awake.database.vacuum().unwrap_err();
    assert!(refused.to_string().contains("turn of its own"), "{refused}");
    awake.commit();
    awake.database.vacuum().unwrap();
    awake.commit();
    assert!(awake.object.lock().page_count() < pages - 30);
    assert!(awake.database.size().unwrap() <= size);
    awake.assert_whole();
    assert_eq!(awake.number("SELECT count(*) FROM t"), 3);
    drop(awake);
    let class = engine.class("Test").unwrap();
    let awake = wake(&engine, class, 1);
    assert_eq!(awake.number("SELECT count(*) FROM t"), 3);
    assert!(awake.object.lock().get(b"beside").unwrap().is_some());
    awake.assert_whole();
}
