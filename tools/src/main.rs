//! `dovehouse`: look into a store, check it, export from it and import into it.
//!
//! Everything but `load`, `bench`, `sqllogictest`, `compact`, `restore`, `fork`, `retention` and the imports opens the store for reading only: nothing is
//! written, and what a crash left in the log is replayed in memory.

#[cfg(feature = "bench")]
mod bench;
mod compact;
#[cfg(feature = "sql")]
mod diff;
mod dump;
mod exit;
#[cfg(feature = "sql")]
mod export;
mod fork;
mod history;
#[cfg(feature = "import")]
mod import;
#[cfg(feature = "import")]
mod import_wrangler;
mod kv;
#[cfg(feature = "load")]
mod load;
mod ls;
mod output;
mod point;
mod restore;
mod retention;
mod show;
#[cfg(feature = "sql")]
mod sql;
#[cfg(feature = "sqllogictest")]
mod sqllogictest;
mod store;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use exit::Failure;

/// Look into a dovehouse store, check it, export from it.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
OBJECT is an object's id (64 hex digits), the start of one, or Class:name.
POINT is a bookmark, a time as 2026-11-28T12:00:00Z, or how long ago, as -30m, -2h or -7d.

Exit codes: 0 fine, 1 failure, 2 wrong usage, 3 damage found, 5 no such object,
6 the store is open in another process, 7 the store's format is newer than this program,
8 what failed fails with stock SQLite too.";

#[derive(Subcommand)]
enum Command {
    /// List the objects of a store
    Ls(ls::Arguments),
    /// Show what is known of one object
    Show(show::Arguments),
    /// Read an object's keys
    Kv(kv::Arguments),
    /// Run a query on an object's database, or on the store
    #[cfg(feature = "sql")]
    Sql(sql::Arguments),
    /// Write an object's database to a plain SQLite file, or those of all objects
    #[cfg(feature = "sql")]
    Export(export::Arguments),
    /// List what an object was: its commits, the newest first
    History(history::Arguments),
    /// Show what differs between two points of an object
    #[cfg(feature = "sql")]
    Diff(diff::Arguments),
    /// Make an object what it was, or all objects of a class or of the store
    Restore(restore::Arguments),
    /// Make a new object of what another one was
    Fork(fork::Arguments),
    /// Show or set for how long a class keeps its history
    Retention(retention::Arguments),
    /// Put a plain SQLite file into an object
    #[cfg(feature = "import")]
    Import(import::Arguments),
    /// Import the objects of a class from a directory of workerd, wrangler or miniflare
    #[cfg(feature = "import")]
    ImportWrangler(import_wrangler::Arguments),
    /// Check a store for damage
    Verify(verify::Arguments),
    /// Give back the space of what is dead
    Compact(compact::Arguments),
    /// Take the log apart, field by field
    Dump(dump::Arguments),
    /// Run scripts of SQL with known results on objects, beside stock SQLite
    #[cfg(feature = "sqllogictest")]
    Sqllogictest(sqllogictest::Arguments),
    /// Measure what this machine and its disk reach
    #[cfg(feature = "bench")]
    Bench(bench::Arguments),
    /// Write numbered commits, for crash tests; or print what a crash left of them
    #[cfg(feature = "load")]
    Load(load::Arguments),
    /// Write the man page to a directory
    #[command(hide = true)]
    Man {
        /// Where to
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let result = match command {
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Kv(arguments) => kv::run(&arguments),
        #[cfg(feature = "sql")]
        Command::Sql(arguments) => sql::run(&arguments),
        #[cfg(feature = "sql")]
        Command::Export(arguments) => export::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        #[cfg(feature = "sql")]
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Fork(arguments) => fork::run(&arguments),
        Command::Retention(arguments) => retention::run(&arguments),
        #[cfg(feature = "import")]
        Command::Import(arguments) => import::run(&arguments),
        #[cfg(feature = "import")]
        Command::ImportWrangler(arguments) => import_wrangler::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Compact(arguments) => compact::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        #[cfg(feature = "sqllogictest")]
        Command::Sqllogictest(arguments) => sqllogictest::run(&arguments),
        #[cfg(feature = "bench")]
        Command::Bench(arguments) => bench::run(&arguments),
        #[cfg(feature = "load")]
        Command::Load(arguments) => load::run(&arguments),
        Command::Man { dir } => {
            clap_mangen::generate_to(Arguments::command().name("dovehouse"), dir)
                .map_err(Failure::from)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
