//! Calls in ractor: `call!`, which waits for the answer.

use std::time::Duration;

use anyhow::Result;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, call};

use super::{Shape, sum};

struct Callee;

enum Message {
    Add(u64, RpcReplyPort<u64>),
    CallOther(ActorRef<Message>, Duration, RpcReplyPort<u64>),
}

impl Actor for Callee {
    type Msg = Message;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        sum: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Add(number, reply) => {
                *sum += number;
                reply.send(*sum)?;
            }
            Message::CallOther(other, time, reply) => {
                let calls: Result<u64> = repeat!(time, add(&other));
                reply.send(calls?)?;
            }
        }
        Ok(())
    }
}

async fn add(callee: &ActorRef<Message>) -> Result<u64> {
    Ok(call!(callee, Message::Add, 1)?)
}

pub async fn run(shape: Shape, time: Duration) -> Result<u64> {
    let mut tasks = Vec::new();
    for _ in 0..shape.pairs {
        let (caller, _) = Actor::spawn(None, Callee, ()).await?;
        let (callee, _) = Actor::spawn(None, Callee, ()).await?;
        tasks.push(tokio::spawn(async move {
            match shape.from_actors {
                true => Ok(call!(caller, Message::CallOther, callee, time)?),
                false => repeat!(time, add(&callee)),
            }
        }));
    }
    sum(tasks).await
}
