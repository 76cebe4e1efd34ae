//! The workloads, and what they are run with.

mod big;
mod cold;
mod commit;
mod create;
mod disk;
mod read;
mod reopen;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

pub use commit::lines;
pub use reopen::child;

use crate::output::Section;
use crate::peers::Engine;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Durable small commits of 1 to 1,024 clients
    Commit,
    /// Creating objects
    Create,
    /// Reading from objects with warm caches
    Read,
    /// Reading from objects with nothing cached
    Cold,
    /// Bytes on disk for each object
    Disk,
    /// Opening after a clean close and after a kill
    Reopen,
    /// One map of a million keys
    Big,
}

/// What the workloads are run with.
pub struct Run {
    /// Where all stores lie.
    pub dir: PathBuf,
    pub engines: Vec<Engine>,
    pub rounds: usize,
    pub time: Duration,
    pub objects: u64,
    pub seed: u64,
    pub bar: ProgressBar,
}

impl Run {
    /// Runs workloads one after the other. Those that read need objects, and get them.
    pub fn run(&self, workloads: &[Workload]) -> Result<Vec<Section>> {
        let wants = |workload| workloads.contains(&workload);
        let mut sections = Vec::new();
        if wants(Workload::Commit) {
            sections.push(commit::run(self)?);
        }
        if wants(Workload::Big) {
            sections.push(big::run(self)?);
        }
        let needs_none = |workload: &Workload| matches!(workload, Workload::Commit | Workload::Big);
        if workloads.iter().all(needs_none) {
            return Ok(sections);
        }
        let rounds = if wants(Workload::Create) {
            self.rounds
        } else {
            1
        };
        let created = create::run(self, rounds)?;
        let settled = disk::run(self)?;
        if wants(Workload::Create) {
            sections.push(created);
        }
        if wants(Workload::Read) {
            sections.push(read::run(self)?);
        }
        if wants(Workload::Cold) {
            sections.push(cold::run(self)?);
        }
        if wants(Workload::Disk) {
            sections.push(settled);
        }
        if wants(Workload::Reopen) {
            sections.push(reopen::run(self)?);
        }
        Ok(sections)
    }

    /// The store with an engine's objects.
    fn store(&self, engine: Engine) -> PathBuf {
        self.dir.join(format!("objects-{}", engine.name()))
    }

    /// One measurement of each engine after the other, then the next round: what disturbs the machine for a
    /// while disturbs all of them. Returns what each engine's rounds gave.
    fn interleave<T>(
        &self,
        what: &str,
        rounds: usize,
        mut measure: impl FnMut(Engine, usize) -> Result<T>,
    ) -> Result<Vec<(Engine, Vec<T>)>> {
        let mut found: Vec<(Engine, Vec<T>)> = Vec::new();
        found.extend(self.engines.iter().map(|engine| (*engine, Vec::new())));
        self.bar.inc_length((rounds * found.len()) as u64);
        for round in 0..rounds {
            for (engine, results) in &mut found {
                self.bar.set_message(format!("{what}: {}", engine.name()));
                results.push(measure(*engine, round)?);
                self.bar.inc(1);
            }
        }
        Ok(found)
    }
}
