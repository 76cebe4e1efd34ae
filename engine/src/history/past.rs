//! Reading the past: an object as of one of its commits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::read::Subject;
use super::value::{BigBefore, Block, Undo};
use crate::big::{BlockId, Carrier, KEYS, Map, Origin, TreeId, Under};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::{ObjectId, Slot};
use crate::load::{BigChain, LoadedState};
use crate::object::LoadedBig;
use crate::record::apply_delta;
use crate::slots::{Entry, Form, Place};
use crate::state::State;
use dovehouse_wal::Lsn;
use dovehouse_wal::bytes::Reader;

/// A commit of an object, and what the object is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) id: ObjectId,
    pub(crate) of: Subject,
    pub(crate) seq: u64,
    /// Durable, and history is known up to it.
    pub(crate) newest: Entry,
}

/// The blocks of a big object as of a commit.
#[derive(Debug)]
pub(crate) struct PastView {
    tree: TreeId,
    seq: u64,
    /// What commits since the last settling had made of blocks by then.
    recent: HashMap<BlockId, Place>,
    /// Pages behind this one were gone from the leaves.
    cut: u32,
    map: Map,
    now: Mutex<Now>,
}

/// What the reader knows of the present.
#[derive(Debug, Default)]
struct Now {
    /// The commit that ended the map.
    end: Option<u64>,
    /// Leaves as they are where history tells everything that they do not: what was read of them counts.
    leaves: HashMap<Slot, Lsn>,
}

impl Inner {
    /// The state of an object as of a commit. `None` if a record was moved meanwhile: try again.
    pub(super) fn state_at(&self, point: &Point) -> Result<Option<LoadedState>> {
        let Point { of, newest, .. } = *point;
        if point.seq == newest.seq {
            return match newest.form {
                Form::Big { tree } => self.view_at(point, tree, None),
                _ => Ok(self.load(of.slot, &newest)?.map(|loaded| loaded.state)),
            };
        }
        let Some((next, commit)) = self.history.commit_after(of, point.seq)? else {
            return Err(self.not_there(point));
        };
        let is_complete = self.history.is_complete_since(commit.class, commit.time_ms);
        if next - commit.back.min(next) != point.seq || !is_complete {
            return Err(self.not_there(point));
        }
        match commit.undo {
            Undo::Big(before) => self.view_at(point, before.tree, Some(before)),
            _ => Ok(self.walk_back(point)?.map(LoadedState::Tiny)),
        }
    }

    /// Goes back to the state of a tiny object from the next whole one.
    fn walk_back(&self, point: &Point) -> Result<Option<State>> {
        let mut back = Vec::new();
        let (mut seq, mut state) = (point.seq, None);
        for item in self.history.commits(point.of, point.seq + 1) {
            let (next, commit) = item?;
            if next > point.newest.seq {
                break;
            }
            if next - commit.back.min(next) != seq {
                return Err(lost(point, "commits are missing"));
            }
            seq = next;
            match commit.undo {
                Undo::Nothing => {}
                Undo::Operations(operations) => back.push(operations),
                Undo::State(whole) => {
                    state = Some(*whole);
                    break;
                }
                Undo::Big(_) | Undo::Lost => {
                    return Err(lost(
                        point,
                        "what a later commit replaced could not be read",
                    ));
                }
            }
        }
        let mut state = match state {
            Some(state) => state,
            None if seq == point.newest.seq => {
                match self
                    .load(point.of.slot, &point.newest)?
                    .map(|loaded| loaded.state)
                {
                    Some(LoadedState::Tiny(state)) => state,
                    Some(LoadedState::Big(_)) => {
                        return Err(lost(point, "a commit makes no sense"));
                    }
                    None => return Ok(None),
                }
            }
            None => return Err(lost(point, "commits are missing")),
        };
        for operations in back.iter().rev() {
            apply_delta(Reader::new(operations), &mut state)
                .ok_or_else(|| lost(point, "a commit makes no sense"))?;
        }
        Ok(Some(state))
    }

    /// A view of a big object. `before` is what it was, unless the point is the present.
    fn view_at(
        &self,
        point: &Point,
        tree: u32,
        before: Option<BigBefore>,
    ) -> Result<Option<LoadedState>> {
        let Point {
            of, newest, seq, ..
        } = *point;
        let tree = TreeId {
            slot: of.slot,
            generation: of.generation,
            tree,
        };
        let end = self
            .history
            .end_after(of, seq)?
            .filter(|end| *end <= newest.seq);
        let chain = match end {
            Some(_) => None,
            None => match self.big_chain(of.slot, &newest)? {
                None => return Ok(None),
                chain => chain,
            },
        };
        let view = PastView::new(tree, seq, end, chain);
        let before = match before {
            Some(before) => before,
            None => match self.load(of.slot, &newest)?.map(|loaded| loaded.state) {
                Some(LoadedState::Big(big)) => BigBefore {
                    tree: tree.tree,
                    keys: big.root,
                    page_count: big.page_count,
                    alarms: big.alarms,
                },
                _ => return Ok(None),
            },
        };
        let under = Under {
            tree: Some(tree),
            past: Some(Arc::new(view)),
            ..Under::default()
        };
        Ok(Some(LoadedState::Big(Box::new(LoadedBig {
            under,
            root: before.keys,
            page_count: before.page_count,
            alarms: before.alarms,
        }))))
    }
}

impl Inner {
    /// The blocks that a fork shares with its origin.
    pub(crate) fn view_of_origin(&self, origin: &Origin) -> Result<PastView> {
        let tree = origin.tree;
        let of = Subject::of_map(tree);
        let gone = |why| Error::damaged(format!("what was forked from slot {}", tree.slot), why);
        let mut tried = None;
        loop {
            let newest = self.durable_entry(tree.slot)?;
            self.follow_log()?;
            let end = self.history.end_after(of, origin.seq)?;
            if end.is_some() {
                return Ok(PastView::new(tree, origin.seq, end, None));
            }
            let newest = newest.filter(|entry| Carrier::is_map_of(entry, tree));
            let newest = newest.ok_or_else(|| gone("history does not tell how it ended"))?;
            if let Some(chain) = self.big_chain(tree.slot, &newest)? {
                return Ok(PastView::new(tree, origin.seq, None, Some(chain)));
            }
            // It was moved, unless it is there no more.
            if tried.replace(newest) == Some(newest) {
                return Err(gone("no segment has its commits"));
            }
        }
    }
}

fn lost(point: &Point, why: &str) -> Error {
    let what = format!("object {} at commit {}", point.id, point.seq);
    Error::damaged(what, why)
}

impl PastView {
    /// The blocks of a map as of a commit. `chain` are the object's newest commits, if the map has not ended.
    fn new(tree: TreeId, seq: u64, end: Option<u64>, chain: Option<BigChain>) -> Self {
        let now = Now {
            end,
            ..Now::default()
        };
        let mut view = PastView {
            tree,
            seq,
            recent: HashMap::new(),
            cut: u32::MAX,
            map: Map::default(),
            now: Mutex::new(now),
        };
        let chain = chain.unwrap_or_default();
        view.map = chain.map;
        for commit in chain.commits.iter().take_while(|commit| commit.seq <= seq) {
            if let Some(cut) = commit.cut {
                view.cut = view.cut.min(cut);
                view.recent
                    .retain(|id, _| id.file == KEYS || id.number <= cut);
            }
            let items = commit.items.iter().map(|item| (item.id, item.place));
            view.recent.extend(items);
        }
        view
    }

    pub(crate) fn of(&self) -> Subject {
        Subject::of_map(self.tree)
    }

    pub(crate) fn tree(&self) -> TreeId {
        self.tree
    }

    /// The commit.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether the map has ended since.
    pub(crate) fn has_ended(&self) -> bool {
        self.now.lock().end.is_some()
    }

    /// The blocks that may differ from those of the object's present map.
    pub(crate) fn may_differ(&self, engine: &Inner) -> Result<BTreeSet<BlockId>> {
        engine.history.blocks_changed_since(self.of(), self.seq)
    }

    /// What a block was.
    pub(crate) fn block(&self, engine: &Inner, id: BlockId) -> Result<Option<Arc<[u8]>>> {
        loop {
            if let Some(found) = self.block_by_history(engine, id)? {
                return match found {
                    Block::None => Ok(None),
                    Block::Content(content) => Ok(Some(content)),
                    Block::Origin => engine.block_of_origin(self.tree, id),
                    Block::Lost => {
                        Err(self.damaged(id, "it could not be read when it was replaced"))
                    }
                };
            }
            if self.has_ended() {
                return Ok(None);
            }
            match self.recent.get(&id) {
                Some(place) if place.is_none() => return Ok(None),
                Some(place) => {
                    if let Some(content) = engine.read_block(self.tree, id, *place)? {
                        return Ok(Some(content));
                    }
                    // Settled by now, and moved: the leaf has it.
                }
                None if id.file != KEYS && id.number > self.cut => return Ok(None),
                None => {}
            }
            if let Some(found) = self.block_by_leaf(engine, id)? {
                return Ok(found);
            }
        }
    }

    fn block_by_history(&self, engine: &Inner, id: BlockId) -> Result<Option<Block>> {
        let found = engine.history.block_after(self.of(), id, self.seq)?;
        let end = self.now.lock().end.unwrap_or(u64::MAX);
        // Behind the end another map begins.
        Ok(found.filter(|(seq, _)| *seq <= end).map(|(_, block)| block))
    }

    /// The block that the present leaf leads to, if history has nothing else to tell; `None` if it may.
    #[expect(clippy::option_option, reason = "to be looked for again, or not there")]
    fn block_by_leaf(&self, engine: &Inner, id: BlockId) -> Result<Option<Option<Arc<[u8]>>>> {
        let leaves = &self.map[usize::from(id.file)];
        let Some(slot) = leaves.get(id.leaf() as usize).map(|leaf| leaf.slot) else {
            return Ok(Some(None));
        };
        let entry = engine.durable_entry(slot)?;
        let entry = entry.filter(|entry| entry.form == Form::Leaf);
        let head = entry.map_or(Lsn::NONE, |entry| entry.head);
        let known = self.now.lock().leaves.get(&slot).copied();
        if known != Some(head) {
            // Whatever changed it is durable: history tells it now.
            engine.follow_log()?;
            if engine.history.is_settling(self.tree.slot) {
                // The commit that lies behind is told the next time.
                return Ok(None);
            }
            let end = engine.history.end_after(self.of(), self.seq)?;
            let mut now = self.now.lock();
            now.end = end;
            now.leaves.insert(slot, head);
            return Ok(None);
        }
        let leaf = match entry {
            None => None,
            Some(entry) => match engine.read_leaf(slot, &entry)? {
                None => return Ok(None),
                leaf => leaf,
            },
        };
        let place = match leaf.filter(|leaf| leaf.tree == self.tree) {
            Some(leaf) => leaf.places[id.position()],
            None => engine.unwritten_place(self.tree, id),
        };
        if place.is_none() {
            return Ok(Some(None));
        }
        if place.is_origin() {
            return engine.block_of_origin(self.tree, id).map(Some);
        }
        let content = engine.read_block(self.tree, id, place)?;
        if content.is_none() && engine.durable_entry(slot)? == entry {
            return Err(self.damaged(id, &format!("no segment has it at {}", place.lsn)));
        }
        Ok(content.map(Some))
    }

    fn damaged(&self, id: BlockId, why: &str) -> Error {
        let what = match id.file {
            KEYS => "key block",
            _ => "page",
        };
        let slot = self.tree.slot;
        Error::damaged(
            format!("{what} {} of slot {slot} as it was", id.number),
            why,
        )
    }
}
