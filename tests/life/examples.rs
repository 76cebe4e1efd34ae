//! The examples, as programs that others begin with, do what they say.

#[allow(dead_code)]
#[path = "../../examples/agent.rs"]
mod agent;
#[allow(dead_code)]
#[path = "../../examples/counter.rs"]
mod counter;
#[allow(dead_code)]
#[path = "../../examples/job_queue.rs"]
mod job_queue;
#[allow(dead_code)]
#[path = "../../examples/rate_limiter.rs"]
mod rate_limiter;

use agent::{Agent, Answer, Tool};
use counter::Counter;
use dovehouse::testing::{START_MS, TestHouse, run_alarm, run_in};
use dovehouse::{Ctx, Query};
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
    house.alarms_done().await;
    let left = clients.objects(Query::default()).await.unwrap();
    assert_eq!(left.objects, []);
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
    house.alarms_done().await;
    assert_eq!(outcome(soon).await, "soon is done");
    assert_eq!(outcome(flaky).await, "", "it waits for its second try");
    house.advance(5_000);
    house.alarms_done().await;
    assert_eq!(outcome(flaky).await, "flaky is done");
    // Its further tries come at ever longer distances.
    while outcome(broken).await.is_empty() {
        house.advance(500);
        house.alarms_done().await;
    }
    assert_eq!(house.now_ms(), START_MS + 36_000);
    assert_eq!(outcome(broken).await, "failed: it is broken");
    assert_eq!(
        (outcome(late).await, queue.waiting().await.unwrap()),
        (String::new(), 1)
    );
    house.advance(HOUR_MS);
    house.alarms_done().await;
    assert_eq!(outcome(late).await, "late is done");

    // What ended a day ago is tidied away at night.
    house.advance(48 * HOUR_MS);
    house.alarms_done().await;
    assert_eq!(outcome(late).await, "");
}

#[tokio::test]
async fn an_agent_recalls_what_its_user_told_it_and_reminds_after_a_crash_once() {
    let house = TestHouse::with_seed(146);
    let agents = house.namespace::<Agent>().unwrap();
    let ada = agents.get_by_name("ada");
    let say = async |text: &str| ada.say(text.into()).await.unwrap();
    assert_eq!(say("remember that the doves like barley").await, "I will.");
    assert_eq!(say("remember that bob has \"no\" cat").await, "I will.");
    assert_eq!(
        say("what would a dove like?").await,
        "the doves like barley"
    );
    assert_eq!(say("\"AND\" (cats*?").await, "bob has \"no\" cat");
    assert_eq!(say("?").await, "I do not know.");
    let bob = agents.get_by_name("bob");
    let question = "what would a dove like?".to_owned();
    assert_eq!(bob.say(question).await.unwrap(), "I do not know.");
    let forget = Tool::Forget { fact: 2 };
    assert_eq!(ada.call(forget).await.unwrap(), Answer::Done);
    assert_eq!(say("who has cats?").await, "I do not know.");

    let zone = "Europe/Berlin".to_owned();
    // The clock begins on a 14th of November at 22:13:20 UTC; eight in Berlin is seven.
    let daily = ada.call(Tool::Daily { zone }).await.unwrap();
    assert_eq!(daily, Answer::DueMs(START_MS + 8 * HOUR_MS + 2_800_000));
    say("in 10 minutes feed the doves").await;
    say("in 90 minutes let them in").await;
    let heard = ada.conversation(0).await.unwrap().last().unwrap().id;
    let house = house.crash();
    let ada = house.namespace::<Agent>().unwrap().get_by_name("ada");
    let news = async || {
        let news = ada.conversation(heard).await.unwrap();
        news.into_iter().map(|said| said.text).collect::<Vec<_>>()
    };
    house.advance(600_000 - 1);
    house.alarms_done().await;
    assert!(news().await.is_empty());
    house.advance(1);
    house.alarms_done().await;
    assert_eq!(news().await, ["Remember: feed the doves"]);
    let house = house.crash();
    let ada = house.namespace::<Agent>().unwrap().get_by_name("ada");
    assert!(run_alarm(&ada).await.unwrap());
    assert!(run_alarm(&ada).await.unwrap());
    let news = ada.conversation(heard + 1).await.unwrap();
    let texts: Vec<_> = news.iter().map(|said| &*said.text).collect();
    assert_eq!(texts, ["Remember: let them in", "To come: "]);

    // The object has room for 256 alarms; one is the daily one.
    let remind = |number: u64| Tool::Remind {
        text: format!("no. {number}"),
        in_minutes: number,
    };
    for number in 1..=255 {
        ada.call(remind(number)).await.unwrap();
    }
    ada.call(remind(256)).await.unwrap_err();
    house.advance(300 * 60_000);
    house.alarms_done().await;
    let last = ada.conversation(0).await.unwrap();
    assert!(!last.is_empty());
    let left = async |_: &mut Agent, ctx: &Ctx| {
        ctx.sql()
            .exec("SELECT * FROM reminder", ())
            .unwrap()
            .is_empty()
    };
    assert!(run_in(&ada, left).await.unwrap());
}
