//! Threads: named, and no more than were asked for.

use dovehouse_engine::{Builder, Engine};

/// The names of this process's threads that are the engine's, as far as the system keeps them.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        let path = task.unwrap().path().join("comm");
        Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
    });
    let mut names: Vec<_> = names
        .filter(|name| name.starts_with("dovehouse-"))
        .collect();
    names.sort();
    names
}

fn started_by(choose: impl Fn(Builder) -> Builder) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let engine = choose(Engine::builder(dir.path()).segment_bytes(64 << 10))
        .open()
        .unwrap();
    let class = engine.class("Room").unwrap();
    let mut object = engine
        .wake(class, dovehouse_engine::ObjectId::from_bytes([1; 32]))
        .unwrap();
    object.put(b"key", b"value").unwrap();
    object.commit().unwrap().unwrap().wait().unwrap();
    let found = threads();
    engine.close().unwrap();
    drop(object);
    drop(engine);
    assert!(threads().is_empty(), "they end with the engine");
    found
}

/// One test, so that no other one starts threads meanwhile.
#[test]
fn there_are_as_many_threads_as_were_asked_for() {
    let all = ["dovehouse-commi", "dovehouse-compa", "dovehouse-upkee"];
    assert_eq!(started_by(|builder| builder), all);
    let one = started_by(|builder| builder.background_threads(1));
    assert_eq!(one, ["dovehouse-commi", "dovehouse-upkee"]);
    let none = started_by(|builder| builder.background_threads(0));
    assert_eq!(none, ["dovehouse-commi"]);
    assert!(started_by(Builder::without_threads).is_empty());
}
