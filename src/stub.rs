//! Stubs: handles to objects, for everybody.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::oneshot;

use crate::access::Mode;
use crate::actor::{Actor, Place};
use crate::call::{Call, Link};
use crate::class::Address;
use crate::core::{Chain, Leave, current};
use crate::ctx::Ctx;
use crate::error::CallError;
use crate::house::Inner;
use crate::id::ObjectId;
use crate::object::Object;
use crate::transfer::{refuse_to_read, refuse_to_write};

/// A handle to one object, wherever it is and whether it is awake or not. Cheap to clone, and usable
/// from any thread.
///
/// A call is made when its future is first polled. Calls through one stub arrive in the order in which they
/// were made. A call that a handler of another object makes leaves that object when its writes so far are
/// durable, as everything does.
///
/// **Dropping a call's future cancels the call**: if it has not begun it never does, else its handler ends at
/// its next await. What it wrote before that is kept. Work that must go on belongs into
/// [`Ctx::wait_until`](crate::Ctx::wait_until).
///
/// **After a reset** of the object that cost a call of this stub, the stub and its clones fail with the same
/// error: no later call overtakes the lost one. [`Stub::fresh`] reaches the object again.
pub struct Stub<T> {
    pub(crate) house: Arc<Inner>,
    pub(crate) address: Address,
    link: Arc<Link>,
    class: PhantomData<fn() -> T>,
}

impl<T> Clone for Stub<T> {
    fn clone(&self) -> Self {
        Stub {
            house: self.house.clone(),
            address: self.address.clone(),
            link: self.link.clone(),
            class: PhantomData,
        }
    }
}

/// What the stubs that [`#[dovehouse::object]`](crate::object) makes are, too.
impl<T> AsRef<Stub<T>> for Stub<T> {
    fn as_ref(&self) -> &Stub<T> {
        self
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
            link: Arc::default(),
            class: PhantomData,
        }
    }

    /// The object's id.
    pub fn id(&self) -> &ObjectId {
        &self.address.id
    }

    /// Another stub of the same object, which does not share the failures of this one, and whose calls are
    /// in no order with those of this one.
    pub fn fresh(&self) -> Self {
        Stub::new(self.house.clone(), self.address.clone())
    }

    /// Runs `handler` in the object, alone. [`#[dovehouse::object]`](crate::object) makes methods of
    /// this; `method` is what traces call it.
    pub async fn call_exclusive<R: Send + 'static>(
        &self,
        method: &'static str,
        handler: impl AsyncFnOnce(&mut T, &Ctx) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        let run = async move |actor: &Actor<T>, place| actor.exclusive(place, handler).await;
        self.call(Mode::Exclusive, method, run).await
    }

    /// Runs `handler` in the object; other handlers that share it may run where it awaits.
    pub async fn call_shared<R: Send + 'static>(
        &self,
        method: &'static str,
        handler: impl AsyncFnOnce(&T, &Ctx) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        let run = async move |actor: &Actor<T>, place| actor.shared(place, handler).await;
        self.call(Mode::Shared, method, run).await
    }

    /// Runs `run` with the object's actor, in its turn.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        mode: Mode,
        method: &'static str,
        run: impl AsyncFnOnce(&Actor<T>, Place) -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, CallError> {
        // The caller's turn stays on its thread; the answer can be waited for anywhere.
        let answer = self.send(mode, method, run)?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.link.lose(self.house.lost_reply())))
    }

    fn send<R: Send + 'static>(
        &self,
        mode: Mode,
        method: &'static str,
        run: impl AsyncFnOnce(&Actor<T>, Place) -> Result<R, CallError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<R, CallError>>, CallError> {
        if self.address.is_foreign {
            return Err(CallError::ForeignId);
        }
        if let Some(error) = self.link.broken() {
            return Err(error);
        }
        let (reply, answer) = oneshot::channel();
        let caller = current();
        let chain = caller
            .as_ref()
            .map_or_else(Chain::default, |caller| caller.chain());
        let call = Box::new(Call {
            address: self.address.clone(),
            link: self.link.clone(),
            mode,
            method,
            chain,
            run,
            reply,
            class: PhantomData::<fn() -> T>,
        });
        match caller {
            // From inside an object: the call is one of its outputs.
            Some(caller) => {
                let (house, shard) = (self.house.clone(), caller.core.shard.clone());
                let to = self.address.id.raw();
                let leave = move || drop(house.send_from(&shard, to, call));
                caller.core.emit_as(Leave::AtOnce, Box::new(leave));
            }
            None => self.house.send(&self.address, call)?,
        }
        Ok(answer)
    }
}

impl<T> Serialize for Stub<T> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        refuse_to_write::<S>("a stub")
    }
}

impl<'de, T> Deserialize<'de> for Stub<T> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        refuse_to_read::<D, _>("a stub")
    }
}
