//! Mistake 11: dictionaries that are lost, overwritten, or shared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{ClassId, Decoded, Engine, Error, Teeth};

mod common;

use common::{builder, put, value};

/// Objects of two tenants that look alike, until both classes have had several dictionaries.
fn filled(fs: &SimFs) -> Engine {
    let engine = builder(fs, Teeth::default()).open().unwrap();
    let classes = ["ada", "ben"].map(|tenant| engine.class_of(tenant, "Room").unwrap());
    let mut rng = fastrand::Rng::with_seed(11);
    for round in 0..3 {
        for number in 0..60 {
            let class = classes[usize::from(number % 2)];
            put(
                &engine,
                class,
                number,
                content(number, round, &mut rng).as_bytes(),
            );
            if number % 10 == 9 {
                engine.keep_up().unwrap();
            }
        }
        engine.compact().unwrap();
    }
    engine
}

/// What objects hold changes from round to round, so that dictionaries wear out.
fn content(number: u8, round: usize, rng: &mut fastrand::Rng) -> String {
    let words = [
        "the guests of this room",
        "9281 4433 0012 7765",
        "<ul><li>a</li></ul>",
    ];
    format!(
        "{number} {} {} {}",
        words[round].repeat(6),
        rng.u64(..),
        words[round]
    )
}

fn states(engine: &Engine) -> BTreeMap<u8, Result<Option<Vec<u8>>, Error>> {
    let classes = ["ada", "ben"].map(|tenant| engine.class_of(tenant, "Room").unwrap());
    let read = |number: u8| {
        (
            number,
            value(engine, classes[usize::from(number % 2)], number),
        )
    };
    (0..60).map(read).collect()
}

/// Which dictionary the records of each class name.
fn named(engine: &Engine) -> Vec<(u32, ClassId)> {
    let mut found = Vec::new();
    for segment in engine.log().segments() {
        for batch in engine.log().batches(&segment) {
            for record in batch.unwrap().records() {
                match Decoded::of(&record) {
                    Decoded::Image {
                        header, dictionary, ..
                    } => found.push((dictionary, header.class)),
                    Decoded::Group {
                        members,
                        dictionary,
                        ..
                    } => {
                        found.extend(members.iter().map(|(header, _)| (dictionary, header.class)));
                    }
                    _ => {}
                }
            }
        }
    }
    found.retain(|(dictionary, _)| *dictionary > 0);
    found.sort();
    found.dedup();
    found
}

fn dictionary_files(fs: &SimFs) -> Vec<PathBuf> {
    let mut names = fs.list(Path::new("store")).unwrap();
    names.retain(|name| name.starts_with("dictionary-"));
    names
        .iter()
        .map(|name| Path::new("store").join(name))
        .collect()
}

#[test]
fn no_tenant_is_compressed_with_what_another_one_wrote() {
    let engine = filled(&SimFs::new(60));
    let stats = engine.stats().dictionaries;
    assert!(stats.len() > 2, "they were replaced: {stats:?}");
    let named = named(&engine);
    assert!(named.len() > 1, "they are used: {named:?}");
    for (number, class) in named {
        let dictionary = stats.iter().find(|stats| stats.number == number).unwrap();
        assert_eq!(dictionary.class, class, "dictionary {number}");
    }
}

#[test]
fn either_copy_of_each_dictionary_may_rot_and_both_cost_only_what_names_it() {
    let fs = SimFs::new(61);
    let engine = filled(&fs);
    let before = states(&engine);
    engine.close().unwrap();
    let files = dictionary_files(&fs);
    let mut lost = 0;
    for file in files {
        let middle = fs.content(&file).unwrap().len() as u64 / 2;
        for hurt in [vec![60], vec![middle + 60], vec![60, middle + 60]] {
            let fs = fs.process_death();
            hurt.iter()
                .for_each(|at| fs.rot(&file, *at, |byte| *byte ^= 1));
            let engine = builder(&fs, Teeth::default()).open().unwrap();
            for (number, state) in states(&engine) {
                match state {
                    Ok(state) => assert_eq!(Some(&state), before[&number].as_ref().ok()),
                    Err(error) => {
                        assert!(matches!(error, Error::Damaged { .. }), "{error}");
                        assert_eq!(hurt.len(), 2, "{error}");
                        lost += 1;
                    }
                }
            }
        }
    }
    assert!((1..120).contains(&lost), "{lost} reads failed");
}
