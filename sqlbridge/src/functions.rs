//! Functions that SQLite lacks, registered when a statement asks for them. A pocket of `unsafe`; what the
//! functions compute is in [`crate::math`].

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use libsqlite3_sys as sqlite;

use crate::error::Error;
use crate::math::{FUNCTIONS, Math, Number};

/// The most arguments that one takes.
const ARGUMENTS_MAX: usize = 2;

/// The functions that a connection has learned: a bit each, in the order of [`FUNCTIONS`].
#[derive(Debug, Default)]
pub(crate) struct Learned(Cell<u32>);

const _: () = assert!(FUNCTIONS.len() <= 32);

impl Learned {
    /// Registers the function for whose lack a call failed, if it is one of these and new. Then the call is
    /// worth repeating.
    ///
    /// # Safety
    /// The connection must be open.
    pub(crate) unsafe fn learn(&self, raw: *mut sqlite::sqlite3, error: &Error) -> bool {
        let Error::Sqlite { message, .. } = error else {
            return false;
        };
        let Some(place) = missing(message).and_then(place) else {
            return false;
        };
        if self.0.get() & 1 << place != 0 {
            return false;
        }
        self.0.set(self.0.get() | 1 << place);
        let function = &FUNCTIONS[place];
        let flags = sqlite::SQLITE_UTF8 | sqlite::SQLITE_DETERMINISTIC | sqlite::SQLITE_INNOCUOUS;
        function.arguments().iter().all(|&count| {
            // SAFETY: the connection is open; the name is NUL-terminated, and the function static.
            let code = unsafe {
                sqlite::sqlite3_create_function_v2(
                    raw,
                    function.name.as_ptr(),
                    count,
                    flags,
                    std::ptr::from_ref(function).cast_mut().cast::<c_void>(),
                    Some(call),
                    None,
                    None,
                    None,
                )
            };
            code == sqlite::SQLITE_OK
        })
    }
}

/// The name in SQLite's complaint: when it looks a name up, or when it compiles what the schema has.
fn missing(message: &str) -> Option<&str> {
    let complaints = ["no such function: ", "unknown function: "];
    let (_, name) = complaints
        .iter()
        .find_map(|complaint| message.split_once(complaint))?;
    Some(name.trim_end_matches("()"))
}

fn place(name: &str) -> Option<usize> {
    let name = name.as_bytes();
    FUNCTIONS
        .iter()
        .position(|known| known.name.to_bytes().eq_ignore_ascii_case(name))
}

/// NULL if an argument is no number, or the result is none.
unsafe extern "C" fn call(
    context: *mut sqlite::sqlite3_context,
    count: c_int,
    values: *mut *mut sqlite::sqlite3_value,
) {
    let count = (count as usize).min(ARGUMENTS_MAX);
    let mut given = [Number::Integer(0); ARGUMENTS_MAX];
    // SAFETY: SQLite calls with the static function that was registered, and as many values as it says, all
    // alive until the call returns.
    unsafe {
        let function = &*sqlite::sqlite3_user_data(context).cast::<Math>();
        for (at, number) in given[..count].iter_mut().enumerate() {
            let value = *values.add(at);
            *number = match sqlite::sqlite3_value_numeric_type(value) {
                sqlite::SQLITE_INTEGER => Number::Integer(sqlite::sqlite3_value_int64(value)),
                sqlite::SQLITE_FLOAT => Number::Real(sqlite::sqlite3_value_double(value)),
                _ => return sqlite::sqlite3_result_null(context),
            };
        }
        match function.call(&given[..count]) {
            Number::Integer(integer) => sqlite::sqlite3_result_int64(context, integer),
            Number::Real(real) => sqlite::sqlite3_result_double(context, real),
        }
    }
}
