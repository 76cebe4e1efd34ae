//! The event of an alarm that is due, and what is done when its handler could not note how it ended.

use std::marker::PhantomData;
use std::rc::Rc;

use tokio::task::spawn_local;

use crate::access::Mode;
use crate::actor::Actor;
use crate::class::Address;
use crate::core::{Chain, Core};
use crate::error::CallError;
use crate::object::Object;
use crate::scheduler::{Outcome, Place};
use crate::shard::{Event, Shard};

/// An alarm that is due.
pub(crate) struct Fire<T> {
    address: Address,
    place: Place,
    class: PhantomData<fn() -> T>,
}

impl<T: Object> Fire<T> {
    pub(crate) fn event(address: Address, place: Place) -> Box<dyn Event> {
        Box::new(Fire {
            address,
            place,
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
            let fired = actor.fire(place).await;
            actor.core.finish();
            let mut settled = actor.core.clone();
            let outcome = match fired {
                Ok(()) => Outcome::Noted,
                // The store failed, not the handler.
                Err(CallError::Reset(_)) => Outcome::Unnoted,
                Err(_) if actor.core.broken().is_none() => Outcome::Unnoted,
                Err(_) => {
                    let (core, outcome) = put_off::<T>(&shard, &self.address, &actor.core).await;
                    settled = core;
                    outcome
                }
            };
            let (house, place) = (shard.house.clone(), self.place);
            settled.emit(Box::new(move || {
                if let Some(house) = house.upgrade() {
                    let (now_ms, random) = (shard.clock.now_ms(), shard.engine.random_u64());
                    house.alarms.done(place, outcome, now_ms, random);
                }
            }));
        });
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
