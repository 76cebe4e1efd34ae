//! Who may run in an object: one handler alone, or several that share it. First come, first served.
//!
//! Single-threaded: an object and everything that runs in it live on one shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::oneshot;

/// How a handler has the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With others that share it.
    Shared,
    /// Alone.
    Exclusive,
}

#[derive(Debug, Default)]
pub(crate) struct Lock {
    /// Sharers, or -1 for one that is alone.
    holders: Cell<isize>,
    waiting: RefCell<VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    mode: Mode,
    grant: oneshot::Sender<Access>,
}

/// The right to run, given back when dropped.
#[derive(Debug)]
pub(crate) struct Access {
    lock: Rc<Lock>,
    mode: Mode,
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct Request(Result<Access, oneshot::Receiver<Access>>);

impl Request {
    /// Waits for one's turn.
    pub(crate) async fn granted(self) -> Access {
        match self.0 {
            Ok(access) => access,
            Err(grant) => grant
                .await
                .expect("the lock lives while somebody waits for it"),
        }
    }
}

impl Request {
    /// Whether one has to wait.
    pub(crate) fn waits(&self) -> bool {
        self.0.is_err()
    }
}

impl Lock {
    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Queues for access; the order of these calls is the order of the grants. `barge` skips the
    /// queue: for a call whose caller shares the object already and waits for it.
    pub(crate) fn request(self: &Rc<Self>, mode: Mode, barge: bool) -> Request {
        let first = barge || self.waiting.borrow().is_empty();
        if first && self.admits(mode) {
            return Request(Ok(self.grant(mode)));
        }
        let (grant, granted) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiter { mode, grant });
        Request(Err(granted))
    }

    fn admits(&self, mode: Mode) -> bool {
        match mode {
            Mode::Shared => self.holders.get() >= 0,
            Mode::Exclusive => self.holders.get() == 0,
        }
    }

    fn grant(self: &Rc<Self>, mode: Mode) -> Access {
        let holders = self.holders.get();
        self.holders.set(if mode == Mode::Exclusive {
            -1
        } else {
            holders + 1
        });
        Access {
            lock: self.clone(),
            mode,
        }
    }

    fn grant_waiting(self: &Rc<Self>) {
        loop {
            let next = self.waiting.borrow().front().map(|waiter| waiter.mode);
            if !next.is_some_and(|mode| self.admits(mode)) {
                return;
            }
            let waiter = self.waiting.borrow_mut().pop_front().expect("it was there");
            // If nobody waits any more the access comes back and is dropped, which grants the next.
            let _gone = waiter.grant.send(self.grant(waiter.mode));
        }
    }
}

impl Access {
    /// Goes on sharing what one had alone.
    pub(crate) fn downgrade(&mut self) {
        if self.mode == Mode::Exclusive {
            self.mode = Mode::Shared;
            self.lock.holders.set(1);
            self.lock.grant_waiting();
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let holders = self.lock.holders.get();
        self.lock.holders.set(if self.mode == Mode::Exclusive {
            0
        } else {
            holders - 1
        });
        self.lock.grant_waiting();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(request: &mut Request) -> bool {
        match &mut request.0 {
            Ok(_) => true,
            Err(grant) => match grant.try_recv() {
                Ok(access) => {
                    request.0 = Ok(access);
                    true
                }
                Err(_) => false,
            },
        }
    }

    #[test]
    fn requests_are_granted_in_order_and_sharers_together() {
        let lock = Rc::new(Lock::default());
        let mut one = lock.request(Mode::Shared, false);
        let mut two = lock.request(Mode::Shared, false);
        let mut alone = lock.request(Mode::Exclusive, false);
        let mut late = lock.request(Mode::Shared, false);
        assert!(now(&mut one) && now(&mut two), "sharers run together");
        assert!(
            !now(&mut alone) && !now(&mut late),
            "a sharer does not overtake who waits to be alone"
        );
        let mut nested = lock.request(Mode::Shared, true);
        assert!(now(&mut nested), "but one whose caller shares already does");
        drop((one, two, nested));
        assert!(now(&mut alone) && !now(&mut late));
        drop(alone);
        assert!(now(&mut late));
    }

    #[test]
    fn who_gave_up_waiting_holds_up_nobody() {
        let lock = Rc::new(Lock::default());
        let mut alone = lock.request(Mode::Exclusive, false);
        assert!(now(&mut alone));
        let gone = lock.request(Mode::Exclusive, false);
        let mut next = lock.request(Mode::Shared, false);
        drop(gone);
        drop(alone);
        assert!(now(&mut next));
    }

    #[test]
    fn a_downgrade_lets_sharers_in() {
        let lock = Rc::new(Lock::default());
        let Request(Ok(mut access)) = lock.request(Mode::Exclusive, false) else {
            panic!("it is free")
        };
        let mut next = lock.request(Mode::Shared, false);
        assert!(!now(&mut next));
        access.downgrade();
        assert!(now(&mut next));
        let mut alone = lock.request(Mode::Exclusive, false);
        drop(access);
        assert!(!now(&mut alone));
        drop(next);
        assert!(now(&mut alone));
    }
}
