//! The undo log of an open transaction of a big object, which is kept from its first savepoint on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::{BlockId, KEYS, PAGES};
use super::keys::KeysRoot;
use super::{Big, Committed, Core, Dirty, KEY_OVERHEAD_BYTES, Under};
use crate::state::{Alarm, Savepoint};

/// How to take one step back.
#[derive(Debug)]
pub(super) enum Undo {
    /// A savepoint: what came before it is undone as a whole, or not at all.
    Mark,
    Key {
        key: Vec<u8>,
        old: Option<Option<Vec<u8>>>,
    },
    /// Keys went into the tree.
    Applied {
        keys: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        keys_bytes: usize,
        root: KeysRoot,
        freed: usize,
    },
    Block {
        id: BlockId,
        old: Option<Dirty>,
    },
    Pages {
        count: u32,
        cut: Option<u32>,
        dropped: BTreeMap<BlockId, Dirty>,
    },
    Alarms {
        old: Vec<Alarm>,
    },
    Cleared {
        old: Box<Core>,
    },
}

impl Big {
    pub(crate) fn savepoint(&mut self) -> Savepoint {
        if !self.is_touched {
            return Savepoint::default();
        }
        self.has_savepoints = true;
        if self.undo.is_empty() {
            self.undo.push(Undo::Mark);
        }
        Savepoint(self.undo.len())
    }

    pub(crate) fn rollback_to(&mut self, savepoint: Savepoint) {
        if savepoint == Savepoint::default() {
            return self.rollback();
        }
        while self.undo.len() > savepoint.0 {
            let undo = self.undo.pop().expect("there is one");
            self.take_back(undo);
        }
        let is_back = |under: &Arc<Under>| Arc::ptr_eq(under, &self.core.under);
        if self.thrown_away.as_ref().is_some_and(is_back) {
            self.thrown_away = None;
        }
        self.count();
    }

    pub(super) fn take_back(&mut self, undo: Undo) {
        let core = &mut self.core;
        match undo {
            Undo::Mark => {}
            Undo::Key { key, old } => {
                let bytes = |value: &Option<Vec<u8>>, key: &[u8]| {
                    KEY_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Vec::len)
                };
                core.keys_bytes += old.as_ref().map_or(0, |old| bytes(old, &key));
                let gone = match old {
                    Some(old) => core.keys.insert(key.clone(), old),
                    None => core.keys.remove(&key),
                };
                core.keys_bytes -= gone.as_ref().map_or(0, |gone| bytes(gone, &key));
            }
            Undo::Applied {
                keys,
                keys_bytes,
                root,
                freed,
            } => {
                (core.keys, core.keys_bytes, core.root) = (keys, keys_bytes, root);
                core.freed.truncate(freed);
            }
            Undo::Block { id, old } => {
                core.here_bytes += old.as_ref().map_or(0, Dirty::here_bytes);
                let gone = match old {
                    Some(old) => core.dirty.insert(id, old),
                    None => core.dirty.remove(&id),
                };
                core.here_bytes -= gone.as_ref().map_or(0, Dirty::here_bytes);
            }
            Undo::Pages {
                count,
                cut,
                dropped,
            } => {
                (core.page_count, core.cut) = (count, cut);
                core.here_bytes += dropped.values().map(Dirty::here_bytes).sum::<usize>();
                core.dirty.extend(dropped);
            }
            Undo::Alarms { old } => core.alarms = old,
            Undo::Cleared { old } => *core = *old,
        }
    }

    pub(crate) fn was_cleared_since(&self, savepoint: Savepoint) -> bool {
        // Before the first savepoint there is no undo log to tell.
        let from_the_first = savepoint == Savepoint::default() && self.thrown_away.is_some();
        let mut since = self.undo.iter().skip(savepoint.0);
        from_the_first || since.any(|undo| matches!(undo, Undo::Cleared { .. }))
    }

    /// Undoes what was done to keys and alarms since the savepoint, and leaves the pages as they are.
    pub(crate) fn rollback_keys_to(&mut self, savepoint: Savepoint) {
        if savepoint == Savepoint::default() {
            return self.rollback_keys();
        }
        let since = self.undo.split_off(savepoint.0.min(self.undo.len()));
        for undo in since.into_iter().rev() {
            let of_pages = match &undo {
                Undo::Block { id, .. } => id.file == PAGES,
                Undo::Pages { .. } => true,
                _ => false,
            };
            if of_pages {
                self.undo.push(undo);
            } else {
                self.take_back(undo);
            }
        }
        self.undo[savepoint.0..].reverse();
        self.count();
    }

    /// The same since the last commit.
    fn rollback_keys(&mut self) {
        let core = &mut self.core;
        // What was committed in the other form is in no tree yet.
        let keys = self.tiny.as_ref().map(|state| state.kv.clone());
        core.set_keys(keys.unwrap_or_default());
        let of_keys = core.dirty.split_off(&BlockId {
            file: KEYS,
            number: 0,
        });
        core.here_bytes -= of_keys.values().map(Dirty::here_bytes).sum::<usize>();
        core.freed.clear();
        core.root = self.committed.root;
        let alarms = match &self.tiny {
            Some(state) => &state.alarms,
            None => &self.committed.alarms,
        };
        core.alarms.clone_from(alarms);
        self.spare.extend(self.taken.drain(..));
        self.count();
    }

    /// Undoes the open transaction.
    pub(crate) fn rollback(&mut self) {
        let under = match self.thrown_away.take() {
            Some(under) => under,
            None => self.core.under.clone(),
        };
        let Committed {
            root,
            page_count,
            alarms,
        } = self.committed.clone();
        self.core = Core {
            under,
            root,
            page_count,
            alarms,
            ..Core::default()
        };
        self.spare.extend(self.taken.drain(..));
        self.end_transaction();
    }
}
