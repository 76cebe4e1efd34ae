//! The committer: the one place where records get their order, and the one thread that writes.
//!
//! A step, repeated:
//! 1. take everything that is queued, up to the batch limit;
//! 2. *lay out*, under one lock: each record gets its LSN, the ledger gets the LSN and gives the link
//!    to the object's previous record, the headers are summed;
//! 3. write the batch with one durable write;
//! 4. publish the durable position, and wake whoever waits.
//!
//! While a batch is being written, the next one queues up: batches grow with the load and no timer
//! is needed. The next step starts after the write, so a valid batch proves that the one before it
//! was durable, and its header says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Select};

use crate::batch::{BatchHeader, FRAME_BYTES, Frame, HEADER_BYTES, align};
use crate::bytes::Put;
use crate::error::{Error, Result};
use crate::log::{Inner, Ledger, Placed, Record};
use crate::lsn::{Lsn, Position};
use crate::pool::Segment;
use crate::room::Reservation;
use crate::segment::{BLOCK_BYTES, Role, SegmentHeader};
use crate::stats::add;
use crate::teeth::Flaw;

/// What waits for the committer.
pub(crate) enum Job<N> {
    Append(Pending<N>),
    Stop,
}

/// A record that waits for its place.
pub(crate) struct Pending<N> {
    pub(crate) record: Record<N>,
    pub(crate) body_crc: u32,
    pub(crate) ticket: Arc<AtomicU64>,
    /// Given back when the record has its place.
    pub(crate) _reservation: Reservation,
}

impl<N> Pending<N> {
    pub(crate) fn stored_bytes(&self) -> u64 {
        (FRAME_BYTES + self.record.body.len()) as u64
    }
}

/// Where the next batch goes.
pub(crate) struct Layout {
    /// Where the log goes on; what a checkpoint names.
    pub(crate) position: Position,
    active: Option<Active>,
    /// The highest segment number that any file carries.
    pub(crate) segno_max: u32,
    /// The last batch's time: batch times never step back.
    pub(crate) time_ms: u64,
}

pub(crate) struct Active {
    segment: Arc<Segment>,
    /// Written with the first batch.
    header: Option<SegmentHeader>,
    offset: u64,
    next_number: u32,
    prev_crc: u32,
    /// What the last block holds already, if a batch may start in the middle of it (a planted flaw).
    shared_block: Vec<u8>,
}

impl Active {
    /// A segment that recovery has begun.
    pub(crate) fn after(segment: Arc<Segment>, position: Position, prev_crc: u32) -> Self {
        Active {
            segment,
            header: None,
            offset: u64::from(position.lsn.offset()),
            next_number: position.last_batch + 1,
            prev_crc,
            shared_block: Vec::new(),
        }
    }
}

impl Layout {
    pub(crate) fn new(position: Position, segno_max: u32, time_ms: u64) -> Self {
        Layout {
            position,
            active: None,
            segno_max,
            time_ms,
        }
    }

    /// Appends to a segment that has batches already.
    pub(crate) fn go_on_in(&mut self, active: Active) {
        self.active = Some(active);
    }

    /// Lets go of the active segment, if it has batches.
    pub(crate) fn seal(&mut self) -> bool {
        let has_batches = |active: &mut Active| active.next_number > 1;
        self.active.take_if(has_batches).is_some()
    }

    /// Bytes left in the active segment.
    pub(crate) fn remaining(&self, segment_bytes: u64) -> u64 {
        self.active
            .as_ref()
            .map_or(0, |active| segment_bytes - active.offset)
    }
}

/// The committer's own state, reused from step to step.
pub(crate) struct Step<N> {
    /// Taken from the queue, but too big for the batch it would have joined.
    carry: Option<Pending<N>>,
    buffer: Vec<u8>,
    record_crcs: Vec<u8>,
    tickets: Vec<Arc<AtomicU64>>,
    /// Laid out in `buffer`, and not written yet.
    in_flight: Option<LaidOut>,
    stopping: bool,
}

impl<N> Default for Step<N> {
    fn default() -> Self {
        Step {
            carry: None,
            buffer: Vec::new(),
            record_crcs: Vec::new(),
            tickets: Vec::new(),
            in_flight: None,
            stopping: false,
        }
    }
}

impl<N> Step<N> {
    /// The next record that is there without waiting.
    fn next(&mut self, queue: &Receiver<Job<N>>) -> Option<Pending<N>> {
        if let Some(carried) = self.carry.take() {
            return Some(carried);
        }
        match queue.try_recv() {
            Ok(Job::Append(pending)) => Some(pending),
            Ok(Job::Stop) => {
                self.stopping = true;
                None
            }
            Err(_) => None,
        }
    }
}

/// A batch that is ready to be written.
struct LaidOut {
    segment: Arc<Segment>,
    offset: u64,
    end: Lsn,
    record_bytes: u64,
}

impl<L: Ledger> Inner<L> {
    /// The committer thread's life.
    pub(crate) fn commit_until_stopped(&self) {
        let mut work = Select::new();
        work.recv(&self.queue.1);
        loop {
            // Only looks: whoever holds the step takes what is queued.
            work.ready();
            let mut step = self.step.lock();
            while self.commit_next(&mut step) {}
            if step.stopping {
                return;
            }
        }
    }

    /// Commits on the thread of somebody who waits, if nothing else is going on: that spares a lone
    /// client two changes of thread, each of which costs about a third of the write.
    pub(crate) fn help(&self) {
        if self.queue.1.len() > 1 {
            return; // There is company: the committer gathers it into one batch.
        }
        let Some(mut step) = self.step.try_lock() else {
            return;
        };
        self.commit_next(&mut step);
        // Nobody else knows of what was taken and did not fit.
        while step.carry.is_some() {
            self.commit_next(&mut step);
        }
        if step.stopping {
            // It was meant for the committer.
            let _ = self.queue.0.try_send(Job::Stop);
        }
    }

    /// The first half of a step: the batch has its place.
    fn begin(&self, step: &mut Step<L::Note>, first: Pending<L::Note>) {
        if self.progress.stopped().is_some() {
            return; // The ticket is unknown already; the record is dropped.
        }
        match self.lay_out(step, first) {
            Ok(batch) => step.in_flight = Some(batch),
            Err(error) => self.poison(&error),
        }
    }

    /// The second half: the batch is written.
    fn finish(&self, step: &mut Step<L::Note>) {
        if let Some(batch) = step.in_flight.take()
            && let Err(error) = self.write(step, &batch)
        {
            self.poison(&error);
        }
    }

    /// The first half of a step on the caller's thread.
    pub(crate) fn lay_out_queued(&self) {
        let mut step = self.step.lock();
        if step.in_flight.is_none()
            && let Some(first) = step.next(&self.queue.1)
        {
            self.begin(&mut step, first);
        }
    }

    /// A step on the caller's thread, or its second half if the first was done. Returns whether there
    /// was anything to do.
    pub(crate) fn commit_queued(&self) -> bool {
        let mut step = self.step.lock();
        if step.in_flight.is_some() {
            self.finish(&mut step);
            return true;
        }
        self.commit_next(&mut step)
    }

    /// One batch of what is queued; `false` if nothing is.
    fn commit_next(&self, step: &mut Step<L::Note>) -> bool {
        let Some(first) = step.next(&self.queue.1) else {
            return false;
        };
        self.begin(step, first);
        self.finish(step);
        true
    }

    fn lay_out(&self, step: &mut Step<L::Note>, first: Pending<L::Note>) -> Result<LaidOut> {
        let mut layout = self.layout.lock();
        let room_before = self.room.usable(layout.remaining(self.segment_bytes));
        let rotated =
            layout.remaining(self.segment_bytes) < HEADER_BYTES as u64 + first.stored_bytes();
        if rotated {
            self.rotate(&mut layout)?;
        }
        let time_ms = self.fs.now_ms().max(layout.time_ms);
        layout.time_ms = time_ms;
        let Layout {
            position, active, ..
        } = &mut *layout;
        let active = active.as_mut().expect("rotate made one");
        let segno = active.segment.segno;

        let start = active.offset;
        step.buffer.clear();
        step.record_crcs.clear();
        step.tickets.clear();
        step.buffer.append(&mut active.shared_block);
        if let Some(header) = active.header.take() {
            step.buffer.extend_from_slice(&header.encode());
        }
        let lead = step.buffer.len();
        step.buffer.resize(lead + HEADER_BYTES, 0);

        let durable = self.progress.durable();
        let mut next = Some(first);
        while let Some(pending) = next {
            let lsn = Lsn::new(segno, (start + (step.buffer.len() - lead) as u64) as u32);
            self.place(
                step,
                pending,
                Placed {
                    lsn,
                    stored_bytes: 0,
                    durable,
                    time_ms,
                },
            );
            next = step.next(&self.queue.1);
            let batch = (step.buffer.len() - lead) as u64;
            let fits = |pending: &Pending<L::Note>| {
                let grown = batch + pending.stored_bytes();
                grown <= self.batch_bytes as u64 && start + grown <= self.segment_bytes
            };
            if next.as_ref().is_some_and(|pending| !fits(pending)) {
                step.carry = next.take();
            }
        }

        let header = BatchHeader {
            segno,
            number: active.next_number,
            salt: active.segment.salt,
            lsn: Lsn::new(segno, start as u32),
            records: step.tickets.len() as u32,
            body_bytes: (step.buffer.len() - lead - HEADER_BYTES) as u32,
            time_ms,
            watermark: durable.end(),
            prev_crc: active.prev_crc,
        };
        active.prev_crc = header.encode(&mut step.buffer[lead..], &step.record_crcs);
        let len = ((step.buffer.len() - lead) as u64).next_multiple_of(align(self.teeth));
        active.offset = start + len;
        active.next_number += 1;
        if self.teeth.has(Flaw::RewriteLastBlock) {
            step.buffer.resize(lead + len as usize, 0);
            let shared = (active.offset % BLOCK_BYTES) as usize;
            active.shared_block = step.buffer[step.buffer.len() - shared..].to_vec();
        }
        let written = (step.buffer.len() as u64).next_multiple_of(BLOCK_BYTES);
        step.buffer.resize(written as usize, 0);

        let end = Lsn::new(segno, active.offset as u32);
        *position = Position {
            lsn: end,
            salt: active.segment.salt,
            last_batch: header.number,
        };
        for ticket in &step.tickets {
            ticket.store(end.as_u64(), Ordering::Release);
        }
        let batch = LaidOut {
            segment: active.segment.clone(),
            offset: start - lead as u64,
            end,
            record_bytes: u64::from(header.body_bytes),
        };
        let room_after = self.room.usable(layout.remaining(self.segment_bytes));
        self.room.consume(room_before, room_after, rotated);
        Ok(batch)
    }

    fn place(&self, step: &mut Step<L::Note>, pending: Pending<L::Note>, at: Placed) {
        let Pending {
            record,
            body_crc,
            ticket,
            _reservation,
        } = pending;
        let stored_bytes = (FRAME_BYTES + record.body.len()) as u32;
        self.queued_bytes
            .fetch_sub(u64::from(stored_bytes), Ordering::Relaxed);
        self.counters.note_record(record.kind, stored_bytes);
        let placed = Placed { stored_bytes, ..at };
        let link = record
            .note
            .map_or(Lsn::NONE, |note| self.ledger.place(note, placed));
        let frame = Frame {
            body_len: record.body.len() as u32,
            link,
            kind: record.kind,
            flags: record.flags,
        };
        step.record_crcs
            .put_u32(frame.encode(body_crc, &mut step.buffer));
        step.buffer.extend_from_slice(&record.body);
        step.tickets.push(ticket);
    }

    /// Begins a new segment. Its header goes out with its first batch.
    fn rotate(&self, layout: &mut Layout) -> Result<()> {
        let header = SegmentHeader {
            role: Role::Log,
            store_id: self.store_id,
            segno: layout.segno_max + 1,
            salt: self.fs.random_u64(),
            pred_salt: layout.position.salt,
            pred_last_batch: layout.position.last_batch,
            created_ms: self.fs.now_ms(),
            segment_bytes: self.segment_bytes,
        };
        // Space was reserved, so a free file is there. If the accounting is wrong, stop rather than wait.
        let none_free = || Error::Full {
            cause: "no free segment although space was reserved".into(),
        };
        let segment = self.pool.activate(&header)?.ok_or_else(none_free)?;
        layout.segno_max = header.segno;
        layout.active = Some(Active {
            segment,
            offset: BLOCK_BYTES,
            next_number: 1,
            prev_crc: header.crc(),
            header: Some(header),
            shared_block: Vec::new(),
        });
        Ok(())
    }

    fn write(&self, step: &Step<L::Note>, batch: &LaidOut) -> Result<()> {
        if self.teeth.has(Flaw::AcknowledgeBeforeWrite) {
            self.progress.advance(batch.end);
        }
        let start_us = self.fs.elapsed_us();
        let written = batch
            .segment
            .file
            .write_all_at(&[&step.buffer], batch.offset);
        if !self.teeth.has(Flaw::AcknowledgeAfterError) {
            written.map_err(|error| Error::io("write", &batch.segment.path, error))?;
        }
        batch.segment.set_end(batch.end.offset());
        let counters = &self.counters;
        counters.note_write(self.fs.elapsed_us().saturating_sub(start_us));
        add(&counters.durable_writes, 1);
        add(&counters.records, step.tickets.len() as u64);
        add(&counters.record_bytes, batch.record_bytes);
        add(&counters.log_bytes, step.buffer.len() as u64);
        self.progress.advance(batch.end);
        Ok(())
    }
}

/// Asks for a real-time priority for the calling thread. On a busy machine a commit otherwise waits
/// for a time slice, which is 20 times longer than the write.
pub(crate) fn raise_priority() -> bool {
    use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let native = thread_priority::thread_native_id();
    thread_priority::set_thread_priority_and_policy(native, ThreadPriority::Min, policy).is_ok()
}
