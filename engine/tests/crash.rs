//! The engine on the simulated disk, crashed at every I/O, with a model beside it.
//!
//! Several objects change keys, pages and alarms, are erased and made again, fall asleep and wake;
//! checkpoints free segments that are then reused. The clock jumps in both directions meanwhile, and the
//! log's does not step back.

use dovehouse_engine::wal::sim::{first_failure, for_each_seed};
use dovehouse_engine::{Flaw, Teeth};

mod common;

use common::harness::{Suite, run};

const SUITE: Suite = Suite {
    objects: 5,
    steps: 120,
    builder: common::builder,
    transaction: |object, model, rng| {
        common::transaction(object, model, rng);
        Ok(())
    },
    exhaustive: 40,
    sample: 40,
};

#[test]
fn every_object_is_at_one_of_its_commits_after_a_crash_at_any_io() {
    for_each_seed(24, "-p dovehouse-engine --test crash", |seed| {
        run(SUITE, seed, Teeth::default())
    });
}

/// The suite above must go red when an invariant is broken on purpose. Each flaw comes with a seed that has found
/// it; the search goes on from there.
#[test]
fn every_planted_flaw_is_found() {
    let flaws = [
        (Flaw::CheckpointDoesNotWait, 0),
        (Flaw::AcknowledgeBeforeWrite, 25),
        (Flaw::AcknowledgeAfterError, 8),
        (Flaw::NamelessImage, 0),
        (Flaw::ReuseLiveSegment, 0),
        (Flaw::SkipWhatIsShown, 0),
        (Flaw::DropOldDictionary, 13),
        (Flaw::MoveWithoutComparing, 252),
    ];
    for (flaw, from) in flaws {
        let found = first_failure(from..from + 400, |seed| {
            run(SUITE, seed, Teeth::plant(flaw))
        });
        println!("{flaw:?}: {found:?}");
        assert!(found.is_some(), "{flaw:?} went unnoticed");
    }
}
