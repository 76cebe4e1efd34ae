//! What the simulated disk itself must do, or its verdicts mean nothing.

use super::*;

fn file(fs: &SimFs, name: &str, mode: Mode) -> Arc<dyn File> {
    fs.open(Path::new(name), mode).unwrap()
}

fn read(fs: &SimFs, name: &str) -> Option<Vec<u8>> {
    fs.content(Path::new(name)).ok()
}

/// The contents that many power cuts leave of one file.
fn outcomes(fs: &SimFs, name: &str) -> std::collections::BTreeSet<Option<Vec<u8>>> {
    (0..200).map(|_| read(&fs.power_loss(), name)).collect()
}

#[test]
fn an_unsynced_write_survives_process_death_but_not_always_a_power_cut() {
    let fs = SimFs::new(1);
    let data = file(&fs, "d/data", Mode::WRITE);
    data.write_all_at(&[b"old"], 0).unwrap();
    data.sync().unwrap();
    fs.sync_dir(Path::new("d")).unwrap();
    data.write_all_at(&[b"new"], 0).unwrap();

    assert_eq!(read(&fs.process_death(), "d/data").unwrap(), b"new");
    let seen = outcomes(&fs, "d/data");
    assert_eq!(seen, [Some(b"new".to_vec()), Some(b"old".to_vec())].into());
}

#[test]
fn a_durable_write_survives_everything_but_its_name_needs_a_directory_sync() {
    let fs = SimFs::new(2);
    let data = file(&fs, "d/data", Mode::DURABLE);
    data.write_all_at(&[b"kept"], 0).unwrap();
    assert_eq!(
        outcomes(&fs, "d/data"),
        [None, Some(b"kept".to_vec())].into()
    );
    fs.sync_dir(Path::new("d")).unwrap();
    assert_eq!(outcomes(&fs, "d/data"), [Some(b"kept".to_vec())].into());
}

#[test]
fn after_a_failed_sync_a_second_one_succeeds_and_saves_nothing() {
    let fs = SimFs::new(3);
    let data = file(&fs, "d/data", Mode::WRITE);
    data.write_all_at(&[b"old"], 0).unwrap();
    data.sync().unwrap();
    fs.sync_dir(Path::new("d")).unwrap();
    data.write_all_at(&[b"new"], 0).unwrap();
    fs.inject(Fault {
        operation: Operation::Sync,
        name: "data",
        after: 0,
        failure: Failure::Eio,
        lasting: false,
    });
    assert!(data.sync().is_err());
    data.sync().unwrap();
    assert!(
        outcomes(&fs, "d/data").contains(&Some(b"old".to_vec())),
        "the lie must be possible"
    );
}

#[test]
fn a_large_unsynced_write_tears_at_sectors() {
    let fs = SimFs::new(4);
    let data = file(&fs, "d/data", Mode::WRITE);
    data.write_all_at(&[&[1; 1024]], 0).unwrap();
    data.sync().unwrap();
    fs.sync_dir(Path::new("d")).unwrap();
    data.write_all_at(&[&[2; 1024]], 0).unwrap();
    let seen = outcomes(&fs, "d/data");
    assert_eq!(seen.len(), 4, "each of two sectors is old or new");
    for content in seen.into_iter().flatten() {
        assert!(
            content[..512].iter().all(|byte| *byte == content[0]),
            "a sector is whole"
        );
        assert!(
            content[512..].iter().all(|byte| *byte == content[512]),
            "a sector is whole"
        );
    }
}

#[test]
fn an_unsynced_length_may_be_lost() {
    let fs = SimFs::new(5);
    let data = file(&fs, "d/data", Mode::WRITE);
    data.sync().unwrap();
    fs.sync_dir(Path::new("d")).unwrap();
    data.write_all_at(&[b"grown"], 0).unwrap();
    let seen = outcomes(&fs, "d/data");
    assert!(
        seen.contains(&Some(vec![])) && seen.contains(&Some(b"grown".to_vec())),
        "{seen:?}"
    );
}

#[test]
fn the_hook_sees_each_operation_half_done() {
    let fs = SimFs::new(6);
    let data = file(&fs, "d/data", Mode::DURABLE);
    data.write_all_at(&[&[0; 2048]], 0).unwrap();
    fs.sync_dir(Path::new("d")).unwrap();
    let images = Arc::new(Mutex::new(Vec::new()));
    let seen = images.clone();
    fs.on_operation(move |image| seen.lock().push(image));
    for _ in 0..50 {
        data.write_all_at(&[&[0; 2048]], 0).unwrap();
        data.write_all_at(&[&[1; 2048]], 0).unwrap();
    }
    let contents: Vec<Vec<u8>> = images
        .lock()
        .iter()
        .map(|image| read(&image.power_loss(), "d/data").unwrap())
        .collect();
    assert_eq!(contents.len(), 100);
    assert!(
        contents
            .iter()
            .any(|bytes| bytes.contains(&0) && bytes.contains(&1)),
        "some are torn"
    );
}

#[test]
fn the_same_seed_and_calls_give_the_same_trace_and_the_same_outcome() {
    let run = |seed| {
        let fs = SimFs::new(seed);
        let data = file(&fs, "d/data", Mode::WRITE);
        for byte in 0..20 {
            data.write_all_at(&[&[byte; 4096]], u64::from(byte) * 1000)
                .unwrap();
        }
        fs.sync_dir(Path::new("d")).unwrap();
        (fs.trace(), read(&fs.power_loss(), "d/data"))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn locks_exclude_as_asked_and_end_with_their_holder() {
    let fs = SimFs::new(9);
    let path = Path::new("d/LOCK");
    assert_eq!(
        fs.lock(path, LockKind::Shared).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    let writer = fs.lock(path, LockKind::Exclusive).unwrap();
    assert_eq!(
        fs.lock(path, LockKind::Shared).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(writer);
    let _reader = fs.lock(path, LockKind::Shared).unwrap();
    let _second = fs.lock(path, LockKind::Shared).unwrap();
    assert_eq!(
        fs.lock(path, LockKind::Exclusive).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}
