//! Tests of the tables as a whole: what is read, what merges and crashes leave.

mod damage;
mod measure;

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use dovehouse_wal::fs::Fs;
use dovehouse_wal::sim::{Failure, Fault, Operation, SimFs};
use fastrand::Rng;
use parking_lot::Mutex;

use super::testing::{Model, add, all, any_key, dir, entries, facts, key, listing, open, together};
use super::{Facts, Listing, Tables};
use crate::error::Error;
use crate::history::key::Key;
use crate::id::ClassId;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn numbers(tables: &Tables) -> Vec<u32> {
    tables
        .members()
        .iter()
        .map(|member| member.number)
        .collect()
}

#[test]
fn a_range_is_that_of_a_map_in_which_the_oldest_table_counts() {
    let mut rng = Rng::with_seed(2);
    let fs = SimFs::new(2);
    let tables = open(&fs, &Listing::default());
    let mut models = Vec::new();
    for round in 0..5 {
        models.push(entries(&mut rng, 300));
        add(&tables, facts(1 + round), &models[round as usize]);
    }
    let model = together(&models);
    let reopened = open(&fs, &listing(&tables));
    for tables in [&tables, &reopened] {
        assert!(all(tables).unwrap() == model);
        for _ in 0..500 {
            let mut keys = [any_key(&mut rng), any_key(&mut rng)];
            keys.sort();
            let start = match rng.bool() {
                true => Bound::Included(keys[0]),
                false => Bound::Excluded(keys[0]),
            };
            let end = match rng.u8(0..3) {
                0 => Bound::Included(keys[1]),
                1 if keys[0] < keys[1] => Bound::Excluded(keys[1]),
                _ => Bound::Unbounded,
            };
            let count = rng.usize(1..50);
            let found: Result<Vec<_>, _> = tables.range((start, end)).take(count).collect();
            let expected = model.range((start, end)).take(count);
            let expected: Vec<_> = expected.map(|(key, value)| (*key, value.clone())).collect();
            assert!(found.unwrap() == expected, "{start:?} {end:?}");
        }
    }
}

#[test]
fn a_lookup_reads_no_table_without_the_object_and_none_but_the_first_block() {
    let fs = SimFs::new(3);
    let tables = open(&fs, &Listing::default());
    let value = |n: u64| (n * 0x9E37_79B9).to_le_bytes().repeat(100);
    let of = |slot: u64| (1..2000).map(|n| (key(slot, n), value(n))).collect();
    for slot in [1, 3, 5] {
        add(&tables, facts(slot), &of(slot));
    }
    let reads_fail = |after| {
        fs.clear_faults();
        fs.inject(Fault {
            operation: Operation::Read,
            name: "history",
            after,
            failure: Failure::Eio,
            lasting: true,
        });
    };
    reads_fail(0);
    assert_eq!(tables.range(key(2, 0)..key(3, 0)).count(), 0);
    reads_fail(1);
    let mut range = tables.range(key(3, 7)..=key(3, 1_000_000));
    assert_eq!(range.next().unwrap().unwrap(), (key(3, 7), value(7)));
    assert_eq!(range.next().unwrap().unwrap(), (key(3, 8), value(8)));
    assert!(range.last().unwrap().is_err(), "the second block");
    reads_fail(0);
    let again = tables.range(key(3, 7)..).next().unwrap().unwrap();
    assert_eq!(again.0, key(3, 7), "the block is in memory");
}

#[test]
fn large_values_come_back_and_too_large_ones_leave_no_file() {
    let fs = SimFs::new(4);
    let tables = open(&fs, &Listing::default());
    let mut rng = Rng::with_seed(4);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..))
        .take(4 << 20)
        .collect();
    let model: Model = [
        (key(1, 1), b"small".to_vec()),
        (key(1, 2), noise.clone()),
        (key(1, 3), vec![7; 8 << 20]),
        (key(2, 1), Vec::new()),
    ]
    .into();
    add(&tables, facts(1), &model);
    let tables = open(&fs, &listing(&tables));
    assert!(all(&tables).unwrap() == model);
    assert_eq!(tables.range(key(2, 0)..).count(), 1);
    let too_large = vec![0; (8 << 20) + 1];
    let result = tables.add(facts(2), [Ok((key(1, 4), too_large))].into_iter());
    assert!(matches!(result, Err(Error::TooBig { .. })), "{result:?}");
    assert_eq!(fs.list(&dir()).unwrap(), ["history-00000001"]);
    tables.add(facts(2), std::iter::empty()).unwrap();
    assert_eq!(numbers(&tables), [1]);
}

#[test]
fn merges_and_drops_keep_what_a_map_has() {
    let mut rng = Rng::with_seed(5);
    let fs = SimFs::new(5);
    let tables = open(&fs, &Listing::default());
    // One map for each table that was added and not dropped, with its time.
    let mut models: VecDeque<(u64, Model)> = VecDeque::new();
    let mut now_ms = DAY_MS;
    let mut merged = 0;
    for round in 0..120 {
        now_ms += rng.u64(1..DAY_MS / 8);
        let count = rng.usize(1..120);
        models.push_back((now_ms, entries(&mut rng, count)));
        add(&tables, facts(now_ms), &models.back().unwrap().1);
        while rng.bool() && tables.merge_one(now_ms).unwrap() {
            merged += 1;
        }
        if rng.u8(0..10) == 0 {
            let before = now_ms / DAY_MS * DAY_MS - DAY_MS * 2;
            tables.drop_where(|facts| facts.last_ms < before);
            models.retain(|(last_ms, _)| *last_ms >= before);
        }
        if round % 10 == 0 {
            assert!(all(&tables).unwrap() == together(models.iter().map(|model| &model.1)));
        }
    }
    assert!(merged > 20, "{merged}");
    while tables.merge_one(now_ms + DAY_MS).unwrap() {}
    let model = together(models.iter().map(|model| &model.1));
    assert!(all(&tables).unwrap() == model);
    let days: Vec<_> = tables
        .members()
        .iter()
        .map(|member| member.facts.last_ms / DAY_MS)
        .collect();
    assert!(
        days.is_sorted_by(|one, next| one < next),
        "one table a day: {days:?}"
    );

    let files = fs.list(&dir()).unwrap().len();
    let saved = listing(&tables);
    assert!(tables.remove_dropped().unwrap() > 20);
    assert!(files > fs.list(&dir()).unwrap().len());
    assert_eq!(fs.list(&dir()).unwrap().len(), days.len());
    assert!(all(&open(&fs, &saved)).unwrap() == model);
}

#[test]
fn a_table_is_written_anew_in_its_place_and_drops_out_when_nothing_remains() {
    let fs = SimFs::new(6);
    let tables = open(&fs, &Listing::default());
    let mut rng = Rng::with_seed(6);
    let models: Vec<_> = (0..4).map(|_| entries(&mut rng, 100)).collect();
    for (group, model) in (0..).zip(&models) {
        let facts = Facts { group, ..facts(1) };
        add(&tables, facts, model);
    }
    let wanted = |key: &Key| key.slot.get().is_multiple_of(2);
    let rewrite = |group| {
        let is_wanted = |facts: &Facts| facts.group == group;
        let keep =
            |entry: &crate::error::Result<(Key, Vec<u8>)>| wanted(&entry.as_ref().unwrap().0);
        tables
            .rewrite_one(
                is_wanted,
                |_| 9,
                |entries| entries.filter(keep),
                |_| Some(()),
            )
            .unwrap()
    };
    assert!(rewrite(1));
    assert!(!rewrite(1), "it is of another group now");
    let mut rest = models.clone();
    rest[1].retain(|key, _| wanted(key));
    assert!(
        all(&tables).unwrap() == together(&rest),
        "older ones still count first"
    );
    assert_eq!(numbers(&tables), [1, 5, 3, 4]);
    let is_last = |facts: &Facts| facts.group == 3;
    let empty_last = |may: Option<()>| {
        let rewritten = tables.rewrite_one(is_last, |_| 9, |_| std::iter::empty(), |_| may);
        assert!(rewritten.unwrap());
    };
    empty_last(None);
    assert_eq!(numbers(&tables), [1, 5, 3, 4], "it was refused");
    empty_last(Some(()));
    assert_eq!(numbers(&tables), [1, 5, 3]);
}

#[test]
fn what_must_keep_its_place_in_the_order_of_age_is_not_merged() {
    let fs = SimFs::new(7);
    let tables = open(&fs, &Listing::default());
    let of = |group, class, last_ms| Facts {
        group,
        classes: [ClassId(class)].into(),
        ..facts(last_ms)
    };
    let model: Model = [(key(1, 1), vec![1])].into();
    for _ in 0..3 {
        add(&tables, of(1, 1, 5), &model);
        add(&tables, of(2, 2, 5), &model);
    }
    assert!(!tables.merge_one(5).unwrap(), "too few");
    // Class 2 changes its group.
    add(&tables, of(1, 2, 6), &model);
    assert!(!tables.merge_one(6).unwrap(), "group 2 has class 2, too");
    add(&tables, of(1, 1, 7), &model);
    assert!(!tables.merge_one(7).unwrap());
    add(&tables, of(2, 1, 8), &model);
    assert!(!tables.merge_one(8).unwrap(), "group 1 has class 1, too");
    // The next day.
    add(&tables, of(1, 1, DAY_MS), &model);
    let merges = || std::iter::from_fn(|| tables.merge_one(DAY_MS).unwrap().then_some(()));
    assert_eq!(merges().count(), 3);
    let shown: Vec<_> = tables
        .members()
        .iter()
        .map(|member| (member.facts.group, member.facts.last_ms))
        .collect();
    assert_eq!(shown, [(1, 5), (2, 5), (1, 7), (2, 8), (1, DAY_MS)]);
}

#[test]
fn a_crash_at_any_moment_leaves_what_the_manifest_names_and_nothing_else() {
    for seed in 0..3 {
        let mut rng = Rng::with_seed(seed);
        let fs = SimFs::new(seed);
        let tables = open(&fs, &Listing::default());
        // What the manifest on disk says, and what is in the tables that it names.
        let saved = Arc::new(Mutex::new((Listing::default(), Model::new())));
        let crashes = Arc::new(Mutex::new(0));
        let (of_hook, count) = (saved.clone(), crashes.clone());
        fs.on_operation(move |crashed| {
            let (listing, model) = &*of_hook.lock();
            for left in [crashed.power_loss(), crashed.process_death().power_loss()] {
                let tables = open(&left, listing);
                assert!(all(&tables).unwrap() == *model);
                let names = left.list(&dir()).unwrap();
                assert_eq!(names.len(), tables.members().len(), "{names:?}");
                *count.lock() += 1;
            }
        });
        let mut models: Vec<(u64, Model)> = Vec::new();
        for round in 1..30 {
            match rng.u8(0..8) {
                0..4 => {
                    let model = entries(&mut rng, 30);
                    add(&tables, facts(round), &model);
                    models.push((round, model));
                }
                4..6 => {
                    tables.merge_one(0).unwrap();
                }
                6 => {
                    let before = round.saturating_sub(15);
                    let mut dropped = 0;
                    tables.drop_where(|facts| {
                        let is_over = facts.last_ms < before;
                        dropped = dropped.max(if is_over { facts.last_ms } else { 0 });
                        is_over
                    });
                    models.retain(|(last_ms, _)| *last_ms > dropped);
                }
                _ => {}
            }
            if rng.bool() {
                let listing = listing(&tables);
                let model = together(models.iter().map(|model| &model.1));
                if rng.bool() {
                    // What it takes out is named by the manifest in the making.
                    tables.merge_one(DAY_MS).unwrap();
                }
                if rng.bool() {
                    *saved.lock() = (listing, model);
                    tables.remove_dropped().unwrap();
                }
            }
        }
        fs.clear_hook();
        assert!(*crashes.lock() > 50, "{}", crashes.lock());
    }
}
