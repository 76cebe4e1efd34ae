//! Namespaces: the objects of one class, by id or by name.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::class::{Address, Class};
use crate::core::{Current, current};
use crate::error::{Error, Result};
use crate::house::Inner;
use crate::id::ObjectId;
use crate::listing::{Page, Query};
use crate::moves::Move;
use crate::object::Object;
use crate::stub::Stub;
use crate::sweep::Sweep;

/// All objects of a class. Every id names an object, whether it was ever used or not. Cheap to clone,
/// and usable from any thread.
pub struct Namespace<T> {
    pub(crate) house: Arc<Inner>,
    pub(crate) class: Arc<Class>,
    /// What all its ids are bound to.
    jurisdiction: Option<Arc<str>>,
    object: PhantomData<fn() -> T>,
}

impl<T> Clone for Namespace<T> {
    fn clone(&self) -> Self {
        Namespace {
            house: self.house.clone(),
            class: self.class.clone(),
            jurisdiction: self.jurisdiction.clone(),
            object: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Namespace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.class.name).finish()
    }
}

impl<T: Object> Namespace<T> {
    pub(crate) fn new(house: Arc<Inner>, class: Arc<Class>) -> Self {
        Namespace {
            house,
            class,
            jurisdiction: None,
            object: PhantomData,
        }
    }

    /// The id that a name stands for: always the same. Any text will do, the empty one too.
    pub fn id_from_name(&self, name: &str) -> ObjectId {
        self.class.minters.named(name, self.jurisdiction.as_ref())
    }

    /// A fresh id.
    pub fn unique_id(&self) -> ObjectId {
        let mut base = [0; 16];
        base[..8].copy_from_slice(&self.house.engine.random_u64().to_le_bytes());
        base[8..].copy_from_slice(&self.house.engine.random_u64().to_le_bytes());
        self.class
            .minters
            .complete(base, self.jurisdiction.as_ref())
    }

    /// The id with this text, as [`ObjectId`] displays it. Ids of other namespaces are refused, and by a
    /// namespace of a jurisdiction all that are not bound to it.
    pub fn id_from_string(&self, text: &str) -> Result<ObjectId> {
        Ok(self.class.minters.parse(text, self.jurisdiction.as_ref())?)
    }

    /// The objects whose ids are bound to a jurisdiction. The same name means another object in each; an id
    /// tells what it is bound to, and its object lives at the jurisdiction's
    /// [locations](crate::Builder::jurisdiction) only. This namespace takes the ids of all.
    ///
    /// ```
    /// # use dovehouse::{Namespace, Object, Result};
    /// # fn example<Room: Object>(rooms: Namespace<Room>) -> Result<()> {
    /// let european = rooms.jurisdiction("eu")?;
    /// let id = european.id_from_name("lobby");
    /// assert_eq!(id.jurisdiction(), Some("eu"));
    /// assert_ne!(id, rooms.id_from_name("lobby"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Location`] if the house was opened without it.
    pub fn jurisdiction(&self, name: &str) -> Result<Namespace<T>> {
        let mut known = self.house.stores.jurisdictions();
        let found = known.find(|known| ***known == *name).cloned();
        let unknown = || Error::location(name, "the house was opened without it");
        Ok(Namespace {
            jurisdiction: Some(found.ok_or_else(unknown)?),
            ..self.clone()
        })
    }

    /// The object with this id. Nothing is sent and nothing wakes. Calls of an id that is not one of the
    /// namespace's fail with [`CallError::ForeignId`](crate::CallError::ForeignId).
    pub fn get(&self, id: ObjectId) -> T::Stub {
        self.stub(id, None)
    }

    /// The same; if the object is not there yet, the first call creates it at the location that the
    /// [hint](crate::Builder::location_hint) means, unless its jurisdiction forbids that.
    pub fn get_near(&self, id: ObjectId, hint: &str) -> T::Stub {
        self.stub(id, Some(hint))
    }

    fn stub(&self, id: ObjectId, hint: Option<&str>) -> T::Stub {
        let minters = &self.class.minters;
        let address = Address {
            is_foreign: minters.check(id.raw(), self.jurisdiction.as_ref()).is_err(),
            hint: hint.and_then(|hint| self.house.stores.hint(hint)),
            class: self.class.clone(),
            id,
        };
        Stub::new(self.house.clone(), address).into()
    }

    /// The object with this name.
    pub fn get_by_name(&self, name: &str) -> T::Stub {
        let address = Address::of(&self.class, self.id_from_name(name));
        Stub::new(self.house.clone(), address).into()
    }

    /// Moves an object to another location, or with an empty name to the home store. It keeps its id, its
    /// storage and, if it is awake, its memory; calls wait meanwhile. When this returns the move is durable, and
    /// after a crash at any moment the object is in exactly one place, whole. Its history stays where it was made, and
    /// is found from there. See `docs/lifecycle.md`.
    ///
    /// # Errors
    /// [`Error::Location`] for a location that is not known, or outside the id's jurisdiction, or when asked for by
    /// a handler that the object would have to wait for: its own. If the store
    /// fails in the midst of it, the next open says where the object is.
    pub async fn move_to(&self, id: &ObjectId, location: &str) -> Result<()> {
        self.class
            .minters
            .check(id.raw(), self.jurisdiction.as_ref())?;
        let to = self.house.stores.number(location)?;
        let waits = |caller: Current| caller.chain().iter().any(|held| held.object == id.raw());
        if current().is_some_and(waits) {
            let why = "an object cannot be moved by a handler of its own";
            return Err(Error::location(location, why));
        }
        let (reply, answer) = oneshot::channel();
        let address = Address::of(&self.class, id.clone());
        let event = Move::<T> {
            address: address.clone(),
            to,
            reply,
            class: PhantomData,
        };
        let sent = self.house.send(&address, Box::new(event));
        sent.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// A sweep that wakes every sleeping object of the class once, so that
    /// [`Object::migrate`] brings it up to date before anybody needs it. It begins when it is
    /// [run](Sweep::run).
    ///
    /// ```
    /// # use dovehouse::{Namespace, Object, Result};
    /// # async fn example<Room: Object>(rooms: Namespace<Room>) -> Result<()> {
    /// let sweep = rooms.sweep();
    /// let running = tokio::spawn({
    ///     let sweep = sweep.clone();
    ///     async move { sweep.run().await }
    /// });
    /// println!("{} of {}", sweep.progress().done(), sweep.progress().total);
    /// sweep.stop();
    /// running.await.unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sweep(&self) -> Sweep<T> {
        Sweep::new(self.house.clone(), self.class.clone())
    }

    /// The objects of the class that have something stored: by name, size or last write, in several orders.
    /// Nothing wakes. An object that is awake is listed as it was when it was last written whole.
    ///
    /// Looks at the index entries of the whole store and reads those objects that are of the class: some
    /// microseconds each. Needs a tokio runtime.
    ///
    /// ```
    /// # use dovehouse::{Namespace, Object, Order, Query, Result};
    /// # async fn example<Room: Object>(rooms: Namespace<Room>) -> Result<()> {
    /// let query = Query::default().name_prefix("lobby/").order(Order::LastWritten).limit(20);
    /// for room in rooms.objects(query).await?.objects {
    ///     println!("{:?}: {} bytes", room.id, room.bytes);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn objects(&self, query: Query) -> Result<Page> {
        let (house, class) = (self.house.clone(), self.class.clone());
        let list = move || house.list(&class, &query);
        tokio::task::spawn_blocking(list)
            .await
            .map_err(|_| Error::Closed)
    }
}
