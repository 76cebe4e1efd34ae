//! Random statements on `kv`, on a table and on keys and alarm beside, in savepoints and turns that end either way,
//! against a map and stock SQLite.

use std::collections::BTreeMap;
use std::rc::Rc;

use dovehouse_engine::Alarm;
use dovehouse_engine::wal::sim::{SimFs, first_failure};
use dovehouse_sqlbridge::{Connection, Error, Value};

use crate::common::{Awake, open, wake};
use crate::{keys, open_tight};

/// What is in the object, as the model has it; the table is in stock SQLite beside.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
    due_ms: Option<u64>,
}

struct Run {
    awake: Rc<Awake>,
    shadow: Connection,
    random: fastrand::Rng,
    model: Model,
}

impl Run {
    fn key(&mut self) -> Vec<u8> {
        let alphabet: [&[u8]; 6] = [b"a", b"b", b"\0", b"\xff", "ö".as_bytes(), b"z"];
        let length = self.random.usize(0..4);
        (0..length)
            .flat_map(|_| alphabet[self.random.usize(0..6)])
            .copied()
            .collect()
    }

    fn operand(&mut self, key: &[u8]) -> Value {
        match String::from_utf8(key.to_vec()) {
            Ok(text) if self.random.bool() => text.into(),
            _ => key.into(),
        }
    }

    /// The same statement on both tables.
    fn on_tables(&self, sql: &str, parameters: &[Value]) {
        let ours = self.awake.database.exec(sql, parameters);
        let theirs = self.shadow.exec(sql, parameters);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{sql}: {ours:?}, {theirs:?}");
    }

    fn step(&mut self) {
        let (key, other) = (self.key(), self.key());
        let (a, b) = (self.operand(&key), self.operand(&other));
        // Some are so large that the object crosses to its other form.
        let bytes_max = if self.random.u32(0..10) == 0 {
            40_000
        } else {
            2000
        };
        let value = vec![self.random.u8(..); self.random.usize(0..bytes_max)];
        let database = &self.awake.database;
        let exec = |sql: &str, parameters: &[Value]| database.exec(sql, parameters).map(drop);
        let old = self.model.keys.get(&key).cloned();
        match self.random.u32(0..12) {
            0 => {
                let done = exec("INSERT INTO kv VALUES (?, ?)", &[a, value[..].into()]);
                assert_eq!(done.is_ok(), old.is_none(), "{key:?}");
                self.model.keys.entry(key).or_insert(value);
            }
            1 => {
                exec("REPLACE INTO kv VALUES (?, ?)", &[a, value[..].into()]).unwrap();
                self.model.keys.insert(key, value);
            }
            2 => {
                let sql = "UPDATE kv SET value = ?2 WHERE key >= ?1 AND key < ?3";
                exec(sql, &[a, value[..].into(), b]).unwrap();
                let range = self.model.keys.iter_mut();
                let range = range.filter(|(k, _)| **k >= key && **k < other);
                range.for_each(|(_, old)| old.clone_from(&value));
            }
            3 => {
                let done = exec("UPDATE kv SET key = ? WHERE key = ?", &[b, a]);
                let is_taken = self.model.keys.contains_key(&other) && key != other;
                assert_eq!(done.is_ok(), old.is_none() || !is_taken);
                if let (Some(old), Ok(_)) = (old, done) {
                    self.model.keys.remove(&key);
                    self.model.keys.insert(other, old);
                }
            }
            4 => {
                exec("DELETE FROM kv WHERE key > ? AND key <= ?", &[a, b]).unwrap();
                self.model.keys.retain(|k, _| *k <= key || *k > other);
            }
            // Several keys in one statement, of which the last may be there already.
            5 => {
                let done = exec(
                    "INSERT INTO kv VALUES (?1, ?3), (?2, ?3)",
                    &[a, b, value[..].into()],
                );
                let is_taken = |k| self.model.keys.contains_key(k);
                let fits = key != other && !is_taken(&key) && !is_taken(&other);
                assert_eq!(done.is_ok(), fits);
                if fits {
                    self.model.keys.insert(key, value.clone());
                    self.model.keys.insert(other, value);
                }
            }
            6 => {
                self.awake.object.lock().put(&key, &value).unwrap();
                self.model.keys.insert(key, value);
            }
            7 => {
                self.awake.object.lock().delete(&key).unwrap();
                self.model.keys.remove(&key);
            }
            8 => {
                let due_ms = self.random.u64(1..1000);
                self.awake.object.lock().set_alarm(Alarm {
                    due_ms,
                    ..Alarm::default()
                });
                self.model.due_ms = Some(due_ms);
            }
            9 => self.on_tables("INSERT INTO t VALUES (?, ?)", &[a, value[..].into()]),
            10 => self.on_tables("DELETE FROM t WHERE a >= ?", &[a]),
            _ => self.on_tables("UPDATE t SET b = ? WHERE a < ?", &[value[..].into(), a]),
        }
    }

    fn steps(&mut self, depth: u32) {
        for _ in 0..self.random.u32(1..8) {
            match depth < 3 && self.random.u32(0..4) == 0 {
                true => self.nested(depth + 1),
                false => self.step(),
            }
        }
    }

    /// Steps behind a savepoint, which may be rolled back.
    fn nested(&mut self, depth: u32) {
        let fails = self.random.bool();
        let (awake, before) = (self.awake.clone(), self.model.clone());
        self.shadow
            .exec(&format!("SAVEPOINT s{depth}"), ())
            .unwrap();
        let done: Result<(), Error> = awake.database.transaction(|_| {
            self.steps(depth);
            match fails {
                true => Err(Error::NoDatabase),
                false => Ok(()),
            }
        });
        assert_eq!(done.is_err(), fails);
        if fails {
            self.shadow
                .exec(&format!("ROLLBACK TO s{depth}"), ())
                .unwrap();
            self.model = before;
        }
        self.shadow.exec(&format!("RELEASE s{depth}"), ()).unwrap();
        self.check();
    }

    fn turn(&mut self) {
        let before = self.model.clone();
        self.shadow.exec("BEGIN", ()).unwrap();
        self.steps(0);
        self.check();
        if self.random.u32(0..3) == 0 {
            self.awake.database.rollback();
            self.shadow.exec("ROLLBACK", ()).unwrap();
            self.model = before;
        } else {
            self.awake.commit();
            self.shadow.exec("COMMIT", ()).unwrap();
        }
        self.check();
    }

    fn check(&self) {
        assert_eq!(keys(&self.awake), self.model.keys);
        let rows = self
            .awake
            .database
            .exec("SELECT key, value FROM kv ORDER BY key", ())
            .unwrap()
            .to_vec()
            .unwrap();
        let bytes = |value: &Value| match value {
            Value::Text(text) => text.clone().into_bytes(),
            Value::Blob(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        };
        let rows = rows
            .iter()
            .map(|row| (bytes(&row.values()[0]), bytes(&row.values()[1])));
        assert!(rows.eq(self.model.keys.clone()));
        let alarms = self
            .awake
            .object
            .lock()
            .alarms()
            .first()
            .map(|alarm| alarm.due_ms);
        assert_eq!(alarms, self.model.due_ms);
        let sql = "SELECT a, b FROM t ORDER BY rowid";
        let ours = self.awake.database.exec(sql, ()).unwrap().to_vec();
        let theirs = self.shadow.exec(sql, ()).unwrap().to_vec();
        assert_eq!(ours.unwrap(), theirs.unwrap());
    }
}

fn run(seed: u64) {
    let fs = SimFs::new(seed);
    let (engine, class) = if seed.is_multiple_of(2) {
        open(&fs).unwrap()
    } else {
        open_tight(&fs)
    };
    let awake = wake(&engine, class, 1);
    let dir = tempfile::tempdir().unwrap();
    let shadow = Connection::open_file(&dir.path().join("shadow.sqlite")).unwrap();
    shadow
        .exec("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY", ())
        .unwrap();
    awake.run("PRAGMA cache_size = 5");
    let mut run = Run {
        awake: Rc::new(awake),
        shadow,
        random: fastrand::Rng::with_seed(seed),
        model: Model::default(),
    };
    run.on_tables("CREATE TABLE t(a UNIQUE, b)", &[]);
    run.awake.commit();
    for _ in 0..12 {
        run.turn();
    }
    run.awake.assert_whole();
    // Closed first: an object has one owner.
    let Run {
        awake,
        shadow,
        random,
        model,
    } = run;
    drop((awake, engine));
    let (engine, _) = open(&fs.power_loss()).unwrap();
    let awake = Rc::new(wake(&engine, class, 1));
    let run = Run {
        awake,
        shadow,
        random,
        model,
    };
    run.check();
    run.awake.assert_whole();
}

#[test]
fn keys_and_tables_are_what_a_map_and_stock_sqlite_say_through_savepoints_and_after_reopening() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(40),
    };
    let run = |seed| {
        run(seed);
        Ok(())
    };
    if let Some((seed, error)) = first_failure(seeds, run) {
        panic!(
            "seed {seed}: {error}\nreplay: SEED={seed} cargo test -p dovehouse-sqlbridge --test kv_table"
        );
    }
}
