//! Turns: polling a handler, one transaction for each poll.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::access::Mode;
use crate::core::{Core, Current, Handler, as_current};
use crate::error::CallError;

impl Core {
    /// Polls a handler to its end. Each poll is a turn: its writes become one record when the poll
    /// returns, and its outputs leave once that is durable. A panic undoes the turn and resets the
    /// object, and so does a commit that fails.
    ///
    /// The caller pins it: a future that is an argument is stored twice by whoever awaits this.
    pub(crate) async fn run<F: Future>(
        self: &Rc<Self>,
        handler: &Handler,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, CallError> {
        let mut suspended = Suspended::new(self, handler.number);
        poll_fn(|context| {
            let polled = self.turn(handler, future.as_mut(), context);
            if polled.is_pending() {
                suspended.note(context.waker());
            }
            polled
        })
        .await
    }

    /// The same for what does not touch the instance. It runs between the polls of handlers that share the
    /// object, and while one has the object alone it waits.
    pub(crate) async fn run_beside<F: Future>(
        self: &Rc<Self>,
        handler: &Handler,
        mut future: Pin<&mut F>,
    ) -> Result<F::Output, CallError> {
        let mut suspended = Suspended::new(self, handler.number);
        loop {
            // Whoever waits to have the object alone must not hold up a section that keeps him out.
            let access = match self.sections.is_held_by(handler.number) {
                true => None,
                false => {
                    let access = self.lock.request(Mode::Shared, false).granted().await;
                    // The constructor is alone, too.
                    self.made().await;
                    Some(access)
                }
            };
            let once = poll_fn(|context| {
                suspended.note(context.waker());
                Poll::Ready(self.turn(handler, future.as_mut(), context))
            });
            let polled = once.await;
            drop(access);
            if let Poll::Ready(result) = polled {
                return result;
            }
            woken().await;
        }
    }

    fn turn<F: Future>(
        self: &Rc<Self>,
        handler: &Handler,
        future: Pin<&mut F>,
        context: &mut Context<'_>,
    ) -> Poll<Result<F::Output, CallError>> {
        if let Some(error) = self.broken() {
            return Poll::Ready(Err(error));
        }
        if !self
            .sections
            .admit(handler.number, handler.section, context)
        {
            return Poll::Pending;
        }
        let current = Current {
            core: self.clone(),
            handler: handler.clone(),
        };
        let polled = as_current(current, || {
            catch_unwind(AssertUnwindSafe(|| future.poll(context)))
        });
        // It may have been reset from inside, whatever became of the poll.
        if let Some(error) = self.broken() {
            return Poll::Ready(Err(error));
        }
        match polled {
            Ok(poll) => match self.end_turn() {
                Ok(()) => poll.map(Ok),
                Err(error) => Poll::Ready(Err(self.reset(CallError::of_commit(error)))),
            },
            Err(panic) => {
                let message = panic_message(&*panic);
                tracing::error!(object = %self.address.id, class = self.address.class.name, "panic: {message}");
                self.reset(CallError::Reset(format!("it panicked: {message}")));
                Poll::Ready(Err(CallError::Panicked(message)))
            }
        }
    }
}

/// A handler's entry among those that are told when the object is reset.
struct Suspended<'a> {
    core: &'a Core,
    number: u64,
    waker: Option<Waker>,
}

impl<'a> Suspended<'a> {
    fn new(core: &'a Core, number: u64) -> Self {
        let waker = None;
        Suspended {
            core,
            number,
            waker,
        }
    }

    fn note(&mut self, waker: &Waker) {
        if !self
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            self.waker = Some(waker.clone());
            let mut suspended = self.core.suspended.borrow_mut();
            suspended.insert(self.number, waker.clone());
        }
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if self.waker.is_some() {
            self.core.suspended.borrow_mut().remove(&self.number);
        }
    }
}

/// Waits until the task is woken again.
async fn woken() {
    let mut asked = false;
    poll_fn(|_| match std::mem::replace(&mut asked, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
