//! Arming alarms, and finding the ones that are due.

use std::time::Instant;

use dovehouse_engine::{Alarm, Object};

use super::{Run, content, histogram, record};
use crate::exit::Failure;

const START_MS: u64 = 1_800_000_000_000;
/// Alarms are spread over a day.
const SPAN_MS: u64 = 86_400_000;
const FOUND_AT_ONCE: usize = 100;
const LOOKS: u64 = 1000;

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let write = |object: &mut Object, _| {
        object.set_alarm(Alarm {
            due_ms: START_MS + rng.u64(..SPAN_MS),
            ..Alarm::default()
        });
    };
    let start = Instant::now();
    content::load(&engine, run.objects, "alarms", write, run.seed)?;
    run.note_rate(run.objects, start.elapsed());
    engine.close()?;
    drop(engine);

    let engine = run.reopen()?;
    let (mut next, mut due) = (histogram(), histogram());
    for _ in 0..LOOKS {
        let since = Instant::now();
        let earliest = engine.next_due().expect("alarms are armed");
        record(&mut next, since.elapsed());
        let since = Instant::now();
        let found = engine.due_until(earliest + SPAN_MS / 100, FOUND_AT_ONCE)?;
        record(&mut due, since.elapsed());
        assert!(!found.is_empty(), "the earliest alarm is among them");
    }
    run.note_latency("next_due_", &next);
    run.note_latency("due_until_", &due);
    engine.close()?;
    Ok(())
}
