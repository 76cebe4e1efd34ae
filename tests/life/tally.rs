//! A tally that is published once a day, and its tests.

use dovehouse::testing::{TestHouse, eventually, run_alarm, run_in};
use dovehouse::{CallError, Ctx, Error, Result};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

struct Tally {
    /// In memory only: how many were counted since the object woke.
    since_waking: u64,
}

#[dovehouse::object]
impl Tally {
    fn new() -> Self {
        Tally { since_waking: 0 }
    }

    /// Counts one more, and has the count published within a day.
    pub fn count(&mut self, ctx: &Ctx) -> Result<u64> {
        self.since_waking += 1;
        let count = ctx.kv().get_as("count")?.unwrap_or(0) + 1;
        ctx.kv().put_as("count", &count)?;
        if ctx.alarm().get()?.is_none() {
            ctx.alarm().set(ctx.now_ms() + DAY_MS)?;
        }
        Ok(count)
    }

    pub fn published(&self, ctx: &Ctx) -> Result<u64> {
        Ok(ctx.kv().get_as("published")?.unwrap_or(0))
    }

    fn alarm(&mut self, ctx: &Ctx) -> Result<()> {
        let count: u64 = ctx.kv().get_as("count")?.unwrap_or(0);
        ctx.kv().put_as("published", &count)
    }
}

fn tally(house: &TestHouse) -> TallyStub {
    house.namespace::<Tally>().unwrap().get_by_name("votes")
}

#[tokio::test]
async fn the_count_is_published_after_a_day() {
    let house = TestHouse::new();
    let votes = tally(&house);
    votes.count().await.unwrap();
    assert_eq!(votes.count().await.unwrap(), 2);

    house.advance(DAY_MS - 1);
    house.alarms_done().await;
    assert_eq!(votes.published().await.unwrap(), 0);
    house.advance(1);
    house.alarms_done().await;
    assert_eq!(votes.published().await.unwrap(), 2);

    // Or without waiting for the day.
    votes.count().await.unwrap();
    assert!(run_alarm(&votes).await.unwrap());
    assert_eq!(votes.published().await.unwrap(), 3);
    assert!(!run_alarm(&votes).await.unwrap(), "there is no other");
}

#[tokio::test]
async fn sleep_costs_what_is_only_in_memory() {
    let house = TestHouse::new();
    let votes = tally(&house);
    votes.count().await.unwrap();
    assert!(house.evict(votes.id()).await.unwrap());
    votes.count().await.unwrap();
    let since_waking = async |tally: &mut Tally, _: &Ctx| tally.since_waking;
    assert_eq!(run_in(&votes, since_waking).await.unwrap(), 1);
}

#[tokio::test]
async fn a_power_cut_at_any_moment_of_a_count_leaves_it_with_its_alarm_or_neither() {
    let house = TestHouse::new();
    let votes = tally(&house);
    let (counted, crashes) = house.disk().crash_points(votes.count()).await;
    assert_eq!(counted.unwrap(), 1);
    for crash in crashes {
        let votes = tally(&house.on(crash.power_loss()));
        let state = async |_: &mut Tally, ctx: &Ctx| {
            let count: Option<u64> = ctx.kv().get_as("count")?;
            Ok::<_, Error>((count.is_some(), ctx.alarm().get()?.is_some()))
        };
        let (is_counted, has_alarm) = run_in(&votes, state).await.unwrap().unwrap();
        assert_eq!(is_counted, has_alarm);
    }
}

#[tokio::test]
async fn a_count_that_was_shown_survives_a_power_cut_and_one_that_was_not_may_be_lost() {
    let house = TestHouse::new();
    let votes = tally(&house);
    assert_eq!(votes.count().await.unwrap(), 1);

    house.disk().hold();
    let second = tokio::spawn({
        let votes = votes.clone();
        async move { votes.count().await }
    });
    eventually(async || house.disk().is_holding()).await;
    assert!(
        !second.is_finished(),
        "nobody hears of it before it is durable"
    );

    let house = house.crash();
    let error = second.await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::Reset(_) | CallError::Closed));
    assert_eq!(tally(&house).count().await.unwrap(), 2);
}
