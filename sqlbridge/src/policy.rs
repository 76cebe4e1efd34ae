//! What SQL may do: one type, two ready-made values. Who asks, and when, is in [`crate::hooks`].

use std::fmt;
use std::time::Duration;

use libsqlite3_sys as sqlite;

use crate::allowed::{self, Argument};

/// What SQL may do on a database: [`SqlPolicy::native`] or [`SqlPolicy::cloudflare`], with limits and
/// budget as you set them. `docs/sql.md` has both as a table.
///
/// ```
/// # use std::sync::Arc;
/// # use dovehouse_engine::{Engine, ObjectId};
/// # use dovehouse_sqlbridge::{Budget, Database, Error, Limit, Rule, SharedObject, SqlPolicy};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path())?;
/// # let class = engine.class("Room")?;
/// # let room = engine.wake(class, ObjectId::from_bytes([1; 32]))?;
/// # let room: SharedObject = Arc::new(room.into());
/// let policy = SqlPolicy::cloudflare()
///     .limit(Limit::Columns, 200)
///     .budget(Budget::Steps(1_000_000));
/// let database = Database::open_with(room, &policy)?;
/// let refused = database.exec("SELECT sqlite_version()", &[]).unwrap_err();
/// assert!(matches!(refused, Error::Denied { rule: Rule::Function, .. }));
/// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n";
/// let interrupted = database.exec(endless, &[]).unwrap_err();
/// assert!(matches!(interrupted, Error::Interrupted { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SqlPolicy {
    /// Whether only what Cloudflare lists is allowed.
    listed_only: bool,
    limits: [Option<u32>; LIMITS.len()],
    budget: Budget,
}

impl SqlPolicy {
    /// SQLite's own freedom, short of what would break the store: no statement begins or ends a
    /// transaction, reaches another file, or changes a setting that the store relies on. A statement is
    /// interrupted after one second.
    pub const fn native() -> Self {
        SqlPolicy {
            listed_only: false,
            limits: [None; LIMITS.len()],
            budget: Budget::Time(Duration::from_secs(1)),
        }
    }

    /// What Cloudflare's Durable Objects allow: names that begin with `_cf_` are reserved, there are no
    /// temporary tables, and pragmas, functions and virtual tables go by lists; the limits are
    /// theirs. A statement is interrupted after 30 seconds, which is their time for a whole request.
    pub const fn cloudflare() -> Self {
        let policy = SqlPolicy {
            listed_only: true,
            limits: [None; LIMITS.len()],
            budget: Budget::Time(Duration::from_secs(30)),
        };
        policy
            .limit(Limit::ValueBytes, 4 << 20)
            .limit(Limit::SqlBytes, 100_000)
            .limit(Limit::Columns, 100)
            .limit(Limit::Parameters, 100)
            .limit(Limit::FunctionArguments, 127)
            .limit(Limit::LikePatternBytes, 50)
            .limit(Limit::ExpressionDepth, 100)
            .limit(Limit::CompoundSelects, 5)
            .limit(Limit::Instructions, 25_000)
            .limit(Limit::TriggerDepth, 10)
    }

    /// With another limit. One above what SQLite was built with means that.
    #[must_use]
    pub const fn limit(mut self, limit: Limit, value: u32) -> Self {
        let too_few_columns = matches!(limit, Limit::Columns) && value < SCHEMA_COLUMNS;
        self.limits[limit as usize] = Some(if too_few_columns {
            SCHEMA_COLUMNS
        } else {
            value
        });
        self
    }

    /// With another budget for each statement.
    #[must_use]
    pub const fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    pub(crate) fn statement_budget(&self) -> Budget {
        self.budget
    }

    /// The limits that differ from SQLite's, by SQLite's numbers.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (i32, i32)> {
        let set = LIMITS.iter().zip(self.limits);
        set.filter_map(|(&number, value)| Some((number, value?.try_into().unwrap_or(i32::MAX))))
    }

    /// Whether SQL sees the object's keys as a table. Cloudflare's does not, and a program that comes from there
    /// may have a table of that name.
    pub(crate) fn shows_keys(&self) -> bool {
        !self.listed_only
    }

    /// The modules that stay, if not all do.
    pub(crate) fn modules(&self) -> Option<&'static [&'static str]> {
        self.listed_only.then_some(allowed::MODULES)
    }

    /// Which rule refuses an action, if one does.
    pub(crate) fn judge(&self, action: &Action<'_>) -> Option<Rule> {
        match action {
            Action::Transaction(_) => Some(Rule::Transaction),
            Action::OtherDatabase(_) => Some(Rule::OtherDatabase),
            Action::Pragma {
                name, nested: true, ..
            } if name.eq_ignore_ascii_case("optimize") => Some(Rule::PragmaFunction),
            Action::Pragma { name, argument, .. } => self.judge_pragma(name, *argument),
            _ if !self.listed_only => None,
            Action::Temporary(_) => Some(Rule::Temporary),
            Action::Name(name) => is_reserved(name).then_some(Rule::ReservedName),
            Action::VirtualTable { module } => {
                let listed = is_in(allowed::MODULES, module);
                (!listed).then_some(Rule::VirtualTable)
            }
            Action::Function(name) => (!is_in(allowed::FUNCTIONS, name)).then_some(Rule::Function),
        }
    }

    fn judge_pragma(&self, name: &str, argument: Option<&str>) -> Option<Rule> {
        if argument.is_some() && is_in(allowed::STORE_SETTINGS, name) {
            return Some(Rule::StoreSetting);
        }
        if !self.listed_only {
            return None;
        }
        let listed = allowed::PRAGMAS
            .iter()
            .find(|(listed, _)| listed.eq_ignore_ascii_case(name));
        let Some((_, takes)) = listed else {
            return Some(Rule::Pragma);
        };
        if argument.is_some_and(is_reserved) {
            return Some(Rule::ReservedName);
        }
        (!takes.accepts(argument)).then_some(Rule::PragmaArgument)
    }
}

impl Default for SqlPolicy {
    fn default() -> Self {
        SqlPolicy::native()
    }
}

/// What a statement wants to do.
#[derive(Debug)]
pub(crate) enum Action<'a> {
    /// By its keyword.
    Transaction(&'a str),
    /// By its keyword or name.
    OtherDatabase(&'a str),
    /// By what it is.
    Temporary(&'a str),
    /// Read, write or change something of this name.
    Name(&'a str),
    VirtualTable {
        module: &'a str,
    },
    Function(&'a str),
    Pragma {
        name: &'a str,
        argument: Option<&'a str>,
        /// Whether it is a table in a query that runs.
        nested: bool,
    },
}

fn is_reserved(name: &str) -> bool {
    let prefix = allowed::RESERVED_PREFIX.as_bytes();
    let start = name.as_bytes().get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_in(list: &[&str], name: &str) -> bool {
    list.iter().any(|listed| listed.eq_ignore_ascii_case(name))
}

impl Argument {
    fn accepts(self, argument: Option<&str>) -> bool {
        let is_number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).is_ok(),
            None => text.parse::<i64>().is_ok(),
        };
        match self {
            Argument::Never => argument.is_none(),
            Argument::Name => argument.is_some(),
            Argument::OptionalName => true,
            Argument::OptionalNumber => argument.is_none_or(is_number),
            Argument::Boolean => argument.is_none_or(|word| {
                let bare = word.trim_matches(['\'', '"']);
                is_in(allowed::BOOLEAN_WORDS, bare)
            }),
        }
    }
}

/// How long one statement may run before it is interrupted. What the application does between two rows does
/// not count.
///
/// A statement that reads is stopped, and nothing else happens. One that writes takes the whole
/// turn with it, as SQLite does it: tables, keys and alarm are as before the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Budget {
    /// For ever. An endless query blocks its thread.
    Unlimited,
    /// Wall-clock time in SQLite, looked at every 1000 steps of SQLite's machine.
    Time(Duration),
    /// Steps of SQLite's machine, in thousands: a budget that is the same on every machine.
    Steps(u64),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Unlimited => f.write_str("no budget"),
            Budget::Time(time) => write!(f, "{time:?}"),
            Budget::Steps(steps) => write!(f, "{steps} steps"),
        }
    }
}

/// A limit of SQLite that a policy may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Bytes of a text, a blob or a row.
    ValueBytes,
    /// Bytes of a statement's text.
    SqlBytes,
    /// Columns of a table, an index or a result: at least 5, which SQLite's own schema table has. A
    /// database whose tables have more cannot be read.
    Columns,
    /// Parameters of a statement.
    Parameters,
    /// Arguments of a function.
    FunctionArguments,
    /// Bytes of a pattern of LIKE or GLOB.
    LikePatternBytes,
    /// Depth of an expression.
    ExpressionDepth,
    /// Terms of a compound SELECT.
    CompoundSelects,
    /// Instructions of a prepared statement.
    Instructions,
    /// Depth of triggers that set off triggers.
    TriggerDepth,
}

/// Columns of SQLite's schema table.
const SCHEMA_COLUMNS: u32 = 5;

/// SQLite's numbers, in the order of [`Limit`].
const LIMITS: [i32; 10] = [
    sqlite::SQLITE_LIMIT_LENGTH,
    sqlite::SQLITE_LIMIT_SQL_LENGTH,
    sqlite::SQLITE_LIMIT_COLUMN,
    sqlite::SQLITE_LIMIT_VARIABLE_NUMBER,
    sqlite::SQLITE_LIMIT_FUNCTION_ARG,
    sqlite::SQLITE_LIMIT_LIKE_PATTERN_LENGTH,
    sqlite::SQLITE_LIMIT_EXPR_DEPTH,
    sqlite::SQLITE_LIMIT_COMPOUND_SELECT,
    sqlite::SQLITE_LIMIT_VDBE_OP,
    sqlite::SQLITE_LIMIT_TRIGGER_DEPTH,
];
const _: () = assert!(Limit::TriggerDepth as usize == LIMITS.len() - 1);

/// The rule that refused a statement. Its text says what to do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// BEGIN, COMMIT, END, ROLLBACK, SAVEPOINT, RELEASE.
    Transaction,
    /// ATTACH, DETACH, or a name in a schema other than `main` and `temp`.
    OtherDatabase,
    /// VACUUM, also into a file.
    Vacuum,
    /// A pragma that sets what the store relies on.
    StoreSetting,
    /// A name that begins with `_cf_`.
    ReservedName,
    /// A temporary table, index, view or trigger.
    Temporary,
    /// A virtual table of a module that is not listed.
    VirtualTable,
    /// A function that is not listed.
    Function,
    /// A pragma that is not listed.
    Pragma,
    /// An argument that a listed pragma does not take.
    PragmaArgument,
    /// `pragma_optimize()`: a query that writes, which would be outside of the turn's transaction.
    PragmaFunction,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Transaction => "a turn is one transaction; transaction() nests another in it",
            Rule::OtherDatabase => "an object has one database, main; call another object for its data",
            Rule::Vacuum => {
                "it needs a turn of its own; the program calls vacuum() for it"
            }
            Rule::StoreSetting => "it is set by the store and cannot be changed; leave it out",
            Rule::ReservedName => "names that begin with _cf_ are reserved; choose another",
            Rule::Temporary => "there are no temporary tables, indexes, views or triggers; use WITH, or a plain table",
            Rule::VirtualTable => "only fts5, fts5vocab, rtree and rtree_i32 make virtual tables",
            Rule::Function => "the function is not on the list; compute it outside of SQL",
            Rule::Pragma => "the pragma is not on the list; leave it out",
            Rule::PragmaFunction => "a query cannot write; PRAGMA optimize as a statement can",
            Rule::PragmaArgument => {
                "the pragma does not take this argument; switches take true, false, yes, no, on, off, 1 or 0"
            }
        })
    }
}
