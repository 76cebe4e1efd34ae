//! Critical sections: while one is open in an object, nothing is polled there but what belongs to it.
//!
//! Sections nest: they are a stack. What belongs to the innermost one is the handler that opened it, and
//! calls that came back to the object because the section made them. A section that is opened beside
//! another, not inside it, waits until that is closed. One that ends before its inner ones leaves them
//! to the section around it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::core::{Core, current, in_section};
use crate::ctx::Ctx;
use crate::error::{CallError, Error, Reply, Result};

/// How deep sections nest.
const DEPTH_MAX: usize = 64;
/// How long one may take.
const LIMIT_MS: u64 = 30_000;

/// An object's open sections, the innermost last.
#[derive(Default)]
pub(crate) struct Sections {
    open: RefCell<Vec<Open>>,
    last_number: Cell<u64>,
    /// Those who may go on when a section is closed, in the order in which they came.
    waiting: RefCell<Vec<Waker>>,
}

#[derive(Clone, Copy)]
struct Open {
    number: u64,
    handler: u64,
}

impl Sections {
    /// Whether a handler may be polled, which was called from this section of the object. If not, it is
    /// woken when that may have changed.
    pub(crate) fn admit(&self, handler: u64, from: Option<u64>, context: &Context<'_>) -> bool {
        let admitted = self.admits(handler, from);
        if !admitted {
            self.wait(context);
        }
        admitted
    }

    pub(crate) fn admits(&self, handler: u64, from: Option<u64>) -> bool {
        let open = self.open.borrow();
        open.last()
            .is_none_or(|top| top.handler == handler || Some(top.number) == from)
    }

    /// Whether the innermost section belongs to this handler.
    pub(crate) fn is_held_by(&self, handler: u64) -> bool {
        let open = self.open.borrow();
        open.last().is_some_and(|top| top.handler == handler)
    }

    fn wait(&self, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
    }

    /// Opens a section inside this one, if that is the innermost.
    fn open(&self, handler: u64, inside: Option<u64>) -> Option<u64> {
        let mut open = self.open.borrow_mut();
        if open.last().map(|top| top.number) != inside.filter(|_| !open.is_empty()) {
            return None;
        }
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        open.push(Open { number, handler });
        Some(number)
    }

    fn depth(&self) -> usize {
        self.open.borrow().len()
    }

    fn close(&self, number: u64) {
        self.open.borrow_mut().retain(|open| open.number != number);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// An open section; closed when dropped.
pub(crate) struct Section {
    core: Rc<Core>,
    number: u64,
}

impl Section {
    /// Opens a section of the handler that is being polled.
    pub(crate) async fn open(core: &Rc<Core>) -> Result<Section> {
        poll_fn(|context| {
            let Some(current) = current().filter(|current| Rc::ptr_eq(&current.core, core)) else {
                return Poll::Ready(Err(Error::OutsideTurn));
            };
            if core.sections.depth() >= DEPTH_MAX {
                let what = "the depth of critical sections";
                let limit = DEPTH_MAX;
                return Poll::Ready(Err(Error::Limit { what, limit }));
            }
            let handler = &current.handler;
            match core.sections.open(handler.number, handler.section) {
                Some(number) => Poll::Ready(Ok(Section {
                    core: core.clone(),
                    number,
                })),
                None => {
                    core.sections.wait(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Polls a future inside the section. If that takes longer than the limit, the object is reset.
    pub(crate) async fn run<F: Future>(&self, inside: F) -> F::Output {
        let mut inside = pin!(inside);
        let mut deadline = None;
        poll_fn(|context| {
            let polled = in_section(self.number, || inside.as_mut().poll(context));
            if polled.is_pending() && self.is_over(&mut deadline, context) {
                let limit_ms = LIMIT_MS;
                self.core.stop(CallError::TimedOut { limit_ms });
            }
            polled
        })
        .await
    }

    fn is_over(&self, deadline: &mut Option<Deadline>, context: &mut Context<'_>) -> bool {
        let Some(shard) = self.core.shard.upgrade() else {
            return false;
        };
        let clock = &shard.clock;
        let deadline = deadline.get_or_insert_with(|| clock.sleep_until(clock.now_ms() + LIMIT_MS));
        deadline.as_mut().poll(context).is_ready()
    }
}

type Deadline = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Drop for Section {
    fn drop(&mut self) {
        self.core.sections.close(self.number);
    }
}

impl Ctx {
    /// Keeps everything else out of the object while `section` runs: no other handler of it, however far
    /// it is, is polled before this is done, and no new event begins. Calls that `section` makes itself
    /// may come back. Nests, up to 64 deep.
    ///
    /// If `section` fails the object is reset with its error, and so are the events that wait; what comes
    /// after this call is never run. So is an object whose section takes longer than 30 seconds, by the
    /// house's clock.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Result};
    /// # async fn fetch_settings() -> Result<String> { Ok(String::new()) }
    /// # async fn handler(ctx: &Ctx) -> Result<()> {
    /// let settings = ctx.block_concurrency_while(fetch_settings()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Limit`] if sections are nested too deeply, [`Error::OutsideTurn`] outside of a handler.
    pub async fn block_concurrency_while<R: Reply>(
        &self,
        section: impl Future<Output = R>,
    ) -> Result<R::Value> {
        let open = Section::open(&self.core).await?;
        match open.run(section).await.into_reply() {
            Ok(value) => Ok(value),
            Err(error) => self.core.stop(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_admits_its_own_and_waits_for_one_beside_it() {
        let sections = Sections::default();
        assert!(sections.admits(1, None));
        let outer = sections.open(1, None).expect("nothing is open");
        assert!(sections.admits(1, None) && sections.admits(2, Some(outer)));
        assert!(!sections.admits(2, None));
        assert_eq!(sections.open(1, None), None, "beside it");
        let inner = sections.open(2, Some(outer)).expect("inside it");
        assert!(
            !sections.admits(1, None),
            "the one outside waits for the one inside"
        );
        sections.close(outer);
        assert!(sections.admits(2, None) && !sections.admits(1, None));
        sections.close(inner);
        assert!(sections.admits(1, None));
        assert!(
            sections.open(3, Some(outer)).is_some(),
            "what it came from is closed"
        );
    }
}
