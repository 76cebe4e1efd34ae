//! What SQL can say beyond stock SQLite: mathematical functions, and UPDATE and DELETE with a LIMIT.

use dovehouse_engine::Engine;
use dovehouse_engine::wal::sim::SimFs;
use dovehouse_sqlbridge::{Error, SqlPolicy, Value};

mod common;

use common::{Awake, open, wake_with};

fn awake(policy: &SqlPolicy) -> (Engine, Awake) {
    let (engine, class) = open(&SimFs::new(1)).unwrap();
    let awake = wake_with(&engine, class, 1, policy);
    (engine, awake)
}

fn value(awake: &Awake, sql: &str) -> Value {
    let row = awake.database.exec(sql, &[]).unwrap().one().unwrap();
    row.get(0).unwrap()
}

#[test]
fn mathematical_functions_are_there_under_both_policies() {
    let cases: [(&str, f64); 30] = [
        ("acos(1)", 0.0),
        ("acosh(1)", 0.0),
        ("asin(0)", 0.0),
        ("asinh(0)", 0.0),
        ("atan(0)", 0.0),
        ("atan2(1, 1)", std::f64::consts::FRAC_PI_4),
        ("atanh(0)", 0.0),
        ("ceil(1.2)", 2.0),
        ("cos(0)", 1.0),
        ("cosh(0)", 1.0),
        ("degrees(pi())", 180.0),
        ("exp(0)", 1.0),
        ("floor(-1.2)", -2.0),
        ("ln(exp(2))", 2.0),
        ("log(1000)", 3.0),
        ("log(2, 8)", 3.0),
        ("log2(8)", 3.0),
        ("mod(7, 4)", 3.0),
        ("PI()", std::f64::consts::PI),
        ("pow(2, 10)", 1024.0),
        ("radians(180)", std::f64::consts::PI),
        ("sin(0)", 0.0),
        ("sinh(0)", 0.0),
        ("sqrt('16')", 4.0),
        ("tan(0)", 0.0),
        ("tanh(0)", 0.0),
        ("trunc(-1.7)", -1.0),
        ("\"sin\"(0)", 0.0),
        ("mod(-7, 4)", -3.0),
        ("pow(2, -1)", 0.5),
    ];
    for policy in [SqlPolicy::native(), SqlPolicy::cloudflare()] {
        let (_engine, awake) = awake(&policy);
        for (call, expected) in cases {
            match value(&awake, &format!("SELECT {call}")) {
                Value::Real(found) => assert!((found - expected).abs() < 1e-12, "{call}: {found}"),
                other => panic!("{call}: {other:?}"),
            }
        }
        for call in [
            "sqrt(-1)",
            "ln(0)",
            "log(1, 5)",
            "log2(-1)",
            "acos(2)",
            "mod(1, 0)",
            "sin(NULL)",
            "sin('x')",
            "pow(1, x'00')",
        ] {
            assert_eq!(
                value(&awake, &format!("SELECT {call}")),
                Value::Null,
                "{call}"
            );
        }
        for call in ["ceil(3)", "floor(3)", "trunc('3')"] {
            assert_eq!(
                value(&awake, &format!("SELECT {call}")),
                Value::Integer(3),
                "{call}"
            );
        }
        assert!(awake.database.exec("SELECT sin(1, 2)", &[]).is_err());
    }
    let (_engine, awake) = awake(&SqlPolicy::native());
    for call in ["ceiling(1.5)", "power(2, 1)", "log10(100)"] {
        assert_eq!(
            value(&awake, &format!("SELECT {call}")),
            Value::Real(2.0),
            "{call}"
        );
    }
}

#[test]
fn a_schema_that_uses_mathematical_functions_can_be_opened_again() {
    let (engine, class) = open(&SimFs::new(2)).unwrap();
    let policy = SqlPolicy::cloudflare();
    let first = wake_with(&engine, class, 1, &policy);
    first.run(
        "CREATE TABLE t(a, root GENERATED ALWAYS AS (sqrt(a)) STORED, CHECK (floor(a) = a));
         CREATE TABLE log(a DEFAULT (pi()), b);
         CREATE INDEX by_cos ON t(cos(a));
         CREATE VIEW v AS SELECT exp(a) AS e FROM t",
    );
    let insert = "INSERT INTO t(a) VALUES (?)";
    first.database.exec(insert, &[4.into()]).unwrap();
    // The trigger is compiled when the kept statement is prepared again.
    first.run(
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log(b) VALUES (tanh(0) + new.a); END",
    );
    first.database.exec(insert, &[9.into()]).unwrap();
    first.commit();
    drop(first);
    for sql in [
        "INSERT INTO t(a) VALUES (16)",
        "SELECT e FROM v",
        "UPDATE t SET a = 25 WHERE cos(a) = cos(4)",
    ] {
        let again = wake_with(&engine, class, 1, &policy);
        again.run(sql);
        again.database.rollback();
    }
    let again = wake_with(&engine, class, 1, &policy);
    assert_eq!(value(&again, "SELECT sum(root) FROM t"), Value::Real(5.0));
    assert_eq!(
        value(&again, "SELECT b FROM log WHERE a > 3"),
        Value::Real(9.0)
    );
    again.assert_whole();
}

fn ten_rows(policy: &SqlPolicy) -> (Engine, Awake) {
    let (engine, awake) = awake(policy);
    awake.run(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10)
         INSERT INTO t SELECT i, i % 3, 0 FROM n",
    );
    (engine, awake)
}

#[test]
fn update_and_delete_with_a_limit_touch_the_rows_that_the_order_says() {
    for policy in [SqlPolicy::native(), SqlPolicy::cloudflare()] {
        let (_engine, awake) = ten_rows(&policy);
        let ids = |sql: &str, parameters: &[Value]| -> Vec<i64> {
            let rows = awake.database.exec(sql, parameters).unwrap();
            rows.deserialize().unwrap()
        };
        let sql = "DELETE FROM t WHERE a = ? RETURNING id ORDER BY id DESC LIMIT ?";
        for expected in [vec![7, 10], vec![1, 4], vec![]] {
            let mut found = ids(sql, &[1.into(), 2.into()]);
            found.sort_unstable();
            assert_eq!(found, expected, "and again from the cache");
        }
        assert_eq!(awake.database.changes(), 0);
        let sql = "UPDATE t AS u SET b = u.id WHERE u.a = 0 ORDER BY u.id LIMIT 1 OFFSET 1; SELECT id FROM t WHERE b > 0";
        assert_eq!(ids(sql, &[]), [6]);
        let sql = "WITH few AS (SELECT 2 AS id) DELETE FROM t WHERE id IN few LIMIT 9; SELECT count(*) FROM t";
        assert_eq!(ids(sql, &[]), [5]);
        awake.run("DELETE FROM t LIMIT 0");
        awake.run("DELETE FROM t LIMIT 4");
        assert_eq!(awake.number("SELECT count(*) FROM t"), 1);
        awake.database.rollback();
    }
}

#[test]
fn a_limit_that_cannot_be_said_is_refused_with_what_to_do() {
    let (_engine, awake) = ten_rows(&SqlPolicy::native());
    awake.run(
        "CREATE TABLE k(a PRIMARY KEY) WITHOUT ROWID; CREATE VIEW v AS SELECT * FROM t;
         CREATE TABLE shadow(_rowid_, a); INSERT INTO shadow VALUES (1, 1), (1, 2)",
    );
    for sql in [
        "DELETE FROM k LIMIT 1",
        "UPDATE t SET a = 1 FROM k LIMIT 1",
        "DELETE FROM t RETURNING id + ? LIMIT 1",
        "DELETE FROM shadow LIMIT 1",
        "DELETE FROM main.\"shadow\" AS s LIMIT 1",
    ] {
        let error = awake.database.exec(sql, &[]).unwrap_err();
        assert!(matches!(error, Error::Type(_)), "{sql}: {error}");
        assert!(
            error.to_string().contains("WHERE … IN (SELECT"),
            "{sql}: {error}"
        );
    }
    for sql in [
        "DELETE FROM t ORDER BY id",
        "DELETE FROM nosuch LIMIT 1",
        "DELETE FROM v LIMIT 1",
    ] {
        assert!(awake.database.exec(sql, &[]).is_err(), "{sql}");
    }
    assert_eq!(awake.number("SELECT count(*) FROM shadow"), 2);
}
