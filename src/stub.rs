//! Stubs: handles to objects, for everybody.

use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::access::Mode;
use crate::actor::{Actor, Place};
use crate::core::{Chain, current};
use crate::ctx::Ctx;
use crate::error::CallError;
use crate::house::{Address, Inner};
use crate::id::ObjectId;
use crate::object::Object;
use crate::shard::{Event, Shard};

/// A handle to one object, wherever it is and whether it is awake or not. Cheap to clone, and usable
/// from any thread.
///
/// Calls through one stub arrive in the order in which they were made. A call that a handler of another
/// object makes leaves that object when its writes so far are durable, as everything does.
pub struct Stub<T> {
    pub(crate) house: Arc<Inner>,
    pub(crate) address: Address,
    class: PhantomData<fn() -> T>,
}

impl<T> Clone for Stub<T> {
    fn clone(&self) -> Self {
        Stub {
            house: self.house.clone(),
            address: self.address.clone(),
            class: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Stub<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.address.class.name, self.address.id)
    }
}

impl<T: Object> Stub<T> {
    pub(crate) fn new(house: Arc<Inner>, address: Address) -> Self {
        Stub {
            house,
            address,
            class: PhantomData,
        }
    }

    /// The object's id.
    pub fn id(&self) -> &ObjectId {
        &self.address.id
    }

    /// Runs `handler` in the object, alone. [`#[dovehouse::object]`](crate::object) makes methods of
    /// this.
    pub async fn call_exclusive<R: Send + 'static>(
        &self,
        handler: impl AsyncFnOnce(&mut T, &Ctx) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        self.call(Mode::Exclusive, async move |actor: &Actor<T>, place| {
            actor.exclusive(place, handler).await
        })
        .await
    }

    /// Runs `handler` in the object; other handlers that share it may run where it awaits.
    pub async fn call_shared<R: Send + 'static>(
        &self,
        handler: impl AsyncFnOnce(&T, &Ctx) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        self.call(Mode::Shared, async move |actor: &Actor<T>, place| {
            actor.shared(place, handler).await
        })
        .await
    }

    async fn call<R: Send + 'static>(
        &self,
        mode: Mode,
        run: impl AsyncFnOnce(&Actor<T>, Place) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        // The caller's turn stays on its thread; the answer can be waited for anywhere.
        let answer = self.send(mode, run)?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.house.lost_reply()))
    }

    fn send<R: Send + 'static>(
        &self,
        mode: Mode,
        run: impl AsyncFnOnce(&Actor<T>, Place) -> Result<R, CallError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<R, CallError>>, CallError> {
        let (reply, answer) = oneshot::channel();
        let caller = current();
        let chain = caller
            .as_ref()
            .map_or_else(Chain::default, |caller| caller.chain.clone());
        let address = self.address.clone();
        let call = Call {
            address,
            mode,
            chain,
            run,
            reply,
            class: PhantomData::<fn() -> T>,
        };
        match caller {
            // From inside an object: the call is one of its outputs.
            Some(caller) => {
                let (house, address) = (self.house.clone(), self.address.clone());
                caller
                    .core
                    .emit(Box::new(move || drop(house.send(&address, Box::new(call)))));
            }
            None => self.house.send(&self.address, Box::new(call))?,
        }
        Ok(answer)
    }
}

/// A call on its way.
struct Call<T, R, F> {
    address: Address,
    mode: Mode,
    chain: Chain,
    run: F,
    reply: oneshot::Sender<Result<R, CallError>>,
    class: PhantomData<fn() -> T>,
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
            mode,
            chain,
            run,
            reply,
            ..
        } = *self;
        let actor = shard.actor::<T>(&address);
        let place = match actor.queue(mode, &chain) {
            Ok(place) => place,
            Err(error) => return drop(reply.send(Err(error))),
        };
        actor.core.begin();
        spawn_local(async move {
            let result = run(&actor, place).await;
            // A caller that has gone away does not want it.
            actor.core.emit(Box::new(move || drop(reply.send(result))));
            actor.core.finish();
        });
    }
}

/// An alarm that is due.
pub(crate) struct Fire<T> {
    pub(crate) address: Address,
    class: PhantomData<fn() -> T>,
}

impl<T: Object> Fire<T> {
    pub(crate) fn event(address: Address) -> Box<dyn Event> {
        Box::new(Fire {
            address,
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
        let shard = shard.clone();
        spawn_local(async move {
            let outcome = actor.fire(place).await;
            if outcome.is_err() && actor.core.broken().is_some() {
                put_off::<T>(&shard, &self.address).await;
            }
            actor.core.finish();
            let (house, id) = (shard.house.clone(), self.address.id.raw());
            actor.core.emit(Box::new(move || {
                if let Some(house) = house.upgrade() {
                    house.alarms.done(id);
                }
            }));
        });
    }
}

/// The alarm's handler had the object reset, so that it could not note the failure itself.
async fn put_off<T: Object>(shard: &Rc<Shard>, address: &Address) {
    let actor = shard.actor::<T>(address);
    let place = actor
        .queue(Mode::Exclusive, &Chain::default())
        .expect("nobody waits for an alarm");
    actor.core.begin();
    if let Err(error) = actor.put_off_alarm(place).await {
        tracing::error!(object = %address.id, class = T::CLASS, "its alarm cannot be put off: {error}");
    }
    actor.core.finish();
}
