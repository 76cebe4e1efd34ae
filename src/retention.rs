//! For how long objects can be had as they were: as an operator says, as a class declares, or as the house does.
//!
//! ```text
//! Namespace::set_retention, `dovehouse retention`  >  #[dovehouse::object(retention = …)]  >  Builder::retention
//! ```
//! All three are kept in the stores, so that tools keep to them too: the first when it is said, the others when the
//! class is asked for.

use dovehouse_engine::{ClassId, Retention};

use crate::class::Class;
use crate::error::Result;
use crate::house::{Builder, Inner};
use crate::locations::HOME;
use crate::namespace::Namespace;
use crate::object::Object;

/// What a class declares of its history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    retention: Option<Retention>,
    is_thinned: bool,
}

impl Builder {
    /// For how long objects of classes that [declare](crate::Object::RETENTION) nothing can be had as they were.
    /// It counts for a class from when that is asked for, and is kept in the store. Default
    /// [`Retention::DEFAULT`], which is 30 days.
    ///
    /// ```
    /// # use dovehouse::{Dovehouse, Retention};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// let week = Retention::For(Duration::from_secs(7 * 24 * 60 * 60));
    /// let house = Dovehouse::builder(dir.path()).retention(week).open()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }
}

impl Declared {
    pub(crate) fn of<T: Object>(house: &Inner) -> Self {
        Declared {
            retention: T::RETENTION.or(house.retention),
            is_thinned: T::THINNED,
        }
    }
}

impl Inner {
    /// Writes down what a class declares, in a store that has it.
    pub(crate) fn declare_history(
        &self,
        declared: Declared,
        store: usize,
        number: ClassId,
    ) -> Result<()> {
        let Declared {
            retention,
            is_thinned,
        } = declared;
        let engine = self.engine_at(store);
        Ok(engine.declare_history(number, retention, is_thinned)?)
    }

    /// Has a store that has just got a class know what was said of it at home.
    pub(crate) fn repeat_what_was_said(
        &self,
        class: &Class,
        store: usize,
        number: ClassId,
    ) -> Result<()> {
        let home = self.class_in(class, HOME);
        let Some(home) = home.filter(|_| store != HOME) else {
            return Ok(());
        };
        let engine = self.engine_at(store);
        if let Some(retention) = self.engine.said_retention(home) {
            engine.set_retention(number, retention)?;
        }
        if let Some(is_thinned) = self.engine.said_thinning(home) {
            engine.set_thinning(number, is_thinned)?;
        }
        Ok(())
    }
}

impl<T: Object> Namespace<T> {
    /// For how long objects of the class can be had as they were.
    pub fn retention(&self) -> Retention {
        self.house.engine.retention(self.at_home())
    }

    /// Says for how long, durably. It goes before what the class [declares](crate::Object::RETENTION), now and in
    /// later versions of the program, until `None` takes it back. A shorter time lets go of what is older soon,
    /// [`Retention::Off`] of everything, at once.
    pub fn set_retention(&self, retention: impl Into<Option<Retention>>) -> Result<()> {
        let retention = retention.into();
        self.in_each_store(|engine, class| engine.set_retention(class, retention))
    }

    /// Whether the history of the class is thinned out: exact for a day, then the last state of each minute.
    pub fn thinning(&self) -> bool {
        self.house.engine.thinning(self.at_home())
    }

    /// Says whether it is, durably. It goes before what the class [declares](crate::Object::THINNED), until `None`
    /// takes it back. What is thinned out stays so.
    pub fn set_thinning(&self, is_thinned: impl Into<Option<bool>>) -> Result<()> {
        let is_thinned = is_thinned.into();
        self.in_each_store(|engine, class| engine.set_thinning(class, is_thinned))
    }

    fn at_home(&self) -> ClassId {
        let class = self.house.class_in(&self.class, HOME);
        class.expect("a class in use is in the home store")
    }

    fn in_each_store(
        &self,
        say: impl Fn(&dovehouse_engine::Engine, ClassId) -> dovehouse_engine::Result<()>,
    ) -> Result<()> {
        for (store, engine) in self.house.engines() {
            if let Some(class) = self.house.class_in(&self.class, store) {
                say(engine, class)?;
            }
        }
        Ok(())
    }
}
