//! How an object ends its own life early, or makes it last: `abort`, `wait_until`, `sync`.

use std::future::Future;
use std::pin::pin;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::core::{Chain, Leave};
use crate::ctx::Ctx;
use crate::error::{CallError, Error, Reply, Result};

/// How long a future that was given to `wait_until` may take.
const BACKGROUND_MS: u64 = 15 * 60 * 1000;

impl Ctx {
    /// Resets the object, now: what this turn wrote or said is undone, nothing that comes after this call is
    /// run, and all calls of the object end with [`CallError::Aborted`]. The next event wakes a fresh
    /// instance. In an alarm's handler the alarm is tried again later.
    pub fn abort(&self, reason: impl Into<String>) -> ! {
        self.core.stop(CallError::Aborted(reason.into()))
    }

    /// The same, and the alarm whose handler is running, if any, is not tried again. One that was set
    /// meanwhile stays.
    pub fn abort_without_retry(&self, reason: impl Into<String>) -> ! {
        self.core.abandon_alarm.set(true);
        self.abort(reason)
    }

    /// Goes on with `future` after the handler has returned, and whether its caller still listens or not.
    /// Until it ends, at most 15 minutes by the house's clock, the object stays awake. Its error is logged.
    ///
    /// It has no part in the instance. Its turns, with storage, come between those of handlers that share the
    /// object, and wait while one with `&mut self` is at work. Calls that it makes are nobody's who could be
    /// waited for.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// # async fn tell_others() -> Result<u32> { Ok(3) }
    /// # fn handler(ctx: &Ctx) {
    /// let mine = ctx.clone();
    /// ctx.wait_until(async move {
    ///     let told = tell_others().await?;
    ///     mine.kv().put_as("told", &told)
    /// });
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a shard's thread.
    pub fn wait_until<R: Reply + 'static>(&self, future: impl Future<Output = R> + 'static) {
        let core = self.core.clone();
        let handler = core.handler(Chain::default(), None, None);
        core.begin();
        spawn_local(async move {
            let limit = core.shard.upgrade().map(|shard| {
                let clock = &shard.clock;
                clock.sleep_until(clock.now_ms() + BACKGROUND_MS)
            });
            let future = pin!(future);
            let outcome = tokio::select! {
                outcome = core.run_beside(&handler, future) => {
                    outcome.and_then(|outcome| outcome.into_reply().map(drop))
                }
                () = async { match limit { Some(limit) => limit.await, None => std::future::pending().await } } => {
                    Err(CallError::TimedOut { limit_ms: BACKGROUND_MS })
                }
            };
            if let Err(error) = outcome {
                let class = core.address.class.name;
                tracing::warn!(object = %core.id(), class, "what it went on with failed: {error}");
            }
            core.finish();
        });
    }

    /// Waits until everything that the object has written so far is durable, unconfirmed writes too. Writes
    /// of a transaction that is open are not waited for.
    ///
    /// # Errors
    /// If they cannot be made durable the object is reset, so the handler ends here.
    pub async fn sync(&self) -> Result<()> {
        let (done, durable) = oneshot::channel();
        self.core.emit_as(
            Leave::All,
            Box::new(move || {
                let _nobody_may_listen = done.send(());
            }),
        );
        durable.await.map_err(|_| Error::OutsideTurn)
    }
}
