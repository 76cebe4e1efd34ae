//! The engine: one store, its objects, and the threads that keep it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use dovehouse_wal::fs::Fs;
use dovehouse_wal::{
    Access, Claim, Drive, Log, Opening, Record, Replayed, Superblock, Teeth, Ticket,
};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::big::{Blobs, Leaves, Retired};
use crate::cache::Cache;
use crate::checkpoint::CheckpointReport;
use crate::classes::{DEFAULT_TENANT, DELETED_TENANT};
use crate::compact::Compactor;
use crate::dictionaries::Dictionaries;
use crate::doubt::Doubt;
use crate::error::{Error, Result};
use crate::history::{History, Start};
use crate::id::{ClassId, ObjectId, Slot};
use crate::index::Index;
use crate::object::Object;
use crate::options::Builder;
use crate::reclaim::Reclaim;
use crate::record::{IMAGE_OVERHEAD_MAX, Kind, encode_class};
use crate::space::Quota;
use crate::stats::Counters;
use crate::training::Training;
use crate::upkeep::Upkeep;

/// A store of objects.
///
/// Cheap to share behind an [`Arc`]; all methods take `&self`. Dropping it stops its threads after what
/// was committed; [`Engine::close`] also makes the next open faster.
///
/// ```
/// use dovehouse_engine::{Engine, ObjectId};
///
/// # let dir = tempfile::tempdir()?;
/// let engine = Engine::open(dir.path())?;
/// let rooms = engine.class("Room")?;
/// let lobby = ObjectId::from_bytes([1; 32]);
///
/// let mut room = engine.wake(rooms, lobby)?;
/// room.put(b"topic", b"doves")?;
/// if let Some(ticket) = room.commit()? {
///     ticket.wait()?; // from here on it survives a power cut
/// }
/// drop(room); // asleep: no memory, no file descriptor
///
/// assert_eq!(engine.wake(rooms, lobby)?.get(b"topic")?.as_deref(), Some(&b"doves"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// An object with more than this, uncompressed, is kept in blocks, of which a commit writes those that it
/// changes. Less than that is written and read at once for less.
const TINY_BYTES_MAX: usize = 128 << 10;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    pub(crate) log: Log<Index>,
    pub(crate) index: Arc<Index>,
    pub(crate) reclaim: Mutex<Reclaim>,
    pub(crate) compactor: Mutex<Compactor>,
    /// Packs that compaction is filling: what lies there is not in the index yet. Changes only while
    /// `reclaim` is held, so never in the midst of a checkpoint.
    pub(crate) filling: Mutex<HashSet<u32>>,
    /// What a round of compaction moves at most.
    pub(crate) round_bytes: u64,
    pub(crate) upkeep: Upkeep,
    pub(crate) dictionaries: Dictionaries,
    pub(crate) history: History,
    /// Objects that may have lost a commit, in a damaged store.
    pub(crate) doubt: Doubt,
    pub(crate) counters: Counters,
    pub(crate) teeth: Teeth,
    /// What was read of big objects.
    pub(crate) cache: Cache,
    pub(crate) leaves: Leaves,
    pub(crate) blobs: Blobs,
    pub(crate) retired: Retired,
    /// Bytes that open transactions of big objects have in memory, and how many they may.
    pub(crate) dirty_bytes: AtomicUsize,
    pub(crate) dirty_bytes_max: usize,
    /// This, for compaction, which wakes objects.
    pub(crate) me: Weak<Inner>,
    /// Objects that somebody has a handle of: one writer each.
    pub(crate) awake: Mutex<HashSet<ObjectId>>,
    /// How many these are, for the committer, which must not wait for the lock.
    pub(crate) awake_count: AtomicUsize,
    pub(crate) quotas: RwLock<HashMap<ClassId, Quota>>,
    pub(crate) read_only: bool,
    /// A larger object is kept in blocks.
    pub(crate) tiny_bytes_max: usize,
    /// Objects that compaction has awake for a moment: whoever wakes one waits.
    pub(crate) in_upkeep: Mutex<HashSet<ObjectId>>,
    pub(crate) upkeep_done: Condvar,
}

impl Engine {
    /// Opens the store in a directory, creating it if there is none.
    pub fn open(dir: impl AsRef<Path>) -> Result<Engine> {
        Self::builder(dir).open()
    }

    /// Settings for opening a store.
    pub fn builder(dir: impl AsRef<Path>) -> Builder {
        Builder::new(dir.as_ref())
    }

    pub(crate) fn open_with(builder: Builder, access: Access) -> Result<Engine> {
        let may_diagnose = access != Access::Damaged;
        let again = builder.clone();
        let limits = builder.limits();
        let round_bytes = builder.memory_bytes / 8;
        let training = Training::new(builder.dictionary_states);
        let background_threads = builder.background_threads;
        let Builder {
            dir,
            fs,
            log: mut options,
            memory_bytes,
            open_transaction_bytes,
            retention,
            ..
        } = builder;
        options.queue_bytes = memory_bytes / 8;
        let dirty_bytes_max = open_transaction_bytes.unwrap_or(memory_bytes as usize / 8);
        let (drive, teeth) = (options.drive, options.teeth);
        let read_only = !access.writes();

        let opening = Opening::new(fs.clone(), &dir, options, access)?;
        let is_new = opening.payload().is_empty();
        let clean = opening.superblock().clean;
        let (index, history) = Index::open(&*fs, &dir, !read_only, opening.payload(), teeth)?;
        let index = Arc::new(index);
        let doubt = Doubt::default();
        let recovered = opening.recover_replaying::<_, Error>(index.clone(), |replayed| {
            // Until the tail was written back, the index files may be torn where it touches them.
            index.settled.store(false, Ordering::Release);
            match replayed {
                Replayed::Record(record, _) => {
                    doubt.clear_by(&record, &index);
                    index.replay(record, &dir)
                }
                Replayed::Hole(hole) => {
                    let intact = doubt.note(hole, &index);
                    let mut intact = intact.into_iter();
                    intact.try_for_each(|record| index.replay(record, &dir))
                }
            }
        });
        let log = recovered.map_err(|error| match error {
            Error::Log(cause @ dovehouse_wal::Error::Corrupt { .. }) if may_diagnose => {
                diagnose(again, cause)
            }
            other => other,
        })?;
        index.settle_facts();
        if !clean {
            index.settled.store(false, Ordering::Release);
        }

        let tiny_bytes_max = TINY_BYTES_MAX.min(log.record_bytes_max() / 2 - IMAGE_OVERHEAD_MAX);
        let upkeep = Upkeep::new(limits, fs.now_ms());
        let dictionaries = Dictionaries::open(
            fs.clone(),
            dir.clone(),
            log.store_id(),
            access,
            training,
            teeth,
        )?;
        index.note_dictionary(dictionaries.last());
        let history = History::open(Start {
            fs: fs.clone(),
            dir: dir.clone(),
            store_id: log.store_id(),
            access,
            default: retention,
            memory_bytes: (memory_bytes / 16) as usize,
            payload: &history,
            end: log.durable().end(),
            last_ms: if is_new { 0 } else { log.last_time_ms() },
        })?;
        let inner = Arc::new_cyclic(|me| Inner {
            fs,
            dir,
            log,
            index,
            reclaim: Mutex::default(),
            compactor: Mutex::default(),
            filling: Mutex::default(),
            counters: Counters::default(),
            round_bytes,
            upkeep,
            dictionaries,
            history,
            doubt,
            teeth,
            awake: Mutex::default(),
            awake_count: AtomicUsize::new(0),
            quotas: RwLock::default(),
            read_only,
            tiny_bytes_max,
            cache: Cache::new(memory_bytes / 8),
            leaves: Leaves::default(),
            blobs: Blobs::default(),
            retired: Retired::default(),
            dirty_bytes: AtomicUsize::new(0),
            dirty_bytes_max,
            me: me.clone(),
            in_upkeep: Mutex::default(),
            upkeep_done: Condvar::new(),
        });
        inner.pin_history();
        if is_new && !read_only {
            // The key of the id hash must be on disk before anything is hashed with it.
            inner.checkpoint(false)?;
        }
        let threads = if drive == Drive::Thread && !read_only {
            start_threads(&inner, background_threads)
        } else {
            Vec::new()
        };
        Ok(Engine {
            inner,
            threads: Mutex::new(threads),
        })
    }

    /// The number of a class of the default tenant, which is made if it is not there.
    pub fn class(&self, name: &str) -> Result<ClassId> {
        self.class_of(DEFAULT_TENANT, name)
    }

    /// The number of a tenant's class, which is made, durably, if it is not there.
    pub fn class_of(&self, tenant: &str, name: &str) -> Result<ClassId> {
        let inner = &self.inner;
        if let Some(class) = inner.index.classes.lock().find(tenant, name) {
            return Ok(class);
        }
        let longest = encode_class(ClassId(u16::MAX), tenant, name).len();
        let reservation = inner.reserve(longest, Claim::Growth)?;
        let mut classes = inner.index.classes.lock();
        if let Some(class) = classes.find(tenant, name) {
            return Ok(class);
        }
        let class = classes.next()?;
        let body = encode_class(class, tenant, name);
        let record = Record {
            kind: Kind::Class as u8,
            flags: 0,
            body,
            note: None,
        };
        inner.log.append(record, reservation)?.wait()?;
        classes.insert(class, tenant, name);
        Ok(class)
    }

    /// What a class may take from now on. Not kept in the store: set it after each open. Commits that do
    /// not grow their object go through beyond a quota too.
    pub fn set_quota(&self, class: ClassId, quota: Quota) {
        self.inner.quotas.write().insert(class, quota);
    }

    /// About how many bytes of records the class's objects need.
    pub fn class_bytes(&self, class: ClassId) -> u64 {
        self.inner.index.usage.class_bytes(class)
    }

    /// A class's tenant and name.
    pub fn class_name(&self, class: ClassId) -> Option<(String, String)> {
        let classes = self.inner.index.classes.lock();
        classes
            .name(class)
            .map(|(tenant, name)| (tenant.to_owned(), name.to_owned()))
    }

    /// All classes: number, tenant and name.
    pub fn classes(&self) -> Vec<(ClassId, String, String)> {
        let classes = self.inner.index.classes.lock();
        let owned =
            |(class, tenant, name): (_, &str, &str)| (class, tenant.to_owned(), name.to_owned());
        classes.all().map(owned).collect()
    }

    /// Loads an object into memory, for this caller alone: until the handle is dropped, waking it again
    /// fails with [`Error::Awake`]. An object that was never written, or was erased, is empty, and so is one
    /// of a class that was deleted.
    pub fn wake(&self, class: ClassId, id: ObjectId) -> Result<Object> {
        match Object::wake(self.inner.clone(), class, id) {
            Err(Error::WrongClass { found, .. }) if self.is_deleted(found) => {
                let mut leftover = Object::wake(self.inner.clone(), found, id)?;
                leftover.clear(false);
                leftover.commit()?;
                drop(leftover);
                Object::wake(self.inner.clone(), class, id)
            }
            woken => woken,
        }
    }

    /// The same, but never waits for a commit of the object that was under way when it fell asleep: its ticket is
    /// returned instead, to try again when that is settled.
    pub fn wake_at_once(
        &self,
        class: ClassId,
        id: ObjectId,
    ) -> Result<std::result::Result<Object, Ticket>> {
        match Object::wake_at_once(self.inner.clone(), class, id) {
            Err(Error::WrongClass { found, .. }) if self.is_deleted(found) => {
                self.wake(class, id).map(Ok)
            }
            woken => woken,
        }
    }

    fn is_deleted(&self, class: ClassId) -> bool {
        let classes = self.inner.index.classes.lock();
        classes
            .name(class)
            .is_some_and(|(tenant, _)| tenant == DELETED_TENANT)
    }

    /// The earliest alarm of all objects, in milliseconds since 1970; never later than the true one.
    pub fn next_due(&self) -> Option<u64> {
        self.inner.index.alarms.next_due()
    }

    /// Up to `limit` objects with an alarm at or before `until_ms`, earliest first. An object's exact
    /// alarms are in [`Object::alarms`]; a time outside 2020 to 2054 is rounded here.
    pub fn due_until(&self, until_ms: u64, limit: usize) -> Result<Vec<Due>> {
        let mut due = Vec::new();
        for (due_ms, slot) in self.inner.index.alarms.due_until(until_ms, limit)? {
            if let Some(info) = self.object_info(slot)? {
                due.push(Due {
                    due_ms,
                    id: info.id,
                    class: info.entry.class,
                });
            }
        }
        Ok(due)
    }

    /// Up to `limit` objects with an alarm at or before `until_ms`, with its time: what
    /// [`Engine::due_until`] finds, without reading anything of the objects.
    pub fn slots_due_until(&self, until_ms: u64, limit: usize) -> Result<Vec<(u64, Slot)>> {
        self.inner.index.alarms.due_until(until_ms, limit)
    }

    /// Brings the index up to the present, which shortens the replay after a crash and frees segments.
    /// Happens by itself in the background.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.inner.checkpoint(false)
    }

    /// Does what is due: a checkpoint, free segments, dictionaries, compaction. For an engine without threads
    /// of its own for that; see [`Builder::background_threads`].
    pub fn keep_up(&self) -> Result<()> {
        self.inner.keep_up_once()?;
        self.inner.compact_if_due()
    }

    /// Gives queued commits their place in the log without writing them, in an engine that was opened
    /// [without threads](Builder::without_threads): for tests of what may happen in between.
    pub fn lay_out_queued(&self) {
        self.inner.log.lay_out_queued();
    }

    /// The log, for looking at its segments and batches.
    pub fn log(&self) -> LogView<'_> {
        LogView(&self.inner.log)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The clock that the engine goes by, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.inner.fs.now_ms()
    }

    /// Microseconds on a clock of the files that only goes forward.
    pub fn elapsed_us(&self) -> u64 {
        self.inner.fs.elapsed_us()
    }

    /// Random bits from the engine's source.
    pub fn random_u64(&self) -> u64 {
        self.inner.fs.random_u64()
    }

    /// Calls `listener` whenever tickets may have become durable, or unknown. It runs on a thread that
    /// commits, so it must be short and must not wait for a commit.
    pub fn on_progress(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.inner.log.on_progress(listener);
    }

    /// Why nothing can be committed any more, if a write failed.
    pub fn stopped(&self) -> Option<Error> {
        self.inner.log.stopped().map(Error::Log)
    }

    /// Commits what is queued, makes a last checkpoint, and stops. The next open has nothing to replay.
    /// Handles of awake objects fail to commit from then on.
    pub fn close(&self) -> Result<()> {
        self.stop_upkeep();
        let result = if self.inner.read_only {
            Ok(())
        } else {
            self.inner.checkpoint(true).map(drop)
        };
        self.inner.log.close();
        result
    }

    fn stop_upkeep(&self) {
        self.inner.upkeep.stop();
        for thread in self.threads.lock().drain(..) {
            // A panic there was reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_upkeep();
        self.inner.log.close();
    }
}

/// An object whose alarm is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub due_ms: u64,
    /// The object.
    pub id: ObjectId,
    /// Its class.
    pub class: ClassId,
}

/// What a damaged log means for the objects: it is read once more, as far as it can be.
fn diagnose(builder: Builder, cause: dovehouse_wal::Error) -> Error {
    let objects = Engine::open_with(builder, Access::Damaged)
        .ok()
        .and_then(|engine| {
            let slots = engine.inner.doubt.slots()?;
            let ids = slots
                .into_iter()
                .filter_map(|slot| engine.object_info(slot).ok()?);
            Some(ids.map(|info| info.id).collect())
        });
    Error::DamagedLog { cause, objects }
}

/// Starts up to two threads for what the committer's thread does not do.
fn start_threads(inner: &Arc<Inner>, count: usize) -> Vec<JoinHandle<()>> {
    if count == 0 {
        return Vec::new();
    }
    let weak = Arc::downgrade(inner);
    inner.log.on_progress(move || {
        if let Some(inner) = weak.upgrade() {
            inner.look_after_batch();
        }
    });
    let (upkeep, compact) = (inner.clone(), inner.clone());
    let mut threads = vec![start_thread("dovehouse-upkeep", move || {
        upkeep.keep_up(count == 1);
    })];
    if count > 1 {
        let life = move || compact.keep_compact();
        threads.push(start_thread("dovehouse-compact", life));
    }
    threads
}

fn start_thread(name: &str, life: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(life).expect("the system can start a thread")
}

impl Inner {
    /// Notes that somebody has the object.
    pub(crate) fn take_awake(&self, id: ObjectId) -> Result<()> {
        let mut in_upkeep = self.in_upkeep.lock();
        while in_upkeep.contains(&id) {
            self.upkeep_done.wait(&mut in_upkeep);
        }
        self.insert_awake(id)
    }

    fn insert_awake(&self, id: ObjectId) -> Result<()> {
        if self.awake.lock().insert(id) {
            self.awake_count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        } else {
            Err(Error::Awake { id })
        }
    }

    /// Wakes an object and puts it to sleep again, which leaves its commits settled. Nothing happens if
    /// somebody has it awake.
    pub(crate) fn settle_object(&self, class: ClassId, id: ObjectId) {
        // One that cannot be read stays as it is.
        self.for_a_moment(class, id, drop);
    }

    /// Wakes an object for a moment: whoever wakes it meanwhile waits. Nothing happens if somebody has it
    /// awake.
    pub(crate) fn for_a_moment<R>(
        &self,
        class: ClassId,
        id: ObjectId,
        act: impl FnOnce(Result<Object>) -> R,
    ) -> Option<R> {
        let me = self.me.upgrade()?;
        {
            let mut in_upkeep = self.in_upkeep.lock();
            self.insert_awake(id).ok()?;
            in_upkeep.insert(id);
        }
        let result = act(Object::wake_taken(me, class, id));
        self.in_upkeep.lock().remove(&id);
        self.upkeep_done.notify_all();
        Some(result)
    }

    pub(crate) fn release_awake(&self, id: &ObjectId) {
        if self.awake.lock().remove(id) {
            self.awake_count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A view of the log for tools; see [`Engine::log`].
#[derive(Clone, Copy, Debug)]
pub struct LogView<'a>(pub(crate) &'a Log<Index>);

impl LogView<'_> {
    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<Arc<dovehouse_wal::Segment>> {
        self.0.segments()
    }

    /// The durable batches of a segment.
    pub fn batches(&self, segment: &Arc<dovehouse_wal::Segment>) -> dovehouse_wal::Batches {
        self.0.batches(segment, 0)
    }

    /// What SUPER says.
    pub fn superblock(&self) -> Superblock {
        self.0.superblock()
    }
}

impl Engine {
    /// All slots that were ever given to an object.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (1..self.inner.index.slot_limit()).filter_map(Slot::new)
    }
}
