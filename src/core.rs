//! What every awake object has, whatever its class: its storage, its outputs, and its way out.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use dovehouse_engine::Ticket;
use tokio::sync::{Notify, oneshot};

use crate::access::{Lock, Mode};
use crate::alarms::Running;
use crate::class::Address;
use crate::error::{CallError, Error, Result};
use crate::gate::Output;
use crate::id::ObjectId;
use crate::sections::Sections;
use crate::shard::Shard;
use crate::storage::Storage;

/// An object that waits for a call.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) object: dovehouse_engine::ObjectId,
    pub(crate) mode: Mode,
    /// The critical section that makes the call, if one does.
    pub(crate) section: Option<u64>,
}

/// The objects that wait for a call: what it must not come back to. Calls from outside have none.
#[derive(Clone, Default)]
pub(crate) struct Chain(Option<Arc<[Held]>>);

impl Deref for Chain {
    type Target = [Held];

    fn deref(&self) -> &[Held] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Chain {
    pub(crate) fn longer(&self, held: Held) -> Chain {
        Chain(Some(self.iter().copied().chain([held]).collect()))
    }
}

/// A handler, from its first poll to its last.
#[derive(Clone)]
pub(crate) struct Handler {
    /// Counts the object's handlers.
    pub(crate) number: u64,
    /// Whoever waits for it.
    pub(crate) chain: Chain,
    /// How it has the object; `None` if it is no part of the chain of its calls.
    pub(crate) mode: Option<Mode>,
    /// The section of the object that it belongs to.
    pub(crate) section: Option<u64>,
}

/// The handler that is being polled on this thread.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) core: Rc<Core>,
    pub(crate) handler: Handler,
}

impl Current {
    /// The chain of a call that the handler makes now.
    pub(crate) fn chain(&self) -> Chain {
        let handler = &self.handler;
        match handler.mode {
            Some(mode) => handler.chain.longer(Held {
                object: self.core.address.id.raw(),
                mode,
                section: handler.section,
            }),
            None => handler.chain.clone(),
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The handler that is being polled on this thread, if any.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `poll` with another handler being polled.
pub(crate) fn as_current<R>(current: Current, poll: impl FnOnce() -> R) -> R {
    let before = CURRENT.replace(Some(current));
    let result = poll();
    CURRENT.set(before);
    result
}

/// Runs `poll` inside a section of the handler that is being polled. It may unwind: the handler ends then.
pub(crate) fn in_section<R>(number: u64, poll: impl FnOnce() -> R) -> R {
    let set = |section| {
        CURRENT.with_borrow_mut(|current| {
            let current = current.as_mut()?;
            std::mem::replace(&mut current.handler.section, section)
        })
    };
    let before = set(Some(number));
    let result = poll();
    set(before);
    result
}

/// An object's instance is being made, until this is dropped: by a caller that goes away in its midst, too.
pub(crate) struct Making<'a>(&'a Core);

impl<'a> Making<'a> {
    pub(crate) fn begin(core: &'a Core) -> Self {
        core.is_making.set(true);
        Making(core)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.is_making.set(false);
        self.0.made.notify_waiters();
    }
}

/// How long an output waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// For the object's confirmed writes, and for the end of an open transaction.
    Confirmed,
    /// For the confirmed writes that are committed: an open transaction may wait for it.
    AtOnce,
    /// For all writes that are committed.
    All,
}

/// The part of an awake object that does not depend on its class.
pub(crate) struct Core {
    pub(crate) address: Address,
    /// Tells it from what was awake under this id before.
    pub(crate) incarnation: u64,
    /// The id with the name that was stored, if the address has none. Boxed, as is what follows, because
    /// most objects never need it.
    named: OnceCell<Box<ObjectId>>,
    pub(crate) shard: Weak<Shard>,
    pub(crate) lock: Rc<Lock>,
    pub(crate) sections: Sections,
    /// Whether an event is making the instance. Others that have the object meanwhile wait for it.
    pub(crate) is_making: Cell<bool>,
    /// Told when making it has ended, however that went.
    pub(crate) made: Notify,
    storage: RefCell<Option<Storage>>,
    /// The last commit whose durability an output has to wait for.
    confirmed: RefCell<Option<Ticket>>,
    /// The last commit of all.
    committed: RefCell<Option<Ticket>>,
    /// Outputs of the present turn: they leave with its commit, or not at all.
    outbox: RefCell<Vec<(Leave, Output)>>,
    broken: OnceCell<Box<CallError>>,
    last_handler: Cell<u64>,
    /// Handlers that wait for something, to be told when the object is reset.
    pub(crate) suspended: RefCell<BTreeMap<u64, Waker>>,
    active: Cell<usize>,
    /// Callbacks that somebody may hold.
    kept: Cell<usize>,
    last_active_ms: Cell<u64>,
    /// What the object was last found to take in memory.
    bytes: Cell<usize>,
    /// The alarm whose handler runs.
    pub(crate) alarm_running: RefCell<Option<Running>>,
    /// Whether that alarm is to be given up if the object is reset.
    pub(crate) abandon_alarm: Cell<bool>,
}

impl Core {
    pub(crate) fn new(address: Address, shard: &Rc<Shard>, incarnation: u64) -> Rc<Self> {
        Rc::new(Core {
            address,
            incarnation,
            named: OnceCell::new(),
            shard: Rc::downgrade(shard),
            lock: Rc::default(),
            sections: Sections::default(),
            is_making: Cell::new(false),
            made: Notify::new(),
            storage: RefCell::default(),
            confirmed: RefCell::default(),
            committed: RefCell::default(),
            outbox: RefCell::default(),
            broken: OnceCell::new(),
            last_handler: Cell::new(0),
            suspended: RefCell::default(),
            active: Cell::new(0),
            kept: Cell::new(0),
            last_active_ms: Cell::new(shard.clock.now_ms()),
            bytes: Cell::new(0),
            alarm_running: RefCell::default(),
            abandon_alarm: Cell::new(false),
        })
    }

    /// A new handler of this object.
    pub(crate) fn handler(
        &self,
        chain: Chain,
        mode: Option<Mode>,
        section: Option<u64>,
    ) -> Handler {
        let number = self.last_handler.get() + 1;
        self.last_handler.set(number);
        Handler {
            number,
            chain,
            mode,
            section,
        }
    }

    /// Waits while the instance is being made. All who do go on in their order, before those who come later.
    pub(crate) async fn made(&self) {
        while self.is_making.get() {
            self.made.notified().await;
        }
    }

    /// Loads the object's state, if that was not done yet: a session begins. Waits, as outputs do, for commits of it
    /// that were under way when it fell asleep or was reset.
    pub(crate) async fn open_storage(self: &Rc<Self>) -> Result<(), CallError> {
        while let Err(ticket) = self.try_open_storage()? {
            let shard = self.shard.upgrade().ok_or(CallError::Closed)?;
            let (done, settled) = oneshot::channel();
            shard.submit(self, Some(ticket), Box::new(move || _ = done.send(())));
            drop(shard);
            if settled.await.is_err()
                && let Some(error) = self.broken()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn try_open_storage(&self) -> Result<Result<(), Ticket>, CallError> {
        self.open_storage_and(|shard, storage| {
            let house = shard.house.upgrade().ok_or(Error::Closed)?;
            house.begin_session(&self.address.id.raw(), storage)
        })
    }

    /// The same, without the restore that the next session is to begin with. Has the thread wait.
    pub(crate) fn open_storage_as_it_is(&self) -> Result<(), CallError> {
        while let Err(ticket) = self.open_storage_and(|_, _| Ok(()))? {
            let _settled = ticket.wait();
        }
        Ok(())
    }

    fn open_storage_and(
        &self,
        begin: impl FnOnce(&Shard, &mut Storage) -> Result<()>,
    ) -> Result<Result<(), Ticket>, CallError> {
        let shard = self.shard.upgrade().ok_or(CallError::Closed)?;
        let mut storage = self.storage.borrow_mut();
        if storage.is_none() {
            let house = shard.house.upgrade().ok_or(CallError::Closed)?;
            let opened = Storage::open(&house, &shard.databases, &self.address);
            let begun = opened.and_then(|opened| {
                let Ok(mut opened) = opened else {
                    return Ok(opened);
                };
                begin(&shard, &mut opened)?;
                Ok(Ok(opened))
            });
            let opened = match begun.map_err(|error| CallError::Wake(error.to_string()))? {
                Ok(opened) => opened,
                Err(ticket) => return Ok(Err(ticket)),
            };
            let name = opened.object(|object| object.name().map(str::to_owned));
            if name.is_some() && self.address.id.name().is_none() {
                let named = || Box::new(self.address.id.with_name(name));
                self.named.get_or_init(named);
            }
            *storage = Some(opened);
        }
        Ok(Ok(()))
    }

    pub(crate) fn id(&self) -> &ObjectId {
        self.named.get().map_or(&self.address.id, |named| named)
    }

    /// Runs `act` on the storage, in the object's own turn only.
    pub(crate) fn with_storage<R>(&self, act: impl FnOnce(&Storage) -> Result<R>) -> Result<R> {
        match self.storage.borrow().as_ref() {
            Some(storage) if self.is_own_turn() => act(storage),
            _ => Err(Error::OutsideTurn),
        }
    }

    /// The same, for what changes more than the object's state.
    pub(crate) fn with_storage_mut<R>(
        &self,
        act: impl FnOnce(&mut Storage) -> Result<R>,
    ) -> Result<R> {
        match self.storage.borrow_mut().as_mut() {
            Some(storage) if self.is_own_turn() => act(storage),
            _ => Err(Error::OutsideTurn),
        }
    }

    /// Runs `act` on the storage, if it is open, whoever asks: for what ends by being dropped.
    pub(crate) fn with_open_storage<R>(&self, act: impl FnOnce(&Storage) -> R) -> Option<R> {
        self.storage.borrow().as_ref().map(act)
    }

    fn is_own_turn(&self) -> bool {
        CURRENT.with_borrow(|current| {
            current
                .as_ref()
                .is_some_and(|current| std::ptr::eq(&*current.core, self))
        })
    }

    /// Ends a turn: what it wrote becomes one record, and what it said leaves when that is durable. In a
    /// transaction that goes on, only what that may wait for leaves.
    pub(crate) fn end_turn(self: &Rc<Self>) -> Result<()> {
        let (goes_on, committed) = match self.storage.borrow().as_ref() {
            Some(storage) if storage.is_in_transaction() => (true, None),
            Some(storage) => (false, storage.commit()?),
            None => (false, None),
        };
        if let Some((ticket, confirmed)) = committed {
            *self.committed.borrow_mut() = Some(ticket.clone());
            if confirmed {
                *self.confirmed.borrow_mut() = Some(ticket);
            } else if let Some(shard) = self.shard.upgrade() {
                shard.watch(ticket);
            }
        }
        if self.outbox.borrow().is_empty() {
            return Ok(());
        }
        // Nothing that leaves runs a turn of this object, so nothing comes in meanwhile.
        let mut outbox = self.outbox.take();
        for (leave, output) in
            outbox.extract_if(.., |(leave, _)| !goes_on || *leave != Leave::Confirmed)
        {
            self.submit(leave, output);
        }
        *self.outbox.borrow_mut() = outbox;
        Ok(())
    }

    /// Has outputs from now on wait for all writes that are committed, unconfirmed ones too.
    pub(crate) fn confirm_all(&self) {
        let committed = self.committed.borrow().clone();
        if committed.is_some() {
            *self.confirmed.borrow_mut() = committed;
        }
    }

    /// The same for a commit that was made elsewhere.
    pub(crate) fn confirm(&self, ticket: Option<Ticket>) {
        if ticket.is_some() {
            *self.committed.borrow_mut() = ticket;
            self.confirm_all();
        }
    }

    /// Lets something leave the object: with the present turn's commit, if it is in one.
    pub(crate) fn emit(self: &Rc<Self>, output: Output) {
        self.emit_as(Leave::Confirmed, output);
    }

    pub(crate) fn emit_as(self: &Rc<Self>, leave: Leave, output: Output) {
        if self.is_own_turn() {
            self.outbox.borrow_mut().push((leave, output));
        } else {
            self.submit(leave, output);
        }
    }

    fn submit(self: &Rc<Self>, leave: Leave, output: Output) {
        // Without its shard there is nobody left to hear it.
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        let ticket = match leave {
            Leave::All => &self.committed,
            Leave::Confirmed | Leave::AtOnce => &self.confirmed,
        };
        let pending = ticket
            .borrow()
            .clone()
            .filter(|ticket| !ticket.is_durable());
        if pending.is_none() {
            *ticket.borrow_mut() = None;
        }
        shard.submit(self, pending, output);
    }

    /// Why the object was reset, if it was.
    pub(crate) fn broken(&self) -> Option<CallError> {
        self.broken.get().map(|error| (**error).clone())
    }

    /// Drops the object from memory, with what it did not commit; the next event wakes a fresh one.
    /// The first reason stays.
    pub(crate) fn reset(self: &Rc<Self>, error: CallError) -> CallError {
        let error = (**self.broken.get_or_init(|| Box::new(error))).clone();
        self.outbox.borrow_mut().clear();
        self.sleep();
        if let Some(shard) = self.shard.upgrade() {
            shard.forget(self);
        }
        for waker in std::mem::take(&mut *self.suspended.borrow_mut()).into_values() {
            waker.wake();
        }
        error
    }

    /// Resets the object, and ends the handler that is being polled: nothing of it runs any more.
    pub(crate) fn stop(self: &Rc<Self>, error: CallError) -> ! {
        self.reset(error);
        // No panic hook is called: this is no mistake of the program.
        std::panic::resume_unwind(Box::new("the object was reset"))
    }

    /// Gives the storage back.
    pub(crate) fn sleep(&self) {
        drop(self.storage.borrow_mut().take());
    }

    /// Notes that an event has the object busy.
    pub(crate) fn begin(&self) {
        self.active.update(|count| count + 1);
    }

    pub(crate) fn finish(&self) {
        self.active.update(|count| count - 1);
        let Some(shard) = self.shard.upgrade() else {
            return;
        };
        self.last_active_ms.set(shard.clock.now_ms());
        if self.is_idle() {
            let bytes = self.with_open_storage(Storage::memory_bytes).unwrap_or(0);
            shard.resized(self.bytes.replace(bytes), bytes);
        }
    }

    /// What the object was last found to take in memory; from now on it counts as nothing.
    pub(crate) fn take_bytes(&self) -> usize {
        self.bytes.take()
    }

    /// When something last went on in it, for comparing.
    pub(crate) fn last_active(&self) -> (u64, u64) {
        (self.last_active_ms.get(), self.incarnation)
    }

    /// Notes that somebody may come back to the object in memory.
    pub(crate) fn keep(&self) {
        self.kept.update(|count| count + 1);
    }

    pub(crate) fn let_go(&self) {
        self.kept.update(|count| count - 1);
    }

    /// Whether nothing goes on in it, and nobody may come back to it.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_quiet() && self.kept.get() == 0
    }

    /// Whether everything that it has committed is durable: to wake it before that would have its shard wait.
    pub(crate) fn is_settled(&self) -> bool {
        let committed = self.committed.borrow();
        committed.as_ref().is_none_or(Ticket::is_durable)
    }

    /// Whether nothing goes on in it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.active.get() == 0
    }

    /// Whether nothing went on in it since then.
    pub(crate) fn is_idle_since(&self, ms: u64) -> bool {
        self.is_idle() && self.is_settled() && self.last_active_ms.get() <= ms
    }
}
