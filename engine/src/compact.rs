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

use dovehouse_wal::bytes::Reader;
use dovehouse_wal::{Pack, Record, RecordView, Reservation, Segment, Ticket};

use crate::engine::{Engine, Inner};
use crate::error::Result;
use crate::id::{ClassId, ObjectId, Slot};
use crate::index::{Move, Note};
use crate::liveness::is_live;
use crate::record::{
    Header, Kind, encode_erase, encode_image, encode_state, recode_image, stored_state,
};
use crate::remap::{Moved, encode_remap};
use crate::slots::{Entry, Place};
use crate::stats::add;

/// Free segment files that stay, for the log and for the next packs; and which part of all files.
const FREE_FILES_MIN: usize = 3;
const FREE_FILES_PART: usize = 20;

/// In the background, a break follows so many bytes: a slice of the pack.
const BREAK_BYTES: u64 = 256 << 10;

/// Moves in one REMAP record.
const MOVES_MAX: usize = 64;
/// What such a record's body takes at most.
const REMAP_BYTES_MAX: usize = 4 + 32 * MOVES_MAX;

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
    /// Takes breaks, ends when not much is dead any more, or when the engine closes.
    Background,
}

/// What compaction keeps from round to round.
#[derive(Debug, Default)]
pub(crate) struct Compactor {
    /// The pack that is not full yet.
    pack: Option<Pack>,
}

/// A version that is to be moved.
struct Survivor {
    class: ClassId,
    slot: Slot,
    /// The record as it is, if it is the whole object; else the object is read and written anew.
    copy: Option<Whole>,
}

/// A version as one record.
struct Whole {
    entry: Entry,
    kind: Kind,
    body: Vec<u8>,
}

/// A version that was written to a pack.
struct Written {
    slot: Slot,
    from: Entry,
    to: Place,
    /// The object, if it has deltas, which must not go on while it is moved.
    chained: Option<ObjectId>,
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
        let victims = self.inner.worth_compacting(&HashSet::new());
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
        let mut report = CompactReport {
            freed_segments: self.checkpoint(false)?.freed_segments,
            ..CompactReport::default()
        };
        let mut tried = HashSet::new();
        loop {
            let victims = self.victims(&tried);
            let enough = pace == Pace::Background && !self.is_much_dead();
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

    /// Gives back files that nobody will need soon.
    fn trim(&self) -> Result<()> {
        let keep = FREE_FILES_MIN.max(self.log.stats().segment_files / FREE_FILES_PART);
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
        let mut survivors = Vec::new();
        let mut chained = HashSet::new();
        for victim in victims {
            self.collect(victim, &mut survivors, &mut chained);
        }
        survivors.sort_by_key(|survivor| (survivor.class, survivor.slot));
        self.sample(&survivors)?;
        let mut full = Vec::new();
        let written = self.write_out(compactor, survivors, pace, &mut full);
        let moved = written.and_then(|written| {
            // The packs are named from here on, so that what is said to lie there is found.
            self.checkpoint(false)?;
            self.remap(written)
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

    /// What is live in a segment. `chained` has the objects with deltas that were met: a round moves each
    /// version once, or replay could not tell which of two moves counts.
    fn collect(
        &self,
        segment: &Arc<Segment>,
        survivors: &mut Vec<Survivor>,
        chained: &mut HashSet<Slot>,
    ) {
        for batch in self.log.batches(segment, 0) {
            // What cannot be read stays where it is, and keeps its segment.
            let Ok(batch) = batch else { return };
            for record in batch.records() {
                let Some((kind, header, entry)) = self.live_version(&record) else {
                    continue;
                };
                let whole = header.depth == 0 && entry.head == record.lsn;
                if !whole && !chained.insert(header.slot) {
                    continue;
                }
                let copy = || Whole {
                    entry,
                    kind,
                    body: record.body.to_vec(),
                };
                survivors.push(Survivor {
                    class: header.class,
                    slot: header.slot,
                    copy: whole.then(copy),
                });
            }
        }
    }

    /// The kind, the header, and the object's entry, if the record is a version that is live.
    fn live_version(&self, record: &RecordView<'_>) -> Option<(Kind, Header, Entry)> {
        let of_object = |kind: &Kind| matches!(kind, Kind::Image | Kind::Delta | Kind::Erase);
        let kind = Kind::from_u8(record.kind).filter(of_object)?;
        let header = Header::decode(&mut Reader::new(record.body))?;
        // An entry that is damaged keeps what it may lead to.
        let entry = self.index.newest(header.slot).unwrap_or(None)?;
        is_live(&header, record.lsn, &entry).then_some((kind, header, entry))
    }

    /// Writes survivors to packs, durably. Adds the packs that are full to `full`.
    fn write_out(
        &self,
        compactor: &mut Compactor,
        survivors: Vec<Survivor>,
        pace: Pace,
        full: &mut Vec<u32>,
    ) -> Result<Vec<Written>> {
        let mut written = Vec::with_capacity(survivors.len());
        let mut since_break = 0;
        for Survivor { slot, copy, .. } in survivors {
            let (whole, chained) = match copy {
                Some(whole) => (self.recode(whole)?, None),
                None => match self.image_of(slot)? {
                    Some((whole, id)) => (whole, Some(id)),
                    None => continue,
                },
            };
            let Whole { entry, kind, body } = whole;
            let pack = self.pack_for(compactor, body.len(), full)?;
            let appended = pack.append(kind as u8, 0, &body);
            let (lsn, bytes) = self.or_stop(appended)?;
            since_break += u64::from(bytes);
            if pace == Pace::Background && since_break >= BREAK_BYTES {
                self.take_a_break(std::mem::take(&mut since_break));
                if self.upkeep.is_stopping() {
                    return Err(dovehouse_wal::Error::Closed.into());
                }
            }
            written.push(Written {
                slot,
                from: entry,
                to: Place { lsn, bytes },
                chained,
            });
        }
        if let Some(pack) = &mut compactor.pack {
            let flushed = pack.flush();
            self.or_stop(flushed)?;
        }
        Ok(written)
    }

    /// The version with its state stored with its class's present dictionary, if that makes it smaller.
    fn recode(&self, whole: Whole) -> Result<Whole> {
        let class = whole.entry.class;
        let Some(dictionary) = self.or_stop(self.dictionaries.current(class))? else {
            return Ok(whole);
        };
        let stored = stored_state(&whole.body).filter(|_| whole.kind == Kind::Image);
        let Some(stored) = stored.filter(|stored| stored.dictionary != dictionary.number) else {
            return Ok(whole);
        };
        // What cannot be opened is moved as it is.
        let find = |number| self.dictionaries.find(number);
        let Some(state) = stored.open(find).unwrap_or(None) else {
            return Ok(whole);
        };
        let recoded = recode_image(&whole.body, &self.store_state(class, &state)?);
        let smaller = recoded.filter(|body| body.len() < whole.body.len());
        Ok(match smaller {
            Some(body) => Whole { body, ..whole },
            None => whole,
        })
    }

    /// Shows states of classes that need a dictionary, so that their survivors are the first to use it.
    fn sample(&self, survivors: &[Survivor]) -> Result<()> {
        let training = &self.dictionaries.training;
        for class in survivors.chunk_by(|a, b| a.class == b.class) {
            let number = class[0].class;
            let dictionary = self.or_stop(self.dictionaries.current(number))?;
            if dictionary
                .as_ref()
                .is_some_and(|dictionary| dictionary.is_trained)
            {
                continue;
            }
            let whole = class.iter().filter_map(|survivor| survivor.copy.as_ref());
            for whole in whole.filter(|whole| whole.kind == Kind::Image) {
                if !training.wants(number) {
                    break;
                }
                let find = |number| self.dictionaries.find(number);
                let stored = stored_state(&whole.body);
                let state = stored.and_then(|stored| stored.open(find).unwrap_or(None));
                if let Some(state) = state {
                    training.show(number, &state, whole.body.len(), dictionary.as_deref());
                }
            }
        }
        self.make_dictionaries()
    }

    /// A pack with room for a record.
    fn pack_for<'a>(
        &self,
        compactor: &'a mut Compactor,
        body_bytes: usize,
        full: &mut Vec<u32>,
    ) -> Result<&'a mut Pack> {
        if let Some(pack) = &mut compactor.pack
            && !pack.has_room(body_bytes)
        {
            let flushed = pack.flush();
            self.or_stop(flushed)?;
            full.push(pack.segno());
            compactor.pack = None;
        }
        if compactor.pack.is_none() {
            // Between checkpoints, so that none takes the empty pack for a dead one.
            let _between_checkpoints = self.reclaim.lock();
            let pack = self.log.begin_pack()?;
            self.filling.lock().insert(pack.segno());
            compactor.pack = Some(pack);
        }
        Ok(compactor.pack.as_mut().expect("there is one now"))
    }

    /// The object in a slot as one record, if its newest version is durable.
    fn image_of(&self, slot: Slot) -> Result<Option<(Whole, ObjectId)>> {
        let entry = match self.index.overlay.get(slot) {
            Some(cell) => {
                let durable = cell.durable(self.log.durable());
                durable.filter(|durable| cell.newest() == Some(*durable))
            }
            None => self.index.slots.get(slot)?,
        };
        let Some(entry) = entry else { return Ok(None) };
        // An object that cannot be read keeps its records where they are.
        let Some(loaded) = self.load(slot, &entry).unwrap_or(None) else {
            return Ok(None);
        };
        let header = Header {
            slot,
            generation: entry.generation,
            seq: entry.seq,
            class: entry.class,
            depth: 0,
        };
        let (kind, body) = if entry.erased {
            (Kind::Erase, encode_erase(&header, loaded.id))
        } else {
            let name = loaded.name.as_deref();
            let state = encode_state(&loaded.state);
            let body = encode_image(
                &header,
                loaded.id,
                name,
                loaded.written_ms,
                &loaded.state,
                &self.store_state(entry.class, &state)?,
            );
            (Kind::Image, body)
        };
        Ok(Some((Whole { entry, kind, body }, loaded.id)))
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
                let reservation = self.log.reserve(REMAP_BYTES_MAX)?;
                moving.count(moves, self.append_moves(moves, reservation)?);
            }
        }
        for written in &chained {
            if let Some(ticket) = self.move_sleeping(written)? {
                moving.count(std::slice::from_ref(written), ticket);
            }
        }
        Ok(())
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
    fn move_sleeping(&self, written: &Written) -> Result<Option<Ticket>> {
        let id = written.chained.as_ref().expect("it has deltas");
        let cell = self.index.cell(written.slot)?;
        let reservation = self.log.reserve(REMAP_BYTES_MAX)?;
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
        let ticket = self.append_moves(std::slice::from_ref(written), reservation)?;
        cell.set_last_ticket(Some(ticket.clone()));
        Ok(Some(ticket))
    }
}
