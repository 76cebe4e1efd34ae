//! Stretches of bytes as pages of an object: SQLite reads and writes at any offset, the object whole pages.

use std::ops::Range;

use dovehouse_engine::wal::Error as LogError;
use dovehouse_engine::{Error as EngineError, Object, PAGE_BYTES, Result};
use libsqlite3_sys as sqlite;

use crate::file::Code;

/// Fills `buf` from the object's pages; what lies behind their end is zeros.
pub(crate) fn read(object: &Object, buf: &mut [u8], offset: u64) -> Result<()> {
    for (number, inside, part) in pages(offset, buf.len()) {
        match object.page(number)? {
            Some(page) => buf[part].copy_from_slice(&page[inside]),
            None => buf[part].fill(0),
        }
    }
    Ok(())
}

/// Writes a stretch. With `compare`, pages that hold these bytes already are left alone.
pub(crate) fn write(object: &mut Object, bytes: &[u8], offset: u64, compare: bool) -> Result<()> {
    for (number, inside, part) in pages(offset, bytes.len()) {
        let whole = inside.len() == PAGE_BYTES;
        if whole && !compare {
            object.write_page(number, &bytes[part])?;
            continue;
        }
        let mut page = [0; PAGE_BYTES];
        if let Some(old) = object.page(number)? {
            page.copy_from_slice(&old);
        }
        let there = number <= object.page_count() && page[inside.clone()] == bytes[part.clone()];
        if !(compare && there) {
            page[inside].copy_from_slice(&bytes[part]);
            object.write_page(number, &page)?;
        }
    }
    Ok(())
}

/// Drops the pages that lie wholly behind `size`.
pub(crate) fn truncate(object: &mut Object, size: u64) {
    object.truncate_pages(size.div_ceil(PAGE_BYTES as u64) as u32);
}

pub(crate) fn size(object: &Object) -> u64 {
    u64::from(object.page_count()) * PAGE_BYTES as u64
}

/// What SQLite is told when the engine refuses to write.
pub(crate) fn write_code(error: &EngineError) -> Code {
    match error {
        EngineError::Quota { .. }
        | EngineError::Log(LogError::Full { .. } | LogError::TooBig { .. }) => sqlite::SQLITE_FULL,
        _ => sqlite::SQLITE_IOERR_WRITE,
    }
}

/// The pages that a stretch of the file touches: the number from 1, the range inside the page, and the
/// range inside the stretch.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u32, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset as usize + done;
        let inside = at % PAGE_BYTES;
        let taken = (PAGE_BYTES - inside).min(len - done);
        let part = done..done + taken;
        done += taken;
        Some(((at / PAGE_BYTES) as u32 + 1, inside..inside + taken, part))
    })
}
