//! WebSockets, held by the host: a connection stays open while its object sleeps.
//!
//! The host reads frames and sends each as an event, which wakes the object if need be; one at a time
//! for each connection. What the object sends waits at the output gate, in order. Pings are answered
//! by the host.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use dovehouse_engine::ObjectId as RawId;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Message as Frame, Role, WebSocketConfig,
};

use crate::access::Mode;
use crate::core::{Chain, Core};
use crate::house::Address;
use crate::object::Object;
use crate::shard::{Event, Shard};
use crate::stub::Stub;

/// The largest message that a client may send.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Messages that wait for a slow client before it is dropped.
const QUEUE_MAX: usize = 1024;
/// The most tags of a connection, and the longest.
const TAGS_MAX: usize = 10;
const TAG_BYTES_MAX: usize = 256;
/// How long a closed connection may take to answer.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);
/// No close frame came.
const ABNORMAL: u16 = 1006;
/// The server goes away.
const GOING_AWAY: u16 = 1001;

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

impl From<Message> for Frame {
    fn from(message: Message) -> Self {
        match message {
            Message::Text(text) => Frame::text(text),
            Message::Binary(bytes) => Frame::binary(bytes),
        }
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

/// An object's end of an open WebSocket.
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
            .field("number", &self.socket.number)
            .finish_non_exhaustive()
    }
}

impl WebSocket {
    /// The object's sockets, newest first, with this tag if one is given.
    pub(crate) fn all(core: &Rc<Core>, tag: Option<&str>) -> Vec<WebSocket> {
        let Some(shard) = core.shard.upgrade() else {
            return Vec::new();
        };
        let sockets = shard.sockets.of(core.address.id.raw());
        let tagged = |socket: &Rc<Socket>| {
            tag.is_none_or(|tag| socket.tags.iter().any(|found| found == tag))
        };
        let handles = sockets.into_iter().rev().filter(tagged);
        handles
            .map(|socket| WebSocket {
                socket,
                core: core.clone(),
            })
            .collect()
    }

    /// Sends a message, once what the object has written so far is durable. A message to a client that
    /// has gone is dropped.
    pub fn send(&self, message: impl Into<Message>) {
        let (socket, frame) = (self.socket.clone(), message.into().into());
        self.core.emit(Box::new(move || socket.push(frame)));
    }

    /// Closes the connection, after what was sent before. `code` is 1000 or from 3000 to 4999.
    pub fn close(&self, code: u16, reason: &str) {
        let (socket, frame) = (self.socket.clone(), close_frame(code, reason));
        self.core.emit(Box::new(move || socket.push(frame)));
    }

    /// The tags that it was accepted with.
    pub fn tags(&self) -> &[String] {
        &self.socket.tags
    }

    /// Keeps some bytes with the connection, as long as it lasts, whether the object sleeps or not.
    pub fn set_attachment(&self, bytes: Option<Vec<u8>>) {
        *self.socket.attachment.borrow_mut() = bytes;
    }

    /// What was attached.
    pub fn attachment(&self) -> Option<Vec<u8>> {
        self.socket.attachment.borrow().clone()
    }
}

fn close_frame(code: u16, reason: &str) -> Frame {
    Frame::Close(Some(CloseFrame {
        code: code.into(),
        reason: reason.to_owned().into(),
    }))
}

/// The host's end.
struct Socket {
    number: u64,
    tags: Vec<String>,
    attachment: RefCell<Option<Vec<u8>>>,
    outgoing: mpsc::Sender<Frame>,
    /// Wakes the reader to end the connection: the client does not read.
    overrun: tokio::sync::Notify,
}

impl Socket {
    fn push(&self, frame: Frame) {
        match self.outgoing.try_send(frame) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.overrun.notify_one(),
        }
    }
}

/// A shard's connections.
#[derive(Default)]
pub(crate) struct Sockets {
    by_object: RefCell<HashMap<RawId, Vec<Rc<Socket>>>>,
    next_number: Cell<u64>,
    /// Told when the last connection is gone.
    all_gone: tokio::sync::Notify,
}

impl Sockets {
    fn of(&self, id: RawId) -> Vec<Rc<Socket>> {
        self.by_object
            .borrow()
            .get(&id)
            .cloned()
            .unwrap_or_default()
    }

    fn add(&self, id: RawId, tags: Vec<String>, outgoing: mpsc::Sender<Frame>) -> Rc<Socket> {
        let number = self.next_number.replace(self.next_number.get() + 1);
        let overrun = tokio::sync::Notify::new();
        let socket = Rc::new(Socket {
            number,
            tags,
            attachment: RefCell::default(),
            outgoing,
            overrun,
        });
        self.by_object
            .borrow_mut()
            .entry(id)
            .or_default()
            .push(socket.clone());
        socket
    }

    fn remove(&self, id: RawId, socket: &Rc<Socket>) {
        let mut by_object = self.by_object.borrow_mut();
        if let Some(sockets) = by_object.get_mut(&id) {
            sockets.retain(|found| !Rc::ptr_eq(found, socket));
            if sockets.is_empty() {
                by_object.remove(&id);
            }
        }
        if by_object.is_empty() {
            self.all_gone.notify_one();
        }
    }

    /// Says goodbye on all connections, and gives the clients a moment to answer.
    pub(crate) async fn close_all(&self) {
        for socket in self.by_object.borrow().values().flatten() {
            socket.push(close_frame(GOING_AWAY, "the server is closing"));
        }
        let answered = async {
            while !self.by_object.borrow().is_empty() {
                self.all_gone.notified().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE_PATIENCE, answered).await;
    }
}

impl<T: Object> Stub<T> {
    /// Answers a request to upgrade to a WebSocket: returns the response to send, and hands the
    /// connection to the object. `tags` let the object find it again: up to 10, of up to 256 bytes.
    ///
    /// Works with the requests of hyper and of everything built on it, such as axum. A request that
    /// is not such an upgrade gets a response with status 400 or 426 that says what is missing.
    pub fn accept_web_socket<B>(
        &self,
        request: &mut Request<B>,
        tags: &[&str],
    ) -> Response<String> {
        let key = match check_upgrade(request.method(), request.headers()) {
            Ok(key) => key,
            Err((status, why)) => return refuse(status, why),
        };
        if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > TAG_BYTES_MAX) {
            return refuse(
                StatusCode::BAD_REQUEST,
                "at most 10 tags of at most 256 bytes",
            );
        }
        let accept = Accept {
            address: self.address.clone(),
            upgrade: hyper::upgrade::on(request),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            class: PhantomData::<fn() -> T>,
        };
        if self.house.send(&self.address, Box::new(accept)).is_err() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the house is closed");
        }
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(
                header::SEC_WEBSOCKET_ACCEPT,
                derive_accept_key(key.as_bytes()),
            );
        response.body(String::new()).expect("the parts are valid")
    }
}

/// The client's key, or what is wrong with the request.
fn check_upgrade(
    method: &Method,
    headers: &HeaderMap,
) -> Result<String, (StatusCode, &'static str)> {
    let has = |name, word: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if method != Method::GET
        || !has(header::UPGRADE, "websocket")
        || !has(header::CONNECTION, "upgrade")
    {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "this address speaks WebSocket: connect with one",
        ));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok());
    key.map(str::to_owned)
        .ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"))
}

fn refuse(status: StatusCode, why: &str) -> Response<String> {
    let response = Response::builder()
        .status(status)
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13");
    response.body(why.to_owned()).expect("the parts are valid")
}

/// A connection on its way to its object's shard.
struct Accept<T> {
    address: Address,
    upgrade: OnUpgrade,
    tags: Vec<String>,
    class: PhantomData<fn() -> T>,
}

impl<T: Object> Event for Accept<T> {
    fn deliver(self: Box<Self>, shard: &Rc<Shard>) {
        let shard = shard.clone();
        spawn_local(async move {
            match self.upgrade.await {
                Ok(upgraded) => serve::<T>(&shard, &self.address, upgraded, self.tags).await,
                Err(error) => tracing::debug!("a WebSocket was never opened: {error}"),
            }
        });
    }
}

/// A connection's life.
async fn serve<T: Object>(
    shard: &Rc<Shard>,
    address: &Address,
    upgraded: Upgraded,
    tags: Vec<String>,
) {
    let config = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut frames) = stream.split();
    let (outgoing, mut queued) = mpsc::channel(QUEUE_MAX);
    let id = address.id.raw();
    let socket = shard.sockets.add(id, tags, outgoing);
    let writer = spawn_local(async move {
        while let Some(frame) = queued.recv().await {
            let last = matches!(frame, Frame::Close(_));
            if sink.send(frame).await.is_err() || last {
                return;
            }
        }
    });

    let reason = loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = socket.overrun.notified() => break lost("the client does not read what it is sent"),
        };
        match frame {
            Some(Ok(Frame::Text(text))) => {
                dispatch::<T>(shard, address, &socket, text.as_str().into()).await
            }
            Some(Ok(Frame::Binary(bytes))) => {
                dispatch::<T>(shard, address, &socket, bytes.to_vec().into()).await;
            }
            Some(Ok(Frame::Close(frame))) => break said_goodbye(frame),
            Some(Ok(_)) => {} // Pings are answered below; pongs need nothing.
            Some(Err(error)) => break lost(&error.to_string()),
            None => break lost("WebSocket disconnected without sending Close frame."),
        }
    };
    shard.sockets.remove(id, &socket);
    closed::<T>(shard, address, &socket, reason).await;
    // The reply to a close frame is flushed by the reader; let it go out before the end.
    let _ = tokio::time::timeout(GOODBYE_PATIENCE, frames.next()).await;
    writer.abort();
}

fn said_goodbye(frame: Option<CloseFrame>) -> CloseReason {
    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
        (frame.code.into(), frame.reason.as_str().to_owned())
    });
    CloseReason {
        code,
        reason,
        was_clean: true,
    }
}

fn lost(why: &str) -> CloseReason {
    CloseReason {
        code: ABNORMAL,
        reason: why.to_owned(),
        was_clean: false,
    }
}

/// Runs the object's message handler, and waits for it.
async fn dispatch<T: Object>(
    shard: &Rc<Shard>,
    address: &Address,
    socket: &Rc<Socket>,
    message: Message,
) {
    let actor = shard.actor::<T>(address);
    let socket = WebSocket {
        socket: socket.clone(),
        core: actor.core.clone(),
    };
    let handler = async move |object: &mut T, ctx: &crate::Ctx| {
        object.web_socket_message(ctx, &socket, message).await
    };
    run_handler(&actor, handler).await;
}

async fn closed<T: Object>(
    shard: &Rc<Shard>,
    address: &Address,
    socket: &Rc<Socket>,
    reason: CloseReason,
) {
    let actor = shard.actor::<T>(address);
    let socket = WebSocket {
        socket: socket.clone(),
        core: actor.core.clone(),
    };
    let handler = async move |object: &mut T, ctx: &crate::Ctx| {
        object.web_socket_close(ctx, &socket, reason).await
    };
    run_handler(&actor, handler).await;
}

async fn run_handler<T: Object>(
    actor: &Rc<crate::actor::Actor<T>>,
    handler: impl AsyncFnOnce(&mut T, &crate::Ctx) -> Result<(), crate::CallError>,
) {
    let place = actor
        .queue(Mode::Exclusive, &Chain::default())
        .expect("nobody waits for a WebSocket event");
    actor.core.begin();
    if let Err(error) = actor.exclusive(place, handler).await {
        tracing::warn!(object = %actor.core.id(), class = T::CLASS, "a WebSocket handler failed: {error}");
    }
    actor.core.finish();
}
