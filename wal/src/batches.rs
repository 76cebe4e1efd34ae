//! The batches of a segment, one after the other.

use std::sync::Arc;

use crate::batch::{Batch, Expected, align, first_lsn};
use crate::error::{Error, Result};
use crate::log::{Ledger, Log};
use crate::lsn::Lsn;
use crate::pool::Segment;

impl<L: Ledger> Log<L> {
    /// The durable batches of a segment in order, from the one at `from` (an offset) on.
    pub fn batches(&self, segment: &Arc<Segment>, from: u32) -> Batches {
        Batches {
            segment: segment.clone(),
            segment_bytes: self.inner.segment_bytes,
            align: align(self.inner.teeth),
            next: Lsn::new(segment.segno, from.max(first_lsn(0).offset())),
        }
    }
}

/// The batches of a segment; see [`Log::batches`].
#[derive(Debug)]
pub struct Batches {
    segment: Arc<Segment>,
    segment_bytes: u64,
    align: u64,
    next: Lsn,
}

impl Batches {
    /// Where the next batch starts.
    pub fn position(&self) -> Lsn {
        self.next
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next.offset() >= self.segment.end() {
            return None;
        }
        let expected = Expected {
            lsn: self.next,
            salt: self.segment.salt,
            number_min: 1,
        };
        let path = &self.segment.path;
        let error = match Batch::read(&*self.segment.file, self.segment_bytes, expected) {
            Ok(Some(batch)) => {
                self.next = batch.end(self.align);
                return Some(Ok(batch));
            }
            Ok(None) => {
                Error::corrupt(path, u64::from(self.next.offset()), "a batch is unreadable")
            }
            Err(error) => Error::io("read", path, error),
        };
        // What lies behind a bad batch cannot be found by way of it.
        self.next = Lsn::new(self.next.segno(), self.segment.end());
        Some(Err(error))
    }
}
