//! From plain files to objects and back: everything that is in a valid file arrives as it is, and
//! everything else is refused with the object as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Alarm, ClassId, Engine, Error as EngineError, Object, Quota};
use dovehouse_sqlbridge::{
    Connection, Database, Error, Import, Imported, Refusal, Result, Value, names_in_metadata,
};

mod common;

use common::fixtures::{Form, content, empty, full, small};
use common::{id, wake};

/// A store on the simulated disk, and a directory for plain files.
struct Set {
    fs: SimFs,
    engine: Engine,
    class: ClassId,
    dir: tempfile::TempDir,
}

impl Set {
    fn new() -> Self {
        let fs = SimFs::new(1);
        let (engine, class) = common::open_with(&fs, 4 << 20).unwrap();
        Set {
            fs,
            engine,
            class,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn object(&self, number: u8) -> Object {
        self.engine.wake(self.class, id(number)).unwrap()
    }

    /// A fresh object with what is in the file, durable.
    fn import(&self, number: u8, path: &Path) -> Result<Imported> {
        let imported = Import::new(path).run(&mut self.object(number))?;
        if let Some(ticket) = &imported.ticket {
            ticket.wait().unwrap();
        }
        Ok(imported)
    }

    /// What stock SQLite finds in an export of the object.
    fn exported(&self, number: u8) -> Vec<Vec<Value>> {
        let path = self.path("exported.sqlite");
        let unreadable = Database::export(&self.object(number), &path).unwrap();
        assert!(unreadable.is_empty());
        let stock = Connection::open_file(&path).unwrap();
        assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
        let settings: [(&str, i64); 3] = [
            ("page_size", 4096),
            ("auto_vacuum", 2),
            ("freelist_count", 0),
        ];
        for (pragma, expected) in settings {
            let rows = stock.exec(&format!("PRAGMA {pragma}"), ()).unwrap();
            assert_eq!(
                rows.one().unwrap().get::<i64>(0).unwrap(),
                expected,
                "{pragma}"
            );
        }
        let found = content(&stock);
        std::fs::remove_file(&path).unwrap();
        found
    }

    /// Expects a refusal that leaves the object without a trace, and returns it.
    #[track_caller]
    fn refused(&self, path: &Path) -> Refusal {
        let mut object = self.object(99);
        let refusal = match Import::new(path).run(&mut object) {
            Err(Error::Import {
                path: named,
                refusal,
            }) => {
                assert_eq!(named, path);
                refusal
            }
            other => panic!("{}: {other:?}", path.display()),
        };
        assert!(object.is_empty() && !object.is_touched());
        assert_eq!(object.page_count(), 0);
        refusal
    }
}

/// The files of a directory.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap();
    let content = |path: PathBuf| (path.clone(), std::fs::read(&path).unwrap());
    entries
        .map(|entry| content(entry.unwrap().path()))
        .collect()
}

#[test]
fn every_form_of_a_file_arrives_whole_and_is_not_changed() {
    let set = Set::new();
    let mut forms = Vec::new();
    for page_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for (auto_vacuum, wal) in [(0, false), (1, true), (2, false), (0, true)] {
            forms.push(Form {
                page_bytes,
                auto_vacuum,
                wal,
                ..Form::default()
            });
        }
    }
    for encoding in ["UTF-16le", "UTF-16be"] {
        for (page_bytes, wal) in [(512, true), (4096, false)] {
            forms.push(Form {
                page_bytes,
                encoding,
                wal,
                ..Form::default()
            });
        }
    }
    for (number, form) in (1..).zip(forms) {
        let dir = set.path(&format!("source {number}?#%"));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("a b.sqlite");
        let stock = full(&path, form);
        let expected = content(&stock);
        let before = files(&dir);
        let has_log = before
            .keys()
            .any(|path| path.to_str().unwrap().ends_with("-wal"));
        assert_eq!(has_log, form.wal, "the log is still there");
        let imported = set
            .import(number, &path)
            .unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert!(imported.pages > 10 && imported.keys == 0 && imported.alarm_ms.is_none());
        assert_eq!(files(&dir), before, "{form:?}");
        drop(stock);
        assert!(set.exported(number) == expected, "{form:?}");
    }

    // They are databases like others.
    let awake = wake(&set.engine, set.class, 1);
    awake.run("INSERT INTO plain VALUES (5)");
    awake.run("INSERT INTO words VALUES ('another dove')");
    assert_eq!(awake.number("SELECT count(*) FROM words('dove')"), 1);
    assert_eq!(awake.number("SELECT count(*) FROM s WHERE r = 5.0"), 2);
    awake.commit();
    awake.assert_whole();
}

#[test]
fn a_journal_that_a_crash_left_is_rolled_back_in_a_copy() {
    let set = Set::new();
    let path = set.path("a.sqlite");
    let stock = full(&path, Form::default());
    let expected = content(&stock);
    let whole = std::fs::read(&path).unwrap();
    drop(stock);
    // A transaction that spilled into the file, copied while it is open: as its process's death leaves it.
    let stock = Connection::open_file(&path).unwrap();
    stock
        .exec(
            "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; PRAGMA synchronous = FULL",
            (),
        )
        .unwrap();
    stock
        .exec("BEGIN; UPDATE t SET b = randomblob(3000)", ())
        .unwrap();
    let crashed = set.path("crashed.sqlite");
    std::fs::copy(&path, &crashed).unwrap();
    std::fs::copy(
        set.path("a.sqlite-journal"),
        set.path("crashed.sqlite-journal"),
    )
    .unwrap();
    assert_ne!(std::fs::read(&crashed).unwrap(), whole);
    let before = files(set.dir.path());
    set.import(1, &crashed).unwrap();
    assert_eq!(files(set.dir.path()), before);
    assert!(set.exported(1) == expected);
}

#[test]
fn reserved_bytes_and_links_are_no_obstacle() {
    let set = Set::new();
    let stock = full(&set.path("a.sqlite"), Form::default());
    let expected = content(&stock);
    let reserved = set.path("reserved.sqlite");
    let uri = format!("file:{}?reserve=80", reserved.display());
    stock.exec("VACUUM INTO ?", &[uri.into()]).unwrap();
    assert_eq!(std::fs::read(&reserved).unwrap()[20], 80);
    let link = set.path("link");
    std::os::unix::fs::symlink(&reserved, &link).unwrap();
    set.import(1, &link).unwrap();
    let mut found = set.exported(1);
    // VACUUM has counted the schema version on.
    let version = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
    assert_eq!(version, 1);
    let at = expected
        .iter()
        .zip(&found)
        .position(|(a, b)| a != b)
        .unwrap();
    found[at].clone_from(&expected[at]);
    assert!(found == expected);
    assert_eq!(set.object(1).page(1).unwrap().unwrap()[20], 0);
}

#[test]
fn a_file_of_workerd_gives_its_keys_its_alarm_and_its_tables_in_one_commit() {
    let set = Set::new();
    let path = set.path("actor.sqlite");
    let form = Form {
        wal: true,
        ..Form::default()
    };
    let stock = empty(&path, form);
    let serialised = [0xFF, 0x0F, b'"', 2, b'h', b'i'];
    stock
        .exec(
            "CREATE TABLE _cf_KV (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
            CREATE TABLE _cf_METADATA (key INTEGER PRIMARY KEY, value BLOB);
            CREATE TABLE _cf_EXTERNALS (key TEXT, idx INTEGER, token BLOB, PRIMARY KEY (key, idx)) WITHOUT ROWID;
            CREATE TABLE bird(name TEXT);
            INSERT INTO bird VALUES ('dove');
            INSERT INTO _cf_METADATA VALUES (1, 1700000000123000001), (2, 5)",
            (),
        )
        .unwrap();
    for key in ["", "a", "größe 🕊", "nul\0inside"] {
        let row = [key.into(), serialised.as_slice().into()];
        stock
            .exec("INSERT INTO _cf_KV VALUES (?, ?)", &row)
            .unwrap();
    }
    let records = set.engine.stats().log.records;
    let imported = set.import(1, &path).unwrap();
    assert_eq!(set.engine.stats().log.records, records + 1);
    assert_eq!(imported.keys, 4);
    assert_eq!(imported.alarm_ms, Some(1_700_000_000_124), "never early");
    assert_eq!(imported.left_out, ["_cf_EXTERNALS"]);

    let fs = set.fs.power_loss();
    let (engine, class) = common::open_with(&fs, 4 << 20).unwrap();
    let awake = wake(&engine, class, 1);
    for key in ["", "a", "größe 🕊", "nul\0inside"] {
        let object = awake.object.lock();
        let value = object.get(key.as_bytes()).unwrap();
        assert_eq!(value.as_deref(), Some(&serialised[..]), "{key:?}");
    }
    assert_eq!(
        awake.object.lock().alarms(),
        [Alarm {
            due_ms: 1_700_000_000_124,
            ..Alarm::default()
        }]
    );
    assert_eq!(awake.number("SELECT count(*) FROM bird"), 1);
    let names = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%cf%'";
    assert_eq!(awake.number(names), 0);
    assert!(awake.object.lock().page_count() <= 4);
    awake.assert_whole();
}

#[test]
fn keys_without_tables_make_no_database_and_an_empty_file_makes_nothing() {
    let set = Set::new();
    let path = set.path("keys.sqlite");
    let stock = empty(&path, Form::default());
    stock
        .exec(
            "CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
            CREATE TABLE _cf_METADATA(key INTEGER PRIMARY KEY, value BLOB);
            INSERT INTO _cf_METADATA VALUES (1, 0);
            INSERT INTO _cf_KV VALUES ('k', x'00')",
            (),
        )
        .unwrap();
    let imported = set.import(1, &path).unwrap();
    assert_eq!((imported.pages, imported.keys), (0, 1));
    assert_eq!(imported.alarm_ms, Some(0), "0 is a time");
    assert_eq!(set.object(1).page_count(), 0);

    let nothing = set.path("nothing.sqlite");
    std::fs::write(&nothing, "").unwrap();
    assert!(set.import(2, &nothing).unwrap().ticket.is_none());
    drop(empty(&nothing, Form::default()));
    assert!(set.import(2, &nothing).unwrap().ticket.is_none());
    assert!(set.object(2).is_empty());
    Import::new(&nothing)
        .replace(true)
        .run(&mut set.object(1))
        .unwrap();
    assert!(set.object(1).is_empty(), "replaced by nothing");
}

#[test]
fn an_export_for_workerd_comes_back_as_it_was() {
    let set = Set::new();
    let path = set.path("a.sqlite");
    let stock = full(&path, Form::default());
    let expected = content(&stock);
    set.import(1, &path).unwrap();
    let mut object = set.object(1);
    object.put(b"key", &[1; 5000]).unwrap();
    object.put("größe".as_bytes(), b"").unwrap();
    object.set_alarm(Alarm {
        due_ms: 1_800_000_000_000,
        ..Alarm::default()
    });
    object.commit().unwrap();
    let mut only_keys = set.object(2);
    only_keys.put(b"key", b"value").unwrap();
    for (object, number) in [(&object, 3), (&only_keys, 4)] {
        let out = set.path(&format!("out{number}.sqlite"));
        assert!(
            Database::export_for_workerd(object, &out)
                .unwrap()
                .is_empty()
        );
        let stock = Connection::open_file(&out).unwrap();
        assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
        drop(stock);
        set.import(number, &out).unwrap();
        let copy = set.object(number);
        assert_eq!(copy.alarms(), object.alarms());
        for key in ["key", "größe"] {
            let key = key.as_bytes();
            assert_eq!(copy.get(key).unwrap(), object.get(key).unwrap());
        }
        assert_eq!(copy.page_count() == 0, object.page_count() == 0);
    }
    let mut found = set.exported(3);
    found.retain(|row| expected.contains(row));
    assert!(
        found.len() >= expected.len() - 1,
        "all but the schema version"
    );

    only_keys.put(&[0xFF], b"").unwrap();
    let failed = Database::export_for_workerd(&only_keys, &set.path("bad.sqlite"));
    assert!(failed.unwrap_err().to_string().contains("not UTF-8"));
    assert!(!set.path("bad.sqlite").exists(), "half a file is none");
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let set = Set::new();
    let path = set.path("cut.sqlite");
    let bytes = small(
        &path,
        "CREATE TABLE t(a); INSERT INTO t VALUES (zeroblob(3000)), ('x')",
    );
    assert!(bytes.len() > 3000);
    for cut in (1..200).chain((200..bytes.len()).step_by(97)) {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let refusal = set.refused(&path);
        let is_right = match cut {
            ..16 => matches!(refusal, Refusal::NotADatabase(_)),
            _ => matches!(refusal, Refusal::Damaged(_)),
        };
        assert!(is_right, "{cut}: {refusal:?}");
    }
}

#[test]
fn bad_headers_are_named() {
    let set = Set::new();
    let path = set.path("cut.sqlite");
    let bytes = small(&path, "CREATE TABLE t(a); INSERT INTO t VALUES (1)");
    let cases: [(usize, &[u8], &str); 14] = [
        (0, b"SQLite format 2\0", "encrypted"),
        (0, &[0x5A; 100], "encrypted"),
        (16, &[0, 0], "pages of 0 bytes"),
        (16, &[0x03, 0], "pages of 768 bytes"),
        (16, &[0x01, 0], "pages of 256 bytes"),
        (18, &[0], "version of 0"),
        (18, &[9], "does not know"),
        (19, &[3], "does not know"),
        (20, &[200], "reserves 200"),
        (21, &[65], "fractions"),
        (44, &[0, 0, 0, 9], "schema format 9"),
        (56, &[0, 0, 0, 4], "encoding 4"),
        (28, &[0, 0, 1, 0], "counts 256 pages, there are 2"),
        (100, &[0], "is damaged"),
    ];
    for (at, patch, expected) in cases {
        let mut bad = bytes.clone();
        bad[at..at + patch.len()].copy_from_slice(patch);
        std::fs::write(&path, bad).unwrap();
        let message = set.refused(&path).to_string();
        assert!(message.contains(expected), "{at}: {message}");
    }
    std::fs::write(&path, "just a text, but one that is longer than a hundred bytes, so that it could have a header, which it has not").unwrap();
    assert!(matches!(set.refused(&path), Refusal::NotADatabase(_)));
    assert!(matches!(
        set.refused(set.dir.path()),
        Refusal::NotADatabase(_)
    ));
    assert!(matches!(set.refused(&set.path("absent")), Refusal::Io(_)));
}

#[test]
fn schemas_that_an_object_cannot_have_are_refused_by_name() {
    let set = Set::new();
    let schema = "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ";
    let cases = [
        ("CREATE VIRTUAL TABLE d USING dbstat".into(), "dbstat"),
        ("CREATE VIRTUAL TABLE f USING fts4(a)".into(), "fts4"),
        (format!("{schema} ('table', 'm', 'm', 0, 'CREATE VIRTUAL TABLE m USING nosuch(a)')"), "nosuch"),
        ("CREATE VIRTUAL TABLE _cf_f USING fts5(a)".into(), "_cf_f"),
        ("CREATE VIEW v AS SELECT * FROM _cf_KV".into(), "\"v\" uses a name"),
        ("CREATE VIEW _CF_v AS SELECT 1".into(), "_CF_v"),
        ("CREATE INDEX _cf_i ON t(a)".into(), "_cf_i"),
        (
            "CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM \"_cf_METADATA\"; END".into(),
            "\"tr\" uses a name",
        ),
        ("CREATE TABLE c(a REFERENCES _Cf_KV(key))".into(), "\"c\" uses a name"),
        (format!("{schema} ('odd', 'o', 'o', 2, 'CREATE TABLE o(a)')"), "is damaged"),
        (format!("{schema} ('table', 'o', 'o', 2, 'CREATE TABLE o(a)')"), "2nd reference"),
        (format!("{schema} ('table', 'o', 'o', 900, 'CREATE TABLE o(a)')"), "is damaged"),
        (format!("{schema} ('table', 'o', 'o', 3, 'SELECT 1')"), "is damaged"),
        (
            format!("{schema} ('table', 'tr', 't', 0, 'CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END')"),
            "is damaged",
        ),
        (
            format!("{schema} ('table', 'n', 'n', 3, 'CREATE TABLE n AS WITH RECURSIVE i(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM i) SELECT a FROM i')"),
            "is damaged",
        ),
        (
            format!("CREATE TABLE u(a UNIQUE); {schema} ('odd', 'sqlite_autoindex_u_1', 'u', (SELECT rootpage FROM sqlite_schema WHERE type = 'index'), NULL)"),
            "another one",
        ),
("CREATE TABLE _cf_KV(key, value, more)".into(), "other columns"),
        ("CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value AS (hex(key)))".into(), "other columns"),
        ("CREATE TABLE _cf_KV(key, value); INSERT INTO _cf_KV VALUES ('a', 'text')".into(), "not a blob"),
        ("CREATE TABLE _cf_KV(key, value); INSERT INTO _cf_KV VALUES (1, x'00')".into(), "not UTF-8 text"),
        (
            "CREATE TABLE _cf_KV(key, value); INSERT INTO _cf_KV VALUES (CAST(x'ff' AS TEXT), x'00')".into(),
            "not UTF-8 text",
        ),
        ("CREATE TABLE _cf_METADATA(key, value); INSERT INTO _cf_METADATA VALUES (1, 'now')".into(), "not a time"),
        ("CREATE TABLE _cf_METADATA(key, value); INSERT INTO _cf_METADATA VALUES (1, -1)".into(), "not a time"),
    ];
    for (sql, expected) in cases {
        let sql: String = sql;
        let path = set.path("hostile.sqlite");
        small(&path, &format!("CREATE TABLE t(a); {sql}"));
        let message = set.refused(&path).to_string();
        assert!(message.contains(expected), "{sql}: {message}");
    }
}

#[test]
fn what_is_too_large_is_refused_with_the_limit_and_what_the_store_refuses_changes_nothing() {
    let set = Set::new();
    let path = set.path("a.sqlite");
    drop(full(&path, Form::default()));
    let mut object = set.object(1);
    object.put(b"key", b"value").unwrap();
    assert!(matches!(
        Import::new(&path).replace(true).run(&mut object),
        Err(Error::Type(_))
    ));
    object.commit().unwrap();

    let refused = |import: Import, object: &mut Object| match import.run(object) {
        Err(Error::Import { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        refused(Import::new(&path), &mut object),
        Refusal::NotEmpty
    ));
    let message = refused(
        Import::new(&path).replace(true).bytes_max(9999),
        &mut object,
    )
    .to_string();
    assert!(message.contains("the limit is 9999"), "{message}");

    let quota = Quota {
        object_bytes: Some(20_000),
        ..Quota::default()
    };
    set.engine.set_quota(set.class, quota);
    let failed = Import::new(&path).replace(true).run(&mut object);
    assert!(
        matches!(failed, Err(Error::Engine(EngineError::Quota { .. }))),
        "{failed:?}"
    );
    assert!(!object.is_touched() && object.page_count() == 0);
    assert_eq!(object.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));

    set.engine.set_quota(set.class, Quota::default());
    let imported = Import::new(&path).replace(true).run(&mut object).unwrap();
    assert_eq!(object.page_count(), imported.pages);
    assert_eq!(object.get(b"key").unwrap(), None);
}

#[test]
fn a_large_file_is_imported_with_less_memory_than_it_has() {
    let set = Set::new();
    let path = set.path("large.sqlite");
    let stock = empty(&path, Form::default());
    stock
        .exec(
            "CREATE TABLE t(a BLOB);
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
            INSERT INTO t SELECT randomblob(30000) FROM n",
            (),
        )
        .unwrap();
    let expected = content(&stock);
    let fs = SimFs::new(2);
    let builder = Engine::builder("store")
        .fs(std::sync::Arc::new(fs))
        .segment_bytes(4 << 20);
    let engine = builder
        .open_transaction_bytes(1 << 20)
        .without_threads()
        .open()
        .unwrap();
    let class = engine.class("Test").unwrap();
    let mut object = engine.wake(class, id(1)).unwrap();
    Import::new(&path).run(&mut object).unwrap();
    assert!(object.is_big());
    object.put(b"key", b"value").unwrap();
    object.commit().unwrap();
    Import::new(&path).replace(true).run(&mut object).unwrap();
    assert_eq!(object.get(b"key").unwrap(), None);
    let out = set.path("out.sqlite");
    Database::export(&object, &out).unwrap();
    let stock = Connection::open_file(&out).unwrap();
    assert_eq!(stock.integrity_check().unwrap(), Vec::<String>::new());
    assert!(content(&stock) == expected);
}

#[test]
fn names_come_from_the_metadata_of_a_directory() {
    let set = Set::new();
    let path = set.path("metadata.sqlite");
    let stock = empty(&path, Form::default());
    stock
        .exec("CREATE TABLE _cf_ALARM(actor_id TEXT PRIMARY KEY, scheduled_time INTEGER) WITHOUT ROWID", ())
        .unwrap();
    assert_eq!(names_in_metadata(&path).unwrap(), []);
    let row = [id(7).to_string().into()];
    stock
        .exec(
            "ALTER TABLE _cf_ALARM ADD COLUMN actor_name TEXT;
            INSERT INTO _cf_ALARM VALUES ('not an id', 1, 'x'), ('00', 1, NULL);
            INSERT INTO _cf_ALARM VALUES (?, 5, 'lobby')",
            &row,
        )
        .unwrap();
    assert_eq!(
        names_in_metadata(&path).unwrap(),
        [(id(7), "lobby".to_owned())]
    );
    std::fs::write(&path, "nonsense").unwrap();
    assert!(
        names_in_metadata(&path)
            .unwrap_err()
            .to_string()
            .contains("metadata.sqlite")
    );
}
