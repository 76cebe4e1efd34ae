//! Going back, and how far that can reach.

use dovehouse_engine::wal::fs::Fs;
use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{Error, Retention, Teeth};

mod common;

use common::id;

#[test]
fn history_does_not_reach_back_over_commits_that_nobody_noted() {
    // A program that kept no history, for a class or at all, and then one that does: what was before was taken for
    // what the object had always been.
    for another_keeps in [false, true] {
        let fs = SimFs::new(1);
        let open = |default| {
            let builder = common::builder(&fs, Teeth::default()).retention(default);
            let engine = builder.open().unwrap();
            let class = engine.class("Room").unwrap();
            (engine, class)
        };
        let (engine, class) = open(Retention::Off);
        if another_keeps {
            let other = engine.class("Hall").unwrap();
            engine.set_retention(other, Retention::Forever).unwrap();
        }
        let start_ms = fs.now_ms();
        for value in [b"one", b"two"] {
            fs.advance(10);
            common::put(&engine, class, 1, value);
        }
        fs.advance(10);
        engine.close().unwrap();
        drop(engine);
        let (engine, class) = open(Retention::Forever);
        common::put(&engine, class, 1, b"three");
        for passed_ms in [0, 10] {
            let found = engine.bookmark_at(&id(1), start_ms + passed_ms);
            assert!(
                matches!(found, Err(Error::NotAvailable { .. })),
                "{found:?}"
            );
        }
        let two = engine.bookmark_at(&id(1), fs.now_ms() - 1).unwrap();
        let past = engine.past(&id(1), &two).unwrap();
        assert_eq!(past.get(b"value").unwrap().as_deref(), Some(&b"two"[..]));
    }
}
