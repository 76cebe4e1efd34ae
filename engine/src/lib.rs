//! An embedded store for millions of small objects that share one log.
//!
//! Each object has an id, a class, sorted keys, database pages, and alarms. It sleeps in a few hundred
//! bytes on disk; [`Engine::wake`] loads it with one read, its writes act on memory, and
//! [`Object::commit`] appends them as one record. One durable write serves the commits of many objects.
//!
//! This crate does **not** know SQLite and schedules nothing: who wakes an object, and when, is for the
//! layers above. It starts three threads and no async runtime.
//!
//! See `docs/architecture.md` for the way of a put, and `docs/format/` for every byte on disk.

#![deny(unsafe_code)]

mod alarms;
mod big;
mod cache;
mod checkpoint;
mod classes;
mod codec;
mod compact;
mod compress;
mod decode;
mod dictionaries;
mod dictionary;
mod doubt;
mod engine;
mod error;
mod expire;
mod group;
mod history;
mod id;
mod ids;
mod index;
#[allow(unsafe_code)]
mod index_file;
mod inspect;
mod kv;
mod liveness;
mod load;
mod mint;
mod object;
mod options;
mod overlay;
mod packing;
mod page_diff;
#[cfg(feature = "parts")]
#[doc(hidden)]
pub mod parts;
mod reclaim;
mod record;
mod remap;
mod replay;
mod slots;
mod space;
mod state;
mod stats;
mod survivors;
mod training;
mod upkeep;
mod usage;
mod victims;

pub use checkpoint::CheckpointReport;
pub use classes::{DEFAULT_TENANT, DELETED_TENANT};
pub use compact::{CompactReport, SegmentUsage};
pub use decode::{BlockPlace, Change, Decoded, Relocation};
pub use dovehouse_wal as wal;
pub use dovehouse_wal::{Flaw, Lsn, Teeth, Ticket, TicketState};
pub use engine::{Due, Engine, LogView};
pub use error::{Error, Result};
pub use history::{Bookmark, BookmarkError, Moment, RestoreAll, RestoredAll, Retention};
pub use id::{ClassId, ObjectId, ParseIdError, Slot};
pub use inspect::ObjectInfo;
pub use kv::List;
pub use mint::Minter;
pub use object::{KEY_BYTES_MAX, Listed, NAME_BYTES_MAX, Object, VALUE_BYTES_MAX};
pub use options::Builder;
pub use record::{Header, Kind, Meta};
pub use slots::Entry;
pub use space::Quota;
pub use state::{Alarm, PAGE_BYTES, Savepoint};
pub use stats::{DictionaryStats, HistoryStats, SegmentStats, Stats};
