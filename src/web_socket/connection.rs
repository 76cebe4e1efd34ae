//! A connection's life, on its object's shard: a task of the host, not of the object.
//!
//! While nothing happens it holds the stream and what [`Decoder`] knows, and no buffer. Events go to the
//! object one at a time, and what it sends is written beside, so that neither waits for the other.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::frame::{Decoder, Event};
use super::pulse::Pulse;
use super::sockets::{GOODBYE_PATIENCE, Phase, Socket};
use super::{CloseReason, Message, NO_CODE, SocketEvent, WebSocketError};
use crate::class::Address;
use crate::shard::Shard;

/// How long a peer may take to answer a goodbye.
const ANSWER_MS_MAX: u64 = 10_000;

/// What carries a connection.
pub(super) enum Transport {
    /// An HTTP connection that is about to be given over.
    Upgrade(OnUpgrade),
    /// Another part of this process.
    Local(DuplexStream),
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Who gets a connection's events.
pub(super) enum Delivery {
    /// The class's handlers; the object may sleep in between.
    Handlers,
    /// A task of the object. What the peer says is read once that has begun, and has said how it wants it.
    Task {
        events: mpsc::Sender<SocketEvent>,
        begun: Option<oneshot::Receiver<()>>,
    },
}

/// Why a connection ends.
enum End {
    /// The peer said goodbye.
    Goodbye(CloseReason),
    /// It did before, and the object, which was told, has now said goodbye too.
    Answered,
    /// It is just gone.
    Lost(&'static str),
    /// It cannot be understood.
    Failed(WebSocketError),
    /// The object was reset.
    Dropped,
}

struct Connection {
    shard: Rc<Shard>,
    address: Address,
    socket: Rc<Socket>,
    delivery: Delivery,
    stream: Box<dyn Stream>,
    /// Whether the peer is elsewhere, and may vanish.
    is_remote: bool,
    decoder: Decoder,
    /// What was read with the event before, from `unread_from` on.
    unread: Vec<u8>,
    unread_from: usize,
    /// What is being written, from `written` on.
    writing: Vec<u8>,
    written: usize,
    /// Whether the peer took no more of it when it was last offered some.
    is_stuck: bool,
    /// When to give up waiting for the answer to a goodbye.
    deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    shard: Rc<Shard>,
    address: Address,
    socket: Rc<Socket>,
    mut delivery: Delivery,
    transport: oneshot::Receiver<Transport>,
) {
    let begun = match &mut delivery {
        Delivery::Task { begun, .. } => begun.take(),
        Delivery::Handlers => None,
    };
    let opened = Box::pin(async move {
        let opened = open(transport).await;
        if let Some(begun) = begun {
            // An error means that it never will: the object was reset.
            let _ = begun.await;
        }
        opened
    });
    let dropped = poll_fn(|context| {
        socket.watched_by(context.waker());
        match socket.phase() {
            Phase::Dropped => Poll::Ready(()),
            _ => Poll::Pending,
        }
    });
    let opened = tokio::select! {
        opened = opened => opened,
        () = dropped => None,
    };
    match opened {
        Some((stream, is_remote)) => {
            let connection = Connection {
                shard,
                address,
                socket,
                delivery,
                stream,
                is_remote,
                decoder: Decoder::new(is_remote),
                unread: Vec::new(),
                unread_from: 0,
                writing: Vec::new(),
                written: 0,
                is_stuck: false,
                deadline: None,
            };
            connection.is_read(true);
            connection.live().await;
        }
        None => {
            shard.sockets.remove(address.id.raw(), &socket);
            if socket.phase() != Phase::Dropped {
                socket.go_to(Phase::Closed);
                let closed = SocketEvent::Close(lost("it was never opened"));
                deliver(&shard, &address, &socket, &delivery, closed).await;
            }
        }
    }
}

async fn open(transport: oneshot::Receiver<Transport>) -> Option<(Box<dyn Stream>, bool)> {
    match transport.await.ok()? {
        Transport::Local(stream) => Some((Box::new(stream), false)),
        Transport::Upgrade(upgrade) => match upgrade.await {
            Ok(upgraded) => Some((Box::new(TokioIo::new(upgraded)), true)),
            Err(error) => {
                tracing::debug!("a WebSocket was never opened: {error}");
                None
            }
        },
    }
}

/// Gives an event to the object, and waits until it has dealt with it.
fn deliver(
    shard: &Rc<Shard>,
    address: &Address,
    socket: &Rc<Socket>,
    delivery: &Delivery,
    event: SocketEvent,
) -> Pin<Box<dyn Future<Output = ()>>> {
    match delivery {
        Delivery::Handlers => (address.class.dispatch)(shard, address, socket, event),
        Delivery::Task { events, .. } => {
            let events = events.clone();
            // A task that has ended says goodbye by itself.
            Box::pin(async move { drop(events.send(event).await) })
        }
    }
}

fn lost(why: &str) -> CloseReason {
    CloseReason {
        code: super::ABNORMAL,
        reason: why.to_owned(),
        was_clean: false,
    }
}

impl Connection {
    async fn live(mut self) {
        let end = loop {
            // One whose peer never stops must leave the shard to others too.
            tokio::task::coop::consume_budget().await;
            match poll_fn(|context| self.poll_event(context)).await {
                Ok(Event::Message(message)) if self.answers(&message) => {}
                Ok(Event::Message(message)) => self.tell(SocketEvent::Message(message)).await,
                Ok(Event::Ping(payload)) => self.socket.push_pong(&payload),
                Ok(Event::Pong) => self.socket.answered(),
                Ok(Event::Close(reason)) if self.allows_half_open() => {
                    // In a box, so that it takes no room in those that are open.
                    break Box::pin(self.half_open(reason)).await;
                }
                Ok(Event::Close(reason)) => break End::Goodbye(reason),
                Err(end) => break end,
            }
        };
        Box::pin(self.end(end)).await;
    }

    fn allows_half_open(&self) -> bool {
        self.socket.phase() == Phase::Open && self.socket.allows_half_open.get()
    }

    /// Tells the object of the peer's goodbye, and sends what it still has to say until it says goodbye too.
    async fn half_open(&mut self, reason: CloseReason) -> End {
        self.socket.go_to(Phase::HalfOpen);
        self.tell(SocketEvent::Close(reason)).await;
        poll_fn(|context| {
            self.socket.watched_by(context.waker());
            let written = self.poll_write(context);
            match (self.socket.phase(), written) {
                (Phase::Dropped, _) => Poll::Ready(End::Dropped),
                (Phase::HalfOpen, Poll::Pending | Poll::Ready(Ok(()))) => {
                    self.poll_discard(context).map(|()| End::Answered)
                }
                _ => Poll::Ready(End::Answered),
            }
        })
        .await
    }

    /// Notes whether anybody reads what the peer says.
    fn is_read(&self, is_read: bool) {
        let pulse = match is_read && self.is_remote {
            true => Pulse::Heard,
            false => Pulse::Unread,
        };
        self.socket.pulse.set(pulse);
    }

    /// Says goodbye as is proper, tells the object, and lets the last bytes out.
    async fn end(mut self, end: End) {
        self.shard
            .sockets
            .remove(self.address.id.raw(), &self.socket);
        let mut linger = false;
        match end {
            End::Goodbye(reason) => {
                let code = Some(reason.code).filter(|code| *code != NO_CODE);
                self.socket.push_close(code, &reason.reason);
                self.socket.go_to(Phase::Closed);
                self.tell(SocketEvent::Close(reason)).await;
            }
            End::Answered => self.socket.go_to(Phase::Closed),
            End::Lost(why) => {
                self.socket.go_to(Phase::Closed);
                self.tell(SocketEvent::Close(lost(why))).await;
                return;
            }
            End::Failed(error) => {
                self.socket
                    .push_close(Some(error.code()), &error.to_string());
                self.socket.go_to(Phase::Closed);
                self.tell(SocketEvent::Error(error)).await;
                linger = true;
            }
            End::Dropped => linger = true,
        }
        let goodbye = async {
            let _ = poll_fn(|context| self.poll_write(context)).await;
            let _ = poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await;
            if linger {
                // Closing with bytes unread would take the goodbye back before the peer reads it.
                poll_fn(|context| self.poll_discard(context)).await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE_PATIENCE, goodbye).await;
    }

    /// Answers a message in the object's place, if it has set an answer for it.
    fn answers(&self, message: &Message) -> bool {
        let Message::Text(text) = message else {
            return false;
        };
        let id = self.address.id.raw();
        let pair = self
            .shard
            .sockets
            .room(id, |room| room.auto_response.clone());
        let Some(pair) = pair.flatten() else {
            return false;
        };
        if self.socket.is_standard || pair.request() != text {
            return false;
        }
        self.socket.push(&pair.response().into());
        let now_ms = self.shard.clock.now_ms();
        self.socket.auto_response_ms.set(Some(now_ms));
        true
    }

    /// Gives an event to the object, writing what is sent meanwhile.
    async fn tell(&mut self, event: SocketEvent) {
        self.is_read(false);
        let mut told = deliver(
            &self.shard,
            &self.address,
            &self.socket,
            &self.delivery,
            event,
        );
        poll_fn(|context| {
            self.socket.watched_by(context.waker());
            // Reading will tell what is wrong with the connection.
            let _ = self.poll_write(context);
            told.as_mut().poll(context)
        })
        .await;
        self.is_read(true);
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, End>> {
        self.socket.watched_by(context.waker());
        match self.socket.phase() {
            Phase::Open | Phase::HalfOpen | Phase::Closed => {}
            Phase::Closing => {
                let clock = &self.shard.clock;
                let deadline = self
                    .deadline
                    .get_or_insert_with(|| clock.sleep_until(clock.now_ms() + ANSWER_MS_MAX));
                if deadline.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(End::Lost("the peer does not answer a goodbye")));
                }
            }
            Phase::Lost(why) => return Poll::Ready(Err(End::Lost(why))),
            Phase::Dropped => return Poll::Ready(Err(End::Dropped)),
        }
        let written = self.poll_write(context);
        match self.poll_read(context) {
            Poll::Pending if matches!(written, Poll::Ready(Err(_))) => {
                Poll::Ready(Err(End::Lost("the connection broke")))
            }
            read => read,
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, End>> {
        loop {
            if self.unread_from < self.unread.len() {
                let mut input = &self.unread[self.unread_from..];
                let event = self.decoder.feed(&mut input).map_err(End::Failed)?;
                self.unread_from = self.unread.len() - input.len();
                if input.is_empty() {
                    (self.unread, self.unread_from) = (Vec::new(), 0);
                }
                if let Some(event) = event {
                    return Poll::Ready(Ok(event));
                }
            }
            let mut scratch = self.shard.sockets.scratch.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch);
            let polled = Pin::new(&mut self.stream).poll_read(context, &mut read);
            let mut input = match ready!(polled) {
                Ok(()) => read.filled(),
                Err(_) => return Poll::Ready(Err(End::Lost("the connection broke"))),
            };
            if input.is_empty() {
                let why = "WebSocket disconnected without sending Close frame.";
                return Poll::Ready(Err(End::Lost(why)));
            }
            self.socket.heard();
            let event = self.decoder.feed(&mut input).map_err(End::Failed)?;
            if let Some(event) = event {
                self.unread = input.to_vec();
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// Writes what waits; ready when nothing does.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.writing.len() {
                let rest = &self.writing[self.written..];
                let offered = Pin::new(&mut self.stream).poll_write(context, rest);
                let was_stuck = std::mem::replace(&mut self.is_stuck, offered.is_pending());
                match ready!(offered)? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.written += written,
                }
                if was_stuck {
                    // It has taken what was on its way before.
                    self.socket.heard();
                }
            }
            let idle = self.writing.is_empty();
            (self.writing, self.written) = (self.socket.take_outgoing(), 0);
            if self.writing.is_empty() {
                return match idle {
                    true => Poll::Ready(Ok(())),
                    false => Pin::new(&mut self.stream).poll_flush(context),
                };
            }
        }
    }

    /// Reads until the peer has closed the connection too.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut scratch = self.shard.sockets.scratch.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch);
            let polled = Pin::new(&mut self.stream).poll_read(context, &mut read);
            if ready!(polled).is_err() || read.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}
