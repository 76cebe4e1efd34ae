//! Objects with a database on the simulated disk.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub(crate) mod fixtures;
pub(crate) mod fuzz;
pub(crate) mod statements;

use std::sync::Arc;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{ClassId, Engine, ObjectId};
use dovehouse_sqlbridge::{Database, SharedObject, SqlPolicy, Value};

/// Segments that hold an object of some pages, and no threads.
pub(crate) fn open(fs: &SimFs) -> dovehouse_engine::Result<(Engine, ClassId)> {
    open_with(fs, 1 << 20)
}

pub(crate) fn open_with(
    fs: &SimFs,
    segment_bytes: u64,
) -> dovehouse_engine::Result<(Engine, ClassId)> {
    let builder = Engine::builder("store").fs(Arc::new(fs.clone()));
    let engine = builder
        .segment_bytes(segment_bytes)
        .without_threads()
        .open()?;
    let class = engine.class("Test")?;
    Ok((engine, class))
}

pub(crate) fn id(number: u8) -> ObjectId {
    ObjectId::from_bytes([number; 32])
}

/// An awake object and its database.
pub(crate) struct Awake {
    /// First, so that it is closed first.
    pub(crate) database: Database,
    pub(crate) object: SharedObject,
}

pub(crate) fn wake(engine: &Engine, class: ClassId, number: u8) -> Awake {
    wake_with(engine, class, number, &SqlPolicy::native())
}

pub(crate) fn wake_with(engine: &Engine, class: ClassId, number: u8, policy: &SqlPolicy) -> Awake {
    let object: SharedObject = Arc::new(engine.wake(class, id(number)).unwrap().into());
    Awake {
        database: Database::open_with(object.clone(), policy).unwrap(),
        object,
    }
}

impl Awake {
    pub(crate) fn run(&self, sql: &str) {
        self.database.exec(sql, &[]).unwrap();
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.database
            .exec(sql, &[])
            .unwrap()
            .one()
            .unwrap()
            .get(0)
            .unwrap()
    }

    pub(crate) fn commit(&self) {
        if let Some(ticket) = self.database.commit().unwrap() {
            ticket.wait().unwrap();
        }
    }

    /// Some rows, each about as large as this.
    pub(crate) fn fill(&self, rows: i64, bytes: i64) {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            INSERT INTO t(a) SELECT randomblob(?2) FROM n";
        self.database
            .exec(sql, &[Value::from(rows), Value::from(bytes)])
            .unwrap();
    }

    pub(crate) fn assert_whole(&self) {
        assert_eq!(
            self.database.integrity_check().unwrap(),
            Vec::<String>::new()
        );
    }
}
