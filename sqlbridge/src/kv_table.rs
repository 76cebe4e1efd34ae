//! The table `kv(key, value)` that is in every object's database: the object's keys, for SQL.
//!
//! What it writes goes where [`Object::put`] and [`Object::delete`] write, so it becomes durable with the
//! turn's tables and alarm, and is undone with them: the object's own savepoints answer SQLite's.
//!
//! Keys are bytes. SQL sees them as text where they are UTF-8 without a NUL, else as a blob; as operands
//! both are the bytes that they have. The order is that of the bytes, whatever SQLite would say of texts
//! and blobs.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dovehouse_engine::{Error as EngineError, List, Object, Savepoint};
use libsqlite3_sys as sqlite;
use parking_lot::Mutex;

use crate::error::Result;
use crate::ffi::Handle;
use crate::file::{SharedObject, Side};
use crate::value::Value;
use crate::vtab::{self, Access, Compare, Fault, Key, Rows, Table, Write};

const KEY: usize = 0;
const VALUE: usize = 1;

/// A scan takes so many keys at a time, then twice as many, and so on: many are stopped early.
const BATCH_FIRST: usize = 4;
const BATCH_MAX: usize = 256;
/// And not many more when their values are large.
const BATCH_BYTES: usize = 64 << 10;

/// Makes the table known to a connection: it shows the keys of the object that the connection has at the
/// time. It costs about 200 bytes until it is used.
pub(crate) fn register(handle: &Handle, side: Arc<Side>) -> Result<()> {
    let keys = Keys { side };
    let savepoints = Mutex::default();
    vtab::register(handle, c"kv", Arc::new(KvTable { keys, savepoints }))
}

struct KvTable {
    keys: Keys,
    /// For each of SQLite's savepoints, the object's.
    savepoints: Mutex<Vec<Savepoint>>,
}

/// The way to the connection's object of the moment, and for its errors.
#[derive(Clone)]
struct Keys {
    side: Arc<Side>,
}

impl Keys {
    fn object(&self) -> Result<SharedObject, Fault> {
        let object = self.side.object.lock().clone();
        object.ok_or_else(|| Fault {
            code: sqlite::SQLITE_IOERR,
            message: "the connection has no object".into(),
        })
    }

    /// The engine's own words go beside SQLite's code, as with pages. What the transaction did so far is
    /// given up.
    fn unreadable(&self, error: EngineError) -> Fault {
        let message = error.to_string();
        *self.side.error.lock() = Some(error);
        Fault {
            code: sqlite::SQLITE_IOERR_READ,
            message,
        }
    }

    /// A write did not succeed. Unless it only was too large, the object's transaction is in doubt, so it is
    /// rolled back, and the code is one that makes SQLite give up its own.
    fn failed(&self, object: &mut Object, error: EngineError) -> Fault {
        let message = error.to_string();
        let code = match error {
            EngineError::TooBig { .. } => sqlite::SQLITE_TOOBIG,
            error => {
                object.rollback();
                self.side.lost.store(true, Ordering::Relaxed);
                *self.side.error.lock() = Some(error);
                sqlite::SQLITE_IOERR_WRITE
            }
        };
        Fault { code, message }
    }

    fn put(&self, object: &mut Object, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let put = object.put(key, value);
        put.map_err(|error| self.failed(object, error))
    }

    fn delete(&self, object: &mut Object, key: &[u8]) -> Result<(), Fault> {
        let deleted = object.delete(key).map(drop);
        deleted.map_err(|error| self.failed(object, error))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let object = self.object()?;
        let object = object.lock();
        let value = object.get(key).map_err(|error| self.unreadable(error))?;
        Ok(value.map(|value| value.into_owned()))
    }

    fn refuse_duplicate(&self, key: &[u8], replace: bool) -> Result<(), Fault> {
        if replace || self.get(key)?.is_none() {
            return Ok(());
        }
        Err(Fault {
            code: sqlite::SQLITE_CONSTRAINT,
            message: "UNIQUE constraint failed: kv.key".into(),
        })
    }
}

impl Table for KvTable {
    fn declaration(&self) -> &'static CStr {
        c"CREATE TABLE kv(key PRIMARY KEY, value BLOB) WITHOUT ROWID"
    }

    fn keys(&self) -> &'static [Key] {
        &[Key::Sorted(KEY)]
    }

    fn rows(&self, access: Access) -> Result<Rows, Fault> {
        let Some(range) = Range::of(&access.conditions) else {
            return Ok(Box::new(std::iter::empty()));
        };
        if let Some(key) = range.only {
            let value = self.keys.get(&key)?;
            return Ok(Box::new(value.map(|value| Ok(row(key, value))).into_iter()));
        }
        Ok(Box::new(Scan {
            keys: self.keys.clone(),
            start: range.start,
            end: range.end,
            is_reverse: access.is_reverse,
            with_values: access.reads(VALUE),
            batch: BATCH_FIRST,
            gathered: VecDeque::new(),
            is_done: false,
        }))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

impl Write for KvTable {
    fn insert(&self, row: Vec<Value>, replace: bool) -> Result<(), Fault> {
        let (key, value) = parts(row)?;
        self.keys.refuse_duplicate(&key, replace)?;
        self.keys.put(&mut self.keys.object()?.lock(), &key, &value)
    }

    fn update(&self, old: Value, row: Vec<Value>, replace: bool) -> Result<(), Fault> {
        let old = bytes(old, "a key")?;
        let (key, value) = parts(row)?;
        if key != old {
            self.keys.refuse_duplicate(&key, replace)?;
        }
        let object = self.keys.object()?;
        let mut object = object.lock();
        // The put may be refused, and then nothing must have happened.
        self.keys.put(&mut object, &key, &value)?;
        if key != old {
            self.keys.delete(&mut object, &old)?;
        }
        Ok(())
    }

    fn delete(&self, key: Value) -> Result<(), Fault> {
        let key = bytes(key, "a key")?;
        self.keys.delete(&mut self.keys.object()?.lock(), &key)
    }

    fn savepoint(&self, depth: usize) -> Result<(), Fault> {
        let here = self.keys.object()?.lock().savepoint();
        let mut savepoints = self.savepoints.lock();
        savepoints.truncate(depth);
        savepoints.resize(depth + 1, here);
        Ok(())
    }

    fn release(&self, depth: usize) {
        self.savepoints.lock().truncate(depth);
    }

    fn rollback_to(&self, depth: usize) -> Result<(), Fault> {
        let mut savepoints = self.savepoints.lock();
        savepoints.truncate(depth + 1);
        if let Some(savepoint) = savepoints.get(depth) {
            let object = self.keys.object()?;
            object.lock().rollback_keys_to(*savepoint);
        }
        Ok(())
    }
}

/// The keys that conditions leave over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Range {
    /// This key alone, if it is there.
    only: Option<Vec<u8>>,
    start: Vec<u8>,
    /// The first key behind them.
    end: Option<Vec<u8>>,
}

impl Range {
    /// `None` if there can be no such key.
    fn of(conditions: &[(Compare, Value)]) -> Option<Self> {
        let mut range = Range::default();
        for (compare, value) in conditions {
            let key = match (value, compare) {
                (Value::Null, _) => return None,
                (Value::Text(text), Compare::Glob) => glob_prefix(text).to_vec(),
                (_, Compare::Glob) => continue,
                (Value::Text(text), _) => text.clone().into_bytes(),
                (Value::Blob(bytes), _) => bytes.clone(),
                // For SQLite numbers are less than texts and blobs.
                (_, Compare::Greater | Compare::GreaterOrEqual) => continue,
                (_, Compare::Equal | Compare::Less | Compare::LessOrEqual) => return None,
            };
            match compare {
                Compare::Equal => range.only = Some(key),
                Compare::Greater => range.start = range.start.max(successor(key)),
                Compare::GreaterOrEqual => range.start = range.start.max(key),
                Compare::Less => range.limit(key),
                Compare::LessOrEqual => range.limit(successor(key)),
                Compare::Glob => {
                    // What begins otherwise is left to SQLite, which looks again.
                    range.start = range.start.max(key.clone());
                    prefix_end(key).into_iter().for_each(|end| range.limit(end));
                }
            }
        }
        Some(range)
    }

    fn limit(&mut self, end: Vec<u8>) {
        self.end = Some(match self.end.take() {
            Some(before) => before.min(end),
            None => end,
        });
    }
}

/// The next key in the order of bytes.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The first key behind all with this prefix, which is UTF-8.
fn prefix_end(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    // No byte of UTF-8 is the highest one.
    *prefix.last_mut()? += 1;
    Some(prefix)
}

/// What every text that matches begins with.
fn glob_prefix(pattern: &str) -> &[u8] {
    let end = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    &pattern.as_bytes()[..end]
}

/// A scan over the keys, some at a time: the object is not held meanwhile, and what is written behind the
/// place where the scan stands is seen.
struct Scan {
    keys: Keys,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    is_reverse: bool,
    with_values: bool,
    batch: usize,
    gathered: VecDeque<(Vec<u8>, Vec<u8>)>,
    is_done: bool,
}

impl Scan {
    fn gather(&mut self) -> Result<(), Fault> {
        let mut list = List::all().start(&self.start).limit(self.batch);
        if let Some(end) = &self.end {
            list = list.end(end);
        }
        if self.is_reverse {
            list = list.reverse();
        }
        let object = self.keys.object()?;
        let object = object.lock();
        let mut bytes = 0;
        self.is_done = true;
        for listed in object.list(&list) {
            let (key, value) = listed.map_err(|error| self.keys.unreadable(error))?;
            bytes += key.len() + value.len();
            let value = if self.with_values {
                value.into_owned()
            } else {
                Vec::new()
            };
            self.gathered.push_back((key.into_owned(), value));
            if bytes > BATCH_BYTES || self.gathered.len() == self.batch {
                self.is_done = false;
                break;
            }
        }
        if let Some((last, _)) = self.gathered.back() {
            match self.is_reverse {
                true => self.end = Some(last.clone()),
                false => self.start = successor(last.clone()),
            }
        }
        self.batch = (2 * self.batch).min(BATCH_MAX);
        Ok(())
    }
}

impl Iterator for Scan {
    type Item = Result<Vec<Value>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.gathered.is_empty()
            && !self.is_done
            && let Err(fault) = self.gather()
        {
            return Some(Err(fault));
        }
        let (key, value) = self.gathered.pop_front()?;
        Some(Ok(row(key, value)))
    }
}

fn row(key: Vec<u8>, value: Vec<u8>) -> Vec<Value> {
    let key = match String::from_utf8(key) {
        // SQLite's functions and many programs end a text at its first NUL.
        Ok(text) if !text.contains('\0') => Value::Text(text),
        Ok(text) => Value::Blob(text.into_bytes()),
        Err(other) => Value::Blob(other.into_bytes()),
    };
    vec![key, Value::Blob(value)]
}

fn parts(row: Vec<Value>) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let mut row = row.into_iter();
    let key = bytes(row.next().unwrap_or_default(), "a key")?;
    Ok((key, bytes(row.next().unwrap_or_default(), "a value")?))
}

fn bytes(value: Value, what: &str) -> Result<Vec<u8>, Fault> {
    let found = match value {
        Value::Text(text) => return Ok(text.into_bytes()),
        Value::Blob(bytes) => return Ok(bytes),
        Value::Null => "NULL",
        Value::Integer(_) | Value::Real(_) => "a number",
    };
    Err(Fault {
        code: sqlite::SQLITE_MISMATCH,
        message: format!("{what} of kv is text or a blob, not {found}: CAST it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Compare::*;

    fn range(conditions: &[(Compare, Value)]) -> Option<(String, Option<String>)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let range = Range::of(conditions)?;
        assert_eq!(range.only, None);
        Some((text(range.start), range.end.map(text)))
    }

    #[test]
    fn conditions_become_the_range_that_satisfies_all_of_them() {
        let bounds =
            |start: &str, end: Option<&str>| Some((start.to_owned(), end.map(str::to_owned)));
        assert_eq!(range(&[]), bounds("", None));
        assert_eq!(
            range(&[(Greater, "b".into()), (LessOrEqual, "d".into())]),
            bounds("b\0", Some("d\0"))
        );
        let several = [
            (Greater, "b".into()),
            (GreaterOrEqual, "c".into()),
            (Less, "e".into()),
            (LessOrEqual, "d".into()),
        ];
        assert_eq!(range(&several), bounds("c", Some("d\0")));
        assert_eq!(range(&[(Glob, "ab*d".into())]), bounds("ab", Some("ac")));
        assert_eq!(range(&[(Glob, "*".into())]), bounds("", None));
        assert_eq!(
            range(&[(Glob, "ab*".into()), (Less, "aba".into())]),
            bounds("ab", Some("aba"))
        );
    }

    #[test]
    fn numbers_are_less_than_every_key_and_null_compares_with_none() {
        assert!(range(&[(Greater, 7.into())]).is_some());
        for (compare, value) in [
            (Less, Value::from(7)),
            (Equal, 7.5.into()),
            (Greater, Value::Null),
            (Glob, Value::Null),
        ] {
            assert_eq!(Range::of(&[(compare, value)]), None);
        }
    }
}
