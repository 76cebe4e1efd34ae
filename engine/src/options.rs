//! How an engine is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dovehouse_wal::fs::{Fs, RealFs};
use dovehouse_wal::{Access, Drive, LogOptions, Teeth};

use crate::engine::Engine;
use crate::error::Result;
use crate::history::Retention;
use crate::upkeep::Limits;

/// Settings of an engine; see [`Engine::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) dir: PathBuf,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) log: LogOptions,
    checkpoint_bytes: u64,
    checkpoint_ms: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) open_transaction_bytes: Option<usize>,
    pub(crate) dictionary_states: usize,
    pub(crate) background_threads: usize,
    pub(crate) retention: Retention,
}

/// What an overlay entry takes, with its places in the maps of ids and alarms.
const OVERLAY_ENTRY_BYTES: u64 = 512;

/// Below this, checkpoints would follow each other for nothing.
const MEMORY_BYTES_MIN: u64 = 8 << 20;

impl Builder {
    pub(crate) fn new(dir: &Path) -> Self {
        Builder {
            dir: dir.to_owned(),
            fs: Arc::new(RealFs),
            log: LogOptions::default(),
            checkpoint_bytes: 256 << 20,
            checkpoint_ms: 60_000,
            memory_bytes: 256 << 20,
            open_transaction_bytes: None,
            dictionary_states: 1000,
            background_threads: 2,
            retention: Retention::DEFAULT,
        }
    }

    /// The size of a segment file of a new store: a multiple of 4 KiB from 64 KiB to 2 GiB. An
    /// existing store keeps its own. Objects and commits are limited to about a quarter of it.
    /// Default 64 MiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.log.segment_bytes = bytes;
        self
    }

    /// Log bytes after which a checkpoint is made; they bound the time to reopen after a crash.
    /// Default 256 MiB.
    pub fn checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }

    /// Milliseconds after which a checkpoint is made if anything was written. Default 60,000.
    pub fn checkpoint_ms(mut self, ms: u64) -> Self {
        self.checkpoint_ms = ms;
        self
    }

    /// Memory that the engine keeps to, in bytes; at least 8 MiB. Index entries that changed since the last
    /// checkpoint take up to a half: at a quarter a checkpoint starts, at a half commits wait for it. Records
    /// that wait for the committer take an eighth, what compaction moves in one round another, what was read of
    /// big objects the third, and what their open transactions have written the last; history takes half an
    /// eighth before it is written; see
    /// [`Builder::open_transaction_bytes`]. On top of it come awake tiny objects, whose owner bounds them,
    /// about 100 bytes for each page that a big object's last commits changed, dictionaries of the classes in use (64 at
    /// most), and two counts for each segment. Default 256 MiB.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes.max(MEMORY_BYTES_MIN);
        self
    }

    /// What open transactions of big objects have in memory, all together, before they are written beside
    /// the log; a transaction without savepoints takes no more than that and about 150 bytes a page. Default:
    /// an eighth of [`Builder::memory_bytes`].
    pub fn open_transaction_bytes(mut self, bytes: usize) -> Self {
        self.open_transaction_bytes = Some(bytes);
        self
    }

    /// Threads beside the committer's: 2 (the default) for checkpoints and for compaction, 1 for both, or
    /// 0: then [`Engine::keep_up`] is to be called from time to time.
    pub fn background_threads(mut self, threads: usize) -> Self {
        self.background_threads = threads;
        self
    }

    /// After so many states of a class its compression dictionary is trained; and the dictionary is
    /// looked at again each time so many were stored. Default 1,000.
    pub fn dictionary_states(mut self, states: usize) -> Self {
        self.dictionary_states = states.max(1);
        self
    }

    /// For how long classes keep what their objects were, unless something else was [said](Engine::set_retention) of
    /// one, or [declared](Engine::declare_history). Not kept in the store. Default [`Retention::DEFAULT`], which is 30 days.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Another disk, clock and source of randomness.
    pub fn fs(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = fs;
        self
    }

    /// No threads at all: waiting for a ticket runs the committer, and [`Engine::keep_up`] does the rest.
    /// For deterministic tests, and for programs that must not have threads.
    pub fn without_threads(mut self) -> Self {
        self.log.drive = Drive::Caller;
        self
    }

    /// Plants a fault, to see whether tests notice.
    pub fn teeth(mut self, teeth: Teeth) -> Self {
        self.log.teeth = teeth;
        self
    }

    /// Opens the store, creating it if the directory has none.
    ///
    /// Starts three threads, `dovehouse-commit`, `dovehouse-upkeep` and `dovehouse-compact`, which end with
    /// the engine; fewer with [`Builder::background_threads`] and [`Builder::without_threads`].
    pub fn open(self) -> Result<Engine> {
        Engine::open_with(self, Access::Create)
    }

    /// Opens a store that exists.
    pub fn open_existing(self) -> Result<Engine> {
        Engine::open_with(self, Access::Write)
    }

    /// Opens a store for looking at it. Writes nothing: what a crash left in the log is replayed in
    /// memory. Fails while another process has it open for writing.
    pub fn open_read_only(self) -> Result<Engine> {
        Engine::open_with(self, Access::ReadOnly)
    }

    /// Opens a store whose log is damaged, for looking at it; see [`Error::DamagedLog`]. Objects that may
    /// have lost a commit fail with [`Error::Damaged`], the others are read as they are.
    ///
    /// [`Error::DamagedLog`]: crate::Error::DamagedLog
    /// [`Error::Damaged`]: crate::Error::Damaged
    pub fn open_damaged(self) -> Result<Engine> {
        Engine::open_with(self, Access::Damaged)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            log_bytes: self.checkpoint_bytes,
            age_ms: self.checkpoint_ms,
            overlay_entries: (self.memory_bytes / 4 / OVERLAY_ENTRY_BYTES) as usize,
        }
    }
}
