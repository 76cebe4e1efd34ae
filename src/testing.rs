//! A house for your tests: on a simulated disk, with a clock that your test moves, and with crashes.
//!
//! A [`TestHouse`] is a [`Dovehouse`] in memory. Nothing sleeps and nothing touches a file: the test moves the
//! [clock](TestHouse::advance), runs [alarms](run_alarm), looks [into objects](run_in), holds or breaks the
//! [disk](TestDisk), cuts the power, and goes on with what is left. `docs/testing-your-objects.md` has a complete
//! example.
//!
//! ```
//! use dovehouse::testing::TestHouse;
//! use dovehouse::{Ctx, Result};
//!
//! struct Counter;
//!
//! #[dovehouse::object]
//! impl Counter {
//!     fn new() -> Self {
//!         Counter
//!     }
//!
//!     pub fn add(&mut self, ctx: &Ctx, by: u64) -> Result<u64> {
//!         let count = ctx.kv().get_as("count")?.unwrap_or(0) + by;
//!         ctx.kv().put_as("count", &count)?;
//!         Ok(count)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let house = TestHouse::new();
//! let visits = house.namespace::<Counter>()?.get_by_name("visits");
//! assert_eq!(visits.add(2).await?, 2);
//!
//! let house = house.crash();
//! let visits = house.namespace::<Counter>()?.get_by_name("visits");
//! assert_eq!(visits.add(1).await?, 3, "what was acknowledged is there");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use dovehouse_engine::wal::sim::SimFs;
use tokio::sync::oneshot;

use crate::clock::{Clock, TestClock};
use crate::ctx::Ctx;
use crate::error::{CallError, Result};
use crate::fire::Fire;
use crate::house::{Builder, Dovehouse};
use crate::object::Object;
use crate::shard::Notice;
use crate::stub::Stub;

mod disk;

pub use disk::TestDisk;

/// What the clock of a new house shows, in milliseconds since 1970: 2023-11-14, 22:13:20 UTC.
pub const START_MS: u64 = 1_700_000_000_000;

/// How long [`eventually`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

type Settings = Arc<dyn Fn(Builder) -> Builder + Send + Sync>;

/// A [`Dovehouse`] in memory, with a clock that stands still until the test moves it: alarms, evictions, time
/// travel and the store itself go by it. It has two shards, segments of 1 MiB, and no pings
/// on WebSockets.
///
/// It can be used like the house that it holds. Dropping it lets go of what is held on its disk; the house lives on for
/// as long as there are stubs of it.
pub struct TestHouse {
    house: Dovehouse,
    disk: TestDisk,
    settings: Settings,
}

impl Default for TestHouse {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestHouse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestHouse").field(&self.house).finish()
    }
}

impl Deref for TestHouse {
    type Target = Dovehouse;

    fn deref(&self) -> &Dovehouse {
        &self.house
    }
}

impl Drop for TestHouse {
    fn drop(&mut self) {
        // A test that failed meanwhile ends, instead of waiting for commits that wait for it.
        self.disk.release();
    }
}

impl TestHouse {
    /// An empty house.
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    /// An empty house whose ids, delays of retries, and choices of what a power cut leaves follow from a seed.
    pub fn with_seed(seed: u64) -> Self {
        Self::with_settings(seed, |builder| builder)
    }

    /// An empty house with other settings. They are applied again whenever the house is opened.
    ///
    /// ```
    /// use dovehouse::SqlPolicy;
    /// use dovehouse::testing::TestHouse;
    /// let house = TestHouse::with_settings(7, |builder| {
    ///     builder.shards(1).sql_policy(SqlPolicy::cloudflare()).location("oregon", "oregon")
    /// });
    /// ```
    ///
    /// # Panics
    /// If it cannot be opened like that; so do all methods that open it again.
    pub fn with_settings(
        seed: u64,
        settings: impl Fn(Builder) -> Builder + Send + Sync + 'static,
    ) -> Self {
        Self::open(TestDisk::new(seed), Arc::new(settings))
    }

    fn open(disk: TestDisk, settings: Settings) -> Self {
        let house = settings(disk.builder()).open();
        let house = house.unwrap_or_else(|error| panic!("the house cannot be opened: {error}"));
        TestHouse {
            house,
            disk,
            settings,
        }
    }

    /// Another house with the settings of this one, on another disk.
    ///
    /// ```
    /// # use dovehouse::testing::TestHouse;
    /// let house = TestHouse::new();
    /// // ... work ...
    /// let after_power_loss = house.on(house.disk().power_loss());
    /// // ... and `house` goes on.
    /// ```
    pub fn on(&self, disk: TestDisk) -> TestHouse {
        Self::open(disk, self.settings.clone())
    }

    /// Another handle to the house, for what takes one, like [`Server`](crate::Server).
    pub fn dovehouse(&self) -> Dovehouse {
        self.house.clone()
    }

    /// The disk: for holding commits, and for faults.
    pub fn disk(&self) -> &TestDisk {
        &self.disk
    }

    /// The house's clock.
    pub fn clock(&self) -> &TestClock {
        self.disk.clock()
    }

    /// The time now, in milliseconds since 1970. A new house begins at [`START_MS`].
    pub fn now_ms(&self) -> u64 {
        self.clock().now_ms()
    }

    /// Moves the clock forward. What becomes due by that happens on the house's own threads: wait for it with
    /// [`TestHouse::alarms_done`] or [`eventually`].
    pub fn advance(&self, ms: u64) {
        self.clock().advance(ms);
    }

    /// Waits until every alarm that is due has been handled. One that failed is then put off, and due later.
    /// Alarms of classes that the house was not asked for wait on.
    ///
    /// ```
    /// # use dovehouse::testing::TestHouse;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let house = TestHouse::new();
    /// // ... somebody sets an alarm for in an hour ...
    /// house.advance(3_600_000);
    /// house.alarms_done().await;
    /// // ... its handler has run, and what it wrote is durable.
    /// # }
    /// ```
    ///
    /// # Panics
    /// If that takes longer than 30 seconds, or the store has failed.
    #[track_caller]
    pub fn alarms_done(&self) -> impl Future<Output = ()> {
        eventually(async || {
            !self
                .house
                .has_due_alarm(self.now_ms())
                .expect("the store works")
        })
    }

    /// Drops every object from memory that nothing goes on in, and returns how many stay awake. Hibernating
    /// WebSockets stay connected. For a single object there is [`Dovehouse::evict`].
    ///
    /// ```
    /// # use dovehouse::testing::TestHouse;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> dovehouse::Result<()> {
    /// let house = TestHouse::new();
    /// assert_eq!(house.evict_all().await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn evict_all(&self) -> Result<usize> {
        self.sum(Notice::EvictAll).await
    }

    /// Resets every object that is awake, whatever goes on in it, and returns how many those were. Their calls
    /// end with [`CallError::Reset`], their WebSockets with code 1011; what they committed stays.
    pub async fn abort_all(&self) -> Result<usize> {
        self.sum(Notice::ResetAll).await
    }

    /// Cuts the power, and opens the house on what is left: all that was acknowledged, and of the rest each commit as a
    /// whole or not at all. The clock goes on. Stubs of before fail, and so do their calls that were under way.
    ///
    /// ```
    /// # use dovehouse::testing::TestHouse;
    /// let house = TestHouse::new();
    /// // ... work ...
    /// let house = house.crash();
    /// // ... ask for namespaces again, and check what is there.
    /// ```
    pub fn crash(self) -> TestHouse {
        self.end(SimFs::power_loss)
    }

    /// Kills the process, as `kill -9` does, and opens the house again: all that was written is there, whether it
    /// was durable or not. Otherwise as [`TestHouse::crash`].
    pub fn kill(self) -> TestHouse {
        self.end(SimFs::process_death)
    }

    fn end(self, crash: impl FnOnce(&SimFs) -> SimFs) -> TestHouse {
        // First the disk, so that nothing is acknowledged that the new one does not have.
        let disk = self.disk.end(crash);
        self.house.stop();
        self.on(disk)
    }

    /// Closes the house; see [`Dovehouse::close`].
    pub async fn close(self) -> Result<()> {
        self.dovehouse().close().await
    }

    /// Closes the house, and opens it again on the same disk, which is [repaired](TestDisk::repair) before. Handlers
    /// that run are waited for.
    ///
    /// # Errors
    /// Those of [`Dovehouse::close`].
    pub async fn reopen(self) -> Result<TestHouse> {
        self.disk.repair();
        self.dovehouse().close().await?;
        Ok(self.on(self.disk.clone()))
    }
}

/// Runs `look` inside an object, alone, and returns what it returns: for looking into instances and
/// storage that have no method for that. What it writes is kept.
///
/// ```
/// use dovehouse::testing::{TestHouse, run_in};
/// use dovehouse::{Ctx, Result};
///
/// struct Cache {
///     hits: u32,
/// }
///
/// #[dovehouse::object]
/// impl Cache {
///     fn new() -> Self {
///         Cache { hits: 0 }
///     }
///
///     pub fn get(&mut self, ctx: &Ctx, key: String) -> Result<Option<Vec<u8>>> {
///         self.hits += 1;
///         ctx.kv().get(key)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let house = TestHouse::new();
/// let cache = house.namespace::<Cache>()?.get_by_name("a");
/// run_in(&cache, async |_: &mut Cache, ctx: &Ctx| ctx.kv().put("key", "value")).await??;
/// assert_eq!(cache.get("key".into()).await?.as_deref(), Some(&b"value"[..]));
/// assert_eq!(run_in(&cache, async |cache: &mut Cache, _: &Ctx| cache.hits).await?, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of any call.
pub async fn run_in<T: Object, R: Send + 'static>(
    stub: &impl AsRef<Stub<T>>,
    look: impl AsyncFnOnce(&mut T, &Ctx) -> R + Send + 'static,
) -> Result<R, CallError> {
    let run = async move |object: &mut T, ctx: &Ctx| Ok(look(object, ctx).await);
    stub.as_ref().call_exclusive("run_in", run).await
}

/// Runs an object's earliest alarm now, due or not, and returns whether there was one. The clock stays where it is.
/// One with a schedule moves to its next time; one that fails is put off as always.
///
/// ```
/// use dovehouse::testing::{TestHouse, run_alarm};
/// use dovehouse::{Ctx, Result};
///
/// struct Reminder;
///
/// #[dovehouse::object]
/// impl Reminder {
///     fn new() -> Self {
///         Reminder
///     }
///
///     pub fn remind_in(&mut self, ctx: &Ctx, ms: u64) -> Result<()> {
///         ctx.alarm().set(ctx.now_ms() + ms)
///     }
///
///     fn alarm(&mut self, ctx: &Ctx) -> Result<()> {
///         ctx.kv().put("reminded", "yes")
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let house = TestHouse::new();
/// let reminder = house.namespace::<Reminder>()?.get_by_name("a");
/// assert!(!run_alarm(&reminder).await?);
/// reminder.remind_in(3_600_000).await?;
/// assert!(run_alarm(&reminder).await?);
/// assert!(!run_alarm(&reminder).await?, "it is done");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The handler's, and those of any call.
pub async fn run_alarm<T: Object>(stub: &impl AsRef<Stub<T>>) -> Result<bool, CallError> {
    let Stub { house, address, .. } = stub.as_ref();
    let (reply, answer) = oneshot::channel();
    house.send(address, Fire::<T>::asked(address.clone(), reply))?;
    answer.await.unwrap_or_else(|_| Err(house.lost_reply()))
}

/// Waits until something is so that another thread is about to bring about.
///
/// ```
/// # use dovehouse::testing::{TestHouse, eventually};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let house = TestHouse::new();
/// house.advance(60_000);
/// eventually(async || house.awake().await.unwrap() == 0).await;
/// # }
/// ```
///
/// # Panics
/// If it is not so within 30 seconds.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "a test that hangs is to end in real time"
)]
pub fn eventually(mut check: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let begun = std::time::Instant::now();
        while !check().await {
            let waited = begun.elapsed();
            assert!(
                waited < PATIENCE,
                "what {caller} waits for has not come true within {waited:?}"
            );
            tokio::task::yield_now().await;
        }
    }
}
