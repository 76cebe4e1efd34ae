//! A connection: prepare, run, collect rows. Knows nothing of objects.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::counters::{Counted, Counters};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::ffi::{self, Handle, Statement, Step};
use crate::parameters::Parameters;
use crate::running::{Prepared, RunId, Running};
use crate::text;
use crate::value::Value;

/// Statements that are kept, by their text.
const CACHE_MAX: usize = 16;

/// A connection to a database: a file by [`Connection::open_file`], or an object's, which is in a
/// [`Database`](crate::Database). Can be moved to another thread, not shared.
#[derive(Debug)]
pub struct Connection {
    /// Statements whose rows somebody reads. Before the handle, so that they are dropped before it.
    running: RefCell<Running>,
    /// Statements that may run again, most recently used last. Before the handle as well.
    cache: RefCell<Vec<Prepared>>,
    handle: Handle,
}

/// A statement that runs: the rows it has given already, and the way to the others.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) names: Arc<[String]>,
    pub(crate) ahead: VecDeque<Vec<Value>>,
    pub(crate) run: Option<RunId>,
    /// The statement's text.
    pub(crate) sql: Arc<str>,
    /// What SQLite has counted, if it is at its end.
    pub(crate) counted: Counted,
}

/// What one more step gave.
#[derive(Debug)]
pub(crate) enum Stepped {
    Row(Vec<Value>),
    /// The end, and what SQLite has counted.
    Done(Counted),
}

impl Connection {
    /// Opens a plain SQLite file, creating it if it is not there: stock SQLite, on the operating
    /// system's files.
    ///
    /// ```
    /// use dovehouse_sqlbridge::Connection;
    /// # let dir = tempfile::tempdir()?;
    /// let connection = Connection::open_file(&dir.path().join("plain.sqlite"))?;
    /// connection.exec("CREATE TABLE bird(name TEXT)", ())?;
    /// connection.exec("INSERT INTO bird VALUES (?)", ("dove",))?;
    /// let name: String = connection.exec("SELECT name FROM bird", ())?.one()?.get("name")?;
    /// assert_eq!(name, "dove");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_file(path: &Path) -> Result<Self> {
        let name = path
            .to_str()
            .ok_or_else(|| Error::Type(format!("{path:?} is not UTF-8")))?;
        Ok(Self::new(Handle::open(name, None)?))
    }

    pub(crate) fn new(handle: Handle) -> Self {
        Connection {
            running: RefCell::default(),
            cache: RefCell::default(),
            handle,
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs one statement or several. The last one's rows are the cursor's, and the parameters are for
    /// the last one; the rows of the others are dropped.
    ///
    /// # Errors
    /// [`Error::Sqlite`] for what SQLite refuses; [`Error::Type`] if the number of parameters is wrong or
    /// the text has no statement. The statements before the failed one stay done.
    pub fn exec(&self, sql: &str, parameters: impl Parameters) -> Result<Cursor<&Connection>> {
        let started = self.start(sql, parameters, |_| Ok(()))?;
        Ok(Cursor::new(self, started))
    }

    /// Runs statements whose rows nobody wants.
    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        self.exec(sql, ())?.to_vec().map(drop)
    }

    /// Starts the last statement of a text and runs those before it, calling `before` with whether it
    /// writes before each of them.
    pub(crate) fn start(
        &self,
        sql: &str,
        parameters: impl Parameters,
        before: impl Fn(bool) -> Result<()>,
    ) -> Result<Started> {
        let mut rest = sql;
        loop {
            let (prepared, tail) = self.prepare(rest)?;
            before(prepared.writes)?;
            if is_blank(tail) {
                return parameters.with(|values| self.first_step(prepared, values));
            }
            let mut started = self.first_step(prepared, &[]).map_err(only_the_last)?;
            while let Some(run) = started.run {
                if let Stepped::Done(_) = self.step(run)? {
                    started.run = None;
                }
            }
            rest = tail;
        }
    }

    /// The first statement of a text, from the cache or new, and the text behind it.
    fn prepare<'a>(&self, sql: &'a str) -> Result<(Prepared, &'a str)> {
        if let Some(kept) = self.take_cached(sql) {
            return Ok((kept, ""));
        }
        let (Some(statement), taken) = self.handle.prepare(sql)? else {
            return Err(Error::Type("the text did not contain a statement".into()));
        };
        let prepared = Prepared {
            sql: sql[..taken].into(),
            internal: self.handle.is_internal(),
            names: statement.column_names().into(),
            writes: !statement.is_readonly() || is_optimize(&sql[..taken]),
            statement,
        };
        Ok((prepared, &sql[taken..]))
    }

    /// Runs a statement to its first row, or to its end if it writes: a commit must not find it unfinished.
    fn first_step(&self, mut prepared: Prepared, parameters: &[Value]) -> Result<Started> {
        let ran = self.bind_and_step(&mut prepared, parameters);
        let (names, sql) = (prepared.names.clone(), prepared.sql.clone());
        let (ahead, ended) = match ran {
            Ok(ran) => ran,
            Err(error) => {
                prepared.statement.reset();
                self.keep(prepared);
                return Err(error);
            }
        };
        let counted = prepared.statement.counted();
        let run = if ended {
            prepared.statement.reset();
            self.keep(prepared);
            None
        } else {
            Some(self.running.borrow_mut().insert(prepared))
        };
        Ok(Started {
            names,
            ahead,
            run,
            sql,
            counted,
        })
    }

    /// Its first rows, and whether it is at its end.
    fn bind_and_step(
        &self,
        prepared: &mut Prepared,
        parameters: &[Value],
    ) -> Result<(VecDeque<Vec<Value>>, bool)> {
        let statement = &prepared.statement;
        let expected = statement.parameter_count();
        if expected != parameters.len() {
            let given = parameters.len();
            return Err(Error::Parameters { expected, given });
        }
        for (index, value) in (1..).zip(parameters) {
            statement.bind(&self.handle, index, value)?;
        }
        let mut step = statement.step(&self.handle)?;
        if statement.was_prepared_again() {
            // The schema has changed since it was kept, and its columns with it.
            prepared.names = statement.column_names().into();
        }
        let mut ahead = VecDeque::new();
        let writes = prepared.writes;
        while step == Step::Row {
            ahead.push_back(row(statement, prepared.names.len()));
            if !writes {
                return Ok((ahead, false));
            }
            step = statement.step(&self.handle)?;
        }
        Ok((ahead, true))
    }

    /// The next row of a running statement. At its end, and after an error, it does not run any more.
    pub(crate) fn step(&self, run: RunId) -> Result<Stepped> {
        let running = self.running.borrow();
        let prepared = running.get(run).ok_or(Error::Canceled)?;
        let stepped = prepared.statement.step(&self.handle);
        if let Ok(Step::Row) = stepped {
            let values = row(&prepared.statement, prepared.names.len());
            return Ok(Stepped::Row(values));
        }
        let counted = prepared.statement.counted();
        drop(running);
        self.end(run);
        stepped.map(|_| Stepped::Done(counted))
    }

    /// Rows that a running statement has read and written so far.
    pub(crate) fn counters_of_run(&self, run: RunId) -> Result<Counters> {
        let running = self.running.borrow();
        let prepared = running.get(run).ok_or(Error::Canceled)?;
        let shape = prepared.statement.shape(&self.handle);
        Ok(shape.counters(&prepared.statement.counted()))
    }

    /// Rows that a statement of this text has read and written, of which SQLite has counted this.
    pub(crate) fn counters(&self, sql: &str, counted: &Counted) -> Result<Counters> {
        let (prepared, _) = self.prepare(sql)?;
        let shape = prepared.statement.shape(&self.handle);
        self.keep(prepared);
        Ok(shape.counters(counted))
    }

    /// Ends a running statement, if it still runs.
    pub(crate) fn end(&self, run: RunId) {
        let ended = self.running.borrow_mut().remove(run);
        if let Some(prepared) = ended {
            prepared.statement.reset();
            self.keep(prepared);
        }
    }

    /// Ends all running statements that were started after this one: their cursors are canceled.
    pub(crate) fn cancel_since(&self, last: RunId) {
        let canceled = self.running.borrow_mut().take_since(last);
        for prepared in canceled {
            prepared.statement.reset();
            self.keep(prepared);
        }
    }

    /// Drops the statements that were kept for their next use.
    pub(crate) fn forget_statements(&self) {
        self.cache.take();
    }

    /// Whether somebody reads rows.
    pub(crate) fn is_running(&self) -> bool {
        !self.running.borrow().is_empty()
    }

    fn take_cached(&self, sql: &str) -> Option<Prepared> {
        let mut cache = self.cache.borrow_mut();
        let internal = self.handle.is_internal();
        let found = cache
            .iter()
            .rposition(|kept| kept.internal == internal && *kept.sql == *sql)?;
        Some(cache.remove(found))
    }

    fn keep(&self, prepared: Prepared) {
        let mut cache = self.cache.borrow_mut();
        if cache.len() == CACHE_MAX {
            cache.remove(0);
        }
        cache.push(prepared);
    }

    /// Rows that the last statement inserted, updated or deleted.
    pub fn changes(&self) -> u64 {
        self.handle.changes()
    }

    /// What SQLite finds wrong with the database; empty if nothing.
    pub fn integrity_check(&self) -> Result<Vec<String>> {
        let found: Vec<String> = self.exec("PRAGMA integrity_check", ())?.deserialize()?;
        Ok(if found == ["ok"] { Vec::new() } else { found })
    }
}

/// Bytes that SQLite has allocated in this process, for all connections. An allocator's count of Rust's own
/// does not see them.
pub fn memory_used() -> u64 {
    ffi::memory_used()
}

fn row(statement: &Statement, columns: usize) -> Vec<Value> {
    (0..columns)
        .map(|column| statement.column(column))
        .collect()
}

/// A statement that is not the text's last one was not given the parameters it asks for.
fn only_the_last(error: Error) -> Error {
    match error {
        Error::Parameters { expected, .. } => Error::Type(format!(
            "only the last statement of a text can have parameters, an earlier one has {expected}"
        )),
        other => other,
    }
}

/// Whether a text is `PRAGMA optimize`: it may run `ANALYZE` though SQLite calls it a reading one.
fn is_optimize(sql: &str) -> bool {
    text::first_word(sql).eq_ignore_ascii_case("PRAGMA")
        && sql.to_ascii_lowercase().contains("optimize")
}

/// Whether nothing of a text is left to run: only blanks, comments and semicolons.
fn is_blank(mut sql: &str) -> bool {
    loop {
        sql = sql.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';');
        if let Some(comment) = sql.strip_prefix("--") {
            sql = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(comment) = sql.strip_prefix("/*") {
            sql = comment.split_once("*/").map_or("", |(_, rest)| rest);
        } else {
            return sql.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_is_seen_behind_comments() {
        for blank in [
            "",
            " \n",
            ";;",
            "-- nothing",
            "/* a */ -- b\n ; /* unclosed",
        ] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for more in ["SELECT 1", "-- a\nSELECT 1", "/* a */ x"] {
            assert!(!is_blank(more), "{more:?}");
        }
    }

    #[test]
    fn values_come_back_as_they_went_and_wrong_types_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open_file(&dir.path().join("a.sqlite")).unwrap();
        let values = [
            Value::Null,
            7.into(),
            1.5.into(),
            "text".into(),
            vec![1u8, 2].into(),
            Vec::<u8>::new().into(),
        ];
        let row = connection
            .exec("SELECT ?1, ?2, ?3, ?4 AS named, ?5, ?6", &values)
            .unwrap()
            .one()
            .unwrap();
        assert_eq!(row.values(), values);
        assert_eq!(row.get::<String>("named").unwrap(), "text");
        assert_eq!(row.get::<Option<i64>>(0).unwrap(), None);
        assert!(
            row.get::<i64>("named")
                .unwrap_err()
                .to_string()
                .contains("not an integer")
        );
        assert!(
            row.get::<i64>("absent")
                .unwrap_err()
                .to_string()
                .contains("no column")
        );
        assert!(row.get::<i64>(6).is_err());
    }

    #[test]
    fn several_statements_run_and_the_last_one_gives_the_rows() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open_file(&dir.path().join("a.sqlite")).unwrap();
        let sql = "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2); -- now\n SELECT a FROM t WHERE a > ?;";
        let rows: Vec<i64> = connection.exec(sql, (1,)).unwrap().deserialize().unwrap();
        assert_eq!(rows, [2]);
        assert!(
            connection.exec("SELECT ?", &[]).is_err(),
            "a parameter is missing"
        );
        assert!(connection.exec(" -- nothing", &[]).is_err());
        assert!(connection.exec("SELECT 1; SELEC 2", &[]).is_err());
        connection.exec("ALTER TABLE t ADD COLUMN b", &[]).unwrap();
        for columns in [2, 3] {
            assert_eq!(
                connection
                    .exec("SELECT * FROM t", &[])
                    .unwrap()
                    .column_names()
                    .len(),
                columns
            );
            connection
                .exec(&format!("ALTER TABLE t ADD COLUMN c{columns}"), &[])
                .unwrap();
        }
    }
}
