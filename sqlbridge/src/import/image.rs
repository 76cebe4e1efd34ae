//! A checked file as an object's pages: rebuilt by SQLite itself into pages of our size and settings, so
//! that no byte of the source's own structure gets into the store.

use std::fs::File;
use std::io::{BufReader, Read};

use dovehouse_engine::{Object, PAGE_BYTES};
use libsqlite3_sys as sqlite;

use super::refusal::refusal;
use super::schema::{Schema, quoted};
use super::source::{self, Source};
use crate::error::{Error, Result};

/// `PRAGMA auto_vacuum`'s words for none and for what our databases have.
const NONE: i64 = 0;
const INCREMENTAL: i64 = 2;
/// Where page 1 has the schema version.
const SCHEMA_VERSION: std::ops::Range<usize> = 40..44;

/// A database file in the form that an object keeps.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    pub(crate) pages: u32,
    schema_version: u32,
}

impl Image {
    /// Rebuilds a source, without its reserved tables. `None` if nothing is left.
    pub(crate) fn rebuild(source: &Source, schema: &Schema) -> Result<Option<Self>> {
        let version = source.pragma("schema_version")?;
        let is_marked =
            source.pragma("user_version")? != 0 || source.pragma("application_id")? != 0;
        if schema.is_empty() && !is_marked {
            return Ok(None);
        }
        let connection = &source.connection;
        connection.run(&format!("PRAGMA page_size = {PAGE_BYTES}"))?;
        if source.pragma("auto_vacuum")? == NONE {
            // What VACUUM is to make; the source itself cannot be changed.
            connection.run(&format!("PRAGMA auto_vacuum = {INCREMENTAL}"))?;
        }
        let path = source.scratch.path().join("image.sqlite");
        let target = source::uri(&path, "?reserve=0");
        connection.exec("VACUUM INTO ?", (target,))?;

        let flags = sqlite::SQLITE_OPEN_READWRITE;
        let rebuilt = source::open(&source::uri(&path, ""), flags, source.bytes)?;
        let _effort = rebuilt.handle().limit_effort(source.effort());
        schema.check_rebuilt(&Schema::read(&rebuilt)?)?;
        rebuilt.run(&format!("PRAGMA auto_vacuum = {INCREMENTAL}"))?;
        for table in &schema.reserved {
            rebuilt.run(&format!("DROP TABLE {}", quoted(table)))?;
        }
        rebuilt.run("PRAGMA incremental_vacuum")?;
        let pages = rebuilt.exec("PRAGMA page_count", ())?.one()?.get(0)?;
        Ok(Some(Image {
            file: File::open(&path).map_err(unreadable)?,
            pages,
            schema_version: version as u32,
        }))
    }

    /// Writes the pages to an object that has none.
    pub(crate) fn write(&self, object: &mut Object) -> Result<()> {
        let mut reader = BufReader::with_capacity(16 * PAGE_BYTES, &self.file);
        let mut page = [0; PAGE_BYTES];
        for number in 1..=self.pages {
            reader.read_exact(&mut page).map_err(unreadable)?;
            if number == 1 {
                // Rebuilding counts it on; who remembers it shall not take the schema for another one.
                page[SCHEMA_VERSION].copy_from_slice(&self.schema_version.to_be_bytes());
            }
            object.write_page(number, &page)?;
        }
        Ok(())
    }
}

fn unreadable(error: std::io::Error) -> Error {
    refusal(error.into())
}
