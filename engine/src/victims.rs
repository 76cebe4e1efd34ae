//! Which segments compaction empties first.
//!
//! The score is that of log-structured file systems: what is gained, times how long it will last,
//! divided by the cost of reading the segment and writing what is live of it:
//! `(1 − u) · age / (1 + u)`. Old segments have settled: what is live there stays so. In young ones
//! more will die without help.

use std::collections::HashSet;
use std::sync::Arc;

use dovehouse_wal::{BLOCK_BYTES, Segment};

use crate::engine::Inner;

/// A segment of which more is live is left as it is: it is as good as a pack.
const WORTH_IT: f64 = 0.85;

impl Inner {
    /// The victims of the next round: the best ones whose survivors fit into one pack.
    pub(crate) fn victims(&self, tried: &HashSet<u32>) -> Vec<Arc<Segment>> {
        let mut budget = self.segment_room().min(self.round_bytes) as i64;
        let mut victims = self.worth_compacting(tried);
        let mut first = true;
        victims.retain(|victim| {
            budget -= self.index.usage.live_bytes(victim.segno) as i64;
            std::mem::take(&mut first) || budget >= 0
        });
        victims
    }

    /// All segments that are worth it, the best first.
    pub(crate) fn worth_compacting(&self, tried: &HashSet<u32>) -> Vec<Arc<Segment>> {
        let replay_from = self.log.superblock().replay_from;
        let newest = self.log.position().lsn.segno();
        let mut scored = Vec::new();
        let reclaim = self.reclaim.lock();
        for segment in self.log.segments() {
            if tried.contains(&segment.segno) || !reclaim.is_settled(&segment, replay_from) {
                continue;
            }
            let used = self.index.usage.live_bytes(segment.segno) as f64;
            let live = (used / self.segment_room() as f64).min(1.0);
            if live < WORTH_IT {
                let age = f64::from(newest.abs_diff(segment.segno) + 1);
                scored.push(((1.0 - live) * age / (1.0 + live), segment));
            }
        }
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, segment)| segment).collect()
    }

    /// The live bytes of all segments that do not change any more, and the room that they take.
    pub(crate) fn settled_bytes(&self) -> (u64, u64) {
        let replay_from = self.log.superblock().replay_from;
        let reclaim = self.reclaim.lock();
        let segments = self.log.segments();
        let settled = segments
            .iter()
            .filter(|segment| reclaim.is_settled(segment, replay_from));
        settled.fold((0, 0), |(live, room), segment| {
            let live_here = self.index.usage.live_bytes(segment.segno);
            (live + live_here, room + self.segment_room())
        })
    }

    /// What a segment holds at most.
    pub(crate) fn segment_room(&self) -> u64 {
        self.log.segment_bytes() - BLOCK_BYTES
    }
}
