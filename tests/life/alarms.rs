//! Alarms beyond the first steps: several of an object, schedules, and what may go wrong.

use dovehouse::testing::{START_MS, TestHouse, eventually};
use dovehouse::{AlarmInfo, Ctx, Dovehouse, Error, List, Local, Result, Sql};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Notes which alarm fired when, and does what it was told to for each.
struct Sleeper {
    hangs: Option<UnboundedSender<()>>,
}

#[dovehouse::object]
impl Sleeper {
    fn new() -> Self {
        Sleeper { hangs: None }
    }

    pub fn set(&mut self, ctx: &Ctx, name: String, due_ms: u64, then: String) -> Result<()> {
        ctx.kv().put(format!("then/{name}"), then)?;
        ctx.alarm_named(&name).set(due_ms)
    }

    pub fn cron(&mut self, ctx: &Ctx, name: String, expression: String) -> Result<()> {
        ctx.alarm_named(&name).cron(&expression)
    }

    pub fn delete(&mut self, ctx: &Ctx, name: String) -> Result<()> {
        ctx.alarm_named(&name).delete()
    }

    pub fn pending(&self, ctx: &Ctx) -> Result<Vec<(String, u64)>> {
        let all = ctx.alarms()?;
        let since_start = |(name, due_ms)| (name, due_ms - START_MS);
        Ok(all.into_iter().map(since_start).collect())
    }

    /// Where the handler says that it hangs.
    pub fn tell(&mut self, hangs: Local<UnboundedSender<()>>) {
        self.hangs = Some(hangs.0);
    }

    pub fn fired(&self, ctx: &Ctx) -> Result<Vec<String>> {
        let all = ctx.kv().list(&List::prefix(b"fired/"))?;
        let text = |(_, note)| String::from_utf8(note).unwrap();
        Ok(all.into_iter().map(text).collect())
    }

    pub fn refusals(&mut self, ctx: &Ctx) -> Result<Vec<bool>> {
        let long = "a".repeat(257);
        let many = (0..300).map(|number| ctx.alarm_named(&number.to_string()).set(START_MS));
        let refused = many.filter(Result::is_err).count();
        Ok(vec![
            matches!(ctx.alarm().set(0), Err(Error::AlarmTime)),
            matches!(ctx.alarm().cron("never"), Err(Error::Schedule { .. })),
            matches!(
                ctx.alarm_named(&long).set(START_MS),
                Err(Error::Limit { limit: 256, .. })
            ),
            refused == 300 - 256,
        ])
    }

    async fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> Result<()> {
        let before = ctx.kv().list(&List::prefix(b"fired/"))?.len();
        let key = format!("fired/{before:05}");
        let (at, due_ms) = (ctx.now_ms() - START_MS, alarm.scheduled_ms - START_MS);
        let note = format!("{} {at} {due_ms} {}", alarm.name, alarm.retry_count);
        ctx.kv().put(key, note)?;
        let then = ctx.kv().get(format!("then/{}", alarm.name))?;
        let this = ctx.alarm_named(&alarm.name);
        match then.as_deref().unwrap_or_default() {
            b"set again" => {
                ctx.kv().delete(format!("then/{}", alarm.name))?;
                this.set(alarm.scheduled_ms)
            }
            b"set, rolled back" => {
                let set = |_: &Sql<'_>| {
                    ctx.alarm_named(&alarm.name).set(alarm.scheduled_ms + 5)?;
                    Err(Error::OutsideTurn)
                };
                let _rolled_back: Result<()> = ctx.sql().transaction(set);
                Ok(())
            }
            b"fail" => Err(Error::OutsideTurn),
            b"delete all" => ctx.delete_all(),
            b"hang" => {
                self.hangs.take().map(|hangs| hangs.send(()));
                std::future::pending().await
            }
            _ => Ok(()),
        }
    }
}

async fn sleeper(house: &Dovehouse) -> SleeperStub {
    house.namespace::<Sleeper>().unwrap().get_by_name("a")
}

#[tokio::test]
async fn several_alarms_of_an_object_fire_each_at_its_time_across_a_power_cut() {
    let house = TestHouse::with_seed(110);
    let stub = sleeper(&house).await;
    for (name, due) in [("", 3000), ("tea", 1000), ("bread", 2000), ("gone", 500)] {
        let due_ms = START_MS + due;
        stub.set(name.into(), due_ms, String::new()).await.unwrap();
    }
    stub.delete("gone".into()).await.unwrap();
    let pending = [("", 3000), ("bread", 2000), ("tea", 1000)];
    let pending = pending.map(|(name, due)| (name.to_owned(), due));
    assert_eq!(stub.pending().await.unwrap(), pending);

    let house = house.crash();
    let stub = sleeper(&house).await;
    house.advance(999);
    assert_eq!(stub.fired().await.unwrap().len(), 0, "never early");
    house.advance(1001);
    eventually(async || stub.fired().await.unwrap().len() == 2).await;
    let fired = stub.fired().await.unwrap();
    assert_eq!(fired, ["tea 2000 1000 0", "bread 2000 2000 0"]);
    assert_eq!(stub.pending().await.unwrap(), [(String::new(), 3000)]);
    house.advance(1000);
    eventually(async || stub.pending().await.unwrap().is_empty()).await;
    assert_eq!(stub.fired().await.unwrap()[2], " 3000 3000 0");
    assert!(!stub.refusals().await.unwrap().contains(&false));
}

#[tokio::test]
async fn a_schedule_goes_on_after_success_failure_and_a_time_that_nobody_was_there() {
    let house = TestHouse::with_seed(111);
    let stub = sleeper(&house).await;
    stub.set("job".into(), START_MS + 1, "fail".into())
        .await
        .unwrap();
    // Setting it anew ends what was set before. START_MS is 20 seconds after 22:13.
    stub.cron("job".into(), "* * * * *".into()).await.unwrap();
    stub.cron("fine".into(), "* * * * *".into()).await.unwrap();
    let both = |due: u64| [("fine".to_owned(), due), ("job".to_owned(), due)];
    assert_eq!(stub.pending().await.unwrap(), both(40_000));
    house.advance(40_000);
    let handled = async || stub.fired().await.unwrap().len() == 2;
    eventually(handled).await;
    // The one that failed is tried again before its next time.
    let retry = async || stub.pending().await.unwrap();
    eventually(async || retry().await[1].1 < 43_000 && retry().await[0].1 == 100_000).await;
    let wait = retry().await[1].1 - 40_000;
    assert!((2000..=2500).contains(&wait), "{wait}");

    // Six retries later it waits for the next time.
    for tries in 1..=6 {
        let due = retry().await[1].1;
        house.advance(START_MS + due - house.now_ms());
        let fired = async || {
            let fired = stub.fired().await.unwrap();
            let of_job = fired.iter().filter(|note| note.starts_with("job"));
            of_job.count() == tries + 1
        };
        eventually(fired).await;
        eventually(async || {
            retry()
                .await
                .iter()
                .all(|(_, due)| START_MS + due > house.now_ms())
        })
        .await;
    }
    let now = house.now_ms() - START_MS;
    let next = (now + 20_000).div_ceil(60_000) * 60_000 - 20_000;
    assert_eq!(stub.pending().await.unwrap(), both(next));

    // An hour without anybody is one missed time.
    let fired = stub.fired().await.unwrap().len();
    house.advance(3_600_000);
    let next = next + 3_600_000;
    eventually(async || retry().await[0].1 == next).await;
    let fine = stub.fired().await.unwrap();
    let missed = fine[fired..].iter().filter(|note| note.starts_with("fine"));
    assert_eq!(missed.count(), 1);
    stub.delete("fine".into()).await.unwrap();
    assert!(
        stub.pending()
            .await
            .unwrap()
            .iter()
            .all(|(name, _)| name == "job")
    );
}

#[tokio::test]
async fn an_alarm_set_by_its_own_handler_stays_unless_that_was_rolled_back() {
    let house = TestHouse::with_seed(112);
    let stub = sleeper(&house).await;
    let due_ms = START_MS + 1000;
    stub.set("".into(), due_ms, "set again".into())
        .await
        .unwrap();
    stub.set("undone".into(), due_ms, "set, rolled back".into())
        .await
        .unwrap();
    house.advance(1000);
    eventually(async || stub.pending().await.unwrap().is_empty()).await;
    // Set again for the very time that it fired for, it fires again at once.
    assert_eq!(
        stub.fired().await.unwrap(),
        [" 1000 1000 0", " 1000 1000 0", "undone 1000 1000 0"]
    );
}

#[tokio::test]
async fn a_handler_that_never_ends_is_ended_after_15_minutes_and_tried_again() {
    let house = TestHouse::with_seed(113);
    let stub = sleeper(&house).await;
    let (hangs, mut hanging) = unbounded_channel();
    stub.set("".into(), START_MS + 1, "hang".into())
        .await
        .unwrap();
    stub.tell(Local(hangs)).await.unwrap();
    house.advance(1);
    hanging.recv().await.unwrap();
    house.advance(15 * 60_000);
    let limit = 15 * 60_000 + 1;
    // A call that waited for the handler is told of its end.
    let retry = async || {
        // One whose call was lost keeps failing.
        let fresh = sleeper(&house).await;
        fresh.pending().await.map_or(0, |pending| pending[0].1)
    };
    eventually(async || retry().await > limit).await;
    let wait = retry().await - limit;
    assert!((2000..=2500).contains(&wait), "{wait}");
}

#[tokio::test]
async fn deleting_everything_in_the_handler_leaves_no_alarm() {
    let house = TestHouse::with_seed(115);
    let stub = sleeper(&house).await;
    stub.set("".into(), START_MS + 1, "delete all".into())
        .await
        .unwrap();
    stub.set("other".into(), START_MS + 5, String::new())
        .await
        .unwrap();
    house.advance(1);
    eventually(async || stub.pending().await.unwrap().is_empty()).await;
    house.advance(10);
    assert!(stub.fired().await.unwrap().is_empty());
}
