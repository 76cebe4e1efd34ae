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
    last_number: Cell<u64>,
}

#[derive(Debug)]
struct Waiter {
    /// Ascending along the queue.
    number: u64,
    mode: Mode,
    grant: oneshot::Sender<Access>,
}

/// The right to run, given back when dropped.
#[derive(Debug)]
pub(crate) struct Access {
    lock: Rc<Lock>,
    mode: Mode,
}

/// What was asked for: it is there, or there is a place in the queue.
#[derive(Debug)]
pub(crate) struct Request(Result<Access, Waiting>);

/// A place in the queue, given up when dropped: whoever goes away holds up nobody, and does not count.
#[derive(Debug)]
struct Waiting {
    lock: Rc<Lock>,
    number: u64,
    grant: oneshot::Receiver<Access>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lock.leave(self.number);
    }
}

impl Request {
    /// Waits for one's turn.
    pub(crate) async fn granted(self) -> Access {
        match self.0 {
            Ok(access) => access,
            Err(mut waiting) => {
                let granted = (&mut waiting.grant).await;
                granted.expect("the lock grants before it forgets")
            }
        }
    }

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
        let (sender, grant) = oneshot::channel();
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        self.waiting.borrow_mut().push_back(Waiter {
            number,
            mode,
            grant: sender,
        });
        let lock = self.clone();
        Request(Err(Waiting {
            lock,
            number,
            grant,
        }))
    }

    /// Takes a place out of the queue, if it is still there.
    fn leave(self: &Rc<Self>, number: u64) {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.binary_search_by_key(&number, |waiter| waiter.number);
        if let Ok(place) = place {
            waiting.remove(place);
            drop(waiting);
            // It may have been all that held up those behind it.
            self.grant_waiting();
        }
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
            let sent = waiter.grant.send(self.grant(waiter.mode));
            sent.expect("who does not wait any more has left the queue");
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
            Err(waiting) => match waiting.grant.try_recv() {
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
    fn who_gave_up_waiting_holds_up_nobody_and_does_not_count() {
        let lock = Rc::new(Lock::default());
        let mut alone = lock.request(Mode::Exclusive, false);
        assert!(now(&mut alone));
        let gone = lock.request(Mode::Exclusive, false);
        let mut next = lock.request(Mode::Shared, false);
        assert_eq!(lock.waiting(), 2);
        drop(gone);
        assert_eq!(lock.waiting(), 1);
        drop(alone);
        assert!(now(&mut next));
        let gone = lock.request(Mode::Exclusive, false);
        let mut behind = lock.request(Mode::Shared, false);
        assert!(!now(&mut behind));
        drop(gone);
        assert!(now(&mut behind), "nobody waits to be alone any more");
        // Whoever goes away with the access in hand gives it back.
        let granted = lock.request(Mode::Exclusive, false);
        let mut last = lock.request(Mode::Exclusive, false);
        drop((next, behind));
        assert!(!now(&mut last));
        drop(granted);
        assert!(now(&mut last));
    }

    #[test]
    fn whatever_comes_and_goes_those_who_came_first_run_as_soon_as_they_may() {
        let mut rng = fastrand::Rng::with_seed(17);
        let lock = Rc::new(Lock::default());
        let mut requests: Vec<(Mode, Request)> = Vec::new();
        for _ in 0..20_000 {
            if requests.len() < 12 && rng.bool() {
                let mode = [Mode::Shared, Mode::Exclusive][rng.usize(..2)];
                requests.push((mode, lock.request(mode, false)));
            } else if !requests.is_empty() {
                requests.remove(rng.usize(..requests.len()));
            }
            let running = requests
                .iter_mut()
                .filter_map(|(_, request)| now(request).then_some(()));
            let running = running.count();
            let first = &mut requests[..running];
            assert!(
                first.iter_mut().all(|(_, request)| now(request)),
                "nobody overtakes"
            );
            let is_alone = first.iter().any(|(mode, _)| *mode == Mode::Exclusive);
            assert!(!is_alone || running == 1);
            assert_eq!(lock.waiting(), requests.len() - running);
            if let Some((mode, _)) = requests.get(running) {
                let may_not = is_alone || (*mode == Mode::Exclusive && running > 0);
                assert!(may_not, "nobody waits in vain");
            }
        }
    }
}
