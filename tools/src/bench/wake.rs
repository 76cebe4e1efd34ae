//! Waking a sleeping object and reading one key, with a warm page cache and with a cold one.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use dovehouse_engine::{ClassId, Engine};
use rustix::fs::{Advice, fadvise};

use super::{Run, content, histogram, record};
use crate::exit::Failure;
use crate::output;

const BLOCK_BYTES: u64 = 4096;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = content::load_filled(&engine, run)?;
    // As they lie when nobody has called them for a while; nothing moves them from then on.
    engine.compact()?;
    engine.close()?;
    drop(engine);
    let engine = run.open()?;
    warm(run, &engine, class)?;
    cold(run, &engine, class)
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn warm(run: &mut Run, engine: &Engine, class: ClassId) -> Result<(), Failure> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let (mut latency, time) = (histogram(), Duration::from_secs(run.seconds));
    let bar = output::progress(run.seconds, "seconds, warm");
    let start = Instant::now();
    while start.elapsed() < time {
        let id = content::id(run.seed, rng.u64(..run.objects));
        let since = Instant::now();
        let object = engine.wake(class, id)?;
        assert!(
            object.get(b"entry:00")?.is_some(),
            "every object has this key"
        );
        record(&mut latency, since.elapsed());
        drop(object);
        if latency.len().is_multiple_of(4096) {
            bar.set_position(start.elapsed().as_secs());
        }
    }
    bar.finish_and_clear();
    run.note_rate(latency.len(), start.elapsed());
    run.note_latency("", &latency);
    Ok(())
}

/// The same with the record's place dropped from the page cache, next to one bare read of a block that
/// was dropped as well. The index stays cached.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn cold(run: &mut Run, engine: &Engine, class: ClassId) -> Result<(), Failure> {
    let mut rng = fastrand::Rng::with_seed(run.seed ^ 1);
    let (mut wakes, mut reads) = (histogram(), histogram());
    let time = Duration::from_secs(run.seconds);
    let bar = output::progress(run.seconds, "seconds, cold");
    let start = Instant::now();
    let segments = engine.log().segments();
    let files = segments
        .iter()
        .map(|segment| std::fs::File::open(&segment.path));
    let files: Vec<_> = files.collect::<Result<_, _>>()?;
    while start.elapsed() < time {
        let id = content::id(run.seed, rng.u64(..run.objects));
        let head = engine.find(&id)?.expect("it was made").entry.head;
        let place = segments
            .iter()
            .position(|segment| segment.segno == head.segno());
        let file = &files[place.expect("its segment is there")];
        // Readahead would bring neighbours; a sleeping object has none.
        fadvise(file, 0, None, Advice::Random).map_err(std::io::Error::from)?;
        fadvise(file, 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
        let since = Instant::now();
        let object = engine.wake(class, id)?;
        assert!(
            object.get(b"entry:00")?.is_some(),
            "every object has this key"
        );
        record(&mut wakes, since.elapsed());
        drop(object);

        let blocks = u64::from(segments[0].end()) / BLOCK_BYTES;
        let offset = rng.u64(1..blocks) * BLOCK_BYTES;
        fadvise(&files[0], 0, None, Advice::Random).map_err(std::io::Error::from)?;
        fadvise(&files[0], 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
        let mut block = [0; BLOCK_BYTES as usize];
        let since = Instant::now();
        files[0].read_exact_at(&mut block, offset)?;
        record(&mut reads, since.elapsed());
        bar.set_position(start.elapsed().as_secs());
    }
    bar.finish_and_clear();
    run.note_latency("cold_", &wakes);
    run.note_latency("bare_read_", &reads);
    Ok(())
}
