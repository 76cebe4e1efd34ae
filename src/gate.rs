//! The output gate: nothing that could reveal a write leaves before that write is durable.
//!
//! Every output carries the ticket of its object's last commit at the moment it was produced. A shard
//! appends its objects' commits one after the other, so its outputs become free in the order in which
//! they were queued: one queue a shard, drained when the log has moved.
//!
//! A disk that takes too long is noticed by looking at the queue now and then: what was there at a look and still
//! waits half a minute later is late. Its object is reset, and whoever waits for it is told. Time is that of the
//! log's files, which no step of the wall clock moves.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use dovehouse_engine::{Ticket, TicketState};

use crate::core::Core;
use crate::signal::Signal;

/// Something that leaves an object: a reply, a call, a frame.
pub(crate) type Output = Box<dyn FnOnce()>;

/// What waits for longer is late.
pub(crate) const LATE_MS: u64 = 30_000;

pub(crate) struct Gate {
    pending: RefCell<VecDeque<Pending>>,
    /// How many outputs have left the queue.
    gone: Cell<u64>,
    looks: RefCell<VecDeque<Look>>,
    /// The last commit of objects that were reset because they were late, while it is under way.
    late: RefCell<Option<Ticket>>,
    /// The last commit that no output has to wait for, while it is under way.
    watched: RefCell<Option<Ticket>>,
    pub(crate) signal: Arc<Signal>,
}

struct Pending {
    ticket: Ticket,
    core: Rc<Core>,
    /// `None` if the object was reset because it was late.
    output: Option<Output>,
}

/// How the queue was found.
struct Look {
    /// How many outputs had come so far.
    queued: u64,
    at_us: u64,
}

impl Gate {
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Gate {
            pending: RefCell::default(),
            gone: Cell::new(0),
            looks: RefCell::default(),
            late: RefCell::default(),
            watched: RefCell::default(),
            signal,
        }
    }

    /// Lets an object's output go now if its ticket is redeemed, else later. `Err` says that the log stopped.
    pub(crate) fn submit(
        &self,
        core: &Rc<Core>,
        ticket: Option<Ticket>,
        output: Output,
    ) -> Result<(), String> {
        match ticket {
            Some(ticket) if !ticket.is_durable() => {
                self.pending.borrow_mut().push_back(Pending {
                    ticket,
                    core: core.clone(),
                    output: Some(output),
                });
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

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.borrow().is_empty()
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
                self.drop_all();
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
                .map(|pending| pending.ticket.state());
            let Some(state) = first else {
                // Of those that were late somebody has to hear when the log moves.
                if self.look_after()? && self.late.borrow().is_none() {
                    self.signal.rest();
                }
                return Ok(());
            };
            match state {
                TicketState::Pending => return Ok(()),
                TicketState::Durable(_) => {
                    let next = self.pending.borrow_mut().pop_front();
                    self.gone.update(|gone| gone + 1);
                    if let Some(output) = next.expect("it was there").output {
                        output();
                    }
                }
                TicketState::Unknown(error) => {
                    self.drop_all();
                    return Err(error.to_string());
                }
            }
        }
    }

    fn drop_all(&self) {
        let dropped = self.pending.take();
        self.gone.update(|gone| gone + dropped.len() as u64);
    }

    /// Looks at the queue. Returns the objects that have waited for too long, for whoever resets them and
    /// [gives them up](Gate::give_up).
    pub(crate) fn look(&self, now_us: u64) -> Vec<Rc<Core>> {
        let gone = self.gone.get();
        let mut looks = self.looks.borrow_mut();
        while looks.front().is_some_and(|look| look.queued <= gone) {
            looks.pop_front();
        }
        let pending = self.pending.borrow();
        let queued = gone + pending.len() as u64;
        let is_known = looks.back().is_some_and(|look| look.queued == queued);
        if queued > gone && !is_known {
            let at_us = now_us;
            looks.push_back(Look { queued, at_us });
        }
        let is_old = |look: &&Look| now_us.saturating_sub(look.at_us) >= LATE_MS * 1000;
        let late = looks.iter().take_while(is_old).last();
        let count = late.map_or(0, |look| look.queued - gone);
        let late = pending.iter().take(count as usize);
        let waiting = late.filter(|pending| pending.output.is_some());
        waiting.map(|pending| pending.core.clone()).collect()
    }

    /// Drops what an object wanted to say, wherever it stands in the queue.
    pub(crate) fn give_up(&self, core: &Rc<Core>) {
        let mut pending = self.pending.borrow_mut();
        let last = pending.back().map(|last| last.ticket.clone());
        let its = pending
            .iter_mut()
            .filter(|pending| Rc::ptr_eq(&pending.core, core));
        let dropped: Vec<Output> = its.filter_map(|pending| pending.output.take()).collect();
        drop(pending);
        drop(dropped);
        *self.late.borrow_mut() = last;
    }

    /// Whether commits are over of objects that were given up.
    pub(crate) fn late_is_over(&self) -> bool {
        let mut late = self.late.borrow_mut();
        let is_over = |ticket: &mut Ticket| !matches!(ticket.state(), TicketState::Pending);
        late.take_if(is_over).is_some()
    }
}
