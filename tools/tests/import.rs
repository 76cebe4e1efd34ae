//! `import`, `import-wrangler` and `export --all` as people and scripts use them.

use std::path::{Path, PathBuf};
use std::process::Command;

use dovehouse_engine::{Engine, ObjectId};
use dovehouse_sqlbridge::Connection;
use serde_json::Value;

/// Runs the command, expects this exit code, and returns what it printed.
fn run(code: i32, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dovehouse"))
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}");
    text
}

fn json(code: i32, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(code, arguments)).unwrap()
}

/// An empty store, and room for files.
fn store() -> (tempfile::TempDir, String) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("store");
    let engine = Engine::builder(&dir).segment_bytes(1 << 20).open().unwrap();
    engine.close().unwrap();
    let dir = dir.to_str().unwrap().to_owned();
    (temporary, dir)
}

fn file(path: &Path, sql: &str) -> String {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    Connection::open_file(path).unwrap().exec(sql, &[]).unwrap();
    path.to_str().unwrap().to_owned()
}

const BIRDS: &str = "CREATE TABLE bird(name TEXT); INSERT INTO bird VALUES ('dove')";
const HOST: &str = "CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
    CREATE TABLE _cf_METADATA(key INTEGER PRIMARY KEY, value BLOB);
    INSERT INTO _cf_KV VALUES ('topic', x'646f766573');
    INSERT INTO _cf_METADATA VALUES (1, 1800000000000000000)";

/// The id of `foo` for the unique key `w-MyDO`, as workerd makes it.
const FOO: &str = "c1d23b49d71284c075b36cbec96cf0ccbba204ac15da6658b186b8478db842dd";

#[test]
fn a_file_is_imported_under_a_name_or_an_id_and_replaced_only_on_request() {
    let (temporary, dir) = store();
    let birds = file(&temporary.path().join("birds.sqlite"), BIRDS);
    let said = run(0, &["import", &dir, "Room:lobby", &birds]);
    assert!(said.contains("pages, 0 keys and no alarm"), "{said}");
    let query = "SELECT count(*) FROM bird";
    assert!(run(0, &["sql", &dir, "Room:lobby", query]).contains('1'));
    assert!(run(1, &["import", &dir, "Room:lobby", &birds]).contains("not empty"));
    run(0, &["import", &dir, "Room:lobby", &birds, "--replace"]);

    let imported = json(
        0,
        &[
            "import", &dir, "MyDO:foo", &birds, "--key", "w-MyDO", "--json",
        ],
    );
    assert_eq!(
        (&imported["schema"], &imported["id"]),
        (&1.into(), &FOO.into())
    );
    assert_eq!(imported["name"], "foo");
    let id = ObjectId::from_bytes([7; 32]).to_string();
    run(0, &["import", &dir, "tenant/Room", &birds, "--id", &id]);
    assert!(run(0, &["sql", &dir, &id, query]).contains('1'));
    assert!(run(1, &["import", &dir, "Room", &birds]).contains("Class:name"));
    assert!(run(1, &["import", &dir, "Other", &birds, "--id", &id]).contains("of class"));

    std::fs::write(&birds, "no database").unwrap();
    assert!(run(3, &["import", &dir, "Room:other", &birds]).contains("not a SQLite database"));
    run(1, &["import", &dir, "Room:other", "no/such/file"]);
    run(5, &["show", &dir, "Room:other"]);
    assert!(run(0, &["verify", &dir, "--deep"]).contains("no damage"));
}

#[test]
fn a_directory_of_miniflare_is_imported_with_what_failed_named() {
    let (temporary, dir) = store();
    let source = temporary.path().join("do").join("w-MyDO");
    let path = |name: &str| -> PathBuf { source.join(name) };
    file(
        &path(&format!("{FOO}.sqlite")),
        &format!("PRAGMA journal_mode = WAL; {BIRDS}; {HOST}"),
    );
    let other = ObjectId::from_bytes([0xB0; 32]).to_string();
    file(&path(&format!("{other}.sqlite")), HOST);
    file(
        &path("metadata.sqlite"),
        &format!(
            "CREATE TABLE _cf_ALARM(actor_id TEXT PRIMARY KEY, scheduled_time INTEGER, actor_name TEXT) WITHOUT ROWID;
            INSERT INTO _cf_ALARM VALUES ('{FOO}', 1800000000000000000, 'foo')"
        ),
    );
    let source = source.to_str().unwrap();
    let report = json(0, &["import-wrangler", &dir, "MyDO", source, "--json"]);
    assert_eq!(
        (&report["schema"], &report["unique_key"]),
        (&1.into(), &"w-MyDO".into())
    );
    assert_eq!(report["imported"].as_array().unwrap().len(), 2);
    assert_eq!(report["failures"], Value::Array(Vec::new()));
    assert_eq!(run(0, &["kv", &dir, "MyDO:foo", "topic"]), "doves");
    assert_eq!(run(0, &["kv", &dir, &other, "topic"]), "doves");
    for object in ["MyDO:foo", &other] {
        assert!(run(0, &["show", &dir, object]).contains("2027-01-15T08:00:00.000Z"));
    }
    assert!(run(0, &["sql", &dir, "MyDO:foo", "SELECT name FROM bird"]).contains("dove"));

    // A second time: the objects are there, and one file is broken, and one is a facet.
    file(&path(&format!("{FOO}.1.sqlite")), BIRDS);
    let third = path(&format!("{}.sqlite", ObjectId::from_bytes([3; 32])));
    std::fs::write(&third, [0; 4096]).unwrap();
    let said = run(3, &["import-wrangler", &dir, "MyDO", source]);
    assert!(said.contains("0 objects imported, 4 files not"), "{said}");
    assert!(
        said.contains("facets") && said.contains("not empty") && said.contains("encrypted"),
        "{said}"
    );
    std::fs::remove_file(third).unwrap();
    let said = run(1, &["import-wrangler", &dir, "MyDO", source, "--replace"]);
    assert!(
        said.contains("2 objects imported, 1 files not") && said.contains("\"w-MyDO\""),
        "{said}"
    );
    assert!(run(1, &["import-wrangler", &dir, "MyDO", &dir]).contains("directory of one class"));
    assert!(run(0, &["verify", &dir, "--deep"]).contains("no damage"));
}

#[test]
fn every_object_is_exported_and_an_export_for_workerd_comes_back_whole() {
    let (temporary, dir) = store();
    let birds = file(&temporary.path().join("birds.sqlite"), BIRDS);
    let host = file(&temporary.path().join("host.sqlite"), HOST);
    run(0, &["import", &dir, "Room:a", &birds]);
    run(0, &["import", &dir, "tenant/Room:b", &birds]);
    run(0, &["import", &dir, "Room:keys", &host]);
    let out = temporary.path().join("out");
    let said = run(0, &["export", &dir, "--all", out.to_str().unwrap()]);
    assert!(
        said.contains("2 databases written, 1 objects have none"),
        "{said}"
    );
    for class in ["Room", "tenant%2FRoom"] {
        let files: Vec<_> = std::fs::read_dir(out.join(class)).unwrap().collect();
        assert_eq!(files.len(), 1);
        let stock = Connection::open_file(&files[0].as_ref().unwrap().path()).unwrap();
        assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
        assert_eq!(
            stock
                .exec("SELECT * FROM bird", &[])
                .unwrap()
                .to_vec()
                .unwrap()
                .len(),
            1
        );
    }
    assert!(
        run(1, &["export", &dir, "--all", out.to_str().unwrap()]).contains("0 databases written")
    );
    run(2, &["export", &dir]);
    run(2, &["export", &dir, "Room:a", "--all", "x"]);

    let out = temporary.path().join("workerd");
    run(
        0,
        &["export", &dir, "--all", out.to_str().unwrap(), "--workerd"],
    );
    let copy = temporary.path().join("copy");
    let copy = copy.to_str().unwrap();
    let rooms = out.join("Room");
    let report = json(
        0,
        &[
            "import-wrangler",
            copy,
            "Room",
            rooms.to_str().unwrap(),
            "--json",
        ],
    );
    assert_eq!(report["imported"].as_array().unwrap().len(), 2);
    let keys = dovehouse::ObjectId::from_name("Room", "keys").to_string();
    assert_eq!(run(0, &["kv", copy, &keys, "topic"]), "doves");
    assert!(run(0, &["show", copy, &keys]).contains("2027-01-15"));
}
