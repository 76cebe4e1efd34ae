//! What both SQLite contenders share: how a file is opened, written and read.

use std::path::Path;

use anyhow::Result;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

const PUT: &str = "INSERT INTO kv VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value";
const GET: &str = "SELECT value FROM kv WHERE key = ?";

/// Opens a file so that a commit syncs the write-ahead log before it returns. `synchronous` belongs to
/// the connection, the rest to the file.
pub fn open(path: &Path, cache_kib: usize) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let is_new = !path.exists();
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA synchronous=FULL")?;
    if cache_kib > 0 {
        connection.pragma_update(None, "cache_size", -(cache_kib as i64))?;
    }
    if is_new {
        connection.execute_batch(
            "PRAGMA journal_mode=WAL;
             CREATE TABLE kv(key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID;",
        )?;
    }
    Ok(connection)
}

/// All rows as one transaction; one row is one by itself.
pub fn write<'a>(
    connection: &Connection,
    rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<()> {
    let mut put = connection.prepare_cached(PUT)?;
    let mut rows = rows.peekable();
    let first = rows.next();
    let transaction = match rows.peek() {
        Some(_) => Some(connection.unchecked_transaction()?),
        None => None,
    };
    for (key, value) in first.into_iter().chain(rows) {
        put.execute(params![key, value])?;
    }
    if let Some(transaction) = transaction {
        transaction.commit()?;
    }
    Ok(())
}

/// Appends a key's value. Returns whether it is there.
pub fn read(connection: &Connection, key: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let mut get = connection.prepare_cached(GET)?;
    let append = |row: &rusqlite::Row<'_>| {
        out.extend_from_slice(row.get_ref(0)?.as_blob()?);
        Ok(())
    };
    Ok(get.query_row(params![key], append).optional()?.is_some())
}

/// Appends the keys and values that a query finds, and counts them.
pub fn read_rows(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
    out: &mut Vec<u8>,
) -> Result<usize> {
    let mut query = connection.prepare_cached(query)?;
    let mut rows = query.query(parameters)?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        out.extend_from_slice(row.get_ref(0)?.as_blob()?);
        out.extend_from_slice(row.get_ref(1)?.as_blob()?);
        count += 1;
    }
    Ok(count)
}

/// Brings everything into the file and leaves no log.
pub fn settle(connection: &Connection) -> Result<()> {
    connection.execute_batch("VACUUM")?;
    Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
}
