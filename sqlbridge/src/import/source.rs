//! The file that is imported: opened so that it is never changed, with bounds for what it can make
//! SQLite do, and checked whole.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use dovehouse_engine::PAGE_BYTES;
use libsqlite3_sys as sqlite;
use tempfile::TempDir;

use super::header;
use super::refusal::Refusal;
use crate::connection::Connection;
use crate::error::Result;
use crate::ffi::{Handle, Step};
use crate::value::Value;

/// Modules that an object's database may use for virtual tables.
const MODULES: [&std::ffi::CStr; 4] = [c"fts5", c"fts5vocab", c"rtree", c"rtree_i32"];
/// Instructions that reading a file may take, however small it is, and more for each of its bytes. A
/// row of three bytes takes a few dozen to check and to copy.
const EFFORT_MIN: u64 = 20_000_000;
const EFFORT_PER_BYTE: u64 = 32;
/// A value may be as long as the file, and in a small file so long.
const VALUE_BYTES_MIN: u64 = 16 << 20;
/// Findings of a check that a message names.
const FINDINGS_MAX: usize = 3;

/// A file to read from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) connection: Connection,
    pub(crate) bytes: u64,
    /// For the copy that is read in place of a file with a log, and for more.
    pub(crate) scratch: TempDir,
}

impl Source {
    /// Opens a file; `None` if it is empty, which is a database without anything in it.
    pub(crate) fn open(path: &Path, bytes_max: u64) -> Result<Option<Self>, Refusal> {
        // SQLite looks for logs beside the file itself, not beside a link to it.
        let path = &path.canonicalize()?;
        let mut bytes = length(path, "the file", bytes_max)?;
        if bytes == 0 {
            return Ok(None);
        }
        let logs = ["-wal", "-journal"].map(|suffix| beside(path, suffix));
        let mut has_log = false;
        for log in logs.iter().filter(|log| log.exists()) {
            let log_bytes = length(log, "the log beside the file", bytes_max)?;
            has_log |= log_bytes > 0;
            bytes += log_bytes;
        }
        let mut start = Vec::new();
        File::open(path)?
            .take(header::HEADER_BYTES as u64)
            .read_to_end(&mut start)?;
        let page_bytes = header::check(&start, bytes, has_log)?;

        let scratch = tempfile::tempdir()?;
        let connection = if has_log || page_bytes != PAGE_BYTES {
            // SQLite has to apply the log: to a copy. And it does not change the page size when it rebuilds an
            // immutable file.
            let copy = scratch.path().join("source.sqlite");
            std::fs::copy(path, &copy)?;
            for (log, suffix) in logs.iter().zip(["-wal", "-journal"]) {
                if log.exists() {
                    std::fs::copy(log, beside(&copy, suffix))?;
                }
            }
            open(&uri(&copy, ""), sqlite::SQLITE_OPEN_READWRITE, bytes)?
        } else {
            // No locks, no other files, no recovery: only reads.
            let name = uri(path, "?immutable=1");
            open(&name, sqlite::SQLITE_OPEN_READONLY, bytes)?
        };
        Ok(Some(Source {
            connection,
            bytes,
            scratch,
        }))
    }

    /// What reading the file may take.
    pub(crate) fn effort(&self) -> u64 {
        EFFORT_MIN + EFFORT_PER_BYTE * self.bytes
    }

    /// Looks at every page and every row.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        // Rows that a CHECK constraint would not let in now are no damage.
        self.connection
            .run("PRAGMA ignore_check_constraints = ON")?;
        self.connection.run("PRAGMA cell_size_check = ON")?;
        let findings = self.connection.exec("PRAGMA integrity_check(20)", ())?;
        let mut findings: Vec<String> = findings.deserialize()?;
        if findings == ["ok"] {
            return Ok(());
        }
        let more = findings.len().saturating_sub(FINDINGS_MAX);
        findings.truncate(FINDINGS_MAX);
        let mut why = findings.join("; ").replace('\n', " ");
        if more > 0 {
            why += &format!("; and {more} more");
        }
        Err(Refusal::Damaged(why))
    }

    /// The integer that a pragma answers.
    pub(crate) fn pragma(&self, name: &str) -> Result<i64> {
        let rows = self.connection.exec(&format!("PRAGMA {name}"), ())?;
        rows.one()?.get(0)
    }
}

/// Opens a database with bounds that fit a file of this size.
pub(crate) fn open(name: &str, flags: i32, bytes: u64) -> Result<Connection> {
    let handle = Handle::open_with(name, None, flags | sqlite::SQLITE_OPEN_URI)?;
    handle.distrust()?;
    handle.keep_modules(&MODULES)?;
    handle.limit_value(bytes.max(VALUE_BYTES_MIN));
    let connection = Connection::new(handle);
    connection.run("PRAGMA mmap_size = 0")?;
    connection.run("PRAGMA foreign_keys = OFF")?;
    connection.run("PRAGMA synchronous = OFF")?;
    Ok(connection)
}

/// Hands the rows of a query over one by one.
pub(crate) fn each_row(
    connection: &Connection,
    sql: &str,
    mut visit: impl FnMut(Vec<Value>) -> Result<()>,
) -> Result<()> {
    let handle = connection.handle();
    let (statement, _) = handle.prepare(sql)?;
    let statement = statement.expect("the bridge's own statements are not empty");
    let columns = statement.column_names().len();
    while statement.step(handle)? == Step::Row {
        visit(
            (0..columns)
                .map(|column| statement.column(column))
                .collect(),
        )?;
    }
    Ok(())
}

/// The length of a file that may have so much.
fn length(path: &Path, what: &'static str, limit: u64) -> Result<u64, Refusal> {
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(Refusal::NotADatabase("it is not a file".into()));
    }
    let bytes = metadata.len();
    match bytes > limit {
        true => Err(Refusal::TooLarge { what, bytes, limit }),
        false => Ok(bytes),
    }
}

/// The file of the same name with this at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path as SQLite's URI, with parameters.
pub(crate) fn uri(path: &Path, parameters: &str) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte));
            }
            other => uri += &format!("%{other:02X}"),
        }
    }
    uri + parameters
}
