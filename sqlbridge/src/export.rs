//! From an object's pages to a plain SQLite file.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use dovehouse_engine::{Object, PAGE_BYTES};

use crate::error::{Error, Result};

/// Writes the pages one after the other: they are a database file already.
pub(crate) fn export(object: &Object, path: &Path) -> Result<()> {
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
    for number in 1..=object.page_count() {
        writer
            .write_all(object.page(number).unwrap_or(&[0; PAGE_BYTES]))
            .map_err(failed)?;
    }
    writer.flush().map_err(failed)?;
    drop(writer);
    file.sync_all().map_err(failed)
}
