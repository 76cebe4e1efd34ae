//! Which segments compaction empties first.
//!
//! The score is that of log-structured file systems: what is gained, times how long it will last,
//! divided by the cost of reading the segment and writing what is live of it:
//! `(1 − u) · age / (1 + u)`. Old segments have settled: what is live there stays so. In young ones
//! more will die without help.

use std::collections::HashSet;
use std::sync::Arc;

use dovehouse_wal::{BLOCK_BYTES, Flaw, Pack, Position, Role, Segment};

use crate::compact::Pace;
use crate::engine::Inner;

/// A segment of which more is live is left as it is: it is as good as a pack.
const WORTH_IT: f64 = 0.85;

impl Inner {
    /// The victims of the next round: the best ones whose survivors fit into one pack.
    pub(crate) fn victims(
        &self,
        tried: &HashSet<u32>,
        pace: Pace,
        pack: Option<&Pack>,
    ) -> Vec<Arc<Segment>> {
        let mut budget = self.segment_room().min(self.round_bytes) as i64;
        let mut victims = self.worth_compacting(tried, pace);
        // One is always taken, unless there is no space but what the pack has left.
        let mut first = true;
        if pace == Pace::Pressed && !self.log.can_begin_pack() {
            budget = pack.map_or(0, Pack::room_bytes) as i64;
            first = false;
        }
        victims.retain(|victim| {
            let live = self.index.usage.live_bytes(victim.segno) as i64;
            let taken = std::mem::take(&mut first) || live <= budget;
            budget -= if taken { live } else { 0 };
            taken
        });
        victims
    }

    /// All segments that are worth it, the best first. On a full disk the emptiest are, whatever they
    /// have.
    pub(crate) fn worth_compacting(&self, tried: &HashSet<u32>, pace: Pace) -> Vec<Arc<Segment>> {
        let pressed = pace == Pace::Pressed;
        let replay_from = self.log.superblock().replay_from;
        let newest = self.log.position().lsn.segno();
        let mut scored = Vec::new();
        for segment in self.settled_segments(replay_from) {
            if tried.contains(&segment.segno) {
                continue;
            }
            let used = self.index.usage.live_bytes(segment.segno) as f64;
            let live = (used / self.segment_room() as f64).min(1.0);
            let age = f64::from(newest.abs_diff(segment.segno) + 1);
            match pressed {
                true if live < 1.0 => scored.push((1.0 - live, segment)),
                false if live < WORTH_IT => {
                    scored.push(((1.0 - live) * age / (1.0 + live), segment));
                }
                _ => {}
            }
        }
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().map(|(_, segment)| segment).collect()
    }

    /// The segments in which nothing changes any more, with the replay start there, oldest first.
    pub(crate) fn settled_segments(&self, replay_from: Position) -> Vec<Arc<Segment>> {
        let filling = self.filling.lock();
        let held = match self.teeth.has(Flaw::ForgetHolds) {
            false => self.blobs.held_segments(),
            true => HashSet::new(),
        };
        let mut segments = self.log.segments();
        segments.retain(|segment| match segment.role {
            Role::Pack => !filling.contains(&segment.segno),
            Role::Blob => !held.contains(&segment.segno),
            Role::Log => segment.segno < replay_from.lsn.segno(),
        });
        segments
    }

    /// The live bytes of all settled segments, and the room that they take.
    pub(crate) fn settled_bytes(&self) -> (u64, u64) {
        let segments = self.settled_segments(self.log.superblock().replay_from);
        let live = segments
            .iter()
            .map(|segment| self.index.usage.live_bytes(segment.segno));
        (live.sum(), segments.len() as u64 * self.segment_room())
    }

    /// What a segment holds at most.
    pub(crate) fn segment_room(&self) -> u64 {
        self.log.segment_bytes() - BLOCK_BYTES
    }
}
