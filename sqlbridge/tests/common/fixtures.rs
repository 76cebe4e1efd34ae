//! Plain database files to import, and what is in one.

use std::path::Path;

use dovehouse_sqlbridge::{Connection, Value};

/// Every kind of thing that a schema can have, and values that are easily bent.
const CONTENT: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT COLLATE NOCASE, b BLOB, c REAL, d,
        e AS (length(a)), f AS (id * 2) STORED, UNIQUE (a, b));
    CREATE INDEX t_c ON t(c DESC) WHERE c > 0;
    CREATE INDEX t_lower ON t(lower(a));
    CREATE TABLE plain(x);
    CREATE TABLE w(k TEXT, n INTEGER, v BLOB, PRIMARY KEY (k, n)) WITHOUT ROWID;
    CREATE TABLE s(i INTEGER NOT NULL CHECK (i < 1000), r REAL) STRICT;
    CREATE TABLE child(t REFERENCES t(id) ON DELETE CASCADE);
    CREATE VIEW v AS SELECT a, count(*) AS n FROM t GROUP BY a;
    CREATE TRIGGER tr AFTER INSERT ON plain BEGIN INSERT INTO s VALUES (1, new.x); END;
    CREATE VIRTUAL TABLE words USING fts5(body, tokenize = 'trigram');
    CREATE VIRTUAL TABLE area USING rtree(id, x0, x1);
    CREATE TABLE \"odd \"\" name\"([a b], \"c]\");
    INSERT INTO t(a, b, c, d) VALUES ('größe 🕊', x'00ff', 1.5, -9223372036854775808),
        ('', x'', -0.0, 9223372036854775807), (NULL, zeroblob(20000), 1e308, 'text'),
        ('nul' || char(0) || 'inside', NULL, NULL, x'74657874');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
        INSERT INTO t(a, b, c) SELECT 'row ' || i, zeroblob(i), i / 3.0 FROM n;
    INSERT INTO plain SELECT id FROM t;
    DELETE FROM plain WHERE x % 3 = 0;
    INSERT INTO w SELECT a, id, b FROM t WHERE a IS NOT NULL;
    INSERT INTO child SELECT id FROM t WHERE id < 5;
    INSERT INTO words SELECT a FROM t;
    INSERT INTO area VALUES (1, 0.0, 2.0), (2, 3.0, 4.0);
    INSERT INTO \"odd \"\" name\" VALUES (1, 2);
    DELETE FROM t WHERE id BETWEEN 50 AND 150;
    ANALYZE;
    PRAGMA user_version = 7;
    PRAGMA application_id = 99";

/// How a file is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) page_bytes: u32,
    pub(crate) auto_vacuum: u32,
    pub(crate) encoding: &'static str,
    pub(crate) wal: bool,
}

impl Default for Form {
    fn default() -> Self {
        Form {
            page_bytes: 4096,
            auto_vacuum: 0,
            encoding: "UTF-8",
            wal: false,
        }
    }
}

/// An empty database of this form.
pub(crate) fn empty(path: &Path, form: Form) -> Connection {
    let connection = Connection::open_file(path).unwrap();
    let settings = format!(
        "PRAGMA page_size = {}; PRAGMA auto_vacuum = {}; PRAGMA encoding = '{}';
        PRAGMA synchronous = OFF; PRAGMA journal_mode = {}; PRAGMA wal_autocheckpoint = 0",
        form.page_bytes,
        form.auto_vacuum,
        form.encoding,
        if form.wal { "WAL" } else { "MEMORY" }
    );
    connection.exec(&settings, ()).unwrap();
    connection
}

/// A database with a bit of everything. While the connection is open its log keeps what it has.
pub(crate) fn full(path: &Path, form: Form) -> Connection {
    let connection = empty(path, form);
    connection
        .exec(&format!("BEGIN; {CONTENT}; COMMIT"), ())
        .unwrap();
    connection
}

/// Makes a small database, in place of one that is there, and returns its bytes.
pub(crate) fn small(path: &Path, sql: &str) -> Vec<u8> {
    let _absent = std::fs::remove_file(path);
    let form = Form {
        page_bytes: 512,
        ..Form::default()
    };
    empty(path, form).exec(sql, ()).unwrap();
    std::fs::read(path).unwrap()
}

/// All that can be read from a database: its schema, and every row of every table with its rowid.
pub(crate) fn content(connection: &Connection) -> Vec<Vec<Value>> {
    let all = |sql: &str| -> Vec<Vec<Value>> {
        let rows = connection
            .exec(sql, ())
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.raw().map(Result::unwrap).collect()
    };
    let mut found = all("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2");
    for pragma in [
        "user_version",
        "application_id",
        "schema_version",
        "encoding",
    ] {
        found.extend(all(&format!("PRAGMA {pragma}")));
    }
    let tables = all("SELECT name, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY 1");
    for table in tables {
        let [Value::Text(name), Value::Integer(without_rowid)] = table.as_slice() else {
            panic!("{table:?}")
        };
        if name == "sqlite_schema" {
            continue; // its root pages are the file's own business
        }
        let rowid = ["rowid", "1"][*without_rowid as usize];
        let quoted = name.replace('"', "\"\"");
        let rowid = if name == "v" { "1" } else { rowid };
        found.extend(all(&format!("SELECT {rowid}, * FROM \"{quoted}\" ")));
    }
    assert!(found.len() > 4, "something was read");
    found
}
