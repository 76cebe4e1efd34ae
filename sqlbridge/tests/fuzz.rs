//! A short run of the fuzz targets, from one seed: hostile files at import, hostile statements in an object.
//! `INPUTS=100000 cargo test -p dovehouse-sqlbridge-core --test fuzz` is a long one.

use fastrand::Rng;

mod common;

use common::fixtures::{Form, empty, full};
use common::fuzz::Subject;

/// How many inputs each test makes.
fn inputs(usual: usize) -> usize {
    let inputs = std::env::var("INPUTS");
    inputs.map_or(usual, |inputs| inputs.parse().expect("INPUTS is a number"))
}

/// Files that are worth breaking.
fn seeds() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut seeds = Vec::new();
    for (number, auto_vacuum) in [0, 1, 2, 0].into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.sqlite"));
        let form = Form {
            page_bytes: 512,
            auto_vacuum,
            ..Form::default()
        };
        drop(match number {
            0 => full(&path, form),
            _ => {
                let stock = empty(&path, form);
                let sql = "CREATE TABLE _cf_KV(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
                    CREATE TABLE _cf_METADATA(key INTEGER PRIMARY KEY, value BLOB);
                    INSERT INTO _cf_METADATA VALUES (1, 1700000000000000000);
                    INSERT INTO _cf_KV VALUES ('a', x'00'), ('b', zeroblob(900));
                    CREATE TABLE t(a PRIMARY KEY, b CHECK (b < 9), c AS (a || b)) WITHOUT ROWID;
                    CREATE INDEX i ON t(b, lower(a)) WHERE b > 1;
                    INSERT INTO t VALUES ('x', 1), ('y', 2), (zeroblob(700), 3)";
                stock.exec(sql, ()).unwrap();
                stock
            }
        });
        seeds.push(std::fs::read(&path).unwrap());
    }
    seeds
}

/// Bends a file in a few places: bytes, numbers of two and four bytes, stretches copied over others, its
/// end.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..6) {
        // Half of it where the structure is: headers of the file and of pages.
        let at = match rng.u8(..4) {
            0 => rng.usize(..100),
            1 => rng.usize(..bytes.len() / 512) * 512 + rng.usize(..24),
            _ => rng.usize(..bytes.len()),
        };
        let number = [0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF_FFFF, u32::MAX][rng.usize(..10)];
        match rng.u8(..6) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => bytes[at] = rng.u8(..),
            2 => put(bytes, at, &number.to_be_bytes()),
            3 => put(bytes, at, &(number as u16).to_be_bytes()),
            4 => {
                let from = rng.usize(..bytes.len());
                let end = (from + rng.usize(..600)).min(bytes.len());
                let copied = bytes[from..end].to_vec();
                put(bytes, at, &copied);
            }
            _ if rng.u8(..8) == 0 => bytes.truncate(at.max(600)),
            _ => {}
        }
    }
}

fn put(bytes: &mut [u8], at: usize, patch: &[u8]) {
    for (byte, patch) in bytes[at..].iter_mut().zip(patch) {
        *byte = *patch;
    }
}

#[test]
fn a_hostile_file_becomes_a_sound_database_or_nothing() {
    let mut rng = Rng::with_seed(8);
    let mut subject = Subject::new();
    let seeds = seeds();
    let inputs = inputs(300);
    let mut taken = 0;
    for _ in 0..inputs {
        let mut bytes = seeds[rng.usize(..seeds.len())].clone();
        mutate(&mut rng, &mut bytes);
        taken += usize::from(subject.import(&bytes));
    }
    assert!(
        taken > 0 && taken < inputs,
        "{taken} of {inputs} were taken"
    );
}

/// What an application might try.
const ATTEMPTS: [&str; 40] = [
    "ATTACH 'DIR/a' AS a",
    "ATTACH ':memory:' AS m",
    "DETACH main",
    "VACUUM INTO 'DIR/b'",
    "VACUUM",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "END TRANSACTION",
    "ROLLBACK",
    "SAVEPOINT s",
    "RELEASE s",
    "ROLLBACK TO nested",
    "EXPLAIN COMMIT",
    "PRAGMA journal_mode = WAL",
    "PRAGMA journal_mode = OFF",
    "PRAGMA main.locking_mode = NORMAL",
    "PRAGMA writable_schema = ON",
    "PRAGMA writable_schema(RESET)",
    "PRAGMA schema_version = 1",
    "PRAGMA page_size = 512",
    "PRAGMA auto_vacuum = 0",
    "PRAGMA mmap_size = 1000000",
    "PRAGMA temp_store = FILE",
    "PRAGMA temp_store_directory = 'DIR'",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA incremental_vacuum",
    "SELECT * FROM pragma_journal_mode('off')",
    "UPDATE sqlite_schema SET sql = 'CREATE TABLE canary(b)'",
    "DELETE FROM canary",
    "DROP TABLE canary",
    "ALTER TABLE canary RENAME TO other",
    "CREATE TEMP TABLE canary(a)",
    "CREATE TEMP TRIGGER t AFTER DELETE ON main.canary BEGIN SELECT RAISE(ROLLBACK, 'x'); END",
    "INSERT OR ROLLBACK INTO canary VALUES (1), (1)",
    "INSERT OR FAIL INTO canary VALUES (1), (1)",
    "SELECT load_extension('DIR/x')",
    "CREATE TABLE big AS SELECT randomblob(100000)",
    "CREATE VIRTUAL TABLE words USING fts5(a); INSERT INTO words(words) VALUES ('optimize')",
    "SELECT fts3_tokenizer('simple', x'0000000000000000')",
    "CREATE VIRTUAL TABLE c USING dbstat",
];

#[test]
fn no_statement_commits_or_reaches_a_file() {
    let mut rng = Rng::with_seed(9);
    let mut subject = Subject::new();
    for attempt in ATTEMPTS {
        subject.run(attempt);
    }
    for _ in 0..inputs(400) {
        let parts: Vec<_> = (0..rng.usize(1..6))
            .map(|_| ATTEMPTS[rng.usize(..ATTEMPTS.len())])
            .collect();
        let mut sql = parts
            .join(["; ", ";/**/", ";\n-- x\n"][rng.usize(..3)])
            .into_bytes();
        for _ in 0..rng.usize(..3) {
            let at = rng.usize(..sql.len());
            match rng.u8(..3) {
                0 => sql[at] = b" ;'\"()-/*0"[rng.usize(..10)],
                1 => drop(sql.remove(at)),
                _ => sql.truncate(at + 1),
            }
        }
        subject.run(&String::from_utf8(sql).expect("the attempts are ASCII"));
    }
}
