//! What a class of durable objects is made of.

use std::future::Future;

use dovehouse_engine::Retention;

use crate::alarms::AlarmInfo;
use crate::catalog::StorageKind;
use crate::ctx::Ctx;
use crate::error::CallError;
use crate::fetch::{Request, Response};
use crate::stub::Stub;
use crate::web_socket::{CloseReason, Message, WebSocket, WebSocketError};

/// A class of durable objects. [`#[dovehouse::object]`](crate::object) implements it.
///
/// An instance lives on one thread, so neither it nor its futures need to be `Send`. It is memory
/// only: it is made anew by [`Object::new`] whenever the object wakes, and what must last goes into the
/// storage of [`Ctx`].
pub trait Object: Sized + 'static {
    /// The class's name in the store.
    const CLASS: &'static str;

    /// What its objects may keep. Chosen when the class is made: it cannot be changed later.
    const STORAGE: StorageKind = StorageKind::Sqlite;

    /// For how long its objects can be had as they were. It is kept in the store when the class is asked for. What an
    /// operator said goes before it, see [`Namespace::set_retention`](crate::Namespace::set_retention); with `None` it
    /// is as the [house](crate::Builder::retention) has it.
    const RETENTION: Option<Retention> = None;

    /// Whether its history is thinned out: exact for a day, then the last state of each minute.
    const THINNED: bool = false;

    /// Whether it has an alarm handler.
    const HAS_ALARM: bool = false;

    /// Which `fetch` handler it has.
    const FETCH: FetchHandler = FetchHandler::None;

    /// What callers hold.
    type Stub: From<Stub<Self>>;

    /// Brings what the object has stored up to date, before [`Object::new`] makes the instance. Runs whenever
    /// the object wakes, so that it should see quickly that there is nothing to do; in the same turn as the
    /// constructor, if neither waits. An error fails the event, as one of the constructor does.
    fn migrate(ctx: &Ctx) -> impl Future<Output = Result<(), CallError>> {
        let _ = ctx;
        async { Ok(()) }
    }

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

    /// A request came in, and the handler has the object alone. Called if [`Object::FETCH`] says so.
    fn fetch(
        &mut self,
        ctx: &Ctx,
        request: Request,
    ) -> impl Future<Output = Result<Response, CallError>> {
        let _ = (ctx, request);
        async { Err(no_fetch::<Self>()) }
    }

    /// A request came in, and the handler shares the object. Called if [`Object::FETCH`] says so.
    fn fetch_shared(
        &self,
        ctx: &Ctx,
        request: Request,
    ) -> impl Future<Output = Result<Response, CallError>> {
        let _ = (ctx, request);
        async { Err(no_fetch::<Self>()) }
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

    /// A WebSocket is gone; or, where half-open ones are [allowed](WebSocket::allow_half_open), its peer has said
    /// goodbye. An error is logged.
    fn web_socket_close(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        reason: CloseReason,
    ) -> impl Future<Output = Result<(), CallError>> {
        let _ = (ctx, socket, reason);
        async { Ok(()) }
    }

    /// A WebSocket was closed because of what the peer did on it. An error is logged.
    fn web_socket_error(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        error: WebSocketError,
    ) -> impl Future<Output = Result<(), CallError>> {
        let _ = (ctx, socket, error);
        async { Ok(()) }
    }
}

/// Which `fetch` handler a class has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchHandler {
    /// None: a request is an error.
    None,
    /// [`Object::fetch`], which has the object alone.
    Exclusive,
    /// [`Object::fetch_shared`], which may interleave with other handlers that share the object.
    Shared,
}

pub(crate) fn no_fetch<T: Object>() -> CallError {
    let message = format!("the class {} must have a fetch() handler", T::CLASS);
    CallError::failed("NoFetchHandler", message)
}
