//! Making another object of what one was.

use dovehouse_wal::Ticket;

use super::{Content, Object};
use crate::big::{Fork, LEAF_BLOCKS, Origin, TreeId};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::history::Bookmark;
use crate::id::ObjectId;

impl Engine {
    /// Makes another object of what one was at a bookmark: keys, pages, and alarms too if `with_alarms` is set.
    /// One commit. The new one is of the same class, must have no state, and has a history of its own.
    ///
    /// A large object's fork shares what neither has changed since, so it costs the same for 1 MB and for
    /// 10 GB. What is shared keeps the history that it is read from; when that has become as old as the class's
    /// retention, it is copied in the background. Of a class without history, forks are copies at once.
    ///
    /// Fails with [`Error::NotEmpty`] if the object is there already; otherwise as [`Engine::past`] and
    /// [`Object::commit`] do.
    pub fn fork(
        &self,
        id: &ObjectId,
        bookmark: &Bookmark,
        to: ObjectId,
        with_alarms: bool,
    ) -> Result<Option<Ticket>> {
        self.fork_named(id, bookmark, to, None, with_alarms)
    }

    /// The same, with a name to keep with the new object.
    pub fn fork_named(
        &self,
        id: &ObjectId,
        bookmark: &Bookmark,
        to: ObjectId,
        name: Option<&str>,
        with_alarms: bool,
    ) -> Result<Option<Ticket>> {
        let past = self.past(id, bookmark)?;
        let mut fork = self.wake(past.class(), to)?;
        if !fork.is_empty() {
            return Err(Error::NotEmpty { id: to });
        }
        if let Some(name) = name {
            fork.set_name(name);
        }
        let shared = fork.share(&past)?;
        if shared.is_none() {
            fork.copy_from(&past)?;
        }
        if with_alarms {
            fork.set_alarms(past.alarms().to_vec());
        }
        let committed = fork.commit();
        if let Some(tree) = shared.filter(|_| committed.is_err() || !fork.is_big()) {
            self.inner.forget_fork(tree);
        }
        committed
    }
}

impl Object {
    /// Lets the open transaction make a fork of a big object that was. Returns the tree that shares its blocks;
    /// `None` if it is to be copied.
    fn share(&mut self, past: &Object) -> Result<Option<TreeId>> {
        let engine = self.engine.clone();
        let Content::Big(was) = &past.content else {
            return Ok(None);
        };
        let Some(view) = was.past() else {
            return Ok(None);
        };
        let Some(steps) = engine.steps_of_fork(view.tree()) else {
            return Ok(None);
        };
        let is_small = past.state_bytes() <= engine.tiny_bytes_max;
        if is_small || !engine.history.offers(self.class) {
            return Ok(None);
        }
        // The history that is kept for it is that of one class.
        if !engine.history.is_point(self.class, view.of(), view.seq())? {
            return Ok(None);
        }
        let origin = Origin {
            tree: view.tree(),
            seq: view.seq(),
            since_ms: engine.history.since_ms(self.class, view.of(), view.seq())?,
            steps,
        };
        let (root, page_count) = was.size();
        let leaves = [page_count, root.last].map(|last| last / LEAF_BLOCKS + 1);
        self.grow();
        let (tree, class, seq) = (self.next_tree()?, self.class, self.head.seq + 1);
        let Content::Big(big) = &mut self.content else {
            return Ok(None);
        };
        self.touched += 1;
        big.begin_fork(tree, leaves, (root, page_count), origin.clone())?;
        engine.add_fork(Fork::new(tree, class, seq, leaves, origin))?;
        Ok(Some(tree))
    }
}
