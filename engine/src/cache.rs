//! What was read of big objects: blocks and leaves, by the place where they lie. Nothing is ever written
//! over in place, so nothing here is ever out of date.

use std::sync::Arc;

use dovehouse_wal::Lsn;
use quick_cache::Weighter;
use quick_cache::sync::Cache as Store;

use crate::big::Leaf;

#[derive(Clone)]
enum Cached {
    Block(Arc<[u8]>),
    Leaf(Arc<Leaf>),
}

#[derive(Clone)]
struct Weight;

/// What an entry costs beside its content.
const ENTRY_BYTES: u64 = 96;

impl Weighter<u64, Cached> for Weight {
    fn weight(&self, _: &u64, cached: &Cached) -> u64 {
        ENTRY_BYTES
            + match cached {
                Cached::Block(content) => content.len() as u64,
                Cached::Leaf(leaf) => leaf.memory_bytes() as u64,
            }
    }
}

/// A cache that all objects of the store share.
pub(crate) struct Cache {
    store: Store<u64, Cached, Weight>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    /// A cache of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        const USUAL_BYTES: u64 = 4096;
        // Only an estimate: tables for more are made when they are needed.
        let items = (bytes / USUAL_BYTES).min(1 << 16) as usize;
        Cache {
            store: Store::with_weighter(items, bytes, Weight),
        }
    }

    pub(crate) fn block(&self, at: Lsn) -> Option<Arc<[u8]>> {
        match self.store.get(&at.as_u64())? {
            Cached::Block(content) => Some(content),
            Cached::Leaf(_) => None,
        }
    }

    pub(crate) fn add_block(&self, at: Lsn, content: &Arc<[u8]>) {
        self.store
            .insert(at.as_u64(), Cached::Block(content.clone()));
    }

    pub(crate) fn leaf(&self, at: Lsn) -> Option<Arc<Leaf>> {
        match self.store.get(&at.as_u64())? {
            Cached::Leaf(leaf) => Some(leaf),
            Cached::Block(_) => None,
        }
    }

    pub(crate) fn add_leaf(&self, at: Lsn, leaf: &Arc<Leaf>) {
        self.store.insert(at.as_u64(), Cached::Leaf(leaf.clone()));
    }

    /// What it holds.
    pub(crate) fn bytes(&self) -> u64 {
        self.store.weight()
    }
}
