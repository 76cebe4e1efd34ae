//! What SQL may do under each policy, and which rule says no.

use std::time::Duration;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Alarm, Engine};
use dovehouse_sqlbridge::{Budget, Cursor, Error, Limit, Rule, SqlPolicy};

mod common;

use common::{Awake, open, wake_with};

/// An object under a policy, with tables of both kinds of names: the reserved ones are made under the
/// native policy.
fn under(policy: &SqlPolicy) -> (Engine, Awake) {
    let (engine, class) = open(&SimFs::new(1)).unwrap();
    let native = wake_with(&engine, class, 1, &SqlPolicy::native());
    native.run(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
         CREATE TABLE spare(a);
         CREATE INDEX t_a ON t(a);
         CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value);
         CREATE INDEX _cf_index ON _cf_KV(value);
         CREATE VIEW over AS SELECT * FROM _cf_KV;
         CREATE TRIGGER spare_in AFTER INSERT ON spare BEGIN INSERT INTO _cf_KV VALUES (new.a, 1); END;
         CREATE VIRTUAL TABLE reader USING fts5(value, content='_cf_KV', content_rowid='rowid');
         INSERT INTO t VALUES (1, 2, 3);
         INSERT INTO _cf_KV VALUES ('k', 'v')",
    );
    native.commit();
    drop(native);
    let awake = wake_with(&engine, class, 1, policy);
    (engine, awake)
}

fn refusal(awake: &Awake, sql: &str) -> Option<Rule> {
    match awake.database.exec(sql, ()).and_then(Cursor::to_vec) {
        Ok(_) => None,
        Err(Error::Denied { rule, what }) => {
            assert!(!what.is_empty(), "{sql}");
            Some(rule)
        }
        Err(other) => panic!("{sql}: {other}"),
    }
}

/// SQL; what the native policy says; what Cloudflare's says.
const CASES: &[(&str, Option<Rule>, Option<Rule>)] = &[
    // Transactions and other databases.
    ("BEGIN", Some(Rule::Transaction), Some(Rule::Transaction)),
    (
        "begin immediate",
        Some(Rule::Transaction),
        Some(Rule::Transaction),
    ),
    ("COMMIT", Some(Rule::Transaction), Some(Rule::Transaction)),
    ("END", Some(Rule::Transaction), Some(Rule::Transaction)),
    ("ROLLBACK", Some(Rule::Transaction), Some(Rule::Transaction)),
    (
        "SAVEPOINT s",
        Some(Rule::Transaction),
        Some(Rule::Transaction),
    ),
    (
        "RELEASE s",
        Some(Rule::Transaction),
        Some(Rule::Transaction),
    ),
    (
        "ROLLBACK TO s",
        Some(Rule::Transaction),
        Some(Rule::Transaction),
    ),
    (
        "SAVEPOINT _cf_s",
        Some(Rule::Transaction),
        Some(Rule::Transaction),
    ),
    (
        "EXPLAIN COMMIT",
        Some(Rule::Transaction),
        Some(Rule::Transaction),
    ),
    (
        "ATTACH ':memory:' AS x",
        Some(Rule::OtherDatabase),
        Some(Rule::OtherDatabase),
    ),
    (
        "DETACH main",
        Some(Rule::OtherDatabase),
        Some(Rule::OtherDatabase),
    ),
    ("VACUUM", Some(Rule::Vacuum), Some(Rule::Vacuum)),
    (
        "; /* a */ vacuum into 'f'",
        Some(Rule::Vacuum),
        Some(Rule::Vacuum),
    ),
    // Reserved names, in any case and in any quotes.
    ("SELECT * FROM _cf_KV", None, Some(Rule::ReservedName)),
    (
        "SELECT count(*) FROM main.\"_CF_kv\"",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "SELECT 1 FROM t WHERE a IN (SELECT key FROM _cf_KV)",
        None,
        Some(Rule::ReservedName),
    ),
    ("SELECT * FROM over", None, Some(Rule::ReservedName)),
    (
        "SELECT value FROM reader WHERE rowid = 1",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "INSERT INTO reader(reader) VALUES ('rebuild')",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "INSERT INTO _cf_KV VALUES (1, 2)",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "INSERT INTO spare VALUES (1)",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "UPDATE [_cf_kv] SET value = 1",
        None,
        Some(Rule::ReservedName),
    ),
    ("DELETE FROM `_cf_KV`", None, Some(Rule::ReservedName)),
    ("DROP TABLE _cf_KV", None, Some(Rule::ReservedName)),
    ("CREATE TABLE '_cf_new'(a)", None, Some(Rule::ReservedName)),
    (
        "CREATE TABLE _cf_copy AS SELECT 1",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "CREATE VIEW _cf_view AS SELECT 1",
        None,
        Some(Rule::ReservedName),
    ),
    ("CREATE INDEX _cf_i ON t(b)", None, Some(Rule::ReservedName)),
    (
        "CREATE INDEX i ON _cf_KV(value)",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "CREATE TRIGGER g AFTER INSERT ON _cf_KV BEGIN SELECT 1; END",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "CREATE TRIGGER _cf_g AFTER INSERT ON t BEGIN SELECT 1; END",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "CREATE VIRTUAL TABLE _cf_f USING fts5(a)",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "ALTER TABLE _cf_KV ADD COLUMN c",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "CREATE VIRTUAL TABLE _cf USING fts5(a)",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "ALTER TABLE spare RENAME TO \"_Cf\"",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "ALTER TABLE t RENAME TO _cf_t",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "alter table main.t rename /**/ to '_CF_t';",
        None,
        Some(Rule::ReservedName),
    ),
    ("REINDEX _cf_index", None, Some(Rule::ReservedName)),
    ("ANALYZE _cf_KV", None, Some(Rule::ReservedName)),
    ("PRAGMA table_info(_cf_KV)", None, Some(Rule::ReservedName)),
    (
        "PRAGMA foreign_key_check('_cf_KV')",
        None,
        Some(Rule::ReservedName),
    ),
    (
        "SELECT * FROM pragma_table_info('_cf_' || 'KV')",
        None,
        Some(Rule::ReservedName),
    ),
    ("SELECT '_cf_', a AS _cf_a FROM t", None, None),
    ("ALTER TABLE t RENAME COLUMN a TO _cf_a", None, None),
    ("SELECT name FROM sqlite_schema", None, None),
    // Temporary things.
    ("CREATE TEMP TABLE x(a)", None, Some(Rule::Temporary)),
    ("CREATE TABLE temp.x(a)", None, Some(Rule::Temporary)),
    (
        "CREATE TEMP VIEW x AS SELECT 1",
        None,
        Some(Rule::Temporary),
    ),
    (
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        None,
        Some(Rule::Temporary),
    ),
    // Virtual tables.
    ("CREATE VIRTUAL TABLE x USING fts5(a)", None, None),
    (
        "CREATE VIRTUAL TABLE x USING FTS5(a); CREATE VIRTUAL TABLE y USING fts5vocab(x, row)",
        None,
        None,
    ),
    (
        "CREATE VIRTUAL TABLE x USING rtree(id, a, b); CREATE VIRTUAL TABLE y USING rtree_i32(id, a, b)",
        None,
        None,
    ),
    (
        "CREATE VIRTUAL TABLE x USING fts3(a)",
        None,
        Some(Rule::VirtualTable),
    ),
    (
        "CREATE VIRTUAL TABLE x USING dbstat",
        None,
        Some(Rule::VirtualTable),
    ),
    // Functions.
    ("SELECT sqlite_version()", None, Some(Rule::Function)),
    ("SELECT sqlite_source_id()", None, Some(Rule::Function)),
    (
        "SELECT sqlite_compileoption_used('x')",
        None,
        Some(Rule::Function),
    ),
    ("SELECT json_pretty('[]')", None, Some(Rule::Function)),
    (
        "CREATE TABLE x(a DEFAULT (sqlite_version()))",
        None,
        Some(Rule::Function),
    ),
    (
        "SELECT a ->> '$', upper('x'), max(1, 2), iif(1, 2, 3) FROM (SELECT '[]' AS a)",
        None,
        None,
    ),
    (
        "SELECT count(*) OVER (), ntile(2) OVER (ORDER BY id) FROM t",
        None,
        None,
    ),
    ("SELECT value FROM json_each('[1]')", None, None),
    (
        "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t DROP COLUMN b; ALTER TABLE t RENAME TO u",
        None,
        None,
    ),
    ("ANALYZE; REINDEX; PRAGMA optimize", None, None),
    // Pragmas.
    (
        "PRAGMA journal_mode = WAL",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    (
        "PRAGMA main.Locking_Mode = NORMAL",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    (
        "PRAGMA synchronous(0)",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    (
        "PRAGMA page_size = 512",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    (
        "PRAGMA writable_schema = 1",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    (
        "PRAGMA soft_heap_limit = 1",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    (
        "PRAGMA temp_store_directory = 'd'",
        Some(Rule::StoreSetting),
        Some(Rule::StoreSetting),
    ),
    ("PRAGMA journal_mode", None, Some(Rule::Pragma)),
    ("PRAGMA cache_size = 10", None, Some(Rule::Pragma)),
    ("PRAGMA user_version", None, Some(Rule::Pragma)),
    ("PRAGMA integrity_check", None, Some(Rule::Pragma)),
    (
        "SELECT * FROM pragma_database_list()",
        None,
        Some(Rule::Pragma),
    ),
    ("PRAGMA page_size", None, None),
    ("PRAGMA data_version", None, None),
    ("PRAGMA data_version = 1", None, Some(Rule::PragmaArgument)),
    ("PRAGMA table_list", None, None),
    ("PRAGMA table_list(t)", None, Some(Rule::PragmaArgument)),
    ("PRAGMA table_info", None, Some(Rule::PragmaArgument)),
    ("PRAGMA TABLE_INFO(t)", None, None),
    ("SELECT * FROM pragma_table_xinfo('t')", None, None),
    ("PRAGMA index_info('t_a')", None, None),
    ("PRAGMA foreign_keys", None, None),
    ("PRAGMA foreign_keys = oFF", None, None),
    ("PRAGMA foreign_keys = 'yes'", None, None),
    ("PRAGMA foreign_keys = 2", None, Some(Rule::PragmaArgument)),
    (
        "PRAGMA defer_foreign_keys = maybe",
        None,
        Some(Rule::PragmaArgument),
    ),
    (
        "PRAGMA quick_check; PRAGMA quick_check(3); PRAGMA quick_check(t)",
        None,
        None,
    ),
    ("PRAGMA optimize(0xfffe)", None, None),
    (
        "SELECT * FROM pragma_optimize(1)",
        Some(Rule::PragmaFunction),
        Some(Rule::PragmaFunction),
    ),
    ("PRAGMA optimize(t)", None, Some(Rule::PragmaArgument)),
];

#[test]
fn each_rule_refuses_what_it_says_and_nothing_else() {
    for (policy, is_native) in [
        (SqlPolicy::native(), true),
        (SqlPolicy::cloudflare(), false),
    ] {
        let (_engine, awake) = under(&policy);
        for &(sql, native, cloudflare) in CASES {
            let expected = if is_native { native } else { cloudflare };
            let undone: Result<(), Error> = awake.database.transaction(|_| {
                assert_eq!(refusal(&awake, sql), expected, "{sql}, native: {is_native}");
                Err(Error::NoDatabase)
            });
            assert!(matches!(undone, Err(Error::NoDatabase)), "{sql}");
        }
        awake.database.rollback();
        awake.assert_whole();
    }
}

#[test]
fn a_denial_says_what_was_refused_why_and_what_to_do_instead() {
    let (_engine, awake) = under(&SqlPolicy::cloudflare());
    let words = |sql: &str| awake.database.exec(sql, ()).unwrap_err().to_string();
    assert_eq!(
        words("CREATE TABLE _cf_x(a)"),
        "_cf_x is refused: names that begin with _cf_ are reserved; choose another"
    );
    assert!(words("COMMIT").starts_with("COMMIT is refused: a turn is one transaction"));
    assert!(words("SELECT json_pretty(1)").starts_with("json_pretty is refused"));
    assert!(words("SELECT nosuch(1)").contains("no such function"));
}

#[test]
fn keys_are_a_table_for_native_sql_only() {
    let (_engine, awake) = under(&SqlPolicy::native());
    awake.run("SELECT * FROM kv");
    let (_engine, awake) = under(&SqlPolicy::cloudflare());
    let error = awake.database.exec("SELECT * FROM kv", ()).unwrap_err();
    assert!(error.to_string().contains("no such table"), "{error}");
    awake.run("CREATE TABLE kv(a); INSERT INTO kv VALUES (1)");
    assert_eq!(awake.number("SELECT a FROM kv"), 1);
}

#[test]
fn optimize_as_a_statement_goes_on_after_the_schema_has_changed() {
    let (_engine, awake) = under(&SqlPolicy::cloudflare());
    for table in ["one", "two"] {
        awake.run("PRAGMA optimize");
        awake.run(&format!("CREATE TABLE {table}(a); SELECT * FROM {table}"));
    }
    awake.commit();
    awake.assert_whole();
}

#[test]
fn functions_of_sqlites_own_alter_table_cannot_be_called() {
    for policy in [SqlPolicy::native(), SqlPolicy::cloudflare()] {
        let (_engine, awake) = under(&policy);
        for call in [
            "sqlite_rename_table('main', 'table', 't', 'CREATE TABLE t(a)', 't', 'u', 0)",
            "sqlite_fail('x', 1)",
            "sqlite_drop_constraint('CREATE TABLE t(a)', 1)",
        ] {
            assert!(
                awake.database.exec(&format!("SELECT {call}"), ()).is_err(),
                "{call}"
            );
        }
    }
}

#[test]
fn limits_are_those_of_the_policy() {
    let (_engine, awake) = under(&SqlPolicy::cloudflare());
    let columns = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("c{n}")).collect();
        format!("CREATE TABLE wide(id, {})", names.join(", "))
    };
    let many = |part: &str, times: usize, between: &str| vec![part; times].join(between);
    let terms = |count| format!("SELECT {}", many("1", count, " UNION ALL SELECT "));
    let depth = |count| format!("SELECT {}1", "- ".repeat(count));
    let parameters = |count| format!("SELECT coalesce({}, ?{count})", many("1", 2, ", "));
    let calls = |count| format!("SELECT coalesce({})", many("1", count, ", "));
    let pattern = |count| format!("SELECT 'a' LIKE '{}'", "b".repeat(count));
    let text = |count: usize| format!("SELECT 1{}", " ".repeat(count - 8));
    let value = |count: usize| format!("SELECT length(zeroblob({count}))");
    let cases = [
        (columns(99), columns(100)),
        (terms(5), terms(6)),
        (depth(98), depth(120)),
        (calls(127), calls(128)),
        (pattern(50), pattern(51)),
        (text(100_000), text(100_001)),
        (value(4 << 20), value((4 << 20) + 1)),
    ];
    for (fits, too_much) in cases {
        let error = awake.database.exec(&too_much, ()).unwrap_err();
        assert!(matches!(error, Error::Sqlite { .. }), "{error}");
        awake.run(&fits);
    }
    let nulls = vec![dovehouse_sqlbridge::Value::Null; 100];
    awake.database.exec(&parameters(100), &nulls).unwrap();
    assert!(awake.database.exec(&parameters(101), &nulls).is_err());

    let (_engine, awake) = under(&SqlPolicy::native().limit(Limit::Columns, 20));
    assert!(
        awake
            .database
            .exec(&format!("SELECT {}", many("1", 21, ", ")), ())
            .is_err()
    );
    awake.run(&terms(50));
    awake.run(&pattern(60));
}

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";

#[test]
fn an_endless_query_is_interrupted_and_nothing_else_happens() {
    for budget in [Budget::Steps(50_000), Budget::Time(Duration::ZERO)] {
        let (_engine, awake) = under(&SqlPolicy::native().budget(budget));
        awake.run("UPDATE t SET a = 7");
        for _ in 0..2 {
            let error = awake.database.exec(ENDLESS, ()).unwrap_err();
            assert!(
                matches!(error, Error::Interrupted { budget: told } if told == budget),
                "{error}"
            );
        }
        awake.commit();
        assert_eq!(awake.number("SELECT a FROM t"), 7);
        awake.assert_whole();
    }
}

#[test]
fn a_statement_that_writes_for_too_long_takes_tables_keys_and_alarm_of_its_turn_with_it() {
    let (_engine, awake) = under(&SqlPolicy::native().budget(Budget::Steps(200_000)));
    awake.run("UPDATE t SET a = 7");
    awake.object.lock().put(b"key", b"value").unwrap();
    awake.object.lock().set_alarm(Alarm {
        due_ms: 5,
        ..Alarm::default()
    });
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t(a) SELECT i FROM n";
    let error = awake.database.exec(sql, ()).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert_eq!(awake.number("SELECT sum(a) + count(*) FROM t"), 3);
    assert!(awake.object.lock().get(b"key").unwrap().is_none());
    assert!(awake.object.lock().alarms().is_empty());
    awake.run("UPDATE t SET a = 8");
    awake.commit();
    awake.assert_whole();
}

#[test]
fn each_run_of_a_statement_has_the_whole_budget() {
    let (_engine, awake) = under(&SqlPolicy::native().budget(Budget::Steps(20_000)));
    let some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT sum(i) FROM n";
    for _ in 0..20 {
        awake.run(some);
    }
    awake.fill(40, 10);
    awake.database.rollback();
    let all: i64 = awake.number("SELECT count(*) FROM t");
    assert_eq!(all, 1);
}

#[test]
fn the_store_is_not_bound_by_the_budget() {
    let (_engine, awake) = under(&SqlPolicy::native().budget(Budget::Steps(1000)));
    awake.run("UPDATE t SET a = 7");
    awake.commit();
    awake.run("UPDATE t SET a = 8");
    awake.database.rollback();
    assert_eq!(awake.number("SELECT a FROM t"), 7);
}
