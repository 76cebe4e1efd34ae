//! WebSockets, held by the host: a connection stays open while its object sleeps.
//!
//! The host reads frames and sends each as an event, which wakes the object if need be; one at a time
//! for each connection. What the object sends waits at the output gate, in order. Pings are answered
//! by the host, and so is the one text for which the object has set an answer.

mod client;
mod connection;
mod frame;
mod handshake;
mod pulse;
mod sockets;
mod standard;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::access::Mode;
use crate::class::Address;
use crate::core::{Chain, Core};
use crate::ctx::Ctx;
use crate::error::{CallError, Error, Result};
use crate::object::Object;
use crate::shard::Shard;
use connection::{Delivery, serve};
use sockets::Socket;

pub use client::{ClientEnd, ClientWebSocket};
pub use handshake::wants_web_socket;
pub(crate) use handshake::{check_upgrade, refuse, switch_protocols};
pub(crate) use sockets::Sockets;
pub use standard::StandardWebSocket;

/// The most connections of an object.
const SOCKETS_MAX: usize = 32_768;
/// The most tags of a connection, and the longest.
const TAGS_MAX: usize = 10;
const TAG_BYTES_MAX: usize = 256;
const ATTACHMENT_BYTES_MAX: usize = 16 << 10;
/// The longest request and the longest response of an automatic answer.
const AUTO_RESPONSE_BYTES_MAX: usize = 2048;
/// Seven days.
const EVENT_TIMEOUT_MS_MAX: u64 = 604_800_000;
const CLOSE_REASON_BYTES_MAX: usize = 123;
/// The close frame had no code.
const NO_CODE: u16 = 1005;
/// No close frame came.
const ABNORMAL: u16 = 1006;

/// A message on a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Message::Text(text.to_owned())
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Message::Text(text)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Message::Binary(bytes)
    }
}

/// Why a WebSocket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReason {
    /// The peer's close code; 1005 if it gave none, 1006 if it just went away.
    pub code: u16,
    /// The peer's words.
    pub reason: String,
    /// Whether the peer said goodbye.
    pub was_clean: bool,
}

/// What a peer did that no WebSocket may do. The connection was closed for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// A message is too long.
    #[error("a message has more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// It is not the protocol.
    #[error("{0}")]
    Protocol(&'static str),
}

impl WebSocketError {
    /// The code that the connection was closed with.
    pub fn code(&self) -> u16 {
        match self {
            WebSocketError::Protocol(_) => 1002,
            WebSocketError::NotUtf8 => 1007,
            WebSocketError::TooLong { .. } => 1009,
        }
    }
}

/// How far a WebSocket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyState {
    /// Messages go both ways.
    Open,
    /// One side has said goodbye. If that was the peer, which only shows where
    /// [half-open](WebSocket::allow_half_open) connections are allowed, the object may still send.
    Closing,
    /// It is gone.
    Closed,
}

/// A text that the host answers in the object's place, without waking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoResponse {
    request: Box<str>,
    response: Box<str>,
}

impl AutoResponse {
    /// Answers exactly this text with that one, each of at most 2,048 bytes.
    pub fn new(request: &str, response: &str) -> Result<Self> {
        let longest = request.len().max(response.len());
        check_limit(
            "the text of an automatic response",
            longest,
            AUTO_RESPONSE_BYTES_MAX,
        )?;
        Ok(AutoResponse {
            request: request.into(),
            response: response.into(),
        })
    }

    /// What is answered.
    pub fn request(&self) -> &str {
        &self.request
    }

    /// The answer.
    pub fn response(&self) -> &str {
        &self.response
    }
}

fn check_limit(what: &'static str, found: usize, limit: usize) -> Result<()> {
    match found > limit {
        true => Err(Error::Limit { what, limit }),
        false => Ok(()),
    }
}

/// The tags, each once.
fn check_tags(tags: &[&str]) -> Result<Box<[Box<str>]>> {
    check_limit("the number of tags", tags.len(), TAGS_MAX)?;
    let mut distinct: Vec<Box<str>> = Vec::with_capacity(tags.len());
    for tag in tags {
        check_limit("the length of a tag", tag.len(), TAG_BYTES_MAX)?;
        if !distinct.iter().any(|found| **found == **tag) {
            distinct.push((*tag).into());
        }
    }
    Ok(distinct.into())
}

fn check_close(code: Option<u16>, reason: &str) -> Result<()> {
    let what = match code {
        None if !reason.is_empty() => "a reason needs a code",
        None | Some(1000..=1003 | 1007..=1014 | 3000..=4999) => {
            let what = "the reason of a close";
            return check_limit(what, reason.len(), CLOSE_REASON_BYTES_MAX);
        }
        Some(_) => "codes are 1000 to 1003, 1007 to 1014, and 3000 to 4999",
    };
    Err(Error::CloseCode { what })
}

/// An object's end of an open WebSocket. Two are equal if they are ends of the same one.
#[derive(Clone)]
pub struct WebSocket {
    socket: Rc<Socket>,
    core: Rc<Core>,
}

impl PartialEq for WebSocket {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.socket, &other.socket)
    }
}

impl Eq for WebSocket {}

impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket")
            .field("number", &self.socket.number())
            .field("state", &self.ready_state())
            .finish_non_exhaustive()
    }
}

impl WebSocket {
    /// Sends a message, once what the object has written so far is durable. A message to a peer that
    /// has gone, or after [`WebSocket::close`], is dropped: so a broadcast need not look at each.
    ///
    /// A peer that does not read is dropped when more than 32 MiB wait for it.
    pub fn send(&self, message: impl Into<Message>) {
        let (socket, message) = (self.socket.clone(), message.into());
        self.core.emit(Box::new(move || socket.push(&message)));
    }

    /// Closes the connection, after what was sent before. Closing again does nothing.
    ///
    /// `code` is from 1000 to 1003, from 1007 to 1014, or from 3000 to 4999; `None` sends an empty close frame,
    /// which the peer sees as 1005. The reason has at most 123 bytes. Anything else is refused.
    ///
    /// The peer answers, and then the `web_socket_close` handler runs; also if it does not answer within
    /// ten seconds.
    pub fn close(&self, code: impl Into<Option<u16>>, reason: &str) -> Result<()> {
        let code = code.into();
        check_close(code, reason)?;
        let (socket, reason) = (self.socket.clone(), reason.to_owned());
        self.core
            .emit(Box::new(move || socket.push_close(code, &reason)));
        Ok(())
    }

    /// Whether the object may go on after the peer has said goodbye. Then the host does not answer that in the
    /// object's place: `web_socket_close` runs, what is sent still reaches the peer, and the connection stays
    /// [`Closing`](ReadyState::Closing) until the object [closes](WebSocket::close) it too or the peer is gone.
    /// Lasts as long as the connection, through sleep. Default: no.
    pub fn allow_half_open(&self, allow: bool) {
        self.socket.allows_half_open.set(allow);
    }

    /// How far it is.
    pub fn ready_state(&self) -> ReadyState {
        self.socket.ready_state()
    }

    /// The tags that it was accepted with, each once.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.socket.tags.iter().map(|tag| &**tag)
    }

    /// Keeps some bytes with the connection, at most 16 KiB, as long as it lasts and whether the object
    /// sleeps or not. Not durable, and not undone with the turn.
    pub fn set_attachment(&self, bytes: Option<Vec<u8>>) -> Result<()> {
        let length = bytes.as_ref().map_or(0, Vec::len);
        check_limit("the length of an attachment", length, ATTACHMENT_BYTES_MAX)?;
        *self.socket.attachment.borrow_mut() = bytes.map(Vec::into_boxed_slice);
        Ok(())
    }

    /// What was attached.
    pub fn attachment(&self) -> Option<Vec<u8>> {
        let attachment = self.socket.attachment.borrow();
        attachment.as_ref().map(|bytes| bytes.to_vec())
    }

    /// When the host last answered on it in the object's place, in milliseconds since 1970. Stays when the
    /// [`AutoResponse`] goes.
    pub fn auto_response_ms(&self) -> Option<u64> {
        self.socket.auto_response_ms.get()
    }
}

/// WebSockets. Those of [`Ctx::accept_web_socket`] let the object sleep.
impl Ctx {
    /// Makes a WebSocket: this end, which the host holds for the object, and the other one, which goes into
    /// the response. `tags` let the object find it again: up to 10, of up to 256 bytes each.
    ///
    /// What comes in runs the object's handlers `web_socket_message`, `web_socket_close` and `web_socket_error`,
    /// one at a time for each connection. Between them the object may fall asleep; a message wakes it.
    /// A reset of the object ends its connections, with code 1011. An object has at most 32,768.
    ///
    /// ```
    /// use dovehouse::{Ctx, Message, Request, Response, Result, WebSocket};
    ///
    /// struct Echo;
    ///
    /// #[dovehouse::object]
    /// impl Echo {
    ///     fn new() -> Self {
    ///         Echo
    ///     }
    ///
    ///     fn fetch(&mut self, ctx: &Ctx, request: Request) -> Result<Response> {
    ///         if !dovehouse::wants_web_socket(&request) {
    ///             return Ok(Response::new("connect with a WebSocket".into()));
    ///         }
    ///         let (socket, client) = ctx.accept_web_socket(&["echo"])?;
    ///         socket.send("hello");
    ///         Ok(client.into_response())
    ///     }
    ///
    ///     fn web_socket_message(&mut self, _ctx: &Ctx, socket: &WebSocket, message: Message) {
    ///         socket.send(message);
    ///     }
    /// }
    /// ```
    pub fn accept_web_socket(&self, tags: &[&str]) -> Result<(WebSocket, ClientEnd)> {
        self.accept(check_tags(tags)?, Delivery::Handlers)
    }

    fn accept(&self, tags: Box<[Box<str>]>, delivery: Delivery) -> Result<(WebSocket, ClientEnd)> {
        // In the object's own turn, so that a reset finds it.
        self.core.with_storage(|_| Ok(()))?;
        let (shard, id) = self.room()?;
        let count = shard.sockets.count(id) + 1;
        check_limit("the number of WebSockets", count, SOCKETS_MAX)?;
        let is_standard = matches!(delivery, Delivery::Task { .. });
        let socket = shard.sockets.add(id, tags, is_standard);
        let (transport, opened) = oneshot::channel();
        let address = self.core.address.clone();
        spawn_local(serve(shard, address, socket.clone(), delivery, opened));
        let core = self.core.clone();
        Ok((WebSocket { socket, core }, ClientEnd::new(transport)))
    }

    fn room(&self) -> Result<(Rc<Shard>, dovehouse_engine::ObjectId)> {
        let shard = self.core.shard.upgrade().ok_or(Error::Closed)?;
        Ok((shard, self.core.address.id.raw()))
    }

    /// The object's WebSockets that let it sleep, newest first. Those that are gone are not among them;
    /// those that it is closing are.
    pub fn web_sockets(&self) -> Vec<WebSocket> {
        self.sockets(|_| true)
    }

    /// The same, those with this tag.
    pub fn web_sockets_tagged(&self, tag: &str) -> Vec<WebSocket> {
        self.sockets(|socket| socket.tags.iter().any(|found| **found == *tag))
    }

    fn sockets(&self, wanted: impl Fn(&Socket) -> bool) -> Vec<WebSocket> {
        let Ok((shard, id)) = self.room() else {
            return Vec::new();
        };
        let sockets = shard.sockets.of(id).into_iter().rev();
        let core = &self.core;
        let handle = |socket| WebSocket {
            socket,
            core: core.clone(),
        };
        sockets
            .filter(|socket| wanted(socket))
            .map(handle)
            .collect()
    }

    /// Has the host answer one text on all of the object's WebSockets, now and later, whether it sleeps
    /// or not. The text does not reach the handler, and the answer does not wait at the output gate.
    pub fn set_web_socket_auto_response(&self, pair: Option<AutoResponse>) {
        if let Ok((shard, id)) = self.room() {
            let pair = pair.map(Rc::new);
            shard.sockets.room_mut(id, |room| room.auto_response = pair);
        }
    }

    /// The text that the host answers, and its answer.
    pub fn web_socket_auto_response(&self) -> Option<AutoResponse> {
        let (shard, id) = self.room().ok()?;
        let pair = shard.sockets.room(id, |room| room.auto_response.clone());
        pair.flatten().map(|pair| (*pair).clone())
    }

    /// How long a WebSocket's handler may take, in milliseconds, waiting for the object included; at most
    /// seven days. One that takes longer has the object reset. `None` or 0 takes the limit away.
    pub fn set_web_socket_event_timeout_ms(&self, ms: Option<u64>) -> Result<()> {
        let ms = ms.filter(|ms| *ms > 0);
        if ms.is_some_and(|ms| ms > EVENT_TIMEOUT_MS_MAX) {
            let (what, limit) = ("the event timeout", EVENT_TIMEOUT_MS_MAX as usize);
            return Err(Error::Limit { what, limit });
        }
        let (shard, id) = self.room()?;
        shard
            .sockets
            .room_mut(id, |room| room.event_timeout_ms = ms);
        Ok(())
    }

    /// How long a WebSocket's handler may take.
    pub fn web_socket_event_timeout_ms(&self) -> Option<u64> {
        let (shard, id) = self.room().ok()?;
        shard
            .sockets
            .room(id, |room| room.event_timeout_ms)
            .flatten()
    }
}

/// What happens on a WebSocket.
pub(crate) enum SocketEvent {
    Message(Message),
    Close(CloseReason),
    Error(WebSocketError),
}

/// Runs the handlers of a class. The class is known where a connection is accepted by name only.
pub(crate) type Dispatch =
    fn(&Rc<Shard>, &Address, &Rc<Socket>, SocketEvent) -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs the object's handler for an event, and waits for it.
pub(crate) fn dispatch<T: Object>(
    shard: &Rc<Shard>,
    address: &Address,
    socket: &Rc<Socket>,
    event: SocketEvent,
) -> Pin<Box<dyn Future<Output = ()>>> {
    let (shard, socket) = (shard.clone(), socket.clone());
    let actor = shard.actor::<T>(address);
    Box::pin(async move {
        let core = actor.core.clone();
        let socket = WebSocket {
            socket,
            core: core.clone(),
        };
        let place = actor
            .queue(Mode::Exclusive, &Chain::default())
            .expect("nobody waits for a WebSocket event");
        let id = core.address.id.raw();
        let timeout_ms = shard
            .sockets
            .room(id, |room| room.event_timeout_ms)
            .flatten();
        core.begin();
        let handler = actor.exclusive(place, async move |object: &mut T, ctx: &Ctx| match event {
            SocketEvent::Message(message) => object.web_socket_message(ctx, &socket, message).await,
            SocketEvent::Close(reason) => object.web_socket_close(ctx, &socket, reason).await,
            SocketEvent::Error(error) => object.web_socket_error(ctx, &socket, error).await,
        });
        let outcome = match timeout_ms {
            None => handler.await,
            Some(ms) => tokio::select! {
                outcome = handler => outcome,
                () = shard.clock.sleep_until(shard.clock.now_ms() + ms) => {
                    let why = "a WebSocket handler exceeded event execution time";
                    Err(core.reset(CallError::Reset(why.into())))
                }
            },
        };
        if let Err(error) = outcome {
            tracing::warn!(object = %core.id(), class = T::CLASS, "a WebSocket handler failed: {error}");
        }
        core.finish();
    })
}
