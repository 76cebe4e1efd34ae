//! What history is sorted by.
//!
//! ```text
//! key = slot u40 · generation u8 · what u8 · [file u8 · number u32, of a block] · seq u48, all big-endian
//! ```
//! So that everything of one object lies together: its commits in order; then the commits that ended a big
//! object's map; then, block by block, what each was before the commits that changed it.

use dovehouse_wal::bytes::Reader;

use crate::big::BlockId;
use crate::id::Slot;
use crate::slots::SEQ_LIMIT;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    /// A commit, and how to undo it.
    Commit,
    /// A commit that ended the life of a big object's map: every block that there was has an entry.
    End,
    /// A block of a big object, as it was before a commit that changed it.
    Block(BlockId),
}

/// The place of an entry in history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) slot: Slot,
    pub(crate) generation: u8,
    pub(crate) what: What,
    /// The number of the commit.
    pub(crate) seq: u64,
}

const COMMIT: u8 = 0;
const END: u8 = 1;
const BLOCK: u8 = 2;

impl Key {
    /// No key of a slot is below this one.
    pub(crate) fn first_of(slot: Slot) -> Self {
        Key {
            slot,
            generation: 0,
            what: What::Commit,
            seq: 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slot.get().to_be_bytes()[3..]);
        out.push(self.generation);
        match self.what {
            What::Commit => out.push(COMMIT),
            What::End => out.push(END),
            What::Block(id) => {
                out.extend_from_slice(&[BLOCK, id.file]);
                out.extend_from_slice(&id.number.to_be_bytes());
            }
        }
        out.extend_from_slice(&self.seq.to_be_bytes()[2..]);
    }

    /// Takes a key off; `None` is damage.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let slot = Slot::new(big_endian(reader.take(5)?))?;
        let generation = reader.u8()?;
        let what = match reader.u8()? {
            COMMIT => What::Commit,
            END => What::End,
            BLOCK => What::Block(BlockId {
                file: reader.u8()?,
                number: u32::from_be_bytes(reader.array()?),
            }),
            _ => return None,
        };
        let seq = big_endian(reader.take(6)?);
        (seq < SEQ_LIMIT).then_some(Key {
            slot,
            generation,
            what,
            seq,
        })
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_their_bytes_sort_as_they_do() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut keys: Vec<_> = std::iter::repeat_with(|| Key {
            slot: Slot::new(rng.u64(1..300)).unwrap(),
            generation: rng.u8(0..2),
            what: match rng.u8(0..4) {
                0 => What::Commit,
                1 => What::End,
                _ => What::Block(BlockId {
                    file: rng.u8(0..2),
                    number: rng.u32(0..1000),
                }),
            },
            seq: rng.u64(0..SEQ_LIMIT),
        })
        .take(2000)
        .collect();
        let bytes = |key: &Key| {
            let mut out = Vec::new();
            key.encode(&mut out);
            out
        };
        for key in &keys {
            assert_eq!(Key::decode(&mut Reader::new(&bytes(key))), Some(*key));
        }
        let mut by_bytes = keys.clone();
        by_bytes.sort_by_key(bytes);
        keys.sort();
        assert_eq!(keys, by_bytes);
    }
}
