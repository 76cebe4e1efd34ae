//! From memory to tables, and out of them: with each checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dovehouse_wal::bytes::{Put, Reader};
use dovehouse_wal::fs::Fs;
use dovehouse_wal::{Access, Lsn};
use parking_lot::{Mutex, RwLock};

use super::History;
use super::read::Subject;
use super::retention::{Kept, Retention};
use super::scan::{Known, Scan};
use super::tables::{Facts, Listing, Tables};
use super::thin::Thinned;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::Slot;
use crate::slots::Entry;
use crate::stats::HistoryStats;

/// A wall clock that goes forward by more than this, beyond the time that has passed, is not believed.
const JUMP_MS: u64 = 60 * 60 * 1000;

/// A table of a group with this bit is to be thinned out when it is a day old; with both, it was.
const TO_BE_THINNED: u32 = 1 << 31;
const THINNED: u32 = 1 << 30;
const FOREVER: u32 = THINNED - 1;

/// What is older than this is thinned out, in classes that want it.
const EXACT_MS: u64 = 24 * 60 * 60 * 1000;

/// Tables of classes that keep history for the same time are of one group: that time in seconds, and whether
/// they are thinned out.
fn group(retention: Retention, is_thinned: bool) -> u32 {
    let seconds = retention.ms().div_ceil(1000);
    let thinned = if is_thinned { TO_BE_THINNED } else { 0 };
    u32::try_from(seconds).unwrap_or(FOREVER).min(FOREVER) | thinned
}

fn group_ms(group: u32) -> u64 {
    match group & FOREVER {
        FOREVER => u64::MAX,
        seconds => u64::from(seconds) * 1000,
    }
}

/// How history is opened.
pub(crate) struct Start<'a> {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) store_id: u128,
    pub(crate) access: Access,
    pub(crate) default: Retention,
    pub(crate) memory_bytes: usize,
    /// What the manifest says of it; nothing in a store of an earlier version, or a new one.
    pub(crate) payload: &'a [u8],
    /// The end of the log, and the time of its last batch; 0 in a new store.
    pub(crate) end: Lsn,
    pub(crate) last_ms: u64,
}

impl History {
    pub(crate) fn open(start: Start<'_>) -> Result<Self> {
        let malformed = || Error::damaged("the manifest", "a field of the history ends early");
        let mut reader = Reader::new(start.payload);
        let (resume_at, kept, named) = if start.payload.is_empty() {
            // What was committed before has no history.
            let kept = Kept::new(start.default, start.last_ms);
            (start.end, kept, Listing::default())
        } else {
            let resume_at = reader.varint().map(Lsn::from_u64).ok_or_else(malformed)?;
            let kept = Kept::decode(start.default, &mut reader).ok_or_else(malformed)?;
            let named = Listing::decode(&mut reader).ok_or_else(malformed)?;
            (resume_at, kept, named)
        };
        let clock = (start.fs.now_ms(), start.fs.elapsed_us());
        let tables = Tables::open(start.fs, start.dir, start.store_id, start.access, &named)?;
        let scan = Scan {
            position: resume_at,
            known: Known::new(start.memory_bytes / 2),
            ..Scan::default()
        };
        Ok(History {
            scan: Mutex::new(scan),
            recent: RwLock::default(),
            recent_bytes: AtomicUsize::new(0),
            recent_bytes_max: start.memory_bytes / 2,
            tables,
            kept: RwLock::new(kept),
            resume_at: Mutex::new(resume_at),
            clock: Mutex::new(clock),
            clock_jumped: AtomicBool::new(false),
        })
    }

    /// What the manifest says of it. Tables that it names no more may be removed once it is durable.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        // Before the tables: these may have more than what a scan from there finds again.
        out.put_varint(self.resume_at.lock().as_u64());
        self.kept.read().encode(out);
        self.tables.encode(out);
    }

    /// A manifest that was encoded before is durable.
    pub(crate) fn checkpointed(&self) {
        // One that cannot be removed now is removed the next time.
        let _ = self.tables.remove_dropped();
    }

    /// Where a scan after a crash would begin: what commits before it replaced may be freed.
    pub(crate) fn freed_to(&self) -> Lsn {
        match self.keeps_any() {
            true => *self.resume_at.lock(),
            false => Lsn::from_u64(u64::MAX),
        }
    }

    /// Writes what is in memory into tables: one for each time for which classes keep it, so that each can
    /// be let go of as a whole.
    fn flush(&self, scan: &Scan) -> Result<()> {
        let group_of = {
            let kept = self.kept.read().clone();
            move |class| match kept.retention(class) {
                Retention::Off => None,
                retention => Some(group(retention, kept.is_thinned(class))),
            }
        };
        let mut groups: BTreeMap<u32, Facts> = BTreeMap::new();
        {
            let recent = self.recent.read();
            let mut sorted: Vec<_> = recent.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| **key);
            for (_, entry) in &sorted {
                let Some(group) = group_of(entry.class) else {
                    continue;
                };
                let facts = groups.entry(group).or_insert_with(|| Facts {
                    group,
                    classes: BTreeSet::new(),
                    first_ms: u64::MAX,
                    last_ms: 0,
                });
                facts.classes.insert(entry.class);
                facts.first_ms = facts.first_ms.min(entry.time_ms);
                facts.last_ms = facts.last_ms.max(entry.time_ms);
            }
            for (group, facts) in groups {
                let ours = sorted
                    .iter()
                    .filter(|(_, entry)| group_of(entry.class) == Some(group))
                    .map(|(key, entry)| Ok((**key, entry.value.clone())));
                self.tables.add(facts, ours)?;
            }
        }
        self.forget_recent();
        let resume_at = scan.resume_at();
        *self.resume_at.lock() = resume_at;
        Ok(())
    }

    /// The time, if it is believed.
    fn believed_ms(&self, fs: &dyn Fs) -> Option<u64> {
        let now = (fs.now_ms(), fs.elapsed_us());
        let then = std::mem::replace(&mut *self.clock.lock(), now);
        let passed_ms = now.1.saturating_sub(then.1) / 1000;
        if now.0.saturating_sub(then.0) > passed_ms + JUMP_MS {
            self.clock_jumped.store(true, Ordering::Relaxed);
        }
        (!self.clock_jumped.load(Ordering::Relaxed)).then_some(now.0)
    }

    /// Lets tables go whose classes keep nothing so old.
    fn expire(&self, now_ms: u64) {
        self.drop_where(|kept, facts| {
            let of_classes = facts
                .classes
                .iter()
                .map(|class| kept.retention(*class).ms());
            // Of one that cannot be read the classes are not known.
            let ms = of_classes.max().unwrap_or(group_ms(facts.group));
            facts.last_ms.saturating_add(ms) <= now_ms && !kept.is_pinned(facts)
        });
    }

    /// The disk has no room: the oldest table goes. Returns whether there was one.
    fn drop_oldest(&self) -> bool {
        let mut is_first = true;
        self.drop_where(|kept, facts| {
            !kept.is_pinned(facts) && std::mem::replace(&mut is_first, false)
        })
    }

    fn drop_where(&self, mut is_over: impl FnMut(&Kept, &Facts) -> bool) -> bool {
        // Held meanwhile: a fork either pins what it needs before, or finds that it is gone.
        let mut kept = self.kept.write();
        let dropped = self.tables.drop_where(|facts| is_over(&kept, facts));
        for facts in &dropped {
            match facts.classes.is_empty() {
                true => kept.let_all_go(facts.last_ms),
                false => facts
                    .classes
                    .iter()
                    .for_each(|class| kept.let_go(*class, facts.last_ms)),
            }
        }
        !dropped.is_empty()
    }

    fn thin_one(&self, now_ms: u64) -> Result<bool> {
        // What is a point of a fork's origin is not known here.
        let is_free = |facts: &Facts| !self.kept.read().is_pinned(facts);
        self.tables.rewrite_one(
            |facts| {
                let is_due = facts.group & (TO_BE_THINNED | THINNED) == TO_BE_THINNED;
                is_due && is_free(facts) && facts.last_ms.saturating_add(EXACT_MS) <= now_ms
            },
            |facts| facts.group | THINNED,
            Thinned::new,
            |facts| {
                let kept = self.kept.read();
                (!kept.is_pinned(facts)).then_some(kept)
            },
        )
    }

    pub(crate) fn stats(&self) -> HistoryStats {
        let mut stats = HistoryStats {
            memory_bytes: self.recent_bytes.load(Ordering::Relaxed),
            ..HistoryStats::default()
        };
        for table in self
            .tables
            .members()
            .iter()
            .flat_map(|member| &member.table)
        {
            stats.tables += 1;
            stats.table_bytes += table.bytes;
            stats.entries += table.entries;
            stats.memory_bytes += table.memory_bytes();
        }
        stats
    }

    fn forget_recent(&self) {
        // Only the scan adds to it, and that waits.
        self.recent.write().clear();
        self.recent_bytes.store(0, Ordering::Relaxed);
    }
}

impl Inner {
    /// Brings history into tables up to the durable end of the log, and lets go of what is too old.
    pub(crate) fn keep_history(&self) -> Result<()> {
        let mut complete = self.forks_without_shares();
        self.follow_log()?;
        let scan = self.history.scan.lock();
        // What is being settled in a leaf may be told as its origin's.
        complete.retain(|fork| !scan.leaves.contains_key(&fork.tree.slot));
        self.flush_history(&scan, 0)?;
        drop(scan);
        if let Some(now_ms) = self.history.believed_ms(&*self.fs) {
            self.let_origins_go(&complete, now_ms.max(self.log.last_time_ms()));
            self.history.expire(now_ms);
        }
        Ok(())
    }

    /// Whether history has something of the object in a slot, which keeps its id and its slot from others.
    pub(crate) fn has_past(&self, slot: Slot, entry: &Entry) -> Result<bool> {
        let of = Subject {
            slot,
            generation: entry.generation,
        };
        Ok(self.history.keeps(entry.class) && self.history.has(of)?)
    }

    /// Merges tables and thins them out as long as that is worth it, a few at most. The next checkpoint names the
    /// outcome.
    pub(crate) fn merge_history(&self) -> Result<()> {
        const AT_A_TIME: usize = 4;
        let now_ms = self.fs.now_ms();
        for _ in 0..AT_A_TIME {
            let merged = match self.history.tables.merge_one(now_ms) {
                Ok(false) => self.history.thin_one(now_ms),
                merged => merged,
            };
            match merged {
                Ok(true) => {}
                Ok(false) => break,
                // It can wait until there is room.
                Err(error) if error.is_full() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn flush_history_if_full(&self, scan: &Scan) -> Result<()> {
        let (history, max) = (&self.history, self.history.recent_bytes_max);
        match history.recent_bytes.load(Ordering::Relaxed) > max {
            // Whoever only looks has it in memory.
            true if !self.read_only => self.flush_history(scan, 2 * max),
            _ => Ok(()),
        }
    }

    /// Writes what is in memory. On a full disk commits matter more than what was: the oldest history goes, and
    /// the newest, if it takes more memory than `memory_bytes` and there is none that is older. But not what forks
    /// need.
    fn flush_history(&self, scan: &Scan, memory_bytes: usize) -> Result<()> {
        let history = &self.history;
        match history.flush(scan) {
            Err(error) if error.is_full() => {
                let too_much = history.recent_bytes.load(Ordering::Relaxed) > memory_bytes;
                let has_dropped = history.drop_oldest();
                if !has_dropped && too_much && history.kept.read().pins_any() {
                    // Whoever makes the checkpoint gives a segment back for it.
                    return Err(error);
                }
                if !has_dropped && too_much {
                    history.lose_all(self.log.last_time_ms());
                    history.forget_recent();
                    *history.resume_at.lock() = scan.resume_at();
                }
                Ok(())
            }
            flushed => flushed,
        }
    }
}
