//! Calls in dovehouse: two shards, caller and callee on the same one, as objects that belong together can be.

use std::time::Duration;

use anyhow::Result;
use dovehouse::{CallError, Dovehouse, Namespace};

use super::{Shape, sum};

const SHARDS: u64 = 2;

struct Callee {
    sum: u64,
}

#[dovehouse::object]
impl Callee {
    fn new() -> Self {
        Callee { sum: 0 }
    }

    pub fn add(&mut self, number: u64) -> u64 {
        self.sum += number;
        self.sum
    }

    pub async fn call_other(&mut self, other: CalleeStub, us: u64) -> Result<u64, CallError> {
        repeat!(Duration::from_micros(us), other.add(1))
    }
}

/// The shard of an object: its id's first eight bytes tell.
fn shard(callee: &CalleeStub) -> u64 {
    let id = callee.id().raw();
    let first = id.as_bytes()[..8].try_into().expect("eight of 32");
    u64::from_le_bytes(first) % SHARDS
}

/// An object on the same shard as another.
fn beside(callees: &Namespace<Callee>, caller: &CalleeStub, number: usize) -> CalleeStub {
    let mut found = (0..).map(|attempt| callees.get_by_name(&format!("callee {number} {attempt}")));
    let found = found.find(|callee| shard(callee) == shard(caller));
    found.expect("every other one is")
}

pub async fn run(shape: Shape, time: Duration) -> Result<u64> {
    let dir = tempfile::tempdir()?;
    let house = Dovehouse::builder(dir.path())
        .shards(SHARDS as usize)
        .open()?;
    let callees = house.namespace::<Callee>()?;
    let mut tasks = Vec::new();
    for number in 0..shape.pairs {
        let caller = callees.get_by_name(&format!("caller {number}"));
        let callee = beside(&callees, &caller, number);
        tasks.push(tokio::spawn(async move {
            match shape.from_actors {
                true => Ok(caller.call_other(callee, time.as_micros() as u64).await?),
                false => repeat!(time, callee.add(1)),
            }
        }));
    }
    let calls = sum(tasks).await;
    house.close().await?;
    calls
}
