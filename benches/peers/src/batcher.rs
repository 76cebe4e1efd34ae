//! Group commit for stores that have none: clients queue, one thread writes all that is queued as one
//! durable transaction, and tells everybody whose commit was in it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender};

use crate::content::Id;
use crate::peers::{Put, Session};

/// Commits that are written together. All bytes lie in one buffer, which is reused.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    rows: Vec<(Range<usize>, Range<usize>)>,
    /// Who waits: the session, and its client.
    waiting: Vec<(usize, usize)>,
}

impl Batch {
    fn push(&mut self, id: &Id, puts: &[Put<'_>]) {
        for (key, value) in puts {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(id);
            self.bytes.extend_from_slice(key);
            let middle = self.bytes.len();
            self.bytes.extend_from_slice(value);
            self.rows.push((start..middle, middle..self.bytes.len()));
        }
    }

    /// Keys (an id and a key of the object) and values, in the order of the keys, which trees like better.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let slice = |range: &Range<usize>| &self.bytes[range.clone()];
        self.rows
            .iter()
            .map(move |(key, value)| (slice(key), slice(value)))
    }

    fn sort(&mut self) {
        let Batch { bytes, rows, .. } = self;
        rows.sort_by(|(a, _), (b, _)| bytes[a.clone()].cmp(&bytes[b.clone()]));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.waiting.clear();
    }
}

type Write = dyn Fn(&Batch) -> Result<()> + Send + Sync;
/// Clients whose commits are durable, or why they may not be.
type Outcome = std::result::Result<Vec<usize>, String>;

struct Shared {
    write: Box<Write>,
    queue: Mutex<Queue>,
    filled: Condvar,
    sessions: Mutex<Vec<Sender<Outcome>>>,
    batches: AtomicU64,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Sender<Outcome>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, batch: &mut Batch) -> Result<()> {
        batch.sort();
        self.batches.fetch_add(1, Ordering::Relaxed);
        (self.write)(batch)
    }

    /// Writes what is queued until nothing can be any more.
    fn keep_writing(&self) {
        raise_priority();
        let mut batch = Batch::default();
        while self.take(&mut batch) {
            let outcome = self.write(&mut batch).map_err(|error| format!("{error:#}"));
            self.complete(&batch, &outcome);
            batch.clear();
        }
    }

    fn take(&self, batch: &mut Batch) -> bool {
        let empty = |queue: &mut Queue| queue.batch.waiting.is_empty() && !queue.closed;
        let waited = self.filled.wait_while(self.queue(), empty);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(batch, &mut queue.batch);
        !batch.waiting.is_empty()
    }

    fn complete(&self, batch: &Batch, outcome: &std::result::Result<(), String>) {
        let sessions = self.sessions();
        let mut done: Vec<Vec<usize>> = vec![Vec::new(); sessions.len()];
        for (session, client) in &batch.waiting {
            done[*session].push(*client);
        }
        for (session, clients) in sessions.iter().zip(done) {
            if !clients.is_empty() {
                // A session that is gone does not want to know.
                let _ = session.send(outcome.clone().map(|()| clients));
            }
        }
    }
}

/// Asks for a real-time priority, as dovehouse does for its committer: on a busy machine a commit otherwise
/// waits for a time slice.
fn raise_priority() {
    use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let native = thread_priority::thread_native_id();
    // Without the right to it, neither of them gets it.
    let _ = thread_priority::set_thread_priority_and_policy(native, ThreadPriority::Min, policy);
}

/// The queue and its thread.
pub struct Batcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Batcher {
    /// `write` makes a batch durable; it is called by one thread at a time.
    pub fn start(write: impl Fn(&Batch) -> Result<()> + Send + Sync + 'static) -> Result<Self> {
        let shared = Arc::new(Shared {
            write: Box::new(write),
            queue: Mutex::default(),
            filled: Condvar::new(),
            sessions: Mutex::default(),
            batches: AtomicU64::new(0),
        });
        let writer = shared.clone();
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || writer.keep_writing())?;
        Ok(Batcher {
            shared,
            thread: Some(thread),
        })
    }

    /// Transactions that were written.
    pub fn batches(&self) -> u64 {
        self.shared.batches.load(Ordering::Relaxed)
    }

    /// A session. One that is alone writes itself, which spares two changes of threads.
    pub fn session(&self, alone: bool) -> Box<dyn Session> {
        let shared = self.shared.clone();
        if alone {
            return Box::new(Alone {
                shared,
                batch: Batch::default(),
            });
        }
        let (sender, outcomes) = crossbeam_channel::unbounded();
        let mut sessions = self.shared.sessions();
        let number = sessions.len();
        sessions.push(sender);
        Box::new(Queued {
            shared,
            number,
            outcomes,
        })
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Queued {
    shared: Arc<Shared>,
    number: usize,
    outcomes: Receiver<Outcome>,
}

impl Session for Queued {
    fn submit(&mut self, client: usize, id: &Id, puts: &[Put<'_>]) -> Result<()> {
        let mut queue = self.shared.queue();
        let was_empty = queue.batch.waiting.is_empty();
        queue.batch.push(id, puts);
        queue.batch.waiting.push((self.number, client));
        drop(queue);
        // If something was queued, the writer is awake or being woken.
        if was_empty {
            self.shared.filled.notify_one();
        }
        Ok(())
    }

    fn completed(&mut self, done: &mut Vec<usize>) -> Result<()> {
        let first = self.outcomes.recv().context("the writer is gone")?;
        for outcome in std::iter::once(first).chain(self.outcomes.try_iter()) {
            done.extend(outcome.map_err(|error| anyhow!(error))?);
        }
        Ok(())
    }
}

/// One client, which is also the writer.
struct Alone {
    shared: Arc<Shared>,
    batch: Batch,
}

impl Session for Alone {
    fn submit(&mut self, client: usize, id: &Id, puts: &[Put<'_>]) -> Result<()> {
        self.batch.push(id, puts);
        self.batch.waiting.push((0, client));
        Ok(())
    }

    fn completed(&mut self, done: &mut Vec<usize>) -> Result<()> {
        self.shared.write(&mut self.batch)?;
        done.extend(self.batch.waiting.iter().map(|(_, client)| *client));
        self.batch.clear();
        Ok(())
    }
}
