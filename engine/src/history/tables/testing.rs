//! What tests of the tables share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dovehouse_wal::Access;
use dovehouse_wal::bytes::Reader;
use dovehouse_wal::fs::Fs;
use fastrand::Rng;

use super::{Facts, Listing, Tables};
use crate::big::BlockId;
use crate::error::Result;
use crate::history::key::{Key, What};
use crate::id::{ClassId, Slot};

pub(crate) type Model = BTreeMap<Key, Vec<u8>>;

pub(crate) fn key(slot: u64, seq: u64) -> Key {
    Key {
        slot: Slot::new(slot).unwrap(),
        generation: 0,
        what: What::Commit,
        seq,
    }
}

/// A key of few, so that several tables have the same ones.
pub(crate) fn any_key(rng: &mut Rng) -> Key {
    let block = BlockId {
        file: rng.u8(0..2),
        number: rng.u32(0..3),
    };
    Key {
        slot: Slot::new(rng.u64(1..20)).unwrap(),
        generation: rng.u8(0..2),
        what: *rng
            .choice(&[What::Commit, What::End, What::Block(block)])
            .unwrap(),
        seq: rng.u64(0..40),
    }
}

/// Some entries, here and there with a large value.
pub(crate) fn entries(rng: &mut Rng, count: usize) -> Model {
    let value = |rng: &mut Rng| {
        let len = match rng.u8(0..40) {
            0 => rng.usize(0..100_000),
            _ => rng.usize(0..300),
        };
        let byte = rng.u8(..);
        (0..len)
            .map(|at| if at % 3 == 0 { byte } else { rng.u8(..) })
            .collect()
    };
    (0..count).map(|_| (any_key(rng), value(rng))).collect()
}

pub(crate) fn facts(last_ms: u64) -> Facts {
    Facts {
        group: 1,
        classes: [ClassId(1)].into(),
        first_ms: last_ms - 1,
        last_ms,
    }
}

pub(crate) const STORE_ID: u128 = 9;

pub(crate) fn dir() -> PathBuf {
    Path::new("store").to_owned()
}

pub(crate) fn open(fs: &(impl Fs + Clone + 'static), listing: &Listing) -> Tables {
    Tables::open(
        Arc::new(fs.clone()),
        dir(),
        STORE_ID,
        Access::Write,
        listing,
    )
    .unwrap()
}

pub(crate) fn add(tables: &Tables, facts: Facts, entries: &Model) {
    let entries = entries.iter().map(|(key, value)| Ok((*key, value.clone())));
    tables.add(facts, entries).unwrap();
}

pub(crate) fn listing(tables: &Tables) -> Listing {
    let mut bytes = Vec::new();
    tables.encode(&mut bytes);
    let mut reader = Reader::new(&bytes);
    let listing = Listing::decode(&mut reader).unwrap();
    assert!(reader.is_empty());
    listing
}

/// The entries of models, of which the older one counts.
pub(crate) fn together<'a>(models: impl IntoIterator<Item = &'a Model>) -> Model {
    let mut all = Model::new();
    for (key, value) in models.into_iter().flatten() {
        all.entry(*key).or_insert_with(|| value.clone());
    }
    all
}

pub(crate) fn all(tables: &Tables) -> Result<Model> {
    tables.range(..).collect()
}
