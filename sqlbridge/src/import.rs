//! From a plain SQLite file to an object.
//!
//! 1. The header and the length are looked at, then SQLite opens the file for reading; if it has a log,
//!    a copy of both.
//! 2. SQLite checks every page and row, with bounds for the work that this may take.
//! 3. Its schema is looked through for what an object's database cannot have.
//! 4. `VACUUM INTO` writes its content to a new file of our page size and settings; reserved tables are
//!    dropped there.
//! 5. Pages, keys and alarm go into the object and are committed as one record. Until then the object is
//!    not touched.

mod header;
mod host;
mod image;
mod refusal;
mod schema;
mod source;

use std::path::{Path, PathBuf};

use dovehouse_engine::{Object, ObjectId, Ticket};

use crate::error::{Error, Result};
pub(crate) use host::write as write_for_workerd;
use image::Image;
pub use refusal::Refusal;
use schema::Schema;
pub(crate) use schema::quoted;
use source::Source;

/// What a file may have, unless told otherwise: as much as a transaction, 1 GiB.
const BYTES_MAX: u64 = 1 << 30;

/// Puts a plain SQLite file into an object, whatever its page size, encoding, journal mode or vacuum mode is.
///
/// The file is not changed, also if a write-ahead log or a journal lies beside it; what is in these is
/// part of the database. Nobody may write to it meanwhile: stop `wrangler dev` first. It is checked whole, and
/// refused if anything about it is wrong, with the object as it was.
///
/// The host's tables of a file by workerd or miniflare become what they stand for: `_cf_KV` the
/// object's keys, with values as they are there, serialised by V8, and `_cf_METADATA` its alarm. Other names
/// that begin with `_cf_` are reserved: tables of this kind are left out, anything else of this kind is refused.
///
/// It takes space in the directory for temporary files: as much as the file, and twice that if it has a log or
/// pages of another size than 4 KiB.
///
/// ```
/// # use dovehouse_engine::{Engine, ObjectId};
/// use dovehouse_sqlbridge::{Connection, Error, Import, Refusal};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// # let class = engine.class("Room")?;
/// # let file = dir.path().join("room.sqlite");
/// # let stock = Connection::open_file(&file)?;
/// # stock.exec("CREATE TABLE bird(name TEXT)", ())?;
/// # drop(stock);
/// let mut room = engine.wake(class, ObjectId::from_bytes([1; 32]))?;
/// let imported = Import::new(&file).run(&mut room)?;
/// imported.ticket.expect("the file has a table").wait()?;
///
/// let again = Import::new(&file).run(&mut room);
/// assert!(matches!(again, Err(Error::Import { refusal: Refusal::NotEmpty, .. })));
/// Import::new(&file).replace(true).run(&mut room)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Import {
    path: PathBuf,
    replace: bool,
    bytes_max: u64,
}

/// What came into an object.
#[derive(Debug)]
#[non_exhaustive]
pub struct Imported {
    /// Database pages, of [`PAGE_BYTES`](dovehouse_engine::PAGE_BYTES) each; none if the file has neither tables
    /// nor a user version or application id.
    pub pages: u32,
    /// Keys.
    pub keys: u64,
    /// When the alarm is due, in milliseconds since 1970.
    pub alarm_ms: Option<u64>,
    /// Reserved tables whose content was left out.
    pub left_out: Vec<String>,
    /// The commit; `None` if there was nothing to write.
    pub ticket: Option<Ticket>,
}

impl Import {
    /// An import of this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Import {
            path: path.into(),
            replace: false,
            bytes_max: BYTES_MAX,
        }
    }

    /// Whether an object that is not empty is replaced: its tables, keys and alarms go in the same
    /// commit. Default `false`: it is refused.
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// The most that the file may have, and the log beside it, in bytes each. Default 1 GiB, which is also what a
    /// transaction may write to an object if its class has no
    /// [`Quota`](dovehouse_engine::Quota) for that.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Reads and checks the file, and commits it to the object. A [`Database`](crate::Database) that is open on
    /// the object must be closed before: it does not notice.
    ///
    /// Fails with [`Error::Import`] for what is wrong with the file, and with [`Error::Engine`] if the store
    /// cannot take it, such as for a full disk or a quota; the object is as it was. An object with a transaction
    /// that is open is refused with [`Error::Type`].
    pub fn run(&self, object: &mut Object) -> Result<Imported> {
        if object.is_touched() {
            let what = "the object has a transaction open: commit it or roll it back first";
            return Err(Error::Type(what.into()));
        }
        if !self.replace && !object.is_empty() {
            return Err(refused(&self.path, Refusal::NotEmpty));
        }
        let imported = self.read_and_write(object);
        imported.map_err(|error| {
            object.rollback();
            match error {
                Error::Engine(error) => Error::Engine(error),
                other => refused(&self.path, other.into()),
            }
        })
    }

    fn read_and_write(&self, object: &mut Object) -> Result<Imported> {
        let mut imported = Imported {
            pages: 0,
            keys: 0,
            alarm_ms: None,
            left_out: Vec::new(),
            ticket: None,
        };
        let source = open(&self.path, self.bytes_max)?;
        if let Some((source, schema)) = &source {
            let _effort = source.connection.handle().limit_effort(source.effort());
            schema.check_modules(&source.connection)?;
            let image = Image::rebuild(source, schema)?;
            if self.replace {
                object.clear(false);
            }
            if let Some(image) = &image {
                image.write(object)?;
                imported.pages = image.pages;
            }
            imported.keys = host::put_keys(source, &schema.reserved, object)?;
            imported.alarm_ms = host::set_alarm(source, &schema.reserved, object)?;
            imported.left_out = schema.left_out();
        } else if self.replace {
            object.clear(false);
        }
        imported.ticket = object.commit()?;
        Ok(imported)
    }
}

/// The names of objects that the `metadata.sqlite` of a directory of workerd's or miniflare's knows. It has
/// those that have an alarm, and only from versions that keep names; an older one gives none. Fails as
/// [`Import::run`] does for a file that is damaged.
pub fn names_in_metadata(path: &Path) -> Result<Vec<(ObjectId, String)>> {
    let read = || -> Result<_> {
        let Some((source, schema)) = open(path, BYTES_MAX)? else {
            return Ok(Vec::new());
        };
        let _effort = source.connection.handle().limit_effort(source.effort());
        host::names(&source, &schema.reserved)
    };
    read().map_err(|error| refused(path, error.into()))
}

/// Opens and checks a file, and reads its schema; `None` if it has no bytes at all.
fn open(path: &Path, bytes_max: u64) -> Result<Option<(Source, Schema)>> {
    let failed = |refusal| refused(path, refusal);
    let Some(source) = Source::open(path, bytes_max).map_err(failed)? else {
        return Ok(None);
    };
    let effort = source.connection.handle().limit_effort(source.effort());
    source.check().map_err(failed)?;
    let schema = Schema::read(&source.connection)?;
    drop(effort);
    Ok(Some((source, schema)))
}

fn refused(path: &Path, refusal: Refusal) -> Error {
    Error::Import {
        path: path.to_owned(),
        refusal,
    }
}
