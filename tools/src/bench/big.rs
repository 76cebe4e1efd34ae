//! One object of many pages and one of many keys, beside a tiny one: loading them, commits of one page, reads
//! in any order and in sequence, sleep, waking, checkpoints, small commits beside a large one, and a kill in
//! the midst of commits.

#[cfg(feature = "sql")]
mod sql;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use dovehouse_engine::{ClassId, Engine, List, Object, PAGE_BYTES};
use rustix::fs::{Advice, fadvise};

use super::{Kind, Run, content, histogram, machine, record};
use crate::exit::{FAILURE, Failure};
use crate::output;

/// One transaction of the load.
const LOAD_PAGES: u32 = 16 << 10;
const LOAD_KEYS: u64 = 200_000;
/// Keys for each page, and how many there are at most.
const KEYS_PER_PAGE: u64 = 4;
const KEYS_MAX: u64 = 10_000_000;
/// What one commit writes while others go on.
const LARGE_COMMIT_BYTES: u64 = 200 << 20;

/// Which object.
const PAGES: u64 = 1;
const KEYS: u64 = 2;
const TINY: u64 = 3;
const LARGE: u64 = 4;

/// A page as a database has them: half of it is text, the rest does not compress. The first bytes say which
/// page it is, and in which round it was written.
pub(super) fn page(seed: u64, number: u32, round: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(number) << 32 ^ round);
    rng.fill(&mut page[..PAGE_BYTES / 2]);
    page[PAGE_BYTES / 2..].fill(b' ');
    page[..4].copy_from_slice(&number.to_le_bytes());
    page[4..12].copy_from_slice(&round.to_le_bytes());
    page
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"entry:__________";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(seed: u64, number: u64) -> Vec<u8> {
    let mut value = vec![0; 100];
    fastrand::Rng::with_seed(seed ^ number).fill(&mut value[..60]);
    value
}

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    match run.kind {
        #[cfg(feature = "sql")]
        Kind::Sql => sql::run(run),
        Kind::Kv | Kind::Random => pages_and_keys(run),
    }
}

fn pages_and_keys(run: &mut Run) -> Result<(), Failure> {
    let pages = u32::try_from(run.objects).unwrap_or(u32::MAX);
    let keys = (run.objects * KEYS_PER_PAGE).min(KEYS_MAX);
    run.note("pages", pages);
    run.note("keys", keys);
    let engine = run.open()?;
    let class = engine.class("Big")?;
    load_pages(run, &engine, class, pages)?;
    load_keys(run, &engine, class, keys)?;
    commits(run, &engine, class, pages)?;
    sleep_and_wake(run, &engine, class)?;
    reads(run, &engine, class, pages)?;
    key_reads(run, &engine, class, keys)?;
    beside_a_large_commit(run, &engine, class)?;
    sizes(run, &engine);
    engine.close()?;
    drop(engine);
    killed(run, pages)?;
    verify(run, pages, keys)?;
    erase(run)
}

fn wake(run: &Run, engine: &Engine, class: ClassId, which: u64) -> Result<Object, Failure> {
    Ok(engine.wake(class, content::id(run.seed, which))?)
}

fn commit(object: &mut Object) -> Result<(), Failure> {
    if let Some(ticket) = object.commit()? {
        ticket.wait().map_err(content::engine_error)?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn load_pages(run: &mut Run, engine: &Engine, class: ClassId, pages: u32) -> Result<(), Failure> {
    let mut object = wake(run, engine, class, PAGES)?;
    let bar = output::progress(u64::from(pages), "pages");
    let start = Instant::now();
    for number in 1..=pages {
        object.write_page(number, &page(run.seed, number, 0))?;
        if number % LOAD_PAGES == 0 || number == pages {
            commit(&mut object)?;
            bar.set_position(u64::from(number));
        }
    }
    let bytes = f64::from(pages) * PAGE_BYTES as f64;
    run.note_number("load_mb_per_s", bytes / start.elapsed().as_secs_f64() / 1e6);
    run.note_number("load_s", start.elapsed().as_secs_f64());
    let stats = engine.stats();
    let log = &stats.log;
    let written = log.log_bytes + log.pack_bytes + log.manifest_bytes + stats.index_bytes;
    run.note_number("load_write_amplification", written as f64 / bytes);
    bar.finish_and_clear();
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn load_keys(run: &mut Run, engine: &Engine, class: ClassId, keys: u64) -> Result<(), Failure> {
    let mut object = wake(run, engine, class, KEYS)?;
    let bar = output::progress(keys, "keys");
    let start = Instant::now();
    for number in 0..keys {
        object.put(&key(number), &value(run.seed, number))?;
        if number % LOAD_KEYS == 0 || number + 1 == keys {
            commit(&mut object)?;
            bar.set_position(number);
        }
    }
    run.note_number(
        "load_keys_per_s",
        keys as f64 / start.elapsed().as_secs_f64(),
    );
    bar.finish_and_clear();
    Ok(())
}

/// Commits of one page, in turn in the big object and in a tiny one, at once and after each other.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn commits(run: &mut Run, engine: &Engine, class: ClassId, pages: u32) -> Result<(), Failure> {
    let mut big = wake(run, engine, class, PAGES)?;
    let mut tiny = wake(run, engine, class, TINY)?;
    let (mut of_big, mut of_tiny) = (histogram(), histogram());
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let before = engine.stats();
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed().as_secs() < run.seconds {
        round += 1;
        for (object, number, times) in [
            (&mut big, rng.u32(1..=pages), &mut of_big),
            (&mut tiny, rng.u32(1..=4), &mut of_tiny),
        ] {
            object.write_page(number, &page(run.seed, number, round))?;
            let begun = Instant::now();
            commit(object)?;
            record(times, begun.elapsed());
        }
    }
    run.note_latency("commit_", &of_big);
    run.note_latency("commit_tiny_", &of_tiny);
    let ratio = of_big.value_at_quantile(0.5) as f64 / of_tiny.value_at_quantile(0.5) as f64;
    run.note_number("commit_p50_of_tiny", ratio);
    run.note_number("commit_mean_of_tiny", of_big.mean() / of_tiny.mean());
    let stats = engine.stats();
    let written = stats.log.log_bytes - before.log.log_bytes;
    run.note("commit_log_bytes", written / (2 * round));
    // Back to what it was, so that a checksum can tell.
    big.write_page(1, &page(run.seed, 1, 0))?;
    commit(&mut big)
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn sleep_and_wake(run: &mut Run, engine: &Engine, class: ClassId) -> Result<(), Failure> {
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let mut big = wake(run, engine, class, PAGES)?;
    for _ in 0..200 {
        let number = rng.u32(1..=big.page_count());
        big.write_page(number, &page(run.seed, number, 1))?;
        commit(&mut big)?;
    }
    let ms = |start: Instant| start.elapsed().as_secs_f64() * 1000.0;
    let start = Instant::now();
    drop(big);
    run.note_number("sleep_after_200_commits_ms", ms(start));
    let start = Instant::now();
    engine.checkpoint()?;
    run.note_number("checkpoint_ms", ms(start));
    let start = Instant::now();
    let big = wake(run, engine, class, PAGES)?;
    run.note_number("wake_ms", ms(start));
    drop(big);
    Ok(())
}

/// Page reads at random, warm and cold, and all pages in sequence.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn reads(run: &mut Run, engine: &Engine, class: ClassId, pages: u32) -> Result<(), Failure> {
    let big = wake(run, engine, class, PAGES)?;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    for pass in ["scan_first", "scan_warm"] {
        let start = Instant::now();
        let mut sum = 0_u64;
        for number in 1..=pages {
            sum += u64::from(big.page(number)?.map_or(0, |page| page[0]));
        }
        std::hint::black_box(sum);
        let bytes = f64::from(pages) * PAGE_BYTES as f64;
        run.note_number(
            &format!("{pass}_mb_per_s"),
            bytes / start.elapsed().as_secs_f64() / 1e6,
        );
    }
    let mut warm = histogram();
    for _ in 0..200_000 {
        let number = rng.u32(1..=pages);
        let start = Instant::now();
        let found = big.page(number)?;
        record(&mut warm, start.elapsed());
        std::hint::black_box(found);
    }
    run.note_latency("read_warm_", &warm);
    let mut cold = histogram();
    for _ in 0..20 {
        forget_files(&run.dir, "segment-")?;
        for _ in 0..50 {
            let number = rng.u32(1..=pages);
            let start = Instant::now();
            let found = big.page(number)?;
            record(&mut cold, start.elapsed());
            std::hint::black_box(found);
        }
    }
    run.note_latency("read_cold_", &cold);
    Ok(())
}

/// Drops what the system has of the files in memory whose names begin so.
fn forget_files(dir: &Path, start: &str) -> Result<(), Failure> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(start) {
            let file = std::fs::File::open(file.path())?;
            fadvise(&file, 0, None, Advice::Random).map_err(std::io::Error::from)?;
            fadvise(&file, 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn key_reads(run: &mut Run, engine: &Engine, class: ClassId, keys: u64) -> Result<(), Failure> {
    let mut object = wake(run, engine, class, KEYS)?;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let (mut gets, mut puts) = (histogram(), histogram());
    for _ in 0..200_000 {
        let number = rng.u64(..keys);
        let start = Instant::now();
        let found = object.get(&key(number))?.is_some();
        record(&mut gets, start.elapsed());
        assert!(found, "every key is there");
    }
    run.note_latency("get_", &gets);
    for _ in 0..2000 {
        let number = rng.u64(..keys);
        object.put(&key(number), &value(run.seed, number + 1))?;
        let start = Instant::now();
        commit(&mut object)?;
        record(&mut puts, start.elapsed());
        object.put(&key(number), &value(run.seed, number))?;
    }
    commit(&mut object)?;
    run.note_latency("put_", &puts);
    for (name, list) in [
        ("list_keys_per_s", List::all()),
        ("list_reverse_keys_per_s", List::all().reverse()),
    ] {
        let start = Instant::now();
        let count = object.list(&list).filter(Result::is_ok).count();
        run.note_number(name, count as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Small commits, alone and while another object commits 200 MiB.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn beside_a_large_commit(run: &mut Run, engine: &Engine, class: ClassId) -> Result<(), Failure> {
    let mut small = wake(run, engine, class, TINY)?;
    let mut large = wake(run, engine, class, LARGE)?;
    let (mut idle, mut beside) = (histogram(), histogram());
    let seed = run.seed;
    let put = |small: &mut Object, times: &mut hdrhistogram::Histogram<u64>, round: u64| {
        small.put(b"key", &round.to_le_bytes())?;
        let start = Instant::now();
        commit(small)?;
        record(times, start.elapsed());
        Ok::<_, Failure>(())
    };
    for round in 0..10_000 {
        put(&mut small, &mut idle, round)?;
    }
    let bar = output::progress(10, "large commits");
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..10 {
                for number in 1..=(LARGE_COMMIT_BYTES / PAGE_BYTES as u64) as u32 {
                    large.write_page(number, &page(seed, number, round))?;
                }
                commit(&mut large)?;
                bar.inc(1);
            }
            Ok::<_, Failure>(())
        });
        let mut round = 0;
        while !writer.is_finished() {
            round += 1;
            put(&mut small, &mut beside, round)?;
        }
        writer.join().expect("it does not panic")
    })?;
    bar.finish_and_clear();
    run.note_number("large_commit_s", start.elapsed().as_secs_f64() / 10.0);
    run.note_latency("small_idle_", &idle);
    run.note_latency("small_beside_large_", &beside);
    let p99 = |times: &hdrhistogram::Histogram<u64>| times.value_at_quantile(0.99) as f64;
    run.note_number("small_p99_beside_large_of_idle", p99(&beside) / p99(&idle));
    large.clear(false);
    commit(&mut large)
}

fn sizes(run: &mut Run, engine: &Engine) {
    let stats = engine.stats();
    run.note("heap_bytes", machine::heap_bytes());
    run.note("rss_bytes", machine::rss_bytes());
    run.note("cache_bytes", stats.cache_bytes);
    run.note("segment_files", stats.log.segment_files);
    let bytes = stats.log.segment_files as u64 * stats.log.segment_bytes;
    run.note("segment_file_bytes", bytes);
    run.note("segment_live_bytes", stats.live_bytes);
}

/// Another process commits until it is killed. Returns how many commits it has said to be durable.
fn kill_after(run: &Run, commits: u64) -> Result<u64, Failure> {
    let kind = format!("{:?}", run.kind).to_lowercase();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["bench", "big", "--until-killed", "--data"])
        .arg(&run.dir)
        .args(["--kind", &kind, "--seed", &run.seed.to_string()])
        .args(["--objects", &run.objects.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.take().expect("it is piped");
    let mut acknowledged = 0;
    for line in BufReader::new(said).lines() {
        acknowledged = line?.parse().unwrap_or(acknowledged);
        if acknowledged >= commits {
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(acknowledged)
}

/// What another process that was killed said to be durable is there.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn killed(run: &mut Run, pages: u32) -> Result<(), Failure> {
    let acknowledged = kill_after(run, KILL_AFTER)?;
    run.note("killed_after_commits", acknowledged);
    let start = Instant::now();
    let engine = run.open()?;
    run.note_number("open_after_kill_ms", start.elapsed().as_secs_f64() * 1000.0);
    let class = engine.class("Big")?;
    let big = wake(run, &engine, class, PAGES)?;
    for round in 1..=acknowledged {
        let number = (round % u64::from(pages)) as u32 + 1;
        if big.page(number)?.as_deref() != Some(&page(run.seed, number, KILLED + round)) {
            let message = format!("commit {round} of {acknowledged} is lost");
            return Err(Failure::new(FAILURE, message));
        }
    }
    drop(big);
    Ok(engine.close()?)
}

/// So many commits the killed process makes.
const KILL_AFTER: u64 = 3000;

/// And its rounds begin here.
const KILLED: u64 = 1 << 32;

/// What the killed process does.
pub(super) fn until_killed(run: &Run) -> Result<(), Failure> {
    #[cfg(feature = "sql")]
    if run.kind == Kind::Sql {
        return sql::until_killed(run);
    }
    let pages = u32::try_from(run.objects).unwrap_or(u32::MAX);
    let engine = run.open()?;
    let class = engine.class("Big")?;
    let mut big = wake(run, &engine, class, PAGES)?;
    for round in 1.. {
        let number = (round % u64::from(pages)) as u32 + 1;
        big.write_page(number, &page(run.seed, number, KILLED + round))?;
        commit(&mut big)?;
        output::print(round)?;
    }
    Ok(())
}

/// Every page is one that was written to its place, and every key has its value.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn verify(run: &mut Run, pages: u32, keys: u64) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = engine.class("Big")?;
    let big = wake(run, &engine, class, PAGES)?;
    let bar = output::progress(u64::from(pages), "pages read back");
    let wrong = |what: String| Failure::new(FAILURE, format!("{what} is not what was written"));
    let start = Instant::now();
    for number in 1..=pages {
        let found = big.page(number)?;
        let round = found.as_ref().map_or(0, |page| {
            u64::from_le_bytes(page[4..12].try_into().expect("eight bytes"))
        });
        if found.as_deref() != Some(&page(run.seed, number, round)) {
            return Err(wrong(format!("page {number}")));
        }
        bar.inc(1);
    }
    let object = wake(run, &engine, class, KEYS)?;
    let mut next = 0;
    for listed in object.list(&List::all()) {
        let (found, content) = listed?;
        if found[..] != key(next) || content[..] != value(run.seed, next) {
            return Err(wrong(format!("key {next}")));
        }
        next += 1;
    }
    bar.finish_and_clear();
    if next != keys {
        return Err(wrong(format!("a list of {next} keys")));
    }
    run.note_number("read_back_s", start.elapsed().as_secs_f64());
    drop((big, object));
    Ok(engine.close()?)
}

/// Erasing it all is one commit; the space comes back.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
fn erase(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let class = engine.class("Big")?;
    for which in [PAGES, KEYS] {
        let mut object = wake(run, &engine, class, which)?;
        object.clear(false);
        let start = Instant::now();
        commit(&mut object)?;
        let name = format!("erase_{which}_us");
        run.note_number(&name, start.elapsed().as_secs_f64() * 1e6);
    }
    let start = Instant::now();
    engine.compact()?;
    run.note_number("space_back_s", start.elapsed().as_secs_f64());
    run.note(
        "segment_files_after_erase",
        engine.stats().log.segment_files,
    );
    Ok(engine.close()?)
}
