//! Counters: each name is a durable object that counts.
//!
//! ```text
//! cargo run --example counter -- DIR NAME
//! ```
//! Counts on, and shows the counters that were counted last. Run it as often as you like, and kill it: a count
//! that was shown is there the next time.

// `pub` marks what can be called through a stub; the stub's documentation is the method's.
#![allow(unreachable_pub, missing_docs)]

use dovehouse::{Ctx, Dovehouse, Order, Query, Result};

/// A number that only grows, until it is reset.
#[derive(Debug)]
pub struct Counter {
    /// What the storage has too: reading it takes no look there.
    value: u64,
}

#[dovehouse::object(storage = "kv")]
impl Counter {
    fn new(ctx: &Ctx) -> Result<Self> {
        let stored = ctx.kv().get("value")?;
        let value = stored.and_then(|bytes| bytes.try_into().ok());
        Ok(Counter {
            value: value.map_or(0, u64::from_le_bytes),
        })
    }

    /// Adds to the counter, and returns its value once that is durable.
    pub fn add(&mut self, ctx: &Ctx, amount: u64) -> Result<u64> {
        let value = self.value.saturating_add(amount);
        ctx.kv().put("value", value.to_le_bytes())?;
        // Only now: an error above has left both as they were.
        self.value = value;
        Ok(value)
    }

    pub fn value(&self) -> u64 {
        self.value
    }

    /// Starts from 0. The counter takes no space from then on.
    pub fn reset(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.delete_all()?;
        self.value = 0;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err("usage: counter DIR NAME".into());
    };
    let house = Dovehouse::open(dir)?;
    let counters = house.namespace::<Counter>()?;
    let counter = counters.get_by_name(&name);
    println!("{name}: {}", counter.add(1).await?);
    house.evict(counter.id()).await?;

    let recent = Query::default().order(Order::LastWritten).limit(5);
    for found in counters.objects(recent).await?.objects {
        let value = counters.get(found.id.clone()).value().await?;
        println!("  {} is at {value}", found.id.name().unwrap_or("?"));
    }
    house.close().await?;
    Ok(())
}
