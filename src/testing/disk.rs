//! The disk of a test house: the simulated one, with a valve before the commits, and the house's clock.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::wal::fs::{File, Fs, LockGuard, LockKind, Mode};
use dovehouse_engine::wal::sim::{Failure, Fault, Operation, SimFs};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::START_MS;
use crate::clock::{Clock, TestClock};
use crate::house::{Builder, Dovehouse};

/// The disk of a [`TestHouse`](super::TestHouse), in memory. Clones are the same disk.
///
/// It can hold commits, so that a test sees what leaves an object before its writes are durable: nothing should.
///
/// ```
/// use dovehouse::testing::{TestHouse, eventually};
/// use dovehouse::{Ctx, Result};
///
/// # struct Note;
/// # #[dovehouse::object]
/// # impl Note {
/// #     fn new() -> Self {
/// #         Note
/// #     }
/// #     pub fn write(&mut self, ctx: &Ctx, text: String) -> Result<()> {
/// #         ctx.kv().put("text", text)
/// #     }
/// #     pub fn is_there(&self, ctx: &Ctx) -> Result<bool> {
/// #         Ok(ctx.kv().get("text")?.is_some())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let house = TestHouse::new();
/// let note = house.namespace::<Note>()?.get_by_name("a");
/// house.disk().hold();
/// let writing = tokio::spawn({
///     let note = note.clone();
///     async move { note.write("a text".into()).await }
/// });
/// eventually(async || house.disk().is_holding()).await;
/// assert!(!writing.is_finished(), "it is not durable yet");
/// let house = house.crash();
/// assert!(writing.await?.is_err(), "it was never acknowledged");
/// let note = house.namespace::<Note>()?.get_by_name("a");
/// assert!(!note.is_there().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TestDisk {
    sim: SimFs,
    clock: TestClock,
    valve: Arc<Valve>,
}

/// Every change of the disk passes it, one at a time.
#[derive(Debug, Default)]
struct Valve {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    flow: Flow,
    /// Commits that wait.
    waiting: usize,
    /// Commits that may go on although commits are held.
    passes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flow {
    #[default]
    Free,
    /// Commits wait.
    Held,
    /// Commits fail.
    Failing,
    /// The process or the machine is gone: nothing changes any more.
    Gone,
}

impl Valve {
    fn set(&self, flow: Flow) {
        let mut state = self.state.lock();
        if state.flow != Flow::Gone {
            state.flow = flow;
        }
        state.passes = 0;
        self.changed.notify_all();
    }

    /// Waits until a change may be made. No other is made as long as the guard is there.
    fn pass(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        while state.flow == Flow::Held && is_committer() {
            if state.passes > 0 {
                state.passes -= 1;
                break;
            }
            state.waiting += 1;
            self.changed.wait(&mut state);
            state.waiting -= 1;
        }
        match state.flow {
            Flow::Gone => Err(io::Error::other("the test has ended the house")),
            _ => Ok(state),
        }
    }
}

/// Whatever else writes than the thread of the log does so unheld.
fn is_committer() -> bool {
    std::thread::current().name() == Some("dovehouse-commit")
}

impl TestDisk {
    /// An empty disk, all of whose choices follow from the seed. Its clock shows [`START_MS`].
    pub fn new(seed: u64) -> Self {
        Self::of(SimFs::new(seed), TestClock::new(START_MS))
    }

    fn of(sim: SimFs, clock: TestClock) -> Self {
        TestDisk {
            sim,
            clock,
            valve: Arc::default(),
        }
    }

    /// Settings of a house on this disk, for a test that opens it itself: with the disk's clock, two shards, segments
    /// of 1 MiB, and no pings on WebSockets, which no peer could answer as fast as a clock is moved.
    pub fn builder(&self) -> Builder {
        let builder = Dovehouse::builder("store").fs(Arc::new(self.clone()));
        let builder = builder.clock(self.clock.clone());
        let builder = builder.web_socket_ping_ms(0);
        builder.segment_bytes(1 << 20).shards(2)
    }

    /// The clock that the disk's houses share.
    pub fn clock(&self) -> &TestClock {
        &self.clock
    }

    /// The simulated disk behind it, for faults of every kind: see [`SimFs::inject`] and [`SimFs::on_operation`].
    pub fn sim(&self) -> &SimFs {
        &self.sim
    }

    /// Holds commits from now on: nothing becomes durable, and nothing that waits for it leaves an object. Asking a
    /// house for a class that is new to it commits, too: do that before.
    pub fn hold(&self) {
        self.valve.set(Flow::Held);
    }

    /// Lets commits go on that are held.
    pub fn release(&self) {
        let mut state = self.valve.state.lock();
        if state.flow == Flow::Held {
            state.flow = Flow::Free;
        }
        self.valve.changed.notify_all();
    }

    /// Lets one write of the log go on, that which is held or else the next, and holds those that come after it.
    /// What was committed by the time it began is in it.
    pub fn release_one(&self) {
        self.valve.state.lock().passes += 1;
        self.valve.changed.notify_all();
    }

    /// Whether a commit has come to the disk and is held there.
    pub fn is_holding(&self) -> bool {
        self.valve.state.lock().waiting > 0
    }

    /// Has the next commit fail, or the one that is held, with an I/O error. After that a store takes no more writes until it
    /// is opened again; it may then have them or not, but nobody was told that they are there.
    pub fn fail_commits(&self) {
        self.valve.set(Flow::Failing);
    }

    /// Fills the disk: no file grows any more. What the store keeps in reserve is used up first.
    pub fn fill(&self) {
        self.sim.set_capacity(Some(0));
    }

    /// Ends all faults, those of [`TestDisk::sim`] too, and lets commits go on.
    pub fn repair(&self) {
        self.sim.clear_faults();
        self.sim.set_capacity(None);
        self.valve.set(Flow::Free);
    }

    /// Waits for something, and returns with its result the disk as it was in the midst of each change that was made
    /// meanwhile: the [`power_loss`](TestDisk::power_loss) and the [`process_death`](TestDisk::process_death) of each
    /// is what a crash there leaves. Changes that the store makes in the background are among them; the disk after the
    /// last change is not.
    ///
    /// ```
    /// # use dovehouse::testing::{TestHouse, run_in};
    /// # use dovehouse::{Ctx, Result};
    /// # struct Account;
    /// # #[dovehouse::object]
    /// # impl Account {
    /// #     fn new() -> Self {
    /// #         Account
    /// #     }
    /// #     pub fn pay(&mut self, ctx: &Ctx) -> Result<()> {
    /// #         ctx.kv().put("paid", "")?;
    /// #         ctx.kv().put("receipt", "")
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let house = TestHouse::new();
    /// let account = house.namespace::<Account>()?.get_by_name("ada");
    /// let (paid, crashes) = house.disk().crash_points(account.pay()).await;
    /// paid?;
    /// for crash in crashes {
    ///     let house = house.on(crash.power_loss());
    ///     let account = house.namespace::<Account>()?.get_by_name("ada");
    ///     let keys = async |_: &mut Account, ctx: &Ctx| ctx.kv().get_many(["paid", "receipt"]);
    ///     let found = run_in(&account, keys).await??;
    ///     assert!([0, 2].contains(&found.len()), "both of them or none");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn crash_points<R>(&self, run: impl Future<Output = R>) -> (R, Vec<TestDisk>) {
        let images: Arc<Mutex<Vec<SimFs>>> = Arc::default();
        self.sim.on_operation({
            let images = images.clone();
            move |image| images.lock().push(image)
        });
        let result = run.await;
        // One that is at work would come back.
        let nobody_changes = self.valve.state.lock();
        self.sim.clear_hook();
        drop(nobody_changes);
        let images = std::mem::take(&mut *images.lock());
        let disks = images.into_iter();
        let disks = disks.map(|image| Self::of(image, self.clock.clone()));
        (result, disks.collect())
    }

    /// Another disk as a power cut would leave it now, with the same clock, to open [a house on](super::TestHouse::on).
    /// What uses this one goes on: [`TestHouse::crash`](super::TestHouse::crash) ends it.
    pub fn power_loss(&self) -> TestDisk {
        Self::of(self.sim.power_loss(), self.clock.clone())
    }

    /// The same for the death of the process.
    pub fn process_death(&self) -> TestDisk {
        Self::of(self.sim.process_death(), self.clock.clone())
    }

    /// Lets nothing change any more, and returns the disk that a crash leaves at that moment.
    pub(super) fn end(&self, crash: impl FnOnce(&SimFs) -> SimFs) -> TestDisk {
        let mut state = self.valve.state.lock();
        state.flow = Flow::Gone;
        let left = crash(&self.sim);
        self.valve.changed.notify_all();
        drop(state);
        Self::of(left, self.clock.clone())
    }
}

impl Fs for TestDisk {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let _passed = self.valve.pass()?;
        Ok(Arc::new(TestFile {
            file: self.sim.open(path, mode)?,
            disk: self.clone(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.sim.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.sim.create_dir(dir)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let _passed = self.valve.pass()?;
        self.sim.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _passed = self.valve.pass()?;
        self.sim.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn LockGuard>> {
        self.sim.lock(path, kind)
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn elapsed_us(&self) -> u64 {
        self.now_ms() * 1000
    }

    fn random_u64(&self) -> u64 {
        self.sim.random_u64()
    }
}

#[derive(Debug)]
struct TestFile {
    file: Arc<dyn File>,
    disk: TestDisk,
}

impl File for TestFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_vectored_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let passed = self.disk.valve.pass()?;
        if passed.flow == Flow::Failing && is_committer() {
            // Nothing else is written before this.
            self.disk.sim.inject(Fault {
                operation: Operation::Write,
                name: "",
                after: 0,
                failure: Failure::Eio,
                lasting: false,
            });
        }
        self.file.write_vectored_at(parts, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let _passed = self.disk.valve.pass()?;
        self.file.sync()
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.file.byte_len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _passed = self.disk.valve.pass()?;
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let _passed = self.disk.valve.pass()?;
        self.file.allocate(len)
    }

    fn as_std(&self) -> Option<&std::fs::File> {
        self.file.as_std()
    }
}
