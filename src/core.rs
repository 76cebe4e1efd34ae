//! What every awake object has, whatever its class: its storage, its turns, and its way out.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;

use dovehouse_engine::Ticket;

use crate::access::Mode;
use crate::error::{CallError, Error, Result};
use crate::gate::Output;
use crate::house::Address;
use crate::id::ObjectId;
use crate::shard::Shard;
use crate::storage::Storage;

/// The objects that wait for a call, and how each is held: what a call must not come back to.
pub(crate) type Chain = Arc<Vec<(dovehouse_engine::ObjectId, Mode)>>;

/// The part of an awake object that does not depend on its class.
pub(crate) struct Core {
    pub(crate) address: Address,
    /// The address's id, with the name that was stored if the address has none.
    id: OnceCell<ObjectId>,
    pub(crate) shard: Weak<Shard>,
    storage: RefCell<Option<Storage>>,
    /// The last commit whose durability an output has to wait for.
    confirmed: RefCell<Option<Ticket>>,
    /// Outputs of the present turn: they leave with its commit, or not at all.
    outbox: RefCell<Vec<Output>>,
    broken: RefCell<Option<CallError>>,
    active: Cell<usize>,
    last_active_ms: Cell<u64>,
    /// Whether a handler runs because of the alarm, and has not set another since.
    pub(crate) alarm_running: Cell<bool>,
}

/// The handler that is being polled on this thread.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) core: Rc<Core>,
    pub(crate) chain: Chain,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The handler that is being polled on this thread, if any.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

impl Core {
    pub(crate) fn new(address: Address, shard: &Rc<Shard>) -> Rc<Self> {
        Rc::new(Core {
            address,
            id: OnceCell::new(),
            shard: Rc::downgrade(shard),
            storage: RefCell::default(),
            confirmed: RefCell::default(),
            outbox: RefCell::default(),
            broken: RefCell::default(),
            active: Cell::new(0),
            last_active_ms: Cell::new(shard.clock.now_ms()),
            alarm_running: Cell::new(false),
        })
    }

    /// Loads the object's state, if that was not done yet.
    pub(crate) fn open_storage(&self) -> Result<(), CallError> {
        let shard = self.shard.upgrade().ok_or(CallError::Closed)?;
        let mut storage = self.storage.borrow_mut();
        if storage.is_none() {
            let opened = Storage::open(&shard.engine, &shard.databases, &self.address);
            let opened = opened.map_err(|error| CallError::Wake(error.to_string()))?;
            let name = opened.object(|object| object.name().map(str::to_owned));
            self.id
                .get_or_init(|| ObjectId::new(self.address.id.raw(), name));
            *storage = Some(opened);
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> &ObjectId {
        self.id.get().unwrap_or(&self.address.id)
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

    fn is_own_turn(&self) -> bool {
        CURRENT.with_borrow(|current| {
            current
                .as_ref()
                .is_some_and(|current| std::ptr::eq(&*current.core, self))
        })
    }

    /// Polls a handler to its end. Each poll is a turn: its writes become one record when the poll
    /// returns, and its outputs leave once that is durable. A panic undoes the turn and resets the
    /// object, and so does a commit that fails.
    pub(crate) async fn run<F: Future>(
        self: &Rc<Self>,
        chain: &Chain,
        handler: F,
    ) -> Result<F::Output, CallError> {
        let mut handler = pin!(handler);
        poll_fn(|context| {
            if let Some(error) = self.broken() {
                return Poll::Ready(Err(error));
            }
            let polled = self.as_current(chain, || {
                catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(context)))
            });
            match polled {
                Ok(poll) => match self.end_turn() {
                    Ok(()) => poll.map(Ok),
                    Err(error) => Poll::Ready(Err(self.reset(CallError::Reset(error.to_string())))),
                },
                Err(panic) => {
                    let message = panic_message(&*panic);
                    tracing::error!(object = %self.address.id, class = self.address.class.name, "panic: {message}");
                    self.reset(CallError::Reset(format!("it panicked: {message}")));
                    Poll::Ready(Err(CallError::Panicked(message)))
                }
            }
        })
        .await
    }

    fn as_current<R>(self: &Rc<Self>, chain: &Chain, poll: impl FnOnce() -> R) -> R {
        let current = Current {
            core: self.clone(),
            chain: chain.clone(),
        };
        let before = CURRENT.replace(Some(current));
        let result = poll();
        CURRENT.set(before);
        result
    }

    fn end_turn(&self) -> Result<()> {
        let committed = match self.storage.borrow().as_ref() {
            Some(storage) => storage.commit()?,
            None => None,
        };
        if let Some(ticket) = committed {
            *self.confirmed.borrow_mut() = Some(ticket);
        }
        for output in self.outbox.take() {
            self.submit(output);
        }
        Ok(())
    }

    /// Lets something leave the object: with the present turn's commit, if it is in one.
    pub(crate) fn emit(&self, output: Output) {
        if self.is_own_turn() {
            self.outbox.borrow_mut().push(output);
        } else {
            self.submit(output);
        }
    }

    fn submit(&self, output: Output) {
        // Without its shard there is nobody left to hear it.
        if let Some(shard) = self.shard.upgrade() {
            shard.submit(self.confirmed.borrow().clone(), output);
        }
    }

    /// Why the object was reset, if it was.
    pub(crate) fn broken(&self) -> Option<CallError> {
        self.broken.borrow().clone()
    }

    /// Drops the object from memory, with what it did not commit; the next event wakes a fresh one.
    /// The first reason stays.
    pub(crate) fn reset(self: &Rc<Self>, error: CallError) -> CallError {
        self.broken.borrow_mut().get_or_insert(error.clone());
        self.outbox.borrow_mut().clear();
        self.sleep();
        if let Some(shard) = self.shard.upgrade() {
            shard.forget(self);
        }
        error
    }

    /// Gives the storage back.
    pub(crate) fn sleep(&self) {
        drop(self.storage.borrow_mut().take());
    }

    /// Notes that an event has the object busy.
    pub(crate) fn begin(&self) {
        self.active.set(self.active.get() + 1);
    }

    pub(crate) fn finish(&self) {
        self.active.set(self.active.get() - 1);
        if let Some(shard) = self.shard.upgrade() {
            self.last_active_ms.set(shard.clock.now_ms());
        }
    }

    /// Whether nothing goes on in it.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// Whether nothing went on in it since then.
    pub(crate) fn is_idle_since(&self, ms: u64) -> bool {
        self.is_idle() && self.last_active_ms.get() <= ms
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
