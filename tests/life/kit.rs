//! The test kit, tested as its users use it.

use dovehouse::engine::wal::fs::{Fs, Mode};
use dovehouse::testing::{START_MS, TestHouse, eventually, run_alarm, run_in};
use dovehouse::{AlarmInfo, CallError, Ctx, List, Local, Namespace, Query, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const HOUR_MS: u64 = 3_600_000;

/// Keeps eggs, and counts what its instance has laid.
struct Hen {
    laid: u32,
}

#[dovehouse::object]
impl Hen {
    fn new() -> Self {
        Hen { laid: 0 }
    }

    pub fn lay(&mut self, ctx: &Ctx, bytes: usize) -> Result<u32> {
        ctx.kv().put(format!("{:05}", self.laid), vec![7; bytes])?;
        self.laid += 1;
        Ok(self.laid)
    }

    pub fn alarms(&mut self, ctx: &Ctx, then: String) -> Result<()> {
        ctx.kv().put("then", then)?;
        ctx.alarm_named("late").set(START_MS + 2 * HOUR_MS)?;
        ctx.alarm_named("hourly").cron("0 * * * *")
    }

    pub fn pending(&self, ctx: &Ctx) -> Result<Vec<(String, u64)>> {
        let since_start = |(name, due_ms)| (name, due_ms - START_MS);
        Ok(ctx.alarms()?.into_iter().map(since_start).collect())
    }

    pub async fn sit(&mut self, sits: Local<oneshot::Sender<()>>) {
        sits.0.send(()).unwrap();
        std::future::pending().await
    }

    fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> Result<(), String> {
        match ctx.kv().get("then").unwrap().as_deref() {
            Some(b"fail") => Err(format!("{} failed", alarm.name)),
            Some(b"panic") => panic!("told to"),
            _ => ctx
                .kv()
                .put("last alarm", alarm.name)
                .map_err(|error| error.to_string()),
        }
    }
}

async fn eggs(hen: &HenStub) -> usize {
    let count = async |_: &mut Hen, ctx: &Ctx| ctx.kv().list(&List::all()).unwrap().len();
    run_in(hen, count).await.unwrap()
}

/// Begins to lay an egg, up to where the disk holds it.
async fn start_laying(house: &TestHouse, hen: &HenStub) -> JoinHandle<Result<u32, CallError>> {
    house.disk().hold();
    let hen = hen.clone();
    let laying = tokio::spawn(async move { hen.lay(5).await });
    eventually(async || house.disk().is_holding()).await;
    laying
}

fn hens(house: &TestHouse) -> Namespace<Hen> {
    house.namespace().unwrap()
}

#[tokio::test]
async fn what_is_held_is_not_said_and_a_crash_loses_it_and_nothing_else() {
    for crash in [TestHouse::crash, TestHouse::kill] {
        let house = TestHouse::new();
        let hen = hens(&house).get_by_name("berta");
        hen.lay(5).await.unwrap();
        let laying = start_laying(&house, &hen).await;
        assert!(!laying.is_finished());
        house.disk().release();
        assert_eq!(laying.await.unwrap().unwrap(), 2);

        let laying = start_laying(&house, &hen).await;
        house.advance(5);
        let gone = house.disk().clone();
        let house = crash(house);
        laying.await.unwrap().unwrap_err();
        assert!(matches!(hen.fresh().lay(5).await, Err(CallError::Closed)));
        let hen = hens(&house).get_by_name("berta");
        assert_eq!((eggs(&hen).await, house.now_ms()), (2, START_MS + 5));
        assert_eq!(
            hen.lay(5).await.unwrap(),
            1,
            "in memory there was nothing left"
        );
        assert!(!house.disk().is_holding());
        let write = gone.open("late".as_ref(), Mode::WRITE).unwrap_err();
        assert!(write.to_string().contains("ended"), "{write}");
    }
}

#[tokio::test]
async fn a_house_that_is_reopened_has_its_settings_its_clock_and_everything() {
    let house = TestHouse::with_settings(3, |builder| builder.location("coop", "coop"));
    let hen = hens(&house).get_by_name("berta");
    hen.lay(5).await.unwrap();
    house.advance(HOUR_MS);
    let house = house.reopen().await.unwrap();
    let again = hens(&house);
    assert_eq!(eggs(&again.get_by_name("berta")).await, 1);
    again.move_to(hen.id(), "coop").await.unwrap();
    let house = house.crash();
    let listed = hens(&house).objects(Query::default()).await.unwrap();
    assert_eq!(listed.objects[0].location.as_deref(), Some("coop"));
    assert_eq!(listed.objects[0].written_ms, START_MS + HOUR_MS);
    assert_eq!(house.now_ms(), START_MS + HOUR_MS, "one clock for all");
}

#[tokio::test]
async fn a_dropped_house_lets_go_of_what_it_holds() {
    let house = TestHouse::new();
    let hen = hens(&house).get_by_name("berta");
    house.disk().hold();
    let laying = tokio::spawn(async move { hen.lay(5).await });
    eventually(async || house.disk().is_holding()).await;
    drop(house);
    assert_eq!(laying.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn an_alarm_can_be_run_before_its_time() {
    let house = TestHouse::new();
    let hen = hens(&house).get_by_name("berta");
    assert!(!run_alarm(&hen).await.unwrap());
    hen.alarms(String::new()).await.unwrap();
    let minute_ms = 60_000;
    // The clock begins 46 minutes and 40 seconds before an hour.
    let first_ms = 46 * minute_ms + 40_000;
    let hourly = |times| ("hourly".to_owned(), first_ms + times * HOUR_MS);
    let late = || ("late".to_owned(), 2 * HOUR_MS);
    assert_eq!(hen.pending().await.unwrap(), [hourly(0), late()]);
    assert!(run_alarm(&hen).await.unwrap());
    assert_eq!(hen.pending().await.unwrap(), [hourly(1), late()]);
    assert!(run_alarm(&hen).await.unwrap());
    assert!(run_alarm(&hen).await.unwrap());
    assert_eq!(
        hen.pending().await.unwrap(),
        [hourly(2)],
        "the earliest comes first"
    );
    let last = async |_: &mut Hen, ctx: &Ctx| ctx.kv().get("last alarm").unwrap().unwrap();
    assert_eq!(run_in(&hen, last).await.unwrap(), b"late");
    assert_eq!(house.now_ms(), START_MS);

    // What was run early does not come again.
    house.advance(first_ms + HOUR_MS);
    house.alarms_done().await;
    assert_eq!(hen.pending().await.unwrap(), [hourly(2)]);
    house.advance(HOUR_MS);
    house.alarms_done().await;
    assert_eq!(hen.pending().await.unwrap(), [hourly(3)]);
}

#[tokio::test]
async fn an_alarm_that_fails_when_it_is_run_says_why_and_is_put_off() {
    for then in ["fail", "panic"] {
        let house = TestHouse::new();
        let hen = hens(&house).get_by_name("berta");
        hen.alarms(then.into()).await.unwrap();
        let error = run_alarm(&hen).await.unwrap_err();
        match &error {
            CallError::Failed { message, .. } => assert_eq!(message, "hourly failed"),
            error => assert!(matches!(error, CallError::Panicked(_)), "{error}"),
        }
        let pending = hen.pending().await.unwrap();
        assert!(
            (2_000..=2_500).contains(&pending[0].1),
            "{then}: {pending:?}"
        );
        house.advance(2_500);
        house.alarms_done().await;
        let pending = hen.pending().await.unwrap();
        assert!(
            (6_500..=7_500).contains(&pending[0].1),
            "{then}: {pending:?}"
        );
    }
}

#[tokio::test]
async fn all_objects_can_be_put_to_sleep_or_be_reset() {
    let house = TestHouse::new();
    let hens = hens(&house);
    let names = ["agnes", "berta", "clara", "doris"];
    for name in names {
        assert_eq!(hens.get_by_name(name).lay(5).await.unwrap(), 1);
    }
    let sitting = hens.get_by_name("berta");
    let (sits, sat) = oneshot::channel();
    let sitting = tokio::spawn(async move { sitting.sit(Local(sits)).await });
    sat.await.unwrap();
    assert_eq!(house.evict_all().await.unwrap(), 1);
    assert_eq!(house.awake().await.unwrap(), 1);
    assert_eq!(hens.get_by_name("clara").lay(5).await.unwrap(), 1);
    assert!(!sitting.is_finished());
    assert_eq!(house.abort_all().await.unwrap(), 2);
    let error = sitting.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Reset(_)), "{error}");
    assert_eq!(house.awake().await.unwrap(), 0);
    assert_eq!(eggs(&hens.get_by_name("clara")).await, 1);
}

#[tokio::test]
async fn a_commit_can_fail_and_the_disk_be_full() {
    let house = TestHouse::new();
    let hen = hens(&house).get_by_name("berta");
    hen.lay(5).await.unwrap();
    let laying = start_laying(&house, &hen).await;
    house.disk().fail_commits();
    let error = laying.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Reset(_)), "{error}");
    assert_eq!(eggs(&hen.fresh()).await, 1);
    house.disk().repair();
    hen.fresh()
        .lay(6)
        .await
        .expect_err("it has to be opened again");

    let house = house.kill();
    let hen = hens(&house).get_by_name("carla");
    house.disk().fill();
    let error = loop {
        if let Err(error) = hen.lay(60_000).await {
            break error;
        }
    };
    let why = error.to_string();
    assert!(
        why.contains("full") || why.contains("no storage space"),
        "{why}"
    );
    house.disk().repair();
    eventually(async || hen.fresh().lay(60_000).await.is_ok()).await;
}

#[test]
fn the_documentation_shows_a_file_of_tests_that_runs() {
    let page = include_str!("../../docs/testing-your-objects.md");
    assert!(page.contains(include_str!("tally.rs")));
}
