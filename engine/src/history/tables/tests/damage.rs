//! What damage, failures and leftovers do to tables.

use std::sync::Arc;

use dovehouse_wal::Access;
use dovehouse_wal::bytes::Reader;
use dovehouse_wal::fs::{Fs, Mode};
use dovehouse_wal::sim::{Failure, Fault, Operation, SimFs};
use fastrand::Rng;

use super::super::testing::{Model, STORE_ID, add, all, dir, entries, facts, key, listing, open};
use super::super::{Listing, Tables};
use super::numbers;
use crate::error::Error;

#[test]
fn a_failed_write_changes_nothing_and_its_number_is_not_given_again() {
    let fs = SimFs::new(8);
    let tables = open(&fs, &Listing::default());
    let model: Model = [(key(1, 1), vec![1; 1000])].into();
    add(&tables, facts(1), &model);
    for (operation, failure) in [
        (Operation::Write, Failure::Enospc),
        (Operation::Write, Failure::Eio),
        (Operation::SyncDir, Failure::Eio),
        (Operation::Name, Failure::Enospc),
    ] {
        fs.inject(Fault {
            operation,
            name: "",
            after: 0,
            failure,
            lasting: false,
        });
        let entries = model.iter().map(|(key, value)| Ok((*key, value.clone())));
        let result = tables.add(facts(2), entries);
        assert!(result.is_err(), "{operation:?} {failure:?}");
        assert_eq!(fs.list(&dir()).unwrap(), ["history-00000001"]);
        assert!(all(&tables).unwrap() == model);
        fs.clear_faults();
    }
    add(&tables, facts(2), &model);
    assert_eq!(numbers(&tables), [1, 6]);
}

#[test]
fn what_nothing_names_is_removed_by_a_writer_only() {
    let fs = SimFs::new(9);
    let tables = open(&fs, &Listing::default());
    let model: Model = [(key(1, 1), vec![1; 100])].into();
    add(&tables, facts(1), &model);
    let named = listing(&tables);
    add(&tables, facts(2), &model);
    for other in ["history-1", "history-00000003x", "segment-00000001"] {
        fs.open(&dir().join(other), Mode::WRITE).unwrap();
    }
    let reader = Tables::open(
        Arc::new(fs.clone()),
        dir(),
        STORE_ID,
        Access::ReadOnly,
        &named,
    )
    .unwrap();
    assert_eq!(numbers(&reader), [1]);
    assert_eq!(fs.list(&dir()).unwrap().len(), 5);
    let writer = open(&fs, &named);
    assert_eq!(fs.list(&dir()).unwrap().len(), 4);
    add(&writer, facts(3), &model);
    assert_eq!(numbers(&writer), [1, 3], "2 was given");
}

#[test]
fn a_missing_table_fails_what_is_read_and_expires_like_others() {
    let fs = SimFs::new(10);
    let tables = open(&fs, &Listing::default());
    let model: Model = [(key(1, 1), vec![1; 100])].into();
    for last_ms in 1..=4 {
        add(&tables, facts(last_ms), &model);
    }
    let named = listing(&tables);
    fs.unlink(&dir().join("history-00000002")).unwrap();
    let tables = open(&fs, &named);
    let error = all(&tables).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { what, .. } if what == "store/history-00000002"),
        "{error}"
    );
    assert!(!tables.merge_one(4).unwrap());
    let gone = tables.drop_where(|facts| facts.last_ms <= 2);
    assert_eq!(
        gone.iter().map(|facts| facts.last_ms).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(all(&tables).unwrap() == model);
    listing(&tables);
    assert_eq!(tables.remove_dropped().unwrap(), 2);
    assert_eq!(fs.list(&dir()).unwrap().len(), 2);
}

#[test]
fn a_damaged_block_fails_its_reads_only_and_the_table_is_left_as_it_is() {
    let fs = SimFs::new(11);
    let tables = open(&fs, &Listing::default());
    let mut rng = Rng::with_seed(11);
    let noise = |rng: &mut Rng| std::iter::repeat_with(|| rng.u8(..)).take(60_000).collect();
    let model: Model = (1..10)
        .map(|slot| (key(slot, 1), noise(&mut rng)))
        .collect();
    for last_ms in 1..=4 {
        add(&tables, facts(last_ms), &model);
    }
    let path = dir().join("history-00000003");
    fs.rot(&path, 200_000, |byte| *byte ^= 1);
    let tables = open(&fs, &listing(&tables));
    for slot in 1..10 {
        let found = tables.range(key(slot, 0)..key(slot + 1, 0)).next().unwrap();
        assert_eq!(found.is_err(), slot == 4, "{slot}");
    }
    assert!(!tables.merge_one(4).unwrap(), "not with a damaged one");
    fs.rot(&path, 200_000, |byte| *byte ^= 1);
    assert!(all(&tables).unwrap() == model);
}

#[test]
fn a_file_with_any_byte_changed_or_cut_gives_an_error_or_what_was_written() {
    let fs = SimFs::new(12);
    let tables = open(&fs, &Listing::default());
    let mut rng = Rng::with_seed(12);
    let model = entries(&mut rng, 40);
    add(&tables, facts(1), &model);
    let named = listing(&tables);
    let path = dir().join("history-00000001");
    let bytes = fs.content(&path).unwrap();
    let check = |what: &str, at: usize| {
        let damaged = open(&fs, &named);
        match all(&damaged) {
            Ok(found) => assert!(found == model, "{what} at {at}"),
            Err(Error::Damaged { .. } | Error::Log(dovehouse_wal::Error::Version { .. })) => {}
            Err(error) => panic!("{what} at {at}: {error}"),
        }
        for (key, value) in model.iter().step_by(7) {
            if let Some(Ok(found)) = damaged.range(*key..=*key).next() {
                assert!(found == (*key, value.clone()), "{what} at {at}");
            }
        }
    };
    let few = |at: &usize| *at < 200 || bytes.len() - at < 800 || at.is_multiple_of(61);
    for at in (0..bytes.len()).filter(few) {
        let bit = 1 << rng.u8(0..8);
        fs.rot(&path, at as u64, |byte| *byte ^= bit);
        check("a flipped bit", at);
        fs.rot(&path, at as u64, |byte| *byte ^= bit);
    }
    let file = fs.open(&path, Mode::WRITE).unwrap();
    for len in (0..bytes.len()).rev().filter(few) {
        file.set_len(len as u64).unwrap();
        check("a cut", len);
    }
    let longer = [&bytes[..], b"more"].concat();
    file.write_all_at(&[&longer], 0).unwrap();
    check("more", bytes.len());
}

#[test]
fn a_listing_that_is_damaged_is_told() {
    let fs = SimFs::new(13);
    let tables = open(&fs, &Listing::default());
    for last_ms in [1, 300, 70_000] {
        add(&tables, facts(last_ms), &[(key(1, 1), vec![1])].into());
    }
    let mut bytes = Vec::new();
    tables.encode(&mut bytes);
    assert!(Listing::decode(&mut Reader::new(&bytes)).is_some());
    for len in 0..bytes.len() {
        assert_eq!(Listing::decode(&mut Reader::new(&bytes[..len])), None);
    }
    bytes[0] = 2;
    assert_eq!(
        Listing::decode(&mut Reader::new(&bytes)),
        None,
        "numbers beyond the next one"
    );
}
