//! An awake object: its state in memory, one open transaction, and the commit.

mod encoding;

use std::sync::Arc;

use dovehouse_wal::{Claim, Record, Reservation, Ticket};

use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::id::{ClassId, ObjectId};
use crate::index::Note;
use crate::kv::List;
use crate::load::Loaded;
use crate::overlay::Cell;
use crate::record::{Kind, with_header};
use crate::slots::Entry;
use crate::space::REPLACEMENT_BYTES_MAX;
use crate::state::{Alarm, PAGE_BYTES, Savepoint, State, Working};

/// A name longer than this is not kept with its object.
pub const NAME_BYTES_MAX: usize = 1024;

/// Room for what a truncation between reserve and publish may add.
const RESERVE_SLACK_BYTES: usize = 64;

/// A small object that fell asleep with deltas is written whole, so that waking it is one read.
const SLEEP_IMAGE_BYTES_MAX: u64 = 64 << 10;

/// An awake object, for one caller.
///
/// Reads and writes act on memory and cannot fail. All writes since the last commit are one
/// transaction: [`Object::commit`] appends them as one record, [`Object::rollback`] undoes them.
/// Dropping the handle rolls back what was not committed and puts the object to sleep.
#[derive(Debug)]
pub struct Object {
    engine: Arc<Inner>,
    id: ObjectId,
    class: ClassId,
    name: Option<String>,
    /// `None` until the first commit.
    cell: Option<Arc<Cell>>,
    working: Working,
    head: Head,
    prepared: Option<Prepared>,
    /// Counts changes, to tell whether `prepared` is out of date.
    touched: u64,
    last_ticket: Option<Ticket>,
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

/// A commit that has its space.
#[derive(Debug)]
struct Prepared {
    kind: Kind,
    body: Vec<u8>,
    alarms_changed: bool,
    reservation: Reservation,
    touched: u64,
}

impl Object {
    pub(crate) fn wake(engine: Arc<Inner>, class: ClassId, id: ObjectId) -> Result<Object> {
        engine.take_awake(id)?;
        // From here on dropping the object gives the id back.
        let mut object = Object {
            engine,
            id,
            class,
            name: None,
            cell: None,
            working: Working::default(),
            head: Head::default(),
            prepared: None,
            touched: 0,
            last_ticket: None,
        };
        object.load()?;
        Ok(object)
    }

    fn load(&mut self) -> Result<()> {
        for slot in self.engine.index.find(&self.id)? {
            let cell = self.engine.index.cell(slot)?;
            let loaded = self.load_cell(&cell);
            match loaded {
                Ok(Some((entry, loaded))) if loaded.id == self.id => {
                    return self.adopt(cell, entry, loaded);
                }
                // Another id with the same fingerprints, or an object that never became durable.
                Ok(_) => self.engine.index.overlay.release(cell),
                Err(error) => {
                    self.engine.index.overlay.release(cell);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The newest version that can be read: the newest of all, unless the log has stopped before it
    /// was durable.
    fn load_cell(&self, cell: &Cell) -> Result<Option<(Entry, Loaded)>> {
        // The object's own last commit may still be on its way.
        if let Some(ticket) = cell.take_last_ticket() {
            let _unknown_is_not_there = ticket.wait();
        }
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
        self.head = Head {
            seq: entry.seq,
            generation: entry.generation,
            depth: entry.depth,
            has_image: !entry.erased,
            state_bytes: loaded.state.bytes(),
            image_bytes: loaded.image_bytes,
            chain_bytes: loaded.chain_bytes,
        };
        cell.set_below(entry.head, loaded.below);
        self.name = loaded.name;
        self.working = Working::new(loaded.state);
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
        self.state().is_empty()
    }

    /// What the state takes in memory, with a bound for its structure.
    pub fn state_bytes(&self) -> usize {
        self.state().bytes()
    }

    fn state(&self) -> &State {
        self.working.state()
    }

    fn touch(&mut self) -> &mut Working {
        self.touched += 1;
        &mut self.working
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.state().kv.get(key).map(Vec::as_slice)
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.touch().put(key, Some(value));
    }

    /// Removes a key. Returns whether it was there.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        self.touch().put(key, None)
    }

    /// Keys and values, in the byte order of the keys.
    pub fn list<'a>(&'a self, list: &List) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let range = list
            .bounds()
            .map(|bounds| self.state().kv.range::<Vec<u8>, _>(bounds));
        let (mut range, reverse) = (range.into_iter().flatten(), list.is_reverse());
        let next = move || {
            if reverse {
                range.next_back()
            } else {
                range.next()
            }
        };
        let slices = |(key, value): (&'a Vec<u8>, &'a Vec<u8>)| (key.as_slice(), value.as_slice());
        std::iter::from_fn(next)
            .take(list.limit_or_all())
            .map(slices)
    }

    /// The alarms, sorted by name.
    pub fn alarms(&self) -> &[Alarm] {
        &self.state().alarms
    }

    /// Sets an alarm, replacing the one of the same name.
    pub fn set_alarm(&mut self, alarm: Alarm) {
        let mut alarms = self.alarms().to_vec();
        match alarms.binary_search_by(|found| found.name.cmp(&alarm.name)) {
            Ok(at) if alarms[at] == alarm => return,
            Ok(at) => alarms[at] = alarm,
            Err(at) => alarms.insert(at, alarm),
        }
        self.touch().set_alarms(alarms);
    }

    /// Removes an alarm. Returns whether there was one of this name.
    pub fn clear_alarm(&mut self, name: &str) -> bool {
        let mut alarms = self.alarms().to_vec();
        let before = alarms.len();
        alarms.retain(|alarm| alarm.name != name);
        let found = alarms.len() < before;
        if found {
            self.touch().set_alarms(alarms);
        }
        found
    }

    /// How many database pages there are.
    pub fn page_count(&self) -> u32 {
        self.state().pages.len() as u32
    }

    /// A database page of [`PAGE_BYTES`], from 1; `None` if it is behind the end or all zeros.
    pub fn page(&self, number: u32) -> Option<&[u8]> {
        self.state().page(number)
    }

    /// Replaces a database page; the database grows as needed.
    ///
    /// # Panics
    /// If the page is number 0 or not of [`PAGE_BYTES`].
    pub fn write_page(&mut self, number: u32, page: &[u8]) {
        assert!(
            number > 0 && page.len() == PAGE_BYTES,
            "page {number} of {} bytes",
            page.len()
        );
        let data = page.iter().any(|byte| *byte != 0).then(|| Arc::from(page));
        self.touch().write_page(number, data);
    }

    /// Drops the database pages behind the first `count`.
    pub fn truncate_pages(&mut self, count: u32) {
        self.touch().truncate_pages(count as usize);
    }

    /// Removes everything: keys, pages, and, unless asked to keep them, alarms. Committing an object
    /// without state erases it: it takes no space beyond its id.
    pub fn clear(&mut self, keep_alarms: bool) {
        self.touch().clear(keep_alarms);
    }

    /// Whether the open transaction touched anything.
    pub fn is_touched(&self) -> bool {
        self.working.is_touched()
    }

    /// A place to which the open transaction can be rolled back.
    pub fn savepoint(&self) -> Savepoint {
        self.working.savepoint()
    }

    /// Undoes everything since the savepoint, which stays valid.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        self.touch().rollback_to(savepoint);
    }

    /// Undoes what was done to keys and alarms since the savepoint, and leaves the pages to whoever
    /// wrote them: a database that rolls back to a savepoint restores them itself.
    ///
    /// # Panics
    /// If the object was [cleared](Object::clear) since.
    pub fn rollback_keys_to(&mut self, savepoint: Savepoint) {
        assert!(
            !self.working.was_cleared_since(savepoint),
            "what was cleared cannot be half undone"
        );
        self.touch().rollback_keys_to(savepoint);
    }

    /// Undoes the open transaction.
    pub fn rollback(&mut self) {
        self.prepared = None;
        self.touch().rollback_to(Savepoint::default());
    }

    /// Encodes the open transaction and reserves space for it. After this, [`Object::publish`] cannot
    /// fail for lack of space; a truncation of pages in between is covered. An error leaves the
    /// transaction as it is.
    pub fn reserve(&mut self) -> Result<()> {
        self.prepared = self.prepare()?;
        Ok(())
    }

    /// Appends the open transaction as one record. `None` if it changed nothing.
    ///
    /// The object goes on at once; what depends on the commit waits for the ticket.
    pub fn publish(&mut self) -> Result<Option<Ticket>> {
        let prepared = match self.prepared.take() {
            Some(prepared) if prepared.touched == self.touched => Some(prepared),
            Some(stale) => self.encode_again(stale)?,
            None => self.prepare()?,
        };
        let ticket = match prepared {
            Some(prepared) => Some(self.append(prepared)?),
            None => None,
        };
        self.working.forget_undo();
        Ok(ticket)
    }

    /// Commits the open transaction: [`Object::reserve`] and [`Object::publish`]. An error leaves the
    /// transaction open; roll it back, or change it and commit again.
    pub fn commit(&mut self) -> Result<Option<Ticket>> {
        self.reserve()?;
        self.publish()
    }

    /// The ticket of the last commit by this handle, unless it is known to be durable.
    pub fn last_ticket(&self) -> Option<&Ticket> {
        self.last_ticket
            .as_ref()
            .filter(|ticket| !ticket.is_durable())
    }

    fn prepare(&self) -> Result<Option<Prepared>> {
        let Some((kind, body, alarms_changed)) = self.encode()? else {
            return Ok(None);
        };
        let reservation = self.reserve_for(body.len() + RESERVE_SLACK_BYTES)?;
        Ok(Some(Prepared {
            kind,
            body,
            alarms_changed,
            reservation,
            touched: self.touched,
        }))
    }

    /// Room for the open transaction: growth needs more of it than what replaces or erases.
    fn reserve_for(&self, body_bytes: usize) -> Result<Reservation> {
        let state_bytes = self.state_bytes();
        let replaces = self.head.has_image && state_bytes <= self.head.state_bytes;
        if replaces && body_bytes <= REPLACEMENT_BYTES_MAX {
            return self.engine.reserve(body_bytes, Claim::Replacement);
        }
        self.engine
            .check_quota(self.class, self.id, state_bytes, body_bytes)?;
        self.engine.reserve(body_bytes, Claim::Growth)
    }

    /// The transaction changed after its space was reserved.
    fn encode_again(&self, stale: Prepared) -> Result<Option<Prepared>> {
        let Some((kind, body, alarms_changed)) = self.encode()? else {
            return Ok(None);
        };
        let reservation = match body.len() <= stale.reservation.body_bytes() {
            true => stale.reservation,
            false => self.reserve_for(body.len())?,
        };
        Ok(Some(Prepared {
            kind,
            body,
            alarms_changed,
            reservation,
            touched: self.touched,
        }))
    }

    fn append(&mut self, prepared: Prepared) -> Result<Ticket> {
        let Prepared {
            kind,
            mut body,
            alarms_changed,
            reservation,
            ..
        } = prepared;
        let cell = match &self.cell {
            Some(cell) => cell.clone(),
            None => {
                // The first record was encoded before the object had its slot.
                let before = self.header(0)?;
                let cell = self.new_cell()?;
                body = with_header(&body, &before, &self.header(0)?);
                cell
            }
        };
        let header = self.header(if kind == Kind::Delta {
            self.head.depth + 1
        } else {
            0
        })?;
        let entry = Entry {
            head: dovehouse_wal::Lsn::NONE,
            bytes: 0,
            seq: header.seq,
            generation: header.generation,
            class: self.class,
            erased: kind == Kind::Erase,
            expired: false,
            depth: header.depth,
            fingerprint: self.engine.index.fingerprint(&self.id),
        };
        let due = alarms_changed.then(|| self.state().due_ms());
        let stored = body.len() as u64;
        let note = Some(Note::Version { cell, entry, due });
        let record = Record {
            kind: kind as u8,
            flags: 0,
            body,
            note,
        };
        let ticket = self.engine.log.append(record, reservation)?;
        self.head.seq = header.seq;
        self.head.depth = header.depth;
        self.head.has_image = kind != Kind::Erase;
        self.head.state_bytes = self.state_bytes();
        match kind {
            Kind::Delta => self.head.chain_bytes += stored,
            _ => (self.head.image_bytes, self.head.chain_bytes) = (stored, 0),
        }
        self.last_ticket = Some(ticket.clone());
        Ok(ticket)
    }

    /// Gives the object a slot.
    fn new_cell(&mut self) -> Result<Arc<Cell>> {
        let index = &self.engine.index;
        let cell = index.allocate_cell()?;
        // The slot may have had another object: its records must not be taken for this one's.
        self.head.generation = cell.newest().map_or(0, |newest| newest.generation);
        cell.set_new_id(self.id);
        index.note_id(self.id, cell.slot);
        self.cell = Some(cell.clone());
        Ok(cell)
    }

    /// Writes the object whole if deltas lie on its image. Not waited for: the deltas are durable.
    fn write_image_for_sleep(&mut self) -> Result<()> {
        let large = self.head.image_bytes > SLEEP_IMAGE_BYTES_MAX;
        if self.head.depth == 0 || (large && self.head.depth <= 16) || self.engine.read_only {
            return Ok(());
        }
        let body = self.encode_image()?;
        let reservation = self.engine.log.reserve(body.len(), Claim::Growth)?;
        let touched = self.touched;
        let prepared = Prepared {
            kind: Kind::Image,
            body,
            alarms_changed: false,
            reservation,
            touched,
        };
        self.append(prepared).map(drop)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.rollback();
        // An object that cannot be written now is as durable as it was; its chain is a bit longer.
        let _ = self.write_image_for_sleep();
        if let Some(cell) = self.cell.take() {
            cell.set_last_ticket(self.last_ticket().cloned());
            self.engine.index.overlay.release(cell);
        }
        self.engine.release_awake(&self.id);
    }
}
