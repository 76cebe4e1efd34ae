//! The walk along the log from the replay start: which batches count, and where it ends.
//!
//! Rules 2 and 3 of [recovery](crate::recovery) are here. The walk reads each batch once and hands
//! it out as soon as a later batch's watermark proves it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::{Batch, Expected, align, find_later, first_lsn};
use crate::error::{Error, Result};
use crate::fs::File;
use crate::hole::Hole;
use crate::lsn::{Lsn, Position};
use crate::pool::{self, Pool};
use crate::recovery::Opening;
use crate::segment::{BLOCK_BYTES, Role, SegmentHeader};
use crate::superblock::TableState;

/// A segment file whose header may make it part of the replayed log.
pub(crate) struct Life {
    pub(crate) file_number: u32,
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) header: SegmentHeader,
}

impl Life {
    fn read(&self, segment_bytes: u64, expected: Expected) -> Result<Option<Batch>> {
        Batch::read(&*self.file, segment_bytes, expected)
            .map_err(|error| Error::io("read", &self.path, error))
    }

    fn find_later(&self, segment_bytes: u64, after: Expected, align: u64) -> Result<Option<Batch>> {
        find_later(&*self.file, segment_bytes, after, align)
            .map_err(|error| Error::io("read", &self.path, error))
    }
}

/// A batch that was read but that no later batch has proven durable yet.
pub(crate) struct Unproven {
    pub(crate) batch: Batch,
    pub(crate) life: usize,
}

/// The walk along the log from the replay start.
pub(crate) struct Chain {
    segment_bytes: u64,
    align: u64,
    pub(crate) lives: Vec<Life>,
    /// The life being read, if its file exists, and the salt that its successor names.
    pub(crate) current: Option<usize>,
    salt: u64,
    successor: Option<usize>,
    number: u32,
    prev_crc: Option<u32>,
    /// Behind the last valid batch.
    pub(crate) tail: Position,
    /// Behind the last batch that is known to have been durable.
    pub(crate) proven: Position,
    pub(crate) unproven: Vec<Unproven>,
    /// Lives that were read, in order, each with the end of its last proven batch.
    pub(crate) ends: Vec<(usize, u32)>,
    finished: bool,
    /// Whether the walk goes on behind damage, and what it met.
    tolerant: bool,
    pub(crate) holes: Vec<Hole>,
    pub(crate) segno_max: u32,
    pub(crate) time_ms: u64,
}

impl Chain {
    /// Sorts the segment files into sealed, free and to-be-read.
    pub(crate) fn new(opening: &Opening, pool: &Pool, write: bool) -> Result<Self> {
        let superblock = opening.checkpoint.superblock;
        let start = superblock.replay_from;
        let mut chain = Chain {
            segment_bytes: superblock.segment_bytes,
            align: align(opening.options.teeth),
            lives: Vec::new(),
            current: None,
            salt: start.salt,
            successor: None,
            number: start.last_batch + 1,
            prev_crc: None,
            tail: start,
            proven: start,
            unproven: Vec::new(),
            ends: Vec::new(),
            finished: false,
            tolerant: opening.is_tolerant(),
            holes: Vec::new(),
            segno_max: start.lsn.segno(),
            time_ms: opening.superblock().time_ms,
        };
        let table: HashMap<u32, TableState> = opening
            .checkpoint
            .table
            .iter()
            .map(|entry| (entry.file, entry.state))
            .collect();
        let files = Pool::list(&*opening.fs, &opening.dir)?;
        if write && files.iter().any(|file| !table.contains_key(file)) {
            // The last run may have been killed before the name of its newest file was durable.
            opening
                .fs
                .sync_dir(&opening.dir)
                .map_err(|error| Error::io("sync", &opening.dir, error))?;
        }
        for file_number in files {
            let state = table.get(&file_number).copied().unwrap_or(TableState::Free);
            chain.sort_in(pool, file_number, state, opening, write)?;
        }
        let first = chain.lives.iter().position(|life| {
            life.header.segno == start.lsn.segno() && life.header.salt == start.salt
        });
        chain
            .ends
            .extend(first.map(|life| (life, start.lsn.offset())));
        // A cleanly closed log ends at the replay start: whatever follows in that segment is stale.
        chain.current = first.filter(|_| !superblock.clean);
        chain.successor = chain.find_successor()?;
        Ok(chain)
    }

    fn sort_in(
        &mut self,
        pool: &Pool,
        file_number: u32,
        state: TableState,
        opening: &Opening,
        write: bool,
    ) -> Result<()> {
        let file = pool.open_file(file_number, write)?;
        if let TableState::Sealed { life, end } = state {
            self.segno_max = self.segno_max.max(life.segno);
            let end = match life.role {
                Role::Blob => self.end_of_blob(&*file, life, end),
                Role::Log | Role::Pack => end,
            };
            pool.add_segment(file_number, file, life, end);
            return Ok(());
        }
        let path = pool.path(file_number);
        let len = file
            .byte_len()
            .map_err(|error| Error::io("measure", &path, error))?;
        if len < self.segment_bytes {
            // Its creation was cut off before anything could be written into it.
            if write {
                opening
                    .fs
                    .unlink(&path)
                    .map_err(|error| Error::io("remove", &path, error))?;
            }
            return Ok(());
        }
        let mut block = vec![0; BLOCK_BYTES as usize];
        let readable = file.read_exact_at(&mut block, 0).is_ok();
        let store_id = opening.checkpoint.superblock.store_id;
        let header = SegmentHeader::decode(&block, store_id, &path)?.filter(|_| readable);
        let start = self.proven.lsn.segno();
        // A pack that no checkpoint names is as good as free, but its number was given away.
        let taken = header.map_or(0, |header| header.segno);
        self.segno_max = self.segno_max.max(taken);
        match header.filter(|header| header.role == Role::Log) {
            Some(header) if header.segno >= start && header.segno > 0 => {
                // Until the walk has decided, nobody may take this file or its number.
                pool.add_dead(file_number, header.segno);
                self.lives.push(Life {
                    file_number,
                    file,
                    path,
                    header,
                });
            }
            _ if state == TableState::Free => pool.add_free(file_number),
            // It was part of the log at the checkpoint. The walk decides whether that is damage; if
            // not, a checkpoint behind this one frees it.
            _ => pool.add_dead(file_number, start),
        }
        Ok(())
    }

    /// Blob segments are written on after the checkpoint that named them. What commits name was durable
    /// before them; a batch that is torn was named by none.
    fn end_of_blob(&self, file: &dyn File, life: pool::Life, checkpointed: u32) -> u32 {
        let mut lsn = Lsn::new(life.segno, checkpointed);
        loop {
            let expected = Expected {
                lsn,
                salt: life.salt,
                number_min: 1,
            };
            match Batch::read(file, self.segment_bytes, expected) {
                Ok(Some(batch)) => lsn = batch.end(BLOCK_BYTES),
                Ok(None) | Err(_) => return lsn.offset(),
            }
        }
    }

    /// The next batch that a later one proves, reading on as needed. `None` at the end of the log.
    pub(crate) fn next_proven(&mut self) -> Result<Option<Batch>> {
        loop {
            let end = self
                .unproven
                .first()
                .map(|first| first.batch.end(self.align));
            if end.is_some_and(|end| end <= self.proven.lsn) {
                return Ok(Some(self.unproven.remove(0).batch));
            }
            if self.finished {
                return Ok(None);
            }
            self.read_one()?;
        }
    }

    /// Reads one more batch, or moves on to the next segment, or ends the walk.
    fn read_one(&mut self) -> Result<()> {
        let named = self
            .successor
            .map(|life| self.lives[life].header.pred_last_batch);
        if let Some(life) = self
            .current
            .filter(|_| named.is_none_or(|last| self.number <= last))
        {
            if let Some(batch) = self.read_batch(life)? {
                self.accept(life, batch);
                return Ok(());
            }
            if let Err(error) = self.judge_bad_batch(life, named) {
                return self.step_over(life, error);
            }
        }
        match self.successor {
            Some(life) => self.enter(life),
            None => {
                self.finished = true;
                self.check_watermarks()
                    .or_else(|error| self.note_end(error))
            }
        }
    }

    /// Damage: goes on behind it, if that is what was asked for.
    fn step_over(&mut self, life: usize, error: Error) -> Result<()> {
        if !self.tolerant || !matches!(error, Error::Corrupt { .. }) {
            return Err(error);
        }
        let at = self.next_lsn(life);
        let found = &self.lives[life];
        let after = Expected {
            lsn: at,
            salt: self.salt,
            number_min: self.number + 1,
        };
        let later = found.find_later(self.segment_bytes, after, self.align)?;
        let end = later.as_ref().map_or(self.segment_bytes, |later| {
            u64::from(later.header.lsn.offset())
        });
        let mut bytes = vec![0; (end - u64::from(at.offset())) as usize];
        let read = found.file.read_exact_at(&mut bytes, u64::from(at.offset()));
        read.map_err(|error| Error::io("read", &found.path, error))?;
        self.holes.push(Hole {
            lsn: at,
            error,
            bytes,
        });
        match (later, self.successor) {
            (Some(later), _) => {
                self.number = later.header.number;
                self.tail.lsn = later.header.lsn;
                self.prev_crc = None;
                Ok(())
            }
            (None, Some(life)) => self.enter(life),
            (None, None) => {
                self.finished = true;
                Ok(())
            }
        }
    }

    /// The log went on behind its end once, and nothing of that is left.
    fn note_end(&mut self, error: Error) -> Result<()> {
        if !self.tolerant {
            return Err(error);
        }
        self.holes.push(Hole {
            lsn: self.tail.lsn,
            error,
            bytes: Vec::new(),
        });
        Ok(())
    }

    fn tail_offset(&self) -> u32 {
        if self.number == 1 {
            BLOCK_BYTES as u32
        } else {
            self.tail.lsn.offset()
        }
    }

    fn next_lsn(&self, life: usize) -> Lsn {
        Lsn::new(self.lives[life].header.segno, self.tail_offset())
    }

    fn read_batch(&self, life: usize) -> Result<Option<Batch>> {
        let expected = Expected {
            lsn: self.next_lsn(life),
            salt: self.salt,
            number_min: self.number,
        };
        let batch = self.lives[life].read(self.segment_bytes, expected)?;
        Ok(batch.filter(|batch| {
            let follows = self.prev_crc.is_none_or(|crc| crc == batch.header.prev_crc);
            batch.header.number == self.number && follows
        }))
    }

    fn accept(&mut self, life: usize, batch: Batch) {
        let header = batch.header;
        self.tail = Position {
            lsn: batch.end(self.align),
            salt: self.salt,
            last_batch: header.number,
        };
        self.number = header.number + 1;
        self.prev_crc = Some(batch.crc);
        self.time_ms = self.time_ms.max(header.time_ms);
        self.unproven.push(Unproven { batch, life });
        // The watermark proves every batch that ends before it.
        for unproven in &self.unproven {
            let end = unproven.batch.end(self.align);
            if end <= header.watermark && end > self.proven.lsn {
                let header = unproven.batch.header;
                self.proven = Position {
                    lsn: end,
                    salt: header.salt,
                    last_batch: header.number,
                };
                match self.ends.last_mut() {
                    Some((life, proven_end)) if *life == unproven.life => {
                        *proven_end = end.offset()
                    }
                    _ => self.ends.push((unproven.life, end.offset())),
                }
            }
        }
    }

    /// The segment that goes on from the current one. A header without a valid first batch is a life
    /// that never began.
    fn find_successor(&self) -> Result<Option<usize>> {
        let mut best: Option<usize> = None;
        for (index, life) in self.lives.iter().enumerate() {
            let header = life.header;
            let newer = best.is_none_or(|best| header.segno > self.lives[best].header.segno);
            if header.pred_salt != self.salt || header.salt == self.salt || !newer {
                continue;
            }
            let first = Expected {
                lsn: first_lsn(header.segno),
                salt: header.salt,
                number_min: 1,
            };
            let batch = life.read(self.segment_bytes, first)?;
            if batch.is_some_and(|batch| {
                batch.header.number == 1 && batch.header.prev_crc == header.crc()
            }) {
                best = Some(index);
            }
        }
        Ok(best)
    }

    fn enter(&mut self, life: usize) -> Result<()> {
        let header = self.lives[life].header;
        self.current = Some(life);
        self.salt = header.salt;
        self.number = 1;
        self.prev_crc = Some(header.crc());
        self.successor = self.find_successor()?;
        Ok(())
    }

    /// A bad batch is a torn tail unless something shows that the log went on behind it.
    fn judge_bad_batch(&self, life: usize, named: Option<u32>) -> Result<()> {
        let at = self.next_lsn(life);
        let found = &self.lives[life];
        let corrupt = |why: String| Err(Error::corrupt(&found.path, u64::from(at.offset()), why));
        if let Some(last) = named.filter(|last| *last >= self.number) {
            return corrupt(format!(
                "batch {} is unreadable, but the next segment follows batch {last}",
                self.number
            ));
        }
        let after = Expected {
            lsn: at,
            salt: self.salt,
            number_min: self.number + 1,
        };
        match found.find_later(self.segment_bytes, after, self.align)? {
            Some(later) => corrupt(format!(
                "batch {} is unreadable, but batch {} follows it",
                self.number, later.header.number
            )),
            None => Ok(()),
        }
    }

    /// At the end of the chain: if a later segment saw more of it durable than is there, it is damaged.
    fn check_watermarks(&self) -> Result<()> {
        let later = self
            .lives
            .iter()
            .filter(|life| life.header.segno > self.tail.lsn.segno());
        for life in later {
            let before = Expected {
                lsn: Lsn::new(life.header.segno, 0),
                salt: life.header.salt,
                number_min: 1,
            };
            let batch = life.find_later(self.segment_bytes, before, self.align)?;
            if let Some(batch) = batch.filter(|batch| batch.header.watermark > self.tail.lsn) {
                return Err(Error::corrupt(
                    &life.path,
                    u64::from(batch.header.lsn.offset()),
                    format!(
                        "the log ends at {}, but segment {} saw it durable up to {}",
                        self.tail.lsn, life.header.segno, batch.header.watermark
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Makes what was read durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let proven = self.ends.iter().map(|(life, _)| *life);
        for life in proven.chain(self.current) {
            let Life { file, path, .. } = &self.lives[life];
            file.sync()
                .map_err(|error| Error::io("sync", path, error))?;
        }
        Ok(())
    }
}
