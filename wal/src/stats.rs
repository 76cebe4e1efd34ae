//! Counters of a log, for whoever tunes it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the log was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) durable_writes: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) record_bytes: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) pack_bytes: AtomicU64,
    pub(crate) manifest_bytes: AtomicU64,
    pub(crate) zero_bytes: AtomicU64,
    write_us: [AtomicU64; LATENCY_BUCKETS],
    kinds: [KindCounters; KINDS],
}

#[derive(Debug, Default)]
struct KindCounters {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Kinds of records are counted up to this one; those above it together.
const KINDS: usize = 32;

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}

impl Counters {
    pub(crate) fn note_write(&self, us: u64) {
        add(&self.write_us[Latency::bucket(us)], 1);
    }

    pub(crate) fn note_record(&self, kind: u8, bytes: u32) {
        let counters = &self.kinds[usize::from(kind).min(KINDS - 1)];
        add(&counters.records, 1);
        add(&counters.bytes, u64::from(bytes));
    }

    pub(crate) fn kinds(&self) -> Vec<KindStats> {
        let all = self
            .kinds
            .iter()
            .zip(0..)
            .map(|(counters, kind)| KindStats {
                kind,
                records: counters.records.load(Relaxed),
                bytes: counters.bytes.load(Relaxed),
            });
        all.filter(|stats| stats.records > 0).collect()
    }

    pub(crate) fn latency(&self) -> Latency {
        Latency {
            counts: std::array::from_fn(|bucket| self.write_us[bucket].load(Relaxed)),
        }
    }
}

/// How many buckets a [`Latency`] has.
pub const LATENCY_BUCKETS: usize = 24;

/// How long something took, how often: bucket *n* counts what took less than 2ⁿ microseconds, and not
/// less than the bucket before. The last one also has all that took longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The counts.
    pub counts: [u64; LATENCY_BUCKETS],
}

impl Latency {
    fn bucket(us: u64) -> usize {
        ((u64::BITS - us.leading_zeros()) as usize).min(LATENCY_BUCKETS - 1)
    }

    /// An upper bound of what this share of all took, in microseconds: 0.5 for the median. `None` if
    /// nothing was counted.
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let all: u64 = self.counts.iter().sum();
        let wanted = ((all as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(1 << bucket)
    }
}

/// Records of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindStats {
    /// The kind.
    pub kind: u8,
    /// How many were appended.
    pub records: u64,
    /// Their bytes, frames included.
    pub bytes: u64,
}

/// Counters since the log was opened, and sizes now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// Durable writes of batches.
    pub durable_writes: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of those records, frames included.
    pub record_bytes: u64,
    /// The same for each kind that was appended.
    pub kinds: Vec<KindStats>,
    /// Bytes of those batches, with headers of batches and segments, and padding.
    pub log_bytes: u64,
    /// Bytes written to packs.
    pub pack_bytes: u64,
    /// Bytes of manifests and superblocks.
    pub manifest_bytes: u64,
    /// Zeros written to new segment files.
    pub zero_bytes: u64,
    /// How long the durable writes took.
    pub write_latency: Latency,
    /// The size of a segment file.
    pub segment_bytes: u64,
    /// Segment files, free ones included.
    pub segment_files: usize,
    /// Segment files that wait to be used.
    pub free_segments: usize,
    /// Whether the committer runs with real-time priority.
    pub realtime_committer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_bounds_what_was_counted_from_above() {
        let counters = Counters::default();
        assert_eq!(counters.latency().quantile_us(0.5), None);
        for us in [0, 1, 90, 100, 100, 110, 5_000, u64::MAX] {
            counters.note_write(us);
        }
        let latency = counters.latency();
        assert_eq!(latency.quantile_us(0.0), Some(1));
        assert_eq!(latency.quantile_us(0.5), Some(128));
        assert_eq!(latency.quantile_us(0.8), Some(8192));
        assert_eq!(latency.quantile_us(1.0), Some(1 << 23));
    }
}
