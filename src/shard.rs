//! A shard: one thread, its objects, and the events that are sent to them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dovehouse_engine::{Engine, ObjectId as RawId, Ticket};
use dovehouse_sqlbridge::{Pool, PoolSizes, SqlPolicy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::actor::{Actor, AnyActor};
use crate::class::Address;
use crate::clock::Clock;
use crate::core::Core;
use crate::error::CallError;
use crate::gate::{Gate, LATE_MS, Output};
use crate::house::Inner;
use crate::meters::Gauges;
use crate::object::Object;
use crate::signal::Signal;
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
    /// Put all objects to sleep that nothing goes on in. Tells how many stay awake.
    EvictAll(oneshot::Sender<usize>),
    /// Reset all objects. Tells how many were awake.
    ResetAll(oneshot::Sender<usize>),
    /// How many objects are awake?
    Count(oneshot::Sender<usize>),
    /// Finish what is under way and end.
    Close(oneshot::Sender<()>),
    /// End at once.
    Stop,
}

pub(crate) struct Shard {
    pub(crate) number: usize,
    pub(crate) engine: Arc<Engine>,
    pub(crate) house: Weak<Inner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sockets: Sockets,
    /// The databases of the objects that are awake here.
    pub(crate) databases: Pool,
    /// Whether the house is closing.
    pub(crate) closing: watch::Sender<bool>,
    gate: Gate,
    actors: RefCell<HashMap<RawId, Rc<dyn AnyActor>>>,
    incarnations: Cell<u64>,
    limits: Limits,
    /// What idle objects take in memory, more or less.
    awake_bytes: Cell<usize>,
    gauges: Gauges,
}

/// What a shard gives to its objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) idle_ms: u64,
    /// Idle objects take no more memory.
    pub(crate) awake_bytes: usize,
    /// Calls that wait for one object.
    pub(crate) queue: usize,
    /// How often silent peers of WebSockets are asked whether they are there; 0 for never.
    pub(crate) ping_ms: u64,
}

/// What others have of a shard.
pub(crate) struct Handle {
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) signal: Arc<Signal>,
}

/// What a shard needs to start.
pub(crate) struct Start {
    pub(crate) number: usize,
    pub(crate) engine: Arc<Engine>,
    pub(crate) house: Weak<Inner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) sql_policy: SqlPolicy,
    pub(crate) sql_pool: PoolSizes,
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
    pub(crate) signal: Arc<Signal>,
}

/// The shard's thread; ends when it is closed or the house is gone. `beside` runs on it as long.
pub(crate) fn run(start: Start, beside: Option<impl Future<Output = ()> + 'static>) {
    let Start {
        number,
        engine,
        house,
        clock,
        limits,
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
        number,
        engine,
        house,
        clock,
        sockets: Sockets::default(),
        databases: Pool::new(sql_policy, sql_pool),
        closing: watch::Sender::new(false),
        gate,
        actors,
        incarnations: Cell::new(0),
        limits,
        awake_bytes: Cell::new(0),
        gauges: Gauges::new(number),
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
        let look = spawn_local(self.clone().look_at_gate());
        let ping_ms = self.limits.ping_ms;
        let asking = (ping_ms > 0).then(|| spawn_local(self.clone().ask_silent_peers(ping_ms)));
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Event(event) => event.deliver(&self),
                Notice::Evict(id, done) => drop(done.send(self.evict(&id))),
                Notice::EvictAll(left) => drop(left.send(self.evict_all())),
                Notice::ResetAll(count) => drop(count.send(self.reset_all(TEST_ABORTS))),
                Notice::Count(count) => drop(count.send(self.actors.borrow().len())),
                Notice::Close(done) => {
                    self.close().await;
                    let _ = done.send(());
                    break;
                }
                Notice::Stop => break,
            }
        }
        gate.abort();
        sweep.abort();
        look.abort();
        asking.inspect(|asking| asking.abort());
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
        self.incarnations.update(|count| count + 1);
        let actor = Actor::new(Core::new(address.clone(), self, self.incarnations.get()));
        self.actors.borrow_mut().insert(id, actor.clone());
        address.class.meters.wakes.increment(1);
        self.gauges.awake.increment(1);
        actor
    }

    /// Whether an object is in memory.
    pub(crate) fn is_awake(&self, id: &RawId) -> bool {
        self.actors.borrow().contains_key(id)
    }

    /// Refuses another call for an object for which too many wait.
    pub(crate) fn check_load(&self, core: &Core) -> Result<(), CallError> {
        let waiting = core.lock.waiting();
        match waiting >= self.limits.queue {
            true => Err(CallError::Overloaded(format!(
                "{waiting} calls wait for it"
            ))),
            false => Ok(()),
        }
    }

    /// Takes an actor that was reset out of the map, and ends its connections, unless another has its
    /// place by now.
    pub(crate) fn forget(self: &Rc<Self>, core: &Rc<Core>) {
        let id = core.address.id.raw();
        let mut actors = self.actors.borrow_mut();
        if actors
            .get(&id)
            .is_some_and(|actor| Rc::ptr_eq(actor.core(), core))
        {
            actors.remove(&id);
            core.address.class.meters.resets.increment(1);
            self.gone(core);
            self.sockets.reset(id);
        }
    }

    /// An object has left the map.
    fn gone(self: &Rc<Self>, core: &Core) {
        self.gauges.awake.decrement(1);
        self.resized(core.take_bytes(), 0);
    }

    /// Lets an object's output go once its ticket is redeemed.
    pub(crate) fn submit(self: &Rc<Self>, core: &Rc<Core>, ticket: Option<Ticket>, output: Output) {
        if let Err(cause) = self.gate.submit(core, ticket, output) {
            self.reset_all(&cause);
        }
    }

    /// Sees to it that everything is reset should this commit fail, also if no output waits for it.
    pub(crate) fn watch(self: &Rc<Self>, ticket: Ticket) {
        if let Err(cause) = self.gate.watch(ticket) {
            self.reset_all(&cause);
        }
    }

    async fn open_gate(self: Rc<Self>) {
        loop {
            self.gate.signal.moved.notified().await;
            if let Err(cause) = self.gate.drain() {
                self.reset_all(&cause);
            }
            if self.gate.late_is_over()
                && let Some(house) = self.house.upgrade()
            {
                // Of alarms that they had set the scheduler was never told.
                house.alarms.look();
            }
        }
    }

    /// Resets objects whose commits take too long.
    async fn look_at_gate(self: Rc<Self>) {
        loop {
            self.clock.sleep_until(self.clock.now_ms() + LOOK_MS).await;
            let late = self.gate.look(self.engine.elapsed_us());
            for core in late {
                if core.broken().is_none() {
                    let class = core.address.class.name;
                    tracing::error!(object = %core.id(), class, "not durable after {LATE_MS} ms: it is reset");
                }
                core.reset(CallError::StorageTimeout { limit_ms: LATE_MS });
                self.gate.give_up(&core);
            }
        }
    }

    /// Drops all objects from memory, whatever goes on in them, and returns how many those are: the log has
    /// stopped, so that what is in memory may be more than what is on the disk, or a test wants it.
    fn reset_all(&self, cause: &str) -> usize {
        let all: Vec<_> = self
            .actors
            .borrow()
            .values()
            .map(|actor| actor.core().clone())
            .collect();
        for core in &all {
            core.reset(CallError::Reset(cause.to_owned()));
        }
        all.len()
    }

    /// Evicts idle objects, now and then.
    async fn sweep(self: Rc<Self>) {
        loop {
            let now_ms = self.clock.now_ms();
            self.clock
                .sleep_until(now_ms + (self.limits.idle_ms / 4).max(1))
                .await;
            let Some(since_ms) = self.clock.now_ms().checked_sub(self.limits.idle_ms) else {
                continue;
            };
            let idle: Vec<Rc<Core>> = {
                let actors = self.actors.borrow();
                let cores = actors.values().map(|actor| actor.core());
                let idle = cores.filter(|core| core.is_idle_since(since_ms));
                idle.cloned().collect()
            };
            for core in idle {
                core.address.class.meters.evicted_idle.increment(1);
                self.evict(&core.address.id.raw());
            }
        }
    }

    /// An object takes another amount of memory. If all take too much, those go that were idle for longest.
    pub(crate) fn resized(self: &Rc<Self>, before: usize, now: usize) {
        self.awake_bytes.update(|sum| sum - before + now);
        self.gauges.awake_bytes.set(self.awake_bytes.get() as f64);
        if now > before && self.awake_bytes.get() > self.limits.awake_bytes {
            // Not in the midst of somebody's event.
            let shard = self.clone();
            spawn_local(async move { shard.make_room() });
        }
    }

    fn make_room(self: &Rc<Self>) {
        // An eighth at a time, so that not every event has to look at all.
        let target = self.limits.awake_bytes - self.limits.awake_bytes / 8;
        if self.awake_bytes.get() <= self.limits.awake_bytes {
            return;
        }
        let mut idle: Vec<Rc<Core>> = {
            let actors = self.actors.borrow();
            let cores = actors.values().map(|actor| actor.core());
            let idle = cores.filter(|core| core.is_idle() && core.is_settled());
            idle.cloned().collect()
        };
        idle.sort_by_key(|core| core.last_active());
        for core in idle {
            if self.awake_bytes.get() <= target {
                return;
            }
            core.address.class.meters.evicted_for_memory.increment(1);
            self.evict(&core.address.id.raw());
        }
    }

    /// Drops an object from memory if nothing goes on in it. Returns whether it is asleep.
    pub(crate) fn evict(self: &Rc<Self>, id: &RawId) -> bool {
        self.put_to_sleep(id, Core::is_idle)
    }

    /// Drops all objects from memory that nothing goes on in. Returns how many stay.
    fn evict_all(self: &Rc<Self>) -> usize {
        let ids: Vec<RawId> = self.actors.borrow().keys().copied().collect();
        ids.iter().filter(|id| !self.evict(id)).count()
    }

    fn put_to_sleep(self: &Rc<Self>, id: &RawId, may: impl FnOnce(&Core) -> bool) -> bool {
        let Some(actor) = self.actors.borrow().get(id).cloned() else {
            return true;
        };
        if !may(actor.core()) {
            return false;
        }
        actor.core().sleep();
        self.actors.borrow_mut().remove(id);
        self.sockets.asleep(*id);
        self.gone(actor.core());
        true
    }

    /// Ends all connections, waits for the handlers that run, and puts everything to sleep.
    #[expect(
        clippy::disallowed_methods,
        reason = "patience with a stuck handler is real time"
    )]
    async fn close(self: &Rc<Self>) {
        self.closing.send_replace(true);
        self.sockets.close_all().await;
        let deadline = tokio::time::Instant::now() + CLOSE_PATIENCE;
        loop {
            let ids: Vec<RawId> = self.actors.borrow().keys().copied().collect();
            // Nobody comes back to a callback any more.
            let busy = ids
                .iter()
                .filter(|id| !self.put_to_sleep(id, Core::is_quiet));
            // The last replies leave too, once what they tell of is durable.
            if busy.count() == 0 && self.gate.is_empty() {
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

/// How often a shard looks whether its outputs leave.
const LOOK_MS: u64 = 1_000;

/// Why [`TestHouse::abort_all`](crate::testing::TestHouse::abort_all) resets objects.
const TEST_ABORTS: &str = "a test aborted all objects";

/// How long a closing house waits for handlers that run.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);
