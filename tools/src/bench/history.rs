//! What history costs: commits with it and without, its bytes, and how long it takes to go back.

mod latency;
mod month;
mod overhead;
mod sizes;

use super::Run;
use crate::exit::Failure;

pub(super) fn run(run: &mut Run) -> Result<(), Failure> {
    run.note("quick", run.quick);
    run.note("checkpoint_bytes", run.checkpoint_bytes);
    overhead::run(run)?;
    sizes::run(run)?;
    month::run(run)?;
    latency::run(run)
}
