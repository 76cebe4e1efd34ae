//! Blocks: what a big object consists of. Database pages are blocks of one file, nodes of the key tree and
//! large values are blocks of another.
//!
//! ```text
//! block = crc u32 · codec u8 · [bytes uncompressed varint] · content
//! ```
//! The checksum begins with whose block it is and which, so that a block in the wrong place is damage.
//! Where a block lies is said once, in a leaf of the object's map or in the commit that wrote it.

use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use crate::compress::{compress, decompress};
use crate::id::Slot;

/// The database pages of an object, from 1.
pub(crate) const PAGES: u8 = 0;
/// The nodes of its key tree and its large values, from 1.
pub(crate) const KEYS: u8 = 1;
/// How many files of blocks an object has.
pub(crate) const FILES: usize = 2;

/// Blocks that one leaf of the map leads to.
pub(crate) const LEAF_BLOCKS: u32 = 512;

/// No block takes more, uncompressed.
pub(crate) const BLOCK_BYTES_MAX: usize = 2 << 20;

const RAW: u8 = 0;
const FRAME: u8 = 1;

/// A block of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockId {
    pub(crate) file: u8,
    pub(crate) number: u32,
}

impl BlockId {
    pub(crate) fn page(number: u32) -> Self {
        BlockId {
            file: PAGES,
            number,
        }
    }

    pub(crate) fn key_block(number: u32) -> Self {
        BlockId { file: KEYS, number }
    }

    /// Which leaf of its file's map leads to it.
    pub(crate) fn leaf(self) -> u32 {
        self.number / LEAF_BLOCKS
    }

    /// And where in that leaf.
    pub(crate) fn position(self) -> usize {
        (self.number % LEAF_BLOCKS) as usize
    }
}

/// One life of a big object: from the commit that made it big to the one that ends that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TreeId {
    pub(crate) slot: Slot,
    pub(crate) generation: u8,
    /// The lower half of the number of the commit that made it big.
    pub(crate) tree: u32,
}

impl TreeId {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_varint(self.slot.get());
        out.push(self.generation);
        out.put_varint(u64::from(self.tree));
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(TreeId {
            slot: Slot::new(reader.varint()?)?,
            generation: reader.u8()?,
            tree: u32::try_from(reader.varint()?).ok()?,
        })
    }
}

fn checksum(tree: TreeId, id: BlockId, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&tree.slot.get().to_le_bytes());
    hasher.update(&[tree.generation, id.file]);
    hasher.update(&tree.tree.to_le_bytes());
    hasher.update(&id.number.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

/// A block as it is stored.
pub(crate) fn encode_block(tree: TreeId, id: BlockId, content: &[u8]) -> Vec<u8> {
    const CRC: usize = 4;
    // Less than an eighth saved is not worth the reader's time.
    let frame = compress(content, b"").filter(|frame| frame.len() <= content.len() / 8 * 7);
    let mut block = vec![0; CRC];
    match frame {
        Some(frame) => {
            block.push(FRAME);
            block.put_varint(content.len() as u64);
            block.extend_from_slice(&frame);
        }
        None => {
            block.reserve_exact(1 + content.len());
            block.push(RAW);
            block.extend_from_slice(content);
        }
    }
    let crc = checksum(tree, id, &block[CRC..]);
    block[..CRC].copy_from_slice(&crc.to_le_bytes());
    block
}

/// The content of a stored block; `None` is damage.
pub(crate) fn decode_block(tree: TreeId, id: BlockId, block: &[u8]) -> Option<Arc<[u8]>> {
    let mut reader = Reader::new(block);
    let crc = reader.u32()?;
    if checksum(tree, id, reader.rest()) != crc {
        return None;
    }
    match reader.u8()? {
        RAW => Some(reader.rest().into()),
        FRAME => {
            let len = reader.length().filter(|len| *len <= BLOCK_BYTES_MAX)?;
            Some(decompress(reader.rest(), b"", len)?.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_to_its_owner_only_and_any_flipped_bit_is_damage() {
        let tree = TreeId {
            slot: Slot::new(7).unwrap(),
            generation: 1,
            tree: 12,
        };
        let mut random = vec![0; 1000];
        fastrand::Rng::with_seed(1).fill(&mut random);
        for content in [vec![5; 4096], random, vec![]] {
            let block = encode_block(tree, BlockId::page(3), &content);
            let decode = |tree, id, block: &[u8]| decode_block(tree, id, block);
            let found = decode(tree, BlockId::page(3), &block).unwrap();
            assert_eq!(&found[..], &content[..]);
            assert!(decode(tree, BlockId::page(4), &block).is_none());
            assert!(decode(tree, BlockId::key_block(3), &block).is_none());
            assert!(decode(TreeId { tree: 13, ..tree }, BlockId::page(3), &block).is_none());
            for bit in 0..block.len() * 8 {
                let mut flipped = block.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(tree, BlockId::page(3), &flipped).is_none());
            }
        }
    }
}
