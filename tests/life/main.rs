//! The life of objects as their users see it: names, alarms, classes that come and go, and locations.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

mod alarms;
mod collab;
mod examples;
mod identity;
mod kit;
mod lifecycle;
mod locations;
mod tally;
