//! Streams: many values, one after the other, as an argument or a result of a call.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::mpsc;

use crate::core::{Leave, current};
use crate::error::CallError;
use crate::transfer::{Transfer, refuse_to_read, refuse_to_write};

/// The end of a stream that takes items; see [`stream`].
pub struct StreamSender<T> {
    /// `None` is the proper end.
    items: mpsc::Sender<Option<T>>,
}

/// The end of a stream that gives items, once each; see [`stream`]. Also a `Stream` of the crate `futures`.
pub struct Stream<T> {
    items: mpsc::Receiver<Option<T>>,
    is_over: bool,
}

/// A stream. Up to `buffer` items wait for the reader; then the sender waits.
///
/// Either end may be an argument or a result of a call. A handler that returns a stream fills it from
/// [`Ctx::wait_until`](crate::Ctx::wait_until).
///
/// ```
/// use dovehouse::{CallError, Ctx, Stream, stream};
/// # struct Room;
/// # #[dovehouse::object]
/// # impl Room {
/// # fn new() -> Self { Room }
/// pub fn count(&self, ctx: &Ctx, to: u64) -> Stream<u64> {
///     let (sender, numbers) = stream(16);
///     ctx.wait_until(async move {
///         for number in 0..to {
///             sender.send(number).await?;
///         }
///         sender.finish().await
///     });
///     numbers
/// }
/// # }
/// ```
///
/// # Panics
/// If `buffer` is 0.
pub fn stream<T: Transfer>(buffer: usize) -> (StreamSender<T>, Stream<T>) {
    let (sender, receiver) = mpsc::channel(buffer);
    let stream = Stream {
        items: receiver,
        is_over: false,
    };
    (StreamSender { items: sender }, stream)
}

impl<T: Transfer> StreamSender<T> {
    /// Sends an item, once there is room for it. From a handler, it leaves when what the object wrote
    /// before is durable.
    ///
    /// # Errors
    /// [`CallError::Gone`] if nobody reads any more.
    pub async fn send(&self, item: T) -> Result<(), CallError> {
        self.push(Some(item)).await
    }

    /// Says that nothing more comes. A sender that is dropped without it has failed, as its reader is told.
    ///
    /// # Errors
    /// [`CallError::Gone`] if nobody reads any more.
    pub async fn finish(self) -> Result<(), CallError> {
        self.push(None).await
    }

    async fn push(&self, item: Option<T>) -> Result<(), CallError> {
        let room = self.items.clone().reserve_owned().await;
        let room = room.map_err(|_| CallError::Gone)?;
        match current() {
            Some(sender) => {
                let leave = move || drop(room.send(item));
                sender.core.emit_as(Leave::AtOnce, Box::new(leave));
            }
            None => drop(room.send(item)),
        }
        Ok(())
    }
}

impl<T: Transfer> Stream<T> {
    /// The next item, once it is there; `None` at the end.
    ///
    /// # Errors
    /// [`CallError::Gone`], once, if the sender ended without finishing: its object was reset, for example.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        std::future::poll_fn(|context| self.poll_item(context)).await
    }

    fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, CallError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let item = ready!(self.items.poll_recv(context));
        Poll::Ready(match item {
            Some(Some(item)) => Some(Ok(item)),
            end => {
                self.is_over = true;
                end.is_none().then_some(Err(CallError::Gone))
            }
        })
    }
}

impl<T: Transfer> futures_util::Stream for Stream<T> {
    type Item = Result<T, CallError>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, CallError>>> {
        self.get_mut().poll_item(context)
    }
}

macro_rules! stays_here {
    ($end:ident, $what:literal) => {
        impl<T> fmt::Debug for $end<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($end))
            }
        }

        impl<T> Serialize for $end<T> {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                refuse_to_write::<S>($what)
            }
        }

        impl<'de, T> Deserialize<'de> for $end<T> {
            fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                refuse_to_read::<D, _>($what)
            }
        }
    };
}

stays_here!(StreamSender, "the sender of a stream");
stays_here!(Stream, "a stream");
