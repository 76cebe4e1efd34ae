//! Sweeps: every sleeping object of a class is woken once, so that its migration runs.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::access::Mode;
use crate::class::{Address, Class};
use crate::core::Chain;
use crate::error::{CallError, Error, Result};
use crate::house::Inner;
use crate::object::Object;
use crate::scheduler::Place;
use crate::shard::{Event, Shard};

/// How many objects are asked for at a time.
const AT_A_TIME: usize = 64;

/// A sweep over a class; see [`Namespace::sweep`](crate::Namespace::sweep). Clones are the same sweep.
pub struct Sweep<T> {
    house: Arc<Inner>,
    class: Arc<Class>,
    shared: Arc<Shared>,
    object: PhantomData<fn() -> T>,
}

#[derive(Debug, Default)]
struct Shared {
    total: AtomicU64,
    migrated: AtomicU64,
    awake: AtomicU64,
    failed: AtomicU64,
    stopped: AtomicBool,
    /// Behind which object it goes on.
    after: Mutex<Option<Place>>,
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepProgress {
    /// Objects of the class when the sweep began.
    pub total: u64,
    /// Objects that were woken, and fell asleep again.
    pub migrated: u64,
    /// Objects that were awake, so that their migration had run.
    pub awake: u64,
    /// Objects that could not be woken, or could not be read. They are logged.
    pub failed: u64,
}

impl SweepProgress {
    /// Objects that are behind it.
    pub fn done(&self) -> u64 {
        self.migrated + self.awake + self.failed
    }
}

impl<T> Clone for Sweep<T> {
    fn clone(&self) -> Self {
        Sweep {
            house: self.house.clone(),
            class: self.class.clone(),
            shared: self.shared.clone(),
            object: PhantomData,
        }
    }
}

impl<T> std::fmt::Debug for Sweep<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sweep").field(&self.class.name).finish()
    }
}

impl<T: Object> Sweep<T> {
    pub(crate) fn new(house: Arc<Inner>, class: Arc<Class>) -> Self {
        Sweep {
            house,
            class,
            shared: Arc::default(),
            object: PhantomData,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> SweepProgress {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SweepProgress {
            total: load(&self.shared.total),
            migrated: load(&self.shared.migrated),
            awake: load(&self.shared.awake),
            failed: load(&self.shared.failed),
        }
    }

    /// Ends [`Sweep::run`] behind the object that it is at. Running it again goes on there.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Wakes the objects one by one, until all are done or it is stopped. Returns how far it is. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the house is closed. An object that fails is counted, and the sweep goes on.
    pub async fn run(&self) -> Result<SweepProgress> {
        self.shared.stopped.store(false, Ordering::Relaxed);
        let first = self.shared.after.lock().is_none();
        if first {
            let total = self
                .read(|house, class, _| house.count_objects(class))
                .await?;
            self.shared.total.store(total, Ordering::Relaxed);
        }
        loop {
            let some = self
                .read(|house, class, after| house.some_objects(class, after))
                .await?;
            if some.is_empty() {
                return Ok(self.progress());
            }
            for (place, found) in some {
                if self.shared.stopped.load(Ordering::Relaxed) {
                    return Ok(self.progress());
                }
                let counter = match found {
                    Some(address) => match self.visit(address).await {
                        Ok(true) => &self.shared.migrated,
                        Ok(false) => &self.shared.awake,
                        Err(CallError::Closed) => return Err(Error::Closed),
                        Err(error) => {
                            tracing::warn!(class = T::CLASS, slot = %place.1, "a sweep could not wake it: {error}");
                            &self.shared.failed
                        }
                    },
                    None => &self.shared.failed,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                *self.shared.after.lock() = Some(place);
            }
        }
    }

    /// Reads the stores on a thread that may block.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner, &Arc<Class>, Option<Place>) -> R + Send + 'static,
    ) -> Result<R> {
        let (house, class) = (self.house.clone(), self.class.clone());
        let after = *self.shared.after.lock();
        let read = move || read(&house, &class, after);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| Error::Closed)
    }

    /// Wakes an object and puts it to sleep again. `false` if it was awake.
    async fn visit(&self, address: Address) -> std::result::Result<bool, CallError> {
        let (reply, answer) = oneshot::channel();
        let to = address.clone();
        let visit = Visit::<T> {
            address,
            reply,
            class: PhantomData,
        };
        self.house.send(&to, Box::new(visit))?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.house.lost_reply()))
    }
}

impl Inner {
    fn count_objects(&self, class: &Class) -> u64 {
        let counted = self.engines().map(|(store, engine)| {
            let class = self.class_in(class, store);
            class.map_or(0, |class| engine.count_of(class))
        });
        counted.sum()
    }

    /// The next objects of a class; without an address those that cannot be read.
    fn some_objects(
        &self,
        class: &Arc<Class>,
        after: Option<Place>,
    ) -> Vec<(Place, Option<Address>)> {
        let found = self.objects_of(class, after).map(|(place, found)| {
            let address = found.ok().map(|summary| Address::of(class, summary.id));
            (place, address)
        });
        found.take(AT_A_TIME).collect()
    }
}

/// The event that wakes an object and nothing else.
struct Visit<T> {
    address: Address,
    reply: oneshot::Sender<std::result::Result<bool, CallError>>,
    class: PhantomData<fn() -> T>,
}

impl<T: Object> Event for Visit<T> {
    fn deliver(self: Box<Self>, shard: &Rc<Shard>) {
        let id = self.address.id.raw();
        if shard.is_awake(&id) {
            return drop(self.reply.send(Ok(false)));
        }
        let actor = shard.actor::<T>(&self.address);
        let place = actor.queue(Mode::Exclusive, &Chain::default());
        let place = place.expect("nobody waits for a visit");
        actor.core.begin();
        let shard = shard.clone();
        spawn_local(async move {
            let visited = actor.exclusive(place, async |_, _| Ok(())).await;
            actor.core.finish();
            shard.evict(&id);
            let reply = self.reply;
            actor
                .core
                .emit(Box::new(move || drop(reply.send(visited.map(|()| true)))));
        });
    }
}
