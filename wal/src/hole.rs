//! A damaged part of the log that replay must read, and what can still be made out in it.
//!
//! An ordinary open refuses such a log: what was acknowledged is missing. Opened as
//! [`Access::Damaged`](crate::Access::Damaged), for reading only, the walk goes on behind the damage
//! and tells of each hole, so that the layer above can say what is in doubt.

use crate::batch::{FRAME_BYTES, Frame, HEADER_BYTES, RecordView, decode_record};
use crate::error::Error;
use crate::lsn::Lsn;

/// A part of the log whose batches cannot be read.
#[derive(Clone, Debug)]
pub struct Hole {
    /// Where it starts.
    pub lsn: Lsn,
    /// What is wrong: the file, the offset, and why the log must go on there.
    pub error: Error,
    /// Its bytes, up to where the log can be read again.
    pub(crate) bytes: Vec<u8>,
}

/// What stands in a hole.
#[derive(Clone, Copy, Debug)]
pub enum Remains<'a> {
    /// A record that is intact.
    Record(RecordView<'a>),
    /// A record whose checksum is wrong. Its link and body are as they are found.
    Damaged(RecordView<'a>),
    /// Nothing can be made out from here on.
    Unreadable,
}

impl Hole {
    /// The records of the first batch in the hole; of those behind it nothing is known.
    pub fn remains(&self) -> Vec<Remains<'_>> {
        let mut remains = Vec::new();
        let mut at = HEADER_BYTES;
        // A batch is padded with zeros: a frame of zeros ends it.
        while let Some((frame, _)) = self.bytes.get(at..).and_then(Frame::decode) {
            let end = at + FRAME_BYTES + frame.body_len as usize;
            if frame.kind == 0 && frame.body_len == 0 {
                break;
            }
            let Some(bytes) = self.bytes.get(at..end) else {
                remains.push(Remains::Unreadable);
                return remains;
            };
            let lsn = Lsn::new(self.lsn.segno(), self.lsn.offset() + at as u32);
            remains.push(match decode_record(bytes, lsn) {
                Some((record, _)) => Remains::Record(record),
                None => Remains::Damaged(RecordView {
                    lsn,
                    kind: frame.kind,
                    flags: frame.flags,
                    link: frame.link,
                    body: &bytes[FRAME_BYTES..],
                }),
            });
            at = end;
        }
        // Whether another batch was behind it cannot be told, unless this one fills the hole.
        if at.next_multiple_of(crate::segment::BLOCK_BYTES as usize) < self.bytes.len()
            || remains.is_empty()
        {
            remains.push(Remains::Unreadable);
        }
        remains
    }
}
