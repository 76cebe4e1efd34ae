//! Gates, sections, transactions, calls and ends of objects, as their users see them. The clock is moved and the
//! disk held, so that every order is the test's.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

/// Runs a call in a task of its own; it is made when the task is first polled.
macro_rules! start {
    ($stub:expr, $method:ident $arguments:tt) => {{
        let stub = $stub.clone();
        tokio::spawn(async move { stub.$method $arguments.await })
    }};
}

mod calls;
mod dove;
mod limits;
mod passing;
mod sections;
mod storage;
