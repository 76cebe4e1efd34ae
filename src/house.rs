//! The house: a store, its shards, and the classes that live in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::{DEFAULT_TENANT, Engine, ObjectId as RawId, Retention};
use dovehouse_sqlbridge::{PoolSizes, SqlPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::armed::Armed;
use crate::catalog::{self, Catalog};
use crate::class::{Address, Class};
use crate::clock::{Clock, SystemClock};
use crate::deploy::Deploy;
use crate::error::{CallError, Error, Result};
use crate::id::ObjectId;
use crate::locations::{Settings, Stores};
use crate::namespace::Namespace;
use crate::object::Object;
use crate::register::{self, Register};
use crate::scheduler::{self, Alarms};
use crate::shard::{self, Event, Handle, Limits, Notice, Shard, Start};
use crate::signal::Signal;
use crate::waits::Waits;

/// A store with its objects running in it. Clones are the same house.
///
/// ```
/// use dovehouse::{Ctx, Dovehouse, Result};
///
/// struct Counter;
///
/// #[dovehouse::object]
/// impl Counter {
///     fn new() -> Self {
///         Counter
///     }
///
///     /// Counts on, and returns the new count once it is durable.
///     pub fn increment(&mut self, ctx: &Ctx) -> Result<u64> {
///         let before = ctx.kv().get("count")?.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
///         ctx.kv().put("count", (before + 1).to_le_bytes())?;
///         Ok(before + 1)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let house = Dovehouse::open(dir.path())?;
/// let counters = house.namespace::<Counter>()?;
/// assert_eq!(counters.get_by_name("visits").increment().await?, 1);
/// assert_eq!(counters.get_by_name("visits").increment().await?, 2);
/// house.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Dovehouse {
    inner: Arc<Inner>,
    /// Whose classes it is about.
    tenant: Arc<str>,
}

impl fmt::Debug for Dovehouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dovehouse")
            .field("dir", &self.inner.engine.dir())
            .finish_non_exhaustive()
    }
}

/// What all handles of a house share. When the last one is gone, the shards end.
pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) waits: Arc<Waits>,
    pub(crate) armed: Armed,
    shards: Vec<Handle>,
    pub(crate) threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    pub(crate) stores: Stores,
    pub(crate) register: Register,
    pub(crate) catalog: Mutex<Catalog>,
    /// The classes that were asked for.
    pub(crate) classes: Mutex<Vec<Arc<Class>>>,
    /// What SQL may do, in handlers and on objects as they were.
    pub(crate) sql_policy: SqlPolicy,
    /// What classes declare that declare nothing.
    pub(crate) retention: Option<Retention>,
    closing: AtomicBool,
}

/// Settings of a house; see [`Dovehouse::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    dir: PathBuf,
    shards: usize,
    limits: Limits,
    sql_policy: SqlPolicy,
    sql_pool: PoolSizes,
    segment_bytes: Option<u64>,
    pub(crate) retention: Option<Retention>,
    clock: Arc<dyn Clock>,
    fs: Option<Arc<dyn Fs>>,
    pub(crate) locations: Settings,
}

impl Builder {
    /// How many threads run objects. An object stays on one of them. Default: one for each core.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards.max(1);
        self
    }

    /// Milliseconds without work after which an object is dropped from memory. Default 10,000.
    pub fn idle_ms(mut self, ms: u64) -> Self {
        self.limits.idle_ms = ms;
        self
    }

    /// How much memory awake objects may take while nothing goes on in them: what they have stored, and about
    /// 2 KiB each. Those that were idle for longest are dropped from memory first. What their instances
    /// hold is not counted. Default 256 MiB.
    pub fn awake_bytes(mut self, bytes: usize) -> Self {
        self.limits.awake_bytes = bytes;
        self
    }

    /// How many calls may wait for one object; more fail with
    /// [`CallError::Overloaded`](crate::CallError::Overloaded). Default 10,000.
    pub fn queue_max(mut self, calls: usize) -> Self {
        self.limits.queue = calls;
        self
    }

    /// How often the host asks the peer of a WebSocket that says nothing whether it is still there, in
    /// milliseconds. One that does not answer for as long again is gone: `web_socket_close` runs, with code 1006.
    /// Asking wakes no object. 0 asks nobody. Default 30,000.
    pub fn web_socket_ping_ms(mut self, ms: u64) -> Self {
        self.limits.ping_ms = ms;
        self
    }

    /// What SQL may do in handlers. Default [`SqlPolicy::native`].
    pub fn sql_policy(mut self, policy: SqlPolicy) -> Self {
        self.sql_policy = policy;
        self
    }

    /// How many of a shard's awake objects keep their database open, and how many of those its caches.
    /// The others open it again when they use it.
    pub fn sql_pool(mut self, sizes: PoolSizes) -> Self {
        self.sql_pool = sizes;
        self
    }

    /// The size of a segment file of a new store; see the engine's builder. Default 64 MiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Another clock, which alarms and evictions go by.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Another disk.
    pub fn fs(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = Some(fs);
        self
    }

    /// Opens the store, creating it if the directory has none, and starts the shards.
    ///
    /// Threads: `dovehouse-commit`, `dovehouse-upkeep`, and `dovehouse-shard-N` for each shard; the
    /// first shard also looks after the alarms.
    pub fn open(self) -> Result<Dovehouse> {
        let Builder {
            dir,
            shards,
            mut limits,
            sql_policy,
            sql_pool,
            segment_bytes,
            retention,
            clock,
            fs,
            locations,
        } = self;
        let open = |dir: &PathBuf| -> Result<Engine> {
            let mut engine = Engine::builder(dir);
            if let Some(bytes) = segment_bytes {
                engine = engine.segment_bytes(bytes);
            }
            if let Some(retention) = retention {
                engine = engine.retention(retention);
            }
            if let Some(fs) = &fs {
                engine = engine.fs(fs.clone());
            }
            Ok(engine.open()?)
        };
        let engine = Arc::new(open(&dir)?);
        let mut stores = Some(Stores::open(engine.clone(), locations, open)?);
        let mut register = Some(Register::open(&engine)?);
        let mut catalog = catalog::open(register.as_ref().expect("it was opened"), &engine)?;
        let armed = Armed::open(register.as_ref().expect("it was opened"))?;
        limits.awake_bytes /= shards;
        let mut starts = Vec::new();
        let inner = Arc::new_cyclic(|house| {
            let mut handles = Vec::new();
            for number in 0..shards {
                let (sender, notices) = mpsc::unbounded_channel();
                let signal = Arc::new(Signal::default());
                handles.push(Handle {
                    notices: sender,
                    signal: signal.clone(),
                });
                let (engine, house, clock) = (engine.clone(), house.clone(), clock.clone());
                starts.push(Start {
                    number,
                    engine,
                    house,
                    clock,
                    limits,
                    sql_policy,
                    sql_pool,
                    notices,
                    signal,
                });
            }
            Inner {
                engine: engine.clone(),
                alarms: Arc::default(),
                waits: Arc::default(),
                armed,
                shards: handles,
                threads: Mutex::default(),
                stores: stores.take().expect("made once"),
                register: register.take().expect("made once"),
                catalog: Mutex::new(std::mem::take(&mut catalog)),
                classes: Mutex::default(),
                sql_policy,
                retention,
                closing: AtomicBool::new(false),
            }
        });
        let signals: Vec<_> = inner
            .shards
            .iter()
            .map(|shard| shard.signal.clone())
            .collect();
        for (store, engine) in inner.engines() {
            let location = inner.location_name(store);
            inner.catalog.lock().name_classes(location, engine)?;
            let signals = signals.clone();
            engine.on_progress(move || signals.iter().for_each(|signal| signal.log_moved()));
        }
        inner.finish_moves()?;
        *inner.threads.lock() = start_shards(starts, &inner, &clock);
        inner.clear_deleted();
        Ok(Dovehouse::from_inner(inner, DEFAULT_TENANT.into()))
    }
}

fn start_shards(
    starts: Vec<Start>,
    inner: &Arc<Inner>,
    clock: &Arc<dyn Clock>,
) -> Vec<std::thread::JoinHandle<()>> {
    let mut alarms = Some((Arc::downgrade(inner), clock.clone()));
    let spawn = |(number, start): (usize, Start)| {
        let alarms = alarms.take();
        let thread = std::thread::Builder::new().name(format!("dovehouse-shard-{number}"));
        let live = move || {
            shard::run(
                start,
                alarms.map(|(house, clock)| scheduler::run(house, clock)),
            )
        };
        thread.spawn(live).expect("the system can start a thread")
    };
    starts.into_iter().enumerate().map(spawn).collect()
}

impl Dovehouse {
    /// Opens the store in a directory, creating it if there is none.
    pub fn open(dir: impl AsRef<Path>) -> Result<Dovehouse> {
        Self::builder(dir).open()
    }

    /// Settings for opening a house.
    pub fn builder(dir: impl AsRef<Path>) -> Builder {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Builder {
            dir: dir.as_ref().to_owned(),
            shards: cores,
            limits: Limits {
                idle_ms: 10_000,
                awake_bytes: 256 << 20,
                queue: 10_000,
                ping_ms: 30_000,
            },
            sql_policy: SqlPolicy::native(),
            sql_pool: PoolSizes::default(),
            segment_bytes: None,
            retention: None,
            clock: Arc::new(SystemClock),
            fs: None,
            locations: Settings::default(),
        }
    }

    pub(crate) fn from_inner(inner: Arc<Inner>, tenant: Arc<str>) -> Self {
        Dovehouse { inner, tenant }
    }

    /// The same house for a tenant: an owner of classes of its own, which may have the names that other tenants
    /// use too. The house of an object's handlers is that of the object's tenant.
    ///
    /// # Errors
    /// [`Error::Tenant`] for the house's own.
    pub fn tenant(&self, name: &str) -> Result<Dovehouse> {
        match name == register::TENANT || name.starts_with('\0') {
            true => Err(Error::Tenant {
                tenant: name.to_owned(),
            }),
            false => Ok(Dovehouse::from_inner(self.inner.clone(), name.into())),
        }
    }

    /// A deployment of the tenant's classes: made, renamed, deleted and handed over, as
    /// [migrations](crate::deploy::Deploy::migrations) or [exports](crate::deploy::Deploy::exports) declare
    /// them. From the first one on only declared classes can be used. Deploy before asking for namespaces.
    ///
    /// ```
    /// # use dovehouse::{Dovehouse, deploy::Migration};
    /// # let dir = tempfile::tempdir()?;
    /// # let house = Dovehouse::open(dir.path())?;
    /// let migrations = [
    ///     Migration::new("v1").new_sqlite("Room").new_kv("Counter"),
    ///     Migration::new("v2").rename("Room", "Hall").delete("Counter"),
    /// ];
    /// let report = house.deploy().migrations(migrations).apply()?;
    /// println!("{report}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn deploy(&self) -> Deploy {
        Deploy::new(self.inner.clone(), self.tenant.clone())
    }

    /// The objects of a class. Call it for each class when the program starts: alarms of a class that
    /// was not asked for wait.
    ///
    /// The class is made if it is not there, unless the tenant's classes are [declared](Dovehouse::deploy).
    /// Ids are made with the class's first name as the unique key; see [`Dovehouse::namespace_with_key`].
    ///
    /// # Errors
    /// [`Error::Class`] if the class is not declared, is stored as something else, or is in use for another type.
    pub fn namespace<T: Object>(&self) -> Result<Namespace<T>> {
        let class = self.inner.use_class::<T>(&self.tenant, None)?;
        Ok(Namespace::new(self.inner.clone(), class))
    }

    /// The objects of a class, with ids made from this unique key, which the class keeps when it is renamed. Ids
    /// are those of workerd for the same key. Whoever knows the key can make valid ids.
    ///
    /// # Errors
    /// Those of [`Dovehouse::namespace`], and [`Error::Class`] if the class was made with another key, or another
    /// class with this one.
    pub fn namespace_with_key<T: Object>(&self, unique_key: &str) -> Result<Namespace<T>> {
        let class = self.inner.use_class::<T>(&self.tenant, Some(unique_key))?;
        Ok(Namespace::new(self.inner.clone(), class))
    }

    /// Drops an object from memory, as idleness does. Returns whether it sleeps: not while a handler
    /// of it is at work.
    pub async fn evict(&self, id: &ObjectId) -> Result<bool> {
        let (done, evicted) = oneshot::channel();
        self.inner
            .tell(id.raw(), Notice::Evict(id.raw(), done))
            .map_err(|_| Error::Closed)?;
        evicted.await.map_err(|_| Error::Closed)
    }

    /// How many objects are in memory.
    pub async fn awake(&self) -> Result<usize> {
        self.sum(Notice::Count).await
    }

    /// Asks every shard for a number.
    pub(crate) async fn sum(&self, ask: fn(oneshot::Sender<usize>) -> Notice) -> Result<usize> {
        let mut total = 0;
        for shard in &self.inner.shards {
            let (count, counted) = oneshot::channel();
            let asked = shard.notices.send(ask(count));
            asked.map_err(|_| Error::Closed)?;
            total += counted.await.map_err(|_| Error::Closed)?;
        }
        Ok(total)
    }

    /// Ends the house at once, as a crash does: nothing is finished, and calls fail.
    pub(crate) fn stop(&self) {
        self.inner.closing.store(true, Ordering::Release);
        for shard in &self.inner.shards {
            // It may have ended already.
            let _ = shard.notices.send(Notice::Stop);
        }
    }

    /// Whether an alarm is due that the scheduler has not handled, and is about to.
    pub(crate) fn has_due_alarm(&self, now_ms: u64) -> Result<bool> {
        self.inner.has_due_alarm(now_ms)
    }

    /// The engine, for looking at the store.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Closes the house: no more calls, WebSockets are closed, bodies that objects produce are broken off, handlers that run are waited for (up to
    /// 30 seconds), and everything is written so that the next open has nothing to replay.
    pub async fn close(self) -> Result<()> {
        self.inner.closing.store(true, Ordering::Release);
        let mut ended = Vec::new();
        for shard in &self.inner.shards {
            let (done, end) = oneshot::channel();
            if shard.notices.send(Notice::Close(done)).is_ok() {
                ended.push(end);
            }
        }
        for end in ended {
            // An error means that the shard is gone already.
            let _ = end.await;
        }
        let threads = std::mem::take(&mut *self.inner.threads.lock());
        let inner = self.inner.clone();
        let finish = move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
            inner.register.close();
            let closed: Vec<_> = inner.engines().map(|(_, engine)| engine.close()).collect();
            closed.into_iter().collect::<Result<(), _>>()
        };
        let closed = tokio::task::spawn_blocking(finish).await;
        Ok(closed.map_err(|_| Error::Closed)??)
    }
}

impl Inner {
    fn shard_of(&self, id: RawId) -> usize {
        let number = u64::from_le_bytes(id.as_bytes()[..8].try_into().expect("eight of 32"));
        (number % self.shards.len() as u64) as usize
    }

    fn shard(&self, id: RawId) -> &Handle {
        &self.shards[self.shard_of(id)]
    }

    fn tell(&self, id: RawId, notice: Notice) -> Result<(), CallError> {
        self.shard(id)
            .notices
            .send(notice)
            .map_err(|_| CallError::Closed)
    }

    /// Sends an event to an object.
    pub(crate) fn send(&self, to: &Address, event: Box<dyn Event>) -> Result<(), CallError> {
        if self.is_closing() {
            return Err(CallError::Closed);
        }
        if to.is_foreign {
            return Err(CallError::ForeignId);
        }
        self.tell(to.id.raw(), Notice::Event(event))
    }

    /// Sends an event on one of the shards, which delivers it at once if the object is its own.
    pub(crate) fn send_from(
        &self,
        from: &Weak<Shard>,
        to: RawId,
        event: Box<dyn Event>,
    ) -> Result<(), CallError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(CallError::Closed);
        }
        match from
            .upgrade()
            .filter(|shard| shard.number == self.shard_of(to))
        {
            Some(shard) => event.deliver(&shard),
            None => self.tell(to, Notice::Event(event))?,
        }
        Ok(())
    }

    /// Why a reply never came.
    pub(crate) fn lost_reply(&self) -> CallError {
        match self.engine.stopped() {
            _ if self.is_closing() => CallError::Closed,
            Some(error) => CallError::Reset(error.to_string()),
            None => CallError::Reset("its shard is gone".into()),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}
