//! What SQLite asks while it prepares and runs: may it do this (authorizer), may it go on (progress
//! handler). A pocket of `unsafe`; what the answers are is in [`crate::policy`].
//!
//! 1. SQLite has one address for both callbacks: that of the connection's [`Hooks`], which do not move and
//!    live as long as the connection.
//! 2. While the bridge itself runs a statement, both say yes.
//! 3. A "no" is remembered until the error of the call is made, so that the error names the rule.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null;
use std::time::{Duration, Instant};

use libsqlite3_sys as sqlite;

use crate::error::Error;
use crate::policy::{Action, Budget, Rule, SqlPolicy};
use crate::text;

/// Steps of SQLite's machine between two looks at the budget.
const STEPS_BETWEEN: u32 = 1000;

/// The answers of one connection.
#[derive(Debug)]
pub(crate) struct Hooks {
    policy: Cell<SqlPolicy>,
    /// Whether the bridge itself, and not the application, runs statements now.
    pub(crate) internal: Cell<bool>,
    /// The first "no" of the call that is under way.
    refused: RefCell<Option<Error>>,
    /// What the statement that runs has used.
    used: Cell<Used>,
    exhausted: Cell<bool>,
    /// Whether the application has set something that lives in the connection, not in the database.
    pub(crate) personal: Cell<bool>,
    /// Whether a statement runs that writes nothing itself. What is prepared meanwhile is for a virtual table.
    reading: Cell<bool>,
}

/// What a statement has used of its budget.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    steps: u64,
    /// In the steps that ended.
    time: Duration,
    /// When the step that runs was first looked at. A statement that is never looked at is short, and not
    /// worth asking a clock.
    since: Option<Instant>,
}

impl Hooks {
    pub(crate) fn new() -> Self {
        Hooks {
            policy: SqlPolicy::native().into(),
            internal: true.into(),
            refused: RefCell::default(),
            used: Cell::default(),
            exhausted: false.into(),
            personal: false.into(),
            reading: false.into(),
        }
    }

    /// Makes the connection keep to a policy.
    ///
    /// # Safety
    /// The connection must be open, and these hooks stay where they are until it is closed.
    pub(crate) unsafe fn install(&self, raw: *mut sqlite::sqlite3, policy: &SqlPolicy) -> c_int {
        self.policy.set(*policy);
        if let Some(kept) = policy.modules() {
            let names: Vec<CString> = kept
                .iter()
                .filter_map(|name| CString::new(*name).ok())
                .collect();
            let mut list: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
            list.push(null());
            // SAFETY: a list of NUL-terminated texts that ends with null, and outlives the call.
            let code = unsafe { sqlite::sqlite3_drop_modules(raw, list.as_mut_ptr()) };
            if code != sqlite::SQLITE_OK {
                return code;
            }
        }
        let address = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: the connection is open. The callbacks take the address for that of hooks, which it is
        // for as long as the connection may call them.
        unsafe {
            for (number, value) in policy.limits() {
                sqlite::sqlite3_limit(raw, number, value);
            }
            if policy.statement_budget() != Budget::Unlimited {
                sqlite::sqlite3_progress_handler(
                    raw,
                    STEPS_BETWEEN as c_int,
                    Some(progress),
                    address,
                );
            }
            sqlite::sqlite3_set_authorizer(raw, Some(authorize), address)
        }
    }

    /// Before a statement is prepared. A rule that the authorizer cannot know may refuse it here.
    pub(crate) fn before_prepare(&self, sql: &str) -> Result<(), Error> {
        self.refused.take();
        let vacuum = "VACUUM";
        if !self.internal.get() && text::first_word(sql).eq_ignore_ascii_case(vacuum) {
            return Err(denied(Rule::Vacuum, vacuum));
        }
        Ok(())
    }

    /// After it was prepared, likewise.
    pub(crate) fn after_prepare(&self, sql: &str) -> Result<(), Error> {
        if self.internal.get() {
            return Ok(());
        }
        for name in text::names_that_sqlite_does_not_tell(sql) {
            // A virtual table's own tables have its name and something behind an underscore, and are renamed with it.
            let longer = format!("{name}_");
            if let Some(rule) = self.policy.get().judge(&Action::Name(&longer)) {
                return Err(denied(rule, &name));
            }
        }
        Ok(())
    }

    /// Before a step of a statement that only reads or not, and has used this. Returns what [`Hooks::after_step`] wants back.
    pub(crate) fn before_step(&self, reads: bool, used: Used) -> Used {
        self.refused.take();
        self.exhausted.set(false);
        self.reading.set(reads);
        let since = (used.steps > 0).then(now);
        self.used.replace(Used { since, ..used })
    }

    /// After it: what the statement has used now.
    pub(crate) fn after_step(&self, outer: Used) -> Used {
        self.reading.set(false);
        let used = self.used.replace(outer);
        let time = used.since.map_or(Duration::ZERO, |since| now() - since);
        Used {
            time: used.time + time,
            since: None,
            ..used
        }
    }

    /// Why the call that just failed with this code did, if it was for a "no".
    pub(crate) fn explain(&self, code: c_int) -> Option<Error> {
        if self.exhausted.take() && code & 0xff == sqlite::SQLITE_INTERRUPT {
            let budget = self.policy.get().statement_budget();
            return Some(Error::Interrupted { budget });
        }
        self.refused.take()
    }

    fn permits(&self, action: &Action<'_>) -> bool {
        let Some(rule) = self.policy.get().judge(action) else {
            if is_personal(action) {
                self.personal.set(true);
            }
            return true;
        };
        let what = match action {
            Action::Transaction(word) | Action::OtherDatabase(word) => word,
            Action::Temporary(what) => what,
            Action::Name(name) | Action::Function(name) => name,
            Action::VirtualTable { module } => module,
            Action::Pragma { name, .. } => name,
        };
        self.refused
            .borrow_mut()
            .get_or_insert_with(|| denied(rule, what));
        false
    }

    /// Whether the statement has used its budget up.
    fn is_exhausted(&self) -> bool {
        let mut used = self.used.get();
        used.steps += u64::from(STEPS_BETWEEN);
        let exhausted = match self.policy.get().statement_budget() {
            Budget::Unlimited => false,
            Budget::Steps(steps) => used.steps >= steps,
            Budget::Time(time) => {
                let now = now();
                let since = *used.since.get_or_insert(now);
                used.time + (now - since) >= time
            }
        };
        self.used.set(used);
        exhausted
    }
}

/// Pragmas whose argument changes nothing in the connection.
const IMPERSONAL: [&str; 17] = [
    "application_id",
    "collation_list",
    "foreign_key_check",
    "foreign_key_list",
    "function_list",
    "incremental_vacuum",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "module_list",
    "optimize",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Whether an action leaves something in the connection, which another object must not inherit.
fn is_personal(action: &Action<'_>) -> bool {
    match action {
        Action::Temporary(_) => true,
        Action::Pragma { name, argument, .. } => {
            argument.is_some() && !IMPERSONAL.contains(&name.to_ascii_lowercase().as_str())
        }
        _ => false,
    }
}

fn denied(rule: Rule, what: &str) -> Error {
    Error::Denied {
        rule,
        what: what.to_owned(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the seam: budgets are of real time, or of steps"
)]
fn now() -> Instant {
    Instant::now()
}

unsafe extern "C" fn progress(hooks: *mut c_void) -> c_int {
    // SAFETY: `install` registered the address of the connection's hooks.
    let hooks = unsafe { &*hooks.cast::<Hooks>() };
    if hooks.internal.get() || !hooks.is_exhausted() {
        return 0;
    }
    hooks.exhausted.set(true);
    1
}

unsafe extern "C" fn authorize(
    hooks: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    schema: *const c_char,
    _inside: *const c_char,
) -> c_int {
    // SAFETY: `install` registered the address of the connection's hooks.
    let hooks = unsafe { &*hooks.cast::<Hooks>() };
    if hooks.internal.get() {
        return sqlite::SQLITE_OK;
    }
    let text = |start: *const c_char| {
        // SAFETY: each argument is null or NUL-terminated, and outlives the call.
        (!start.is_null()).then(|| unsafe { CStr::from_ptr(start) }.to_string_lossy())
    };
    let (first, second, schema) = (text(first), text(second), text(schema));
    let permitted = actions(
        action,
        first.as_deref(),
        second.as_deref(),
        schema.as_deref(),
        hooks.reading.get(),
    )
    .iter()
    .flatten()
    .all(|action| hooks.permits(action));
    match action {
        _ if permitted => sqlite::SQLITE_OK,
        // These go through all tables, and pass over those that they may not touch.
        sqlite::SQLITE_ANALYZE | sqlite::SQLITE_REINDEX => {
            hooks.refused.take();
            sqlite::SQLITE_IGNORE
        }
        _ => sqlite::SQLITE_DENY,
    }
}

/// Actions that make something. SQLite calls a table `temp.t` a plain one, so it goes by the schema.
const CREATES: [c_int; 9] = [
    sqlite::SQLITE_CREATE_INDEX,
    sqlite::SQLITE_CREATE_TABLE,
    sqlite::SQLITE_CREATE_TEMP_INDEX,
    sqlite::SQLITE_CREATE_TEMP_TABLE,
    sqlite::SQLITE_CREATE_TEMP_TRIGGER,
    sqlite::SQLITE_CREATE_TEMP_VIEW,
    sqlite::SQLITE_CREATE_TRIGGER,
    sqlite::SQLITE_CREATE_VIEW,
    sqlite::SQLITE_CREATE_VTABLE,
];

/// What the authorizer's arguments mean.
fn actions<'a>(
    action: c_int,
    first: Option<&'a str>,
    second: Option<&'a str>,
    schema: Option<&'a str>,
    nested: bool,
) -> [Option<Action<'a>>; 3] {
    let place = |schema: Option<&'a str>| match schema? {
        "main" => None,
        "temp" if CREATES.contains(&action) => Some(Action::Temporary(first.unwrap_or("temp"))),
        "temp" => None,
        other => Some(Action::OtherDatabase(other)),
    };
    let (one, two) = (first.map(Action::Name), second.map(Action::Name));
    match action {
        sqlite::SQLITE_TRANSACTION => {
            let word = first.unwrap_or("BEGIN");
            [Some(Action::Transaction(word)), None, None]
        }
        sqlite::SQLITE_SAVEPOINT => {
            let word = match first {
                Some("BEGIN") | None => "SAVEPOINT",
                Some(other) => other,
            };
            [Some(Action::Transaction(word)), None, None]
        }
        sqlite::SQLITE_ATTACH => [Some(Action::OtherDatabase("ATTACH")), None, None],
        sqlite::SQLITE_DETACH => [Some(Action::OtherDatabase("DETACH")), None, None],
        sqlite::SQLITE_FUNCTION => [second.map(Action::Function), None, None],
        sqlite::SQLITE_PRAGMA => {
            let pragma = first.map(|name| Action::Pragma {
                name,
                argument: second,
                nested,
            });
            [place(schema), pragma, None]
        }
        sqlite::SQLITE_CREATE_VTABLE => {
            let module = second.map(|module| Action::VirtualTable { module });
            [place(schema), module, one]
        }
        // Here the schema comes first, and a column may come last.
        sqlite::SQLITE_ALTER_TABLE => [place(first), two, None],
        // The second name is a table.
        sqlite::SQLITE_CREATE_INDEX
        | sqlite::SQLITE_CREATE_TEMP_INDEX
        | sqlite::SQLITE_DROP_INDEX
        | sqlite::SQLITE_CREATE_TRIGGER
        | sqlite::SQLITE_CREATE_TEMP_TRIGGER
        | sqlite::SQLITE_DROP_TRIGGER => [place(schema), one, two],
        // The second one is a column, or there is none.
        _ => [place(schema), one, None],
    }
}
