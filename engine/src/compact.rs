//! Compaction: moves what is live out of mostly dead segments, so that these can be reused.
//!
//! A round:
//! 1. choose victims by cost and benefit (`victims.rs`);
//! 2. collect their survivors, and sort them by class, so that like lies with like;
//! 3. write each survivor whole into a pack, beside the log, durably;
//! 4. name the pack in a checkpoint;
//! 5. say where everything lies now, with REMAP records through the ordinary commit path. The
//!    committer compares: what was committed meanwhile stays where it is, and its copy is dead;
//! 6. the next checkpoint finds nothing live in the victims, and frees them (I6).
//!
//! A crash before 5 leaves a pack of dead records; after it, replay finds the moves. A version keeps
//! its number when it moves, and lies under no other: an object with deltas is written as an image.
//! While such an object is awake its owner counts the deltas, so it is asked for an image instead.

use std::collections::HashSet;
use std::sync::Arc;

use dovehouse_wal::{Claim, Pack, Record, Reservation, Segment, Ticket};

use crate::big::{Carrier, LEAF_BYTES_MAX, Leaf, LeafAt};
use crate::engine::{Engine, Inner};
use crate::error::Result;
use crate::expire::{Expired, encode_expire};
use crate::id::Slot;
use crate::index::{Move, Note};
use crate::packing::{Chained, Forgotten, MovedBlock, Packing, Written};
use crate::record::Kind;
use crate::remap::{Moved, encode_remap};
use crate::stats::add;
use crate::survivors::Collected;

/// Free segment files that stay beside the reserve, for the log and for the next packs; and which part
/// of all files.
const FREE_FILES_MIN: usize = 1;
const FREE_FILES_PART: usize = 20;

/// Moves in one REMAP record.
const MOVES_MAX: usize = 64;
/// What such a record's body takes at most.
const REMAP_BYTES_MAX: usize = 4 + 32 * MOVES_MAX;
/// And an EXPIRE record's of as many objects.
const EXPIRE_BYTES_MAX: usize = 48 * MOVES_MAX;

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Segments that were looked through.
    pub victims: usize,
    /// Objects that were moved.
    pub objects: usize,
    /// Bytes that were written to packs.
    pub bytes: u64,
    /// Segments that can be reused now.
    pub freed_segments: usize,
}

/// A segment, and how much of it is needed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentUsage {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Bytes of live records: an estimate, exact but for what a crash or a sleeping object hides.
    pub live_bytes: u64,
    /// Whether compaction would choose it.
    pub is_victim: bool,
}

/// Whether compaction hurries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Somebody waits: on until nothing is worth it.
    Now,
    /// The disk is full, and somebody waits: until a segment is free.
    Pressed,
    /// Takes breaks, ends when not much is dead any more, or when the engine closes.
    Background,
}

/// What compaction keeps from round to round.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    /// The pack that is not full yet.
    pub(crate) pack: Option<Pack>,
}

/// Moves that were appended.
#[derive(Default)]
struct Moving {
    objects: usize,
    bytes: u64,
    last: Option<Ticket>,
}

impl Moving {
    fn count(&mut self, moves: &[Written], ticket: Ticket) {
        self.objects += moves.len();
        self.bytes += moves
            .iter()
            .map(|written| u64::from(written.to.bytes))
            .sum::<u64>();
        self.last = Some(ticket);
    }
}

impl Engine {
    /// Moves live records together until no segment is worth it, and returns what that gave. Runs in the
    /// background by itself; commits go on meanwhile.
    pub fn compact(&self) -> Result<CompactReport> {
        self.compact_with(|_| ())
    }

    /// Like [`Engine::compact`], telling `progress` after each round what was done so far.
    pub fn compact_with(&self, progress: impl FnMut(&CompactReport)) -> Result<CompactReport> {
        self.inner.compact(Pace::Now, progress)
    }

    /// Every segment with its live bytes, oldest first.
    pub fn segment_usage(&self) -> Vec<SegmentUsage> {
        let victims = self.inner.worth_compacting(&HashSet::new(), Pace::Now);
        let usage = |segment: Arc<Segment>| SegmentUsage {
            live_bytes: self.inner.index.usage.live_bytes(segment.segno),
            is_victim: victims.iter().any(|victim| victim.segno == segment.segno),
            segment,
        };
        self.inner.log.segments().into_iter().map(usage).collect()
    }
}

impl Inner {
    pub(crate) fn compact(
        &self,
        pace: Pace,
        mut progress: impl FnMut(&CompactReport),
    ) -> Result<CompactReport> {
        self.log.writable()?;
        let mut compactor = self.compactor.lock();
        self.merge_history()?;
        self.forget_leaves()?;
        let mut report = CompactReport {
            freed_segments: self.checkpoint(false)?.freed_segments,
            ..CompactReport::default()
        };
        let free_before = self.log.stats().free_segments;
        // On a full disk any segment is worth it, new packs too: enough when all were tried.
        let mut rounds_left = self.log.segments().len();
        let mut tried = HashSet::new();
        let mut newest_takes_part = pace != Pace::Now;
        loop {
            let victims = self.victims(&tried, pace, compactor.pack.as_ref());
            let enough = match pace {
                Pace::Now => false,
                // Emptying a segment fills a part of another.
                Pace::Pressed => {
                    rounds_left = rounds_left.saturating_sub(1);
                    rounds_left == 0 || self.log.stats().free_segments > free_before
                }
                Pace::Background => !self.is_much_dead(),
            };
            if victims.is_empty() && !newest_takes_part {
                newest_takes_part = true;
                self.leave_segment()?;
                report.freed_segments += self.checkpoint(false)?.freed_segments;
                continue;
            }
            if victims.is_empty() || enough {
                self.trim()?;
                return Ok(report);
            }
            tried.extend(victims.iter().map(|victim| victim.segno));
            self.round(&mut compactor, &victims, pace, &mut report)?;
            drop(victims);
            report.freed_segments += self.checkpoint(false)?.freed_segments;
            progress(&report);
        }
    }

    /// Lets the log go on in another segment, with a record that moves nothing: whoever waits for
    /// compaction wants the newest one to take part.
    fn leave_segment(&self) -> Result<()> {
        self.log.seal()?;
        let reservation = self.log.reserve(REMAP_BYTES_MAX, Claim::Relocation)?;
        self.append_moves(&[], reservation)?.wait()?;
        Ok(())
    }

    /// Gives back files that nobody will need soon.
    fn trim(&self) -> Result<()> {
        let spare = FREE_FILES_MIN.max(self.log.stats().segment_files / FREE_FILES_PART);
        let keep = self.log.reserve_segments() + spare;
        self.log.trim(keep)?;
        Ok(())
    }

    /// Everything but the last checkpoint.
    fn round(
        &self,
        compactor: &mut Compactor,
        victims: &[Arc<Segment>],
        pace: Pace,
        report: &mut CompactReport,
    ) -> Result<()> {
        let mut collected = self.collect_all(victims);
        if !collected.unsettled.is_empty() {
            self.settle_all(&collected.unsettled)?;
            collected = self.collect_all(victims);
        }
        let mut survivors = collected.survivors;
        survivors.sort_by_key(|survivor| (survivor.class, survivor.slot));
        // What has a past is not forgotten.
        self.follow_log()?;
        self.sample(&survivors)?;
        let mut packing = Packing::new(self, compactor, pace);
        let written = packing.write_out(survivors);
        let full = std::mem::take(&mut packing.full);
        let forgotten = std::mem::take(&mut packing.forgotten);
        let moved_blocks = std::mem::take(&mut packing.moved_blocks);
        let moved = written.and_then(|written| {
            // The packs are named from here on, so that what is said to lie there is found.
            self.checkpoint(false)?;
            let mut moving = self.remap(written)?;
            self.move_blocks(&moved_blocks, &mut moving)?;
            self.forget_all(&forgotten)?;
            Ok(moving)
        });
        // Whatever became of them: what the index does not have of these packs now is dead.
        let between_checkpoints = self.reclaim.lock();
        self.filling.lock().retain(|segno| !full.contains(segno));
        drop(between_checkpoints);
        let Moving { objects, bytes, .. } = moved?;
        add(&self.counters.compaction_rounds, 1);
        add(&self.counters.moved_objects, objects as u64);
        add(&self.counters.moved_bytes, bytes);
        report.victims += victims.len();
        report.objects += objects;
        report.bytes += bytes;
        Ok(())
    }

    fn collect_all(&self, victims: &[Arc<Segment>]) -> Collected {
        let mut collected = Collected::default();
        for victim in victims {
            self.collect(victim, &mut collected);
        }
        collected
    }

    /// Settles big objects, so that what lies in their commits can be moved. One that is awake does it
    /// itself, with its next commit.
    fn settle_all(&self, slots: &HashSet<Slot>) -> Result<()> {
        for slot in slots.iter().copied() {
            let Some(entry) = self.durable_entry(slot)? else {
                continue;
            };
            let Ok(Some(meta)) = self.load_meta(slot, &entry) else {
                continue;
            };
            let cell = self.index.cell(slot)?;
            if self.awake.lock().contains(&meta.id) {
                cell.want_image();
            } else {
                self.settle_object(entry.class, meta.id);
                if let Some(ticket) = cell.last_ticket() {
                    ticket.wait()?;
                }
            }
            self.index.overlay.release(cell);
        }
        Ok(())
    }

    /// Lets leaves say where their blocks lie now, and waits until that is durable.
    fn move_blocks(&self, moved: &[MovedBlock], moving: &mut Moving) -> Result<()> {
        let mut last: Option<Ticket> = None;
        let same_leaf = |a: &MovedBlock, b: &MovedBlock| a.item.leaf == b.item.leaf;
        for moves in moved.chunk_by(same_leaf) {
            let MovedBlock { carrier, item, .. } = &moves[0];
            let owner = self.index.newest(carrier.tree.slot)?;
            if !owner.is_some_and(|owner| Carrier::is_map_of(&owner, carrier.tree)) {
                continue;
            }
            let at = LeafAt {
                slot: item.leaf,
                tree: carrier.tree,
                class: carrier.class,
                file: item.id.file,
                index: item.id.leaf(),
            };
            let change = |leaf: &mut Leaf| self.move_in_leaf(leaf, moves);
            let reservation = self.reserve_after(LEAF_BYTES_MAX, &mut last)?;
            let updated = self.update_leaf(at, reservation, change)?;
            moving.objects += moves.len();
            moving.bytes += moves
                .iter()
                .map(|moved| u64::from(moved.to.bytes))
                .sum::<u64>();
            last = updated.or(last);
        }
        last.map_or(Ok(()), |ticket| ticket.wait().map(drop))?;
        Ok(())
    }

    fn move_in_leaf(&self, leaf: &mut Leaf, moves: &[MovedBlock]) -> bool {
        let mut is_changed = false;
        for MovedBlock { carrier, item, to } in moves {
            let place = &mut leaf.places[item.id.position()];
            if *place == item.place {
                let dead = [place.extent()];
                self.index.usage.replace(carrier.class, to.extent(), dead);
                *place = *to;
                is_changed = true;
            }
        }
        is_changed
    }

    /// Says where everything lies now, and waits until that is durable.
    fn remap(&self, written: Vec<Written>) -> Result<Moving> {
        let mut moving = Moving::default();
        let appended = self.append_all(written, &mut moving);
        // Also if some could not be appended: as long as moves into a pack are under way, the index does
        // not have them, and a checkpoint that judged the pack would free what they lead to.
        if let Some(ticket) = moving.last.take() {
            ticket.wait()?;
        }
        appended.map(|()| moving)
    }

    fn append_all(&self, written: Vec<Written>, moving: &mut Moving) -> Result<()> {
        let (plain, chained): (Vec<_>, Vec<_>) = written
            .into_iter()
            .partition(|written| written.chained.is_none());
        for moves in plain.chunk_by(|a, b| a.to.lsn.segno() == b.to.lsn.segno()) {
            for moves in moves.chunks(MOVES_MAX) {
                let reservation = self.reserve_move(moving)?;
                moving.count(moves, self.append_moves(moves, reservation)?);
            }
        }
        for written in &chained {
            let reservation = self.reserve_move(moving)?;
            if let Some(ticket) = self.move_sleeping(written, reservation)? {
                moving.count(std::slice::from_ref(written), ticket);
            }
        }
        Ok(())
    }

    /// Lets erased objects be forgotten, unless they are awake.
    fn forget_all(&self, forgotten: &[Forgotten]) -> Result<()> {
        let mut last: Option<Ticket> = None;
        for some in forgotten.chunks(MOVES_MAX) {
            let reservation = self.log.reserve(EXPIRE_BYTES_MAX, Claim::Relocation)?;
            let awake = self.awake.lock();
            let mut cells = Vec::new();
            let mut body = Vec::new();
            for Forgotten { slot, from, id } in some.iter().filter(|one| !awake.contains(&one.id)) {
                cells.push((self.index.cell(*slot)?, from.head, *id));
                body.push(Expired {
                    slot: *slot,
                    generation: from.generation,
                    seq: from.seq,
                    id: *id,
                });
            }
            let waiting: Vec<_> = cells.iter().map(|(cell, ..)| cell.clone()).collect();
            let record = Record {
                kind: Kind::Expire as u8,
                flags: 0,
                note: Some(Note::Expiries(cells)),
                body: encode_expire(&body),
            };
            let ticket = self.log.append(record, reservation)?;
            // Whoever wakes one of them waits until it is forgotten.
            for cell in waiting {
                cell.set_first_ticket(ticket.clone());
            }
            last = Some(ticket);
        }
        last.map_or(Ok(()), |ticket| ticket.wait().map(drop))?;
        Ok(())
    }

    /// Room for a REMAP record.
    fn reserve_move(&self, moving: &mut Moving) -> Result<Reservation> {
        self.reserve_after(REMAP_BYTES_MAX, &mut moving.last)
    }

    /// Room for a record that says where something lies. Those under way hold more than they will need: with
    /// little room left it helps to wait for the last of them.
    fn reserve_after(&self, bytes: usize, last: &mut Option<Ticket>) -> Result<Reservation> {
        match self.log.reserve(bytes, Claim::Relocation) {
            Err(error) if error.is_full() && last.is_some() => {
                if let Some(ticket) = last.take() {
                    ticket.wait()?;
                }
                Ok(self.log.reserve(bytes, Claim::Relocation)?)
            }
            outcome => Ok(outcome?),
        }
    }

    fn append_moves(&self, moves: &[Written], reservation: Reservation) -> Result<Ticket> {
        let moved = |written: &Written| Moved {
            slot: written.slot,
            generation: written.from.generation,
            seq: written.from.seq,
            to: written.to,
        };
        let body = encode_remap(&moves.iter().map(moved).collect::<Vec<_>>());
        let notes = moves.iter().map(|written| {
            Ok(Move {
                cell: self.index.cell(written.slot)?,
                from: written.from.head,
                to: written.to,
            })
        });
        let record = Record {
            kind: Kind::Remap as u8,
            flags: 0,
            note: Some(Note::Moves(notes.collect::<Result<_>>()?)),
            body,
        };
        Ok(self.log.append(record, reservation)?)
    }

    /// Moves an object that has deltas, unless it is awake.
    fn move_sleeping(&self, written: &Written, reservation: Reservation) -> Result<Option<Ticket>> {
        let Chained { id, below } = written.chained.as_ref().expect("it has deltas");
        let cell = self.index.cell(written.slot)?;
        // Nobody wakes the object while it is moved: whoever comes next waits for the move, and counts
        // its deltas from there.
        let awake = self.awake.lock();
        if awake.contains(id) {
            cell.want_image();
            self.index.overlay.release(cell);
            return Ok(None);
        }
        if cell.newest().map(|newest| newest.head) != Some(written.from.head) {
            self.index.overlay.release(cell);
            return Ok(None);
        }
        cell.set_below(written.from.head, below.clone());
        let ticket = self.append_moves(std::slice::from_ref(written), reservation)?;
        cell.set_last_ticket(Some(ticket.clone()));
        Ok(Some(ticket))
    }
}
