//! Callbacks: functions as arguments and results of calls. They run where they were made.

use std::fmt;
use std::pin::pin;
use std::rc::Rc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use crate::core::{Chain, Core, Leave, current};
use crate::ctx::Ctx;
use crate::error::{CallError, Reply};
use crate::transfer::{Transfer, refuse_to_read, refuse_to_write};

/// A function that runs where it was made, whoever calls it. Clones are the same function.
///
/// [`Ctx::callback`] makes one in an object, [`Callback::new`] elsewhere. An object stays in memory while
/// somebody holds a callback of it. What it answers leaves the object when its writes are durable, as everything does.
pub struct Callback<A, R> {
    calls: mpsc::UnboundedSender<Invocation<A, R>>,
}

struct Invocation<A, R> {
    argument: A,
    chain: Chain,
    reply: oneshot::Sender<Result<R, CallError>>,
}

impl<A, R> Clone for Callback<A, R> {
    fn clone(&self) -> Self {
        let calls = self.calls.clone();
        Callback { calls }
    }
}

impl<A, R> fmt::Debug for Callback<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl<A: Transfer, R: Transfer> Callback<A, R> {
    /// A callback outside of objects. Each call of it runs as a task of the tokio runtime that this is
    /// called in.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let double = dovehouse::Callback::new(|number: u32| async move { Ok::<_, String>(2 * number) });
    /// assert_eq!(double.call(21).await, Ok(42));
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new<F, E>(function: impl Fn(A) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<R, E>> + Send + 'static,
        E: fmt::Display + 'static,
    {
        let (calls, mut called) = mpsc::unbounded_channel::<Invocation<A, R>>();
        tokio::spawn(async move {
            while let Some(call) = called.recv().await {
                let answer = function(call.argument);
                tokio::spawn(async move {
                    // A caller that has gone away does not want it.
                    let _gone = call.reply.send(answer.await.into_reply());
                });
            }
        });
        Callback { calls }
    }

    /// Calls the function and waits for its answer. From a handler, the call leaves when what the object
    /// wrote before is durable.
    ///
    /// # Errors
    /// What the function returned, as of a handler; [`CallError::Gone`] if its maker has ended, and the
    /// maker's own error if it was an object that was reset.
    pub async fn call(&self, argument: A) -> Result<R, CallError> {
        let (reply, answer) = oneshot::channel();
        let caller = current();
        let chain = caller
            .as_ref()
            .map_or_else(Chain::default, |caller| caller.chain());
        let invocation = Invocation {
            argument,
            chain,
            reply,
        };
        match caller {
            Some(caller) => {
                let calls = self.calls.clone();
                let leave = move || drop(calls.send(invocation));
                caller.core.emit_as(Leave::AtOnce, Box::new(leave));
            }
            None => drop(self.calls.send(invocation)),
        }
        answer.await.unwrap_or(Err(CallError::Gone))
    }
}

impl Ctx {
    /// A callback of this object. It is a part of the handler that makes it: it runs between the polls of
    /// that, also if it has the object alone, and of others once that has ended. It has no instance, but
    /// storage. Calls of it may overlap.
    ///
    /// ```
    /// # use dovehouse::{Callback, Ctx, Result};
    /// # fn handler(ctx: &Ctx) {
    /// let mine = ctx.clone();
    /// let note = ctx.callback(async move |text: String| mine.kv().put("note", text));
    /// # let _: Callback<String, ()> = note;
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a shard's thread.
    pub fn callback<A, R, E>(
        &self,
        function: impl AsyncFn(A) -> Result<R, E> + 'static,
    ) -> Callback<A, R>
    where
        A: Transfer,
        R: Transfer,
        E: fmt::Display + 'static,
    {
        let (calls, mut called) = mpsc::unbounded_channel();
        let (core, function) = (self.core.clone(), Rc::new(function));
        let section = current().and_then(|current| current.handler.section);
        core.keep();
        spawn_local(async move {
            while let Some(call) = called.recv().await {
                answer(&core, section, function.clone(), call);
            }
            core.let_go();
        });
        Callback { calls }
    }
}

/// Runs a call of an object's callback.
fn answer<A, R, E>(
    core: &Rc<Core>,
    section: Option<u64>,
    function: Rc<impl AsyncFn(A) -> Result<R, E> + 'static>,
    call: Invocation<A, R>,
) where
    A: Transfer,
    R: Transfer,
    E: fmt::Display + 'static,
{
    let id = core.address.id.raw();
    let held = call.chain.iter().rfind(|held| held.object == id).copied();
    let section = held.and_then(|held| held.section).or(section);
    // Whoever it calls must not come back to what its own caller waits in.
    let mode = held.map(|held| held.mode);
    let (core, handler) = (core.clone(), core.handler(call.chain, mode, section));
    core.begin();
    spawn_local(async move {
        let answer = core.run(&handler, pin!(function(call.argument))).await;
        let answer = answer.and_then(Reply::into_reply);
        let leave = move || drop(call.reply.send(answer));
        core.emit_as(Leave::AtOnce, Box::new(leave));
        core.finish();
    });
}

impl<A, R> Serialize for Callback<A, R> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        refuse_to_write::<S>("a callback")
    }
}

impl<'de, A, R> Deserialize<'de> for Callback<A, R> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        refuse_to_read::<D, _>("a callback")
    }
}
