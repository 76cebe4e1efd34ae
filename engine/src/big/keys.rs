//! The key tree of a big object: a B+tree whose nodes are blocks, each rewritten in its place of the map,
//! so that a change of one key rewrites one node.

mod apply;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dovehouse_wal::bytes::{Put, Reader};

use super::node::{Entry, Node, Value, find_child, find_value};
use crate::error::Result;
pub(crate) use apply::{WriteBlocks, apply};

/// Where a key tree begins, and what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeysRoot {
    root: u32,
    /// Levels of nodes; 0 is an empty tree.
    height: u8,
    /// The highest number of a block that was given away.
    pub(crate) last: u32,
    pub(crate) count: u64,
    /// Bytes of all keys and values.
    pub(crate) bytes: u64,
}

impl KeysRoot {
    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.put_varint(u64::from(self.root));
        body.push(self.height);
        body.put_varint(u64::from(self.last));
        body.put_varint(self.count);
        body.put_varint(self.bytes);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let number = |reader: &mut Reader<'_>| u32::try_from(reader.varint()?).ok();
        Some(KeysRoot {
            root: number(reader)?,
            height: reader.u8()?,
            last: number(reader)?,
            count: reader.varint()?,
            bytes: reader.varint()?,
        })
    }
}

/// Where a tree's blocks are read.
pub(crate) trait ReadBlocks {
    /// The content of a block; one that should be there and is not is damage.
    fn read(&self, number: u32) -> Result<Arc<[u8]>>;
    /// What to say of a block whose content makes no sense.
    fn damaged(&self, number: u32) -> crate::error::Error;
}

/// A leaf of the tree, and the keys that it may have: from one on, and before another.
pub(crate) struct Span {
    pub(crate) entries: Result<Vec<Entry>>,
    pub(crate) low: Option<Vec<u8>>,
    pub(crate) high: Option<Vec<u8>>,
}

/// The value of a key.
pub(crate) fn get(
    blocks: &impl ReadBlocks,
    root: &KeysRoot,
    key: &[u8],
) -> Result<Option<Vec<u8>>> {
    if root.height == 0 {
        return Ok(None);
    }
    let mut number = root.root;
    for _ in 1..root.height {
        let inner = blocks.read(number)?;
        let found = find_child(&inner, Some(key), false);
        number = found.ok_or_else(|| blocks.damaged(number))?.child;
    }
    let leaf = blocks.read(number)?;
    let found = find_value(&leaf, key).ok_or_else(|| blocks.damaged(number))?;
    found.map(|value| read_value(blocks, value)).transpose()
}

/// The bytes of a value.
pub(crate) fn read_value(blocks: &impl ReadBlocks, value: Value) -> Result<Vec<u8>> {
    match value {
        Value::Inline(value) => Ok(value),
        Value::Blocks { bytes, numbers } => {
            let mut value = Vec::new();
            for number in &numbers {
                value.extend_from_slice(&blocks.read(*number)?);
            }
            match (value.len() as u64 == bytes, numbers.first()) {
                (false, Some(first)) => Err(blocks.damaged(*first)),
                _ => Ok(value),
            }
        }
    }
}

/// The leaf that has a key; with `before`, the one that has what comes before it. `None` for a key stands
/// for the end.
pub(crate) fn span(
    blocks: &impl ReadBlocks,
    root: &KeysRoot,
    wanted: Option<&[u8]>,
    before: bool,
) -> Span {
    let mut span = Span {
        entries: Ok(Vec::new()),
        low: None,
        high: None,
    };
    if root.height == 0 {
        return span;
    }
    span.entries = descend(blocks, root, wanted, before, &mut span);
    span
}

/// The entries of the leaf. The bounds are narrowed on the way, so that they hold for what cannot be read.
fn descend(
    blocks: &impl ReadBlocks,
    root: &KeysRoot,
    wanted: Option<&[u8]>,
    before: bool,
    span: &mut Span,
) -> Result<Vec<Entry>> {
    let mut number = root.root;
    for _ in 1..root.height {
        let inner = blocks.read(number)?;
        let found = find_child(&inner, wanted, before);
        let found = found.ok_or_else(|| blocks.damaged(number))?;
        number = found.child;
        span.low = found.low.or(span.low.take());
        span.high = found.high.or(span.high.take());
    }
    let leaf = blocks.read(number)?;
    match Node::decode(&leaf) {
        Some(Node::Leaf(entries)) => Ok(entries),
        _ => Err(blocks.damaged(number)),
    }
}
