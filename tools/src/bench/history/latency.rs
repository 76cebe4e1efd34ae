//! How long it takes to look up a bookmark, to read what an object was, to restore it, and to fork it.

use std::path::Path;
use std::time::Instant;

use dovehouse_engine::{Engine, List, Object, ObjectId, PAGE_BYTES};
use serde_json::{Map, Value};

use super::super::{Kind, Run, big, content, histogram, record};
use super::month::KEYS;
use super::sizes::settle;
use crate::exit::Failure;
use crate::output;

/// An object of a size, the commits behind it one after the other, and how many samples are taken.
struct Size {
    name: &'static str,
    /// 0 for one of keys.
    pages: u32,
    commits: &'static [u64],
    looks: u64,
    restores: u64,
    forks: u64,
}

const SIZES: [Size; 3] = [
    Size {
        name: "1kb",
        pages: 0,
        commits: &[10, 10_000, 1_000_000],
        looks: 1000,
        restores: 200,
        forks: 200,
    },
    Size {
        name: "1mb",
        pages: (1 << 20) / PAGE_BYTES as u32,
        commits: &[10, 10_000, 1_000_000],
        looks: 1000,
        restores: 50,
        forks: 50,
    },
    Size {
        name: "1gb",
        pages: (1 << 30) / PAGE_BYTES as u32,
        commits: &[10, 10_000, 1_000_000],
        looks: 200,
        restores: 5,
        forks: 50,
    },
];

const QUICK_SIZES: usize = 2;
const QUICK_COMMITS: u64 = 10_000;
/// One transaction of a load.
const LOAD_PAGES: u32 = 16 << 10;
/// Commits under way at once.
const UNDER_WAY: u64 = 64;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let sizes = if run.quick { QUICK_SIZES } else { SIZES.len() };
    for size in &SIZES[..sizes] {
        for commits in size.commits {
            if run.quick && *commits > QUICK_COMMITS {
                continue;
            }
            let dir = run.dir.join("latency");
            let measured = measure(&dir, run.seed, size, *commits)?;
            run.note(&format!("{}_{commits}_commits", size.name), measured);
            std::fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn measure(
    dir: &Path,
    seed: u64,
    size: &Size,
    commits: u64,
) -> Result<Map<String, Value>, Failure> {
    let engine = Engine::open(dir)?;
    let class = engine.class("Bench")?;
    let id = content::id(seed, 0);
    let mut object = engine.wake(class, id)?;
    let mut rng = fastrand::Rng::with_seed(seed);
    load(&mut object, seed, size)?;
    let from_ms = engine.now_ms();
    update(&mut object, seed, size, commits, &mut rng)?;
    let to_ms = engine.now_ms();
    settle(&engine)?;
    let mut measured = Map::new();
    measured.insert(
        "history_bytes".into(),
        engine.stats().history.table_bytes.into(),
    );

    let (mut lookups, mut reads) = (histogram(), histogram());
    for _ in 0..size.looks {
        let then = rng.u64(from_ms..=to_ms);
        let start = Instant::now();
        let bookmark = engine.bookmark_at(&id, then)?;
        record(&mut lookups, start.elapsed());
        let start = Instant::now();
        let past = engine.past(&id, &bookmark)?;
        let found = match size.pages {
            0 => past.list(&List::all()).next().transpose()?.is_some(),
            _ => past.page(1)?.is_some(),
        };
        record(&mut reads, start.elapsed());
        assert!(found, "it has never been without");
    }
    let bar = output::progress(size.restores + size.forks, "restores and forks");
    let (mut restores, mut forks) = (histogram(), histogram());
    for _ in 0..size.restores {
        let bookmark = engine.bookmark_at(&id, rng.u64(from_ms..=to_ms))?;
        let start = Instant::now();
        object.restore(&bookmark, false)?;
        content::wait(object.commit()?)?;
        record(&mut restores, start.elapsed());
        bar.inc(1);
    }
    for number in 1..=size.forks {
        let bookmark = engine.bookmark_at(&id, rng.u64(from_ms..=to_ms))?;
        let to: ObjectId = content::id(seed, number);
        let start = Instant::now();
        content::wait(engine.fork(&id, &bookmark, to, false)?)?;
        record(&mut forks, start.elapsed());
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (name, times) in [
        ("bookmark_at", &lookups),
        ("past_read", &reads),
        ("restore", &restores),
        ("fork", &forks),
    ] {
        for (quantile, part) in [(0.5, "p50_us"), (0.99, "p99_us")] {
            let us = times.value_at_quantile(quantile) as f64 / 1000.0;
            measured.insert(format!("{name}_{part}"), us.round().into());
        }
        measured.insert(format!("{name}_samples"), times.len().into());
    }
    drop(object);
    engine.close()?;
    Ok(measured)
}

fn load(object: &mut Object, seed: u64, size: &Size) -> Result<(), Failure> {
    if size.pages == 0 {
        let mut rng = fastrand::Rng::with_seed(!seed);
        for entry in 0..KEYS {
            content::put(object, Kind::Kv, &mut rng, 0, entry)?;
        }
    }
    for number in 1..=size.pages {
        object.write_page(number, &big::page(seed, number, 0))?;
        if number % LOAD_PAGES == 0 {
            content::wait(object.commit()?)?;
        }
    }
    content::wait(object.commit()?)
}

fn update(
    object: &mut Object,
    seed: u64,
    size: &Size,
    commits: u64,
    rng: &mut fastrand::Rng,
) -> Result<(), Failure> {
    let bar = output::progress(commits, "commits");
    for round in 1..=commits {
        match size.pages {
            0 => {
                let entry = rng.usize(..KEYS);
                content::put(object, Kind::Kv, rng, 0, entry)?;
            }
            pages => {
                let number = rng.u32(1..=pages);
                object.write_page(number, &big::page(seed, number, round))?;
            }
        }
        let ticket = object.commit()?;
        if round % UNDER_WAY == 0 || round == commits {
            content::wait(ticket)?;
            bar.set_position(round);
        }
    }
    bar.finish_and_clear();
    Ok(())
}
