//! SQLite's C interface, made safe: connections and statements. The other pockets of `unsafe` are
//! the VFS and the calls of virtual tables.

mod bounds;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{NonNull, null, null_mut};
use std::rc::Rc;
use std::sync::Once;

use libsqlite3_sys as sqlite;

use crate::counters::{Counted, Kind, Shape};
use crate::error::{Error, Result};
use crate::functions::Learned;
use crate::hooks::{Hooks, Used};
use crate::limited::{self, Rewritten};
use crate::policy::SqlPolicy;
use crate::value::Value;

/// An open connection. Closed when dropped; its statements must be gone by then.
#[derive(Debug)]
pub(crate) struct Handle {
    raw: NonNull<sqlite::sqlite3>,
    /// The answers to SQLite's callbacks, which have their address. Never cloned, so that they move with the
    /// connection; a `Box` would not do, since moving one claims that nobody else points into it.
    hooks: Rc<Hooks>,
    learned: Learned,
}

// SAFETY: a connection opened with NOMUTEX may be used from any thread, but from one at a time. A
// `Handle` is not `Sync` and all its methods that use the connection take `&self` of the one owner,
// so moving it to another thread moves all use of it.
unsafe impl Send for Handle {}

/// A prepared statement. Finalized when dropped.
#[derive(Debug)]
pub(crate) struct Statement {
    raw: NonNull<sqlite::sqlite3_stmt>,
    run: Cell<Run>,
    /// Of the run that is under way, or the last one.
    changes: Cell<Changes>,
    /// Of its program, once it was asked for.
    shape: Cell<Option<Shape>>,
}

/// The run of a statement that is under way.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    started: bool,
    gave_rows: bool,
    /// Of its budget.
    used: Used,
}

/// Rows that a run has changed: all, and without those of triggers and foreign keys.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    all: u64,
    direct: u64,
}

// SAFETY: a statement belongs to a connection and is used where that is used: see `Handle`. The
// connection owns its statements in `crate::connection`, and they move together.
unsafe impl Send for Statement {}

/// What a step of a statement gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Row,
    Done,
}

impl Handle {
    /// Opens a database, by the VFS of this name or the default one.
    pub(crate) fn open(name: &str, vfs: Option<&CStr>) -> Result<Self> {
        let flags = sqlite::SQLITE_OPEN_READWRITE | sqlite::SQLITE_OPEN_CREATE;
        Self::open_with(name, vfs, flags)
    }

    /// The same, with SQLite's flags for how.
    pub(crate) fn open_with(name: &str, vfs: Option<&CStr>, flags: c_int) -> Result<Self> {
        let name =
            CString::new(name).map_err(|_| Error::Type("a file name contains a NUL".into()))?;
        let flags = flags | sqlite::SQLITE_OPEN_NOMUTEX | sqlite::SQLITE_OPEN_EXRESCODE;
        configure();
        let mut raw = null_mut();
        // SAFETY: both names are NUL-terminated and outlive the call; `raw` is written in any case.
        let code = unsafe {
            sqlite::sqlite3_open_v2(
                name.as_ptr(),
                &mut raw,
                flags,
                vfs.map_or(null(), CStr::as_ptr),
            )
        };
        let Some(raw) = NonNull::new(raw) else {
            return Err(Error::Sqlite {
                code,
                message: "out of memory".into(),
            });
        };
        let handle = Handle {
            raw,
            hooks: Rc::new(Hooks::new()),
            learned: Learned::default(),
        };
        handle.check(code)?;
        Ok(handle)
    }

    /// Tightens what an application may do: no loaded extensions, no writes to the schema table, no
    /// lookaside memory, and the rules of a policy.
    pub(crate) fn restrict(&self, policy: &SqlPolicy) -> Result<()> {
        let raw = self.raw.as_ptr();
        let switches = [
            (sqlite::SQLITE_DBCONFIG_DEFENSIVE, 1),
            (sqlite::SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
            (sqlite::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
        ];
        for (switch, value) in switches {
            // SAFETY: each of these takes an int and a pointer to an int, which may be null.
            let code = unsafe {
                sqlite::sqlite3_db_config(raw, switch, value as c_int, null_mut::<c_int>())
            };
            self.check(code)?;
        }
        // SAFETY: lookaside takes a buffer, which may be null, and two ints; sizes of zero turn it off.
        let code = unsafe {
            sqlite::sqlite3_db_config(
                raw,
                sqlite::SQLITE_DBCONFIG_LOOKASIDE,
                null_mut::<c_void>(),
                0 as c_int,
                0 as c_int,
            )
        };
        self.check(code)?;
        // SAFETY: the connection is open, and dropped before the hooks, which are its own.
        let code = unsafe { self.hooks.install(raw, policy) };
        self.check(code)
    }

    /// Runs `act` with the application's rules off.
    pub(crate) fn internally<R>(&self, act: impl FnOnce() -> R) -> R {
        let before = self.hooks.internal.replace(true);
        let result = act();
        self.hooks.internal.set(before);
        result
    }

    /// Whether the application's rules are off.
    pub(crate) fn is_internal(&self) -> bool {
        self.hooks.internal.get()
    }

    /// From now on statements are the application's.
    pub(crate) fn hand_over(&self) {
        self.hooks.internal.set(false);
    }

    /// Prepares the first statement of a text. Returns it, if there is one, and how many bytes it took.
    pub(crate) fn prepare(&self, sql: &str) -> Result<(Option<Statement>, usize)> {
        loop {
            match self.prepare_as_it_is(sql) {
                Err(error) if self.learn(&error) => {}
                Err(error) if limited::is_suspect(&error) => {
                    let Some(rewritten) = limited::rewrite(sql)? else {
                        return Err(error);
                    };
                    return self.prepare_rewritten(&rewritten);
                }
                other => return other,
            }
        }
    }

    fn prepare_rewritten(&self, rewritten: &Rewritten) -> Result<(Option<Statement>, usize)> {
        let (statement, _) = self.prepare(&rewritten.text).map_err(limited::explain)?;
        if self.hides_rowid(&rewritten.table)? {
            return Err(limited::hidden_rowid());
        }
        Ok((statement, rewritten.taken))
    }

    /// Whether a table has a column that SQLite would take for the rowid.
    fn hides_rowid(&self, table: &str) -> Result<bool> {
        self.internally(|| {
            let (statement, _) = self.prepare_as_it_is(limited::HIDES_ROWID)?;
            let statement = statement.expect("the text is a statement");
            statement.bind(self, 1, &table.into())?;
            Ok(statement.step(self)? == Step::Row)
        })
    }

    /// Learns the function for whose lack a call failed, if it can be had.
    fn learn(&self, error: &Error) -> bool {
        // SAFETY: the connection is open.
        unsafe { self.learned.learn(self.raw.as_ptr(), error) }
    }

    fn prepare_as_it_is(&self, sql: &str) -> Result<(Option<Statement>, usize)> {
        let len = c_int::try_from(sql.len())
            .map_err(|_| Error::Type("an SQL text of more than 2 GiB".into()))?;
        self.hooks.before_prepare(sql)?;
        let (mut raw, mut tail) = (null_mut(), null());
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: the text has `len` bytes; it need not be NUL-terminated. `tail` points into it.
        let code = unsafe {
            sqlite::sqlite3_prepare_v3(self.raw.as_ptr(), start, len, 0, &mut raw, &mut tail)
        };
        self.check(code)?;
        // SAFETY: both pointers are into the same text.
        let taken = unsafe { tail.offset_from(start) } as usize;
        let statement = NonNull::new(raw).map(|raw| Statement {
            raw,
            run: Cell::default(),
            changes: Cell::default(),
            shape: Cell::default(),
        });
        self.hooks.after_prepare(&sql[..taken])?;
        Ok((statement, taken))
    }

    /// Whether the application has set something that lives in the connection.
    pub(crate) fn is_personal(&self) -> bool {
        self.hooks.personal.get()
    }

    /// Drops the pages that the connection has cached, and what else it can do without.
    pub(crate) fn release_memory(&self) {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_db_release_memory(self.raw.as_ptr()) };
    }

    /// Makes `last_insert_rowid()` zero, as on a new connection.
    pub(crate) fn forget_last_insert(&self) {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_set_last_insert_rowid(self.raw.as_ptr(), 0) };
    }

    /// The connection, for the other pockets of `unsafe`. Open as long as this is.
    pub(crate) fn raw(&self) -> *mut sqlite::sqlite3 {
        self.raw.as_ptr()
    }

    /// Whether no transaction is open.
    pub(crate) fn is_autocommit(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_get_autocommit(self.raw.as_ptr()) != 0 }
    }

    /// Rows that all statements changed, with those of triggers and foreign keys.
    fn total_changes(&self) -> u64 {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_total_changes64(self.raw.as_ptr()) as u64 }
    }

    fn shape(&self, statement: &Statement) -> Shape {
        // SAFETY: the statement is alive; its text is NUL-terminated, and lives as long.
        let sql = unsafe { CStr::from_ptr(sqlite::sqlite3_sql(statement.raw.as_ptr())) };
        let sql = format!("EXPLAIN {}", sql.to_string_lossy());
        let explain = || -> Result<Vec<Vec<Value>>> {
            let (Some(explained), _) = self.prepare_as_it_is(&sql)? else {
                return Ok(Vec::new());
            };
            let columns = explained.column_names().len();
            let mut rows = Vec::new();
            while explained.step(self)? == Step::Row {
                rows.push(
                    (0..columns)
                        .map(|column| explained.column(column))
                        .collect(),
                );
            }
            Ok(rows)
        };
        let rows = self.internally(explain).unwrap_or_default();
        Shape::of(&rows)
    }

    /// Rows that the last statement inserted, updated or deleted.
    pub(crate) fn changes(&self) -> u64 {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_changes64(self.raw.as_ptr()) as u64 }
    }

    pub(crate) fn check(&self, code: c_int) -> Result<()> {
        if code == sqlite::SQLITE_OK {
            Ok(())
        } else {
            Err(self.error(code))
        }
    }

    /// The error of the call that just failed.
    pub(crate) fn error(&self, code: c_int) -> Error {
        if let Some(error) = self.hooks.explain(code) {
            return error;
        }
        // SAFETY: the message is NUL-terminated and valid until the next call on the connection.
        let message = unsafe { CStr::from_ptr(sqlite::sqlite3_errmsg(self.raw.as_ptr())) };
        Error::Sqlite {
            code,
            message: message.to_string_lossy().into_owned(),
        }
    }
}

/// Makes connections allocate each page that they cache by itself, once for the process. Otherwise each takes
/// room for 20 pages with its first one and never gives it back, while a small database has four. To be called
/// before anything else of SQLite.
pub(crate) fn configure() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (size, count): (c_int, c_int) = (0, 0);
        // SAFETY: this option takes a buffer, which may be null, and two ints. Somebody else who has started
        // SQLite already makes the call an error, and everything works as before.
        let _ = unsafe {
            sqlite::sqlite3_config(
                sqlite::SQLITE_CONFIG_PAGECACHE,
                null_mut::<c_void>(),
                size,
                count,
            )
        };
    });
}

/// Bytes that SQLite has allocated.
pub(crate) fn memory_used() -> u64 {
    // SAFETY: it may be called at any time.
    unsafe { sqlite::sqlite3_memory_used() as u64 }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the connection is open, and closed only here. Its owner has finalized all statements
        // by now; were one left, the call would refuse and the connection leak.
        let code = unsafe { sqlite::sqlite3_close(self.raw.as_ptr()) };
        debug_assert_eq!(
            code,
            sqlite::SQLITE_OK,
            "a statement outlived its connection"
        );
    }
}

impl Statement {
    /// Whether it writes nothing.
    pub(crate) fn is_readonly(&self) -> bool {
        // SAFETY: the statement is alive.
        unsafe { sqlite::sqlite3_stmt_readonly(self.raw.as_ptr()) != 0 }
    }

    /// How many parameters it has.
    pub(crate) fn parameter_count(&self) -> usize {
        // SAFETY: the statement is alive.
        unsafe { sqlite::sqlite3_bind_parameter_count(self.raw.as_ptr()) as usize }
    }

    /// Sets a parameter, from 1.
    pub(crate) fn bind(&self, handle: &Handle, index: usize, value: &Value) -> Result<()> {
        let (raw, index) = (self.raw.as_ptr(), index as c_int);
        let transient = sqlite::SQLITE_TRANSIENT();
        // SAFETY: the statement is alive; texts and blobs are copied by SQLite (TRANSIENT), and their
        // lengths are given in 64 bits. An empty blob has a dangling but non-null pointer, which gives
        // an empty blob rather than NULL.
        let code = unsafe {
            match value {
                Value::Null => sqlite::sqlite3_bind_null(raw, index),
                Value::Integer(integer) => sqlite::sqlite3_bind_int64(raw, index, *integer),
                Value::Real(real) => sqlite::sqlite3_bind_double(raw, index, *real),
                Value::Text(text) => sqlite::sqlite3_bind_text64(
                    raw,
                    index,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    transient,
                    sqlite::SQLITE_UTF8 as u8,
                ),
                Value::Blob(bytes) => sqlite::sqlite3_bind_blob64(
                    raw,
                    index,
                    bytes.as_ptr().cast(),
                    bytes.len() as u64,
                    transient,
                ),
            }
        };
        handle.check(code)
    }

    /// Runs it up to its next row, or to its end.
    pub(crate) fn step(&self, handle: &Handle) -> Result<Step> {
        let mut run = self.run.get();
        if !run.started {
            run.started = true;
            self.forget_counters();
        }
        loop {
            let before = handle.total_changes();
            let outer = handle.hooks.before_step(self.is_readonly(), run.used);
            // SAFETY: the statement is alive, and belongs to this connection.
            let code = unsafe { sqlite::sqlite3_step(self.raw.as_ptr()) };
            run.used = handle.hooks.after_step(outer);
            run.gave_rows |= code == sqlite::SQLITE_ROW;
            self.run.set(run);
            let changed = handle.total_changes() - before;
            if changed > 0 {
                let all = self.changes.get().all + changed;
                let direct = handle.changes();
                self.changes.set(Changes { all, direct });
            }
            let error = match code {
                sqlite::SQLITE_ROW => return Ok(Step::Row),
                sqlite::SQLITE_DONE => return Ok(Step::Done),
                code => handle.error(code),
            };
            // SQLite prepares it again after a change of the schema, which may ask for more functions.
            if run.gave_rows || !handle.learn(&error) {
                return Err(error);
            }
            // SAFETY: the statement is alive. The parameters stay.
            unsafe { sqlite::sqlite3_reset(self.raw.as_ptr()) };
        }
    }

    /// What SQLite has counted of the run that is under way, or of the last one.
    pub(crate) fn counted(&self) -> Counted {
        let changes = self.changes.get();
        Counted {
            moves: Kind::ALL.map(|kind| self.status(kind.number(), false)),
            changes: changes.all,
            direct_changes: changes.direct,
        }
    }

    /// The shape of its program, or an empty one if it has none.
    pub(crate) fn shape(&self, handle: &Handle) -> Shape {
        let shape = self.shape.get().unwrap_or_else(|| handle.shape(self));
        self.shape.set(Some(shape));
        shape
    }

    fn forget_counters(&self) {
        self.changes.take();
        for kind in Kind::ALL {
            self.status(kind.number(), true);
        }
    }

    /// One of SQLite's counters, which may start again from zero then.
    fn status(&self, number: c_int, restart: bool) -> u64 {
        // SAFETY: the statement is alive.
        let count =
            unsafe { sqlite::sqlite3_stmt_status(self.raw.as_ptr(), number, c_int::from(restart)) };
        u64::from(count as u32)
    }

    /// Whether the last step had to prepare it again.
    pub(crate) fn was_prepared_again(&self) -> bool {
        let again = self.status(sqlite::SQLITE_STMTSTATUS_REPREPARE, true) > 0;
        if again {
            self.shape.take();
        }
        again
    }

    /// Makes it ready to run again, without parameters.
    pub(crate) fn reset(&self) {
        self.run.take();
        // SAFETY: the statement is alive. Both calls only repeat the error of the last step.
        unsafe {
            sqlite::sqlite3_reset(self.raw.as_ptr());
            sqlite::sqlite3_clear_bindings(self.raw.as_ptr());
        }
    }

    /// The names of its columns.
    pub(crate) fn column_names(&self) -> Vec<String> {
        // SAFETY: the statement is alive; a name is null only when memory ran out, else NUL-terminated
        // and valid until the next call.
        unsafe {
            let count = sqlite::sqlite3_column_count(self.raw.as_ptr());
            let name = |column| {
                let name = sqlite::sqlite3_column_name(self.raw.as_ptr(), column);
                if name.is_null() {
                    String::new()
                } else {
                    CStr::from_ptr(name).to_string_lossy().into_owned()
                }
            };
            (0..count).map(name).collect()
        }
    }

    /// A value of the row it stands on.
    pub(crate) fn column(&self, column: usize) -> Value {
        let (raw, column) = (self.raw.as_ptr(), column as c_int);
        // SAFETY: the statement stands on a row. The pointer of a text or blob is asked for before its
        // length, as SQLite wants it, and copied before any other call.
        unsafe {
            match sqlite::sqlite3_column_type(raw, column) {
                sqlite::SQLITE_INTEGER => Value::Integer(sqlite::sqlite3_column_int64(raw, column)),
                sqlite::SQLITE_FLOAT => Value::Real(sqlite::sqlite3_column_double(raw, column)),
                sqlite::SQLITE_TEXT => {
                    let text = sqlite::sqlite3_column_text(raw, column);
                    let bytes = slice(text, sqlite::sqlite3_column_bytes(raw, column));
                    Value::Text(String::from_utf8_lossy(bytes).into_owned())
                }
                sqlite::SQLITE_BLOB => {
                    let blob = sqlite::sqlite3_column_blob(raw, column).cast::<u8>();
                    Value::Blob(slice(blob, sqlite::sqlite3_column_bytes(raw, column)).to_vec())
                }
                _ => Value::Null,
            }
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: the statement is alive, and finalized only here.
        unsafe { sqlite::sqlite3_finalize(self.raw.as_ptr()) };
    }
}

/// # Safety
/// Unless it is null, `start` must point to `len` bytes that live as long as the result is used.
pub(crate) unsafe fn slice<'a>(start: *const u8, len: c_int) -> &'a [u8] {
    if start.is_null() || len <= 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, len as usize) }
}
