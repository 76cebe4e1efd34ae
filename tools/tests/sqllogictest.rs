//! `dovehouse sqllogictest` as scripts use it: our corpus passes on both sides, and what fails says where, why and with whom.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs the command, expects this exit code, and returns what it printed.
fn run(code: i32, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dovehouse"))
        .arg("sqllogictest")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}");
    text
}

fn run_json(code: i32, path: &Path) -> Value {
    serde_json::from_str(&run(code, &[path.to_str().unwrap(), "--json"])).unwrap()
}

/// A folder with one script.
fn script(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("deeper")).unwrap();
    std::fs::write(dir.path().join("deeper/a.test"), text).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "no script").unwrap();
    dir
}

#[test]
fn our_corpus_passes_on_objects_as_on_stock_sqlite() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let report = run_json(0, &corpus);
    assert!(report["records"].as_u64().unwrap() > 5000, "{report}");
    assert_eq!(report["passed"], report["records"]);
    assert_eq!(report["stock"]["failed"], 0);
    assert_eq!(report["denied"], 0);
    assert_eq!(report["schema"], 1);
}

#[test]
fn a_wrong_record_is_shown_with_its_place_and_whether_stock_sqlite_shares_it() {
    let right = "statement ok\nCREATE TABLE t(a)\n\n";
    let wrong = "query I rowsort\nSELECT 1 UNION\nSELECT 3\n----\n1\n2\n\n";
    let dir = script(&[right, wrong].concat());
    let path = dir.path().to_str().unwrap();
    let text = run(8, &[path]);
    for part in [
        "deeper/a.test:4: failed, as with stock SQLite",
        "\n    SELECT 1 UNION\n    SELECT 3\n",
        "\n    expected\n        1\n        2\n    got\n        1\n        3\n",
        "\n1 files, 2 records: 1 passed, 1 failed (1 as stock SQLite does), 0 skipped\n",
        "stock SQLite: 1 passed, 1 failed",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let report = run_json(8, dir.path());
    assert_eq!(report["failures"][0]["line"], 4);
    assert_eq!(report["failures"][0]["got"], "1\n3");
    assert_eq!(report["failures"][0]["as_stock"], true);

    // On one side only, it is ours.
    let ours = ["onlyif dovehouse # planted\n", wrong].concat();
    let refused = "statement ok\nINSERT INTO nowhere VALUES (1)\n";
    let dir = script(&[right, &ours, refused].concat());
    let report = run_json(1, dir.path());
    let count = |field: &str| report[field].as_u64().unwrap();
    assert_eq!(
        (count("passed"), count("failed"), count("failed_as_stock")),
        (1, 2, 1)
    );
    assert_eq!(report["failures"][0]["as_stock"], false);
    let got = report["failures"][1]["got"].as_str().unwrap();
    assert!(got.contains("no such table"), "{got}");
}

#[test]
fn what_is_no_script_is_named_with_its_line_and_the_others_run() {
    let dir = script("statement ok\nSELECT 1\n");
    std::fs::write(dir.path().join("bad.test"), "# a\n\nloop 3\n").unwrap();
    let text = run(1, &[dir.path().to_str().unwrap()]);
    assert!(text.contains("bad.test:3: not a script: `loop`"), "{text}");
    assert!(text.contains("2 files, 1 records: 1 passed"), "{text}");
    let bad = dir.path().join("bad.test");
    assert_eq!(run_json(1, &bad)["not_scripts"][0]["line"], 3);

    let empty = tempfile::tempdir().unwrap();
    let text = run(1, &[empty.path().to_str().unwrap()]);
    assert!(text.contains("no file *.test"), "{text}");
    run(1, &["no/such/folder"]);
}

#[test]
fn a_script_that_needs_what_objects_deny_is_left_there() {
    let dir = script(
        "statement ok\nCREATE TABLE t(a)\n\nstatement ok\nATTACH ':memory:' AS other\n\n\
         statement ok\nCREATE TABLE other.t(a)\n\nquery I\nSELECT 1\n----\n2\n",
    );
    let report = run_json(0, dir.path());
    let count = |field: &str| report[field].as_u64().unwrap();
    assert_eq!(
        (count("passed"), count("denied"), count("skipped")),
        (1, 1, 2)
    );
    assert_eq!(report["denials"][0]["line"], 4);
}
