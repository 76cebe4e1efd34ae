//! Random statements.

use dovehouse_sqlbridge::Value;
use fastrand::Rng;

/// A statement that may or may not suit the tables that there are.
pub(crate) fn statement(rng: &mut Rng) -> (String, Vec<Value>) {
    let table = rng.u8(..4);
    let key = rng.i64(..60);
    let blob = |rng: &mut Rng| {
        let mut bytes = vec![0; [10, 200, 3_000, 20_000][rng.usize(..4)]];
        rng.fill(&mut bytes);
        Value::from(bytes)
    };
    let sql = match rng.u8(..20) {
        0 => format!("CREATE TABLE t{table}(id INTEGER PRIMARY KEY, a, b)"),
        1 => format!("CREATE TABLE t{table}(id PRIMARY KEY, a, b) WITHOUT ROWID"),
        2 => format!("CREATE INDEX i{table} ON t{table}(b, a)"),
        3 => format!("DROP TABLE t{table}"),
        4 => format!("DROP INDEX i{table}"),
        5 => format!("ALTER TABLE t{table} ADD COLUMN c{key} DEFAULT 7"),
        6 => format!("DELETE FROM t{table} WHERE id % 3 = {}", key % 3),
        7 => format!("PRAGMA incremental_vacuum({})", key % 8 + 1),
        8 => format!("UPDATE t{table} SET b = b + 1 WHERE id < {key}"),
        9 => format!("INSERT OR IGNORE INTO t{table}(id, a, b) SELECT id + 50, a, b FROM t{table}"),
        10 | 11 => format!("DELETE FROM t{table} WHERE id = {key}"),
        12 | 13 => {
            let sql = format!("UPDATE t{table} SET a = ? WHERE id = {key}");
            return (sql, vec![blob(rng)]);
        }
        _ => {
            let sql = format!("INSERT INTO t{table}(id, a, b) VALUES (?, ?, ?)");
            return (sql, vec![key.into(), blob(rng), rng.i64(..9).into()]);
        }
    };
    (sql, Vec::new())
}
