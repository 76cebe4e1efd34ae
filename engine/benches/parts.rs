//! The parts that a change would slow down, one by one: `cargo bench -p dovehouse-engine --bench parts`.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dovehouse_engine::parts::{Image, page_change};
use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::wal::{BatchHeader, HEADER_BYTES, Lsn};
use dovehouse_engine::{ClassId, Decoded, Engine, List, ObjectId};

fn id(number: u64) -> ObjectId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    ObjectId::from_bytes(bytes)
}

fn document(rng: &mut fastrand::Rng) -> Vec<u8> {
    let (count, updated, tag) = (rng.u16(..), rng.u32(..), rng.u64(..));
    format!(
        r#"{{"user":"ada","state":"open","count":{count},"updated":17{updated},"tag":"{tag:x}"}}"#
    )
    .into_bytes()
}

/// An engine on a disk in memory: what is timed is the engine's own work.
fn engine(objects: u64) -> (Engine, ClassId) {
    let engine = Engine::builder("store")
        .fs(Arc::new(SimFs::new(1)))
        .segment_bytes(16 << 20)
        .without_threads()
        .open()
        .expect("an empty disk");
    let class = engine.class("Bench").expect("a class");
    let mut rng = fastrand::Rng::with_seed(1);
    let mut last = None;
    for number in 0..objects {
        let mut object = engine.wake(class, id(number)).expect("asleep");
        for entry in 0..3 {
            object
                .put(format!("entry:{entry:02}").as_bytes(), &document(&mut rng))
                .unwrap();
        }
        last = object.commit().expect("room");
    }
    last.expect("a commit").wait().expect("a disk in memory");
    (engine, class)
}

fn log(c: &mut Criterion) {
    let header = BatchHeader {
        segno: 1,
        number: 1,
        salt: 7,
        lsn: Lsn::new(1, 4096),
        records: 100,
        body_bytes: 12_000,
        time_ms: 1_700_000_000_000,
        watermark: Lsn::new(1, 4096),
        prev_crc: 0,
    };
    let mut batch = vec![7; HEADER_BYTES + 12_000];
    let crcs = vec![9; 4 * 100];
    c.bench_function("batch header of 100 records, encode", |b| {
        b.iter(|| header.encode(black_box(&mut batch), black_box(&crcs)));
    });

    let (engine, _) = engine(2000);
    let view = engine.log();
    let segment = view.segments().remove(0);
    let batches: Vec<_> = view
        .batches(&segment)
        .map(|batch| batch.expect("intact"))
        .collect();
    let records: usize = batches.iter().map(|batch| batch.records().count()).sum();
    c.bench_function(&format!("{records} records, decode"), |b| {
        b.iter(|| {
            for batch in &batches {
                batch
                    .records()
                    .for_each(|record| drop(black_box(Decoded::of(&record))));
            }
        });
    });
}

fn images(c: &mut Criterion) {
    let mut rng = fastrand::Rng::with_seed(2);
    let values: Vec<_> = (0..3).map(|_| document(&mut rng)).collect();
    let others: Vec<_> = (0..2000).map(|_| document(&mut rng)).collect();
    let image = Image::new(&values, &others);
    let body = image.encode();
    c.bench_function("image of 3 documents with a dictionary, encode", |b| {
        b.iter(|| image.encode());
    });
    c.bench_function("the same, decode", |b| {
        b.iter(|| image.decode(black_box(&body)))
    });

    let mut old = vec![0; 4096];
    rng.fill(&mut old[2000..]);
    let mut new = old.clone();
    rng.fill(&mut new[1800..2000]);
    new[100..108].fill(1);
    c.bench_function("page of 4 KiB with a new row, change", |b| {
        b.iter_batched_ref(
            Vec::new,
            |out| page_change(&old, &new, out),
            BatchSize::SmallInput,
        );
    });
}

fn objects(c: &mut Criterion) {
    const OBJECTS: u64 = 20_000;
    let (engine, class) = engine(OBJECTS);
    let mut rng = fastrand::Rng::with_seed(3);
    c.bench_function("slot lookup, in the overlay", |b| {
        b.iter(|| engine.find(&id(rng.u64(..OBJECTS))).expect("intact"));
    });
    engine.compact().expect("room");
    c.bench_function("slot lookup, in the index files, and its record", |b| {
        b.iter(|| engine.find(&id(rng.u64(..OBJECTS))).expect("intact"));
    });
    c.bench_function("wake and get", |b| {
        b.iter(|| {
            let object = engine.wake(class, id(rng.u64(..OBJECTS))).expect("asleep");
            object
                .get(b"entry:01")
                .expect("whole")
                .map(|value| value.len())
        });
    });

    let mut object = engine.wake(class, id(OBJECTS)).expect("asleep");
    for number in 0..1000_u32 {
        object
            .put(format!("key:{number:04}").as_bytes(), &number.to_le_bytes())
            .unwrap();
    }
    object.commit().expect("room");
    c.bench_function("get of 1,000 keys", |b| {
        b.iter(|| {
            object
                .get(black_box(b"key:0500"))
                .expect("whole")
                .map(|value| value.len())
        });
    });
    c.bench_function("list of 100 of 1,000 keys", |b| {
        b.iter(|| object.list(&List::prefix(b"key:05").limit(100)).count());
    });
    let mut round = 0_u64;
    c.bench_function("put of 1,000 keys, rolled back", |b| {
        b.iter(|| {
            round += 1;
            object.put(b"key:0500", &round.to_le_bytes()).unwrap();
            object.rollback();
        });
    });
}

criterion_group!(parts, log, images, objects);
criterion_main!(parts);
