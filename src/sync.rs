//! What crosses threads by way of atomics, in one place: `tests/loom` puts loom's types here.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};

pub(crate) use tokio::sync::Notify;
