//! What history says of a commit and of a block.
//!
//! ```text
//! commit    = class varint · time varint (ms since 1970) · bytes varint · commits back varint · undo
//! undo      = 0                                   nothing was changed
//!           | 1 · operation*                      those of a DELTA record, which make the state before
//!           | 2 · keys varint · bytes varint · pages varint · alarms · state       the state before
//!           | 3 · tree varint · keys · page count varint · alarms                  a big object: see its blocks
//!           | 4                                   what was before is lost
//! block     = 0                                   there was none
//!           | 1 · content
//!           | 2                                   what was before is lost
//!           | 3                                   a fork: that of its origin
//! ```
//! *Commits back* is 1 unless commits before it were thinned out: what the undo leads to.

use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use crate::big::KeysRoot;
use crate::id::{ClassId, ObjectId};
use crate::record::{Meta, decode_alarms, decode_state, encode_alarms, encode_state};
use crate::state::{Alarm, State};

/// What a big object was before a commit, besides its blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BigBefore {
    pub(crate) tree: u32,
    pub(crate) keys: KeysRoot,
    pub(crate) page_count: u32,
    pub(crate) alarms: Vec<Alarm>,
}

/// How to undo a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    Nothing,
    Operations(Vec<u8>),
    State(Box<State>),
    Big(BigBefore),
    Lost,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) class: ClassId,
    pub(crate) time_ms: u64,
    /// What its record took in the log.
    pub(crate) bytes: u64,
    /// How many commits further back the undo leads.
    pub(crate) back: u64,
    pub(crate) undo: Undo,
}

/// A block before a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    None,
    Content(Arc<[u8]>),
    Lost,
    /// The fork had not written it: it was its origin's.
    Origin,
}

mod tag {
    pub(super) const NOTHING: u8 = 0;
    pub(super) const OPERATIONS: u8 = 1;
    pub(super) const STATE: u8 = 2;
    pub(super) const BIG: u8 = 3;
    pub(super) const LOST: u8 = 4;

    pub(super) const NO_BLOCK: u8 = 0;
    pub(super) const BLOCK: u8 = 1;
    pub(super) const LOST_BLOCK: u8 = 2;
    pub(super) const BLOCK_OF_ORIGIN: u8 = 3;
}

impl Commit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_varint(u64::from(self.class.0));
        out.put_varint(self.time_ms);
        out.put_varint(self.bytes);
        out.put_varint(self.back);
        match &self.undo {
            Undo::Nothing => out.push(tag::NOTHING),
            Undo::Operations(operations) => {
                out.push(tag::OPERATIONS);
                out.extend_from_slice(operations);
            }
            Undo::State(state) => {
                out.push(tag::STATE);
                out.put_varint(state.kv.len() as u64);
                out.put_varint(state.kv_bytes() as u64);
                out.put_varint(state.pages.len() as u64);
                encode_alarms(&state.alarms, &mut out);
                out.extend_from_slice(&encode_state(state));
            }
            Undo::Big(big) => {
                out.push(tag::BIG);
                out.put_varint(u64::from(big.tree));
                big.keys.encode(&mut out);
                out.put_varint(u64::from(big.page_count));
                encode_alarms(&big.alarms, &mut out);
            }
            Undo::Lost => out.push(tag::LOST),
        }
        out
    }

    /// `None` is damage.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(Commit {
            class: ClassId(u16::try_from(reader.varint()?).ok()?),
            time_ms: reader.varint()?,
            bytes: reader.varint()?,
            back: reader.varint().filter(|back| *back > 0)?,
            undo: decode_undo(&mut reader)?,
        })
    }
}

fn decode_undo(reader: &mut Reader<'_>) -> Option<Undo> {
    Some(match reader.u8()? {
        tag::NOTHING => Undo::Nothing,
        tag::OPERATIONS => Undo::Operations(reader.rest().to_vec()),
        tag::STATE => Undo::State(Box::new(decode_whole(reader)?)),
        tag::BIG => Undo::Big(BigBefore {
            tree: u32::try_from(reader.varint()?).ok()?,
            keys: KeysRoot::decode(reader)?,
            page_count: u32::try_from(reader.varint()?).ok()?,
            alarms: decode_alarms(reader)?,
        }),
        tag::LOST => Undo::Lost,
        _ => return None,
    })
}

fn decode_whole(reader: &mut Reader<'_>) -> Option<State> {
    let mut meta = Meta {
        id: ObjectId::from_bytes([0; 32]),
        name: None,
        written_ms: 0,
        alarms: Vec::new(),
        kv_count: reader.varint()?,
        kv_bytes: reader.varint()?,
        page_count: reader.varint()?,
    };
    meta.alarms = decode_alarms(reader)?;
    let mut state = decode_state(reader.rest(), &meta)?;
    state.alarms = meta.alarms;
    Some(state)
}

impl Block {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Block::None => vec![tag::NO_BLOCK],
            Block::Content(content) => {
                let mut out = Vec::with_capacity(1 + content.len());
                out.push(tag::BLOCK);
                out.extend_from_slice(content);
                out
            }
            Block::Lost => vec![tag::LOST_BLOCK],
            Block::Origin => vec![tag::BLOCK_OF_ORIGIN],
        }
    }

    /// `None` is damage.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, content) = bytes.split_first()?;
        Some(match *tag {
            tag::NO_BLOCK => Block::None,
            tag::BLOCK => Block::Content(content.into()),
            tag::LOST_BLOCK => Block::Lost,
            tag::BLOCK_OF_ORIGIN => Block::Origin,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_cut_ones_are_damage_or_shorter() {
        let mut state = State::default();
        state.set_kv(b"key".to_vec(), Some(b"value".to_vec()));
        state.pages = vec![None, Some(vec![7; 4096].into())];
        state.alarms.push(Alarm {
            name: "cron".into(),
            due_ms: 5,
            ..Alarm::default()
        });
        let big = BigBefore {
            tree: 70_000,
            page_count: 9,
            alarms: state.alarms.clone(),
            ..BigBefore::default()
        };
        let undos = [
            Undo::Nothing,
            Undo::Operations(vec![1, 2, 3]),
            Undo::State(Box::new(state)),
            Undo::Big(big),
            Undo::Lost,
        ];
        for undo in undos {
            let commit = Commit {
                class: ClassId(300),
                time_ms: 1_700_000_000_000,
                bytes: 120,
                back: 1,
                undo,
            };
            let bytes = commit.encode();
            assert_eq!(Commit::decode(&bytes), Some(commit.clone()));
            for len in 0..bytes.len() {
                assert_ne!(Commit::decode(&bytes[..len]), Some(commit.clone()));
            }
        }
        let content = Block::Content(vec![1; 9].into());
        for block in [Block::None, content, Block::Lost, Block::Origin] {
            assert_eq!(Block::decode(&block.encode()), Some(block));
        }
        assert_eq!(Block::decode(&[]), None);
    }
}
