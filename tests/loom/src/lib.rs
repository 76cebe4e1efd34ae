//! The runtime's signal between the committer and a shard, in all orders that the memory model allows.
//!
//! `src/signal.rs` is compiled here as it is, with loom's atomics. A lost wake-up is a deadlock, which loom
//! reports with the order that leads to it.

#![cfg(test)]

#[path = "../../../src/signal.rs"]
mod signal;

/// What the runtime's `src/sync.rs` has.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};

    /// A permit for one that waits, as tokio's is.
    #[derive(Debug)]
    pub(crate) struct Notify(loom::sync::Notify);

    impl Default for Notify {
        fn default() -> Self {
            Notify(loom::sync::Notify::new())
        }
    }

    impl Notify {
        pub(crate) fn notify_one(&self) {
            self.0.notify();
        }

        pub(crate) fn wait(&self) {
            self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::thread;

    use crate::signal::Signal;

    /// A shard has an output for each of these commits, one after the other; the committer makes them durable.
    fn every_output_leaves(commits: u64) {
        loom::model(move || {
            let (signal, durable) = (Arc::new(Signal::default()), Arc::new(AtomicU64::new(0)));
            let committer = thread::spawn({
                let (signal, durable) = (signal.clone(), durable.clone());
                move || {
                    for commit in 1..=commits {
                        durable.store(commit, Ordering::Release);
                        signal.log_moved();
                    }
                }
            });
            for commit in 1..=commits {
                signal.expect();
                while durable.load(Ordering::Acquire) < commit {
                    signal.moved.wait();
                }
                signal.rest();
            }
            committer.join().expect("it does not panic");
        });
    }

    #[test]
    fn a_shard_that_waits_for_a_commit_is_woken() {
        every_output_leaves(1);
    }

    #[test]
    fn a_shard_that_has_rested_is_woken_again() {
        every_output_leaves(2);
    }
}
