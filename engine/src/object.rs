//! An awake object: its state in memory, one open transaction, and the commit.

mod commit;
mod encoding;
mod fork;
mod large;
mod restore;

pub(crate) use large::LoadedBig;

use std::borrow::Cow;
use std::sync::Arc;

use dovehouse_wal::{Reservation, Ticket, TicketState};

use crate::big::{Big, BigCommit};
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::{ClassId, ObjectId};
use crate::kv::List;
use crate::load::{Loaded, LoadedState};
use crate::overlay::Cell;
use crate::record::Kind;
use crate::slots::Entry;
use crate::state::{Alarm, PAGE_BYTES, Savepoint, State, Working};
use large::WAITING_BYTES_MAX;

/// A name longer than this is not kept with its object.
pub const NAME_BYTES_MAX: usize = 1024;

/// A key may take so much.
pub const KEY_BYTES_MAX: usize = 4 << 10;

/// And a value so much.
pub const VALUE_BYTES_MAX: usize = 128 << 20;

/// A key and its value, or an error for those that cannot be read.
pub type Listed<'a> = Result<(Cow<'a, [u8]>, Cow<'a, [u8]>)>;

/// An awake object, for one caller.
///
/// A tiny object is in memory whole: reads and writes act on that. Of a big one, what is read is read from
/// the store, with a cache that all objects share. All writes since the last commit are one transaction:
/// [`Object::commit`] appends them as one record, [`Object::rollback`] undoes them. Dropping the handle
/// rolls back what was not committed and puts the object to sleep.
///
/// An object crosses from one form to the other by itself, when it commits.
#[derive(Debug)]
pub struct Object {
    engine: Arc<Inner>,
    id: ObjectId,
    class: ClassId,
    name: Option<String>,
    /// `None` until the first commit.
    cell: Option<Arc<Cell>>,
    content: Content,
    head: Head,
    prepared: Option<Prepared>,
    /// Counts changes, to tell whether `prepared` is out of date.
    touched: u64,
    last_ticket: Option<Ticket>,
    /// Whether it is the object as it was: nobody's but the caller's, and never committed.
    is_past: bool,
}

/// The state, and the open transaction.
#[derive(Debug)]
enum Content {
    /// In memory.
    Tiny(Working),
    /// In blocks.
    Big(Box<Big>),
}

impl Content {
    /// What was loaded, and what it takes in memory.
    fn loaded(engine: &Arc<Inner>, state: LoadedState) -> (usize, Content) {
        match state {
            LoadedState::Tiny(state) => (state.bytes(), Content::Tiny(Working::new(state))),
            LoadedState::Big(loaded) => {
                let big = loaded.wake(engine.clone());
                (big.state_bytes(), Content::Big(Box::new(big)))
            }
        }
    }
}

/// A record of the open transaction.
#[derive(Debug)]
struct Encoded {
    kind: Kind,
    body: Vec<u8>,
    alarms_changed: bool,
    next: Next,
}

/// What the object is once that is appended.
#[derive(Debug)]
enum Next {
    Same,
    Big(BigCommit),
    /// In a box: few objects come to it, and every awake one would have room for it.
    Tiny(Box<State>),
}

/// Where the committed state stands in the log.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    seq: u64,
    generation: u8,
    depth: u8,
    /// Whether there is an image to put a delta on.
    has_image: bool,
    /// What the committed state takes in memory.
    state_bytes: usize,
    image_bytes: u64,
    chain_bytes: u64,
}

/// Whether waking an object waits for its commits that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Waits,
    None,
}

/// A commit that has its space.
#[derive(Debug)]
struct Prepared {
    encoded: Encoded,
    reservation: Reservation,
    touched: u64,
}

impl Object {
    pub(crate) fn wake(engine: Arc<Inner>, class: ClassId, id: ObjectId) -> Result<Object> {
        engine.take_awake(id)?;
        Object::wake_taken(engine, class, id)
    }

    /// The same for whoever has noted that the object is awake.
    pub(crate) fn wake_taken(engine: Arc<Inner>, class: ClassId, id: ObjectId) -> Result<Object> {
        let mut object = Object::asleep(engine, class, id);
        let under_way = object.load(Patience::Waits)?;
        debug_assert!(under_way.is_none(), "it was waited for");
        Ok(object)
    }

    /// The same, but gives the ticket of a commit that is under way instead of waiting for it.
    pub(crate) fn wake_at_once(
        engine: Arc<Inner>,
        class: ClassId,
        id: ObjectId,
    ) -> Result<std::result::Result<Object, Ticket>> {
        engine.take_awake(id)?;
        let mut object = Object::asleep(engine, class, id);
        Ok(match object.load(Patience::None)? {
            None => Ok(object),
            Some(ticket) => Err(ticket),
        })
    }

    /// Before it is loaded. Dropping it gives the id back.
    fn asleep(engine: Arc<Inner>, class: ClassId, id: ObjectId) -> Object {
        Object {
            engine,
            id,
            class,
            name: None,
            cell: None,
            content: Content::Tiny(Working::default()),
            head: Head::default(),
            prepared: None,
            touched: 0,
            last_ticket: None,
            is_past: false,
        }
    }

    /// An object as it was.
    pub(crate) fn past(
        engine: Arc<Inner>,
        class: ClassId,
        id: ObjectId,
        state: LoadedState,
        seq: u64,
    ) -> Object {
        let (state_bytes, content) = Content::loaded(&engine, state);
        Object {
            engine,
            id,
            class,
            name: None,
            cell: None,
            content,
            head: Head {
                seq,
                state_bytes,
                ..Head::default()
            },
            prepared: None,
            touched: 0,
            last_ticket: None,
            is_past: true,
        }
    }

    /// Returns the ticket of a commit that it would have to wait for.
    fn load(&mut self, patience: Patience) -> Result<Option<Ticket>> {
        for slot in self.engine.index.find(&self.id)? {
            let cell = self.engine.index.cell(slot)?;
            // The object's own last commit may still be on its way.
            let is_pending = |ticket: &Ticket| matches!(ticket.state(), TicketState::Pending);
            if patience == Patience::None
                && let Some(ticket) = cell.last_ticket().filter(is_pending)
            {
                self.engine.index.overlay.release(cell);
                return Ok(Some(ticket));
            }
            if let Some(ticket) = cell.take_last_ticket() {
                let _unknown_is_not_there = ticket.wait();
            }
            let loaded = self.load_cell(&cell);
            match loaded {
                Ok(Some((entry, loaded))) if loaded.id == self.id => {
                    return self.adopt(cell, entry, loaded).map(|()| None);
                }
                // Another id with the same fingerprints, or an object that never became durable.
                Ok(_) => self.engine.index.overlay.release(cell),
                Err(error) => {
                    self.engine.index.overlay.release(cell);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// The newest version that can be read: the newest of all, unless the log has stopped before it
    /// was durable.
    fn load_cell(&self, cell: &Cell) -> Result<Option<(Entry, Loaded)>> {
        loop {
            let durable = self.engine.log.durable();
            let Some(entry) = cell.durable(durable).filter(|entry| !entry.expired) else {
                return Ok(None);
            };
            if let Some(loaded) = self.engine.load(cell.slot, &entry)? {
                return Ok(Some((entry, loaded)));
            }
            if cell.durable(durable) == Some(entry) {
                let what = format!("object {}", self.id);
                return Err(Error::damaged(
                    what,
                    format!("no segment has its record at {}", entry.head),
                ));
            }
        }
    }

    fn adopt(&mut self, cell: Arc<Cell>, entry: Entry, loaded: Loaded) -> Result<()> {
        if entry.class != self.class && !entry.erased {
            self.engine.index.overlay.release(cell);
            let (id, asked) = (self.id, self.class);
            return Err(Error::WrongClass {
                id,
                found: entry.class,
                asked,
            });
        }
        let (state_bytes, content) = Content::loaded(&self.engine, loaded.state);
        self.head = Head {
            seq: entry.seq,
            generation: entry.generation,
            depth: entry.depth,
            has_image: !entry.erased,
            state_bytes,
            image_bytes: loaded.image_bytes,
            chain_bytes: loaded.chain_bytes,
        };
        cell.set_below(entry.head, loaded.below);
        self.name = loaded.name;
        self.content = content;
        self.cell = Some(cell);
        Ok(())
    }

    /// The object's id.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The object's class.
    pub fn class(&self) -> ClassId {
        self.class
    }

    /// The name that is kept with the object.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Gives the object a name to keep, with its next image. A name of more than [`NAME_BYTES_MAX`]
    /// bytes is not kept.
    pub fn set_name(&mut self, name: &str) {
        if self.name.is_none() && name.len() <= NAME_BYTES_MAX {
            self.name = Some(name.to_owned());
        }
    }

    /// The number of the last commit, counted over all lives of the id.
    pub fn seq(&self) -> u64 {
        self.head.seq
    }

    /// Whether the object has no state at all, the open transaction included.
    pub fn is_empty(&self) -> bool {
        match &self.content {
            Content::Tiny(working) => working.state().is_empty(),
            Content::Big(big) => big.is_empty(),
        }
    }

    /// Whether the object is too large to be held in memory whole: its pages and keys are read as they are
    /// asked for.
    pub fn is_big(&self) -> bool {
        matches!(self.content, Content::Big(_))
    }

    /// Whether this is the object as it was at an earlier point, by [`Engine::past`](crate::Engine::past): it can
    /// be read, and never be committed.
    pub fn is_past(&self) -> bool {
        self.is_past
    }

    /// What keys, pages and alarms take, uncompressed, with a bound for their structure.
    pub fn state_bytes(&self) -> usize {
        match &self.content {
            Content::Tiny(working) => working.state().bytes(),
            Content::Big(big) => big.state_bytes(),
        }
    }

    /// The value of a key. An error means that it cannot be read; other keys may be.
    pub fn get(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>> {
        match &self.content {
            Content::Tiny(working) => {
                let value = working.state().kv.get(key);
                Ok(value.map(|value| Cow::Borrowed(value.as_slice())))
            }
            Content::Big(big) => big.get(key),
        }
    }

    /// Sets a key. Fails with [`Error::TooBig`] for a key of more than [`KEY_BYTES_MAX`] or a value of more
    /// than [`VALUE_BYTES_MAX`], and as [`Object::commit`] does if the transaction is too large to wait in
    /// memory; roll it back then.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        check_size("a key", key.len(), KEY_BYTES_MAX)?;
        check_size("a value", value.len(), VALUE_BYTES_MAX)?;
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => drop(working.put(key, Some(value))),
            Content::Big(big) => big.put(key, Some(value)),
        }
        self.keep_budget()
    }

    /// Removes a key. Returns whether it was there.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        self.touched += 1;
        if let Content::Tiny(working) = &mut self.content {
            return Ok(working.put(key, None));
        }
        let existed = self.get(key)?.is_some();
        if let Content::Big(big) = &mut self.content
            && existed
        {
            big.put(key, None);
        }
        self.keep_budget()?;
        Ok(existed)
    }

    /// Keys and values, in the byte order of the keys, read as they are asked for. An item that is an error
    /// stands for keys that cannot be read; what follows are the keys behind them.
    pub fn list<'a>(&'a self, list: &List) -> impl Iterator<Item = Listed<'a>> + use<'a> {
        let reverse = list.is_reverse();
        let items: Box<dyn Iterator<Item = Listed<'a>>> = match &self.content {
            Content::Tiny(working) => {
                let bounds = list.bounds();
                let range = bounds.map(|bounds| working.state().kv.range::<Vec<u8>, _>(bounds));
                let mut range = range.into_iter().flatten().map(|(key, value)| {
                    Ok((
                        Cow::Borrowed(key.as_slice()),
                        Cow::Borrowed(value.as_slice()),
                    ))
                });
                Box::new(std::iter::from_fn(move || match reverse {
                    true => range.next_back(),
                    false => range.next(),
                }))
            }
            Content::Big(big) => Box::new(big.list(list)),
        };
        items.take(list.limit_or_all())
    }

    /// The alarms, sorted by name.
    pub fn alarms(&self) -> &[Alarm] {
        match &self.content {
            Content::Tiny(working) => &working.state().alarms,
            Content::Big(big) => big.alarms(),
        }
    }

    fn set_alarms(&mut self, alarms: Vec<Alarm>) {
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => working.set_alarms(alarms),
            Content::Big(big) => big.set_alarms(alarms),
        }
    }

    /// Sets an alarm, replacing the one of the same name.
    pub fn set_alarm(&mut self, alarm: Alarm) {
        let mut alarms = self.alarms().to_vec();
        match alarms.binary_search_by(|found| found.name.cmp(&alarm.name)) {
            Ok(at) if alarms[at] == alarm => return,
            Ok(at) => alarms[at] = alarm,
            Err(at) => alarms.insert(at, alarm),
        }
        self.set_alarms(alarms);
    }

    /// Removes an alarm. Returns whether there was one of this name.
    pub fn clear_alarm(&mut self, name: &str) -> bool {
        let mut alarms = self.alarms().to_vec();
        let before = alarms.len();
        alarms.retain(|alarm| alarm.name != name);
        let found = alarms.len() < before;
        if found {
            self.set_alarms(alarms);
        }
        found
    }

    /// How many database pages there are.
    pub fn page_count(&self) -> u32 {
        match &self.content {
            Content::Tiny(working) => working.state().pages.len() as u32,
            Content::Big(big) => big.page_count(),
        }
    }

    /// A database page of [`PAGE_BYTES`], from 1; `None` if it is behind the end or all zeros. An error means
    /// that it cannot be read; other pages may be.
    pub fn page(&self, number: u32) -> Result<Option<Arc<[u8]>>> {
        match &self.content {
            Content::Tiny(working) => Ok(working.state().page(number).cloned()),
            Content::Big(big) => big.page(number),
        }
    }

    /// Replaces a database page; the database grows as needed. Fails as [`Object::commit`] does if the
    /// transaction is too large to wait in memory; roll it back then.
    ///
    /// # Panics
    /// If the page is number 0 or not of [`PAGE_BYTES`].
    pub fn write_page(&mut self, number: u32, page: &[u8]) -> Result<()> {
        assert!(
            number > 0 && page.len() == PAGE_BYTES,
            "page {number} of {} bytes",
            page.len()
        );
        let data = page.iter().any(|byte| *byte != 0).then(|| Arc::from(page));
        self.touched += 1;
        let is_far = number as usize * PAGE_BYTES > WAITING_BYTES_MAX;
        if is_far && let Content::Tiny(_) = self.content {
            self.grow();
        }
        match &mut self.content {
            Content::Tiny(working) => working.write_page(number, data),
            Content::Big(big) => big.write_page(number, data),
        }
        self.keep_budget()
    }

    /// Drops the database pages behind the first `count`.
    pub fn truncate_pages(&mut self, count: u32) {
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => working.truncate_pages(count as usize),
            Content::Big(big) => big.truncate_pages(count),
        }
    }

    /// Removes everything: keys, pages, and, unless asked to keep them, alarms. Committing an object
    /// without state erases it: it takes no space beyond its id. That is one small record, however large
    /// the object was; compaction gives the space back.
    pub fn clear(&mut self, keep_alarms: bool) {
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => working.clear(keep_alarms),
            Content::Big(big) => big.clear(keep_alarms),
        }
    }

    /// Whether the open transaction touched anything.
    pub fn is_touched(&self) -> bool {
        match &self.content {
            Content::Tiny(working) => working.is_touched(),
            Content::Big(big) => big.is_touched(),
        }
    }

    /// Counts the calls that changed something in memory, or undid it, since the object woke. Whoever remembers
    /// it can tell later whether there were others.
    pub fn touches(&self) -> u64 {
        self.touched
    }

    /// A place to which the open transaction can be rolled back. From here on what the transaction
    /// overwrites is kept in memory.
    pub fn savepoint(&mut self) -> Savepoint {
        match &mut self.content {
            Content::Tiny(working) => working.savepoint(),
            Content::Big(big) => big.savepoint(),
        }
    }

    /// Undoes everything since the savepoint, which stays valid.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        if savepoint == Savepoint::default() {
            return self.rollback();
        }
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => working.rollback_to(savepoint),
            Content::Big(big) => big.rollback_to(savepoint),
        }
    }

    /// Undoes what was done to keys and alarms since the savepoint, and leaves the pages to whoever
    /// wrote them: a database that rolls back to a savepoint restores them itself.
    ///
    /// # Panics
    /// If the object was [cleared](Object::clear) since.
    pub fn rollback_keys_to(&mut self, savepoint: Savepoint) {
        let was_cleared = match &self.content {
            Content::Tiny(working) => working.was_cleared_since(savepoint),
            Content::Big(big) => big.was_cleared_since(savepoint),
        };
        assert!(!was_cleared, "what was cleared cannot be half undone");
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => working.rollback_keys_to(savepoint),
            Content::Big(big) => big.rollback_keys_to(savepoint),
        }
    }

    /// Undoes the open transaction.
    pub fn rollback(&mut self) {
        self.prepared = None;
        self.touched += 1;
        match &mut self.content {
            Content::Tiny(working) => working.rollback_to(Savepoint::default()),
            Content::Big(big) => match big.take_tiny() {
                Some(state) => self.content = Content::Tiny(Working::new(state)),
                None => big.rollback(),
            },
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.rollback();
        if self.is_past {
            return;
        }
        // An object that cannot be written now is as durable as it was; its chain is a bit longer.
        let _ = self.write_image_for_sleep();
        if let Some(cell) = self.cell.take() {
            cell.set_last_ticket(self.last_ticket().cloned());
            self.engine.index.overlay.release(cell);
        }
        self.engine.release_awake(&self.id);
    }
}

fn check_size(what: &'static str, bytes: usize, limit: usize) -> Result<()> {
    match bytes > limit {
        true => Err(Error::TooBig { what, bytes, limit }),
        false => Ok(()),
    }
}
