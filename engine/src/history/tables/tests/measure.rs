//! What entries cost on the disk and what looking one up costs: figures to read, not to check.
//!
//! `cargo test -p dovehouse-engine --lib history::tables -- --ignored --nocapture`

use std::sync::Arc;

use dovehouse_wal::Access;
use dovehouse_wal::fs::{Fs, RealFs};
use fastrand::Rng;

use super::super::testing::{STORE_ID, facts, key};
use super::super::{Listing, Tables};
use crate::history::key::Key;

/// A document of about a hundred bytes, of which each commit changes some.
fn document(rng: &mut Rng, object: u64, commit: u64) -> Vec<u8> {
    let text = format!(
        r#"{{"user":"user-{object}","visits":{commit},"score":{},"page":"/articles/{}","state":"open"}}"#,
        rng.u32(0..1000),
        commit / 7,
    );
    text.into_bytes()
}

fn measure(what: &str, objects: u64, commits: u64) {
    let dir = tempfile::tempdir().unwrap();
    let fs = RealFs;
    let tables = Tables::open(
        Arc::new(fs),
        dir.path().to_owned(),
        STORE_ID,
        Access::Write,
        &Listing::default(),
    )
    .unwrap();
    let mut rng = Rng::with_seed(1);
    let mut raw = 0;
    let keys = (1..=objects).flat_map(|object| (1..=commits).map(move |n| (object, n)));
    let entries = keys.map(|(object, n)| {
        let value = document(&mut rng, object, n);
        raw += value.len();
        Ok((key(object, n), value))
    });
    let began = fs.elapsed_us();
    tables.add(facts(1), entries).unwrap();
    let written_us = fs.elapsed_us() - began;
    let members = tables.members();
    let table = members[0].table.as_ref().unwrap();
    let count = (objects * commits) as f64;
    println!(
        "{what}: value {:.0} bytes, on disk {:.1}, in memory {:.3}; written at {:.1} MB/s of values",
        raw as f64 / count,
        table.bytes as f64 / count,
        table.memory_bytes() as f64 / count,
        raw as f64 / written_us as f64,
    );
    let mut lookup = |what: &str, key: &mut dyn FnMut(&mut Rng) -> Key| {
        const LOOKUPS: u64 = 5000;
        let began = fs.elapsed_us();
        for _ in 0..LOOKUPS {
            let key = key(&mut rng);
            let found = tables.range(key..).next().unwrap().unwrap();
            assert_eq!(found.0, key);
        }
        let us = (fs.elapsed_us() - began) as f64 / LOOKUPS as f64;
        println!("  {what}: {us:.1} µs");
    };
    lookup("a lookup anywhere", &mut |rng| {
        key(rng.u64(1..=objects), rng.u64(1..=commits))
    });
    lookup("a lookup in a block in memory", &mut |rng| {
        key(1, rng.u64(1..=commits.min(300)))
    });
    let began = fs.elapsed_us();
    assert_eq!(tables.range(..).count() as u64, objects * commits);
    let us = (fs.elapsed_us() - began) as f64 / count;
    println!("  a walk over all: {us:.2} µs an entry");
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    measure("one object, 200,000 commits", 1, 200_000);
    measure("2,000 objects, 100 commits each", 2_000, 100);
    measure("200,000 objects, a commit each", 200_000, 1);
}
