//! The commands of history: what was is listed, read, compared, restored and forked, and each tells how to go back.

use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_engine::{Alarm, Engine};
use dovehouse_sqlbridge::{Connection, Database, SharedObject};

mod common;

use common::{files, id, run};

/// A room with three commits, and one that is made with the last of them.
struct Store {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
    /// When each commit of the room was over.
    times: Vec<String>,
}

/// Until the clock has gone on: what is committed then is of another millisecond.
fn next_ms(engine: &Engine) -> u64 {
    let now_ms = engine.now_ms();
    while engine.now_ms() <= now_ms + 1 {
        std::hint::spin_loop();
    }
    now_ms + 1
}

fn rfc_3339(ms: u64) -> String {
    let stock = Connection::open_file(":memory:".as_ref()).unwrap();
    let sql = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')";
    let row = stock.exec(sql, (ms as i64,)).unwrap().one().unwrap();
    row.get(0).unwrap()
}

impl Store {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("store");
        let engine = Engine::builder(&dir).segment_bytes(1 << 20).open().unwrap();
        let rooms = engine.class("Room").unwrap();
        let room: SharedObject = Arc::new(engine.wake(rooms, id(0xA1)).unwrap().into());
        room.lock().set_name("lobby");
        let database = Database::open(room.clone()).unwrap();
        let mut times = vec![rfc_3339(next_ms(&engine))];
        let turns = [
            (
                "CREATE TABLE bird(name TEXT PRIMARY KEY, wings); INSERT INTO bird VALUES ('dove', 2)",
                "doves",
            ),
            ("INSERT INTO bird VALUES ('kiwi', NULL)", "kiwis"),
            ("DELETE FROM bird WHERE name = 'dove'", "no doves"),
        ];
        for (number, (sql, topic)) in (0..).zip(turns) {
            database.exec(sql, ()).unwrap();
            room.lock().put(b"topic", topic.as_bytes()).unwrap();
            room.lock().set_alarm(Alarm {
                due_ms: 1_800_000_000_000 + number,
                ..Alarm::default()
            });
            database.commit().unwrap().unwrap().wait().unwrap();
            times.push(rfc_3339(next_ms(&engine)));
        }
        drop(database);
        drop(room);
        let mut hall = engine.wake(rooms, id(0xB1)).unwrap();
        hall.put(b"topic", b"halls").unwrap();
        hall.commit().unwrap().unwrap().wait().unwrap();
        drop(hall);
        next_ms(&engine);
        engine.close().unwrap();
        Store {
            _temporary: temporary,
            dir,
            times,
        }
    }

    fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// The bookmarks, the oldest first.
    fn bookmarks(&self, object: &str) -> Vec<String> {
        let listed = run(0, &["history", self.path(), object, "--json"]);
        let document: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let commits = document["commits"].as_array().unwrap().iter().rev();
        commits
            .map(|commit| commit["bookmark"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn last_word(text: &str) -> &str {
    text.split_whitespace().next_back().unwrap()
}

#[test]
fn the_past_is_listed_read_compared_and_exported_and_nothing_is_written() {
    let store = Store::new();
    let (dir, before) = (store.path(), files(&store.dir));
    let listed = run(0, &["history", dir, "Room:lobby"]);
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["BOOKMARK", "TIME", "BYTES"]);
    // The last one wrote the object whole when it fell asleep.
    assert_eq!(rows.len(), 5, "{listed}");
    assert!(
        rows[1][0] > rows[2][0] && rows[1][1] > rows[2][1],
        "the newest first: {listed}"
    );
    assert_eq!(
        run(0, &["history", dir, "a1", "--limit", "1"])
            .lines()
            .count(),
        2
    );

    let bookmarks = store.bookmarks("a1");
    let points = [&store.times[1], &bookmarks[0]];
    for point in points {
        assert_eq!(run(0, &["kv", dir, "a1", "topic", "--at", point]), "doves");
        let sql = "SELECT name FROM bird";
        let rows = run(0, &["sql", dir, "a1", sql, "--at", point]);
        assert_eq!(rows.lines().collect::<Vec<_>>(), ["name", "dove"]);
    }
    let refused = run(
        1,
        &["sql", dir, "a1", "DELETE FROM bird", "--at", points[0]],
    );
    assert!(refused.contains("can be read, not changed"), "{refused}");
    assert_eq!(
        run(0, &["kv", dir, "a1", "--at", &store.times[0]])
            .lines()
            .count(),
        1
    );

    let out = store.dir.with_file_name("then.sqlite");
    run(
        0,
        &[
            "export",
            dir,
            "a1",
            "--at",
            points[0],
            "-o",
            out.to_str().unwrap(),
        ],
    );
    let stock = Connection::open_file(&out).unwrap();
    assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
    assert_eq!(
        stock
            .exec("SELECT * FROM bird", ())
            .unwrap()
            .to_vec()
            .unwrap()
            .len(),
        1
    );
    let all = store.dir.with_file_name("all");
    let told = run(
        0,
        &[
            "export",
            dir,
            "--all",
            all.to_str().unwrap(),
            "--at",
            &store.times[0],
        ],
    );
    assert!(
        told.contains("0 databases written, 2 objects have none"),
        "{told}"
    );

    let diff = run(0, &["diff", dir, "a1", &bookmarks[0]]);
    for line in [
        "keys: 0 added, 0 removed, 1 changed",
        "  - topic = doves",
        "  + topic = no doves",
        "alarms: 0 added, 0 removed, 1 changed",
        "  - the object's own: 2027-01-15T08:00:00.000Z",
        "  + the object's own: 2027-01-15T08:00:00.002Z",
        "rows of bird: 1 added, 1 removed, 0 changed",
        "  - dove: name = dove, wings = 2",
        "  + kiwi: name = kiwi, wings = NULL",
    ] {
        assert!(diff.lines().any(|found| found == line), "{line} in {diff}");
    }
    assert_eq!(
        run(0, &["diff", dir, "a1", &bookmarks[1], &bookmarks[1]]),
        "nothing differs\n"
    );
    let made: serde_json::Value = serde_json::from_str(&run(
        0,
        &[
            "diff",
            dir,
            "a1",
            &store.times[0],
            &store.times[1],
            "--json",
        ],
    ))
    .unwrap();
    assert_eq!(
        (&made["schema"], &made["schema_changes"][0]["name"]),
        (&1.into(), &"bird".into())
    );
    assert_eq!(made["tables"][0]["listed"][0]["after"][0], "dove");
    let alarm = &made["alarms"][0];
    assert_eq!(alarm["before"], serde_json::Value::Null);
    assert_eq!(
        alarm["after"],
        serde_json::json!({"due_ms": 1_800_000_000_000u64, "attempts": 0, "schedule": ""})
    );

    let looked = run(0, &["restore", dir, "a1", &bookmarks[0], "--dry-run"]);
    assert!(
        looked.contains("would be restored") && looked.contains("+ topic = doves"),
        "{looked}"
    );
    assert!(!looked.contains("alarms"), "they stay: {looked}");
    let looked = run(
        0,
        &[
            "restore",
            dir,
            "a1",
            &bookmarks[0],
            "--dry-run",
            "--with-alarms",
        ],
    );
    assert!(
        looked.contains("alarms: 0 added, 0 removed, 1 changed"),
        "{looked}"
    );
    let looked = run(0, &["restore", dir, "--all", &store.times[1], "--dry-run"]);
    assert!(
        looked.starts_with("2 objects would be restored, of which 1 were nothing"),
        "{looked}"
    );
    assert_eq!(files(&store.dir), before);
}

#[test]
fn a_restore_says_how_it_is_undone_and_a_fork_is_an_object_of_its_own() {
    let store = Store::new();
    let dir = store.path();
    let topic = |object: &str| run(0, &["kv", dir, object, "topic"]);
    let restored = run(0, &["restore", dir, "Room:lobby", &store.times[1]]);
    let undo = last_word(&restored);
    assert!(
        restored.starts_with("restored to ") && undo == store.bookmarks("a1")[3],
        "{restored}"
    );
    assert_eq!(topic("a1"), "doves");
    assert!(
        run(0, &["show", dir, "a1"]).contains("2027-01-15T08:00:00.002Z"),
        "alarms stay"
    );
    assert_eq!(
        run(0, &["restore", dir, "a1", &store.times[1]]),
        "nothing to restore: it is what it was\n"
    );
    run(0, &["restore", dir, "a1", undo]);
    assert_eq!(topic("a1"), "no doves");
    run(0, &["restore", dir, "a1", &store.times[1], "--with-alarms"]);
    assert!(run(0, &["show", dir, "a1"]).contains("2027-01-15T08:00:00.000Z"));

    let forked = run(0, &["fork", dir, "a1", &store.times[2], "annex"]);
    assert_eq!(topic("Room:annex"), "kiwis");
    assert_eq!(topic(forked.split_whitespace().next().unwrap()), "kiwis");
    assert!(run(1, &["fork", dir, "a1", &store.times[2], "Room:annex"]).contains("is not empty"));
    let new = id(0xC1).to_string();
    run(0, &["fork", dir, "a1", &store.times[1], &new]);
    assert_eq!(topic(&new), "doves");
    assert_eq!(store.bookmarks(&new).len(), 1, "a history of its own");
    run(0, &["verify", dir, "--deep"]);
}

#[test]
fn a_class_goes_back_to_a_time_and_its_retention_is_kept() {
    let store = Store::new();
    let dir = store.path();
    let restored = run(0, &["restore", dir, "--class", "Room", &store.times[1]]);
    assert!(
        restored.starts_with("2 objects restored, of which 1 were nothing"),
        "{restored}"
    );
    assert_eq!(run(0, &["kv", dir, "a1", "topic"]), "doves");
    assert_eq!(run(0, &["ls", dir]).lines().count(), 2, "the other is gone");
    let undone = run(0, &["restore", dir, "--all", last_word(&restored)]);
    assert!(
        undone.starts_with("2 objects restored, of which 0"),
        "{undone}"
    );
    assert_eq!(run(0, &["kv", dir, "b1", "topic"]), "halls");

    let long_ago = run(0, &["kv", dir, "b1", "--at", "-300d"]);
    assert_eq!(long_ago.lines().count(), 1, "it was nothing: {long_ago}");
    for (time, shown) in [
        ("90d", "90d\n"),
        ("12h", "12h\n"),
        ("forever", "forever\n"),
        ("off", "off\n"),
        ("declared", "30d\n"),
        ("off", "off\n"),
    ] {
        assert_eq!(run(0, &["retention", dir, "Room", time]), shown);
        assert_eq!(run(0, &["retention", dir, "Room"]), shown);
    }
    let gone = run(1, &["kv", dir, "a1", "--at", &store.times[2]]);
    assert!(gone.contains("only the present can be had"), "{gone}");
    assert!(!gone.contains(" ms"), "times are times: {gone}");
}

#[test]
fn mistaken_points_are_refused_with_what_to_do() {
    let store = Store::new();
    let dir = store.path();
    let wrong = run(2, &["kv", dir, "a1", "--at", "yesterday"]);
    assert!(wrong.contains("or how long ago"), "{wrong}");
    let bookmark = &store.bookmarks("a1")[0];
    assert!(run(1, &["kv", dir, "b1", "--at", bookmark]).contains("is not one of object"));
    assert!(run(1, &["restore", dir, "--all", bookmark]).contains("of one object"));
    assert!(run(1, &["restore", dir, "--all", "2999-01-01T00:00:00Z"]).contains("not come yet"));
    let future = run(1, &["restore", dir, "a1", "2999-01-01T00:00:00Z"]);
    assert!(
        future.contains("commits can be had from 00000000-00000001-"),
        "{future}"
    );
    run(1, &["restore", dir, bookmark]);
    run(5, &["restore", dir, "Room:nobody", bookmark]);
    run(5, &["retention", dir, "Hall"]);
    run(2, &["retention", dir, "Room", "soon"]);
    run(2, &["restore", dir, "a1", bookmark, "--all"]);
}
