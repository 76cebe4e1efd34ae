//! Committing a big object, and crossing into that form and out of it.

use std::sync::Arc;

use dovehouse_wal::{Claim, Reservation};

use super::{Content, Encoded, Next, Object};
use crate::big::{Big, Owner, TreeId, restarts};
use crate::error::Result;
use crate::record::Kind;
use crate::state::PAGE_BYTES;

/// A transaction of a tiny object that has come to this size goes on as one of a big object, which need not
/// stay in memory.
pub(super) const WAITING_BYTES_MAX: usize = 4 << 20;

impl Object {
    /// Goes on as a big object. Nothing of it is on disk before the next commit.
    pub(super) fn grow(&mut self) {
        if let Content::Tiny(working) = &mut self.content {
            let big = Big::grown(self.engine.clone(), std::mem::take(working));
            self.content = Content::Big(Box::new(big));
        }
    }

    /// Sees to it that the open transaction takes no more memory than it may.
    pub(super) fn keep_budget(&mut self) -> Result<()> {
        match &mut self.content {
            Content::Tiny(working) => {
                let state = working.state();
                if state.kv_bytes() + state.pages.len() * PAGE_BYTES > WAITING_BYTES_MAX {
                    self.grow();
                }
                Ok(())
            }
            Content::Big(big) => {
                match big.is_over_budget() && !self.engine.read_only && !self.is_past {
                    true => self.spill(),
                    false => Ok(()),
                }
            }
        }
    }

    fn spill(&mut self) -> Result<()> {
        let (tree, seq, class) = (self.next_tree()?, self.head.seq + 1, self.class);
        match &mut self.content {
            Content::Big(big) => big.spill(class, tree, seq),
            Content::Tiny(_) => Ok(()),
        }
    }

    /// The tree that the open transaction will be in.
    pub(super) fn next_tree(&mut self) -> Result<TreeId> {
        if self.cell.is_none() {
            self.new_cell()?;
        }
        let header = self.header(0)?;
        Ok(match &self.content {
            Content::Big(big) if big.has_tree() => big.tree_id().expect("it has one"),
            _ => TreeId {
                slot: header.slot,
                generation: header.generation,
                tree: header.seq as u32,
            },
        })
    }

    fn big(&mut self) -> &mut Big {
        match &mut self.content {
            Content::Big(big) => big,
            Content::Tiny(_) => unreachable!("only called for a big object"),
        }
    }

    pub(super) fn encode_big(&mut self, again: Option<Kind>) -> Result<Option<Encoded>> {
        self.big().gather()?;
        let stays_empty = self.is_empty() && !self.head.has_image;
        if !self.big().has_changes() || stays_empty {
            return Ok(None);
        }
        self.check_writable()?;
        if self.is_empty() {
            return self.encode_erase(Next::Tiny(Default::default())).map(Some);
        }
        if let Some(encoded) = self.encode_shrunk(again)? {
            return Ok(Some(encoded));
        }
        let (tree, seq, class) = (self.next_tree()?, self.head.seq + 1, self.class);
        let is_head = match again {
            Some(kind) => kind == Kind::Head,
            None => self.needs_head(),
        };
        if is_head && again.is_none() {
            let engine = self.engine.clone();
            self.settle(|bytes| engine.reserve(bytes, Claim::Growth))?;
        }
        self.big().make_small(class, tree, seq)?;
        let depth = if is_head { 0 } else { self.head.depth + 1 };
        let owner = Owner {
            id: self.id,
            name: self.name.as_deref(),
            header: self.header(depth)?,
            now_ms: self.engine.fs.now_ms(),
        };
        let Content::Big(big) = &self.content else {
            return Ok(None);
        };
        let (body, commit) = big.encode(&owner, is_head);
        Ok(Some(Encoded {
            kind: if is_head { Kind::Head } else { Kind::Pages },
            body,
            alarms_changed: big.alarms_changed() || big.is_cleared() || !big.has_tree(),
            next: Next::Big(commit),
        }))
    }

    fn needs_head(&mut self) -> bool {
        let (depth, chain_bytes) = (self.head.depth, self.head.chain_bytes);
        let wants_image = self.cell.as_ref().is_some_and(|cell| cell.wants_image());
        let big = self.big();
        wants_image || !big.has_tree() || restarts(big.recent_blocks(), depth, chain_bytes)
    }

    /// One image, if all that there is fits into it.
    fn encode_shrunk(&mut self, again: Option<Kind>) -> Result<Option<Encoded>> {
        let limit = self.engine.tiny_bytes_max;
        // One that was big shrinks later than it grew, lest it cross with every commit.
        let is_small = match self.big().has_tree() {
            true => self.state_bytes() <= limit / 2,
            false => self.state_bytes() <= limit,
        };
        if !is_small || again.is_some_and(|kind| kind != Kind::Image) {
            return Ok(None);
        }
        let state = self.big().to_state()?;
        if state.bytes() > limit {
            return Ok(None);
        }
        Ok(Some(Encoded {
            kind: Kind::Image,
            body: self.encode_image_of(&state)?,
            alarms_changed: true,
            next: Next::Tiny(Box::new(state)),
        }))
    }

    /// Writes the leaves that the commits so far concern, which must be durable for that.
    fn settle(&mut self, reserve: impl Fn(usize) -> Result<Reservation>) -> Result<()> {
        if let Some(ticket) = self.last_ticket() {
            ticket.wait()?;
        }
        let class = self.class;
        self.big().settle(class, reserve)
    }

    /// Puts the commits so far into leaves, so that waking the object does not have to read them.
    pub(super) fn settle_for_sleep(&mut self) -> Result<()> {
        // No room is made for this: compaction may be what asks.
        let engine = self.engine.clone();
        let reserve = |bytes| Ok(engine.log.reserve(bytes, Claim::Replacement)?);
        self.settle(reserve)?;
        let owner = Owner {
            id: self.id,
            name: self.name.as_deref(),
            header: self.header(0)?,
            now_ms: self.engine.fs.now_ms(),
        };
        let Content::Big(big) = &self.content else {
            return Ok(());
        };
        let (body, commit) = big.encode(&owner, true);
        self.append_whole(Kind::Head, body, Next::Big(commit), Claim::Replacement)
    }
}

/// What waking a big object gives.
#[derive(Debug)]
pub(crate) struct LoadedBig {
    pub(crate) under: crate::big::Under,
    pub(crate) root: crate::big::KeysRoot,
    pub(crate) page_count: u32,
    pub(crate) alarms: Vec<crate::state::Alarm>,
}

impl LoadedBig {
    pub(crate) fn wake(self, engine: Arc<crate::engine::Inner>) -> Big {
        Big::loaded(engine, self.under, self.root, self.page_count, self.alarms)
    }
}
