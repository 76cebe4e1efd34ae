//! A rate limiter: each client has a durable bucket of tokens, which fills up again with time.
//!
//! ```text
//! cargo run --example rate_limiter
//! ```
//! The bucket is durable, so that a restart is no way to a new burst. When it is full an alarm removes it: a
//! client that is gone takes no space.

// `pub` marks what can be called through a stub; the stub's documentation is the method's.
#![allow(unreachable_pub, missing_docs)]

use dovehouse::{Ctx, Dovehouse, Result};
use serde::{Deserialize, Serialize};

/// What a client may do: so many requests at once, and one more every so many milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Limit {
    pub burst: u64,
    pub every_ms: u64,
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Decision {
    Allowed { left: u64 },
    RetryAfterMs(u64),
}

/// One client's bucket. What is stored is when it will be full: it fills without being touched.
#[derive(Debug)]
pub struct Bucket;

#[dovehouse::object(storage = "kv")]
impl Bucket {
    fn new() -> Self {
        Bucket
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, ctx: &Ctx, limit: Limit) -> Result<Decision> {
        let now_ms = ctx.now_ms();
        let stored = ctx.kv().get("full at")?;
        let full_ms = stored.and_then(|bytes| bytes.try_into().ok());
        let full_ms = full_ms.map_or(now_ms, u64::from_le_bytes).max(now_ms);
        // With this token it will be full so much later; it never lacks more than the burst.
        let full_ms = full_ms + limit.every_ms;
        let lacks_ms = full_ms - now_ms;
        let capacity_ms = limit.burst * limit.every_ms;
        if lacks_ms > capacity_ms {
            return Ok(Decision::RetryAfterMs(lacks_ms - capacity_ms));
        }
        ctx.kv().put("full at", full_ms.to_le_bytes())?;
        ctx.alarm().set(full_ms)?;
        let left = (capacity_ms - lacks_ms) / limit.every_ms;
        Ok(Decision::Allowed { left })
    }

    /// It is full, which is what a new one is too.
    fn alarm(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.delete_all()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("rate-limiter-{}", std::process::id()));
    let house = Dovehouse::open(&dir)?;
    let client = house.namespace::<Bucket>()?.get_by_name("192.0.2.7");
    let limit = Limit {
        burst: 3,
        every_ms: 1000,
    };
    for request in 1..=5 {
        println!("request {request}: {:?}", client.take(limit).await?);
    }
    house.close().await?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
