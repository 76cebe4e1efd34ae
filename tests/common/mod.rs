//! A house for tests: on a simulated disk, with a clock that tests move.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::sync::Arc;

use dovehouse::engine::wal::sim::SimFs;
use dovehouse::{Builder, Dovehouse, TestClock};

pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// A house on a simulated disk, with a clock that stands still.
pub(crate) struct Setup {
    pub(crate) disk: SimFs,
    pub(crate) clock: TestClock,
}

impl Setup {
    pub(crate) fn new(seed: u64) -> Self {
        Setup {
            disk: SimFs::new(seed),
            clock: TestClock::new(START_MS),
        }
    }

    pub(crate) fn builder(&self) -> Builder {
        let builder = Dovehouse::builder("store")
            .fs(Arc::new(self.disk.clone()))
            .clock(self.clock.clone());
        builder.segment_bytes(1 << 20).shards(2)
    }

    pub(crate) fn open(&self) -> Dovehouse {
        self.builder().open().unwrap()
    }

    /// The disk as a power cut leaves it, for another house.
    pub(crate) fn after_power_loss(&self) -> Setup {
        Setup {
            disk: self.disk.power_loss(),
            clock: self.clock.clone(),
        }
    }
}

/// Waits for what another thread is about to do. Ends with the test's own time limit.
pub(crate) async fn eventually(mut check: impl AsyncFnMut() -> bool) {
    while !check().await {
        tokio::task::yield_now().await;
    }
}
