//! A full disk: growth is refused whole, everything else goes on, and the store recovers by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use dovehouse_engine::wal::sim::SimFs;
use dovehouse_engine::{ClassId, Engine, Error, Flaw, ObjectId, Quota, Teeth};

const DISK_BYTES: u64 = 12 << 20;
const VALUE_BYTES: usize = 3000;

fn id(number: u32) -> ObjectId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    ObjectId::from_bytes(bytes)
}

fn open(fs: &SimFs, teeth: Teeth) -> Result<(Engine, ClassId), Error> {
    let engine = Engine::builder("store")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(512 << 10)
        .without_threads()
        .teeth(teeth)
        .open()?;
    let class = engine.class("Test")?;
    Ok((engine, class))
}

struct Run {
    engine: Engine,
    class: ClassId,
    rng: fastrand::Rng,
    values: BTreeMap<u32, Vec<u8>>,
}

impl Run {
    fn put(&mut self, number: u32, bytes: usize) -> Result<(), Error> {
        let mut value = vec![0; bytes];
        self.rng.fill(&mut value);
        let mut object = self.engine.wake(self.class, id(number))?;
        object.put(b"value", &value).unwrap();
        if let Some(ticket) = object.commit()? {
            ticket.wait()?;
        }
        self.values.insert(number, value);
        Ok(())
    }

    fn erase(&mut self, number: u32) -> Result<(), Error> {
        let mut object = self.engine.wake(self.class, id(number))?;
        object.clear(false);
        if let Some(ticket) = object.commit()? {
            ticket.wait()?;
        }
        self.values.remove(&number);
        Ok(())
    }

    /// New objects until the disk is full; how many.
    fn fill(&mut self, from: u32) -> Result<u32, Error> {
        for number in from.. {
            match self.put(number, VALUE_BYTES) {
                Ok(()) => {}
                Err(error) if error.is_full() => return Ok(number - from),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the disk is finite")
    }

    fn check(&self, engine: &Engine, beyond: u32) -> Result<(), String> {
        for number in 0..beyond {
            let object = engine.wake(self.class, id(number));
            let object = object.map_err(|error| format!("wake {number}: {error}"))?;
            let found = object
                .get(b"value")
                .map_err(|error| format!("get: {error}"))?;
            if found.as_deref() != self.values.get(&number).map(Vec::as_slice) {
                return Err(format!("object {number} is not what was committed"));
            }
        }
        Ok(())
    }
}

/// Fills the disk, goes on with what does not grow, erases half, and fills it again.
fn live_on_a_full_disk(seed: u64, teeth: Teeth) -> Result<(), String> {
    let fs = SimFs::new(seed);
    fs.set_capacity(Some(DISK_BYTES));
    let (engine, class) = open(&fs, teeth).map_err(|error| error.to_string())?;
    let rng = fastrand::Rng::with_seed(seed);
    let mut run = Run {
        engine,
        class,
        rng,
        values: BTreeMap::new(),
    };
    let at = |what: &'static str| move |error: Error| format!("{what}: {error}");
    let count = run.fill(0).map_err(at("filling"))?;
    if (count as usize) * VALUE_BYTES < DISK_BYTES as usize / 3 {
        return Err(format!("full with {count} objects"));
    }
    // What was refused is not there.
    run.check(&run.engine, count + 1)?;
    for _ in 0..2 * count {
        let number = run.rng.u32(0..count);
        run.put(number, VALUE_BYTES).map_err(at("replacing"))?;
    }
    for number in 0..count {
        run.put(number, VALUE_BYTES / 2).map_err(at("shrinking"))?;
    }
    for number in (0..count).step_by(2) {
        run.erase(number).map_err(at("erasing"))?;
    }
    let more = run.fill(count).map_err(at("filling again"))?;
    if more < count / 3 {
        return Err(format!(
            "only {more} objects after {count} became a quarter"
        ));
    }
    run.check(&run.engine, count + more)?;
    let (engine, _) = open(&fs.power_loss(), Teeth::default()).map_err(at("reopening"))?;
    run.check(&engine, count + more + 1)
}

#[test]
fn a_full_disk_refuses_growth_alone_and_recovers_when_objects_are_erased() {
    for seed in 0..3 {
        live_on_a_full_disk(seed, Teeth::default()).unwrap();
    }
}

/// I9: without the reserve the store would not come out of it.
#[test]
fn growth_that_takes_the_reserve_is_noticed() {
    assert!(live_on_a_full_disk(0, Teeth::plant(Flaw::NoReserve)).is_err());
}

#[test]
fn a_quota_refuses_growth_and_nothing_else() {
    let fs = SimFs::new(1);
    let (engine, class) = open(&fs, Teeth::default()).unwrap();
    let mut run = Run {
        engine,
        class,
        rng: fastrand::Rng::with_seed(1),
        values: BTreeMap::new(),
    };
    run.engine.set_quota(
        class,
        Quota {
            object_bytes: Some(5000),
            class_bytes: Some(20_000),
            ..Quota::default()
        },
    );
    assert!(matches!(
        run.put(0, 6000),
        Err(Error::Quota { limit: 5000, .. })
    ));
    (0..6).for_each(|number| run.put(number, VALUE_BYTES).unwrap());
    assert!(matches!(
        run.put(6, VALUE_BYTES),
        Err(Error::Quota { limit: 20_000, .. })
    ));
    run.put(3, VALUE_BYTES).unwrap();
    run.put(3, 100).unwrap();
    run.erase(4).unwrap();
    run.put(6, VALUE_BYTES).unwrap();
    let other = run.engine.class("Other").unwrap();
    let mut object = run.engine.wake(other, id(100)).unwrap();
    object.put(b"value", &[1; 50_000]).unwrap();
    object.commit().unwrap();
    let bytes = run.engine.class_bytes(class);
    drop(object);
    run.engine.close().unwrap();
    let (engine, class) = open(&fs, Teeth::default()).unwrap();
    assert_eq!(engine.class_bytes(class), bytes, "counted across a restart");
}
