//! SQLite on the objects of the engine: each object can have a database of its own, whose commits are
//! records of the shared log.
//!
//! Stock SQLite, through a VFS: [`Database`] opens one on an awake object, and what SQL, keys and alarm
//! wrote in one turn becomes one record. [`Connection`] is the plain thing underneath, which also opens
//! ordinary SQLite files.
//!
//! This crate does **not** know actors: who runs which statement, and when a turn ends, is for the layer
//! above.

#![deny(unsafe_code)]

mod allowed;
mod connection;
mod counters;
mod cursor;
mod database;
mod diff;
mod error;
mod export;
#[cfg(feature = "faults")]
pub mod faults;
#[cfg(not(feature = "faults"))]
mod faults;
#[allow(unsafe_code)]
mod ffi;
mod file;
#[allow(unsafe_code)]
mod functions;
#[allow(unsafe_code)]
mod hooks;
mod idle;
mod import;
mod introspect;
mod kv_table;
mod limited;
#[cfg(feature = "loadable")]
#[allow(unsafe_code)]
pub mod loadable;
mod math;
mod migrations;
mod pages;
mod parameters;
mod policy;
mod pool;
mod row;
mod running;
mod scratch;
mod template;
mod text;
mod value;
#[allow(unsafe_code)]
mod vfs;
mod vtab;

pub use connection::{Connection, memory_used};
pub use counters::Counters;
pub use cursor::{Access, Cursor, IntoIter, Raw, Statements};
pub use database::{Database, Savepoint};
pub use diff::{
    AlarmChange, AlarmState, Counts, Diff, KeyChange, KeysDiff, RowChange, SchemaChange, TableDiff,
};
pub use error::{Error, Result};
pub use file::SharedObject;
pub use import::{Import, Imported, Refusal, names_in_metadata};
pub use parameters::Parameters;
pub use policy::{Budget, Limit, Rule, SqlPolicy};
pub use pool::{Pool, PoolSizes, Slot};
pub use row::{Column, Row};
pub use value::{FromValue, Value};
