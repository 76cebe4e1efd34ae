//! The command, run as people run it.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use dovehouse_engine::ObjectId;

/// Starts a process, one at a time. Until it runs its own program, a new process has all files of this one
/// open, also those of other tests, and with them the locks of stores which these close meanwhile. Once this
/// returns, no process is in between.
pub(crate) fn spawn(command: &mut Command) -> Child {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn dovehouse(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dovehouse"));
    let child = spawn(command.args(arguments).stderr(Stdio::piped()));
    child.wait_with_output().unwrap()
}

/// Runs the command, expects this exit code, and returns what it printed.
pub(crate) fn run(code: i32, arguments: &[&str]) -> String {
    let output = dovehouse(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{text}\n{errors}"
    );
    if code != 0 { text + &errors } else { text }
}

pub(crate) fn id(number: u8) -> ObjectId {
    ObjectId::from_bytes([number; 32])
}

/// Every file of a store with its content and time.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let content = |path: PathBuf| {
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        (path.clone(), (std::fs::read(&path).unwrap(), modified))
    };
    entries.map(content).collect()
}
