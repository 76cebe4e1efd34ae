//! The output gate: nothing that could reveal a write leaves before that write is durable.
//!
//! Every output carries the ticket of its object's last commit at the moment it was produced. A shard
//! appends its objects' commits one after the other, so its outputs become free in the order in which
//! they were queued: one queue a shard, drained when the log has moved.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dovehouse_engine::{Ticket, TicketState};
use tokio::sync::Notify;

/// Something that leaves an object: a reply, a call, a frame.
pub(crate) type Output = Box<dyn FnOnce()>;

/// Wakes a shard when the log has moved and it has outputs that wait.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    waiting: AtomicBool,
    notify: Notify,
}

impl Signal {
    /// Called by the committer's thread after every batch.
    pub(crate) fn log_moved(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }

    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}

pub(crate) struct Gate {
    pending: RefCell<VecDeque<(Ticket, Output)>>,
    /// The last commit that no output has to wait for, while it is under way.
    watched: RefCell<Option<Ticket>>,
    pub(crate) signal: Arc<Signal>,
}

impl Gate {
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Gate {
            pending: RefCell::default(),
            watched: RefCell::default(),
            signal,
        }
    }

    /// Lets an output go now if its ticket is redeemed, else later. `Err` says that the log stopped.
    pub(crate) fn submit(&self, ticket: Option<Ticket>, output: Output) -> Result<(), String> {
        match ticket {
            Some(ticket) if !ticket.is_durable() => {
                self.pending.borrow_mut().push_back((ticket, output));
                self.signal.waiting.store(true, Ordering::SeqCst);
                // The log may have moved before it saw that somebody waits.
                self.drain()
            }
            _ => {
                // What this object produced earlier goes first.
                let drained = self.drain();
                output();
                drained
            }
        }
    }

    /// Has a commit looked after that no output waits for. The last one is enough: a log that stops fails it.
    pub(crate) fn watch(&self, ticket: Ticket) -> Result<(), String> {
        *self.watched.borrow_mut() = Some(ticket);
        self.signal.waiting.store(true, Ordering::SeqCst);
        self.drain()
    }

    /// Whether everything is as it should be with the commit that is looked after, and whether it is over.
    fn look_after(&self) -> Result<bool, String> {
        let state = self.watched.borrow().as_ref().map(Ticket::state);
        match state {
            Some(TicketState::Pending) => return Ok(false),
            Some(TicketState::Unknown(error)) => {
                self.watched.take();
                self.pending.borrow_mut().clear();
                return Err(error.to_string());
            }
            Some(TicketState::Durable(_)) => drop(self.watched.take()),
            None => {}
        }
        Ok(true)
    }

    /// Lets everything go that became free. `Err` says that the log stopped: the outputs that waited
    /// are dropped, which their receivers notice.
    pub(crate) fn drain(&self) -> Result<(), String> {
        loop {
            let first = self
                .pending
                .borrow()
                .front()
                .map(|(ticket, _)| ticket.state());
            let Some(state) = first else {
                if self.look_after()? {
                    self.signal.waiting.store(false, Ordering::SeqCst);
                }
                return Ok(());
            };
            match state {
                TicketState::Pending => return Ok(()),
                TicketState::Durable(_) => {
                    let next = self.pending.borrow_mut().pop_front();
                    let (_, output) = next.expect("it was there");
                    output();
                }
                TicketState::Unknown(error) => {
                    self.pending.borrow_mut().clear();
                    return Err(error.to_string());
                }
            }
        }
    }
}
