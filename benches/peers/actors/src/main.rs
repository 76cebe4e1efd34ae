//! The same calls between actors in dovehouse, ractor and kameo; see README.md.
//!
//! A call adds a number to the callee's sum and brings the sum back. Callers are actors that call from a
//! handler, or tasks outside. Nothing is stored: only dovehouse could.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

/// Makes a call for so long, and counts: a `Result<u64>`. A macro, because futures of closures are not known to be `Send`.
macro_rules! repeat {
    ($time:expr, $call:expr) => {{
        let (clock, mut calls) = ($crate::Clock::new($time), 0);
        while clock.goes_on() {
            for _ in 0..$crate::AT_A_TIME {
                $call.await?;
            }
            calls += $crate::AT_A_TIME;
        }
        Ok(calls)
    }};
}

mod dovehouse_calls;
mod kameo_calls;
mod ractor_calls;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use comfy_table::Table;
use serde_json::json;

/// Calls between two looks at the clock.
const AT_A_TIME: u64 = 64;
/// Callers at work at once, where it says "many".
const MANY: usize = 64;

/// The same calls between actors in dovehouse, ractor and kameo
#[derive(Parser)]
struct Arguments {
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// When to stop.
#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    time: Duration,
}

impl Clock {
    fn new(time: Duration) -> Self {
        let start = Instant::now();
        Clock { start, time }
    }

    fn goes_on(&self) -> bool {
        self.start.elapsed() < self.time
    }
}

/// Who calls whom: so many pairs at once, from a handler of an actor or from a task outside.
#[derive(Clone, Copy)]
struct Shape {
    pairs: usize,
    from_actors: bool,
}

const SHAPES: [Shape; 4] = [
    Shape {
        pairs: 1,
        from_actors: true,
    },
    Shape {
        pairs: MANY,
        from_actors: true,
    },
    Shape {
        pairs: 1,
        from_actors: false,
    },
    Shape {
        pairs: MANY,
        from_actors: false,
    },
];

impl Shape {
    fn name(self) -> String {
        let from = if self.from_actors {
            "actor to actor"
        } else {
            "from outside"
        };
        format!("{from}, {} at once", self.pairs)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let time = Duration::from_secs_f64(arguments.seconds);
    let peers = ["dovehouse", "ractor", "kameo"];
    let mut rates = vec![vec![Vec::new(); peers.len()]; SHAPES.len()];
    for _ in 0..arguments.rounds {
        for (shape, rates) in SHAPES.iter().zip(&mut rates) {
            for (peer, rates) in rates.iter_mut().enumerate() {
                // A runtime for each, so that nobody's tasks are left to the next.
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()?;
                let calls = runtime.block_on(async {
                    match peer {
                        0 => dovehouse_calls::run(*shape, time).await,
                        1 => ractor_calls::run(*shape, time).await,
                        _ => kameo_calls::run(*shape, time).await,
                    }
                })?;
                rates.push(calls as f64 / arguments.seconds);
                runtime.shutdown_background();
            }
        }
    }
    let median = |rates: &[f64]| {
        let mut sorted = rates.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let mut table = Table::new();
    table.set_header(["", "", "calls/s", "µs for each, of one caller"]);
    let mut found = Vec::new();
    for (shape, rates) in SHAPES.iter().zip(&rates) {
        for (peer, rates) in peers.iter().zip(rates) {
            let rate = median(rates);
            let us = 1e6 * shape.pairs as f64 / rate;
            table.add_row([
                shape.name(),
                (*peer).to_owned(),
                format!("{rate:.0}"),
                format!("{us:.2}"),
            ]);
            found.push(json!({ "shape": shape.name(), "peer": peer, "calls_per_s": rate.round() }));
        }
    }
    match arguments.json {
        true => println!(
            "{:#}",
            json!({ "schema": 1, "seconds": arguments.seconds, "rounds": arguments.rounds, "found": found })
        ),
        false => println!("{table}"),
    }
    Ok(())
}

/// Sums what tasks have counted.
async fn sum(tasks: Vec<tokio::task::JoinHandle<Result<u64>>>) -> Result<u64> {
    let mut calls = 0;
    for task in tasks {
        calls += task.await??;
    }
    Ok(calls)
}
