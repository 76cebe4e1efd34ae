//! The shared log of dovehouse: bytes, their order, and when they are durable.
//!
//! This crate does **not** know objects, their state or their identity: a record is a kind, a body,
//! and a link to the record before it, which the [`Ledger`] above hands back.
//!
//! - [`fs`]: the file seam, and [`sim`]: a disk to break;
//! - [`Opening`]: lock a store, read its checkpoint, replay its log;
//! - [`Log`]: append records, wait on a [`Ticket`], read them back, name checkpoints;
//! - [`Pack`]: a segment beside the log, for records that are moved.
//!
//! Every byte on disk is described in `docs/format/`.

#![forbid(unsafe_code)]

mod batch;
mod batches;
pub mod bytes;
mod chain;
mod committer;
mod error;
pub mod fs;
mod hole;
mod log;
mod lsn;
mod options;
mod pack;
mod pool;
mod recovery;
mod room;
mod segment;
pub mod sim;
mod stats;
mod superblock;
mod teeth;
mod ticket;

pub use batch::{
    Batch, BatchHeader, FLAG_ENCRYPTED, FLAG_SKIPPABLE, FRAME_BYTES, HEADER_BYTES, RecordView,
};
pub use batches::Batches;
pub use error::{Error, Result};
pub use hole::{Hole, Remains};
pub use log::{Ledger, Log, OwnedRecord, Placed, Record};
pub use lsn::{DurableLsn, Lsn, Position};
pub use options::{Drive, LogOptions};
pub use pack::Pack;
pub use pool::Segment;
pub use recovery::{Access, Opening, Replayed};
pub use room::{Claim, RESERVE_SEGMENTS, Reservation};
pub use segment::{
    BLOCK_BYTES, FORMAT_MAJOR, FORMAT_MINOR, Role, SegmentHeader, check_file_start, put_file_start,
};
pub use stats::{KindStats, LATENCY_BUCKETS, Latency, LogStats};
pub use superblock::Superblock;
pub use teeth::{Flaw, Teeth};
pub use ticket::{Ticket, TicketState};
