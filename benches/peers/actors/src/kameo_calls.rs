//! Calls in kameo: `ask`, which waits for the answer, with the default mailbox.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Result, anyhow};
use kameo::actor::{Actor, ActorRef, Spawn};
use kameo::message::{Context, Message};

use super::{Shape, sum};

struct Callee {
    sum: u64,
}

impl Actor for Callee {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(callee: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(callee)
    }
}

struct Add(u64);

impl Message<Add> for Callee {
    type Reply = u64;

    async fn handle(&mut self, Add(number): Add, _: &mut Context<Self, u64>) -> u64 {
        self.sum += number;
        self.sum
    }
}

struct CallOther(ActorRef<Callee>, Duration);

impl Message<CallOther> for Callee {
    type Reply = u64;

    async fn handle(
        &mut self,
        CallOther(other, time): CallOther,
        _: &mut Context<Self, u64>,
    ) -> u64 {
        let calls: Result<u64> = async { repeat!(time, add(&other)) }.await;
        calls.expect("the other goes on")
    }
}

async fn add(callee: &ActorRef<Callee>) -> Result<()> {
    callee
        .ask(Add(1))
        .await
        .map(drop)
        .map_err(|error| anyhow!("{error}"))
}

pub async fn run(shape: Shape, time: Duration) -> Result<u64> {
    let mut tasks = Vec::new();
    for _ in 0..shape.pairs {
        let caller = Callee::spawn(Callee { sum: 0 });
        let callee = Callee::spawn(Callee { sum: 0 });
        tasks.push(tokio::spawn(async move {
            match shape.from_actors {
                true => {
                    let calls = caller.ask(CallOther(callee, time)).await;
                    calls.map_err(|error| anyhow!("{error}"))
                }
                false => repeat!(time, add(&callee)),
            }
        }));
    }
    sum(tasks).await
}
