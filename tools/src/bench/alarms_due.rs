//! Alarms of many objects that are all due in the same second, through the whole runtime: how late each
//! handler begins.

// The runtime reaches the handler through generated code.
#![allow(unreachable_pub)]

use std::time::{Duration, Instant};

use dovehouse::{AlarmInfo, Ctx, Dovehouse};
use dovehouse_engine::{Alarm, Object};
use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::{Run, content, histogram, machine, record};
use crate::exit::Failure;

/// The alarms are spread over this.
const SPAN_MS: u64 = 1000;
/// Time to arm them, beyond what each takes, and to open the house.
const AHEAD_MS: u64 = 5000;
/// As many are armed in a millisecond, at the least.
const ARMED_A_MS: u64 = 20;

/// How late the handlers began. The objects are made by the runtime, so there is no other way to them.
static LATE: Mutex<Option<Histogram<u64>>> = Mutex::new(None);

/// An object that has one alarm. The class is that of the content.
struct Due;

#[dovehouse::object(class = "Bench")]
impl Due {
    fn new() -> Self {
        Due
    }

    fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> dovehouse::Result<()> {
        let late_ms = ctx.now_ms() - alarm.scheduled_ms; // Early would be an overflow.
        if let Some(late) = &mut *LATE.lock() {
            record(late, Duration::from_millis(late_ms));
        }
        ctx.kv().put("fired", late_ms.to_le_bytes())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "benches measure real time, and wait for it"
)]
pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let due_ms = engine.now_ms() + AHEAD_MS + run.objects / ARMED_A_MS;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let write = |object: &mut Object, _| {
        object.set_alarm(Alarm {
            due_ms: due_ms + rng.u64(..SPAN_MS),
            ..Alarm::default()
        });
    };
    content::load(&engine, run.objects, "alarms", write, run.seed)?;
    engine.close()?;
    drop(engine);
    *LATE.lock() = Some(histogram());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let failed = |error: dovehouse::Error| Failure::new(crate::exit::FAILURE, error.to_string());
    let house = Dovehouse::open(&run.dir).map_err(failed)?;
    let _handles_alarms = house.namespace::<Due>().map_err(failed)?;
    if house.engine().now_ms() >= due_ms {
        let message = "arming took longer than was planned; try fewer objects";
        return Err(Failure::new(crate::exit::FAILURE, message.to_owned()));
    }
    while house.engine().now_ms() < due_ms {
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    // None is left once the last handler's commit has its place in the log.
    while house.engine().next_due().is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    run.note_rate(run.objects, start.elapsed());
    run.note("heap_bytes", machine::heap_bytes());
    runtime.block_on(house.close()).map_err(failed)?;
    let late = LATE.lock().take().expect("it was put there");
    run.note("fired", late.len());
    run.note_latency("late_", &late);
    run.note_number("late_max_us", late.max() as f64 / 1000.0);
    Ok(())
}
