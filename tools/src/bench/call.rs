//! Calls in the process: from an object to one on its shard, from outside, and durable ones; and what an
//! awake object takes in memory, with a database and without.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use std::time::{Duration, Instant};

use dovehouse::{CallError, Ctx, Dovehouse, PoolSizes};
use hdrhistogram::Histogram;

use super::{Run, histogram, machine, record};
use crate::exit::Failure;
use crate::output;

/// Calls between two looks at the clock.
const AT_A_TIME: u32 = 64;
/// Callers at work at once, where it says "many".
const MANY: usize = 64;
/// Objects that have their database open.
const DATABASES: u64 = 1_000;

struct Callee {
    count: u64,
}

#[dovehouse::object(class = "Bench")]
impl Callee {
    fn new() -> Self {
        Callee { count: 0 }
    }

    pub fn add(&mut self, number: u64) -> u64 {
        self.count += number;
        self.count
    }

    pub fn get(&self) -> u64 {
        self.count
    }

    pub fn put(&mut self, ctx: &Ctx, number: u64) -> dovehouse::Result<()> {
        ctx.kv().put("number", number.to_le_bytes())
    }

    pub fn select(&mut self, ctx: &Ctx) -> dovehouse::Result<i64> {
        ctx.sql()
            .exec("SELECT 1", ())?
            .one()?
            .get(0)
            .map_err(Into::into)
    }

    /// Calls another for so long, and gives the nanoseconds of a call, each from a few in a row.
    pub async fn call_other(&mut self, other: CalleeStub, ms: u64) -> Result<Vec<u64>, CallError> {
        let (clock, mut latencies) = (Clock::new(ms), Vec::new());
        while let Some(since) = clock.goes_on() {
            for number in 0..AT_A_TIME {
                other.add(u64::from(number)).await?;
            }
            latencies.push(since.elapsed().as_nanos() as u64 / u64::from(AT_A_TIME));
        }
        Ok(latencies)
    }

    /// Calls itself for so long, and gives how often: that is a call on the caller's shard for sure.
    pub async fn call_itself(&self, ctx: &Ctx, ms: u64) -> Result<u64, CallError> {
        let house = ctx.house().map_err(|_| CallError::Closed)?;
        let callees = house.namespace::<Callee>().map_err(|_| CallError::Closed)?;
        let me = callees.get(ctx.id().clone());
        let (clock, mut calls) = (Clock::new(ms), 0);
        while clock.goes_on().is_some() {
            for _ in 0..AT_A_TIME {
                me.get().await?;
            }
            calls += u64::from(AT_A_TIME);
        }
        Ok(calls)
    }
}

/// When to stop.
struct Clock {
    start: Instant,
    time: Duration,
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
impl Clock {
    fn new(ms: u64) -> Self {
        Clock {
            start: Instant::now(),
            time: Duration::from_millis(ms),
        }
    }

    /// The time, while there is some left.
    fn goes_on(&self) -> Option<Instant> {
        (self.start.elapsed() < self.time).then(Instant::now)
    }
}

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bar = output::progress(6, "measurements");
        same_shard(run).await?;
        bar.inc(1);
        let house = house(run, "calls", None, PoolSizes::default())?;
        both_cores(run, &house).await?;
        bar.inc(1);
        for callers in [1, MANY] {
            outside(run, &house, "outside", callers, async |callee| {
                callee.add(1).await.map(drop)
            })
            .await?;
        }
        bar.inc(1);
        for callers in [1, run.clients] {
            outside(run, &house, "durable", callers, async |callee| {
                callee.put(1).await
            })
            .await?;
        }
        bar.inc(1);
        house.close().await.map_err(failed)?;
        resident(run).await?;
        bar.inc(1);
        resident_with_sql(run).await?;
        bar.finish_and_clear();
        Ok(())
    })
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(crate::exit::FAILURE, error.to_string())
}

/// A house of its own, which keeps everything awake.
fn house(
    run: &Run,
    name: &str,
    shards: Option<usize>,
    sql_pool: PoolSizes,
) -> Result<Dovehouse, Failure> {
    let mut builder = Dovehouse::builder(run.dir.join(name))
        .idle_ms(3_600_000)
        .awake_bytes(usize::MAX)
        .sql_pool(sql_pool);
    if let Some(shards) = shards {
        builder = builder.shards(shards);
    }
    builder.open().map_err(failed)
}

/// One caller and one callee, both on the only shard.
async fn same_shard(run: &mut Run) -> Result<(), Failure> {
    let house = house(run, "one", Some(1), PoolSizes::default())?;
    let callees = house.namespace::<Callee>().map_err(failed)?;
    let (caller, callee) = (callees.get_by_name("caller"), callees.get_by_name("callee"));
    caller
        .call_other(callee.clone(), 200)
        .await
        .map_err(failed)?;
    let latencies = caller
        .call_other(callee, run.seconds * 1_000)
        .await
        .map_err(failed)?;
    let mut histogram = histogram();
    for latency in latencies {
        record(&mut histogram, Duration::from_nanos(latency));
    }
    run.note_latency("same_shard_", &histogram);
    house.close().await.map_err(failed)
}

/// As many callers as keep every shard busy, each calling on its own shard.
async fn both_cores(run: &mut Run, house: &Dovehouse) -> Result<(), Failure> {
    let callees = house.namespace::<Callee>().map_err(failed)?;
    let ms = run.seconds * 1_000;
    let mut calling = Vec::new();
    for number in 0..MANY {
        let callee = callees.get_by_name(&format!("busy {number}"));
        calling.push(tokio::spawn(async move { callee.call_itself(ms).await }));
    }
    let mut calls = 0;
    for call in calling {
        calls += call.await.map_err(failed)?.map_err(failed)?;
    }
    run.note_number("all_shards_calls_per_s", calls as f64 * 1_000.0 / ms as f64);
    Ok(())
}

/// Callers that are no objects, on one thread of their own, each with an object.
async fn outside(
    run: &mut Run,
    house: &Dovehouse,
    what: &str,
    callers: usize,
    call: impl AsyncFn(&CalleeStub) -> Result<(), CallError> + Copy + 'static,
) -> Result<(), Failure> {
    let callees = house.namespace::<Callee>().map_err(failed)?;
    let tasks = tokio::task::LocalSet::new();
    let (ms, mut calling) = (run.seconds * 1_000, Vec::new());
    for number in 0..callers {
        let callee = callees.get_by_name(&format!("{what} {number}"));
        calling.push(tasks.spawn_local(async move {
            let mut latencies = histogram();
            call(&callee).await?;
            let clock = Clock::new(ms);
            while let Some(since) = clock.goes_on() {
                call(&callee).await?;
                record(&mut latencies, since.elapsed());
            }
            Ok::<Histogram<u64>, CallError>(latencies)
        }));
    }
    tasks.await;
    let mut latencies = histogram();
    for call in calling {
        let more = call.await.map_err(failed)?.map_err(failed)?;
        latencies.add(more).expect("both have three digits");
    }
    let prefix = format!("{what}_{callers}_");
    run.note_number(
        &format!("{prefix}calls_per_s"),
        latencies.len() as f64 / run.seconds as f64,
    );
    run.note_latency(&prefix, &latencies);
    Ok(())
}

/// What an awake object takes that has its state in memory and nothing to do.
async fn resident(run: &mut Run) -> Result<(), Failure> {
    let house = house(run, "resident", None, PoolSizes::default())?;
    let callees = house.namespace::<Callee>().map_err(failed)?;
    for number in 0..run.objects {
        callees
            .get_by_name(&number.to_string())
            .put(number)
            .await
            .map_err(failed)?;
    }
    house.close().await.map_err(failed)?;
    let house = self::house(run, "resident", None, PoolSizes::default())?;
    let callees = house.namespace::<Callee>().map_err(failed)?;
    callees.get_by_name("first").get().await.map_err(failed)?;
    let before = machine::heap_bytes();
    for number in 0..run.objects {
        callees
            .get_by_name(&number.to_string())
            .get()
            .await
            .map_err(failed)?;
    }
    if let Some(taken) = machine::heap_bytes_since(before) {
        let each = taken as f64 / run.objects as f64;
        run.note_number("resident_bytes_per_object", each);
    }
    house.close().await.map_err(failed)
}

/// The same with a database that is open.
async fn resident_with_sql(run: &mut Run) -> Result<(), Failure> {
    let all = DATABASES as usize + 1;
    let sizes = PoolSizes {
        hot: all,
        open: all,
        idle: 0,
    };
    let house = house(run, "sql", None, sizes)?;
    let callees = house.namespace::<Callee>().map_err(failed)?;
    callees
        .get_by_name("first")
        .select()
        .await
        .map_err(failed)?;
    let taken = || Some(machine::heap_bytes()? + dovehouse::sqlbridge::memory_used());
    let before = taken();
    for number in 0..DATABASES {
        callees
            .get_by_name(&number.to_string())
            .select()
            .await
            .map_err(failed)?;
    }
    if let Some((before, now)) = before.zip(taken()) {
        let each = now.saturating_sub(before) as f64 / DATABASES as f64;
        run.note_number("resident_bytes_per_object_with_sql", each);
    }
    house.close().await.map_err(failed)
}
