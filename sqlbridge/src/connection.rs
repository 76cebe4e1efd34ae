//! A connection: prepare, run, collect rows. Knows nothing of objects.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ffi::{Handle, Statement, Step};
use crate::value::{Row, Rows, Value};

/// Statements that are kept, by their text.
const CACHE_MAX: usize = 16;

/// A connection to a database: a file by [`Connection::open_file`], or an object's, which is in a
/// [`Database`](crate::Database). Can be moved to another thread, not shared.
#[derive(Debug)]
pub struct Connection {
    /// Most recently used last. Before the handle, so that they are dropped before it.
    cache: RefCell<Vec<Cached>>,
    handle: Handle,
}

/// A statement that may run again.
#[derive(Debug)]
struct Cached {
    sql: String,
    /// Whether the bridge prepared it for itself: an application must not get it by its text.
    internal: bool,
    names: Arc<[String]>,
    statement: Statement,
}

impl Connection {
    /// Opens a plain SQLite file, creating it if it is not there: stock SQLite, on the operating
    /// system's files.
    ///
    /// ```
    /// use dovehouse_sqlbridge::Connection;
    /// # let dir = tempfile::tempdir()?;
    /// let connection = Connection::open_file(&dir.path().join("plain.sqlite"))?;
    /// connection.exec("CREATE TABLE bird(name TEXT)", &[])?;
    /// connection.exec("INSERT INTO bird VALUES (?)", &["dove".into()])?;
    /// let name: String = connection.exec("SELECT name FROM bird", &[])?.one()?.get("name")?;
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
            cache: RefCell::default(),
            handle,
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs one statement or several, and returns the last one's rows. Parameters go to the last one.
    pub fn exec(&self, sql: &str, parameters: &[Value]) -> Result<Rows> {
        self.exec_each(sql, parameters, |_| Ok(()))
    }

    /// The same, calling `before` with whether it writes before each statement runs.
    pub(crate) fn exec_each(
        &self,
        sql: &str,
        parameters: &[Value],
        before: impl Fn(bool) -> Result<()>,
    ) -> Result<Rows> {
        let mut rest = sql;
        loop {
            let (names, statement, tail) = self.prepare(rest)?;
            let last = is_blank(tail);
            let given = if last { parameters } else { &[] };
            before(!statement.is_readonly())?;
            let rows = self.run(&statement, names, given);
            statement.reset();
            let rows = rows?;
            let taken = rest.len() - tail.len();
            self.keep(&rest[..taken], rows.names.clone(), statement);
            if last {
                return Ok(rows);
            }
            rest = tail;
        }
    }

    /// The first statement of a text, from the cache or new, and the text behind it.
    fn prepare<'a>(&self, sql: &'a str) -> Result<(Arc<[String]>, Statement, &'a str)> {
        if let Some((names, statement)) = self.take_cached(sql) {
            return Ok((names, statement, ""));
        }
        match self.handle.prepare(sql)? {
            (Some(statement), taken) => {
                Ok((statement.column_names().into(), statement, &sql[taken..]))
            }
            (None, _) => Err(Error::Type("the text did not contain a statement".into())),
        }
    }

    fn run(
        &self,
        statement: &Statement,
        mut names: Arc<[String]>,
        parameters: &[Value],
    ) -> Result<Rows> {
        let expected = statement.parameter_count();
        if expected != parameters.len() {
            let given = parameters.len();
            return Err(Error::Type(format!(
                "the statement has {expected} parameters, {given} were given"
            )));
        }
        for (index, value) in (1..).zip(parameters) {
            statement.bind(&self.handle, index, value)?;
        }
        let mut rows = Vec::new();
        let mut step = statement.step(&self.handle)?;
        if statement.was_prepared_again() {
            // The schema has changed since it was kept, and its columns with it.
            names = statement.column_names().into();
        }
        while step == Step::Row {
            let values = (0..names.len())
                .map(|column| statement.column(column))
                .collect();
            rows.push(Row {
                names: names.clone(),
                values,
            });
            step = statement.step(&self.handle)?;
        }
        Ok(Rows { names, rows })
    }

    fn take_cached(&self, sql: &str) -> Option<(Arc<[String]>, Statement)> {
        let mut cache = self.cache.borrow_mut();
        let internal = self.handle.is_internal();
        let found = cache
            .iter()
            .rposition(|kept| kept.sql == sql && kept.internal == internal)?;
        let Cached {
            names, statement, ..
        } = cache.remove(found);
        Some((names, statement))
    }

    fn keep(&self, sql: &str, names: Arc<[String]>, statement: Statement) {
        let mut cache = self.cache.borrow_mut();
        if cache.len() == CACHE_MAX {
            cache.remove(0);
        }
        let internal = self.handle.is_internal();
        cache.push(Cached {
            sql: sql.to_owned(),
            internal,
            names,
            statement,
        });
    }

    /// Rows that the last statement inserted, updated or deleted.
    pub fn changes(&self) -> u64 {
        self.handle.changes()
    }

    /// What SQLite finds wrong with the database; empty if nothing.
    pub fn integrity_check(&self) -> Result<Vec<String>> {
        let rows = self.exec("PRAGMA integrity_check", &[])?;
        let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect::<Result<_>>()?;
        Ok(if found == ["ok"] { Vec::new() } else { found })
    }
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
        let rows = connection.exec(sql, &[1.into()]).unwrap();
        assert_eq!(
            rows.iter()
                .map(|row| row.get::<i64>("a").unwrap())
                .collect::<Vec<_>>(),
            [2]
        );
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
