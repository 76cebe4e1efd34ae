//! A shard: one thread, its objects, and the events that are sent to them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dovehouse_engine::{Engine, ObjectId as RawId, Ticket};
use dovehouse_sqlbridge::{Pool, PoolSizes, SqlPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

use crate::actor::{Actor, AnyActor};
use crate::clock::Clock;
use crate::core::Core;
use crate::error::CallError;
use crate::gate::{Gate, Output, Signal};
use crate::house::{Address, Inner};
use crate::object::Object;
use crate::web_socket::Sockets;

/// Something that happens to an object. It knows the object's class.
pub(crate) trait Event: Send {
    /// Runs on the object's shard, in the order in which events were sent.
    fn deliver(self: Box<Self>, shard: &Rc<Shard>);
}

/// What a shard is told.
pub(crate) enum Notice {
    Event(Box<dyn Event>),
    /// Put an object to sleep if nothing goes on in it. Tells whether it is asleep.
    Evict(RawId, oneshot::Sender<bool>),
    /// How many objects are awake?
    Count(oneshot::Sender<usize>),
    /// Finish what is under way and end.
    Close(oneshot::Sender<()>),
}

pub(crate) struct Shard {
    pub(crate) engine: Arc<Engine>,
    pub(crate) house: Weak<Inner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sockets: Sockets,
    /// The databases of the objects that are awake here.
    pub(crate) databases: Pool,
    gate: Gate,
    actors: RefCell<HashMap<RawId, Rc<dyn AnyActor>>>,
    idle_ms: u64,
}

/// What others have of a shard.
pub(crate) struct Handle {
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) signal: Arc<Signal>,
}

/// What a shard needs to start.
pub(crate) struct Start {
    pub(crate) engine: Arc<Engine>,
    pub(crate) house: Weak<Inner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) idle_ms: u64,
    pub(crate) sql_policy: SqlPolicy,
    pub(crate) sql_pool: PoolSizes,
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
    pub(crate) signal: Arc<Signal>,
}

/// The shard's thread; ends when it is closed or the house is gone. `beside` runs on it as long.
pub(crate) fn run(start: Start, beside: Option<impl Future<Output = ()> + 'static>) {
    let Start {
        engine,
        house,
        clock,
        idle_ms,
        sql_policy,
        sql_pool,
        notices,
        signal,
    } = start;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("the system can start a runtime");
    let gate = Gate::new(signal);
    let actors = RefCell::default();
    let shard = Rc::new(Shard {
        engine,
        house,
        clock,
        sockets: Sockets::default(),
        databases: Pool::new(sql_policy, sql_pool),
        gate,
        actors,
        idle_ms,
    });
    let tasks = LocalSet::new();
    if let Some(beside) = beside {
        tasks.spawn_local(beside);
    }
    tasks.block_on(&runtime, shard.live(notices));
}

impl Shard {
    async fn live(self: Rc<Self>, mut notices: mpsc::UnboundedReceiver<Notice>) {
        let gate = spawn_local(self.clone().open_gate());
        let sweep = spawn_local(self.clone().sweep());
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Event(event) => event.deliver(&self),
                Notice::Evict(id, done) => drop(done.send(self.evict(&id))),
                Notice::Count(count) => drop(count.send(self.actors.borrow().len())),
                Notice::Close(done) => {
                    self.close().await;
                    let _ = done.send(());
                    break;
                }
            }
        }
        gate.abort();
        sweep.abort();
        self.actors.borrow_mut().clear();
    }

    /// The object's actor, woken if it sleeps.
    pub(crate) fn actor<T: Object>(self: &Rc<Self>, address: &Address) -> Rc<Actor<T>> {
        let id = address.id.raw();
        let found = self.actors.borrow().get(&id).cloned();
        if let Some(actor) = found {
            return actor
                .as_any()
                .downcast()
                .expect("the check in an id tells classes apart");
        }
        let actor = Actor::new(Core::new(address.clone(), self));
        self.actors.borrow_mut().insert(id, actor.clone());
        actor
    }

    /// Takes an actor out of the map, unless another has its place by now.
    pub(crate) fn forget(&self, core: &Rc<Core>) {
        let id = core.address.id.raw();
        let mut actors = self.actors.borrow_mut();
        if actors
            .get(&id)
            .is_some_and(|actor| Rc::ptr_eq(actor.core(), core))
        {
            actors.remove(&id);
        }
    }

    /// Lets an output go once its ticket is redeemed.
    pub(crate) fn submit(&self, ticket: Option<Ticket>, output: Output) {
        if let Err(cause) = self.gate.submit(ticket, output) {
            self.reset_all(&cause);
        }
    }

    async fn open_gate(self: Rc<Self>) {
        loop {
            self.gate.signal.wait().await;
            if let Err(cause) = self.gate.drain() {
                self.reset_all(&cause);
            }
        }
    }

    /// The log has stopped: whatever is in memory may be more than what is on the disk.
    fn reset_all(&self, cause: &str) {
        let all: Vec<_> = self
            .actors
            .borrow()
            .values()
            .map(|actor| actor.core().clone())
            .collect();
        for core in all {
            core.reset(CallError::Reset(cause.to_owned()));
        }
    }

    /// Evicts idle objects, now and then.
    async fn sweep(self: Rc<Self>) {
        loop {
            let now_ms = self.clock.now_ms();
            self.clock
                .sleep_until(now_ms + (self.idle_ms / 4).max(1))
                .await;
            let Some(since_ms) = self.clock.now_ms().checked_sub(self.idle_ms) else {
                continue;
            };
            let idle: Vec<RawId> = {
                let actors = self.actors.borrow();
                let idle = actors
                    .iter()
                    .filter(|(_, actor)| actor.core().is_idle_since(since_ms));
                idle.map(|(id, _)| *id).collect()
            };
            for id in idle {
                self.evict(&id);
            }
        }
    }

    /// Drops an object from memory if nothing goes on in it. Returns whether it is asleep.
    fn evict(&self, id: &RawId) -> bool {
        let Some(actor) = self.actors.borrow().get(id).cloned() else {
            return true;
        };
        if !actor.core().is_idle() {
            return false;
        }
        actor.core().sleep();
        self.actors.borrow_mut().remove(id);
        true
    }

    /// Ends all connections, waits for the handlers that run, and puts everything to sleep.
    #[expect(
        clippy::disallowed_methods,
        reason = "patience with a stuck handler is real time"
    )]
    async fn close(&self) {
        self.sockets.close_all().await;
        let deadline = tokio::time::Instant::now() + CLOSE_PATIENCE;
        loop {
            let ids: Vec<RawId> = self.actors.borrow().keys().copied().collect();
            if ids.iter().filter(|id| !self.evict(id)).count() == 0 {
                return;
            }
            if tokio::time::Instant::now() >= deadline {
                tracing::warn!("objects are still at work; what they did not commit is lost");
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// How long a closing house waits for handlers that run.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);
