//! House rules that the compiler does not know. A rule that gets in the way of something better is changed
//! here, in the open.

use std::path::{Path, PathBuf};

/// From left to right: a crate uses those before it only.
const LAYERS: [(&str, &str); 5] = [
    ("dovehouse-wal", "wal"),
    ("dovehouse-engine", "engine"),
    ("dovehouse-sqlbridge", "sqlbridge"),
    ("dovehouse", "."),
    ("dovehouse-tools", "tools"),
];

/// Directories without sources of ours.
const SKIPPED: [&str; 4] = [".git", "target", "node_modules", "data"];

/// No file is longer. Lower it when the longest file shrinks; split a file before you raise it.
const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path as it reads from the root.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("it is below the root");
    path.display().to_string()
}

fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![root().to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).expect("the directory is there");
        for path in entries.map(|entry| entry.expect("the directory is readable").path()) {
            let name = path
                .file_name()
                .expect("an entry has a name")
                .display()
                .to_string();
            if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 80, "the sources are where they were");
    files
}

/// The lines of one kind of dependencies in a manifest.
fn dependencies(manifest: &str, section: &str) -> Vec<String> {
    let header = format!("[{section}]");
    manifest
        .lines()
        .skip_while(|line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_crate_uses_one_to_its_right() {
    for (place, (name, dir)) in LAYERS.iter().enumerate() {
        let manifest = read(&root().join(dir).join("Cargo.toml"));
        let used = dependencies(&manifest, "dependencies");
        assert!(!used.is_empty(), "{name} has a list of dependencies");
        for (later, _) in &LAYERS[place + 1..] {
            assert!(
                !used.iter().any(|used| used == later),
                "{name} must not use {later}: the layers are {LAYERS:?}"
            );
        }
    }
}

#[test]
fn what_lies_under_the_runtime_knows_no_async_runtime() {
    for dir in ["wal", "engine", "sqlbridge"] {
        let manifest = read(&root().join(dir).join("Cargo.toml"));
        let used = dependencies(&manifest, "dependencies");
        for runtime in ["tokio", "futures", "futures-util", "async-std", "smol"] {
            assert!(
                !used.iter().any(|used| used == runtime),
                "{dir} uses {runtime}"
            );
        }
    }
}

#[test]
fn every_crate_says_what_it_does_not_know() {
    for (name, dir) in &LAYERS[..4] {
        let head = read(&root().join(dir).join("src/lib.rs"));
        let docs: Vec<_> = head
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        assert!(
            docs.join("\n").contains("**not** know"),
            "{name} says what it does not know"
        );
    }
}

/// Without `harness = false` cargo runs zero tests in a criterion bench and reports success.
#[test]
fn every_bench_has_its_stanza() {
    for dir in LAYERS.map(|(_, dir)| dir) {
        let Ok(entries) = std::fs::read_dir(root().join(dir).join("benches")) else {
            continue;
        };
        let manifest = read(&root().join(dir).join("Cargo.toml"));
        for path in entries.map(|entry| entry.expect("the directory is readable").path()) {
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let name = path.file_stem().expect("it has a name").display();
            let stanza = format!("[[bench]]\nname = \"{name}\"\nharness = false");
            assert!(
                manifest.contains(&stanza),
                "{dir}/Cargo.toml lacks\n{stanza}"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for path in rust_files() {
        let text = read(&path);
        assert!(text.starts_with("//! "), "{} has no header", shown(&path));
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", shown(&path));
    }
}

/// The engine and the log reach files through `wal::fs` alone, or the simulated disk would not see it.
#[test]
fn files_are_touched_in_the_seam_only() {
    for path in rust_files() {
        let shown = shown(&path);
        let watched = ["wal/src", "engine/src"]
            .iter()
            .any(|dir| shown.starts_with(dir));
        if !watched || shown == "wal/src/fs.rs" {
            continue;
        }
        for call in [
            "fs::OpenOptions",
            "fs::read",
            "fs::write(",
            "std::fs::File::",
        ] {
            assert!(
                !read(&path).contains(call),
                "{shown} uses {call} beside the seam"
            );
        }
    }
}

/// `unsafe` stays in its pockets.
#[test]
fn unsafe_code_stays_in_its_pockets() {
    let pockets = [
        "sqlbridge/src/ffi.rs",
        "sqlbridge/src/ffi/bounds.rs",
        "sqlbridge/src/functions.rs",
        "sqlbridge/src/hooks.rs",
        "sqlbridge/src/vfs.rs",
        "sqlbridge/src/vfs/api.rs",
        "sqlbridge/src/vfs/methods.rs",
        "sqlbridge/src/vfs/names.rs",
        "sqlbridge/src/loadable/entry.rs",
        "sqlbridge/loadable/src/lib.rs",
        "sqlbridge/src/vtab/call.rs",
        "engine/src/index_file.rs",
        // Opening LMDB is unsafe in its own interface.
        "benches/peers/src/peers/lmdb.rs",
    ];
    for path in rust_files() {
        let shown = shown(&path);
        // Written apart, so that this file does not find itself.
        let opens = ["{", "impl", "extern"].map(|what| ["unsafe", what].join(" "));
        let found = opens.iter().any(|open| read(&path).contains(open));
        assert!(
            !found || pockets.contains(&shown.as_str()),
            "{shown} opens unsafe code"
        );
    }
}

/// All documents.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
        .map(|name| root().join(name))
        .to_vec();
    for dir in ["docs", "docs/design", "docs/format"] {
        let entries = std::fs::read_dir(root().join(dir)).expect("docs are there");
        pages.extend(entries.map(|entry| entry.expect("the directory is readable").path()));
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages
}

/// Every link from one document to another leads somewhere.
#[test]
fn documents_link_to_files_that_exist() {
    for page in pages() {
        let text = read(&page);
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().expect("a split has a first part");
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let there = page
                .parent()
                .expect("it is in a directory")
                .join(file)
                .exists();
            assert!(there, "{} links to {target}", page.display());
        }
    }
}

/// A test that a document names as `path.rs::name` is there.
#[test]
fn documents_name_tests_that_exist() {
    let mut named = 0;
    for page in pages() {
        for code in read(&page).split('`').skip(1).step_by(2) {
            let Some((file, test)) = code.split_once(".rs::") else {
                continue;
            };
            let file = root().join(format!("{file}.rs"));
            assert!(file.exists(), "{} names {code}", page.display());
            let text = read(&file);
            let is_there = |end| text.contains(&format!("fn {test}{end}"));
            assert!(
                is_there('(') || is_there('<'),
                "{} names {code}",
                page.display()
            );
            named += 1;
        }
    }
    assert!(named > 100, "the tables of behaviours name their tests");
}
