//! From an object's pages to a plain SQLite file.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::{Error as EngineError, Object, PAGE_BYTES};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::{import, template};

/// Writes the pages one after the other: they are a database file already. Returns those that could not be
/// read.
pub(crate) fn export(object: &Object, path: &Path) -> Result<Vec<(u32, EngineError)>> {
    if object.page_count() == 0 {
        return Err(Error::NoDatabase);
    }
    write_pages(object, path)
}

/// The same with the object's keys and alarm in tables, as workerd has them.
pub(crate) fn export_for_workerd(object: &Object, path: &Path) -> Result<Vec<(u32, EngineError)>> {
    let unreadable = write_pages(object, path)?;
    let added =
        Connection::open_file(path).and_then(|file| import::write_for_workerd(&file, object));
    added.inspect_err(|_| {
        // Without its keys it would pass for the whole object.
        let _ = std::fs::remove_file(path);
    })?;
    Ok(unreadable)
}

/// An object without a database has an empty one.
fn write_pages(object: &Object, path: &Path) -> Result<Vec<(u32, EngineError)>> {
    let failed = |error| Error::Export {
        path: path.to_owned(),
        source: Arc::new(error),
    };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    let mut writer = BufWriter::new(&file);
    let mut unreadable = Vec::new();
    if object.page_count() == 0 {
        writer.write_all(&template::PAGE_ONE).map_err(failed)?;
    }
    for number in 1..=object.page_count() {
        // A page that cannot be read is left as zeros: the others are worth having.
        let page = object.page(number).unwrap_or_else(|error| {
            unreadable.push((number, error));
            None
        });
        let page = page.as_deref().unwrap_or(&[0; PAGE_BYTES]);
        writer.write_all(page).map_err(failed)?;
    }
    writer.flush().map_err(failed)?;
    drop(writer);
    file.sync_all().map_err(failed)?;
    Ok(unreadable)
}
