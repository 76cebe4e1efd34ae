//! What a class of durable objects is made of.

use std::future::Future;

use crate::alarms::AlarmInfo;
use crate::ctx::Ctx;
use crate::error::CallError;
use crate::stub::Stub;
use crate::web_socket::{CloseReason, Message, WebSocket};

/// A class of durable objects. [`#[dovehouse::object]`](crate::object) implements it.
///
/// An instance lives on one thread, so neither it nor its futures need to be `Send`. It is memory
/// only: it is made anew by [`Object::new`] whenever the object wakes, and what must last goes into the
/// storage of [`Ctx`].
pub trait Object: Sized + 'static {
    /// The class's name in the store.
    const CLASS: &'static str;

    /// Whether it has an alarm handler.
    const HAS_ALARM: bool = false;

    /// What callers hold.
    type Stub: From<Stub<Self>>;

    /// Makes the instance, before the first event. An error fails that event; the next one tries again.
    fn new(ctx: &Ctx) -> impl Future<Output = Result<Self, CallError>>;

    /// The object's alarm is due. An error, a panic or a reset tries again, later and later.
    fn alarm(
        &mut self,
        ctx: &Ctx,
        alarm: AlarmInfo,
    ) -> impl Future<Output = Result<(), CallError>> {
        let _ = (ctx, alarm);
        async { Ok(()) }
    }

    /// A message came in on a WebSocket. An error is logged.
    fn web_socket_message(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        message: Message,
    ) -> impl Future<Output = Result<(), CallError>> {
        let _ = (ctx, socket, message);
        async { Ok(()) }
    }

    /// A WebSocket is gone. An error is logged.
    fn web_socket_close(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        reason: CloseReason,
    ) -> impl Future<Output = Result<(), CallError>> {
        let _ = (ctx, socket, reason);
        async { Ok(()) }
    }
}
