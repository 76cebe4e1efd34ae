//! The runtime's clock: the system's, or one that tests move.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Wall time in milliseconds since 1970, and waiting for it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now.
    fn now_ms(&self) -> u64;

    /// Waits until the time has come; at once if it has.
    fn sleep_until(&self, ms: u64) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A wait is cut into pieces, so that a step of the wall clock is noticed.
const WAIT_MAX: Duration = Duration::from_secs(60);

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |elapsed| elapsed.as_millis() as u64)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn sleep_until(&self, ms: u64) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            loop {
                let left = ms.saturating_sub(SystemClock.now_ms());
                if left == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(left).min(WAIT_MAX)).await;
            }
        })
    }
}

/// A clock that stands still until it is moved. Clones are the same clock.
///
/// ```
/// use dovehouse::{Clock, TestClock};
/// let clock = TestClock::new(1_700_000_000_000);
/// clock.advance(5_000);
/// assert_eq!(clock.now_ms(), 1_700_000_005_000);
/// ```
#[derive(Clone, Debug)]
pub struct TestClock {
    now: Arc<watch::Sender<u64>>,
}

impl TestClock {
    /// A clock that shows this time.
    pub fn new(now_ms: u64) -> Self {
        TestClock {
            now: Arc::new(watch::Sender::new(now_ms)),
        }
    }

    /// Moves the clock forward and wakes whoever waited for that.
    pub fn advance(&self, ms: u64) {
        self.now.send_modify(|now| *now += ms);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        *self.now.borrow()
    }

    fn sleep_until(&self, ms: u64) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            // The clock is gone only together with its house.
            let _ = now.wait_for(|now| *now >= ms).await;
        })
    }
}
