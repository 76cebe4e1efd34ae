//! An awake object of a class: its instance, and the events that run in it.

use std::any::Any;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use crate::access::{Access, Mode, Request};
use crate::alarms::{self, Running};
use crate::core::{Chain, Core, Handler, Making};
use crate::ctx::Ctx;
use crate::error::{CallError, Error};
use crate::moves;
use crate::object::Object;
use crate::waits::Waiting;

/// An awake object. It leaves its shard's map when it is evicted or reset; events that hold it still
/// then end with an error.
pub(crate) struct Actor<T> {
    pub(crate) core: Rc<Core>,
    /// `None` until the first event has made it. Borrowed as the lock allows.
    instance: RefCell<Option<T>>,
}

/// An actor of any class, for the shard's map.
pub(crate) trait AnyActor {
    fn core(&self) -> &Rc<Core>;
    fn as_any(self: Rc<Self>) -> Rc<dyn Any>;
}

impl<T: Object> AnyActor for Actor<T> {
    fn core(&self) -> &Rc<Core> {
        &self.core
    }

    fn as_any(self: Rc<Self>) -> Rc<dyn Any> {
        self
    }
}

/// An event's place in the object's queue.
pub(crate) struct Place {
    request: Request,
    handler: Handler,
    waiting: Option<Waiting>,
}

impl<T: Object> Actor<T> {
    pub(crate) fn new(core: Rc<Core>) -> Rc<Self> {
        Rc::new(Actor {
            core,
            instance: RefCell::default(),
        })
    }

    /// Queues an event. Fails if it comes from a call that this object itself waits for, or would wait for
    /// in a circle.
    pub(crate) fn queue(&self, mode: Mode, chain: &Chain) -> Result<Place, CallError> {
        let id = self.core.address.id.raw();
        let held = chain.iter().rfind(|held| held.object == id);
        let barge = match (held.map(|held| held.mode), mode) {
            (None, _) => false,
            // Of what is being made only the constructor can have called, and that it waits for.
            (Some(Mode::Shared), Mode::Shared) if !self.core.is_making.get() => true,
            _ => return Err(CallError::Reentrant),
        };
        let section = held.and_then(|held| held.section);
        let mut place = Place {
            request: self.core.lock.request(mode, barge),
            handler: self.core.handler(chain.clone(), Some(mode), section),
            waiting: None,
        };
        if !chain.is_empty() && (place.request.waits() || self.instance.borrow().is_none()) {
            let shard = self.core.shard.upgrade().ok_or(CallError::Closed)?;
            let house = shard.house.upgrade().ok_or(CallError::Closed)?;
            place.waiting = Some(house.waits.begin(chain, id)?);
        }
        Ok(place)
    }

    /// Waits for the place and for the instance.
    async fn enter(&self, place: Place) -> Result<(Access, Handler), CallError> {
        let Place {
            request,
            handler,
            waiting,
        } = place;
        let access = request.granted().await;
        if let Some(error) = self.core.broken() {
            return Err(error);
        }
        if self.instance.borrow().is_none() {
            // In a box, so that it takes no room in the calls that come after.
            Box::pin(self.instance_made(&handler)).await?;
        }
        drop(waiting);
        Ok((access, handler))
    }

    /// Waits until the instance is there. The first to come makes it, and those that share the object with it
    /// wait for that alone, not for what it does afterwards.
    async fn instance_made(&self, handler: &Handler) -> Result<(), CallError> {
        while self.instance.borrow().is_none() {
            match self.core.is_making.get() {
                true => self.core.made().await,
                false => self.construct(handler).await?,
            }
            if let Some(error) = self.core.broken() {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn construct(&self, handler: &Handler) -> Result<(), CallError> {
        let _making = Making::begin(&self.core);
        let made = match self.core.open_storage().await {
            Ok(()) => {
                let ctx = self.ctx();
                self.core
                    .run(handler, pin!(make::<T>(&ctx)))
                    .await
                    .flatten()
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(instance) => {
                *self.instance.borrow_mut() = Some(instance);
                Ok(())
            }
            Err(error) => Err(self.core.reset(error.in_constructor())),
        }
    }

    /// Moves the object to another store. What is in memory stays; the storage is opened anew.
    pub(crate) async fn move_to(&self, place: Place, store: usize) -> Result<(), Error> {
        let _access = place.request.granted().await;
        if self.core.broken().is_some() {
            return Err(Error::Closed);
        }
        self.core.sleep();
        let moved = moves::move_awake(&self.core, store).await;
        if self.instance.borrow().is_some()
            && let Err(error) = self.core.open_storage().await
        {
            self.core.reset(error);
        }
        moved
    }

    fn ctx(&self) -> Ctx {
        Ctx {
            core: self.core.clone(),
        }
    }

    /// Runs a handler that has the object alone.
    // The lock keeps the borrow from meeting another one, across awaits too.
    #[expect(clippy::await_holding_refcell_ref)]
    pub(crate) async fn exclusive<R>(
        &self,
        place: Place,
        handler: impl AsyncFnOnce(&mut T, &Ctx) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let (_access, entered) = self.enter(place).await?;
        let mut instance = self.instance.borrow_mut();
        let instance = instance.as_mut().expect("entering made it");
        let ctx = self.ctx();
        let handling = pin!(handler(instance, &ctx));
        self.core.run(&entered, handling).await.flatten()
    }

    /// Runs a handler that shares the object.
    #[expect(clippy::await_holding_refcell_ref)]
    pub(crate) async fn shared<R>(
        &self,
        place: Place,
        handler: impl AsyncFnOnce(&T, &Ctx) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let (_access, entered) = self.enter(place).await?;
        let instance = self.instance.borrow();
        let instance = instance.as_ref().expect("entering made it");
        let ctx = self.ctx();
        let handling = pin!(handler(instance, &ctx));
        self.core.run(&entered, handling).await.flatten()
    }

    /// Runs `act` as a turn of the object, alone. If it succeeds, the object begins a new session with the next
    /// event.
    pub(crate) async fn without_instance<R>(
        &self,
        place: Place,
        act: impl FnOnce(&Rc<Core>) -> Result<R, Error>,
    ) -> Result<Result<R, Error>, CallError> {
        let Place {
            request,
            handler,
            waiting,
        } = place;
        let _access = request.granted().await;
        drop(waiting);
        if let Some(error) = self.core.broken() {
            return Err(error);
        }
        let act = std::pin::pin!(async { act(&self.core) });
        let acted = self.core.run(&handler, act).await?;
        let is_open = self.core.with_open_storage(|_| ()).is_some();
        let goes_on = acted.is_err() && is_open && self.instance.borrow().is_some();
        if !goes_on {
            drop(self.instance.take());
            self.core.sleep();
        }
        Ok(acted)
    }

    /// Runs the alarm handler, if there still is an alarm for this time or before it. Returns how the handler
    /// ended. An error means that this is not noted in the object.
    pub(crate) async fn fire(
        &self,
        place: Place,
        until_ms: u64,
    ) -> Result<Option<Result<(), CallError>>, CallError> {
        let core = self.core.clone();
        self.exclusive(place, async move |instance: &mut T, ctx: &Ctx| {
            let begun = alarms::begin(&core, until_ms).map_err(CallError::of)?;
            let Some(alarm) = begun else { return Ok(None) };
            let outcome = alarms::within_limit(&core, instance.alarm(ctx, alarm)).await;
            if let Err(error) = &outcome {
                tracing::warn!(object = %ctx.id(), class = T::CLASS, "its alarm handler failed: {error}");
            }
            if core.broken().is_some() {
                return outcome.map(|()| None);
            }
            alarms::end(&core, outcome.is_ok()).map_err(CallError::of)?;
            Ok(Some(outcome))
        })
        .await
    }

    /// Puts the alarm off after its handler had the object reset, or gives it up. Needs no instance.
    pub(crate) async fn put_off_alarm(
        &self,
        place: Place,
        running: Option<Running>,
        abandon: bool,
    ) -> Result<(), CallError> {
        let _access = place.request.granted().await;
        self.core.open_storage().await?;
        let put_off = async { alarms::put_off(&self.core, running.as_ref(), abandon) };
        let outcome = self.core.run(&place.handler, pin!(put_off)).await?;
        outcome.map_err(CallError::of)
    }
}

/// Migrates what is stored, and makes the instance.
async fn make<T: Object>(ctx: &Ctx) -> Result<T, CallError> {
    T::migrate(ctx).await?;
    T::new(ctx).await
}
