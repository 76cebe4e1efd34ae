//! What differs between two databases.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{Encoding, keys};
use super::{Room, RowChange, SchemaChange, TableDiff, merge};
use crate::database::Database;
use crate::error::Result;
use crate::import::quoted;
use crate::value::Value;

/// By any of these a table's rowid is asked for, unless a column has the name.
const ROWIDS: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A table's columns.
#[derive(Debug, Default)]
struct Table {
    columns: Vec<String>,
    key: Vec<String>,
}

/// A row, and what tells it apart.
struct Keyed {
    key: Vec<Value>,
    values: Vec<Value>,
}

pub(super) fn schema(before: &Database, after: &Database) -> Result<Vec<SchemaChange>> {
    let (before, after) = (statements(before)?, statements(after)?);
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let change = |(kind, name): &(String, String)| {
        let of = (kind.clone(), name.clone());
        let (before, after) = (before.get(&of).cloned(), after.get(&of).cloned());
        (before != after).then(|| SchemaChange {
            kind: kind.clone(),
            name: name.clone(),
            before,
            after,
        })
    };
    Ok(names.into_iter().filter_map(change).collect())
}

/// The statements of a schema by kind and name, SQLite's own left out.
fn statements(database: &Database) -> Result<BTreeMap<(String, String), String>> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql NOTNULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut found = BTreeMap::new();
    for row in ask(database, sql)? {
        if let [Value::Text(kind), Value::Text(name), Value::Text(sql)] = &row[..] {
            found.insert((kind.clone(), name.clone()), sql.clone());
        }
    }
    Ok(found)
}

pub(super) fn rows(
    before: &Database,
    after: &Database,
    limit: usize,
    room: &mut Room,
) -> Result<Vec<TableDiff>> {
    let (tables_before, tables_after) = (tables(before)?, tables(after)?);
    let encodings = [encoding(before)?, encoding(after)?];
    let names: BTreeSet<_> = tables_before.keys().chain(tables_after.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let (one, other) = (tables_before.get(name), tables_after.get(name));
        let one_rows = read(before, name, one)?;
        let other_rows = read(after, name, other)?;
        let mut diff = TableDiff {
            name: name.clone(),
            key: other
                .or(one)
                .map(|table| table.key.clone())
                .unwrap_or_default(),
            columns_before: one.map(|table| table.columns.clone()).unwrap_or_default(),
            columns_after: other.map(|table| table.columns.clone()).unwrap_or_default(),
            ..TableDiff::default()
        };
        room.items = limit;
        let common = common(&diff.columns_before, &diff.columns_after);
        let is_same_key = matches!((one, other), (Some(one), Some(other)) if one.key == other.key);
        let order = |one: &Keyed, other: &Keyed| keys(&one.key, &other.key, encodings[0]);
        let mut note = |one: Option<Keyed>, other: Option<Keyed>| {
            diff.note(one, other, &common, room);
        };
        if is_same_key && encodings[0] == encodings[1] {
            merge(one_rows, other_rows, order, note)?;
        } else {
            merge(one_rows, std::iter::empty(), order, &mut note)?;
            merge(std::iter::empty(), other_rows, order, &mut note)?;
        }
        if diff.counts.total() > 0 {
            found.push(diff);
        }
    }
    Ok(found)
}

impl TableDiff {
    fn note(
        &mut self,
        one: Option<Keyed>,
        other: Option<Keyed>,
        common: &[(usize, usize)],
        room: &mut Room,
    ) {
        if let (Some(one), Some(other)) = (&one, &other)
            && common
                .iter()
                .all(|(at, also)| one.values[*at] == other.values[*also])
        {
            return;
        }
        self.counts.count(one.is_some(), other.is_some());
        let rows = [&one, &other].into_iter().flatten();
        let bytes = rows
            .flat_map(|row| row.key.iter().chain(&row.values))
            .map(memory_bytes)
            .sum();
        let Some(key) = one.as_ref().or(other.as_ref()).map(|row| &row.key) else {
            return;
        };
        if room.take(bytes) {
            self.listed.push(RowChange {
                key: key.clone(),
                before: one.map(|row| row.values),
                after: other.map(|row| row.values),
            });
        }
    }
}

fn memory_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Text(text) => text.len(),
            Value::Blob(bytes) => bytes.len(),
            _ => 0,
        }
}

/// Where the columns are that both have.
fn common(before: &[String], after: &[String]) -> Vec<(usize, usize)> {
    let also = |name: &String| after.iter().position(|other| other == name);
    let places = before.iter().enumerate();
    places
        .filter_map(|(at, name)| Some((at, also(name)?)))
        .collect()
}

/// The rows of a table in the order of their keys; none if it is not there.
fn read<'a>(
    database: &'a Database,
    name: &str,
    table: Option<&Table>,
) -> Result<impl Iterator<Item = Result<Keyed>> + use<'a>> {
    let cursor = match table {
        None => None,
        Some(table) => {
            let names = table.key.iter().chain(&table.columns);
            let names: Vec<_> = names.map(|name| quoted(name)).collect();
            let order = table.key.iter();
            let order: Vec<_> = order
                .map(|name| format!("{} COLLATE BINARY", quoted(name)))
                .collect();
            let (names, order, from) = (names.join(", "), order.join(", "), quoted(name));
            let sql = format!("SELECT {names} FROM main.{from} ORDER BY {order}");
            Some((database.exec(&sql, ())?, table.key.len()))
        }
    };
    Ok(cursor.into_iter().flat_map(|(cursor, key_len)| {
        cursor.raw().map(move |row| {
            let mut key = row?;
            let values = key.split_off(key_len);
            Ok(Keyed { key, values })
        })
    }))
}

/// The tables that have rows of their own, SQLite's left out.
fn tables(database: &Database) -> Result<BTreeMap<String, Table>> {
    let mut found = BTreeMap::new();
    for row in ask(database, "PRAGMA main.table_list")? {
        let [
            _,
            Value::Text(name),
            Value::Text(kind),
            _,
            Value::Integer(no_rowid),
            ..,
        ] = &row[..]
        else {
            continue;
        };
        if matches!(&kind[..], "table" | "shadow") && !name.starts_with("sqlite_") {
            found.insert(name.clone(), table(database, name, *no_rowid == 0)?);
        }
    }
    Ok(found)
}

fn table(database: &Database, name: &str, has_rowid: bool) -> Result<Table> {
    let (mut columns, mut key) = (Vec::new(), BTreeMap::new());
    for row in ask(
        database,
        &format!("PRAGMA main.table_xinfo({})", quoted(name)),
    )? {
        let [
            _,
            Value::Text(column),
            ..,
            Value::Integer(place),
            Value::Integer(hidden),
        ] = &row[..]
        else {
            continue;
        };
        // Others are hidden, or generated from these.
        if *hidden == 0 {
            columns.push(column.clone());
        }
        if *place > 0 {
            key.insert(*place, column.clone());
        }
    }
    let mut key: Vec<_> = key.into_values().collect();
    if key.is_empty() {
        let is_free = |rowid: &&&str| !columns.iter().any(|name| name.eq_ignore_ascii_case(rowid));
        key = match ROWIDS.iter().find(is_free).filter(|_| has_rowid) {
            Some(rowid) => vec![(*rowid).to_owned()],
            None => columns.clone(),
        };
    }
    Ok(Table { columns, key })
}

fn encoding(database: &Database) -> Result<Encoding> {
    let rows = ask(database, "PRAGMA main.encoding")?;
    Ok(match rows.first().and_then(|row| row.first()) {
        Some(Value::Text(name)) => Encoding::named(name),
        _ => Encoding::Utf8,
    })
}

/// The answer to a question of the bridge's own.
fn ask(database: &Database, sql: &str) -> Result<Vec<Vec<Value>>> {
    let connection = &database.connection;
    connection
        .handle()
        .internally(|| connection.exec(sql, ())?.raw().collect())
}
