//! One large map of keys: bulk load in order, durable commits of one key, reads in any order, a scan.
//!
//! dovehouse holds it as one object. The others hold it as they hold anything: one table.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dovehouse_engine as dovehouse;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use rocksdb::{DB, IteratorMode, WriteBatch, WriteOptions};
use rusqlite::Connection;

use super::Run;
use crate::files;
use crate::output::{Section, median, number};
use crate::peers::{Engine, sqlite};

/// Keys for each object of the other workloads.
const KEYS_PER_OBJECT: u64 = 10;
/// Keys in one transaction of the load.
const LOAD_KEYS: u64 = 20_000;
const GETS: u64 = 100_000;
const CACHE_BYTES: usize = 256 << 20;
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");

/// A store of one map.
trait Map {
    /// Sets keys, durably, in one transaction.
    fn put(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;
    /// The bytes of a value.
    fn get(&self, key: &[u8]) -> Result<Option<usize>>;
    /// How many keys there are, by reading all of them.
    fn scan(&self) -> Result<u64>;
}

struct Object(
    dovehouse::Object,
    #[expect(dead_code, reason = "it is kept open")] dovehouse::Engine,
);

impl Map for Object {
    fn put(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        for (key, value) in rows {
            self.0.put(key, value)?;
        }
        self.0.commit()?.context("something changed")?.wait()?;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.0.get(key)?.map(|value| value.len()))
    }

    fn scan(&self) -> Result<u64> {
        let mut count = 0;
        for listed in self.0.list(&dovehouse::List::all()) {
            count += u64::from(!listed?.1.is_empty());
        }
        Ok(count)
    }
}

impl Map for Connection {
    fn put(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
        sqlite::write(self, rows)
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let mut out = Vec::new();
        Ok(sqlite::read(self, key, &mut out)?.then_some(out.len()))
    }

    fn scan(&self) -> Result<u64> {
        let mut all = self.prepare("SELECT key, value FROM kv ORDER BY key")?;
        let mut rows = all.query([])?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += u64::from(!row.get_ref(1)?.as_blob()?.is_empty());
        }
        Ok(count)
    }
}

impl Map for Database {
    fn put(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut transaction = self.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(TABLE)?;
        for (key, value) in rows {
            table.insert(&key[..], &value[..])?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        let table = self.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| value.value().len()))
    }

    fn scan(&self) -> Result<u64> {
        let table = self.begin_read()?.open_table(TABLE)?;
        let mut count = 0;
        for row in table.iter()? {
            count += u64::from(!row?.1.value().is_empty());
        }
        Ok(count)
    }
}

impl Map for DB {
    fn put(&mut self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put(key, value);
        }
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        Ok(self.write_opt(batch, &durable)?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<usize>> {
        Ok(self.get_pinned(key)?.map(|value| value.len()))
    }

    fn scan(&self) -> Result<u64> {
        let mut count = 0;
        for row in self.iterator(IteratorMode::Start) {
            count += u64::from(!row?.1.is_empty());
        }
        Ok(count)
    }
}

fn open(engine: Engine, dir: &Path) -> Result<Option<Box<dyn Map>>> {
    std::fs::create_dir_all(dir)?;
    Ok(Some(match engine {
        Engine::Dovehouse => {
            // An eighth of it is the cache of what was read.
            let builder = dovehouse::Engine::builder(dir).memory_bytes(8 * CACHE_BYTES as u64);
            let opened = builder.open()?;
            let class = opened.class("Big")?;
            let object = opened.wake(class, dovehouse::ObjectId::from_bytes([1; 32]))?;
            Box::new(Object(object, opened))
        }
        Engine::SqliteOne => Box::new(sqlite::open(&dir.join("all.sqlite"), CACHE_BYTES >> 10)?),
        Engine::Redb => {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            Box::new(builder.create(dir.join("all.redb"))?)
        }
        Engine::Rocksdb => Box::new(DB::open(&crate::peers::rocksdb_options(), dir)?),
        _ => return Ok(None),
    }))
}

struct Found {
    load_per_s: f64,
    commit_us: f64,
    get_us: f64,
    scan_per_s: f64,
    bytes_per_key: f64,
}

fn rows(seed: u64, numbers: std::ops::Range<u64>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let row = |number: u64| {
        let mut value = vec![b' '; 100];
        fastrand::Rng::with_seed(seed ^ number).fill(&mut value[..60]);
        (format!("entry:{number:012}").into_bytes(), value)
    };
    numbers.map(row).collect()
}

fn measure(run: &Run, engine: Engine, round: usize) -> Result<Option<Found>> {
    let keys = run.objects * KEYS_PER_OBJECT;
    let dir = run.dir.join(format!("big-{}-{round}", engine.name()));
    files::quiesce(&run.dir)?;
    let Some(mut map) = open(engine, &dir)? else {
        return Ok(None);
    };
    let mut load = Duration::ZERO;
    for from in (0..keys).step_by(LOAD_KEYS as usize) {
        let some = rows(run.seed, from..keys.min(from + LOAD_KEYS));
        let start = Instant::now();
        map.put(&some)?;
        load += start.elapsed();
    }
    let mut rng = fastrand::Rng::with_seed(run.seed + round as u64);
    let mut commits = Vec::new();
    let start = Instant::now();
    while start.elapsed() < run.time {
        let number = rng.u64(..keys);
        // Other bytes each time: what is the same is no commit.
        let one = rows(run.seed + 1 + commits.len() as u64, number..number + 1);
        let start = Instant::now();
        map.put(&one)?;
        commits.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let wanted: Vec<Vec<u8>> = (0..GETS)
        .map(|_| format!("entry:{:012}", rng.u64(..keys)).into_bytes())
        .collect();
    let start = Instant::now();
    for key in &wanted {
        ensure!(map.get(key)? == Some(100), "a key is lost");
    }
    let gets = start.elapsed();
    let start = Instant::now();
    ensure!(map.scan()? == keys, "a scan has not all keys");
    let scan = start.elapsed();
    drop(map);
    let bytes = files::disk_bytes(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(Some(Found {
        load_per_s: keys as f64 / load.as_secs_f64(),
        commit_us: median(commits).context("there were commits")?,
        get_us: gets.as_secs_f64() * 1e6 / GETS as f64,
        scan_per_s: keys as f64 / scan.as_secs_f64(),
        bytes_per_key: bytes as f64 / keys as f64,
    }))
}

pub fn run(run: &Run) -> Result<Section> {
    let found = run.interleave("big", run.rounds, |engine, round| {
        measure(run, engine, round)
    })?;
    let rows = found.iter().filter_map(|(engine, samples)| {
        let samples: Vec<&Found> = samples.iter().flatten().collect();
        samples.first()?;
        let of =
            |field: fn(&Found) -> f64| median(samples.iter().map(|found| field(found))).map(number);
        Some(vec![
            engine.name().into(),
            of(|found| found.load_per_s).into(),
            of(|found| found.commit_us).into(),
            of(|found| found.get_us).into(),
            of(|found| found.scan_per_s).into(),
            of(|found| found.bytes_per_key).into(),
        ])
    });
    Ok(Section {
        name: "big",
        title: format!(
            "One map of {} keys of 118 bytes, medians of {} rounds",
            run.objects * KEYS_PER_OBJECT,
            run.rounds
        ),
        columns: &[
            "engine",
            "loaded_per_s",
            "commit_of_one_us",
            "get_us",
            "scanned_per_s",
            "file_bytes_per_key",
        ],
        rows: rows.collect(),
    })
}
