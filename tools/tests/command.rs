//! The command as people and scripts use it: its output, its exit codes, and that it writes nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dovehouse_engine::{Alarm, Engine};
use dovehouse_sqlbridge::{Connection, Database, SharedObject};

mod common;

use common::{files, id, run, spawn};

/// A store with a room, a note, and something that was erased.
struct Store {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
}

impl Store {
    /// Closed cleanly, or left as a crash leaves it.
    fn new(cleanly: bool) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("store");
        let engine = Engine::builder(&dir).segment_bytes(1 << 20).open().unwrap();
        let rooms = engine.class("Room").unwrap();
        let lobby: SharedObject = Arc::new(engine.wake(rooms, id(0xA1)).unwrap().into());
        lobby.lock().set_name("lobby");
        lobby.lock().put(b"topic", b"doves").unwrap();
        lobby.lock().put(b"binary", &[0, 255]).unwrap();
        lobby.lock().set_alarm(Alarm {
            due_ms: 1_800_000_000_000,
            ..Alarm::default()
        });
        let database = Database::open(lobby.clone()).unwrap();
        database
            .exec("CREATE TABLE bird(name TEXT, wings INTEGER)", &[])
            .unwrap();
        database
            .exec("INSERT INTO bird VALUES ('dove', 2), ('kiwi', NULL)", &[])
            .unwrap();
        database.commit().unwrap().unwrap().wait().unwrap();
        lobby.lock().put(b"topic", b"pigeons").unwrap();
        database.commit().unwrap().unwrap().wait().unwrap();
        lobby.lock().put(b"topic", b"doves").unwrap();
        database.commit().unwrap().unwrap().wait().unwrap();
        let notes = engine.class_of("tenant", "Note").unwrap();
        for number in [0xB1, 0xB2] {
            let mut note = engine.wake(notes, id(number)).unwrap();
            note.put(b"text", b"remember").unwrap();
            note.commit().unwrap().unwrap().wait().unwrap();
            if number == 0xB2 {
                note.clear(false);
                note.commit().unwrap().unwrap().wait().unwrap();
            }
        }
        if cleanly {
            drop(database);
            drop(lobby);
            engine.close().unwrap();
        } else {
            std::mem::forget(database);
            drop(lobby);
        }
        Store {
            _temporary: temporary,
            dir,
        }
    }

    fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }
}

#[test]
fn objects_are_listed_shown_and_read() {
    let store = Store::new(true);
    let dir = store.path();
    let listed = run(0, &["ls", dir]);
    assert!(
        listed.lines().count() == 3 && listed.contains("lobby") && listed.contains("tenant/Note"),
        "{listed}"
    );
    assert!(
        !listed.contains(&id(0xB2).to_string()),
        "what was erased is no object"
    );
    assert_eq!(run(0, &["ls", dir, "Room"]).lines().count(), 2);

    for object in ["Room:lobby", "a1a1", &id(0xA1).to_string()] {
        let shown = run(0, &["show", dir, object]);
        assert!(
            shown.contains("lobby") && shown.contains("2027-01-15T08:00:00.000Z"),
            "{shown}"
        );
    }
    let keys = run(0, &["kv", dir, "Room:lobby"]);
    assert!(
        keys.contains("topic") && keys.contains("doves") && keys.contains("x'00ff'"),
        "{keys}"
    );
    assert_eq!(run(0, &["kv", dir, "Room:lobby", "topic"]), "doves");
    assert_eq!(
        run(0, &["kv", dir, "Room:lobby", "--prefix", "to"])
            .lines()
            .count(),
        2
    );
    let rows = run(
        0,
        &[
            "sql",
            dir,
            "Room:lobby",
            "SELECT name, wings FROM bird ORDER BY name",
        ],
    );
    assert_eq!(
        rows.lines().map(str::trim_end).collect::<Vec<_>>(),
        ["name  wings", "dove  2", "kiwi  NULL"]
    );
}

#[test]
fn a_query_without_an_object_is_on_the_store_and_one_with_an_object_knows_its_keys_only() {
    let store = Store::new(false);
    let (before, dir) = (files(&store.dir), store.path());
    let lines = |arguments: &[&str]| -> Vec<String> {
        let printed = run(0, arguments);
        printed
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let sql = "SELECT class, name, seq FROM objects WHERE NOT erased AND name NOTNULL";
    assert_eq!(lines(&["sql", dir, sql]), ["Room lobby 3"]);
    let sql = "SELECT a.due_ms, o.name FROM alarms a JOIN objects o USING (slot)";
    assert_eq!(lines(&["sql", dir, sql]), ["1800000000000 lobby"]);
    let sql = "SELECT count(*) AS n FROM history WHERE kind = 'delta'";
    assert_eq!(lines(&["sql", dir, sql]), ["2"]);
    assert_eq!(lines(&["sql", dir, "SELECT * FROM damage"]), [""; 0]);
    let sql = "SELECT key, CAST(value AS TEXT) FROM kv WHERE key > 'c'";
    assert_eq!(lines(&["sql", dir, "Room:lobby", sql]), ["topic doves"]);

    assert!(run(1, &["sql", dir, "Room:lobby", "SELECT * FROM objects"]).contains("no such table"));
    let mistaken = run(1, &["sql", dir, "Room:lobby"]);
    assert!(mistaken.contains("without an OBJECT"), "{mistaken}");
    run(0, &["sql", dir, "Room:lobby", "DELETE FROM kv"]);
    assert_eq!(files(&store.dir), before);
}

#[test]
fn documents_are_json_with_a_schema() {
    let store = Store::new(true);
    let dir = store.path();
    let commands: [&[&str]; 6] = [
        &["ls", dir, "--json"],
        &["show", dir, "a1", "--json"],
        &["kv", dir, "a1", "--json"],
        &[
            "sql",
            dir,
            "a1",
            "SELECT 1 AS one, x'0102' AS two",
            "--json",
        ],
        &["verify", dir, "--json"],
        &["dump", dir, "--json"],
    ];
    for command in commands {
        let document: serde_json::Value = serde_json::from_str(&run(0, command)).unwrap();
        assert_eq!(document["schema"], 1, "{command:?}");
    }
}

#[test]
fn an_export_is_a_database_for_stock_sqlite() {
    let store = Store::new(true);
    let out = store.dir.with_file_name("out.sqlite");
    let out_text = out.to_str().unwrap();
    run(0, &["export", store.path(), "Room:lobby", "-o", out_text]);
    run(1, &["export", store.path(), "Room:lobby", "-o", out_text]);
    let stock = Connection::open_file(&out).unwrap();
    assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
    assert_eq!(
        stock
            .exec("SELECT * FROM bird", &[])
            .unwrap()
            .to_vec()
            .unwrap()
            .len(),
        2
    );
    run(1, &["export", store.path(), "b1", "-o", "nowhere.sqlite"]);
}

#[test]
fn looking_at_a_crashed_store_sees_its_tail_and_writes_nothing() {
    let store = Store::new(false);
    let before = files(&store.dir);
    let dir = store.path();
    assert!(run(0, &["ls", dir]).contains("lobby"));
    assert_eq!(run(0, &["kv", dir, "Room:lobby", "topic"]), "doves");
    assert!(run(0, &["verify", dir, "--deep"]).contains("no damage"));
    let dumped = run(0, &["dump", dir]);
    for word in [
        "batch 1 at",
        "CLASS",
        "IMAGE",
        "ERASE",
        "put topic = pigeons",
    ] {
        assert!(dumped.contains(word), "{word} in {dumped}");
    }
    run(0, &["sql", dir, "Room:lobby", "DELETE FROM bird"]);
    assert!(run(0, &["sql", dir, "Room:lobby", "SELECT count(*) FROM bird"]).contains('2'));
    assert_eq!(files(&store.dir), before);
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let store = Store::new(true);
    let dir = store.path();
    run(2, &["ls"]);
    run(1, &["ls", "no/such/directory"]);
    assert!(run(5, &["show", dir, "Room:nobody"]).contains("no object"));
    run(5, &["kv", dir, "ff"]);
    assert!(run(1, &["show", dir, ""]).contains("write more of it"));
    run(1, &["sql", dir, "a1", "SELEC"]);
    let engine = Engine::builder(&store.dir).open_existing().unwrap();
    for command in [
        &["ls", dir] as &[&str],
        &["verify", dir],
        &["dump", dir],
        &["kv", dir, "a1"],
    ] {
        assert!(run(6, command).contains("open in another process"));
    }
    engine.close().unwrap();
    run(0, &["ls", dir]);
}

#[test]
fn damage_is_found_named_and_costs_only_what_it_hits() {
    let store = Store::new(true);
    let dir = store.path();
    assert!(run(0, &["verify", dir, "--deep"]).contains("no damage"));
    let segment = store.dir.join("segment-00000001");
    let listed: serde_json::Value =
        serde_json::from_str(&run(0, &["show", dir, "a1", "--json"])).unwrap();
    let (_, offset) = listed["head"].as_str().unwrap().split_once(':').unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[offset.parse::<usize>().unwrap() + 40] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let report = run(3, &["verify", dir]);
    assert!(
        report.contains("segment-00000001") && report.contains("damaged"),
        "{report}"
    );
    run(3, &["kv", dir, &id(0xA1).to_string()]);
    assert_eq!(
        run(0, &["kv", dir, &id(0xB1).to_string(), "text"]),
        "remember"
    );
    run(3, &["ls", dir]);
    run(3, &["dump", dir]);
}

/// Starts `load`, reads ACKs until there are enough, kills it, and returns them.
fn load_and_kill(dir: &Path, kind: &str, enough: usize) -> BTreeMap<String, u64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dovehouse"));
    let arguments = ["load", "--objects", "6", "--seconds", "600", "--kind"];
    command.args(arguments).args([kind, "--data"]).arg(dir);
    let mut load = spawn(&mut command);
    let mut acknowledged = BTreeMap::new();
    let mut lines = BufReader::new(load.stdout.take().unwrap()).lines();
    for _ in 0..enough {
        note(&mut acknowledged, &lines.next().unwrap().unwrap());
    }
    load.kill().unwrap();
    load.wait().unwrap();
    // What was printed before the kill counts too, but for a last line that was cut off.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    rest.iter().for_each(|line| note(&mut acknowledged, line));
    acknowledged
}

fn note(acknowledged: &mut BTreeMap<String, u64>, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    if let ["ACK", object, seq] = words[..] {
        acknowledged.insert(object.to_owned(), seq.parse().unwrap());
    }
}

#[test]
fn no_object_of_a_killed_load_is_behind_its_last_ack() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    let mut rng = fastrand::Rng::with_seed(6);
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..4 {
        let kind = ["kv", "mixed", "sql", "mixed"][round];
        acknowledged.extend(load_and_kill(&dir, kind, rng.usize(50..400)));
        let dumped = run(0, &["load", "--dump", "--data", dir.to_str().unwrap()]);
        let found: BTreeMap<String, u64> = dumped
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(object, seq)| (object.to_owned(), seq.parse().unwrap()))
            .collect();
        for (object, seq) in &acknowledged {
            assert!(
                found[object] >= *seq,
                "round {round}: {object} is at {} of {seq}",
                found[object]
            );
        }
        assert!(run(0, &["verify", dir.to_str().unwrap(), "--deep"]).contains("no damage"));
    }
}

#[test]
fn compact_shows_what_it_would_do_and_then_gives_the_space_back() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    let engine = Engine::builder(&dir)
        .segment_bytes(256 << 10)
        .open()
        .unwrap();
    let class = engine.class("Note").unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    for number in 0..240 {
        let mut object = engine.wake(class, id(number)).unwrap();
        let value: Vec<u8> = (0..20_000).map(|_| rng.u8(..)).collect();
        object.put(b"value", &value).unwrap();
        object.commit().unwrap();
        if number % 10 > 0 {
            object.clear(false);
            object.commit().unwrap();
        }
    }
    engine.close().unwrap();
    drop(engine);
    let dir = dir.to_str().unwrap();

    let before = files(Path::new(dir));
    let planned = run(0, &["compact", dir, "--dry-run"]);
    assert!(
        planned.lines().filter(|line| line.ends_with("yes")).count() > 4,
        "{planned}"
    );
    assert_eq!(files(Path::new(dir)), before, "a dry run writes nothing");

    let report: serde_json::Value =
        serde_json::from_str(&run(0, &["compact", dir, "--json"])).unwrap();
    let now = report["segment_files"].as_u64().unwrap();
    assert!(
        now < report["segment_files_before"].as_u64().unwrap() / 2,
        "{report}"
    );
    let planned = run(0, &["compact", dir, "--dry-run"]);
    assert!(!planned.contains("yes"), "{planned}");
    assert!(run(0, &["dump", dir]).contains("a pack, began"));
    assert!(run(0, &["verify", dir, "--deep"]).contains("no damage"));
    assert_eq!(run(0, &["ls", dir, "--json"]).matches("\"id\"").count(), 24);
}

#[test]
fn every_bench_measures_what_it_says_in_a_store_of_its_own() {
    let measured = [
        ("commit", "p99_us"),
        ("wake", "cold_p50_us"),
        ("footprint", "bytes_per_object"),
        ("compact", "write_amplification"),
        ("alarms", "due_until_p50_us"),
        ("http", "many_write_p99_us"),
        ("ws", "rss_bytes_per_connection"),
    ];
    let temporary = tempfile::tempdir().unwrap();
    for (bench, field) in measured {
        let dir = temporary.path().join(bench);
        let dir = dir.to_str().unwrap();
        let small = ["--objects", "200", "--clients", "4", "--seconds", "1"];
        let arguments = [&["bench", bench, "--json", "--data", dir], &small[..]].concat();
        let document: serde_json::Value = serde_json::from_str(&run(0, &arguments)).unwrap();
        assert!(!document[field].is_null(), "{document}");
        assert_eq!(document["parameters"]["clients"], 4);
        assert!(run(0, &["verify", dir, "--deep"]).contains("no damage"));
        assert!(run(1, &arguments).contains("is there already"));
    }
}

#[test]
fn a_damaged_page_of_a_big_database_is_named_and_the_rest_is_exported() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    let engine = Engine::builder(&dir).segment_bytes(1 << 20).open().unwrap();
    let class = engine.class("Room").unwrap();
    let room: SharedObject = Arc::new(engine.wake(class, id(1)).unwrap().into());
    let database = Database::open(room.clone()).unwrap();
    database.exec("CREATE TABLE t(a BLOB)", &[]).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut row = vec![0; 3000];
    for _ in 0..100 {
        rng.fill(&mut row);
        database
            .exec("INSERT INTO t VALUES (?)", &[row.clone().into()])
            .unwrap();
    }
    database.commit().unwrap().unwrap().wait().unwrap();
    assert!(room.lock().is_big());
    drop(database);
    drop(room);
    engine.close().unwrap();
    drop(engine);
    let path = dir.to_str().unwrap();
    assert!(run(0, &["verify", path, "--deep"]).contains("no damage"));
    let dumped = run(0, &["dump", path]);
    for kind in ["HEAD", "LEAF", "BLOB"] {
        assert!(dumped.contains(kind), "{kind} in {dumped}");
    }

    // The last row is random, so its page is stored as it is.
    let mut found = 0;
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap().path();
        let mut content = std::fs::read(&file).unwrap();
        let mut windows = content.windows(100);
        if let Some(at) = windows.position(|window| *window == row[1000..1100]) {
            content[at] ^= 1;
            std::fs::write(&file, content).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 1);
    let exported = temporary.path().join("room.db");
    let room = id(1).to_string();
    let told = run(
        3,
        &[
            "export",
            path,
            &room,
            "--output",
            exported.to_str().unwrap(),
        ],
    );
    assert!(told.contains("is zeros there"), "{told}");
    assert!(std::fs::metadata(&exported).unwrap().len() > 300_000);
    assert!(run(3, &["verify", path, "--deep"]).contains("wrong checksum"));
}
