//! Crossing between the two forms: all of a tiny state becomes changes on top of nothing, and a big object
//! that has shrunk becomes one image.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Big, BlockId, Committed, Core, Dirty, KEY_OVERHEAD_BYTES, Under, Undo};
use crate::engine::Inner;
use crate::error::Result;
use crate::kv::List;
use crate::state::{PAGE_BYTES, PageData, State, Undo as TinyUndo, Working};

impl Big {
    /// A tiny object that grows, with its open transaction. Its savepoints stay what they are; without one,
    /// what the transaction overwrites need not be kept.
    pub(crate) fn grown(engine: Arc<Inner>, working: Working) -> Self {
        let is_touched = working.is_touched();
        let (committed, now, undo) = working.into_parts();
        let mut big = Big::new(engine, Under::default(), Committed::default());
        big.is_touched = is_touched;
        big.has_savepoints = undo.is_some();
        let mut count = now.pages.len();
        // Backwards, since each step says how it was before.
        let undo: Vec<_> = undo
            .unwrap_or_default()
            .into_iter()
            .rev()
            .map(|undo| translate(undo, &mut count))
            .collect();
        big.undo = undo.into_iter().rev().collect();
        big.core = Core::of(now);
        big.tiny = Some(Box::new(committed));
        big
    }

    /// What was committed, if that was a tiny object.
    pub(crate) fn take_tiny(&mut self) -> Option<State> {
        self.tiny.take().map(|state| *state)
    }

    /// All of it, for an image.
    pub(crate) fn to_state(&self) -> Result<State> {
        let mut state = State::default();
        state.alarms.clone_from(&self.core.alarms);
        for listed in self.list(&List::all()) {
            let (key, value) = listed?;
            state.set_kv(key.into_owned(), Some(value.into_owned()));
        }
        for number in 1..=self.core.page_count {
            state.pages.push(self.page(number)?);
        }
        Ok(state)
    }
}

impl Core {
    fn of(state: State) -> Self {
        let mut core = Core {
            page_count: state.pages.len() as u32,
            ..Core::default()
        };
        core.dirty = numbered(state.pages, 1);
        core.here_bytes = core.dirty.len() * PAGE_BYTES;
        core.alarms = state.alarms;
        core.set_keys(state.kv);
        core
    }

    /// Makes these the keys that are not in the tree yet.
    pub(super) fn set_keys(&mut self, keys: BTreeMap<Vec<u8>, Vec<u8>>) {
        let bytes =
            |(key, value): (&Vec<u8>, &Vec<u8>)| KEY_OVERHEAD_BYTES + key.len() + value.len();
        self.keys_bytes = keys.iter().map(bytes).sum();
        self.keys = keys
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
    }
}

fn numbered(pages: Vec<Option<PageData>>, first: usize) -> BTreeMap<BlockId, Dirty> {
    let numbered = (first..).zip(pages);
    numbered
        .filter_map(|(number, page)| Some((BlockId::page(number as u32), Dirty::Here(page?))))
        .collect()
}

/// A step back of a tiny object, as one of a big one. `count` follows the number of pages.
fn translate(undo: TinyUndo, count: &mut usize) -> Undo {
    match undo {
        TinyUndo::Kv { key, old } => Undo::Key {
            key,
            old: old.map(Some),
        },
        TinyUndo::Page { number, old } => Undo::Block {
            id: BlockId::page(number),
            old: old.map(Dirty::Here),
        },
        TinyUndo::Grown { count: before } => {
            *count = before;
            Undo::Pages {
                count: before as u32,
                cut: None,
                dropped: BTreeMap::new(),
            }
        }
        TinyUndo::Truncated { pages } => {
            let first = *count + 1;
            *count += pages.len();
            Undo::Pages {
                count: *count as u32,
                cut: None,
                dropped: numbered(pages, first),
            }
        }
        TinyUndo::Alarms { old } => Undo::Alarms { old },
        TinyUndo::Cleared { old } => {
            *count = old.pages.len();
            Undo::Cleared {
                old: Box::new(Core::of(*old)),
            }
        }
    }
}
