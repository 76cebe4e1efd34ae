//! Random SQL from a grammar that knows what is forbidden: whatever the answers are, nothing forbidden happens.
//!
//! Each text is one statement or several, of words that SQLite knows, put together well or badly. What is looked
//! at is the effect, not the error: no file appears, there is no other database, settings of the store are as they
//! were, nothing of a reserved name is read or changed, and nothing of a turn survives its rollback.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use dovehouse_engine::wal::sim::{SimFs, for_each_seed};
use dovehouse_engine::{ClassId, Engine};
use dovehouse_sqlbridge::{Budget, Cursor, Error, SqlPolicy, Value};
use fastrand::Rng;

mod common;

use common::{Awake, open, wake_with};

const SECRET: &str = "nobody reads this";

/// Symbols, and what may be in their place, between broken bars; other symbols are in angle brackets.
const GRAMMAR: &str = r#"
TEXT: <ONE> ¦ <ONE> ¦ <ONE> ¦ <ONE>; <ONE> ¦ ; <ONE>; /* ; */ <ONE> -- x ¦ EXPLAIN <ONE>
ONE: <READ> ¦ <READ> ¦ <READ> ¦ <WRITE> ¦ <WRITE> ¦ <WRITE> ¦ <SCHEMA> ¦ <SCHEMA> ¦ <OUT> ¦ <PRAGMA>
READ: SELECT * FROM <NAME> ¦ SELECT <EXPR> FROM <FROM> ¦ SELECT a FROM <NAME> WHERE <EXPR> ¦ SELECT * FROM <FROM>, <FROM> LIMIT 5
    ¦ SELECT <EXPR> FROM t UNION ALL SELECT a FROM <NAME> ¦ SELECT count(*) FROM <FROM> NATURAL JOIN <FROM>
    ¦ WITH w AS (SELECT * FROM <FROM>) SELECT * FROM w ¦ WITH <NAME>(a) AS (SELECT 1) SELECT * FROM <NAME>
    ¦ WITH RECURSIVE w(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM w) SELECT <EXPR> FROM w, <NAME>
WRITE: INSERT INTO <NAME>(a) VALUES (<EXPR0>) ¦ INSERT INTO t(a) SELECT <EXPR> FROM <NAME> ¦ DELETE FROM <NAME>
    ¦ INSERT OR REPLACE INTO <NAME> SELECT * FROM <FROM> ¦ REPLACE INTO <NAME> DEFAULT VALUES
    ¦ INSERT INTO f(f) VALUES ('rebuild') ¦ INSERT INTO g(g) VALUES ('rebuild') ¦ INSERT INTO f(f, rank) VALUES ('merge', 1)
    ¦ INSERT INTO sqlite_schema VALUES ('table', '_cf_x', '_cf_x', 2, 'CREATE TABLE _cf_x(a)') ¦ UPDATE <NAME> SET a = <EXPR>
    ¦ UPDATE <NAME> SET a = <EXPR> WHERE <EXPR> LIMIT 2 ¦ UPDATE sqlite_schema SET sql = <EXPR0>, name = '_cf_KV'
    ¦ UPDATE OR IGNORE <NAME> SET a = x.a FROM <FROM> AS x ¦ DELETE FROM <NAME> WHERE <EXPR> RETURNING *
    ¦ DELETE FROM <NAME> ORDER BY a LIMIT 1 ¦ WITH w AS (<READ>) DELETE FROM <NAME>
SCHEMA: CREATE <TEMP> TABLE <NEW>(a, b DEFAULT (<EXPR0>)) ¦ CREATE <TEMP> TABLE <NEW> AS <READ>
    ¦ CREATE TABLE <NEW>(a REFERENCES <NAME> ON DELETE CASCADE, value) ¦ CREATE <TEMP> VIEW <NEW> AS <READ>
    ¦ CREATE INDEX <NEW> ON <NAME>(a) ¦ CREATE UNIQUE INDEX <NEW> ON <NAME>(a, <EXPR>) WHERE a > 5
    ¦ CREATE <TEMP> TRIGGER <NEW> AFTER <WHEN> ON <NAME> BEGIN <WRITE>; <READ>; END ¦ CREATE VIRTUAL TABLE <NEW> USING <MODULE>
    ¦ CREATE VIRTUAL TABLE g USING <MODULE> ¦ DROP TABLE <NAME> ¦ DROP VIEW v ¦ DROP INDEX _cf_index ¦ DROP TRIGGER in_t
    ¦ ALTER TABLE <NAME> RENAME TO <NEW> ¦ ALTER TABLE <NAME> RENAME a TO <NEW>
    ¦ ALTER TABLE <NAME> ADD COLUMN c DEFAULT (<EXPR0>) ¦ ALTER TABLE <NAME> DROP COLUMN b
    ¦ ALTER TABLE <NAME> ADD CONSTRAINT y CHECK (a > 0) ¦ REINDEX ¦ REINDEX <NAME> ¦ ANALYZE ¦ ANALYZE <NAME>
OUT: BEGIN ¦ BEGIN IMMEDIATE ¦ COMMIT ¦ END ¦ ROLLBACK ¦ SAVEPOINT <NEW> ¦ RELEASE nested ¦ ROLLBACK TO nested
    ¦ ATTACH '<FILE>' AS other ¦ ATTACH <EXPR0> AS temp2 ¦ ATTACH 'file:<FILE>?mode=rwc' AS other ¦ DETACH main ¦ VACUUM
    ¦ VACUUM INTO '<FILE>' ¦ VACUUM main INTO '<FILE>' ¦ SELECT load_extension('<FILE>') ¦ CREATE TABLE other.t(a)
    ¦ SELECT * FROM other.t ¦ SELECT writefile('<FILE>', 'x') ¦ SELECT fts3_tokenizer('a', x'00')
PRAGMA: PRAGMA <SETTING> ¦ PRAGMA <SETTING> = <VALUE> ¦ PRAGMA <SETTING>(<VALUE>) ¦ PRAGMA main.<SETTING> = <VALUE>
    ¦ SELECT * FROM pragma_<SETTING> ¦ SELECT * FROM pragma_<SETTING>(<EXPR0>) ¦ SELECT * FROM pragma_<SETTING>('_cf_KV')
SETTING: journal_mode ¦ locking_mode ¦ synchronous ¦ page_size ¦ auto_vacuum ¦ temp_store ¦ temp_store_directory ¦ writable_schema
    ¦ schema_version ¦ trusted_schema ¦ mmap_size ¦ wal_checkpoint ¦ foreign_keys ¦ table_info ¦ table_xinfo ¦ index_list
    ¦ foreign_key_list ¦ foreign_key_check ¦ quick_check ¦ optimize ¦ database_list ¦ user_version ¦ query_only ¦ cache_size
    ¦ encoding ¦ incremental_vacuum ¦ case_sensitive_like ¦ JOURNAL_MODE
VALUE: 1 ¦ 0 ¦ ON ¦ 'off' ¦ WAL ¦ DELETE ¦ NORMAL ¦ <NAME> ¦ '<FILE>' ¦ 1000 ¦ -1 ¦ 'UTF-16'
FROM: <NAME> ¦ <NAME> ¦ <NAME> ¦ <NAME> ¦ (<READ>) ¦ sqlite_schema ¦ json_each('[1]') ¦ pragma_table_list ¦ dbstat
    ¦ pragma_table_info('<NEW>') ¦ sqlite_temp_schema
NAME: t ¦ t ¦ t ¦ t ¦ u ¦ f ¦ g ¦ v ¦ x ¦ temp.x ¦ _cf_KV ¦ "_CF_kv" ¦ [_cf_KV] ¦ `_cf_kv` ¦ main._cf_KV ¦ _cf_new ¦ _cf_search
NEW: x ¦ y ¦ g ¦ temp.x ¦ _cf_new ¦ '_cf_KV' ¦ "_cf_é" ¦ _CF_KV
EXPR0: 1 ¦ NULL ¦ 'x' ¦ '<FILE>' ¦ '_cf_' || 'KV' ¦ (SELECT <EXPR> FROM <NAME>) ¦ <FUNCTION>(<EXPR0>) ¦ zeroblob(9)
EXPR: a ¦ a ¦ rowid ¦ a + 1 ¦ <EXPR0> ¦ EXISTS (<READ>) ¦ <EXPR> IN (SELECT a FROM <NAME>) ¦ <FUNCTION>(<EXPR>)
    ¦ <EXPR> || '_cf_KV' ¦ CASE WHEN <EXPR> THEN <EXPR> END ¦ <EXPR> LIKE '%' ¦ <EXPR> IS NOT NULL ¦ value
FUNCTION: abs ¦ count ¦ sum ¦ max ¦ sqlite_version ¦ sqlite_compileoption_get ¦ load_extension ¦ sin ¦ pow ¦ json ¦ json_pretty
    ¦ randomblob ¦ sqlite_rename_table ¦ sqlite_fail ¦ fts5 ¦ rtreecheck ¦ total ¦ quote
MODULE: fts5(a, b) ¦ fts5(value, content='_cf_KV') ¦ fts5(a, content=t) ¦ fts5vocab(f, row) ¦ fts5vocab('_cf_search', row)
    ¦ rtree(id, a, b) ¦ dbstat ¦ fts4(a) ¦ nosuch(a) ¦ fts3tokenize
WHEN: INSERT ¦ UPDATE ¦ DELETE
TEMP:  ¦  ¦  ¦ TEMP
"#;

type Grammar = HashMap<&'static str, Vec<&'static str>>;

/// The grammar, taken apart.
fn grammar() -> Grammar {
    let mut found = HashMap::new();
    let mut symbol = "";
    for line in GRAMMAR.lines().skip(1) {
        let mut choices = line;
        if !line.starts_with(' ') {
            (symbol, choices) = line.split_once(':').expect("a symbol has a colon");
        }
        let choices = choices.strip_prefix("    ¦").unwrap_or(choices).split('¦');
        let list: &mut Vec<_> = found.entry(symbol).or_default();
        list.extend(choices.map(str::trim));
    }
    found
}

fn grow(grammar: &Grammar, rng: &mut Rng, symbol: &str, depth: u32, out: &mut String) {
    let choices = &grammar[symbol];
    // Deep down the first one, which ends soon.
    let choice = if depth > 9 {
        choices[0]
    } else {
        choices[rng.usize(..choices.len())]
    };
    let mut rest = choice;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let (inner, after) = after.split_once('>').unwrap();
        match inner {
            "FILE" => out.push_str("<FILE>"),
            inner => grow(grammar, rng, inner, depth + 1, out),
        }
        rest = after;
    }
    out.push_str(rest);
    // And now and then a word is lost.
    if rng.u32(..400) == 0 {
        while out.pop().is_some_and(|last| last != ' ') {}
    }
}

struct World {
    engine: Engine,
    class: ClassId,
}

impl World {
    fn new(seed: u64) -> Self {
        let (engine, class) = open(&SimFs::new(seed)).unwrap();
        let world = World { engine, class };
        let native = world.wake(&SqlPolicy::native());
        native.run(&format!(
            "CREATE TABLE t(a, b); INSERT INTO t VALUES (1, 2), (3, 4), (5, 6);
             CREATE TABLE u(a PRIMARY KEY, value) WITHOUT ROWID; INSERT INTO u VALUES (1, 2);
             CREATE TABLE _cf_KV(a, value); INSERT INTO _cf_KV VALUES (1, '{SECRET}'), (2, 'b');
             CREATE INDEX _cf_index ON _cf_KV(value);
             CREATE VIEW v AS SELECT * FROM _cf_KV;
             CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('words');
             CREATE VIRTUAL TABLE _cf_search USING fts5(a); INSERT INTO _cf_search VALUES ('{SECRET}');
             CREATE TRIGGER in_t AFTER INSERT ON t WHEN new.a = 'x' BEGIN DELETE FROM _cf_KV; END"
        ));
        native.commit();
        world
    }

    fn wake(&self, policy: &SqlPolicy) -> Awake {
        wake_with(&self.engine, self.class, 1, policy)
    }

    /// All that has a reserved name, as the store has it.
    fn reserved(&self) -> Vec<Value> {
        let native = self.wake(&SqlPolicy::native());
        let all = |sql: &str| {
            native
                .database
                .exec(sql, ())
                .and_then(Cursor::to_vec)
                .unwrap()
        };
        [
            "SELECT name, tbl_name, sql FROM sqlite_schema WHERE lower(substr(tbl_name, 1, 4)) = '_cf_'
             OR lower(substr(name, 1, 4)) = '_cf_' ORDER BY name",
            "SELECT * FROM _cf_KV ORDER BY a",
            "SELECT * FROM _cf_search",
        ]
        .iter()
        .flat_map(|sql| all(sql))
        .flat_map(|row| row.values().to_vec())
        .collect()
    }

    /// A digest of everything.
    fn all(&self) -> Vec<Vec<u8>> {
        let object = self.engine.wake(self.class, common::id(1)).unwrap();
        (1..=object.page_count())
            .map(|number| {
                object
                    .page(number)
                    .unwrap()
                    .map_or(Vec::new(), |page| page.to_vec())
            })
            .collect()
    }
}

fn holds_secret(rows: &[dovehouse_sqlbridge::Row]) -> bool {
    let found = |value: &Value| match value {
        Value::Text(text) => text.contains(SECRET),
        Value::Blob(bytes) => bytes
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes()),
        _ => false,
    };
    rows.iter().any(|row| row.values().iter().any(found))
}

fn assert_settings(awake: &Awake) {
    let text = |sql: &str| -> String {
        let row = awake.database.exec(sql, ()).unwrap().one().unwrap();
        format!("{:?}", row.values()[0])
    };
    assert_eq!(
        text("SELECT count(*) FROM pragma_database_list WHERE name NOT IN ('main', 'temp')"),
        "Integer(0)"
    );
    assert_eq!(text("PRAGMA locking_mode"), "Text(\"exclusive\")");
    assert_eq!(text("PRAGMA synchronous"), "Integer(1)");
    assert_eq!(text("PRAGMA page_size"), "Integer(4096)");
    assert_eq!(text("PRAGMA auto_vacuum"), "Integer(2)");
    assert_eq!(text("PRAGMA writable_schema"), "Integer(0)");
    assert_eq!(text("PRAGMA trusted_schema"), "Integer(0)");
}

/// Some turns of random texts, each rolled back or committed. Returns how many texts SQLite accepted.
fn run(seed: u64, native: bool, dir: &Path) -> usize {
    let mut rng = Rng::with_seed(seed);
    let grammar = grammar();
    let world = World::new(seed);
    let base = if native {
        SqlPolicy::native()
    } else {
        SqlPolicy::cloudflare()
    };
    let policy = base.budget(Budget::Steps(20_000));
    let reserved = world.reserved();
    let mut accepted = 0;
    for _ in 0..4 {
        let before = world.all();
        let records = world.engine.stats().log.records;
        let awake = world.wake(&policy);
        let setting = (native).then(|| {
            awake
                .database
                .exec("PRAGMA journal_mode", ())
                .unwrap()
                .one()
                .unwrap()
        });
        let mut texts = Vec::new();
        for _ in 0..12 {
            let mut text = String::new();
            grow(&grammar, &mut rng, "TEXT", 0, &mut text);
            let text = text.replace("<FILE>", &dir.join("out").display().to_string());
            texts.push(text);
            let text = texts.last().unwrap();
            match awake.database.exec(text, ()).and_then(Cursor::to_vec) {
                Ok(rows) => {
                    accepted += 1;
                    assert!(
                        native || !holds_secret(&rows),
                        "a reserved table was read: {texts:#?}"
                    );
                }
                Err(Error::Denied { what, .. }) => assert!(!what.is_empty()),
                Err(_) => {}
            }
            assert_eq!(
                world.engine.stats().log.records,
                records,
                "something was committed: {texts:#?}"
            );
        }
        if native {
            assert_settings(&awake);
            let now = awake
                .database
                .exec("PRAGMA journal_mode", ())
                .unwrap()
                .one()
                .unwrap();
            assert_eq!(setting.unwrap().values(), now.values(), "{texts:#?}");
        }
        if rng.bool() {
            awake.database.rollback();
            drop(awake);
            assert!(
                world.all() == before,
                "something survived the rollback: {texts:#?}"
            );
        } else if awake.database.commit().is_ok() {
            awake.assert_whole();
            drop(awake);
            assert!(
                native || world.reserved() == reserved,
                "a reserved table was changed: {texts:#?}"
            );
        }
        let files = std::fs::read_dir(dir).unwrap().count();
        assert_eq!(files, 0, "a file appeared: {texts:#?}");
    }
    accepted
}

#[test]
fn whatever_the_text_nothing_forbidden_happens() {
    let dir = tempfile::tempdir().unwrap();
    let accepted = AtomicUsize::new(0);
    let test = "-p dovehouse-sqlbridge-core --test policy_fuzz";
    for_each_seed(15, test, |seed| {
        for native in [true, false] {
            accepted.fetch_add(run(seed, native, dir.path()), Ordering::Relaxed);
        }
        Ok(())
    });
    println!("{accepted:?} texts were accepted");
}
