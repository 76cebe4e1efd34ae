//! The output gate: nothing that could reveal a write leaves before that write is durable.
//!
//! Every output carries the ticket of its object's last commit at the moment it was produced. A shard
//! appends its objects' commits one after the other, so its outputs become free in the order in which
//! they were queued: one queue a shard, drained when the log has moved.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use dovehouse_engine::{Ticket, TicketState};

use crate::signal::Signal;

/// Something that leaves an object: a reply, a call, a frame.
pub(crate) type Output = Box<dyn FnOnce()>;

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
                self.signal.expect();
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
        self.signal.expect();
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
                    self.signal.rest();
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
