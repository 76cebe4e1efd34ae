//! What workerd's own low-level tests assert of its storage, alarms, gates, sockets and objects, asked of dovehouse.
//! `docs/behaviours.md` and `docs/behaviours-objects.md` map every behaviour to its test, here or elsewhere.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

/// Runs a call in a task of its own; it is made when the task is first polled.
macro_rules! start {
    ($stub:expr, $method:ident $arguments:tt) => {{
        let stub = $stub.clone();
        tokio::spawn(async move { stub.$method $arguments.await })
    }};
}

mod alarms;
mod gates;
mod hibernation;
mod objects;
mod pigeon;
mod sql;
mod storage;
mod waits;
