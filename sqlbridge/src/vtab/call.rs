//! SQLite's calls to a table of code, carried to [`Table`]. A pocket of `unsafe`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;

use libsqlite3_sys as sqlite;

use super::{Access, Compare, Constraint, Fault, Question, Rows, Table, Write, choose};
use crate::error::Result;
use crate::ffi::{Handle, slice};
use crate::value::Value;

/// What a connection knows the table by.
type Shared = Arc<dyn Table>;
type Outcome = std::result::Result<(), Fault>;

/// A table as SQLite has it. It begins like every one of SQLite's.
#[repr(C)]
struct RawTable {
    base: sqlite::sqlite3_vtab,
    table: Shared,
    connection: *mut sqlite::sqlite3,
}

/// A cursor as SQLite has it.
#[repr(C)]
struct RawCursor {
    base: sqlite::sqlite3_vtab_cursor,
    table: Shared,
    rows: Option<Rows>,
    /// The row that it stands on; `None` behind the last one.
    row: Option<Vec<Value>>,
}

static READ_ONLY: sqlite::sqlite3_module = module(false);
static WRITABLE: sqlite::sqlite3_module = module(true);

const fn module(writes: bool) -> sqlite::sqlite3_module {
    let mut module = sqlite::sqlite3_module {
        // Version 2 has savepoints.
        iVersion: 2,
        // It is not made by CREATE VIRTUAL TABLE: it is there.
        xCreate: None,
        xConnect: Some(connect),
        xBestIndex: Some(best_index),
        xDisconnect: Some(disconnect),
        xDestroy: None,
        xOpen: Some(open),
        xClose: Some(close),
        xFilter: Some(filter),
        xNext: Some(next),
        xEof: Some(eof),
        xColumn: Some(column),
        xRowid: Some(rowid),
        xUpdate: None,
        xBegin: None,
        xSync: None,
        xCommit: None,
        xRollback: None,
        xFindFunction: None,
        xRename: None,
        xSavepoint: None,
        xRelease: None,
        xRollbackTo: None,
        xShadowName: None,
        xIntegrity: None,
    };
    if writes {
        module.xUpdate = Some(update);
        // Without these SQLite does not tell of savepoints.
        module.xBegin = Some(end);
        module.xCommit = Some(end);
        module.xRollback = Some(end);
        module.xSavepoint = Some(savepoint);
        module.xRelease = Some(release);
        module.xRollbackTo = Some(rollback_to);
    }
    module
}

/// Makes a table known to a connection, under a name that a stored table goes before.
pub(crate) fn register(handle: &Handle, name: &CStr, table: Shared) -> Result<()> {
    let module = match table.writer() {
        Some(_) => &raw const WRITABLE,
        None => &raw const READ_ONLY,
    };
    let table = Box::into_raw(Box::new(table)).cast::<c_void>();
    // SAFETY: the connection is open; the module is a static; `forget` takes the box back when the
    // connection is closed, or at once if this fails.
    let code = unsafe {
        sqlite::sqlite3_create_module_v2(handle.raw(), name.as_ptr(), module, table, Some(forget))
    };
    handle.check(code)
}

unsafe extern "C" fn forget(table: *mut c_void) {
    // SAFETY: `register` made the box, and SQLite calls this once.
    drop(unsafe { Box::from_raw(table.cast::<Shared>()) });
}

/// Runs a callback's body. A panic must not cross the C frames above: it becomes an error.
fn guarded<R>(
    act: impl FnOnce() -> std::result::Result<R, Fault>,
) -> std::result::Result<R, Fault> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_panic| {
        Err(Fault {
            code: sqlite::SQLITE_INTERNAL,
            message: "a table of the bridge has panicked: please report it".into(),
        })
    })
}

/// A copy of a text in SQLite's memory.
fn allocate(text: &str) -> *mut c_char {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the format takes one NUL-terminated text.
    unsafe { sqlite::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr()) }
}

/// Tells SQLite how a callback ended.
///
/// # Safety
/// `base` must be that of a table that [`connect`] made and [`disconnect`] has not freed.
unsafe fn answer(base: *mut sqlite::sqlite3_vtab, outcome: Outcome) -> c_int {
    let Err(fault) = outcome else {
        return sqlite::SQLITE_OK;
    };
    // SAFETY: the caller's promise; the message, if there is one, is SQLite's memory and its to free.
    unsafe {
        sqlite::sqlite3_free((*base).zErrMsg.cast());
        (*base).zErrMsg = allocate(&fault.message);
    }
    fault.code
}

/// Runs the body of a callback that writes or ends a write.
///
/// # Safety
/// As for [`answer`]; the table must be a writable one.
unsafe fn with_writer(
    base: *mut sqlite::sqlite3_vtab,
    act: impl FnOnce(&dyn Write) -> Outcome,
) -> c_int {
    // SAFETY: the caller's promise.
    let table = unsafe { &(*base.cast::<RawTable>()).table };
    let outcome = guarded(|| act(table.writer().expect("its module writes")));
    // SAFETY: the caller's promise.
    unsafe { answer(base, outcome) }
}

unsafe extern "C" fn connect(
    connection: *mut sqlite::sqlite3,
    table: *mut c_void,
    _argument_count: c_int,
    _arguments: *const *const c_char,
    out: *mut *mut sqlite::sqlite3_vtab,
    _error: *mut *mut c_char,
) -> c_int {
    // SAFETY: `register` gave this pointer, and the box lives as long as the module.
    let table = unsafe { &*table.cast::<Shared>() }.clone();
    let writes = table.writer().is_some();
    // SAFETY: SQLite calls this with its open connection, in which declaring and configuring is allowed
    // here. Each of the options takes what it is given: an int, or nothing.
    let code = unsafe {
        if writes {
            sqlite::sqlite3_vtab_config(
                connection,
                sqlite::SQLITE_VTAB_CONSTRAINT_SUPPORT,
                1 as c_int,
            );
            sqlite::sqlite3_vtab_config(connection, sqlite::SQLITE_VTAB_INNOCUOUS);
        } else {
            sqlite::sqlite3_vtab_config(connection, sqlite::SQLITE_VTAB_DIRECTONLY);
        }
        sqlite::sqlite3_declare_vtab(connection, table.declaration().as_ptr())
    };
    if code == sqlite::SQLITE_OK {
        let base = sqlite::sqlite3_vtab {
            pModule: std::ptr::null(),
            nRef: 0,
            zErrMsg: null_mut(),
        };
        let raw = Box::into_raw(Box::new(RawTable {
            base,
            table,
            connection,
        }));
        // SAFETY: SQLite gives a place for the table, which begins as one of its own.
        unsafe { *out = raw.cast() };
    }
    code
}

unsafe extern "C" fn disconnect(base: *mut sqlite::sqlite3_vtab) -> c_int {
    // SAFETY: `connect` made the box, and SQLite disconnects a table once.
    drop(unsafe { Box::from_raw(base.cast::<RawTable>()) });
    sqlite::SQLITE_OK
}

unsafe extern "C" fn best_index(
    base: *mut sqlite::sqlite3_vtab,
    info: *mut sqlite::sqlite3_index_info,
) -> c_int {
    // SAFETY: SQLite passes a table that `connect` made, and an `info` that is its own for this call, with
    // as many constraints and terms of order as it says; the usages are as many as the constraints.
    unsafe {
        let outcome = guarded(|| {
            let table = &(*base.cast::<RawTable>()).table;
            let plan = choose(table.keys(), &question(info));
            for (place, (constraint, is_exact)) in (1..).zip(&plan.uses) {
                let usage = &mut *(*info).aConstraintUsage.add(*constraint);
                usage.argvIndex = place;
                usage.omit = u8::from(*is_exact);
            }
            (*info).idxNum = plan.number;
            (*info).orderByConsumed = c_int::from(plan.is_ordered);
            (*info).estimatedRows = plan.rows;
            (*info).estimatedCost = 10.0 + plan.rows as f64;
            if plan.is_unique {
                (*info).idxFlags = sqlite::SQLITE_INDEX_SCAN_UNIQUE;
            }
            Ok(())
        });
        answer(base, outcome)
    }
}

/// # Safety
/// `info` must be the argument of xBestIndex, during that call.
unsafe fn question(info: *mut sqlite::sqlite3_index_info) -> Question {
    // SAFETY: the caller's promise. The collation of a constraint is a NUL-terminated text.
    unsafe {
        let constraint = |index: c_int| {
            let raw = *(*info).aConstraint.add(index as usize);
            let compare = match c_int::from(raw.op) {
                sqlite::SQLITE_INDEX_CONSTRAINT_EQ | sqlite::SQLITE_INDEX_CONSTRAINT_IS => {
                    Compare::Equal
                }
                sqlite::SQLITE_INDEX_CONSTRAINT_GT => Compare::Greater,
                sqlite::SQLITE_INDEX_CONSTRAINT_GE => Compare::GreaterOrEqual,
                sqlite::SQLITE_INDEX_CONSTRAINT_LT => Compare::Less,
                sqlite::SQLITE_INDEX_CONSTRAINT_LE => Compare::LessOrEqual,
                sqlite::SQLITE_INDEX_CONSTRAINT_GLOB => Compare::Glob,
                _ => return None,
            };
            let column = usize::try_from(raw.iColumn).ok()?;
            let collation = sqlite::sqlite3_vtab_collation(info, index);
            let is_binary = !collation.is_null() && CStr::from_ptr(collation) == c"BINARY";
            (raw.usable != 0 && is_binary).then_some(Constraint { column, compare })
        };
        let order = ((*info).nOrderBy > 0).then(|| *(*info).aOrderBy);
        Question {
            constraints: (0..(*info).nConstraint).map(constraint).collect(),
            order: order
                .and_then(|first| Some((usize::try_from(first.iColumn).ok()?, first.desc != 0))),
            columns: (*info).colUsed,
        }
    }
}

unsafe extern "C" fn open(
    base: *mut sqlite::sqlite3_vtab,
    out: *mut *mut sqlite::sqlite3_vtab_cursor,
) -> c_int {
    // SAFETY: SQLite passes a table that `connect` made.
    let table = unsafe { &(*base.cast::<RawTable>()).table }.clone();
    let base = sqlite::sqlite3_vtab_cursor { pVtab: null_mut() };
    let (rows, row) = (None, None);
    let raw = Box::into_raw(Box::new(RawCursor {
        base,
        table,
        rows,
        row,
    }));
    // SAFETY: SQLite gives a place for the cursor, which begins as one of its own.
    unsafe { *out = raw.cast() };
    sqlite::SQLITE_OK
}

unsafe extern "C" fn close(cursor: *mut sqlite::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: `open` made the box, and SQLite closes a cursor once.
    drop(unsafe { Box::from_raw(cursor.cast::<RawCursor>()) });
    sqlite::SQLITE_OK
}

/// Runs the body of a callback on a cursor.
///
/// # Safety
/// `raw` must be a cursor that [`open`] made and [`close`] has not freed.
unsafe fn with_cursor(
    raw: *mut sqlite::sqlite3_vtab_cursor,
    act: impl FnOnce(&mut RawCursor) -> Outcome,
) -> c_int {
    // SAFETY: the caller's promise; a connection's cursors are used from one thread at a time, and none of
    // the callbacks calls another, so there is no other reference to it.
    let cursor = unsafe { &mut *raw.cast::<RawCursor>() };
    let base = cursor.base.pVtab;
    let outcome = guarded(|| act(cursor));
    // SAFETY: SQLite has set `pVtab` to the cursor's table.
    unsafe { answer(base, outcome) }
}

unsafe extern "C" fn filter(
    cursor: *mut sqlite::sqlite3_vtab_cursor,
    number: c_int,
    _text: *const c_char,
    count: c_int,
    operands: *mut *mut sqlite::sqlite3_value,
) -> c_int {
    // SAFETY: the cursor is open, and there are `count` operands.
    unsafe {
        with_cursor(cursor, |cursor| {
            let operands = (0..count as usize).map(|index| value(*operands.add(index)));
            let access = Access::new(cursor.table.keys(), number, operands.collect());
            cursor.row = None;
            cursor.rows = Some(cursor.table.rows(access)?);
            cursor.advance()
        })
    }
}

impl RawCursor {
    fn advance(&mut self) -> Outcome {
        // Whatever follows an error is not asked for.
        let next = self.rows.as_mut().and_then(Iterator::next);
        self.row = next.transpose()?;
        Ok(())
    }
}

unsafe extern "C" fn next(cursor: *mut sqlite::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: the cursor is open.
    unsafe { with_cursor(cursor, RawCursor::advance) }
}

unsafe extern "C" fn eof(cursor: *mut sqlite::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: the cursor is open.
    c_int::from(unsafe { (*cursor.cast::<RawCursor>()).row.is_none() })
}

unsafe extern "C" fn column(
    cursor: *mut sqlite::sqlite3_vtab_cursor,
    context: *mut sqlite::sqlite3_context,
    column: c_int,
) -> c_int {
    // SAFETY: the cursor is open, and the context is that of this call.
    unsafe {
        with_cursor(cursor, |cursor| {
            let row = cursor.row.as_ref().expect("it stands on a row");
            give(context, &row[column as usize]);
            Ok(())
        })
    }
}

/// The tables have no row ids: nobody asks.
unsafe extern "C" fn rowid(
    _cursor: *mut sqlite::sqlite3_vtab_cursor,
    _out: *mut sqlite::sqlite3_int64,
) -> c_int {
    sqlite::SQLITE_MISMATCH
}

unsafe extern "C" fn update(
    base: *mut sqlite::sqlite3_vtab,
    count: c_int,
    values: *mut *mut sqlite::sqlite3_value,
    _rowid: *mut sqlite::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes a table that `connect` made, and `count` values: the key of the row that is
    // removed or replaced, or NULL, and unless it is removed its new key and its columns.
    unsafe {
        let connection = (*base.cast::<RawTable>()).connection;
        with_writer(base, |writer| {
            let key = value(*values);
            if count == 1 {
                return writer.delete(key);
            }
            let replace = sqlite::sqlite3_vtab_on_conflict(connection) == sqlite::SQLITE_REPLACE;
            let row = (2..count as usize)
                .map(|index| value(*values.add(index)))
                .collect();
            match key {
                Value::Null => writer.insert(row, replace),
                key => writer.update(key, row, replace),
            }
        })
    }
}

/// A transaction begins, is committed, or is rolled back: there are no savepoints.
unsafe extern "C" fn end(base: *mut sqlite::sqlite3_vtab) -> c_int {
    // SAFETY: SQLite passes a table that `connect` made, of a module that writes.
    unsafe { release(base, 0) }
}

unsafe extern "C" fn savepoint(base: *mut sqlite::sqlite3_vtab, depth: c_int) -> c_int {
    // SAFETY: as for `end`.
    unsafe { with_writer(base, |writer| writer.savepoint(depth as usize)) }
}

unsafe extern "C" fn release(base: *mut sqlite::sqlite3_vtab, depth: c_int) -> c_int {
    // SAFETY: as for `end`.
    unsafe {
        with_writer(base, |writer| {
            writer.release(depth as usize);
            Ok(())
        })
    }
}

unsafe extern "C" fn rollback_to(base: *mut sqlite::sqlite3_vtab, depth: c_int) -> c_int {
    // SAFETY: as for `end`.
    unsafe { with_writer(base, |writer| writer.rollback_to(depth as usize)) }
}

/// # Safety
/// `raw` must be a value that SQLite passes to the callback that runs.
unsafe fn value(raw: *mut sqlite::sqlite3_value) -> Value {
    // SAFETY: the caller's promise. The pointer of a text or blob is asked for before its length, as SQLite
    // wants it, and copied before any other call.
    unsafe {
        match sqlite::sqlite3_value_type(raw) {
            sqlite::SQLITE_INTEGER => Value::Integer(sqlite::sqlite3_value_int64(raw)),
            sqlite::SQLITE_FLOAT => Value::Real(sqlite::sqlite3_value_double(raw)),
            sqlite::SQLITE_TEXT => {
                let text = sqlite::sqlite3_value_text(raw);
                let bytes = slice(text, sqlite::sqlite3_value_bytes(raw)).to_vec();
                // SQLite lets any bytes be called text; what is none stays what it is.
                String::from_utf8(bytes)
                    .map_or_else(|bytes| Value::Blob(bytes.into_bytes()), Value::Text)
            }
            sqlite::SQLITE_BLOB => {
                let blob = sqlite::sqlite3_value_blob(raw).cast::<u8>();
                Value::Blob(slice(blob, sqlite::sqlite3_value_bytes(raw)).to_vec())
            }
            _ => Value::Null,
        }
    }
}

/// # Safety
/// `context` must be that of the callback that runs.
unsafe fn give(context: *mut sqlite::sqlite3_context, value: &Value) {
    let transient = sqlite::SQLITE_TRANSIENT();
    // SAFETY: the caller's promise; texts and blobs are copied by SQLite (TRANSIENT). An empty blob has a
    // dangling but non-null pointer, which gives an empty blob rather than NULL.
    unsafe {
        match value {
            Value::Null => sqlite::sqlite3_result_null(context),
            Value::Integer(integer) => sqlite::sqlite3_result_int64(context, *integer),
            Value::Real(real) => sqlite::sqlite3_result_double(context, *real),
            Value::Text(text) => sqlite::sqlite3_result_text64(
                context,
                text.as_ptr().cast(),
                text.len() as u64,
                transient,
                sqlite::SQLITE_UTF8 as u8,
            ),
            Value::Blob(bytes) => sqlite::sqlite3_result_blob64(
                context,
                bytes.as_ptr().cast(),
                bytes.len() as u64,
                transient,
            ),
        }
    }
}
