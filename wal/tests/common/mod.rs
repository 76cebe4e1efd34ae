//! A ledger and options for tests of the log.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;

use dovehouse_wal::{Drive, Ledger, LogOptions, Lsn, Placed, Teeth};
use parking_lot::Mutex;

pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// The last record of each object.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) last: Mutex<BTreeMap<u32, Lsn>>,
}

impl Ledger for Book {
    type Note = u32;

    fn place(&self, object: u32, placed: Placed) -> Lsn {
        self.last
            .lock()
            .insert(object, placed.lsn)
            .unwrap_or(Lsn::NONE)
    }
}

/// Small segments, and no thread: the caller drives the committer.
pub(crate) fn options(teeth: Teeth) -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT_BYTES,
        batch_bytes: 16 << 10,
        queue_records: 64,
        queue_bytes: 64 << 10,
        drive: Drive::Caller,
        teeth,
    }
}
