//! The same workloads over dovehouse and over other embedded stores, in one run on one disk; see README.md.

#![expect(clippy::disallowed_methods, reason = "benches measure real time")]

mod batcher;
mod content;
mod drive;
mod files;
mod machine;
mod output;
mod peers;
mod plot;
mod workloads;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::output::Section;
use crate::peers::Engine;
use crate::workloads::{Run, Workload};

/// Files that SQLite has open for 1,024 clients, and some.
const OPEN_FILES: u64 = 8192;

/// The same workloads over dovehouse and over other embedded stores
#[derive(Parser)]
struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement of commits and warm reads takes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many objects there are to read from; a file for each is limited to 2,000
    #[arg(long, default_value_t = 100_000)]
    objects: u64,
    /// Who is measured; default: all
    #[arg(long, value_enum, value_delimiter = ',')]
    engines: Vec<Engine>,
    /// What is measured; default: all
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// A directory for the stores, which must not be there yet; kept afterwards. Default: one in the
    /// directory for temporary files, removed afterwards
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print one JSON document, and the tables to standard error
    #[arg(long)]
    json: bool,
    /// Plot the commits into this file
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Where ids and content come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Two short rounds over few objects: to see that it works
    #[arg(long)]
    quick: bool,
    /// Be the writer that is killed; needs --data
    #[arg(long, hide = true, value_enum)]
    killed_writer: Option<Engine>,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    if let (Some(engine), Some(dir)) = (arguments.killed_writer, &arguments.data) {
        return workloads::child(engine, dir, arguments.objects, arguments.seed);
    }
    if arguments.quick {
        (arguments.rounds, arguments.seconds, arguments.objects) = (2, 0.2, 2_000);
    }
    ensure!(
        arguments.rounds > 0 && arguments.objects > 0,
        "nothing to measure"
    );
    or_all(&mut arguments.engines);
    or_all(&mut arguments.workloads);
    allow_open_files()?;

    // Removed when it is dropped.
    let temporary = match arguments.data {
        Some(_) => None,
        None => Some(tempfile::tempdir()?),
    };
    let dir = match (&arguments.data, &temporary) {
        (Some(dir), _) if dir.exists() => bail!("{} is there already", dir.display()),
        (Some(dir), _) => dir.clone(),
        (None, temporary) => temporary
            .as_ref()
            .context("it was made")?
            .path()
            .join("data"),
    };
    std::fs::create_dir_all(&dir)?;
    let run = Run {
        dir,
        engines: arguments.engines.clone(),
        rounds: arguments.rounds,
        time: Duration::try_from_secs_f64(arguments.seconds)?,
        objects: arguments.objects,
        seed: arguments.seed,
        bar: output::progress(0),
    };
    let machine = machine::describe(&run.dir);
    let sections = run.run(&arguments.workloads)?;
    run.bar.finish_and_clear();
    report(&arguments, &machine, &sections)
}

/// Everything, if nothing was chosen; nothing twice.
fn or_all<T: ValueEnum + PartialEq + Copy>(chosen: &mut Vec<T>) {
    let all = T::value_variants().iter();
    let wanted = all.filter(|value| chosen.is_empty() || chosen.contains(value));
    *chosen = wanted.copied().collect();
}

fn allow_open_files() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let highest = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < OPEN_FILES) {
        limit.current = Some(OPEN_FILES.min(highest));
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(())
}

fn report(arguments: &Arguments, machine: &Value, sections: &[Section]) -> Result<()> {
    if let Some(path) = &arguments.svg {
        let commits = sections.iter().find(|section| section.name == "commit");
        let lines = workloads::lines(commits.context("a plot needs the workload commit")?);
        std::fs::write(path, plot::svg(&lines)?)?;
    }
    let engines: Vec<&str> = arguments
        .engines
        .iter()
        .map(|engine| engine.name())
        .collect();
    let parameters = json!({
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "objects": arguments.objects,
        "engines": engines,
        "seed": arguments.seed,
    });
    if !arguments.json {
        return tables(&mut std::io::stdout(), &parameters, machine, sections);
    }
    tables(&mut std::io::stderr(), &parameters, machine, sections)?;
    let results = sections
        .iter()
        .map(|section| (section.name.to_owned(), section.to_json()));
    let document = json!({
        "schema": 1,
        "bench": "peers",
        "parameters": parameters,
        "machine": machine,
        "results": Value::Object(results.collect::<Map<_, _>>()),
    });
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    Ok(writeln!(out)?)
}

fn tables(
    out: &mut dyn Write,
    parameters: &Value,
    machine: &Value,
    sections: &[Section],
) -> Result<()> {
    writeln!(out, "machine: {machine}\nparameters: {parameters}")?;
    for section in sections {
        section.print(out)?;
    }
    Ok(())
}
