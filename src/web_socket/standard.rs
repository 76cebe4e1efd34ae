//! Standard WebSockets: a task of the object reads them, and they keep the object in memory.

use std::fmt;
use std::future::{Future, poll_fn};

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use super::connection::Delivery;
use super::{ClientEnd, CloseReason, Message, ReadyState, SocketEvent, WebSocket, WebSocketError};
use crate::core::Chain;
use crate::ctx::Ctx;
use crate::error::Result;

/// Messages that wait for the task before the host stops reading.
const EVENTS_MAX: usize = 8;

/// An object's end of a WebSocket that a task of the object reads; see
/// [`Ctx::accept_standard_web_socket`]. Dropping it closes the connection.
pub struct StandardWebSocket {
    socket: WebSocket,
    events: mpsc::Receiver<SocketEvent>,
    close_reason: Option<CloseReason>,
}

impl fmt::Debug for StandardWebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl StandardWebSocket {
    /// The next message. `None` once the connection is gone, an error if it was closed because of
    /// what the peer did.
    pub async fn next(&mut self) -> Option<Result<Message, WebSocketError>> {
        match self.events.recv().await? {
            SocketEvent::Message(message) => Some(Ok(message)),
            SocketEvent::Error(error) => Some(Err(error)),
            SocketEvent::Close(reason) => {
                self.close_reason = Some(reason);
                None
            }
        }
    }

    /// Why the connection is gone, after [`StandardWebSocket::next`] has returned `None`.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.close_reason.as_ref()
    }

    /// Sends a message; see [`WebSocket::send`].
    pub fn send(&self, message: impl Into<Message>) {
        self.socket.send(message);
    }

    /// Closes the connection; see [`WebSocket::close`].
    pub fn close(&self, code: impl Into<Option<u16>>, reason: &str) -> Result<()> {
        self.socket.close(code, reason)
    }

    /// Whether to go on after the peer's goodbye, when [`StandardWebSocket::next`] has returned `None`; see
    /// [`WebSocket::allow_half_open`]. Said before the task's first await, it is in time for every peer.
    pub fn allow_half_open(&self, allow: bool) {
        self.socket.allow_half_open(allow);
    }

    /// How far it is.
    pub fn ready_state(&self) -> ReadyState {
        self.socket.ready_state()
    }

    /// Another handle, to send with from other handlers of this instance.
    pub fn handle(&self) -> WebSocket {
        self.socket.clone()
    }
}

impl Drop for StandardWebSocket {
    fn drop(&mut self) {
        let closed = self.socket.close(None, "");
        closed.expect("an empty close frame may always be sent");
    }
}

impl Ctx {
    /// Makes a WebSocket that stays in the object's own hands: `task` gets this end and reads it, as a task of
    /// the object beside its handlers, and the other end goes into the response. As long as the task runs the
    /// object stays in memory, so what it keeps there is not lost.
    ///
    /// The task's polls are turns of the object, as a handler's are: it may use a clone of this context. They come
    /// between those of handlers that share the object, and wait while one with `&mut self` is at work. It
    /// cannot borrow the instance; share state with it by `Rc`. When it ends, the connection is closed.
    /// Prefer [`Ctx::accept_web_socket`] for connections that are mostly silent.
    ///
    /// ```
    /// use dovehouse::{Ctx, Request, Response, Result};
    ///
    /// struct Counting;
    ///
    /// #[dovehouse::object]
    /// impl Counting {
    ///     fn new() -> Self {
    ///         Counting
    ///     }
    ///
    ///     fn fetch(&mut self, ctx: &Ctx, _request: Request) -> Result<Response> {
    ///         let client = ctx.accept_standard_web_socket(async |mut socket| {
    ///             let mut count = 0;
    ///             while let Some(Ok(_message)) = socket.next().await {
    ///                 count += 1;
    ///                 socket.send(format!("message {count}"));
    ///             }
    ///         })?;
    ///         Ok(client.into_response())
    ///     }
    /// }
    /// ```
    pub fn accept_standard_web_socket(
        &self,
        task: impl AsyncFnOnce(StandardWebSocket) + 'static,
    ) -> Result<ClientEnd> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let (begin, begun) = oneshot::channel();
        let delivery = Delivery::Task {
            events: sender,
            begun: Some(begun),
        };
        let (socket, client) = self.accept(Box::default(), delivery)?;
        let core = self.core.clone();
        let handler = core.handler(Chain::default(), None, None);
        let socket = StandardWebSocket {
            socket,
            events,
            close_reason: None,
        };
        core.begin();
        spawn_local(async move {
            let mut begin = Some(begin);
            let mut task = std::pin::pin!(task(socket));
            let task = std::pin::pin!(poll_fn(|context| {
                let polled = task.as_mut().poll(context);
                if let Some(begin) = begin.take() {
                    // The connection may be gone already.
                    let _ = begin.send(());
                }
                polled
            }));
            if let Err(error) = core.run_beside(&handler, task).await {
                tracing::warn!(object = %core.id(), "a WebSocket's task ended: {error}");
            }
            core.finish();
        });
        Ok(client)
    }
}
