//! Changing a key tree: the nodes that changes concern are rewritten in their place, split when they are too
//! large, and joined with one beside them when they are small.

use super::{KeysRoot, ReadBlocks};
use crate::big::node::{Child, Entry, NODE_BYTES, Node, Value, child_bytes, entry_bytes};
use crate::error::Result;

/// A larger value has blocks of its own.
const INLINE_BYTES_MAX: usize = 1024;
/// A node of less is put together with one beside it.
const NODE_BYTES_MIN: usize = NODE_BYTES / 4;

/// A new value of a key, or none.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Where a tree is changed.
pub(crate) trait WriteBlocks: ReadBlocks {
    fn write(&mut self, number: u32, content: Vec<u8>);
    fn free(&mut self, number: u32);
    /// A number for a new block.
    fn allocate(&mut self) -> Result<u32>;
    /// What a block of a large value holds.
    fn value_block_bytes(&self) -> usize;
}

/// Applies changes, sorted by key, and returns the new root.
pub(crate) fn apply(
    blocks: &mut impl WriteBlocks,
    root: &KeysRoot,
    changes: Vec<Change>,
) -> Result<KeysRoot> {
    let mut edit = Edit {
        blocks,
        count: root.count,
        bytes: root.bytes,
    };
    let mut height = root.height;
    let mut level = match height {
        0 => {
            height = 1;
            edit.leaf(None, Vec::new(), changes)?
        }
        _ => edit.node(root.root, height, changes)?,
    };
    while level.len() > 1 {
        level = edit.write_inner(None, level)?;
        height += 1;
    }
    let mut number = level.first().map_or(0, |(_, number)| *number);
    // A root with one child is none.
    while number != 0 && height > 1 {
        match edit.children(number)?.as_slice() {
            [(_, only)] => {
                edit.blocks.free(number);
                (number, height) = (*only, height - 1);
            }
            _ => break,
        }
    }
    Ok(KeysRoot {
        root: number,
        height: if number == 0 { 0 } else { height },
        last: root.last,
        count: edit.count,
        bytes: edit.bytes,
    })
}

struct Edit<'a, B> {
    blocks: &'a mut B,
    count: u64,
    bytes: u64,
}

impl<B: WriteBlocks> Edit<'_, B> {
    fn children(&self, number: u32) -> Result<Vec<Child>> {
        match Node::decode(&self.blocks.read(number)?) {
            Some(Node::Inner(children)) => Ok(children),
            _ => Err(self.blocks.damaged(number)),
        }
    }

    fn entries(&self, number: u32) -> Result<Vec<Entry>> {
        match Node::decode(&self.blocks.read(number)?) {
            Some(Node::Leaf(entries)) => Ok(entries),
            _ => Err(self.blocks.damaged(number)),
        }
    }

    /// Applies changes to the subtree at a node. Returns the nodes that stand in its place.
    fn node(&mut self, number: u32, height: u8, changes: Vec<Change>) -> Result<Vec<Child>> {
        if height == 1 {
            let entries = self.entries(number)?;
            return self.leaf(Some(number), entries, changes);
        }
        let before = self.children(number)?;
        let mut changes = changes.into_iter().peekable();
        let mut after: Vec<Child> = Vec::with_capacity(before.len());
        let mut touched = Vec::new();
        let mut highs = before.iter().skip(1).map(|(key, _)| key.clone());
        for (key, child) in &before {
            let high = highs.next();
            let is_mine = |change: &Change| high.as_ref().is_none_or(|high| change.0 < *high);
            let mut mine = Vec::new();
            while let Some(change) = changes.next_if(|change| is_mine(change)) {
                mine.push(change);
            }
            if mine.is_empty() {
                after.push((key.clone(), *child));
                continue;
            }
            let instead = self.node(*child, height - 1, mine)?;
            for (number, (new_key, new)) in instead.into_iter().enumerate() {
                touched.push(new);
                after.push((if number == 0 { key.clone() } else { new_key }, new));
            }
        }
        self.join_small(&mut after, &touched, height - 1)?;
        if after == before {
            return Ok(vec![(Vec::new(), number)]);
        }
        if after.is_empty() {
            self.blocks.free(number);
            return Ok(after);
        }
        self.write_inner(Some(number), after)
    }

    /// Puts small nodes that were changed together with one beside them.
    fn join_small(&mut self, nodes: &mut Vec<Child>, touched: &[u32], height: u8) -> Result<()> {
        let mut at = 0;
        while at < nodes.len() && nodes.len() > 1 {
            let number = nodes[at].1;
            if !touched.contains(&number) || self.blocks.read(number)?.len() >= NODE_BYTES_MIN {
                at += 1;
                continue;
            }
            let left = at.saturating_sub(1);
            let (a, b) = (nodes[left].1, nodes[left + 1].1);
            let bytes = self.blocks.read(a)?.len() + self.blocks.read(b)?.len();
            if bytes > NODE_BYTES * 3 / 4 {
                at += 1;
                continue;
            }
            let joined = if height == 1 {
                let mut entries = self.entries(a)?;
                entries.extend(self.entries(b)?);
                Node::Leaf(entries)
            } else {
                let mut children = self.children(a)?;
                let mut right = self.children(b)?;
                // What was the lowest of all there has a key before it now.
                right[0].0.clone_from(&nodes[left + 1].0);
                children.extend(right);
                Node::Inner(children)
            };
            self.blocks.write(a, joined.encode());
            self.blocks.free(b);
            nodes.remove(left + 1);
            at = left + 1;
        }
        Ok(())
    }

    /// Applies changes to the entries of a leaf, and writes what that gives.
    fn leaf(
        &mut self,
        number: Option<u32>,
        before: Vec<Entry>,
        changes: Vec<Change>,
    ) -> Result<Vec<Child>> {
        let appends = match (before.last(), changes.first()) {
            (Some((last, _)), Some((first, _))) => first > last,
            _ => true,
        };
        let mut after = Vec::with_capacity(before.len() + changes.len());
        let mut before = before.into_iter().peekable();
        let mut is_changed = false;
        for (key, value) in changes {
            while let Some(entry) = before.next_if(|(old, _)| *old < key) {
                after.push(entry);
            }
            let old = before.next_if(|(old, _)| *old == key);
            match (old, value) {
                (Some((key, Value::Inline(old))), Some(new)) if old == new => {
                    after.push((key, Value::Inline(old)));
                    continue;
                }
                (old, Some(new)) => {
                    let old = old.map(|(_, value)| value);
                    let value = self.store_value(&key, old, new)?;
                    after.push((key, value));
                }
                (Some((key, old)), None) => self.forget_value(&key, old),
                (None, None) => continue,
            }
            is_changed = true;
        }
        after.extend(before);
        match (number, after.is_empty()) {
            (Some(number), _) if !is_changed => Ok(vec![(Vec::new(), number)]),
            (Some(number), true) => {
                self.blocks.free(number);
                Ok(Vec::new())
            }
            (None, true) => Ok(Vec::new()),
            _ => self.write_leaf(number, after, appends),
        }
    }

    fn forget_value(&mut self, key: &[u8], old: Value) {
        self.count -= 1;
        self.bytes -= key.len() as u64 + old.bytes();
        if let Value::Blocks { numbers, .. } = old {
            numbers
                .into_iter()
                .for_each(|number| self.blocks.free(number));
        }
    }

    fn store_value(&mut self, key: &[u8], old: Option<Value>, new: Vec<u8>) -> Result<Value> {
        self.count += 1;
        self.bytes += (key.len() + new.len()) as u64;
        let mut spare = Vec::new();
        if let Some(old) = old {
            self.count -= 1;
            self.bytes -= key.len() as u64 + old.bytes();
            if let Value::Blocks { numbers, .. } = old {
                spare = numbers;
            }
        }
        let value = if new.len() <= INLINE_BYTES_MAX {
            Value::Inline(new)
        } else {
            let mut numbers = Vec::new();
            for part in new.chunks(self.blocks.value_block_bytes()) {
                let number = match spare.pop() {
                    Some(number) => number,
                    None => self.blocks.allocate()?,
                };
                self.blocks.write(number, part.to_vec());
                numbers.push(number);
            }
            Value::Blocks {
                bytes: new.len() as u64,
                numbers,
            }
        };
        spare
            .into_iter()
            .for_each(|number| self.blocks.free(number));
        Ok(value)
    }

    fn write_leaf(
        &mut self,
        number: Option<u32>,
        entries: Vec<Entry>,
        appends: bool,
    ) -> Result<Vec<Child>> {
        let parts = split(entries, entry_bytes, appends, 1);
        self.write_parts(number, parts, Node::Leaf, |(key, _)| key.clone())
    }

    fn write_inner(&mut self, number: Option<u32>, children: Vec<Child>) -> Result<Vec<Child>> {
        // With fewer than two children a node would not make the tree any narrower.
        let parts = split(children, child_bytes, false, 2);
        self.write_parts(number, parts, Node::Inner, |(key, _)| key.clone())
    }

    /// Writes nodes, the first of them in place of an old one.
    fn write_parts<T>(
        &mut self,
        mut number: Option<u32>,
        parts: Vec<Vec<T>>,
        node: impl Fn(Vec<T>) -> Node,
        key: impl Fn(&T) -> Vec<u8>,
    ) -> Result<Vec<Child>> {
        let mut written = Vec::with_capacity(parts.len());
        for part in parts {
            let number = match number.take() {
                Some(number) => number,
                None => self.blocks.allocate()?,
            };
            written.push((key(&part[0]), number));
            self.blocks.write(number, node(part).encode());
        }
        Ok(written)
    }
}

/// Splits what is too much for a node: evenly, or, if it grows at its end, into full ones. Each part has at
/// least so many items, if there are as many.
fn split<T>(
    items: Vec<T>,
    bytes: impl Fn(&T) -> usize,
    fill: bool,
    items_min: usize,
) -> Vec<Vec<T>> {
    let total: usize = items.iter().map(&bytes).sum();
    if total < NODE_BYTES {
        return vec![items];
    }
    let target = if fill {
        NODE_BYTES - 1
    } else {
        total.div_ceil(total.div_ceil(NODE_BYTES - 1))
    };
    let mut parts: Vec<Vec<T>> = vec![Vec::new()];
    let mut gathered = 0;
    for item in items {
        let size = bytes(&item);
        let part = parts.last().expect("there is one");
        if part.len() >= items_min && gathered + size > target {
            parts.push(Vec::new());
            gathered = 0;
        }
        gathered += size;
        parts.last_mut().expect("there is one").push(item);
    }
    if parts.len() > 1 && parts.last().is_some_and(|last| last.len() < items_min) {
        let last = parts.pop().expect("there are two");
        parts.last_mut().expect("there is one").extend(last);
    }
    parts
}
