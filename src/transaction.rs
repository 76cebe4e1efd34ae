//! Transactions that last over awaits.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use crate::core::Core;
use crate::ctx::Ctx;
use crate::error::{CallError, Error, Result};
use crate::sections::Section;
use crate::storage::Storage;

/// A transaction that is open; see [`Ctx::transaction`].
pub struct Transaction {
    core: Rc<Core>,
    has_ended: Cell<bool>,
    rolled_back: Cell<bool>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("rolled_back", &self.rolled_back)
            .finish_non_exhaustive()
    }
}

impl Transaction {
    fn begin(core: &Rc<Core>) -> Result<Self> {
        // What the turn did before is not this transaction's.
        let is_outermost = !core.with_storage(|storage| Ok(storage.is_in_transaction()))?;
        if is_outermost && let Err(error) = core.end_turn() {
            core.stop(CallError::of_commit(error));
        }
        core.with_storage(Storage::begin)?;
        Ok(Transaction {
            core: core.clone(),
            has_ended: Cell::new(false),
            rolled_back: Cell::new(false),
        })
    }

    /// Has the transaction undone when it ends, whatever its closure returns. What it wrote stays visible
    /// inside until then.
    pub fn rollback(&self) {
        self.rolled_back.set(true);
    }

    fn end(&self, keep: bool) -> Result<()> {
        if self.has_ended.replace(true) {
            return Ok(());
        }
        let keep = keep && !self.rolled_back.get();
        let ended = self.core.with_open_storage(|storage| storage.end(keep));
        ended
            .unwrap_or(Err(Error::OutsideTurn))
            .map_err(|error| match error {
                Error::Sql(dovehouse_sqlbridge::Error::TurnUndone) => Error::TransactionUndone,
                other => other,
            })
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // It was dropped in the midst. If undoing fails the turn's commit will.
        let _ = self.end(false);
    }
}

impl Ctx {
    /// Runs `act` as one transaction, however often it awaits: keys, tables and alarm are changed all
    /// together when it returns `Ok`, and are as they were when it returns an error, asks for a
    /// [rollback](Transaction::rollback), or is dropped.
    ///
    /// It is a critical section, as [`block_concurrency_while`](Ctx::block_concurrency_while) is, with the
    /// same limits; an error does not reset the object. What the turn wrote before commits first. Messages
    /// to WebSockets wait for the end. Calls that `act` makes leave at once, since it may wait for
    /// their answers: they are not undone. Nests; [`Sql::transaction`](crate::Sql::transaction) is for
    /// transactions without awaits, and may be used inside.
    ///
    /// ```
    /// # use dovehouse::{Ctx, Error, Result};
    /// # async fn rate() -> i64 { 2 }
    /// # async fn handler(ctx: &Ctx) -> Result<()> {
    /// ctx.transaction(async |_| {
    ///     let cents: i64 = ctx.kv().get_as("cents")?.unwrap_or_default();
    ///     ctx.kv().put_as("cents", &(cents * rate().await))
    /// })
    /// .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `act`; [`Error::TransactionUndone`] if an error of the database inside has undone it
    /// before; [`Error::Limit`] if it is nested too deeply.
    pub async fn transaction<T, E: From<Error>>(
        &self,
        act: impl AsyncFnOnce(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let section = Section::open(&self.core).await?;
        let transaction = Transaction::begin(&self.core)?;
        let acted = section.run(act(&transaction)).await;
        transaction.end(acted.is_ok())?;
        acted
    }
}
