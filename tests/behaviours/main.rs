//! What workerd's own low-level tests assert of its storage, alarms, gates, sockets and objects, asked of dovehouse.
//! `docs/behaviours.md` maps every behaviour to its test, here or elsewhere.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

mod alarms;
mod pigeon;
mod sql;
mod storage;
