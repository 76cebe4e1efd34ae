//! Time travel: bookmarks, what objects were, and going back.
//!
//! A handler asks about its own object, with [`Ctx::storage`]; whoever holds a namespace, about any. A restore needs
//! the object to itself and without an instance, so that nothing in memory outlives what it was made from.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use dovehouse_engine::{Bookmark, Error as EngineError, Moment, ObjectId as RawId};

use crate::access::Mode;
use crate::actor::Actor;
use crate::class::Address;
use crate::core::Core;
use crate::ctx::Ctx;
use crate::error::{CallError, Error, Result};
use crate::house::Inner;
use crate::id::ObjectId;
use crate::namespace::Namespace;
use crate::object::Object;
use crate::past::Past;
use crate::stub::Stub;

/// An object's history, for its handlers; see [`Ctx::storage`].
///
/// # Errors
/// All methods fail with the engine's [`NoObject`](EngineError::NoObject) as long as the object has never
/// stored anything: there is nothing to go back to.
#[derive(Clone, Copy)]
pub struct StorageApi<'a> {
    ctx: &'a Ctx,
}

impl fmt::Debug for StorageApi<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageApi")
    }
}

impl Ctx {
    /// The object's history: bookmarks, and going back to one. Objects that have only keys have it as those with
    /// tables do.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// # async fn handler(ctx: &Ctx) -> Result<()> {
    /// let before = ctx.storage().bookmark()?;
    /// ctx.kv().delete("draft")?;
    /// // It was a mistake.
    /// ctx.storage().on_next_session_restore(&before).await?;
    /// ctx.abort("the draft comes back")
    /// # }
    /// ```
    pub fn storage(&self) -> StorageApi<'_> {
        StorageApi { ctx: self }
    }
}

impl StorageApi<'_> {
    /// The bookmark of what the object is now, exactly. What the turn has written so far becomes a record of its
    /// own, and what the handler says afterwards waits for that, as for any write.
    ///
    /// # Errors
    /// The engine's [`OpenTransaction`](EngineError::OpenTransaction) inside a transaction. If the record is
    /// refused, the object is reset, and the handler ends here.
    pub fn bookmark(&self) -> Result<Bookmark> {
        let core = &self.ctx.core;
        self.refuse_transaction()?;
        if let Err(error) = core.end_turn() {
            core.stop(CallError::of_commit(error));
        }
        let bookmark =
            core.with_storage(|storage| storage.object(|object| Ok(object.bookmark()?)))?;
        core.confirm_all();
        Ok(bookmark)
    }

    /// The bookmark of what the object was at a time, in milliseconds since 1970. First waits until what the
    /// object has written is durable, as [`Ctx::sync`] does.
    ///
    /// # Errors
    /// The engine's [`NotAvailable`](EngineError::NotAvailable), with what is available, for a time that
    /// history does not reach any more, and for one that has not come.
    pub async fn bookmark_at(&self, time_ms: u64) -> Result<Bookmark> {
        self.ctx.sync().await?;
        house(&self.ctx.core)?.bookmark_at(&self.id(), time_ms)
    }

    /// The object's commits that can be had again, the oldest first, with their times and sizes. First waits
    /// until what the object has written is durable, as [`Ctx::sync`] does.
    pub async fn history(&self) -> Result<Vec<Moment>> {
        self.ctx.sync().await?;
        house(&self.ctx.core)?.moments(&self.id())
    }

    /// Has the object restored to a bookmark, keys and tables, when it wakes next: before its constructor, as one
    /// commit. Alarms stay as they are then. Returns the bookmark to come back by: of the object as it is now.
    /// The handler goes on; [`Ctx::abort`] begins the next session at once, else it begins after the object
    /// was evicted, or the house restarted. Arming another replaces it, and so does
    /// [`Namespace::restore`](crate::Namespace::restore).
    ///
    /// What the turn wrote before is durable when this returns, and so is that the object will be restored: abort,
    /// crash and power cut do not change that. What the object writes after this call is replaced by the
    /// restore as well, and is not in the bookmark that is returned: find it in [`history`](Self::history).
    ///
    /// # Errors
    /// The engine's [`WrongBookmark`](EngineError::WrongBookmark) for a bookmark of another object,
    /// [`NotAvailable`](EngineError::NotAvailable), with what is available, if history does not reach it any
    /// more, and [`OpenTransaction`](EngineError::OpenTransaction) inside a transaction: nothing is armed then.
    /// Should history let go of it before the object wakes, then it wakes as it is and an error is
    /// logged.
    pub async fn on_next_session_restore(&self, bookmark: &Bookmark) -> Result<Bookmark> {
        self.refuse_transaction()?;
        self.ctx.sync().await?;
        let (house, id) = (house(&self.ctx.core)?, self.id());
        drop(house.past(&id, bookmark)?);
        // The object may share its time with handlers that have written meanwhile.
        let core = &self.ctx.core;
        let now = core.with_storage(|storage| storage.object(|object| Ok(object.bookmark()?)))?;
        house.arm(id, *bookmark)?;
        Ok(now)
    }

    fn id(&self) -> RawId {
        self.ctx.core.address.id.raw()
    }

    fn refuse_transaction(&self) -> Result<()> {
        self.ctx
            .core
            .with_storage(|storage| match storage.transactions.get() {
                0 => Ok(()),
                _ => Err(EngineError::OpenTransaction.into()),
            })
    }
}

fn house(core: &Core) -> Result<Arc<Inner>> {
    let shard = core.shard.upgrade().ok_or(Error::Closed)?;
    shard.house.upgrade().ok_or(Error::Closed)
}

/// What objects were. Nothing of this wakes an object, and what an awake one has not made durable yet is not seen.
/// These calls read the log and files of history on the thread that makes them.
impl<T: Object> Namespace<T> {
    /// The bookmark of an object's newest durable commit.
    ///
    /// # Errors
    /// [`Error::Id`] for an id of another namespace; the engine's [`NoObject`](EngineError::NoObject).
    pub fn bookmark(&self, id: &ObjectId) -> Result<Bookmark> {
        self.check(id)?;
        Ok(self.house.home_of(&id.raw())?.bookmark(&id.raw())?)
    }

    /// The bookmark of what an object was at a time, in milliseconds since 1970.
    ///
    /// # Errors
    /// Those of [`bookmark`](Self::bookmark), and the engine's [`NotAvailable`](EngineError::NotAvailable), with
    /// what is available; [`Error::Location`] if the object was at a location then that the house was opened without.
    pub fn bookmark_at(&self, id: &ObjectId, time_ms: u64) -> Result<Bookmark> {
        self.check(id)?;
        self.house.bookmark_at(&id.raw(), time_ms)
    }

    /// The commits of an object that can be had again, the oldest first, with their times and sizes. Those from
    /// before it [moved](Namespace::move_to) are among them, unless the house was opened without the location.
    ///
    /// # Errors
    /// Those of [`bookmark`](Self::bookmark).
    pub fn history(&self, id: &ObjectId) -> Result<Vec<Moment>> {
        self.check(id)?;
        self.house.moments(&id.raw())
    }

    /// An object as it was, for reading, beside the object itself.
    ///
    /// ```
    /// # use dovehouse::{Namespace, Object, ObjectId, Result};
    /// # fn example<Room: Object>(rooms: Namespace<Room>, id: &ObjectId) -> Result<()> {
    /// for moment in rooms.history(id)? {
    ///     let room = rooms.past(id, &moment.bookmark)?;
    ///     println!("{}: {:?}", moment.time_ms, room.get_as::<String>("topic")?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`bookmark_at`](Self::bookmark_at), and the engine's
    /// [`WrongBookmark`](EngineError::WrongBookmark) for a bookmark of another object.
    pub fn past(&self, id: &ObjectId, bookmark: &Bookmark) -> Result<Past> {
        self.check(id)?;
        let past = self.house.past(&id.raw(), bookmark)?;
        let policy = self.house.sql_policy;
        Ok(Past::new(past, *bookmark, self.class.clone(), policy))
    }

    /// Restores an object to what it was, keys and tables, as one commit. Alarms stay as they are, unless
    /// `with_alarms` is set. Returns the bookmark to come back by: of the object just before. When this returns
    /// the restore is durable.
    ///
    /// It takes its turn as a call of a `&mut self` handler does. An object that is awake loses its instance:
    /// calls that wait find a new one, made from what was restored. Futures that were given to
    /// [`Ctx::wait_until`] go on. What was armed for the next session is not done any more.
    ///
    /// ```
    /// # use dovehouse::{Namespace, Object, ObjectId, Result};
    /// # async fn example<Room: Object>(rooms: Namespace<Room>, id: &ObjectId, ms: u64) -> Result<()> {
    /// let before = rooms.bookmark_at(id, ms)?;
    /// let undo = rooms.restore(id, &before, false).await?;
    /// rooms.restore(id, &undo, false).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`past`](Self::past), with which the object stays as it is, and [`Error::Call`] if its turn
    /// does not come: it comes back to an object that waits for it, the object cannot be woken, the commit is
    /// refused, or the house is closed.
    pub async fn restore(
        &self,
        id: &ObjectId,
        bookmark: &Bookmark,
        with_alarms: bool,
    ) -> Result<Bookmark> {
        self.check(id)?;
        let bookmark = *bookmark;
        let act = move |core: &Rc<Core>| restore(core, &bookmark, with_alarms);
        self.alone(id, "restore", act).await
    }

    /// Makes another object of what one was: keys and tables, and alarms too if `with_alarms` is set. It has a
    /// history of its own. When this returns it is durable, as one commit.
    ///
    /// # Errors
    /// The engine's [`NotEmpty`](EngineError::NotEmpty) if `to` has something stored; [`Error::Location`] if it lives
    /// outside the jurisdiction that `id` is bound to; else those of [`restore`](Self::restore).
    pub async fn fork(
        &self,
        id: &ObjectId,
        bookmark: &Bookmark,
        to: &ObjectId,
        with_alarms: bool,
    ) -> Result<()> {
        self.check(id)?;
        self.check(to)?;
        let (id, bookmark) = (id.raw(), *bookmark);
        let act = move |core: &Rc<Core>| fork(core, &id, &bookmark, with_alarms);
        self.alone(to, "fork", act).await
    }

    /// Refuses ids of other namespaces.
    fn check(&self, id: &ObjectId) -> Result<()> {
        Ok(self.class.minters.check(id.raw(), None).map(drop)?)
    }

    /// Runs `act` in a turn of an object that nobody else has, and that has no instance afterwards.
    async fn alone<R: Send + 'static>(
        &self,
        id: &ObjectId,
        method: &'static str,
        act: impl FnOnce(&Rc<Core>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let address = Address::of(&self.class, id.clone());
        let run = async move |actor: &Actor<T>, place| actor.without_instance(place, act).await;
        let stub = Stub::<T>::new(self.house.clone(), address);
        stub.call(Mode::Exclusive, method, run).await?
    }
}

fn restore(core: &Rc<Core>, bookmark: &Bookmark, with_alarms: bool) -> Result<Bookmark> {
    core.open_storage_as_it_is()?;
    let house = house(core)?;
    let undo = core.with_storage_mut(|storage| storage.restore(&house, bookmark, with_alarms))?;
    core.end_turn()?;
    house.disarm(&core.address.id.raw())?;
    if with_alarms {
        core.emit(Box::new(move || house.alarms.look()));
    }
    Ok(undo)
}

fn fork(core: &Rc<Core>, id: &RawId, bookmark: &Bookmark, with_alarms: bool) -> Result<()> {
    let to = core.address.id.raw();
    let is_empty = core.with_open_storage(|storage| storage.object(|object| object.is_empty()));
    if is_empty == Some(false) {
        return Err(EngineError::NotEmpty { id: to }.into());
    }
    core.sleep();
    let house = house(core)?;
    core.confirm(house.fork(id, bookmark, &core.address, with_alarms)?);
    if with_alarms {
        core.emit(Box::new(move || house.alarms.look()));
    }
    Ok(())
}
