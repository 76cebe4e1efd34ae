//! Durable commits a second, with so many clients that each wait for their own.

use std::time::{Duration, Instant};

use dovehouse_engine::{Engine, Object, Ticket};
use hdrhistogram::Histogram;

use super::{Run, content, histogram, record};
use crate::exit::Failure;
use crate::output;

const KEY: &[u8; 16] = b"sixteen byte key";
const VALUE_BYTES: usize = 44;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    let engine = run.open()?;
    // Zero-filling the first segments is not what is asked.
    measure(&engine, run, Duration::from_millis(500), "warming up")?;
    let before = engine.stats().log;
    let measured = measure(&engine, run, Duration::from_secs(run.seconds), "seconds")?;
    let after = engine.stats().log;
    let written = after.log_bytes - before.log_bytes;
    run.note_rate(measured.operations, measured.elapsed);
    run.note_latency("", &measured.latency);
    run.note(
        "durable_writes",
        after.durable_writes - before.durable_writes,
    );
    run.note_number("bytes_per_op", written as f64 / measured.operations as f64);
    run.note("realtime_committer", after.realtime_committer);
    engine.close()?;
    Ok(())
}

pub(super) struct Measured {
    pub(super) operations: u64,
    pub(super) elapsed: Duration,
    pub(super) latency: Histogram<u64>,
}

/// A client: an object or a database of its own, and its commit under way.
pub(super) struct Client<T> {
    own: T,
    under_way: Option<(Ticket, Instant)>,
}

impl<T> Client<T> {
    pub(super) fn new(own: T) -> Self {
        let under_way = None;
        Client { own, under_way }
    }
}

/// How many threads serve so many clients.
pub(super) fn threads(clients: usize) -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(clients)
}

/// Commits from all clients for so long. Few threads serve many clients, as an event loop would.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
pub(super) fn measure(
    engine: &Engine,
    run: &Run,
    time: Duration,
    what: &'static str,
) -> Result<Measured, Failure> {
    let class = engine.class("Commit")?;
    let threads = threads(run.clients);
    let mut parts: Vec<Vec<Client<Object>>> = (0..threads).map(|_| Vec::new()).collect();
    for number in 0..run.clients {
        let object = engine.wake(class, content::id(!run.seed, number as u64))?;
        parts[number % threads].push(Client::new(object));
    }
    let bar = output::progress(time.as_secs(), what);
    // What this store was measured with before has other values.
    let first_round = engine.now_ms() << 20;
    let start = Instant::now();
    let outcomes: Vec<Result<Histogram<u64>, Failure>> = std::thread::scope(|scope| {
        let serving: Vec<_> = parts
            .into_iter()
            .map(|mut clients| {
                let bar = &bar;
                scope.spawn(move || {
                    let latency = serve(&mut clients, start, time, bar, |object, round| {
                        put(object, first_round + round)
                    });
                    // Nobody's objects fall asleep within what is measured.
                    (latency, clients)
                })
            })
            .collect();
        let joined = serving
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic").0);
        joined.collect()
    });
    let elapsed = start.elapsed();
    bar.finish_and_clear();
    let mut latency = histogram();
    for outcome in outcomes {
        latency.add(outcome?).expect("the same bounds");
    }
    Ok(Measured {
        operations: latency.len(),
        elapsed,
        latency,
    })
}

/// The commit of one key, whose value no round before had.
fn put(object: &mut Object, round: u64) -> Result<Ticket, Failure> {
    let mut value = [b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&round.to_le_bytes());
    object.put(KEY, &value).expect("room");
    Ok(object.commit()?.expect("the value is new"))
}

/// Lets each client commit again once its last commit is durable.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
pub(super) fn serve<T>(
    clients: &mut [Client<T>],
    start: Instant,
    time: Duration,
    bar: &indicatif::ProgressBar,
    commit: impl Fn(&mut T, u64) -> Result<Ticket, Failure>,
) -> Result<Histogram<u64>, Failure> {
    let mut latency = histogram();
    let mut round = 0_u64;
    while start.elapsed() < time {
        let mut progress = false;
        for client in clients.iter_mut() {
            match client.under_way.take() {
                Some((ticket, since)) if !ticket.is_durable() => {
                    client.under_way = Some((ticket, since));
                    continue;
                }
                Some((_, since)) => record(&mut latency, since.elapsed()),
                None => {}
            }
            progress = true;
            round += 1;
            let since = Instant::now();
            let ticket = commit(&mut client.own, round)?;
            client.under_way = Some((ticket, since));
        }
        if !progress && let Some((ticket, _)) = &clients[0].under_way {
            ticket.wait().map_err(content::engine_error)?;
            bar.set_position(start.elapsed().as_secs());
        }
    }
    for (ticket, since) in clients
        .iter_mut()
        .filter_map(|client| client.under_way.take())
    {
        ticket.wait().map_err(content::engine_error)?;
        record(&mut latency, since.elapsed());
    }
    Ok(latency)
}
