//! What callers want of a class's history: what is said of it, and what it is declared with.
//!
//! ```text
//! said, durably  >  declared, durably  >  the default of whoever has the store open
//! ```

use super::Retention;
use super::retention::Wanted;
use crate::engine::Engine;
use crate::error::Result;
use crate::id::ClassId;

impl Engine {
    /// For how long a class keeps what its objects were: as was [said](Engine::set_retention), or
    /// [declared](Engine::declare_history), or else by default, see [`Builder::retention`](crate::Builder::retention).
    pub fn retention(&self, class: ClassId) -> Retention {
        self.inner.history.retention(class)
    }

    /// Says for how long a class keeps what its objects were, durably. It goes before what the class is declared
    /// with; `None` takes back what was said. A shorter time lets go of what is older with the next
    /// checkpoints; [`Retention::Off`] of everything, at once.
    pub fn set_retention(
        &self,
        class: ClassId,
        retention: impl Into<Option<Retention>>,
    ) -> Result<()> {
        let retention = retention.into().map(Retention::plain);
        self.say(class, |said| said.retention = retention)
    }

    /// What was said with [`Engine::set_retention`].
    pub fn said_retention(&self, class: ClassId) -> Option<Retention> {
        self.inner.history.said(class).retention
    }

    /// Whether the history of a class is thinned out: exact for a day, then the last state of each minute.
    pub fn thinning(&self, class: ClassId) -> bool {
        self.inner.history.is_thinned(class)
    }

    /// Says whether the history of a class is thinned out from now on, durably. It goes before what the class is
    /// declared with; `None` takes back what was said. What is thinned out stays so: a
    /// bookmark of a state that is gone fails with [`Error::NotAvailable`](crate::Error::NotAvailable), a time
    /// leads to the state before it.
    pub fn set_thinning(&self, class: ClassId, is_thinned: impl Into<Option<bool>>) -> Result<()> {
        let thinning = is_thinned.into();
        self.say(class, |said| said.thinning = thinning)
    }

    /// What was said with [`Engine::set_thinning`].
    pub fn said_thinning(&self, class: ClassId) -> Option<bool> {
        self.inner.history.said(class).thinning
    }

    /// Declares what a class wants of its history: for how long it is kept, unless that is left to the default, and
    /// whether it is thinned out. Durable, so that tools keep to it; replaces what was declared before, and counts
    /// where nothing was said. Nothing is written if it is declared so already.
    pub fn declare_history(
        &self,
        class: ClassId,
        retention: Option<Retention>,
        is_thinned: bool,
    ) -> Result<()> {
        let wanted = Wanted {
            retention: retention.map(Retention::plain),
            thinning: is_thinned.then_some(true),
        };
        if self.inner.history.declared(class) == wanted {
            return Ok(());
        }
        let now_ms = self.ready_to_want()?;
        self.inner.history.declare(class, now_ms, wanted);
        self.inner.checkpoint(false).map(drop)
    }

    fn say(&self, class: ClassId, say: impl FnOnce(&mut Wanted)) -> Result<()> {
        let now_ms = self.ready_to_want()?;
        self.inner.history.say(class, now_ms, say);
        self.inner.checkpoint(false).map(drop)
    }

    /// History knows all that was committed until now. Returns the time of it.
    fn ready_to_want(&self) -> Result<u64> {
        self.inner.log.writable()?;
        self.inner.follow_log()?;
        Ok(self.inner.log.last_time_ms())
    }
}
