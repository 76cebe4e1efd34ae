//! Plain connections that open objects by their names, through the VFS for any SQLite: what a file of the
//! operating system would do, on real disks.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dovehouse_engine::{Engine, Minter};
use dovehouse_sqlbridge::faults::{self, Fault};
use dovehouse_sqlbridge::{Connection, Error, loadable};

const BUSY: i32 = 5;

/// A store for all tests of this run: each has objects of its own.
fn store() -> &'static Path {
    static STORE: OnceLock<PathBuf> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = new_store("host-store");
        // It stays open, since opening it for each test would take longer than the tests.
        std::mem::forget(connect_to(&store, "Keep/open"));
        store
    })
}

fn new_store(name: &str) -> PathBuf {
    loadable::register().unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _none = std::fs::remove_dir_all(&dir);
    dir
}

fn uri(store: &Path, name: &str) -> PathBuf {
    format!("file:{name}?vfs=dovehouse&store={}", store.display()).into()
}

fn connect_to(store: &Path, name: &str) -> Connection {
    Connection::open_file(&uri(store, name)).unwrap()
}

fn connect(name: &str) -> Connection {
    connect_to(store(), name)
}

fn run(connection: &Connection, sql: &str) {
    try_run(connection, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn try_run(connection: &Connection, sql: &str) -> Result<(), Error> {
    connection.exec(sql, &[]).map(drop)
}

fn number(connection: &Connection, sql: &str) -> i64 {
    let rows = connection.exec(sql, &[]);
    let row = rows.unwrap_or_else(|error| panic!("{sql}: {error}")).one();
    row.unwrap().get(0).unwrap()
}

fn text(connection: &Connection, sql: &str) -> String {
    let rows = connection.exec(sql, &[]).unwrap();
    rows.one().unwrap().get(0).unwrap()
}

#[track_caller]
fn assert_refused(outcome: Result<(), Error>, expected: i32) {
    match outcome {
        Err(Error::Sqlite { code, .. }) if code & 0xff == expected => {}
        other => panic!("expected code {expected}, got {other:?}"),
    }
}

#[track_caller]
fn assert_whole(connection: &Connection) {
    assert_eq!(connection.integrity_check().unwrap(), Vec::<String>::new());
}

#[test]
fn writers_and_readers_of_one_object_exclude_each_other_as_with_a_file() {
    let (one, two) = (connect("Room/locks"), connect("Room/locks"));
    run(&one, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    assert_eq!(number(&two, "SELECT sum(a) FROM t"), 1);
    // A transaction that is not committed is not seen; a second one cannot begin to write.
    run(&one, "BEGIN IMMEDIATE; INSERT INTO t VALUES (2)");
    assert_eq!(number(&two, "SELECT sum(a) FROM t"), 1);
    assert_refused(try_run(&two, "INSERT INTO t VALUES (3)"), BUSY);
    run(&one, "COMMIT");
    // The second one's cache is out of date, and it notices.
    assert_eq!(number(&two, "SELECT sum(a) FROM t"), 3);
    // A reader holds up the commit, and the waiting commit new readers.
    run(&two, "BEGIN");
    assert_eq!(number(&two, "SELECT sum(a) FROM t"), 3);
    run(&one, "BEGIN; INSERT INTO t VALUES (4)");
    assert_refused(try_run(&one, "COMMIT"), BUSY);
    let three = connect("Room/locks");
    assert_refused(try_run(&three, "SELECT * FROM t"), BUSY);
    assert_eq!(number(&two, "SELECT sum(a) FROM t"), 3);
    run(&two, "COMMIT");
    run(&one, "COMMIT");
    assert_eq!(number(&three, "SELECT sum(a) FROM t"), 7);
    // An exclusive connection keeps everybody out until it lets go.
    run(
        &two,
        "PRAGMA locking_mode = EXCLUSIVE; INSERT INTO t VALUES (5)",
    );
    assert_refused(try_run(&one, "SELECT * FROM t"), BUSY);
    run(&two, "PRAGMA locking_mode = NORMAL; SELECT * FROM t");
    assert_eq!(number(&one, "SELECT sum(a) FROM t"), 12);
    // And a connection that goes away in the midst of a transaction leaves nothing.
    run(&one, "BEGIN; UPDATE t SET a = 0");
    drop(one);
    assert_eq!(number(&two, "SELECT sum(a) FROM t"), 12);
    assert_whole(&two);
}

#[test]
fn every_journal_mode_commits_rolls_back_and_spills() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        for locking in ["NORMAL", "EXCLUSIVE"] {
            let name = format!("Room/{mode} {locking}").replace(' ', "%20");
            let connection = connect(&name);
            let set = format!("PRAGMA locking_mode = {locking}; PRAGMA journal_mode = {mode}");
            assert_eq!(text(&connection, &set), mode.to_lowercase());
            run(
                &connection,
                "PRAGMA cache_size = 5; CREATE TABLE t(id INTEGER PRIMARY KEY, a)",
            );
            let fill =
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
                INSERT INTO t(a) SELECT randomblob(1000) FROM n";
            run(&connection, fill);
            run(&connection, "BEGIN; UPDATE t SET a = randomblob(1100)");
            run(&connection, "SAVEPOINT s; DELETE FROM t WHERE id > 30");
            if mode != "OFF" {
                run(&connection, "ROLLBACK TO s; RELEASE s; COMMIT");
                run(&connection, "BEGIN; DELETE FROM t; CREATE TABLE u(x)");
                run(&connection, "ROLLBACK");
                assert_eq!(number(&connection, "SELECT count(*) FROM t"), 60);
                run(&connection, "DELETE FROM t WHERE id > 30");
            } else {
                run(&connection, "COMMIT");
            }
            run(&connection, "VACUUM");
            assert_whole(&connection);
            drop(connection);
            let connection = connect(&name);
            let sql = "SELECT count(*) * 10000 + sum(length(a)) FROM t";
            assert_eq!(number(&connection, sql), 30 * 11_100, "{name}");
            assert_eq!(text(&connection, "PRAGMA journal_mode"), "delete");
            assert_whole(&connection);
        }
    }
}

#[test]
fn a_wal_is_refused_and_a_database_from_one_comes_in_without() {
    let connection = connect("Room/wal");
    run(&connection, "CREATE TABLE t(a)");
    assert_eq!(text(&connection, "PRAGMA journal_mode = WAL"), "delete");
    run(&connection, "PRAGMA locking_mode = EXCLUSIVE");
    let refused = try_run(&connection, "PRAGMA journal_mode = WAL").unwrap_err();
    assert!(refused.to_string().contains("no WAL"), "{refused}");
    run(&connection, "INSERT INTO t VALUES (1)");
    drop(connection);
    let connection = connect("Room/wal");
    assert_eq!(number(&connection, "SELECT a FROM t"), 1);
    assert_whole(&connection);
}

#[test]
fn a_name_opens_the_object_that_the_runtime_gives_that_name() {
    let store = new_store("host-names");
    drop(connect_to(&store, "Room/nothing written"));
    let connection = connect_to(&store, "Room/some/lobby%3F%20%C3%A9");
    run(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (5)");
    // The store is in use.
    assert!(Engine::open(&store).is_err());
    drop(connection);
    let engine = Engine::open(&store).unwrap();
    let class = engine.class("Room").unwrap();
    let id = Minter::new("Room").named("some/lobby? é");
    let object = engine.wake(class, id).unwrap();
    assert_eq!(
        (object.page_count(), object.name()),
        (2, Some("some/lobby? é"))
    );
    assert_eq!(engine.objects().count(), 1);
    // And the other way round.
    assert!(Connection::open_file(&uri(&store, "Room/other")).is_err());
    drop(object);
    drop(engine);
    // An object that is only to be read must be there.
    for (name, there) in [
        ("Room/absent", false),
        ("None/absent", false),
        ("Room/some/lobby%3F%20%C3%A9", true),
    ] {
        for mode in ["ro", "rw"] {
            let mut uri = uri(&store, name).into_os_string();
            uri.push(format!("&mode={mode}"));
            let opened = Connection::open_file(Path::new(&uri));
            assert_eq!(opened.is_ok(), there, "{name} {mode}");
            let Ok(connection) = opened else { continue };
            assert_eq!(number(&connection, "SELECT a FROM t"), 5);
            let written = try_run(&connection, "UPDATE t SET a = 5");
            assert_eq!(written.is_ok(), mode == "rw");
        }
    }
    for name in ["Room", "/", &format!("Room/{}", "x".repeat(600))] {
        assert!(Connection::open_file(&uri(&store, name)).is_err(), "{name}");
    }
    let no_store = Path::new("file:Room/lobby?vfs=dovehouse");
    assert!(Connection::open_file(no_store).is_err());
    std::fs::remove_dir_all(&store).unwrap();
}

#[test]
fn objects_of_one_name_in_two_stores_are_two_and_a_transaction_may_write_both() {
    let other = new_store("host-other");
    let connection = connect("Room/twin");
    run(&connection, "CREATE TABLE t(a)");
    let attach = format!("ATTACH '{}' AS other", uri(&other, "Room/twin").display());
    run(&connection, &attach);
    run(&connection, "CREATE TABLE other.t(a)");
    run(
        &connection,
        "BEGIN; INSERT INTO t VALUES (1); INSERT INTO other.t VALUES (2); COMMIT",
    );
    run(
        &connection,
        "BEGIN; UPDATE t SET a = 8; UPDATE other.t SET a = 9; ROLLBACK",
    );
    // Somebody reads the second one: the commit of both has to wait, and then is given up.
    let reader = connect_to(&other, "Room/twin");
    run(&reader, "BEGIN; SELECT * FROM t");
    run(
        &connection,
        "BEGIN; UPDATE t SET a = 8; UPDATE other.t SET a = 9",
    );
    assert_refused(try_run(&connection, "COMMIT"), BUSY);
    run(&connection, "ROLLBACK");
    run(&reader, "COMMIT");
    let both = "SELECT (SELECT a FROM t) * 10 + (SELECT a FROM other.t)";
    assert_eq!(number(&connection, both), 12);
    run(
        &connection,
        "BEGIN; UPDATE t SET a = 3; UPDATE other.t SET a = 4; COMMIT",
    );
    drop(connection);
    assert_eq!(number(&connect("Room/twin"), "SELECT a FROM t"), 3);
    assert_eq!(number(&reader, "SELECT a FROM t"), 4);
    drop(reader);
    std::fs::remove_dir_all(&other).unwrap();
}

#[test]
fn a_plain_file_may_be_attached_but_not_written_in_one_transaction_with_an_object_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plain.sqlite");
    let connection = connect("Room/attached");
    run(&connection, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    run(
        &connection,
        &format!("ATTACH 'file:{}?vfs=unix' AS plain", file.display()),
    );
    run(&connection, "CREATE TABLE plain.t AS SELECT * FROM t");
    run(
        &connection,
        "BEGIN; UPDATE t SET a = 2; UPDATE plain.t SET a = 2",
    );
    // The file would not find the super-journal after a crash.
    assert_refused(try_run(&connection, "COMMIT"), 10);
    let _may_have_ended = try_run(&connection, "ROLLBACK");
    let both = "SELECT (SELECT a FROM t) * 10 + (SELECT a FROM plain.t)";
    assert_eq!(number(&connection, both), 11);
    drop(connection);
    // With the file first, the super-journal is a file too.
    let connection = Connection::open_file(&file).unwrap();
    run(
        &connection,
        &format!(
            "ATTACH '{}' AS object",
            uri(store(), "Room/attached").display()
        ),
    );
    run(
        &connection,
        "BEGIN; UPDATE t SET a = 3; UPDATE object.t SET a = 3; COMMIT",
    );
    let both = "SELECT (SELECT a FROM t) * 10 + (SELECT a FROM object.t)";
    assert_eq!(number(&connection, both), 33);
}

#[test]
fn a_database_is_copied_into_an_object_and_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.sqlite");
    let connection = connect("Room/copied");
    run(
        &connection,
        "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(9000)), (7)",
    );
    run(
        &connection,
        &format!("VACUUM INTO '{}'", uri(store(), "Room/copy").display()),
    );
    run(
        &connection,
        &format!("VACUUM INTO 'file:{}?vfs=unix'", file.display()),
    );
    for copy in [connect("Room/copy"), Connection::open_file(&file).unwrap()] {
        assert_eq!(number(&copy, "SELECT count(*) FROM t"), 2);
        assert_whole(&copy);
    }
    // Settings of the first moment are the program's, as nothing is there yet.
    let small = connect("Room/small%20pages");
    run(
        &small,
        "PRAGMA page_size = 1024; PRAGMA auto_vacuum = FULL; PRAGMA encoding = 'UTF-16'",
    );
    run(&small, "CREATE TABLE t(a)");
    for _ in 0..3 {
        run(
            &small,
            "INSERT INTO t VALUES (randomblob(3000)), (randomblob(500))",
        );
        run(&small, "DELETE FROM t WHERE rowid % 3 = 0");
        assert_whole(&small);
    }
    drop(small);
    let small = connect("Room/small%20pages");
    let settings =
        ["page_size", "auto_vacuum"].map(|name| number(&small, &format!("PRAGMA {name}")));
    assert_eq!(settings, [1024, 1]);
    assert_eq!(number(&small, "SELECT count(*) FROM t"), 4);
    assert_whole(&small);
}

/// With the default stride some calls, all with `DOVEHOUSE_FAULTS`.
#[test]
fn a_fault_at_any_call_of_a_connection_leaves_the_old_state_or_the_new_one() {
    let stride = if std::env::var_os("DOVEHOUSE_FAULTS").is_some() {
        1
    } else {
        101
    };
    let setups = [
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode = PERSIST",
        "PRAGMA journal_mode = TRUNCATE; PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA journal_mode = MEMORY",
    ];
    let transactions = [
        "BEGIN; UPDATE t SET s = 2; INSERT INTO t SELECT randomblob(900), 2 FROM t; COMMIT",
        "BEGIN; UPDATE t SET s = 2; SAVEPOINT x; DELETE FROM t; INSERT INTO t VALUES (zeroblob(50000), 3);
            ROLLBACK TO x; CREATE TABLE u(x); COMMIT",
    ];
    let faults = [10, 13, 7, BUSY, 9]
        .map(Fault::Code)
        .into_iter()
        .chain([Fault::Panic]);
    let faults: Vec<_> = faults.collect();
    let watcher = connect("Fault/watcher");
    let attempt = |name: &str, setup: &str, transaction: &str, fault: Option<(u64, Fault)>| {
        let connection = connect(name);
        run(
            &connection,
            "BEGIN; CREATE TABLE IF NOT EXISTS t(a, s); DELETE FROM t; DROP TABLE IF EXISTS u",
        );
        run(
            &connection,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
            INSERT INTO t SELECT randomblob(1000), 1 FROM n; COMMIT",
        );
        run(&connection, &format!("PRAGMA cache_size = 5; {setup}"));
        run(&connection, "SELECT * FROM t");
        faults::arm(fault);
        let done = try_run(&connection, transaction);
        let calls = faults::calls();
        faults::arm(None);
        let _may_have_ended = try_run(&connection, "ROLLBACK");
        let what = format!("{setup}, {transaction}, {fault:?}: {done:?}");
        if !setup.contains("EXCLUSIVE") {
            // Somebody else commits before this connection looks again, and is reading when it does. What its
            // journal may still hold of the failed transaction must not come back, nor ask for a lock.
            let other = connect(name);
            run(&other, "UPDATE t SET a = 'other' WHERE rowid = 1; BEGIN");
            number(&other, "SELECT count(*) FROM t");
            let seen = text(&connection, "SELECT a FROM t WHERE rowid = 1");
            assert_eq!(seen, "other", "{what}");
        }
        let state = "SELECT max(s) * 10 + min(s) FROM t";
        let expected = if done.is_ok() { 22 } else { 11 };
        assert_eq!(number(&connection, state), expected, "{what}");
        assert_eq!(
            connection.integrity_check().expect(&what),
            Vec::<String>::new(),
            "{what}"
        );
        // It goes on working, and another connection sees the same.
        run(
            &connection,
            "BEGIN; INSERT INTO t VALUES (1, 2); UPDATE t SET s = 5; COMMIT",
        );
        drop(connection);
        let other = connect(name);
        assert_eq!(number(&other, state), 55, "{what}");
        assert_whole(&other);
        calls
    };
    for (place, setup) in setups.iter().enumerate() {
        for transaction in transactions {
            let name = format!("Fault/{place}");
            let calls = attempt(&name, setup, transaction, None);
            assert!(calls > 60, "{calls}");
            for (first, fault) in (0..).zip(&faults) {
                for at in (first * 5 % stride..calls).step_by(stride as usize) {
                    attempt(&name, setup, transaction, Some((at, *fault)));
                }
            }
        }
    }
    drop(watcher);
}

/// Each object commits by itself, the first one first. But a commit that fails before either did leaves both as
/// they were: SQLite finds the super-journal, which is nowhere.
#[test]
fn a_fault_in_a_commit_of_two_objects_leaves_each_of_them_whole() {
    let stride = if std::env::var_os("DOVEHOUSE_FAULTS").is_some() {
        1
    } else {
        19
    };
    let state = "SELECT max(s) * 10 + min(s) FROM";
    let names = ["Fault/left", "Fault/right"];
    let keep_open = names.map(connect);
    keep_open
        .iter()
        .for_each(|connection| run(connection, "CREATE TABLE t(a, s)"));
    let attempt = |fault: Option<(u64, Fault)>| {
        for connection in &keep_open {
            run(
                connection,
                "BEGIN; DELETE FROM t; INSERT INTO t VALUES (zeroblob(20000), 1), (1, 1); COMMIT",
            );
        }
        let connection = connect(names[0]);
        run(
            &connection,
            &format!("ATTACH '{}' AS r", uri(store(), names[1]).display()),
        );
        run(&connection, "SELECT * FROM t, r.t");
        faults::arm(fault);
        let done = try_run(
            &connection,
            "BEGIN; UPDATE t SET s = 2; UPDATE r.t SET s = 2; COMMIT",
        );
        let calls = faults::calls();
        faults::arm(None);
        let _may_have_ended = try_run(&connection, "ROLLBACK");
        let seen = ["t", "r.t"].map(|table| number(&connection, &format!("{state} {table}")));
        assert_whole(&connection);
        drop(connection);
        let found = names.map(|name| {
            let connection = connect(name);
            assert_whole(&connection);
            number(&connection, &format!("{state} t"))
        });
        assert_eq!(found, seen, "{fault:?}: {done:?}");
        match done {
            Ok(()) => assert_eq!(found, [22, 22], "{fault:?}"),
            Err(_) => assert!(
                [[11, 11], [22, 11]].contains(&found),
                "{fault:?}: {found:?}"
            ),
        }
        (calls, found)
    };
    let (calls, _) = attempt(None);
    let mut undone = 0;
    for (first, code) in (0..).zip([10, 13, 7, BUSY]) {
        for at in (first..calls).step_by(stride) {
            let (_, found) = attempt(Some((at, Fault::Code(code))));
            undone += u32::from(found == [11, 11]);
        }
    }
    assert!(undone > 5, "{undone} of {calls} calls");
}
