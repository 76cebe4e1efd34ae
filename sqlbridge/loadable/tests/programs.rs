//! The library in programs with a SQLite of their own: Python's, and the `sqlite3` shell's. What is not
//! installed is left out, with a line that says so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library. Cargo builds it for no test, as none can link it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a file");
        let profile = test.ancestors().nth(2).expect("it is in PROFILE/deps");
        let target = profile.parent().expect("that is in the target directory");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--locked",
            "--features",
            "loadable",
            "--target-dir",
        ]);
        cargo.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo is there").success());
        profile.join("libdovehouse_sqlbridge.so")
    })
}

/// Runs a program in a directory of its own. `None` if there is no such program.
fn run(program: &str, arguments: &[&str], dir: &Path) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("LIBRARY", library())
        .env_remove("DOVEHOUSE_STORE")
        .env_remove("DOVEHOUSE_DEFAULT_VFS")
        .current_dir(dir)
        .output();
    let Ok(output) = output else {
        println!("left out: there is no {program}");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}\n{errors}");
    Some(said)
}

/// It would be another SQLite than the one whose connections it serves.
#[test]
fn the_library_brings_no_sqlite_of_its_own() {
    let bytes = std::fs::read(library()).unwrap();
    // From SQLite's sources, and from ours, to see that it can be found.
    let found = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(!found(b"CREATE TABLE %Q.sqlite_sequence"));
    assert!(found(b"the VFS dovehouse needs SQLite"));
}

#[test]
fn python_opens_objects() {
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs.py");
    if let Some(said) = run("python3", &[script], dir.path()) {
        print!("{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last == "ok" || last.starts_with("left out: "), "{said}");
    }
}

#[test]
fn the_shell_opens_objects_and_they_are_there_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let load = format!(".load {}", library().display());
    let shell = |lines: &[&str]| {
        let mut arguments = vec!["-bail", ":memory:", &load];
        arguments.extend(lines);
        run("sqlite3", &arguments, dir.path())
    };
    let open = ".open 'file:Room/lobby?vfs=dovehouse&store=data'";
    let Some(said) = shell(&[
        open,
        ".vfsname",
        "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)",
        "PRAGMA journal_mode = WAL",
        ".backup out.sqlite",
    ]) else {
        return;
    };
    assert_eq!(said, "dovehouse\ndelete\n");
    // From a file in WAL mode, which the object is not.
    let said = shell(&[
        ".open wal.sqlite",
        "PRAGMA journal_mode = WAL; CREATE TABLE w AS SELECT 7 AS a",
        ".open 'file:Room/restored?vfs=dovehouse&store=data'",
        ".restore wal.sqlite",
    ]);
    assert_eq!(said.unwrap(), "wal\n");
    let said = shell(&[
        open,
        "SELECT sum(a) FROM t; PRAGMA integrity_check",
        "ATTACH 'file:Room/restored?vfs=dovehouse&store=data' AS r; SELECT a FROM w",
        "PRAGMA r.journal_mode; PRAGMA r.integrity_check",
        "ATTACH 'file:out.sqlite?vfs=unix' AS o; SELECT sum(a) FROM o.t",
    ]);
    assert_eq!(said.unwrap(), "3\nok\n7\ndelete\nok\n3\n");
}
