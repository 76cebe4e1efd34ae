//! Clients: each has one commit under way and begins the next when that is durable. Few threads drive
//! many clients, as an event loop would; the same code for every contender.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;

use crate::content::Id;
use crate::peers::{Peer, Session};

/// How long so many commits took, all together and each for itself (in nanoseconds).
pub struct Measured {
    pub elapsed: Duration,
    /// Those that were not measured included.
    pub commits: u64,
    pub latency: Histogram<u64>,
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// A histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// Counts what took so long.
pub fn record(histogram: &mut Histogram<u64>, elapsed: Duration) {
    let counted = histogram.record(elapsed.as_nanos() as u64);
    counted.expect("the histogram grows");
}

/// Microseconds of a quantile.
pub fn quantile_us(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

/// Where a driving thread is when a client of it is free.
pub struct Free<'a> {
    pub session: &'a mut dyn Session,
    pub thread: usize,
    pub client: usize,
    /// Since all threads started.
    pub at: Duration,
}

/// Drives so many clients until none has more to do: `begin` submits a commit for the one that is free, or
/// says that there is no more. `awake` has the objects of the clients, thread by thread, or is empty if
/// they are asleep. What completes before `warm` is over is not measured.
pub fn drive(
    peer: &dyn Peer,
    clients: usize,
    awake: &[Id],
    warm: Duration,
    begin: impl Fn(Free<'_>) -> Result<bool> + Sync,
) -> Result<Measured> {
    let shares = shares(clients, peer.drivers(clients));
    let mut sessions = Vec::new();
    for share in &shares {
        let awake = awake.get(share.clone()).unwrap_or_default();
        sessions.push(peer.session(awake, clients == 1)?);
    }
    let start = Instant::now();
    let outcomes: Vec<Result<(Histogram<u64>, u64)>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (thread, (session, share)) in sessions.iter_mut().zip(shares).enumerate() {
            let serving = Serving {
                session: &mut **session,
                thread,
                start,
                warm,
            };
            let begin = &begin;
            threads.push(scope.spawn(move || serving.serve(share.len(), begin)));
        }
        let panicked = |_| Err(anyhow!("a driver panicked"));
        let outcomes = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked));
        outcomes.collect()
    });
    let elapsed = start.elapsed().saturating_sub(warm);
    let (mut latency, mut commits) = (histogram(), 0);
    for outcome in outcomes {
        let (measured, all) = outcome?;
        latency.add(measured)?;
        commits += all;
    }
    Ok(Measured {
        elapsed,
        commits,
        latency,
    })
}

/// Which clients each thread has, as even as can be.
pub fn shares(clients: usize, threads: usize) -> Vec<Range<usize>> {
    let start = |thread: usize| clients * thread / threads;
    (0..threads)
        .map(|thread| start(thread)..start(thread + 1))
        .collect()
}

struct Serving<'a> {
    session: &'a mut dyn Session,
    thread: usize,
    start: Instant,
    warm: Duration,
}

impl Serving<'_> {
    /// A commit's time begins when its client is free for it, so waiting for the thread counts too.
    fn serve(
        mut self,
        clients: usize,
        begin: &impl Fn(Free<'_>) -> Result<bool>,
    ) -> Result<(Histogram<u64>, u64)> {
        let mut latency = histogram();
        let mut since = vec![Duration::ZERO; clients];
        let (mut under_way, mut commits) = (0, 0);
        for client in 0..clients {
            under_way += usize::from(begin(self.free(client, Duration::ZERO))?);
        }
        let mut done = Vec::new();
        while under_way > 0 {
            self.session.completed(&mut done)?;
            let at = self.start.elapsed();
            for client in done.drain(..) {
                if at >= self.warm {
                    record(&mut latency, at - since[client]);
                }
                since[client] = at;
                commits += 1;
                under_way -= 1;
                under_way += usize::from(begin(self.free(client, at))?);
            }
        }
        Ok((latency, commits))
    }

    fn free(&mut self, client: usize, at: Duration) -> Free<'_> {
        Free {
            session: self.session,
            thread: self.thread,
            client,
            at,
        }
    }
}
