//! What must hold whatever the bytes of a file or the text of a statement are. For `tests/fuzz.rs` and for
//! the targets of cargo-fuzz in `fuzz/`.

use std::path::PathBuf;
use std::sync::Arc;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{ClassId, Engine, ObjectId};
use dovehouse_sqlbridge::{Database, Error, Import, Refusal, SharedObject, Value};

/// A store on the simulated disk for one input after the other.
pub(crate) struct Subject {
    engine: Engine,
    class: ClassId,
    dir: tempfile::TempDir,
    inputs: u64,
}

/// The simulated disk remembers what was written to it, so it is replaced from time to time.
const INPUTS_PER_STORE: u64 = 1000;
/// More than any input has.
const BYTES_MAX: u64 = 16 << 20;

impl Subject {
    pub(crate) fn new() -> Self {
        let fs = SimFs::new(1);
        let builder = Engine::builder("store").fs(Arc::new(fs)).without_threads();
        let engine = builder.segment_bytes(1 << 20).open().unwrap();
        let class = engine.class("Fuzz").unwrap();
        let dir = tempfile::tempdir().unwrap();
        Subject {
            engine,
            class,
            dir,
            inputs: 0,
        }
    }

    fn count(&mut self) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(INPUTS_PER_STORE) {
            *self = Subject::new();
        }
    }

    fn wake(&self) -> (Database, SharedObject) {
        let id = ObjectId::from_bytes([1; 32]);
        let object: SharedObject = Arc::new(self.engine.wake(self.class, id).unwrap().into());
        (Database::open(object.clone()).unwrap(), object)
    }

    fn input(&self) -> PathBuf {
        self.dir.path().join("input.sqlite")
    }

    /// A file of these bytes becomes a sound database, or is refused and leaves no trace; it is never
    /// changed. Returns whether it was taken.
    pub(crate) fn import(&mut self, bytes: &[u8]) -> bool {
        self.count();
        let path = self.input();
        std::fs::write(&path, bytes).unwrap();
        let id = ObjectId::from_bytes([2; 32]);
        let mut object = self.engine.wake(self.class, id).unwrap();
        let result = Import::new(&path).bytes_max(BYTES_MAX).run(&mut object);
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "the file was changed"
        );
        let imported = match &result {
            Ok(imported) => imported,
            Err(Error::Import {
                refusal: Refusal::Io(_) | Refusal::Sqlite { .. },
                ..
            }) => panic!("{result:?}"),
            Err(Error::Import { .. } | Error::Engine(_)) => {
                assert!(object.is_empty() && !object.is_touched());
                return false;
            }
            Err(other) => panic!("{other:?}"),
        };
        let object: SharedObject = Arc::new(object.into());
        if imported.pages > 0 {
            let database = Database::open(object.clone()).unwrap();
            // Rows may break a CHECK constraint: it can be turned off when they are written.
            database
                .exec("PRAGMA ignore_check_constraints = ON", ())
                .unwrap();
            assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
        }
        object.lock().clear(false);
        let ticket = object.lock().commit().unwrap();
        ticket.map(|ticket| ticket.wait().unwrap());
        true
    }

    /// Whatever an application runs, it commits nothing, and touches no file; `DIR` in the text stands for
    /// a directory that it could write to.
    pub(crate) fn run(&mut self, sql: &str) {
        self.count();
        let (database, object) = self.wake();
        if object.lock().is_empty() {
            database
                .exec(
                    "CREATE TABLE canary(a UNIQUE); INSERT INTO canary VALUES (42)",
                    &[],
                )
                .unwrap();
            database.commit().unwrap().unwrap().wait().unwrap();
        }
        let dir = self.dir.path().to_str().unwrap();
        let records = self.engine.stats().log.records;
        let before = settings(&database);
        drop(database.exec(&sql.replace("DIR", dir), ()));
        assert_eq!(settings(&database), before, "{sql}");
        database.rollback();
        drop((database, object));

        let (database, _object) = self.wake();
        let canary = database.exec("SELECT a FROM main.canary", ()).unwrap();
        assert_eq!(canary.one().unwrap().get::<i64>(0).unwrap(), 42, "{sql}");
        assert_eq!(self.engine.stats().log.records, records, "{sql}");
        let files = std::fs::read_dir(self.dir.path()).unwrap().count();
        assert_eq!(files, 0, "{sql}");
    }
}

/// What the bridge relies on, as far as an application may ask for it.
fn settings(database: &Database) -> Vec<Option<Value>> {
    let ask = |pragma: &&str| {
        let rows = database.exec(&format!("PRAGMA {pragma}"), ()).ok()?;
        Some(rows.one().ok()?.into_values().remove(0))
    };
    let pragmas = [
        "journal_mode",
        "locking_mode",
        "page_size",
        "synchronous",
        "auto_vacuum",
        "mmap_size",
    ];
    pragmas.iter().map(ask).collect()
}
