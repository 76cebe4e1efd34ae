//! The runtime as its users see it: turns, gates, alarms, eviction.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use dovehouse::testing::{START_MS, TestHouse, eventually};
use dovehouse::{AlarmInfo, CallError, Ctx, List, Local, Result};
use tokio::sync::{mpsc, oneshot};

struct Test {
    /// In memory only.
    seen: u32,
}

#[dovehouse::object]
impl Test {
    fn new() -> Self {
        Test { seen: 0 }
    }

    pub fn put(&mut self, ctx: &Ctx, key: String, value: String) -> Result<()> {
        ctx.kv().put(key, value)
    }

    pub fn get(&self, ctx: &Ctx, key: String) -> Result<Option<String>> {
        Ok(ctx
            .kv()
            .get(key)?
            .map(|value| String::from_utf8(value).unwrap()))
    }

    pub fn keys(&self, ctx: &Ctx) -> Result<Vec<String>> {
        let all = ctx.kv().list(&List::all())?;
        Ok(all
            .into_iter()
            .map(|(key, _)| String::from_utf8(key).unwrap())
            .collect())
    }

    pub fn see(&mut self) -> u32 {
        self.seen += 1;
        self.seen
    }

    pub fn name(&self, ctx: &Ctx) -> Option<String> {
        ctx.id().name().map(str::to_owned)
    }

    pub fn fail_after_put(&mut self, ctx: &Ctx, key: String) -> Result<(), String> {
        ctx.kv().put(key, "kept").unwrap();
        Err("told to fail".to_owned())
    }

    pub async fn panic_after_put(&mut self, ctx: &Ctx, before: String, after: String) {
        ctx.kv().put(before, "committed at the await").unwrap();
        tokio::task::yield_now().await;
        ctx.kv().put(after, "undone").unwrap();
        panic!("told to panic");
    }

    /// Says that it runs, and waits to be let go.
    pub async fn wait_alone(
        &mut self,
        running: Local<mpsc::UnboundedSender<u8>>,
        go: Local<oneshot::Receiver<()>>,
    ) {
        running.send(1).unwrap();
        go.0.await.unwrap();
        running.send(2).unwrap();
    }

    pub async fn wait_shared(
        &self,
        running: Local<mpsc::UnboundedSender<u8>>,
        go: Local<oneshot::Receiver<()>>,
    ) {
        running.send(1).unwrap();
        go.0.await.unwrap();
        running.send(2).unwrap();
    }

    pub fn mark(&self, running: Local<mpsc::UnboundedSender<u8>>) {
        running.send(9).unwrap();
    }

    pub fn mark_alone(&mut self, running: Local<mpsc::UnboundedSender<u8>>) {
        running.send(8).unwrap();
    }

    /// Calls another object, which calls back.
    pub async fn there_and_back(&mut self, ctx: &Ctx, other: String) -> Result<(), String> {
        let tests = ctx.house().unwrap().namespace::<Test>().unwrap();
        let me = ctx.id().name().unwrap().to_owned();
        tests
            .get_by_name(&other)
            .back(me)
            .await
            .map_err(|error| error.to_string())
    }

    pub async fn there_and_back_shared(&self, ctx: &Ctx, other: String) -> Result<u32, String> {
        let tests = ctx.house().unwrap().namespace::<Test>().unwrap();
        let me = ctx.id().name().unwrap().to_owned();
        let key = tests.get_by_name(&other).back_shared(me).await;
        key.map_err(|error| error.to_string())
    }

    pub async fn back(&mut self, ctx: &Ctx, caller: String) -> Result<(), String> {
        let tests = ctx.house().unwrap().namespace::<Test>().unwrap();
        let seen = tests.get_by_name(&caller).see().await;
        seen.map(drop).map_err(|error| error.to_string())
    }

    pub async fn back_shared(&self, ctx: &Ctx, caller: String) -> Result<u32, String> {
        let tests = ctx.house().unwrap().namespace::<Test>().unwrap();
        let keys = tests.get_by_name(&caller).keys().await;
        keys.map(|keys| keys.len() as u32)
            .map_err(|error| error.to_string())
    }

    pub fn delete_all(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.delete_all()
    }

    /// Uses its storage from a task that no turn covers.
    pub async fn stray(&mut self, ctx: &Ctx) -> bool {
        let ctx = ctx.clone();
        tokio::task::spawn_local(async move { ctx.kv().put("stray", "write").is_err() })
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn what_a_call_acknowledged_survives_a_power_cut() {
    let house = TestHouse::with_seed(1);
    let tests = house.namespace::<Test>().unwrap();
    tests
        .get_by_name("a")
        .put("key".into(), "value".into())
        .await
        .unwrap();

    let house = house.crash();
    let tests = house.namespace::<Test>().unwrap();
    assert_eq!(
        tests
            .get_by_name("a")
            .get("key".into())
            .await
            .unwrap()
            .as_deref(),
        Some("value")
    );
    house.close().await.unwrap();
}

#[tokio::test]
async fn a_call_whose_write_fails_is_never_acknowledged_and_the_object_forgets_it() {
    let house = TestHouse::with_seed(2);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("a");
    stub.put("key".into(), "old".into()).await.unwrap();
    house.disk().fail_commits();
    let error = stub.put("key".into(), "new".into()).await.unwrap_err();
    assert!(matches!(error, CallError::Reset(_)), "{error}");
    let stub = stub.fresh();
    assert_eq!(
        stub.get("key".into()).await.unwrap().as_deref(),
        Some("old"),
        "reads go on"
    );
    let error = stub.put("key".into(), "newer".into()).await.unwrap_err();
    assert!(matches!(error, CallError::Reset(_)), "{error}");
}

#[tokio::test]
async fn an_error_keeps_the_turns_writes_and_a_panic_undoes_them_and_resets_the_object() {
    let house = TestHouse::with_seed(3);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("a");
    assert_eq!(stub.see().await.unwrap(), 1);
    let error = stub.fail_after_put("kept".into()).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Failed { message, .. } if message == "told to fail"),
        "{error}"
    );
    assert_eq!(stub.see().await.unwrap(), 2, "an error does not reset");

    let error = stub
        .panic_after_put("before".into(), "after".into())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CallError::Panicked(why) if why == "told to panic"),
        "{error}"
    );
    assert_eq!(
        stub.see().await.unwrap_err(),
        error,
        "so that no call overtakes the lost one"
    );
    let stub = stub.fresh();
    assert_eq!(stub.see().await.unwrap(), 1, "a fresh instance");
    assert_eq!(stub.keys().await.unwrap(), ["before", "kept"]);
}

#[tokio::test]
async fn a_handler_with_mut_self_runs_alone_and_sharers_interleave() {
    let house = TestHouse::with_seed(4);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("a");
    let (running, mut marks) = mpsc::unbounded_channel();

    let (go, gate) = oneshot::channel();
    let (waiting, marking) = (stub.clone(), stub.clone());
    let alone = tokio::spawn({
        let running = running.clone();
        async move { waiting.wait_alone(running.into(), gate.into()).await }
    });
    assert_eq!(marks.recv().await, Some(1));
    let mark = tokio::spawn({
        let running = running.clone();
        async move { marking.mark(running.into()).await }
    });
    // A call to another object on each shard goes through; the mark does not overtake.
    tests.get_by_name("b").see().await.unwrap();
    assert!(marks.try_recv().is_err());
    go.send(()).unwrap();
    alone.await.unwrap().unwrap();
    mark.await.unwrap().unwrap();
    assert_eq!((marks.recv().await, marks.recv().await), (Some(2), Some(9)));

    let (go, gate) = oneshot::channel();
    let waiting = stub.clone();
    let shared = tokio::spawn({
        let running = running.clone();
        async move { waiting.wait_shared(running.into(), gate.into()).await }
    });
    assert_eq!(marks.recv().await, Some(1));
    stub.mark(running.clone().into()).await.unwrap();
    assert_eq!(marks.recv().await, Some(9), "while the other waits");
    go.send(()).unwrap();
    shared.await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_through_one_stub_arrive_in_order() {
    let house = TestHouse::with_seed(5);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("a");
    let (running, mut marks) = mpsc::unbounded_channel();
    let calls = (0..50).map(|number| {
        let (stub, running) = (stub.clone(), running.clone());
        async move {
            match number % 2 {
                0 => stub.mark(running.into()).await,
                _ => stub.mark_alone(running.into()).await,
            }
        }
    });
    for call in futures_util::future::join_all(calls).await {
        call.unwrap();
    }
    let marks: Vec<u8> = std::iter::from_fn(|| marks.try_recv().ok()).collect();
    assert_eq!(marks, [9, 8].repeat(25));
}

#[tokio::test]
async fn a_call_that_comes_back_to_a_waiting_object_fails_instead_of_hanging() {
    let house = TestHouse::with_seed(6);
    let tests = house.namespace::<Test>().unwrap();
    let error = tests
        .get_by_name("a")
        .there_and_back("b".into())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("comes back"), "{error}");
    let keys = tests
        .get_by_name("a")
        .there_and_back_shared("b".into())
        .await
        .unwrap();
    assert_eq!(
        keys, 0,
        "between handlers that share their objects it goes through"
    );
}

#[tokio::test]
async fn an_evicted_object_forgets_its_memory_and_keeps_its_storage() {
    let house = TestHouse::with_seed(7);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("a");
    stub.put("key".into(), "value".into()).await.unwrap();
    assert_eq!(stub.see().await.unwrap(), 1);
    assert_eq!(stub.see().await.unwrap(), 2);
    assert!(house.evict(stub.id()).await.unwrap());
    assert_eq!(house.awake().await.unwrap(), 0);
    assert_eq!(stub.see().await.unwrap(), 1);
    assert_eq!(
        stub.get("key".into()).await.unwrap().as_deref(),
        Some("value")
    );
}

#[tokio::test]
async fn an_idle_object_falls_asleep_and_a_busy_one_does_not() {
    let house = TestHouse::with_seed(8);
    let tests = house.namespace::<Test>().unwrap();
    tests.get_by_name("idle").see().await.unwrap();
    let (running, mut marks) = mpsc::unbounded_channel();
    let (go, gate) = oneshot::channel();
    let busy = tests.get_by_name("busy");
    tokio::spawn({
        let busy = busy.clone();
        async move { busy.wait_alone(running.into(), gate.into()).await }
    });
    assert_eq!(marks.recv().await, Some(1));
    house.advance(60_000);
    eventually(async || house.awake().await.unwrap() == 1).await;
    assert!(!house.evict(busy.id()).await.unwrap());
    go.send(()).unwrap();
}

#[tokio::test]
async fn storage_belongs_to_the_objects_own_turns() {
    let house = TestHouse::with_seed(10);
    let tests = house.namespace::<Test>().unwrap();
    assert!(tests.get_by_name("a").stray().await.unwrap());
    assert!(tests.get_by_name("a").keys().await.unwrap().is_empty());
}

#[tokio::test]
async fn names_are_kept_ids_are_checked_and_delete_all_leaves_nothing() {
    let house = TestHouse::with_seed(11);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("lobby");
    stub.put("key".into(), "value".into()).await.unwrap();
    assert!(house.evict(stub.id()).await.unwrap());
    let parsed = tests.id_from_string(&stub.id().to_string()).unwrap();
    assert_eq!(parsed.name(), None);
    assert_eq!(
        tests.get(parsed).name().await.unwrap().as_deref(),
        Some("lobby"),
        "from its storage"
    );
    assert!(tests.id_from_string(&"0".repeat(64)).is_err());
    assert_ne!(tests.unique_id(), tests.unique_id());

    stub.delete_all().await.unwrap();
    assert!(stub.keys().await.unwrap().is_empty());
    let house = house.crash();
    let tests = house.namespace::<Test>().unwrap();
    assert!(tests.get_by_name("lobby").keys().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_closed_house_says_so() {
    let house = TestHouse::with_seed(12);
    let tests = house.namespace::<Test>().unwrap();
    let stub = tests.get_by_name("a");
    stub.put("key".into(), "value".into()).await.unwrap();
    house.dovehouse().close().await.unwrap();
    assert!(matches!(stub.see().await, Err(CallError::Closed)));

    let house = house.on(house.disk().clone());
    let tests = house.namespace::<Test>().unwrap();
    assert_eq!(
        tests
            .get_by_name("a")
            .get("key".into())
            .await
            .unwrap()
            .as_deref(),
        Some("value")
    );
}

/// Notes when its alarm fires.
struct Sleeper;

#[dovehouse::object]
impl Sleeper {
    fn new() -> Self {
        Sleeper
    }

    pub fn set(&mut self, ctx: &Ctx, due_ms: u64, failures: u32) -> Result<()> {
        ctx.kv().put("failures", failures.to_le_bytes())?;
        ctx.alarm().set(due_ms)
    }

    pub fn pending(&self, ctx: &Ctx) -> Result<Option<u64>> {
        ctx.alarm().get()
    }

    pub fn fired(&self, ctx: &Ctx) -> Result<Vec<String>> {
        let all = ctx.kv().list(&List::prefix(b"fired/"))?;
        Ok(all
            .into_iter()
            .map(|(_, note)| String::from_utf8(note).unwrap())
            .collect())
    }

    async fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> Result<(), String> {
        let failures = ctx.kv().get("failures").unwrap().unwrap();
        let failures = u32::from_le_bytes(failures.try_into().unwrap());
        let key = format!("fired/{:020}", ctx.now_ms());
        let name = ctx.id().name().unwrap_or("nobody");
        let note = format!(
            "{name} {} {}",
            alarm.scheduled_ms as i64 - START_MS as i64,
            alarm.retry_count
        );
        ctx.kv().put(key, note).unwrap();
        assert_eq!(ctx.alarm().get().unwrap(), None, "none while it runs");
        match failures {
            0 => Ok(()),
            100 => panic!("told to panic"),
            _ => {
                ctx.kv()
                    .put("failures", (failures - 1).to_le_bytes())
                    .unwrap();
                Err("told to fail".to_owned())
            }
        }
    }
}

#[tokio::test]
async fn an_alarm_fires_after_a_power_cut_once_its_time_has_come() {
    let house = TestHouse::with_seed(20);
    let sleepers = house.namespace::<Sleeper>().unwrap();
    sleepers
        .get_by_name("early")
        .set(START_MS + 5_000, 0)
        .await
        .unwrap();
    sleepers
        .get_by_name("late")
        .set(START_MS + 60_000, 0)
        .await
        .unwrap();

    let house = house.crash();
    let sleepers = house.namespace::<Sleeper>().unwrap();
    house.advance(4_999);
    assert!(
        sleepers
            .get_by_name("early")
            .fired()
            .await
            .unwrap()
            .is_empty(),
        "never early"
    );
    house.advance(1);
    let early = sleepers.get_by_name("early");
    eventually(async || early.fired().await.unwrap() == ["early 5000 0"]).await;
    assert_eq!(early.pending().await.unwrap(), None, "it is done");
    assert_eq!(
        sleepers.get_by_name("late").pending().await.unwrap(),
        Some(START_MS + 60_000)
    );
    house.advance(60_000);
    eventually(async || sleepers.get_by_name("late").fired().await.unwrap() == ["late 60000 0"])
        .await;
}

#[tokio::test]
async fn an_alarm_that_is_set_while_others_wait_is_not_overslept() {
    let house = TestHouse::with_seed(21);
    let sleepers = house.namespace::<Sleeper>().unwrap();
    sleepers
        .get_by_name("late")
        .set(START_MS + 100_000, 0)
        .await
        .unwrap();
    sleepers
        .get_by_name("soon")
        .set(START_MS + 1_000, 0)
        .await
        .unwrap();
    sleepers
        .get_by_name("past")
        .set(START_MS - 1, 0)
        .await
        .unwrap();
    let past = sleepers.get_by_name("past");
    eventually(async || past.pending().await.unwrap().is_none()).await;
    house.advance(1_000);
    eventually(async || sleepers.get_by_name("soon").fired().await.unwrap().len() == 1).await;
    assert!(
        sleepers
            .get_by_name("late")
            .fired()
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_failing_alarm_is_tried_again_later_and_given_up_after_six_retries() {
    for failures in [2, 50, 100] {
        let house = TestHouse::with_seed(22);
        let sleeper = house.namespace::<Sleeper>().unwrap().get_by_name("a");
        sleeper.set(START_MS + 1_000, failures).await.unwrap();
        house.advance(1_000);
        let (expected, mut tries) = (if failures == 2 { 3 } else { 7 }, 0);
        loop {
            tries += 1;
            // A panic undoes what the handler wrote, so that only the retry shows it.
            let handled = async || match sleeper.fresh().pending().await {
                Ok(Some(due_ms)) => due_ms > house.now_ms(),
                Ok(None) => true,
                Err(_) => false,
            };
            eventually(handled).await;
            let Some(due_ms) = sleeper.fresh().pending().await.unwrap() else {
                break;
            };
            let wait = due_ms - house.now_ms();
            let base = 2_000 << (tries - 1);
            assert!(
                (base..=base + base / 4).contains(&wait),
                "try {tries} after {wait} ms"
            );
            house.advance(wait);
        }
        assert_eq!(tries, expected, "with {failures} failures");
        if failures < 100 {
            assert_eq!(sleeper.fresh().fired().await.unwrap().len(), expected);
        }
    }
}
