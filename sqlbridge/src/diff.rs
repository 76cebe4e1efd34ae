//! What differs between two states of an object: keys, alarms, schema and rows.
//!
//! Both states are read in order and merged, so that what is held in memory is one entry of each, and what the
//! report lists.

mod alarms;
mod order;
mod tables;

use std::cmp::Ordering;
use std::sync::Arc;

use dovehouse_engine::{List, Object};
use serde::{Serialize, Serializer};

pub use alarms::{AlarmChange, AlarmState};

use crate::database::Database;
use crate::error::Result;
use crate::file::SharedObject;
use crate::policy::{Budget, SqlPolicy};
use crate::value::Value;

/// What the listed keys and rows may take.
const LISTED_BYTES_MAX: usize = 16 << 20;

/// What differs between two states of an object, or of two objects. As a document it has bytes in hex.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// The object's keys.
    pub keys: KeysDiff,
    /// The alarms that differ, by name.
    pub alarms: Vec<AlarmChange>,
    /// Tables, indexes, views and triggers, by kind and name.
    pub schema: Vec<SchemaChange>,
    /// The tables of which some row differs, by name; virtual ones by the tables that they are kept in.
    pub tables: Vec<TableDiff>,
}

/// How many there are of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Only in the second state.
    pub added: u64,
    /// Only in the first one.
    pub removed: u64,
    /// In both, and not the same.
    pub changed: u64,
}

/// The keys that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeysDiff {
    /// All of them.
    pub counts: Counts,
    /// The first ones, in the order of the keys.
    pub listed: Vec<KeyChange>,
}

/// A key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyChange {
    /// The key.
    #[serde(serialize_with = "bytes")]
    pub key: Vec<u8>,
    /// Its value in the first state, if it was there.
    #[serde(serialize_with = "some_bytes")]
    pub before: Option<Vec<u8>>,
    /// Its value in the second state, if it is there.
    #[serde(serialize_with = "some_bytes")]
    pub after: Option<Vec<u8>>,
}

/// A part of the schema that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SchemaChange {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The statement that made it, in the first state.
    pub before: Option<String>,
    /// The same in the second state.
    pub after: Option<String>,
}

/// The rows of a table that differ. Rows are the same one if they have the same primary key, or rowid if the table
/// has no primary key; if these columns differ, all rows do. Otherwise the columns that both states have are compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TableDiff {
    /// The table.
    pub name: String,
    /// The columns that tell rows apart.
    pub key: Vec<String>,
    /// The columns in the first state, generated ones left out; none if it was not there.
    pub columns_before: Vec<String>,
    /// The columns in the second state.
    pub columns_after: Vec<String>,
    /// All rows that differ.
    pub counts: Counts,
    /// The first ones, in the order of their keys.
    pub listed: Vec<RowChange>,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RowChange {
    /// The values of the key.
    pub key: Vec<Value>,
    /// The row in the first state, if it was there.
    pub before: Option<Vec<Value>>,
    /// The row in the second state, if it is there.
    pub after: Option<Vec<Value>>,
}

impl Diff {
    /// What differs between two states: usually of one object at two points, by
    /// [`Engine::past`](dovehouse_engine::Engine::past). Of the keys, and of the rows of each table, the first `limit`
    /// are listed, fewer if they are large; all are counted. No open transaction of a database is seen.
    ///
    /// Reads both states whole. In memory are the schema, what is listed, and a row or key of each. A table whose
    /// primary key has a collation of its own is sorted on the way, on the disk if it is large.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dovehouse_engine::{Engine, ObjectId};
    /// # use dovehouse_sqlbridge::Diff;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path())?;
    /// # let (class, id) = (engine.class("Room")?, ObjectId::from_bytes([1; 32]));
    /// let mut room = engine.wake(class, id)?;
    /// room.put(b"topic", b"doves")?;
    /// let before = room.bookmark()?;
    /// room.put(b"topic", b"pigeons")?;
    /// let after = room.bookmark()?;
    /// room.commit()?;
    /// # if let Some(ticket) = room.last_ticket() { ticket.wait()?; }
    /// let past = |bookmark| engine.past(&id, bookmark).map(|object| Arc::new(object.into()));
    /// let diff = Diff::between(&past(&before)?, &past(&after)?, 10)?;
    /// assert_eq!(diff.keys.counts.changed, 1);
    /// assert_eq!(diff.keys.listed[0].after.as_deref(), Some(&b"pigeons"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn between(before: &SharedObject, after: &SharedObject, limit: usize) -> Result<Diff> {
        if Arc::ptr_eq(before, after) {
            return Ok(Diff::default());
        }
        let mut room = Room {
            items: limit,
            bytes: LISTED_BYTES_MAX,
        };
        let keys = keys(&before.lock(), &after.lock(), &mut room)?;
        let alarms = alarms::between(before.lock().alarms(), after.lock().alarms());
        let has_pages = |object: &SharedObject| object.lock().page_count() > 0;
        if !has_pages(before) && !has_pages(after) {
            return Ok(Diff {
                keys,
                alarms,
                ..Diff::default()
            });
        }
        // Whoever waits for the answer can also stop waiting.
        let policy = SqlPolicy::native().budget(Budget::Unlimited);
        let before = Database::open_with(before.clone(), &policy)?;
        let after = Database::open_with(after.clone(), &policy)?;
        Ok(Diff {
            keys,
            alarms,
            schema: tables::schema(&before, &after)?,
            tables: tables::rows(&before, &after, limit, &mut room)?,
        })
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.keys.counts.total() == 0
            && self.alarms.is_empty()
            && self.schema.is_empty()
            && self.tables.is_empty()
    }
}

impl Counts {
    /// All together.
    pub fn total(&self) -> u64 {
        self.added + self.removed + self.changed
    }

    fn count(&mut self, is_before: bool, is_after: bool) {
        match (is_before, is_after) {
            (true, true) => self.changed += 1,
            (true, false) => self.removed += 1,
            (false, _) => self.added += 1,
        }
    }
}

/// Room for what is listed.
#[derive(Debug)]
struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    /// Whether one more of this size has room. Behind one that has none nothing is listed: it would be a gap.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.items > 0 && bytes <= self.bytes;
        match fits {
            true => {
                self.items -= 1;
                self.bytes -= bytes;
            }
            false => self.items = 0,
        }
        fits
    }
}

fn keys(before: &Object, after: &Object, room: &mut Room) -> Result<KeysDiff> {
    let mut found = KeysDiff::default();
    let (all, order) = (List::all(), |one: &(_, _), other: &(_, _)| {
        Ord::cmp(&one.0, &other.0)
    });
    merge(before.list(&all), after.list(&all), order, |one, other| {
        if one == other {
            return;
        }
        found.counts.count(one.is_some(), other.is_some());
        let bytes = [&one, &other].into_iter().flatten();
        let bytes = bytes.map(|(key, value)| key.len() + value.len()).sum();
        let Some((key, _)) = one.as_ref().or(other.as_ref()) else {
            return;
        };
        if room.take(bytes) {
            found.listed.push(KeyChange {
                key: key.to_vec(),
                before: one.map(|(_, value)| value.into_owned()),
                after: other.map(|(_, value)| value.into_owned()),
            });
        }
    })?;
    Ok(found)
}

/// NULL, numbers and texts as they are; a blob as an object with its bytes in hex, `{"hex": "00ff"}`.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_none(),
            Value::Integer(integer) => serializer.serialize_i64(*integer),
            Value::Real(real) => serializer.serialize_f64(*real),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Blob(bytes) => serializer.collect_map([("hex", hex(bytes))]),
        }
    }
}

/// Calls `pair` with what two sorted sequences have, side by side where they are equal in order.
fn merge<T, E>(
    before: impl Iterator<Item = Result<T, E>>,
    after: impl Iterator<Item = Result<T, E>>,
    order: impl Fn(&T, &T) -> Ordering,
    mut pair: impl FnMut(Option<T>, Option<T>),
) -> Result<(), E> {
    let (mut before, mut after) = (before.peekable(), after.peekable());
    loop {
        let which = match (before.peek(), after.peek()) {
            (None, None) => return Ok(()),
            (Some(Ok(one)), Some(Ok(other))) => order(one, other),
            (Some(Err(_)), _) | (Some(_), None) => Ordering::Less,
            (_, Some(_)) => Ordering::Greater,
        };
        let one = match which {
            Ordering::Greater => None,
            _ => before.next().transpose()?,
        };
        let other = match which {
            Ordering::Less => None,
            _ => after.next().transpose()?,
        };
        pair(one, other);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(bytes))
}

fn some_bytes<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_deref().map(hex).serialize(serializer)
}
