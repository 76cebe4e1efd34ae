//! Mistake 15: memory that grows with the store, or with how fast it is written. The engine keeps the budget
//! that it was given, whatever is done to it.

use std::alloc::System;
use std::path::Path;

use dovehouse_engine::{Alarm, Builder, Engine, ObjectId};
use parking_lot::Mutex;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Tests that count what is allocated, one at a time.
static ALONE: Mutex<()> = Mutex::new(());

const BUDGET: usize = 8 << 20;

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// No checkpoint but those that memory asks for.
fn builder(dir: &Path) -> Builder {
    Engine::builder(dir)
        .segment_bytes(8 << 20)
        .memory_bytes(BUDGET as u64)
        .checkpoint_bytes(u64::MAX)
        .without_threads()
}

fn id(number: u64) -> ObjectId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ObjectId::from_bytes(bytes)
}

#[test]
fn new_objects_with_alarms_take_no_more_than_the_budget() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let engine = builder(dir.path()).open().unwrap();
    let class = engine.class("Mailbox").unwrap();
    let (before, mut most) = (allocated(), 0);
    for number in 0..40_000 {
        let mut object = engine.wake(class, id(number)).unwrap();
        object.put(b"subject", b"as many as there are").unwrap();
        object.set_alarm(Alarm {
            name: String::new(),
            due_ms: 1_900_000_000_000 + number,
            attempts: 0,
            schedule: String::new(),
        });
        object.commit().unwrap();
        most = most.max(allocated().saturating_sub(before));
    }

    assert!(most < BUDGET, "{most} bytes");
    assert!(engine.stats().checkpoints > 1, "they were let go of");
    assert_eq!(engine.due_until(u64::MAX, 10).unwrap().len(), 10);
}

#[test]
fn records_that_wait_for_the_committer_take_no_more_than_the_budget() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let engine = builder(dir.path()).open().unwrap();
    let class = engine.class("Blob").unwrap();
    let (before, mut most) = (allocated(), 0);
    let mut rng = fastrand::Rng::with_seed(15);
    for number in 0..60 {
        let mut value = vec![0; 400 << 10];
        rng.fill(&mut value);
        let mut object = engine.wake(class, id(number)).unwrap();
        object.put(b"value", &value).unwrap();
        object.commit().unwrap();
        drop((object, value));
        most = most.max(allocated().saturating_sub(before));
    }

    assert!(most < BUDGET, "{most} bytes");
}

#[test]
fn a_transaction_larger_than_the_budget_takes_no_more_than_the_budget() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let engine = builder(dir.path()).open().unwrap();
    let class = engine.class("Map").unwrap();
    let (before, mut most) = (allocated(), 0);
    let mut object = engine.wake(class, id(1)).unwrap();
    // In the order of the keys, as a load is.
    for number in 0..40_000_u32 {
        object.put(&number.to_be_bytes(), &[7; 1000]).unwrap();
        most = most.max(allocated().saturating_sub(before));
    }
    object.commit().unwrap();

    assert!(object.is_big());
    assert!(most < 3 * BUDGET, "{most} bytes");
}
