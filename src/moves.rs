//! Moves: an object changes its store, and has exactly one owner whatever happens meanwhile.
//!
//! 1. The register notes the move, so that what it may leave behind is found.
//! 2. The object is copied to the target, durably. Nobody looks at the copy.
//! 3. The register says that the object lives at the target: one commit, and from here on it does. With it goes what
//!    is needed to find its history of before, which stays behind; see `stays.rs`.
//! 4. The object is erased at the source, durably.
//! 5. The register forgets the move.
//!
//! A crash before 3 leaves the source the owner and perhaps a copy at the target, one after it the target the
//! owner and perhaps the old object at the source. The next open erases whichever is not the owner.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use dovehouse_engine::{Engine, List, ObjectId as RawId, PAGE_BYTES};

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::access::Mode;
use crate::class::{Address, Class};
use crate::core::{Chain, Core};
use crate::error::{Error, Result};
use crate::house::Inner;
use crate::locations::HOME;
use crate::object::Object;
use crate::register;
use crate::shard::{Event, Shard};
use crate::stays;

/// What is copied in one commit: the copy of a big object needs no more memory.
const COPY_BYTES: usize = 4 << 20;

impl Inner {
    /// Moves an object that nobody has awake. Blocks.
    pub(crate) fn relocate(&self, address: &Address, to: usize) -> Result<()> {
        let id = address.id.raw();
        if !self.stores.allows(address.id.jurisdiction(), to) {
            let why = "it is outside the jurisdiction that the object's id is bound to";
            return Err(Error::location(self.location_name(to), why));
        }
        let from = self.place(address)?;
        if from == to {
            return Ok(());
        }
        let stays = self.stays(&id)?;
        let noted = register::key("move/", id.as_bytes());
        let places = format!("{}\0{}", self.location_name(from), self.location_name(to));
        self.register.change(&self.engine, |object| {
            Ok(object.put(&noted, places.as_bytes())?)
        })?;
        let (last, arrived) = match self.copy(&address.class, id, from, to) {
            Ok(copied) => copied,
            Err(error) => {
                // The copy is not the object: should it stay, the note has it erased at the next open.
                if self.erase(&address.class, id, to).is_ok() {
                    self.forget_move(&noted)?;
                }
                return Err(error);
            }
        };
        let stays = stays.moved(self.location_name(from), last, arrived);
        let name = self.location_name(to).to_owned();
        self.register.change(&self.engine, |object| {
            let key = register::key("object/", id.as_bytes());
            match to {
                HOME => drop(object.delete(&key)?),
                _ => object.put(&key, name.as_bytes())?,
            }
            if last > 0 {
                object.put(&stays::key(&id), &stays.encode())?;
            }
            Ok(())
        })?;
        self.erase(&address.class, id, from)?;
        self.forget_move(&noted)
    }

    fn forget_move(&self, noted: &[u8]) -> Result<()> {
        self.register.change(&self.engine, |object| {
            object.delete(noted)?;
            Ok(())
        })
    }

    /// Returns the object's last commit at the source, and the one at the target by which the copy is whole.
    fn copy(&self, class: &Arc<Class>, id: RawId, from: usize, to: usize) -> Result<(u64, u64)> {
        let source = self
            .engine_at(from)
            .wake(self.class_number(class, from)?, id)?;
        let mut target = self.engine_at(to).wake(self.class_number(class, to)?, id)?;
        target.clear(false);
        if let Some(name) = source.name() {
            target.set_name(name);
        }
        let mut copied = 0;
        let mut commit_some = |target: &mut dovehouse_engine::Object, bytes: usize| {
            copied += bytes;
            if copied >= COPY_BYTES {
                copied = 0;
                target.commit()?;
            }
            Ok::<_, Error>(())
        };
        for listed in source.list(&List::all()) {
            let (key, value) = listed?;
            target.put(&key, &value)?;
            commit_some(&mut target, key.len() + value.len())?;
        }
        for number in 1..=source.page_count() {
            let page = source.page(number)?;
            // The last page says how many there are, zeros or not.
            if page.is_some() || number == source.page_count() {
                let zeros = || Arc::from([0; PAGE_BYTES]);
                target.write_page(number, &page.unwrap_or_else(zeros))?;
                commit_some(&mut target, PAGE_BYTES)?;
            }
        }
        for alarm in source.alarms() {
            target.set_alarm(alarm.clone());
        }
        target.commit()?;
        wait(&target)?;
        Ok((source.seq(), target.seq()))
    }

    fn erase(&self, class: &Arc<Class>, id: RawId, store: usize) -> Result<()> {
        let number = self.class_number(class, store)?;
        erase(self.engine_at(store), number, id)
    }

    /// Finishes the moves that a crash cut off, as far as their stores are there.
    pub(crate) fn finish_moves(&self) -> Result<()> {
        for (id, places) in self.register.list("move/")? {
            let malformed = || register::malformed("move");
            let id = RawId::from_bytes(id.try_into().map_err(|_| malformed())?);
            let places = String::from_utf8(places).map_err(|_| malformed())?;
            let (from, to) = places.split_once('\0').ok_or_else(malformed)?;
            let stores = (
                self.stores.number(from),
                self.stores.number(to),
                self.located(&id),
            );
            let (Ok(from), Ok(to), Ok(owner)) = stores else {
                tracing::warn!(object = %id, from, to, "a move that was cut off is finished when both locations are there");
                continue;
            };
            let left = match owner.unwrap_or(HOME) == to {
                true => from,
                false => to,
            };
            let engine = self.engine_at(left);
            if let Some(found) = engine.find(&id)?.filter(|found| !found.entry.erased) {
                erase(engine, found.entry.class, id)?;
            }
            self.forget_move(&register::key("move/", id.as_bytes()))?;
        }
        Ok(())
    }
}

fn erase(engine: &Engine, class: dovehouse_engine::ClassId, id: RawId) -> Result<()> {
    let mut object = engine.wake(class, id)?;
    object.clear(false);
    object.commit()?;
    wait(&object)
}

/// Waits until what was committed is durable.
fn wait(object: &dovehouse_engine::Object) -> Result<()> {
    if let Some(ticket) = object.last_ticket() {
        ticket.wait().map_err(dovehouse_engine::Error::Log)?;
    }
    Ok(())
}

/// The event that moves an object. It has the object alone meanwhile, and other events wait.
pub(crate) struct Move<T> {
    pub(crate) address: Address,
    pub(crate) to: usize,
    pub(crate) reply: oneshot::Sender<Result<()>>,
    pub(crate) class: PhantomData<fn() -> T>,
}

impl<T: Object> Event for Move<T> {
    fn deliver(self: Box<Self>, shard: &Rc<Shard>) {
        let actor = shard.actor::<T>(&self.address);
        let place = actor.queue(Mode::Exclusive, &Chain::default());
        let place = place.expect("nobody waits for a move");
        actor.core.begin();
        spawn_local(async move {
            let moved = actor.move_to(place, self.to).await;
            actor.core.finish();
            // Who asked may have gone away.
            let _ = self.reply.send(moved);
        });
    }
}

/// Moves an object whose storage is closed.
pub(crate) async fn move_awake(core: &Rc<Core>, to: usize) -> Result<()> {
    let shard = core.shard.upgrade().ok_or(Error::Closed)?;
    let house = shard.house.upgrade().ok_or(Error::Closed)?;
    let address = core.address.clone();
    let relocate = move || {
        let moved = house.relocate(&address, to);
        // An alarm of the copy may have been seen before it was the object's.
        house.alarms.look_for_class();
        moved
    };
    let moved = tokio::task::spawn_blocking(relocate).await;
    moved.map_err(|_| Error::Closed)?
}
