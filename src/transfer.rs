//! What arguments and results must be, so that a call can cross to another process.
//!
//! Within a process they are moved as they are, and never serialised. The types have to say all the same how
//! they would be: a program whose calls cannot leave the process would find out when it is too late.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What can be an argument or a result of a call: everything that serde can write and read, is owned, and
/// is `Send`. Nobody implements it by hand.
///
/// [`Callback`](crate::Callback), [`Stream`](crate::Stream) and stubs are for what is not data. What is
/// for this process alone, such as a channel, goes into a [`Local`].
///
/// ```compile_fail
/// struct Handle(std::sync::mpsc::Sender<u8>); // No serde here.
/// struct Desk;
/// #[dovehouse::object]
/// impl Desk {
///     fn new() -> Self { Desk }
///     pub fn take(&mut self, handle: Handle) {}
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument or a result of a call: another process could not be sent it",
    label = "this is not serialisable, owned and `Send`",
    note = "derive `serde::Serialize` and `serde::Deserialize`, or wrap what never leaves this process in `dovehouse::Local`"
)]
pub trait Transfer: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Transfer for T {}

/// Fails to compile for other types. What the macro puts into each method of a stub.
#[doc(hidden)]
pub const fn check_transfer<T: Transfer>() {}

/// A value that stays in this process, as an argument or a result of a call. Sending it to another fails.
///
/// ```
/// use dovehouse::Local;
/// let answers = Local(std::sync::mpsc::channel::<u8>().0);
/// assert!(serde_json::to_string(&answers).is_err());
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Local<T>(pub T);

impl<T> From<T> for Local<T> {
    fn from(value: T) -> Self {
        Local(value)
    }
}

impl<T> Deref for Local<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Local<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Local<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What serde is told by a type that has no bytes.
pub(crate) fn refuse_to_write<S: Serializer>(what: &str) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom(format!(
        "{what} stays in its process"
    )))
}

pub(crate) fn refuse_to_read<'de, D: Deserializer<'de>, T>(what: &str) -> Result<T, D::Error> {
    Err(serde::de::Error::custom(format!(
        "{what} stays in its process"
    )))
}

impl<T> Serialize for Local<T> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        refuse_to_write::<S>("a local value")
    }
}

impl<'de, T> Deserialize<'de> for Local<T> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        refuse_to_read::<D, _>("a local value")
    }
}
