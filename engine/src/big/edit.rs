//! Changing the key tree in an open transaction.

use std::sync::Arc;

use super::block::BlockId;
use super::keys::{ReadBlocks, WriteBlocks};
use super::{Big, Dirty};
use crate::error::{Error, Result};

/// The key tree of an open transaction.
pub(super) struct Edit<'a>(pub(super) &'a mut Big);

impl ReadBlocks for Edit<'_> {
    fn read(&self, number: u32) -> Result<Arc<[u8]>> {
        self.0.read(number)
    }

    fn damaged(&self, number: u32) -> Error {
        self.0.damaged(number)
    }
}

impl WriteBlocks for Edit<'_> {
    fn write(&mut self, number: u32, content: Vec<u8>) {
        let id = BlockId::key_block(number);
        self.0.set_block(id, Dirty::Here(content.into()));
    }

    fn free(&mut self, number: u32) {
        self.0.set_block(BlockId::key_block(number), Dirty::Gone);
        self.0.core.freed.push(number);
    }

    fn allocate(&mut self) -> Result<u32> {
        let big = &mut *self.0;
        // Numbers of a tree that was thrown away are not this one's.
        if big.thrown_away.is_none()
            && let Some(number) = big.spare.pop_first()
        {
            big.taken.push(number);
            return Ok(number);
        }
        let last = big.core.root.last;
        big.core.root.last = last.checked_add(1).ok_or(Error::Limit {
            what: "the number of key blocks of an object",
            limit: u64::from(u32::MAX),
        })?;
        Ok(big.core.root.last)
    }

    fn value_block_bytes(&self) -> usize {
        (1 << 20).min(self.0.engine.log.record_bytes_max() / 4)
    }
}
