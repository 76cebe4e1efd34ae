//! The shared log of dovehouse: bytes, their order, and when they are durable.
//!
//! This crate does **not** know objects, their state or their identity.

#![forbid(unsafe_code)]

pub mod fs;
pub mod sim;
