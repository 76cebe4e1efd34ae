//! Tickets: a commit's promise, and the durable position that redeems it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::error::{Error, Result};
use crate::lsn::{DurableLsn, Lsn};

/// Where a commit stands.
#[derive(Clone, Debug)]
pub enum TicketState {
    /// Not durable yet.
    Pending,
    /// It survives a power cut.
    Durable(DurableLsn),
    /// The log stopped before it was acknowledged: it may or may not be there after a reopen.
    Unknown(Error),
}

/// A commit's promise. Cheap to clone. It can be waited on, polled, or given a callback; an event loop
/// with many of them polls those that it has after each call of one listener
/// (see [`Log::on_progress`](crate::Log::on_progress)).
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The end of the batch that carries the record; 0 until the committer laid it out.
    end: Arc<AtomicU64>,
    progress: Arc<Progress>,
}

impl Ticket {
    pub(crate) fn new(progress: Arc<Progress>) -> Self {
        Ticket {
            end: Arc::default(),
            progress,
        }
    }

    pub(crate) fn cell(&self) -> Arc<AtomicU64> {
        self.end.clone()
    }

    /// Where the commit stands now. Never blocks.
    pub fn state(&self) -> TicketState {
        // A ticket is not compared with anything before it is filled. The stop is read before the
        // end and the durable position: whatever became durable before the stop is seen here.
        let stopped = self.progress.stopped();
        let end = self.end.load(Ordering::Acquire);
        let durable = self.progress.durable();
        match stopped {
            _ if end != 0 && durable.end().as_u64() >= end => TicketState::Durable(durable),
            Some(error) => TicketState::Unknown(error),
            None => TicketState::Pending,
        }
    }

    /// Whether the commit is durable.
    pub fn is_durable(&self) -> bool {
        let end = self.end.load(Ordering::Acquire);
        end != 0 && self.progress.durable.load(Ordering::Acquire) >= end
    }

    /// Waits until the commit is durable. An error means that its fate is unknown until a reopen.
    pub fn wait(&self) -> Result<DurableLsn> {
        self.progress.wait(|| match self.state() {
            TicketState::Pending => None,
            TicketState::Durable(durable) => Some(Ok(durable)),
            TicketState::Unknown(error) => Some(Err(error)),
        })
    }

    /// Calls `callback` once, when the commit is durable or its fate is unknown: at once if it is
    /// already, else on a thread that commits, so it must be short and must not wait for a commit.
    ///
    /// Each batch looks at all callbacks that wait.
    pub fn on_settled(&self, callback: impl FnOnce(TicketState) + Send + 'static) {
        let waiting = (self.clone(), Box::new(callback) as Callback);
        self.progress.callbacks.lock().push(waiting);
        // It may have been settled before anybody could see the callback.
        self.progress.call_back();
    }
}

type Callback = Box<dyn FnOnce(TicketState) + Send>;

/// Runs the committer on the thread of somebody who waits.
pub(crate) trait Pump: Send + Sync {
    fn pump(&self) -> Pumped;
}

/// Who moves the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Whoever waits, by pumping again and again.
    Here,
    /// A thread of the log; pumping once may have spared a wait for it.
    Elsewhere,
}

type Listener = Arc<dyn Fn() + Send + Sync>;

/// How far the log is durable, and who wants to know.
pub(crate) struct Progress {
    durable: AtomicU64,
    stopped: OnceLock<Error>,
    waiting: AtomicUsize,
    mutex: Mutex<()>,
    moved: Condvar,
    listeners: RwLock<Vec<Listener>>,
    callbacks: Mutex<Vec<(Ticket, Callback)>>,
    pump: OnceLock<Weak<dyn Pump>>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}

impl Progress {
    pub(crate) fn new(durable: DurableLsn) -> Self {
        Progress {
            durable: AtomicU64::new(durable.end().as_u64()),
            stopped: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            mutex: Mutex::new(()),
            moved: Condvar::new(),
            listeners: RwLock::default(),
            callbacks: Mutex::default(),
            pump: OnceLock::new(),
        }
    }

    pub(crate) fn set_pump(&self, pump: Weak<dyn Pump>) {
        assert!(self.pump.set(pump).is_ok(), "a log is driven by one party");
    }

    pub(crate) fn durable(&self) -> DurableLsn {
        DurableLsn::proven(Lsn::from_u64(self.durable.load(Ordering::Acquire)))
    }

    pub(crate) fn stopped(&self) -> Option<Error> {
        self.stopped.get().cloned()
    }

    /// After a completed durable write.
    pub(crate) fn advance(&self, end: Lsn) {
        self.durable.store(end.as_u64(), Ordering::Release);
        self.notify();
    }

    /// After a failure, or when the log closes. The first reason stays.
    pub(crate) fn stop(&self, error: Error) {
        let _ = self.stopped.set(error);
        self.notify();
    }

    pub(crate) fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    fn notify(&self) {
        // Pairs with the increment in `wait`: either we see the waiter, or it sees our store.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let _ordered_with_waiters = self.mutex.lock();
            self.moved.notify_all();
        }
        for listener in self.listeners.read().iter() {
            listener();
        }
        self.call_back();
    }

    /// Calls whoever waits for a ticket that is settled.
    fn call_back(&self) {
        let is_settled = |ticket: &Ticket| !matches!(ticket.state(), TicketState::Pending);
        let settled: Vec<_> = self
            .callbacks
            .lock()
            .extract_if(.., |(ticket, _)| is_settled(ticket))
            .collect();
        for (ticket, callback) in settled {
            callback(ticket.state());
        }
    }

    /// Blocks until `check` gives a result, looking again after each change.
    pub(crate) fn wait<T>(&self, check: impl Fn() -> Option<T>) -> T {
        if let Some(result) = check() {
            return result;
        }
        if let Some(pump) = self.pump.get().and_then(Weak::upgrade) {
            loop {
                let pumped = pump.pump();
                if let Some(result) = check() {
                    return result;
                }
                if pumped == Pumped::Elsewhere {
                    break;
                }
                assert!(self.stopped().is_none(), "a stop settles every ticket");
            }
        }
        let mut guard = self.mutex.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            if let Some(result) = check() {
                break result;
            }
            self.moved.wait(&mut guard);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Blocks until everything before `lsn` is durable.
    pub(crate) fn wait_for(&self, lsn: Lsn) -> Result<DurableLsn> {
        self.wait(|| {
            let stopped = self.stopped();
            let durable = self.durable();
            if durable.end() >= lsn {
                Some(Ok(durable))
            } else {
                stopped.map(Err)
            }
        })
    }
}
