//! The life of objects as their users see it: names, alarms, classes that come and go, and locations.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

mod alarms;
mod examples;
mod identity;
mod lifecycle;
mod locations;

use std::sync::Arc;

use dovehouse::engine::wal::sim::SimFs;
use dovehouse::{Builder, Dovehouse, TestClock};

const START_MS: u64 = 1_700_000_000_000;

/// A house on a simulated disk, with a clock that stands still.
struct Setup {
    disk: SimFs,
    clock: TestClock,
}

impl Setup {
    fn new(seed: u64) -> Self {
        Setup {
            disk: SimFs::new(seed),
            clock: TestClock::new(START_MS),
        }
    }

    fn builder(&self) -> Builder {
        let builder = Dovehouse::builder("store")
            .fs(Arc::new(self.disk.clone()))
            .clock(self.clock.clone());
        builder.segment_bytes(1 << 20).shards(2)
    }

    fn open(&self) -> Dovehouse {
        self.builder().open().unwrap()
    }

    /// The disk as a power cut leaves it, for another house.
    fn after_power_loss(&self) -> Setup {
        Setup {
            disk: self.disk.power_loss(),
            clock: self.clock.clone(),
        }
    }
}

/// Waits for what another thread is about to do. Ends with the test's own time limit.
async fn eventually(mut check: impl AsyncFnMut() -> bool) {
    while !check().await {
        tokio::task::yield_now().await;
    }
}
