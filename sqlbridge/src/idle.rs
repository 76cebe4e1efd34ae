//! A connection that waits for its next object: one whose database has exactly the same schema.
//!
//! Opening a connection, reading a schema and preparing statements cost more than waking an object. So a
//! connection outlives its object. It may serve another one if page 1 of that object is the same but for
//! what changes with every commit: page 1 holds the header and, if the schema is small, all of it, texts
//! and root pages, byte for byte. Numbers that two schemas may share by accident (the schema cookie) are
//! not relied on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dovehouse_engine::{Object, PAGE_BYTES};

use crate::connection::Connection;
use crate::database::Database;
use crate::error::Result;
use crate::file::{SharedObject, Side};
use crate::template;

/// Where page 1 stays as long as the schema does. Left out are change counter, page count and free list (24..40),
/// the user version (60..64), and for which change counter the page count holds, with the version that wrote it
/// (92..100).
const STAYING: [std::ops::Range<usize>; 4] = [0..24, 40..60, 64..92, 100..PAGE_BYTES];
/// The largest cell of a leaf of tables that has no overflow pages, in pages of 4 KiB.
const PAYLOAD_MAX: u64 = PAGE_BYTES as u64 - 35;
/// Where page 1 has the encoding of texts: the last of its four bytes. Zero as long as there is no table.
const ENCODING: usize = 59;
const UTF_8: u8 = 1;
const HEADER_BYTES: usize = 100;
const LEAF_OF_TABLE: u8 = 13;

/// A schema: a page 1 that has all of it.
#[derive(Debug)]
pub(crate) struct Schema(Box<[u8]>);

impl Schema {
    /// The schema of an object's database, if it is one that connections can be handed on for: all of it
    /// on page 1, and without virtual tables, which keep something in the connection.
    fn of(object: &Object) -> Option<Self> {
        let page: Box<[u8]> = with_page_one(object, |page| page.into())?;
        // A schema in UTF-16 cannot be looked through for virtual tables.
        let encoding = page.get(ENCODING)?;
        let fits = *encoding <= UTF_8 && is_whole(&page) && !has_virtual_tables(&page);
        fits.then_some(Schema(page))
    }

    /// Whether a page 1 has this schema. Then it can be handed on, too: nothing else is asked of it.
    pub(crate) fn is_on(&self, page: &[u8]) -> bool {
        STAYING
            .into_iter()
            .all(|range| self.0.get(range.clone()) == page.get(range))
    }
}

/// Calls `act` with page 1 of an object's database, the template if it has none yet.
pub(crate) fn with_page_one<R>(object: &Object, act: impl FnOnce(&[u8]) -> R) -> Option<R> {
    match object.page(1).ok()? {
        Some(page) => Some(act(&page)),
        None if object.page_count() == 0 => Some(act(&template::PAGE_ONE)),
        None => None,
    }
}

/// Whether a page 1 is a leaf without overflow pages: then it has the whole schema.
fn is_whole(page: &[u8]) -> bool {
    let number = |at: usize| {
        let bytes = page.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
    };
    let cell_fits = |cell: usize| {
        let at = number(HEADER_BYTES + 8 + 2 * cell)?;
        Some(varint(page.get(at..)?)? <= PAYLOAD_MAX)
    };
    page.get(HEADER_BYTES) == Some(&LEAF_OF_TABLE)
        && number(HEADER_BYTES + 3)
            .is_some_and(|cells| (0..cells).all(|cell| cell_fits(cell) == Some(true)))
}

/// SQLite's number of up to nine bytes; only as many as a length can have.
fn varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for byte in bytes.iter().take(5) {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn has_virtual_tables(page: &[u8]) -> bool {
    let word = b"virtual";
    page.windows(word.len())
        .any(|window| window.eq_ignore_ascii_case(word))
}

/// A connection without an object.
#[derive(Debug)]
pub(crate) struct Idle {
    connection: Connection,
    side: Arc<Side>,
}

impl Database {
    /// Whether closing it loses nothing: no transaction, no open cursor, and no setting of the application
    /// that lives in the connection.
    pub fn is_closable(&self) -> bool {
        !self.side.open.load(Ordering::Relaxed)
            && self.connection.handle().is_autocommit()
            && !self.connection.is_running()
            && !self.connection.handle().is_personal()
            && self.side.ticket.lock().is_none()
    }

    /// Reads the object's pages anew: they have changed beside SQLite.
    pub(crate) fn read_anew(&self) -> Result<()> {
        let_go(&self.connection, &self.side)?;
        take_hold(&self.connection, &self.side)
    }

    /// Parts the connection from its object, if it can serve another.
    pub(crate) fn into_idle(self) -> Option<(Schema, Idle)> {
        if !self.is_closable() {
            return None;
        }
        let schema = Schema::of(&self.object.lock())?;
        let Database {
            connection, side, ..
        } = self;
        let_go(&connection, &side).ok()?;
        *side.object.lock() = None;
        Some((schema, Idle { connection, side }))
    }
}

impl Idle {
    /// Gives the connection an object, whose schema must be that of the one before.
    pub(crate) fn open(self, object: SharedObject) -> Result<Database> {
        let Idle { connection, side } = self;
        *side.object.lock() = Some(object.clone());
        *side.error.lock() = None;
        connection.handle().forget_last_insert();
        take_hold(&connection, &side)?;
        Ok(Database::new(connection, object, side))
    }
}

/// Makes the connection forget the file: the next reading looks at it anew, which an exclusive connection does
/// not do, and finds nothing in the cache.
fn let_go(connection: &Connection, side: &Side) -> Result<()> {
    let sql = "PRAGMA locking_mode = NORMAL; SELECT 1 FROM sqlite_schema LIMIT 1";
    set_up(connection, side, sql)?;
    connection.handle().release_memory();
    Ok(())
}

fn take_hold(connection: &Connection, side: &Side) -> Result<()> {
    set_up(connection, side, "PRAGMA locking_mode = EXCLUSIVE")
}

/// Runs pragmas of the bridge's own.
pub(crate) fn set_up(connection: &Connection, side: &Side, sql: &str) -> Result<()> {
    side.setting_up.store(true, Ordering::Relaxed);
    let done = connection.handle().internally(|| connection.run(sql));
    side.setting_up.store(false, Ordering::Relaxed);
    done
}
