//! What workerd keeps beside an object's tables: its keys, its alarm, and the directory's names.
//!
//! ```text
//! _cf_KV(key TEXT PRIMARY KEY, value BLOB)              a key's value as V8 serialised it
//! _cf_METADATA(key INTEGER PRIMARY KEY, value BLOB)     key 1: the alarm, in nanoseconds since 1970
//! _cf_ALARM(actor_id TEXT PRIMARY KEY, scheduled_time INTEGER, actor_name TEXT)
//!                                                       in metadata.sqlite of the directory
//! ```

use dovehouse_engine::{Alarm, List, Object, ObjectId};

use super::schema::{quoted, unsupported};
use super::source::{Source, each_row};
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::value::Value;

const NS_PER_MS: u64 = 1_000_000;
/// The key of the alarm.
const ALARM: &str = "1";

/// Puts the keys that a file has into an object. Returns how many.
pub(crate) fn put_keys(source: &Source, tables: &[String], object: &mut Object) -> Result<u64> {
    let Some(table) = find(&source.connection, tables, "_cf_KV", &["key", "value"])? else {
        return Ok(0);
    };
    // The bytes as they are stored, unless SQLite has to convert them.
    let is_utf8 = source.connection.exec("PRAGMA encoding", ())?.one()?;
    let key = match is_utf8.get::<String>(0)? == "UTF-8" {
        true => "CAST(key AS BLOB)",
        false => "key",
    };
    let sql = format!("SELECT typeof(key), {key}, value FROM {table}");
    let mut count = 0;
    each_row(&source.connection, &sql, |row| {
        let [Value::Text(kind), key, Value::Blob(value)] = row.as_slice() else {
            return Err(unsupported(format!("a value in {table} is not a blob")));
        };
        let key = match key {
            Value::Blob(key) if kind == "text" && std::str::from_utf8(key).is_ok() => key,
            Value::Text(key) if kind == "text" => key.as_bytes(),
            _ => return Err(unsupported(format!("a key in {table} is not UTF-8 text"))),
        };
        object.put(key, value)?;
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Sets the alarm that a file has. Returns when it is due, in milliseconds since 1970.
pub(crate) fn set_alarm(
    source: &Source,
    tables: &[String],
    object: &mut Object,
) -> Result<Option<u64>> {
    let columns = ["key", "value"];
    let Some(table) = find(&source.connection, tables, "_cf_METADATA", &columns)? else {
        return Ok(None);
    };
    let sql = format!("SELECT value FROM {table} WHERE key = {ALARM}");
    let row = source.connection.exec(&sql, ())?.first()?;
    let due_ms = match row.as_ref().map(|row| &row.values()[0]) {
        None | Some(Value::Null) => return Ok(None),
        // Rounded up: an alarm is never early.
        Some(Value::Integer(ns)) if *ns >= 0 => (*ns as u64).div_ceil(NS_PER_MS),
        Some(_) => return Err(unsupported(format!("the alarm in {table} is not a time"))),
    };
    object.set_alarm(Alarm {
        due_ms,
        ..Alarm::default()
    });
    Ok(Some(due_ms))
}

/// The names that a `metadata.sqlite` of a workerd directory knows: those of objects with an alarm.
pub(crate) fn names(source: &Source, tables: &[String]) -> Result<Vec<(ObjectId, String)>> {
    let columns = ["actor_id", "scheduled_time", "actor_name"];
    let Some(table) = find(&source.connection, tables, "_cf_ALARM", &columns)? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    let sql = format!("SELECT actor_id, actor_name FROM {table}");
    each_row(&source.connection, &sql, |row| {
        if let [Value::Text(id), Value::Text(name)] = row.as_slice()
            && let Ok(id) = id.parse()
        {
            names.push((id, name.clone()));
        }
        Ok(())
    })?;
    Ok(names)
}

/// One of the reserved tables, quoted, if it is there with plain columns of these names. An older one
/// that lacks the last of them counts as absent.
fn find(
    connection: &Connection,
    tables: &[String],
    name: &str,
    columns: &[&str],
) -> Result<Option<String>> {
    let found = tables.iter().find(|found| found.eq_ignore_ascii_case(name));
    let Some(table) = found.map(|table| quoted(table)) else {
        return Ok(None);
    };
    let mut names = Vec::new();
    let mut are_plain = true;
    for row in connection.exec(&format!("PRAGMA table_xinfo({table})"), ())? {
        let row = row?;
        names.push(row.get::<String>("name")?);
        are_plain &= row.get::<i64>("hidden")? == 0;
    }
    if are_plain && names == columns {
        return Ok(Some(table));
    }
    if are_plain && columns.len() > 2 && names == columns[..columns.len() - 1] {
        return Ok(None);
    }
    Err(unsupported(format!(
        "{table} has other columns than workerd gives it"
    )))
}

/// Adds the keys and the alarm of an object to a file, as workerd keeps them.
pub(crate) fn write(connection: &Connection, object: &Object) -> Result<()> {
    connection.run(
        "BEGIN;
        CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
        CREATE TABLE _cf_METADATA(key INTEGER PRIMARY KEY, value BLOB)",
    )?;
    for item in object.list(&List::all()) {
        let (key, value) = item?;
        let key = std::str::from_utf8(&key).map_err(|_| {
            Error::Type(format!(
                "the key {key:?} is not UTF-8 text, as workerd's are"
            ))
        })?;
        connection.exec(
            "INSERT INTO _cf_KV VALUES (?, ?)",
            (key, value.into_owned()),
        )?;
    }
    // The alarm of Durable Objects is the one without a name.
    if let Some(alarm) = object.alarms().iter().find(|alarm| alarm.name.is_empty()) {
        let ns = i64::try_from(alarm.due_ms)
            .ok()
            .and_then(|ms| ms.checked_mul(NS_PER_MS as i64))
            .ok_or_else(|| Error::Type("the alarm is later than workerd can keep".into()))?;
        let sql = format!("INSERT INTO _cf_METADATA VALUES ({ALARM}, ?)");
        connection.exec(&sql, (ns,))?;
    }
    connection.run("COMMIT")
}
