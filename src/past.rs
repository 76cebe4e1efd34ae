//! Objects as they were, for reading.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use dovehouse_engine::{Bookmark, List, Listed, Object};
use dovehouse_sqlbridge::{
    Access, Cursor, Database, Parameters, SharedObject, SqlPolicy, Statements,
};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use serde::de::DeserializeOwned;

use crate::class::Class;
use crate::encoding::decode;
use crate::error::{Error, Result};

/// An object as it was at a bookmark; see [`Namespace::past`](crate::Namespace::past). It stays so, whatever
/// becomes of the object itself, and as many as are wanted may be open at once. It can only be read.
///
/// It belongs to no thread: it may be sent to another, and shared. Reading runs on the thread that calls, and
/// blocks it while the log, files of history or SQLite are at work: out of async code that is not to wait for a
/// disk, give it to `tokio::task::spawn_blocking`.
pub struct Past {
    object: SharedObject,
    bookmark: Bookmark,
    class: Arc<Class>,
    policy: SqlPolicy,
    /// Opened at its first use.
    database: Mutex<Option<Database>>,
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Past")
            .field("bookmark", &self.bookmark)
            .finish_non_exhaustive()
    }
}

impl Past {
    pub(crate) fn new(
        object: Object,
        bookmark: Bookmark,
        class: Arc<Class>,
        policy: SqlPolicy,
    ) -> Self {
        Past {
            object: Arc::new(Mutex::new(object)),
            bookmark,
            class,
            policy,
            database: Mutex::default(),
        }
    }

    /// What it was opened at.
    pub fn bookmark(&self) -> Bookmark {
        self.bookmark
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let object = self.object.lock();
        Ok(object.get(key.as_ref())?.map(Cow::into_owned))
    }

    /// The typed value of a key. Fails with [`Error::Value`](crate::Error::Value) if it is not of this type.
    pub fn get_as<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        let object = self.object.lock();
        let value = object.get(key.as_ref())?;
        value.map(|value| decode(&value)).transpose()
    }

    /// Keys and values in a range.
    pub fn list(&self, list: &List) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let owned = |listed: Listed<'_>| {
            let (key, value) = listed?;
            Ok((key.into_owned(), value.into_owned()))
        };
        self.object.lock().list(list).map(owned).collect()
    }

    /// Keys and typed values in a range.
    pub fn list_as<T: DeserializeOwned>(&self, list: &List) -> Result<Vec<(Vec<u8>, T)>> {
        let typed = |listed: Listed<'_>| {
            let (key, value) = listed?;
            Ok((key.into_owned(), decode(&value)?))
        };
        self.object.lock().list(list).map(typed).collect()
    }

    /// The names of the alarms that were set, with their times in milliseconds since 1970. The object's own has
    /// the empty name.
    pub fn alarms(&self) -> Vec<(String, u64)> {
        let object = self.object.lock();
        let alarms = object.alarms().iter();
        alarms
            .map(|alarm| (alarm.name.to_string(), alarm.due_ms))
            .collect()
    }

    /// The object's database as it was: queries as in handlers, under the same
    /// [policy](crate::Builder::sql_policy). Opened with the first statement.
    ///
    /// ```
    /// # use dovehouse::{Bookmark, Namespace, Object, ObjectId, Result};
    /// # async fn example<Room: Object>(rooms: Namespace<Room>, id: &ObjectId, then: &Bookmark) -> Result<()> {
    /// let past = rooms.past(id, then)?;
    /// let count = move || -> Result<u64> {
    ///     let counted = past.sql().exec("SELECT count(*) FROM message WHERE author = ?", ("dove",))?;
    ///     Ok(counted.one()?.get(0)?)
    /// };
    /// let count = tokio::task::spawn_blocking(count).await.unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sql(&self) -> PastSql<'_> {
        PastSql { past: self }
    }

    fn database(&self) -> Result<MappedMutexGuard<'_, Database>> {
        self.class.check_sql()?;
        let mut database = self.database.lock();
        if database.is_none() {
            *database = Some(Database::open_with(self.object.clone(), &self.policy)?);
        }
        Ok(MutexGuard::map(database, |database| {
            database.as_mut().expect("it was opened")
        }))
    }
}

/// The database of an object as it was; see [`Past::sql`].
#[derive(Clone, Copy)]
pub struct PastSql<'a> {
    past: &'a Past,
}

impl fmt::Debug for PastSql<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PastSql").field(&self.past.bookmark).finish()
    }
}

impl Access for PastSql<'_> {
    type Error = Error;

    fn with<R>(
        &self,
        act: impl FnOnce(Statements<'_>) -> dovehouse_sqlbridge::Result<R>,
    ) -> Result<R> {
        Ok(self.past.database()?.with_statements(act)?)
    }
}

impl<'a> PastSql<'a> {
    /// Runs one statement or several, which read. The last one's rows are the cursor's, and the parameters are
    /// for the last one; the rows of the others are dropped. Several cursors may be open.
    ///
    /// # Errors
    /// The engine's [`Past`](dovehouse_engine::Error::Past), within [`Error::Sql`], for a statement that writes,
    /// temporary tables included; [`Error::NoSql`] if the class has no SQL; and what SQLite says of the statement,
    /// as [`Error::Sql`]: a table that was not there then does not exist.
    pub fn exec(&self, sql: &str, parameters: impl Parameters) -> Result<Cursor<PastSql<'a>>> {
        let database = self.past.database()?;
        Ok(database.exec_through(*self, sql, parameters)?)
    }

    /// The bytes of the database's pages in use, as it was.
    pub fn database_size(&self) -> Result<u64> {
        Ok(self.past.database()?.size()?)
    }
}
