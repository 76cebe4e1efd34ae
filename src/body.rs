//! Bodies of requests and responses: bytes that are there, or that come one piece after the other.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::core::{Chain, Core, Current};
use crate::ctx::Ctx;
use crate::error::CallError;

/// Pieces of a body that wait for its reader.
const PIECES_MAX: usize = 4;

/// Any error.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than the reader allows. Answer with status 413.
    #[error("the body has more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// It is not the text that it should be. Answer with status 400.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Whoever makes it failed, or the connection did.
    #[error("the body broke off: {0}")]
    Failed(#[from] BoxError),
}

/// The body of a [`Request`](crate::Request) or a [`Response`](crate::Response).
///
/// It is made of what is there (`"text".into()`, `Vec<u8>`, `Bytes`), of another [`http_body::Body`] such as axum's or
/// hyper's ([`Body::new`]), or of what an object produces piece by piece ([`Ctx::body`]). Reading goes
/// through [`Body::bytes`], [`Body::text`] and [`Body::chunk`], or through [`http_body::Body`].
///
/// What leaves an object waits at its output gate: bytes with the response, and of a body that streams every
/// piece by itself.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Bytes(Bytes),
    /// Of somebody else.
    Foreign(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
    /// Of an object, behind its gate.
    Gated(mpsc::Receiver<Piece>),
}

/// A part of a body that an object produces. A channel that closes without an end was cut off.
enum Piece {
    Frame(Frame<Bytes>),
    End,
    Failed(BoxError),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Empty => f.write_str("Body(empty)"),
            Kind::Bytes(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Kind::Foreign(_) | Kind::Gated(_) => f.write_str("Body(streaming)"),
        }
    }
}

/// What can be a body: everything that is an [`http_body::Body`] of bytes, such as a text, [`Body`], or the bodies of
/// hyper and axum.
pub trait IntoBody: Send + 'static {
    /// The body.
    fn into_body(self) -> Body;
}

impl<B> IntoBody for B
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn into_body(self) -> Body {
        // One of ours stays as it is.
        let mut body = Some(self);
        let any: &mut dyn std::any::Any = &mut body;
        match any.downcast_mut::<Option<Body>>().and_then(Option::take) {
            Some(body) => body,
            None => Body::foreign(body.expect("it was not taken")),
        }
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::default()
    }

    /// A body of somebody else's making.
    pub fn new(body: impl IntoBody) -> Self {
        body.into_body()
    }

    fn foreign<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body(Kind::Foreign(Box::pin(Boxed(Box::pin(body)))))
    }

    /// The next piece; `None` at the end. Trailers are passed over.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            let frame = std::future::poll_fn(|context| {
                http_body::Body::poll_frame(Pin::new(self), context)
            });
            match frame.await? {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => return Some(Ok(bytes)),
                    Err(_trailers) => {}
                },
                Err(error) => return Some(Err(BodyError::Failed(error))),
            }
        }
    }

    /// All of it, if that is at most so many bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, BodyError> {
        if let Kind::Bytes(bytes) = self.0 {
            return match bytes.len() > limit {
                true => Err(BodyError::TooLong { limit }),
                false => Ok(bytes),
            };
        }
        let mut all = Vec::new();
        while let Some(bytes) = self.chunk().await {
            let bytes = bytes?;
            if bytes.len() > limit - all.len() {
                return Err(BodyError::TooLong { limit });
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }

    /// All of it as text, if that is at most so many bytes of UTF-8.
    pub async fn text(self, limit: usize) -> Result<String, BodyError> {
        let bytes = self.bytes(limit).await?;
        String::from_utf8(bytes.into()).map_err(|_| BodyError::NotUtf8)
    }

    /// The body as it leaves an object: what streams goes through its gate.
    pub(crate) fn leaving(self, current: &Current) -> Self {
        match self.0 {
            Kind::Foreign(mut body) => {
                let core = current.core.clone();
                let handler = core.handler(Chain::default(), None, current.handler.section);
                let next = async move || {
                    let next = std::future::poll_fn(|context| body.as_mut().poll_frame(context));
                    // Not beside other handlers: one that has the object alone may wait for the reader.
                    core.run(&handler, std::pin::pin!(next)).await
                };
                gated(&current.core, next)
            }
            kind => Body(kind),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        match bytes.is_empty() {
            true => Body(Kind::Empty),
            false => Body(Kind::Bytes(bytes)),
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Foreign(body) => body.as_mut().poll_frame(context),
            Kind::Gated(pieces) => {
                let piece = match ready!(pieces.poll_recv(context)) {
                    Some(Piece::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                    Some(Piece::End) => None,
                    Some(Piece::Failed(error)) => Some(Err(error)),
                    None => Some(Err("the object was reset".into())),
                };
                self.0 = Kind::Empty;
                Poll::Ready(piece)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Bytes(_) | Kind::Gated(_) => false,
            Kind::Foreign(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Foreign(body) => body.size_hint(),
            Kind::Gated(_) => SizeHint::default(),
        }
    }
}

/// Somebody else's body, with any error.
struct Boxed<B>(Pin<Box<B>>);

impl<B> http_body::Body for Boxed<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.0.as_mut().poll_frame(context);
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Ctx {
    /// A body that this object produces piece by piece, as its reader takes them.
    ///
    /// The stream's polls are turns of the object, as long as the body is read: the stream may use a clone of this
    /// context and write, and each piece leaves once what was written before it is durable. They come between those
    /// of handlers that share the object, and wait while one with `&mut self` is at work: so do not wait in such a one for
    /// whoever reads the body.
    /// Meanwhile the object stays in memory. If the reader goes away the stream is dropped; an error, a reset
    /// of the object, or the closing of the house breaks the body off.
    pub fn body<S, B, E>(&self, stream: S) -> Body
    where
        S: Stream<Item = Result<B, E>> + 'static,
        B: Into<Bytes> + 'static,
        E: Into<BoxError> + 'static,
    {
        let (core, mut stream) = (self.core.clone(), Box::pin(stream));
        let handler = core.handler(Chain::default(), None, None);
        let next = async move || {
            let next = std::future::poll_fn(|context| stream.as_mut().poll_next(context));
            let piece = core.run_beside(&handler, std::pin::pin!(next)).await?;
            Ok(piece.map(|piece| match piece {
                Ok(bytes) => Ok(Frame::data(bytes.into())),
                Err(error) => Err(error.into()),
            }))
        };
        gated(&self.core, next)
    }
}

/// The next piece of a body, or why the object gives none any more.
type Next = Result<Option<Result<Frame<Bytes>, BoxError>>, CallError>;

/// Reads a body on its object's shard, and lets the pieces out through the gate. Meanwhile the object is busy.
fn gated(core: &Rc<Core>, next: impl AsyncFnMut() -> Next + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let busy = Busy::new(core);
    spawn_local(async move { pass(&busy.0, next, sender).await });
    Body(Kind::Gated(receiver))
}

/// An object at work.
struct Busy(Rc<Core>);

impl Busy {
    fn new(core: &Rc<Core>) -> Self {
        core.begin();
        Busy(core.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish();
    }
}

async fn pass(core: &Rc<Core>, mut next: impl AsyncFnMut() -> Next, pieces: mpsc::Sender<Piece>) {
    let Some(mut closing) = core.shard.upgrade().map(|shard| shard.closing.subscribe()) else {
        return;
    };
    // The reader holds room for a few pieces, so nobody produces what nobody takes.
    while let Ok(room) = pieces.clone().reserve_owned().await {
        let next = tokio::select! {
            next = next() => next,
            () = pieces.closed() => return,
            // Nobody knows how long it would go on.
            _ = closing.wait_for(|closing| *closing) => Err(CallError::Closed),
        };
        let (piece, is_last) = match next {
            Ok(Some(Ok(frame))) => (Piece::Frame(frame), false),
            Ok(Some(Err(error))) => (Piece::Failed(error), true),
            Ok(None) => (Piece::End, true),
            Err(reset) => (Piece::Failed(reset.into()), true),
        };
        core.emit(Box::new(move || drop(room.send(piece))));
        if is_last {
            return;
        }
    }
}
