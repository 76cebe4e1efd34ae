//! The register: what the house keeps for itself, in an object of its own in the home store: its classes, what
//! was deployed last, where objects live that do not live at home, and what is to happen to some when they wake.
//!
//! ```text
//! class/UID        a class; see `catalog.rs`
//! deploy/TENANT    what its classes were declared by last; see `catalog.rs`
//! object/ID        the location where an object lives
//! move/ID          a move that has begun: from and to
//! stays/ID         where an object lived before; see `stays.rs`
//! armed/ID         the bookmark that an object is restored to when it wakes next; see `armed.rs`
//! ```
//! Each change is one commit, durable when it returns, so that what it says is true after a crash.

use dovehouse_engine::{ClassId, Engine, List, Object, ObjectId};
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// A tenant of the house's own.
pub(crate) const TENANT: &str = "dovehouse";
const CLASS: &str = "register";
const ID: ObjectId = ObjectId::from_bytes(*b"the register of the dovehouse...");

#[derive(Debug)]
pub(crate) struct Register {
    /// `None` as long as nothing was ever written, and after the house was closed.
    object: Mutex<Option<Object>>,
}

impl Register {
    pub(crate) fn open(engine: &Engine) -> Result<Self> {
        let classes = engine.classes();
        let mut found = classes.iter().filter(|(_, tenant, _)| tenant == TENANT);
        let class = found.find(|(_, _, name)| name == CLASS);
        let object = class
            .map(|(class, ..)| engine.wake(*class, ID))
            .transpose()?;
        Ok(Register {
            object: Mutex::new(object),
        })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match &*self.object.lock() {
            Some(object) => Ok(object.get(key)?.map(|value| value.into_owned())),
            None => Ok(None),
        }
    }

    /// What has a key with this beginning: the rest of the key, and the value.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let object = self.object.lock();
        let Some(object) = &*object else {
            return Ok(Vec::new());
        };
        let listed = object.list(&List::prefix(prefix.as_bytes())).map(|listed| {
            let (key, value) = listed?;
            Ok((key[prefix.len()..].to_vec(), value.into_owned()))
        });
        listed.collect()
    }

    /// Changes the register, durably. An error leaves it as it was, unless the store has stopped.
    pub(crate) fn change(
        &self,
        engine: &Engine,
        act: impl FnOnce(&mut Object) -> Result<()>,
    ) -> Result<()> {
        let mut object = self.object.lock();
        if object.is_none() {
            let class: ClassId = engine.class_of(TENANT, CLASS)?;
            *object = Some(engine.wake(class, ID)?);
        }
        let object = object.as_mut().expect("it was opened");
        let committed = act(object).and_then(|()| Ok(object.commit()?));
        match committed {
            Ok(Some(ticket)) => drop(ticket.wait().map_err(dovehouse_engine::Error::Log)?),
            Ok(None) => {}
            Err(error) => {
                object.rollback();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets go of the object, before its store is closed.
    pub(crate) fn close(&self) {
        drop(self.object.lock().take());
    }
}

/// A key of the register.
pub(crate) fn key(prefix: &str, rest: &[u8]) -> Vec<u8> {
    [prefix.as_bytes(), rest].concat()
}

/// Something in the register makes no sense.
pub(crate) fn malformed(what: &str) -> Error {
    Error::Engine(dovehouse_engine::Error::Damaged {
        what: format!("the register's {what}"),
        why: "its fields make no sense".into(),
    })
}
