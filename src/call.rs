//! Calls on their way to an object.

use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tracing::Instrument;

use crate::access::Mode;
use crate::actor::{Actor, Place};
use crate::class::Address;
use crate::core::{Chain, Core};
use crate::error::CallError;
use crate::object::Object;
use crate::shard::{Event, Shard};

/// What the clones of a stub share: whether one of its calls was lost by a reset.
#[derive(Debug, Default)]
pub(crate) struct Link {
    broken: OnceLock<CallError>,
    /// The awake object that has calls of this stub, and how many. Its shard alone writes them.
    incarnation: AtomicU64,
    under_way: AtomicUsize,
}

impl Link {
    pub(crate) fn broken(&self) -> Option<CallError> {
        self.broken.get().cloned()
    }

    /// A call comes to this awake object. Fails if one that was made before is lost, or about to be.
    fn enter(&self, core: &Core) -> Result<(), CallError> {
        let before = self.incarnation.swap(core.incarnation, Ordering::Relaxed);
        if before != core.incarnation && self.under_way.load(Ordering::Relaxed) > 0 {
            let error = CallError::Reset("an earlier call of this stub was lost".into());
            self.broken.get_or_init(|| error);
        }
        self.broken().map_or(Ok(()), Err)
    }

    /// The reply of a call was lost.
    pub(crate) fn lose(&self, error: CallError) -> CallError {
        self.broken.get_or_init(|| error).clone()
    }

    /// A call has ended, maybe with an error.
    fn leave(&self, core: &Core, error: Option<&CallError>) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if let Some(broken) = core.broken() {
            self.broken.get_or_init(|| error.cloned().unwrap_or(broken));
        }
    }
}

/// A call on its way.
pub(crate) struct Call<T, R, F> {
    pub(crate) address: Address,
    pub(crate) link: Arc<Link>,
    pub(crate) mode: Mode,
    pub(crate) method: &'static str,
    pub(crate) chain: Chain,
    pub(crate) run: F,
    pub(crate) reply: oneshot::Sender<Result<R, CallError>>,
    pub(crate) class: PhantomData<fn() -> T>,
}

impl<T, R, F> Event for Call<T, R, F>
where
    T: Object,
    R: Send + 'static,
    F: AsyncFnOnce(&Actor<T>, Place) -> Result<R, CallError> + Send + 'static,
{
    fn deliver(self: Box<Self>, shard: &Rc<Shard>) {
        let Call {
            address,
            link,
            mode,
            method,
            chain,
            run,
            mut reply,
            ..
        } = *self;
        if reply.is_closed() {
            return; // Nobody waits for it any more.
        }
        let actor = shard.actor::<T>(&address);
        let queue = || {
            link.enter(&actor.core)?;
            shard.check_load(&actor.core)?;
            actor.queue(mode, &chain)
        };
        let place = match queue() {
            Ok(place) => place,
            Err(error) => {
                address.class.meters.failed(&error);
                return drop(reply.send(Err(error)));
            }
        };
        link.under_way.fetch_add(1, Ordering::Relaxed);
        address.class.meters.calls.increment(1);
        actor.core.begin();
        let span = tracing::debug_span!(
            "dovehouse.call",
            class = T::CLASS,
            object = %address.id,
            method
        );
        let handle = async move {
            let result = until_closed(&mut reply, pin!(run(&actor, place))).await;
            link.leave(
                &actor.core,
                result.as_ref().and_then(|result| result.as_ref().err()),
            );
            // Before the answer leaves: whoever has it finds the object idle.
            actor.core.finish();
            match result {
                Some(result) => {
                    if let Err(error) = &result {
                        address.class.meters.failed(error);
                    }
                    let (core, reply) = (actor.core.clone(), Some(reply));
                    let answer = Answer { reply, core, link };
                    actor.core.emit(Box::new(move || answer.leave(result)));
                }
                None => address.class.meters.canceled.increment(1),
            }
        };
        spawn_local(handle.instrument(span));
    }
}

/// The way of a call's answer to its caller, who is told if the object is reset before the answer may leave.
struct Answer<R> {
    reply: Option<oneshot::Sender<Result<R, CallError>>>,
    core: Rc<Core>,
    link: Arc<Link>,
}

impl<R> Answer<R> {
    fn leave(mut self, result: Result<R, CallError>) {
        if let Some(reply) = self.reply.take() {
            let _gone = reply.send(result);
        }
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take()
            && let Some(error) = self.core.broken()
        {
            let _gone = reply.send(Err(self.link.lose(error)));
        }
    }
}

/// Runs a call until it ends, or its caller goes away.
async fn until_closed<R, V>(
    reply: &mut oneshot::Sender<R>,
    mut run: Pin<&mut impl Future<Output = V>>,
) -> Option<V> {
    poll_fn(|context| {
        // Looked at first: a caller's going wakes its call, which then may have lost its place in the order.
        if reply.is_closed() {
            return Poll::Ready(None);
        }
        match run.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => reply.poll_closed(context).map(|()| None),
        }
    })
    .await
}
