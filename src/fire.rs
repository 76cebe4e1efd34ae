//! The event of an alarm that fires, and what is done when its handler could not note how it ended.

use std::marker::PhantomData;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::access::Mode;
use crate::actor::Actor;
use crate::class::Address;
use crate::core::{Chain, Core};
use crate::error::CallError;
use crate::gate::Output;
use crate::object::Object;
use crate::scheduler::{Outcome, Place};
use crate::shard::{Event, Shard};

/// An alarm that fires.
pub(crate) struct Fire<T> {
    address: Address,
    cause: Cause,
    class: PhantomData<fn() -> T>,
}

/// Why it fires, and who hears how it ended.
enum Cause {
    /// It is due, as the scheduler has found at this place.
    Due(Place),
    /// A test wants it now. It hears whether there was one, and what the handler's error was.
    Asked(oneshot::Sender<Result<bool, CallError>>),
}

impl<T: Object> Fire<T> {
    pub(crate) fn event(address: Address, place: Place) -> Box<dyn Event> {
        Self::caused_by(Cause::Due(place), address)
    }

    /// The event for a test: the object's earliest alarm fires, due or not.
    pub(crate) fn asked(
        address: Address,
        reply: oneshot::Sender<Result<bool, CallError>>,
    ) -> Box<dyn Event> {
        Self::caused_by(Cause::Asked(reply), address)
    }

    fn caused_by(cause: Cause, address: Address) -> Box<dyn Event> {
        Box::new(Fire {
            address,
            cause,
            class: PhantomData::<fn() -> T>,
        })
    }
}

impl<T: Object> Event for Fire<T> {
    fn deliver(self: Box<Self>, shard: &Rc<Shard>) {
        let actor = shard.actor::<T>(&self.address);
        let place = actor.queue(Mode::Exclusive, &Chain::default());
        let place = place.expect("nobody waits for an alarm");
        actor.core.begin();
        self.address.class.meters.alarms.increment(1);
        let shard = shard.clone();
        spawn_local(async move {
            let until_ms = match &self.cause {
                Cause::Due(_) => shard.clock.now_ms(),
                Cause::Asked(_) => u64::MAX,
            };
            let fired = actor.fire(place, until_ms).await;
            actor.core.finish();
            let mut settled = actor.core.clone();
            let handled = match &fired {
                Ok(None) => Ok(false),
                Ok(Some(outcome)) => outcome.clone().map(|()| true),
                Err(error) => Err(error.clone()),
            };
            let outcome = match fired {
                Ok(_) => Outcome::Noted,
                // The store failed, not the handler.
                Err(CallError::Reset(_) | CallError::StorageTimeout { .. }) => Outcome::Unnoted,
                Err(_) if actor.core.broken().is_none() => Outcome::Unnoted,
                Err(_) => {
                    let (core, outcome) = put_off::<T>(&shard, &self.address, &actor.core).await;
                    settled = core;
                    outcome
                }
            };
            let tell: Output = match self.cause {
                Cause::Asked(reply) => Box::new(move || drop(reply.send(handled))),
                Cause::Due(place) => {
                    let end = End {
                        shard,
                        place,
                        outcome: Outcome::Unnoted,
                    };
                    Box::new(move || end.with(outcome))
                }
            };
            settled.emit(tell);
        });
    }
}

/// Tells the scheduler how an alarm ended, when dropped: also if the object is reset before it may be told.
struct End {
    shard: Rc<Shard>,
    place: Place,
    outcome: Outcome,
}

impl End {
    fn with(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let shard = &self.shard;
        if let Some(house) = shard.house.upgrade() {
            let (now_ms, random) = (shard.clock.now_ms(), shard.engine.random_u64());
            house.alarms.done(self.place, self.outcome, now_ms, random);
        }
    }
}

/// The alarm's handler had the object reset, so that it could not note the failure itself.
async fn put_off<T: Object>(
    shard: &Rc<Shard>,
    address: &Address,
    broken: &Core,
) -> (Rc<Core>, Outcome) {
    let actor: Rc<Actor<T>> = shard.actor(address);
    let place = actor
        .queue(Mode::Exclusive, &Chain::default())
        .expect("nobody waits for an alarm");
    let running = broken.alarm_running.take();
    actor.core.begin();
    let put_off = actor
        .put_off_alarm(place, running, broken.abandon_alarm.get())
        .await;
    actor.core.finish();
    let outcome = match put_off {
        Ok(()) => Outcome::Noted,
        Err(error) => {
            tracing::error!(object = %address.id, class = T::CLASS, "its alarm cannot be put off: {error}");
            Outcome::Unnoted
        }
    };
    (actor.core.clone(), outcome)
}
