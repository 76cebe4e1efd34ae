//! From an object's pages to a plain SQLite file.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::{Error as EngineError, Object, PAGE_BYTES};

use crate::error::{Error, Result};

/// Writes the pages one after the other: they are a database file already. Returns those that could not be
/// read.
pub(crate) fn export(object: &Object, path: &Path) -> Result<Vec<(u32, EngineError)>> {
    if object.page_count() == 0 {
        return Err(Error::NoDatabase);
    }
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
