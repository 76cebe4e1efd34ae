//! The examples, as programs that others begin with, do what they say.

#[allow(dead_code)]
#[path = "../../examples/counter.rs"]
mod counter;
#[allow(dead_code)]
#[path = "../../examples/job_queue.rs"]
mod job_queue;
#[allow(dead_code)]
#[path = "../../examples/rate_limiter.rs"]
mod rate_limiter;

use counter::Counter;
use dovehouse::Query;
use dovehouse::testing::{START_MS, TestHouse, eventually};
use job_queue::Queue;
use rate_limiter::{Bucket, Decision, Limit};

const HOUR_MS: u64 = 3_600_000;

#[tokio::test]
async fn a_counter_keeps_every_count_that_it_has_shown() {
    let house = TestHouse::with_seed(140);
    let counter = house.namespace::<Counter>().unwrap().get_by_name("visits");
    assert_eq!(counter.add(2).await.unwrap(), 2);
    assert_eq!(counter.add(3).await.unwrap(), 5);
    let house = house.crash();
    let counters = house.namespace::<Counter>().unwrap();
    let counter = counters.get_by_name("visits");
    assert_eq!(counter.value().await.unwrap(), 5);
    counter.reset().await.unwrap();
    assert_eq!(counter.value().await.unwrap(), 0);
    let left = counters.objects(Query::default()).await.unwrap();
    assert_eq!(left.objects, []);
}

#[tokio::test]
async fn a_rate_limiter_refuses_beyond_the_burst_even_after_a_crash_and_forgets_who_is_gone() {
    let house = TestHouse::with_seed(141);
    let limit = Limit {
        burst: 3,
        every_ms: 1000,
    };
    let client = house.namespace::<Bucket>().unwrap().get_by_name("client");
    for left in [2, 1, 0] {
        let decision = client.take(limit).await.unwrap();
        assert_eq!(decision, Decision::Allowed { left });
    }
    let house = house.crash();
    let clients = house.namespace::<Bucket>().unwrap();
    let client = clients.get_by_name("client");
    let refused = client.take(limit).await.unwrap();
    assert_eq!(refused, Decision::RetryAfterMs(1000));
    house.advance(1000);
    let again = client.take(limit).await.unwrap();
    assert_eq!(again, Decision::Allowed { left: 0 });
    house.advance(3000);
    let is_gone = async || {
        let left = clients.objects(Query::default()).await.unwrap();
        left.objects.is_empty()
    };
    eventually(is_gone).await;
}

#[tokio::test]
async fn a_job_queue_runs_jobs_when_they_are_due_and_retries_those_that_fail() {
    let house = TestHouse::with_seed(142);
    let queue = house.namespace::<Queue>().unwrap().get_by_name("letters");
    let late = queue.push("late".into(), HOUR_MS).await.unwrap();
    let soon = queue.push("soon".into(), 1_000).await.unwrap();
    let flaky = queue.push("flaky".into(), 1_000).await.unwrap();
    let broken = queue.push("broken".into(), 1_000).await.unwrap();

    let house = house.crash();
    let queue = house.namespace::<Queue>().unwrap().get_by_name("letters");
    let outcome = async |id| queue.outcome(id).await.unwrap().unwrap_or_default();
    assert_eq!(queue.waiting().await.unwrap(), 4);
    house.advance(1_000);
    eventually(async || outcome(soon).await == "soon is done").await;
    assert_eq!(outcome(flaky).await, "", "it waits for its second try");
    house.advance(5_000);
    eventually(async || outcome(flaky).await == "flaky is done").await;
    // Its further tries come at ever longer distances.
    while outcome(broken).await.is_empty() {
        house.advance(500);
        tokio::task::yield_now().await;
    }
    assert!(house.now_ms() >= START_MS + 36_000);
    assert_eq!(outcome(broken).await, "failed: it is broken");
    assert_eq!(
        (outcome(late).await, queue.waiting().await.unwrap()),
        (String::new(), 1)
    );
    house.advance(HOUR_MS);
    eventually(async || outcome(late).await == "late is done").await;

    // What ended a day ago is tidied away at night.
    house.advance(48 * HOUR_MS);
    eventually(async || outcome(late).await.is_empty()).await;
}
