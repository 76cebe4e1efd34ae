//! Counters and sizes of a store, for whoever tunes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dovehouse_wal::{LogStats, Role, Segment};

use crate::engine::{Engine, Inner};
use crate::id::ClassId;

/// Counters since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) checkpoints: AtomicU64,
    pub(crate) compaction_rounds: AtomicU64,
    pub(crate) moved_objects: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}

/// A compression dictionary, and what it was used for since the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DictionaryStats {
    /// Its number.
    pub number: u32,
    /// The class whose images are compressed with it.
    pub class: ClassId,
    /// Whether the class's next image will be.
    pub is_current: bool,
    /// Whether it was trained, or is one state as it was; unknown (`false`) until it is used.
    pub is_trained: bool,
    /// Bytes that it holds; 0 until it is used.
    pub bytes: usize,
    /// Images that were written with it.
    pub images: u64,
    /// Their states before compression.
    pub state_bytes: u64,
    /// Their states after it.
    pub stored_bytes: u64,
}

/// A segment in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Its number.
    pub segno: u32,
    /// Whether compaction wrote it.
    pub is_pack: bool,
    /// Bytes that were written to it.
    pub used_bytes: u64,
    /// Bytes of live records: an estimate, see [`crate::SegmentUsage::live_bytes`].
    pub live_bytes: u64,
}

/// History on the disk, and in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryStats {
    /// Files.
    pub tables: usize,
    /// What they take, in bytes.
    pub table_bytes: u64,
    /// Entries in them: one for each commit, and one for each block of a big object that one changed.
    pub entries: u64,
    /// What is in memory: entries that no table has yet, and what is known of the tables.
    pub memory_bytes: usize,
    /// Forks of large objects that share blocks with what they were made of, or once did in their own history:
    /// these keep the history of their classes for longer.
    pub forks: usize,
}

/// Counters since the store was opened, and sizes now. All sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Those of the log: writes and how long they took, records, segment files.
    pub log: LogStats,
    /// Objects that are awake.
    pub awake: usize,
    /// Index entries in memory: changed since the last checkpoint, or awake.
    pub overlay_entries: usize,
    /// Blocks and leaves of big objects that are kept in memory to be read again.
    pub cache_bytes: u64,
    /// What open transactions of big objects have in memory.
    pub dirty_bytes: usize,
    /// Slots that were ever given to an object.
    pub slots: u64,
    /// Checkpoints that were made.
    pub checkpoints: u64,
    /// Log that a crash now would have to replay.
    pub replay_bytes: u64,
    /// Bytes of index pages that checkpoints wrote.
    pub index_bytes: u64,
    /// Rounds of compaction.
    pub compaction_rounds: u64,
    /// Objects that compaction moved.
    pub moved_objects: u64,
    /// Their records.
    pub moved_bytes: u64,
    /// Live records in segments that do not change any more: an estimate, see
    /// [`crate::SegmentUsage::live_bytes`].
    pub live_bytes: u64,
    /// Everything else in these segments: what compaction could give back.
    pub dead_bytes: u64,
    /// What objects were.
    pub history: HistoryStats,
    /// All segments in use, oldest first.
    pub segments: Vec<SegmentStats>,
    /// All compression dictionaries, oldest first.
    pub dictionaries: Vec<DictionaryStats>,
}

impl Inner {
    fn segment_stats(&self) -> Vec<SegmentStats> {
        let stats = |segment: Arc<Segment>| SegmentStats {
            segno: segment.segno,
            is_pack: segment.role == Role::Pack,
            used_bytes: u64::from(segment.end()),
            live_bytes: self.index.usage.live_bytes(segment.segno),
        };
        self.log.segments().into_iter().map(stats).collect()
    }
}

impl Engine {
    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let (live_bytes, settled_bytes) = inner.settled_bytes();
        Stats {
            log: inner.log.stats(),
            awake: inner.awake_count.load(Relaxed),
            overlay_entries: inner.index.overlay.len(),
            cache_bytes: inner.cache.bytes(),
            dirty_bytes: inner.dirty_bytes.load(Relaxed),
            slots: inner.index.slot_limit() - 1,
            checkpoints: count(&inner.counters.checkpoints),
            replay_bytes: inner.log_bytes_since_checkpoint(),
            index_bytes: inner.index.written_bytes(),
            compaction_rounds: count(&inner.counters.compaction_rounds),
            moved_objects: count(&inner.counters.moved_objects),
            moved_bytes: count(&inner.counters.moved_bytes),
            live_bytes,
            dead_bytes: settled_bytes.saturating_sub(live_bytes),
            history: HistoryStats {
                forks: inner.index.forks.all().len(),
                ..inner.history.stats()
            },
            segments: inner.segment_stats(),
            dictionaries: inner.dictionaries.stats(),
        }
    }
}
