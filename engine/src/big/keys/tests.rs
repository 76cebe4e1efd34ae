//! A key tree beside a map of the same keys.

use std::collections::BTreeMap;

use super::*;
use crate::big::node::NODE_BYTES;
use crate::error::Error;

#[derive(Default)]
struct Memory {
    blocks: BTreeMap<u32, Arc<[u8]>>,
    last: u32,
}

impl ReadBlocks for Memory {
    fn read(&self, number: u32) -> Result<Arc<[u8]>> {
        self.blocks
            .get(&number)
            .cloned()
            .ok_or_else(|| self.damaged(number))
    }

    fn damaged(&self, number: u32) -> Error {
        Error::damaged(format!("block {number}"), "it is not there")
    }
}

impl WriteBlocks for Memory {
    fn write(&mut self, number: u32, content: Vec<u8>) {
        self.blocks.insert(number, content.into());
    }

    fn free(&mut self, number: u32) {
        assert!(self.blocks.remove(&number).is_some(), "freed twice");
    }

    fn allocate(&mut self) -> Result<u32> {
        self.last += 1;
        Ok(self.last)
    }

    fn value_block_bytes(&self) -> usize {
        1500
    }
}

/// Everything, by walking from leaf to leaf.
fn walk(blocks: &Memory, root: &KeysRoot, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut from: Option<Vec<u8>> = (!reverse).then(Vec::new);
    loop {
        let span = span(blocks, root, from.as_deref(), reverse);
        let mut entries = span.entries.unwrap();
        if reverse {
            entries.reverse();
        }
        for (key, value) in entries {
            all.push((key, read_value(blocks, value).unwrap()));
        }
        from = if reverse { span.low } else { span.high };
        if from.is_none() {
            return all;
        }
    }
}

#[test]
fn a_tree_is_what_a_map_is_and_leaves_no_block_behind() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut blocks, mut root) = (Memory::default(), KeysRoot::default());
        let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
        let long = [4, 300, 4096][rng.usize(0..3)];
        for round in 0..rng.usize(1..40) {
            let grows = round % 12 < 8;
            let mut changes = BTreeMap::new();
            for _ in 0..rng.usize(1..200) {
                let mut key = rng.u32(0..3000).to_be_bytes().to_vec();
                key.resize(long, 7);
                let bytes = [5, 60, 1024, 1025, 3000, 4500][rng.usize(0..6)];
                let value = (rng.u8(0..10) < if grows { 9 } else { 1 })
                    .then(|| vec![rng.u8(..); rng.usize(0..=bytes)]);
                changes.insert(key, value);
            }
            for (key, value) in &changes {
                match value {
                    Some(value) => drop(model.insert(key.clone(), value.clone())),
                    None => drop(model.remove(key)),
                }
            }
            root = apply(&mut blocks, &root, changes.into_iter().collect()).unwrap();
            let bytes: usize = model
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum();
            assert_eq!((root.count, root.bytes), (model.len() as u64, bytes as u64));
            let mut key = rng.u32(0..3000).to_be_bytes().to_vec();
            key.resize(long, 7);
            let found = get(&blocks, &root, &key).unwrap();
            assert_eq!(found.as_ref(), model.get(&key));
        }
        let all: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(walk(&blocks, &root, false), all, "seed {seed}");
        let mut backwards = walk(&blocks, &root, true);
        backwards.reverse();
        assert_eq!(backwards, all, "seed {seed}");
        let gone = all.into_iter().map(|(key, _)| (key, None)).collect();
        root = apply(&mut blocks, &root, gone).unwrap();
        assert_eq!(root, KeysRoot::default(), "seed {seed}");
        assert!(blocks.blocks.is_empty(), "{:?}", blocks.blocks.keys());
    }
}

#[test]
fn keys_in_order_fill_their_nodes_and_one_change_rewrites_one() {
    let (mut blocks, mut root) = (Memory::default(), KeysRoot::default());
    for batch in 0..100_u32 {
        let changes = (0..100_u32).map(|number| {
            let key = (batch * 100 + number).to_be_bytes().to_vec();
            (key, Some(vec![1; 90]))
        });
        root = apply(&mut blocks, &root, changes.collect()).unwrap();
    }
    let leaves = blocks.blocks.len();
    assert!(leaves < 10_000 * 97 / NODE_BYTES + 30, "{leaves} nodes");
    let before = blocks.blocks.clone();
    let key = 5000_u32.to_be_bytes().to_vec();
    apply(&mut blocks, &root, vec![(key, Some(vec![2; 90]))]).unwrap();
    let changed = before
        .iter()
        .filter(|(number, old)| blocks.blocks[*number] != **old);
    assert_eq!(changed.count(), 1);
}
