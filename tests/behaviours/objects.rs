//! Objects end to end: ids and names, how they wake, fail and leave memory.

use std::collections::HashSet;

use dovehouse::deploy::{Export, Migration};
use dovehouse::http::Request;
use dovehouse::testing::{TestHouse, eventually};
use dovehouse::{Body, CallError, Ctx, Local, Namespace, ObjectId, Response, Result};
use futures_util::SinkExt;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::hibernation::{Cage, ask, hear_goodbye};
use super::waits::{Go, Marks, go, marks, open, open_with, settle, told};

/// Counts. Some of its objects wake in their own way.
struct Counter {
    calls: u32,
}

#[dovehouse::object]
impl Counter {
    async fn new(ctx: &Ctx) -> Result<Self, CallError> {
        let constructions: u32 = ctx.kv().get_as("constructions").unwrap().unwrap_or(0);
        match ctx.id().name() {
            Some("slow") => {
                let mine = ctx.clone();
                ctx.wait_until(async move {
                    let seen: Option<u32> = mine.kv().get_as("constructions")?;
                    mine.kv().put_as("seen", &seen)
                });
                let porters = ctx.house().unwrap().namespace::<Porter>().unwrap();
                porters.get_by_name("door").wait().await?;
            }
            Some("calls itself") => {
                let counters = ctx.house().unwrap().namespace::<Counter>().unwrap();
                counters.get_by_name("calls itself").calls().await?;
            }
            _ => {}
        }
        ctx.kv()
            .put_as("constructions", &(constructions + 1))
            .unwrap();
        Ok(Counter { calls: 0 })
    }

    pub fn count(&mut self, ctx: &Ctx) -> Result<u32> {
        let count = ctx.kv().get_as("count")?.unwrap_or(0) + 1;
        ctx.kv().put_as("count", &count)?;
        Ok(count)
    }

    /// In memory only.
    pub fn call(&mut self) -> u32 {
        self.calls += 1;
        self.calls
    }

    pub fn calls(&self) -> u32 {
        self.calls
    }

    pub fn constructions(&self, ctx: &Ctx) -> Result<Option<u32>> {
        ctx.kv().get_as("constructions")
    }

    /// What the future saw that the constructor went on with.
    pub fn seen(&self, ctx: &Ctx) -> Result<Option<Option<u32>>> {
        ctx.kv().get_as("seen")
    }

    pub fn name(&self, ctx: &Ctx) -> Option<String> {
        ctx.id().name().map(str::to_owned)
    }

    pub fn mark(&self, marks: Marks, mark: String) {
        marks.send(mark).unwrap();
    }

    pub fn mark_alone(&mut self, marks: Marks, mark: String) {
        marks.send(mark).unwrap();
    }

    pub async fn mark_and_wait(&self, marks: Marks, mark: String, go: Go) {
        marks.send(mark).unwrap();
        go.0.await.unwrap();
    }

    fn fetch(&mut self) -> Result<Response> {
        self.calls += 1;
        Ok(Response::new(self.calls.to_string().into()))
    }

    pub fn never_ends(&self, ctx: &Ctx) {
        ctx.wait_until(std::future::pending::<Result<()>>());
    }
}

/// Lets others wait.
struct Porter {
    door: Option<oneshot::Receiver<()>>,
}

#[dovehouse::object]
impl Porter {
    fn new() -> Self {
        Porter { door: None }
    }

    pub fn close(&mut self, door: Local<oneshot::Receiver<()>>) {
        self.door = Some(door.0);
    }

    pub async fn wait(&mut self) {
        if let Some(door) = self.door.take() {
            door.await.unwrap();
        }
    }
}

fn counters(seed: u64) -> (TestHouse, Namespace<Counter>) {
    let house = open(seed);
    let counters = house.namespace().unwrap();
    (house, counters)
}

/// A counter that wakes when the sender says so.
async fn slow(
    house: &TestHouse,
    counters: &Namespace<Counter>,
) -> (CounterStub, oneshot::Sender<()>) {
    let porters = house.namespace::<Porter>().unwrap();
    let (open, door) = oneshot::channel();
    porters
        .get_by_name("door")
        .close(door.into())
        .await
        .unwrap();
    (counters.get_by_name("slow"), open)
}

#[tokio::test]
async fn counters_are_kept_for_each_id_and_class_and_ids_are_those_of_workerd() {
    let house = open(221);
    let counters = house.namespace_with_key::<Counter>("mykey").unwrap();
    let foo = counters.get_by_name("http://foo/");
    let golden = "59002eb8cf872e541722977a258a12d6a93bbe8192b502e1c0cb250aa91af234";
    assert_eq!(foo.id().to_string(), golden);
    assert_eq!(
        counters.id_from_name("http://foo/bar").to_string(),
        "02b496f65dd35cbac90e3e72dc5a398ee93926ea4a3821e26677082d2e6f9b79"
    );
    assert_eq!((foo.count().await, foo.count().await), (Ok(1), Ok(2)));
    let same = counters.get(counters.id_from_string(golden).unwrap());
    assert_eq!(same.count().await, Ok(3));
    assert_eq!(counters.get_by_name("http://foo/bar").count().await, Ok(1));
    let unique: HashSet<ObjectId> = (0..100).map(|_| counters.unique_id()).collect();
    assert_eq!(unique.len(), 100);
    let mine = counters.get(counters.unique_id());
    assert_eq!((mine.count().await, mine.count().await), (Ok(1), Ok(2)));
    // The same name is another object in another class, and one's ids are nothing to the other.
    let porters = house.namespace::<Porter>().unwrap();
    assert_ne!(porters.id_from_name("http://foo/"), *foo.id());
    assert!(porters.id_from_string(golden).is_err());
    let refused = porters.get(foo.id().clone()).wait().await;
    assert_eq!(refused, Err(CallError::ForeignId));
}

#[tokio::test]
async fn calls_that_come_while_an_object_wakes_reach_one_instance_in_order_and_wait_for_no_other() {
    let (house, counters) = counters(222);
    let (slow, let_in) = slow(&house, &counters).await;
    let (marks, mut marked) = marks();
    let (go, gate) = go();
    let first = marks.clone();
    let first = start!(slow, mark_and_wait(first, "0".into(), gate));
    settle(&house).await;
    let mut others = Vec::new();
    for number in 1..=20 {
        let marks = marks.clone();
        others.push(start!(slow, mark(marks, number.to_string())));
    }
    settle(&house).await;
    assert_eq!(told(&mut marked), [""; 0], "it is not awake yet");
    let_in.send(()).unwrap();
    for other in others {
        other.await.unwrap().unwrap();
    }
    let expected: Vec<_> = (0..=20).map(|number| number.to_string()).collect();
    assert_eq!(told(&mut marked), expected);
    assert!(
        !first.is_finished(),
        "they did not wait for the first one's end"
    );
    go.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(slow.constructions().await, Ok(Some(1)));
    let seen = async || slow.seen().await.unwrap();
    eventually(async || seen().await.is_some()).await;
    assert_eq!(seen().await, Some(Some(1)), "the constructor was alone");
}

#[tokio::test]
async fn calls_and_requests_through_one_stub_arrive_in_order() {
    let (_house, counters) = counters(229);
    let counter = counters.get_by_name("a");
    let events = (0..20).map(async |number| match number % 2 {
        0 => counter.call().await.unwrap(),
        _ => {
            let request = Request::get("/").body(Body::empty()).unwrap();
            let body = counter.fetch(request).await.unwrap().into_body();
            body.text(10).await.unwrap().parse().unwrap()
        }
    });
    let numbers = futures_util::future::join_all(events).await;
    assert_eq!(numbers, (1..=20).collect::<Vec<u32>>());
}

#[tokio::test]
async fn when_the_caller_for_whom_an_object_wakes_goes_away_it_wakes_for_the_next() {
    let (house, counters) = counters(223);
    let (slow, never) = slow(&house, &counters).await;
    let first = start!(slow, calls());
    settle(&house).await;
    let (sharing, alone) = (start!(slow, calls()), start!(slow, call()));
    settle(&house).await;
    assert!(!sharing.is_finished());
    first.abort();
    assert_eq!(sharing.await.unwrap(), Ok(0));
    assert_eq!(alone.await.unwrap(), Ok(1));
    assert_eq!(slow.constructions().await, Ok(Some(1)));
    drop(never);
}

/// Callers of both kinds that come and go while the object wakes.
#[tokio::test]
async fn whoever_goes_away_while_an_object_wakes_the_others_are_served_in_order() {
    let (house, counters) = counters(231);
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (slow, let_in) = slow(&house, &counters).await;
        let (marks, mut marked) = marks();
        let mut calls = Vec::new();
        for number in 0..12 {
            let (marks, mark) = (marks.clone(), number.to_string());
            calls.push(match rng.bool() {
                true => start!(slow, mark(marks, mark)),
                false => start!(slow, mark_alone(marks, mark)),
            });
            if rng.bool() {
                settle(&house).await;
            }
        }
        let mut expected = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            match rng.bool() {
                true => call.abort(),
                false => expected.push(number.to_string()),
            }
            if rng.u8(..) < 60 {
                settle(&house).await;
            }
        }
        settle(&house).await;
        // If the first has gone, the next has found the door open.
        let _nobody_may_wait = let_in.send(());
        for call in calls {
            // An error is that it was aborted.
            let _ = call.await;
        }
        let told = told(&mut marked);
        let in_order = told.is_sorted_by_key(|mark| mark.parse::<u32>().unwrap());
        assert!(in_order, "seed {seed}: {told:?}");
        assert!(
            expected.iter().all(|mark| told.contains(mark)),
            "seed {seed}: {told:?}"
        );
        eventually(async || house.evict(slow.id()).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_constructor_that_calls_its_own_object_fails_instead_of_hanging() {
    let (house, counters) = counters(224);
    let error = counters.get_by_name("calls itself").calls().await;
    assert_eq!(error, Err(CallError::Reentrant));
    assert_eq!(house.awake().await.unwrap(), 0, "nothing of it stays");
}

#[tokio::test]
async fn a_name_of_1024_bytes_is_known_inside_and_a_longer_one_or_none_is_not() {
    let (_house, counters) = counters(225);
    let (longest, longer) = ("n".repeat(1024), "n".repeat(1025));
    let name = counters.get_by_name(&longest).name().await.unwrap();
    assert_eq!(name, Some(longest));
    let long = counters.get_by_name(&longer);
    assert_eq!(
        (long.name().await.unwrap(), long.count().await),
        (None, Ok(1))
    );
    assert_eq!(
        counters.get_by_name(&longer).count().await,
        Ok(2),
        "the same object"
    );
    let unique = counters.get(counters.unique_id());
    assert_eq!(unique.name().await.unwrap(), None);
    let parsed = counters.id_from_name("unused").to_string();
    let parsed = counters.get(counters.id_from_string(&parsed).unwrap());
    assert_eq!(parsed.name().await.unwrap(), None);
}

#[tokio::test]
async fn an_idle_object_leaves_memory_after_ten_seconds_and_not_before_or_never_if_the_house_says_so()
 {
    let (house, counters) = counters(226);
    let counter = counters.get_by_name("a");
    assert_eq!(counter.call().await, Ok(1));
    house.advance(9_999);
    settle(&house).await;
    assert_eq!(counter.call().await, Ok(2));
    // It looks every 2.5 seconds.
    house.advance(12_500);
    eventually(async || house.awake().await.unwrap() == 0).await;
    assert_eq!(counter.call().await, Ok(1));

    let house = open_with(230, |builder| builder.idle_ms(u64::MAX));
    let counter = house.namespace::<Counter>().unwrap().get_by_name("a");
    assert_eq!(counter.call().await, Ok(1));
    house.advance(100 * 24 * 3_600_000);
    settle(&house).await;
    assert_eq!(counter.call().await, Ok(2));
}

#[tokio::test]
async fn what_an_object_goes_on_with_keeps_it_awake_for_15_minutes_at_most() {
    let (house, counters) = counters(227);
    let counter = counters.get_by_name("a");
    counter.never_ends().await.unwrap();
    settle(&house).await;
    house.advance(15 * 60_000 - 1);
    settle(&house).await;
    assert!(!house.evict(counter.id()).await.unwrap());
    house.advance(1);
    eventually(async || house.evict(counter.id()).await.unwrap()).await;
}

#[tokio::test]
async fn a_client_hears_what_its_object_said_in_turns_before_it_failed_and_then_the_end() {
    let cage = Cage::new(open(228)).await;
    let polly = cage.parrots.get_by_name("polly");
    // Before the handshake is answered there is nobody to hear.
    let refused = cage
        .try_connect("polly/failing")
        .await
        .map(drop)
        .unwrap_err();
    assert!(refused.to_string().contains("500"), "{refused}");

    let mut socket = cage.connect("polly/a").await;
    assert_eq!(ask(&mut socket, "fail in a section").await, "before");
    assert_eq!(hear_goodbye(&mut socket).await, 1011);

    let mut socket = cage.connect("polly/a").await;
    assert_eq!(ask(&mut socket, "x").await, "x 1");
    polly.refuse_to_wake().await.unwrap();
    cage.put_to_sleep(&polly).await;
    socket.send(Frame::text("x")).await.unwrap();
    assert_eq!(
        hear_goodbye(&mut socket).await,
        1011,
        "its constructor fails"
    );
    let refused = cage.try_connect("polly/a").await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("500"), "{refused}");
}

#[test]
fn a_declaration_with_an_unknown_key_is_refused() {
    let known = r#"{"tag": "v1", "new_sqlite_classes": ["Room"]}"#;
    let migration: Migration = serde_json::from_str(known).unwrap();
    assert_eq!(migration, Migration::new("v1").new_sqlite("Room"));
    let misspelt = known.replace("classes", "clases");
    let error = serde_json::from_str::<Migration>(&misspelt).unwrap_err();
    assert!(error.to_string().contains("new_sqlite_clases"), "{error}");
    let known = r#"{"type": "durable-object", "storage": "sqlite"}"#;
    serde_json::from_str::<Export>(known).unwrap();
    let misspelt = known.replace("storage", "store");
    assert!(serde_json::from_str::<Export>(&misspelt).is_err());
}
