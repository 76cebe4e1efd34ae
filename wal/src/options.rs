//! How a log is opened.

use crate::teeth::Teeth;

/// Who runs the committer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drive {
    /// A thread of its own, named `dovehouse-commit`.
    #[default]
    Thread,
    /// The caller: waiting for a ticket lays out and writes what is queued. For deterministic tests.
    Caller,
}

/// Options of a log. `..Default::default()` fills the rest.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment of a *new* store, a multiple of 4 KiB, from 64 KiB to 2 GiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// A batch takes no further record beyond this size. Default 512 KiB.
    pub batch_bytes: usize,
    /// How many records wait for the committer before [`Log::append`](crate::Log::append) blocks.
    /// Default 8,192.
    pub queue_records: usize,
    /// How many bytes of records wait for the committer before [`Log::append`](crate::Log::append) waits for
    /// it; one record may always wait. Default 64 MiB.
    pub queue_bytes: u64,
    /// Who runs the committer.
    pub drive: Drive,
    /// A fault to plant in tests.
    pub teeth: Teeth,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 64 << 20,
            batch_bytes: 512 << 10,
            queue_records: 8192,
            queue_bytes: 64 << 20,
            drive: Drive::default(),
            teeth: Teeth::default(),
        }
    }
}

impl LogOptions {
    /// The largest record body of a store with segments of this size.
    pub fn record_bytes_max(segment_bytes: u64) -> usize {
        (segment_bytes / 4).min(8 << 20) as usize
    }
}
