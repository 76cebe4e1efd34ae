//! The other end of an object's WebSocket: on its way to a client, or used within the process.

use std::fmt;
use std::sync::Arc;

use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;

use super::connection::Transport;
use super::frame::{self, Decoder, Event};
use super::{CloseReason, Message, WebSocketError};
use crate::body::Body;
use crate::core::{Leave, current};
use crate::error::{Error, Result};

/// What either side of a pair within the process may send before the other has read it.
const PIPE_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 4 << 10;

/// The end of an object's new WebSocket that is not the object's. Put it into the response to the client;
/// or, with the response in hand, talk to the object through it. If it is dropped the object sees the connection go.
pub struct ClientEnd {
    transport: oneshot::Sender<Transport>,
}

impl fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientEnd")
    }
}

/// An end in the extensions of a response, which want to be cloned and shared.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<ClientEnd>>>);

impl ClientEnd {
    pub(super) fn new(transport: oneshot::Sender<Transport>) -> Self {
        ClientEnd { transport }
    }

    /// The response, with status 101, that gives this end to whoever asked for it.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let carried = Carried(Arc::new(Mutex::new(Some(self))));
        response.extensions_mut().insert(carried);
        response
    }

    /// The end that a response brings, for a caller within the process.
    pub fn take<B>(response: &mut Response<B>) -> Option<ClientEnd> {
        let carried: Carried = response.extensions_mut().remove()?;
        carried.0.lock().take()
    }

    /// Gives the end to a client.
    pub(crate) fn connect(self, upgrade: OnUpgrade) {
        // The object may have been reset.
        let _ = self.transport.send(Transport::Upgrade(upgrade));
    }

    /// Opens it, to talk to the object.
    pub fn accept(self) -> ClientWebSocket {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        // If the object was reset the first read will tell.
        let _ = self.transport.send(Transport::Local(theirs));
        ClientWebSocket {
            stream: ours,
            decoder: Decoder::new(false),
            unread: Vec::new(),
            close_reason: None,
            said_goodbye: false,
        }
    }
}

/// An open WebSocket to an object, within the process. A handler of another object may hold it; what that
/// sends waits at its own output gate.
pub struct ClientWebSocket {
    stream: DuplexStream,
    decoder: Decoder,
    unread: Vec<u8>,
    close_reason: Option<CloseReason>,
    said_goodbye: bool,
}

impl fmt::Debug for ClientWebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientWebSocket")
            .field("close_reason", &self.close_reason)
            .finish_non_exhaustive()
    }
}

impl ClientWebSocket {
    /// The next message. `None` once the connection is closed.
    pub async fn next(&mut self) -> Option<Result<Message, WebSocketError>> {
        while self.close_reason.is_none() {
            let mut input = &self.unread[..];
            let event = self.decoder.feed(&mut input);
            let left = input.len();
            self.unread.drain(..self.unread.len() - left);
            match event {
                Err(error) => return Some(Err(error)),
                Ok(Some(Event::Message(message))) => return Some(Ok(message)),
                Ok(Some(Event::Close(reason))) => {
                    let code = Some(reason.code).filter(|code| *code != super::NO_CODE);
                    // Set first: the caller may stop waiting.
                    self.close_reason = Some(reason);
                    let _ = self.write_close(code, "").await;
                }
                Ok(Some(Event::Ping(_) | Event::Pong)) => {}
                Ok(None) => {
                    let mut bytes = [0; READ_BYTES];
                    match self.stream.read(&mut bytes).await {
                        Ok(read) if read > 0 => self.unread.extend(&bytes[..read]),
                        _ => self.close_reason = Some(gone()),
                    }
                }
            }
        }
        None
    }

    /// Why it is closed, after [`ClientWebSocket::next`] has returned `None`.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.close_reason.as_ref()
    }

    /// Sends a message. To a connection that is gone it is dropped.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<()> {
        let mut bytes = Vec::new();
        frame::encode_message(&mut bytes, &message.into());
        self.write(&bytes).await
    }

    /// Closes the connection, with what [`WebSocket::close`](super::WebSocket::close) allows. Read on until
    /// `None` to see it answered.
    pub async fn close(&mut self, code: impl Into<Option<u16>>, reason: &str) -> Result<()> {
        let code = code.into();
        super::check_close(code, reason)?;
        self.write_close(code, reason).await
    }

    async fn write_close(&mut self, code: Option<u16>, reason: &str) -> Result<()> {
        let mut bytes = Vec::new();
        frame::encode_close(&mut bytes, code, reason);
        self.write(&bytes).await?;
        self.said_goodbye = true;
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(released) = leave() {
            // The object that holds this end was reset.
            released.await.map_err(|_| Error::OutsideTurn)?;
        }
        if !self.said_goodbye {
            // A peer that has gone is noticed by reading.
            let _ = self.stream.write_all(bytes).await;
        }
        Ok(())
    }
}

/// If this is an object's turn: told when what it has written so far is durable.
fn leave() -> Option<oneshot::Receiver<()>> {
    let current = current()?;
    let (release, released) = oneshot::channel();
    let release = move || _ = release.send(());
    current.core.emit_as(Leave::AtOnce, Box::new(release));
    Some(released)
}

fn gone() -> CloseReason {
    CloseReason {
        code: super::ABNORMAL,
        reason: "the object's end is gone".to_owned(),
        was_clean: false,
    }
}
