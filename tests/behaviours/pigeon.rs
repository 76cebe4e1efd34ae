//! An object whose handlers are the test's own closures, on a disk that can be held.

use std::sync::atomic::Ordering;

use dovehouse::testing::{START_MS, TestHouse};
use dovehouse::{AlarmInfo, CallError, Ctx, Error, List, Namespace, Object, Reply, Result, Stub};
use tokio::task::JoinHandle;

use crate::alarms::GROWN_IN_VAIN;

/// A house with pigeons, on one shard.
pub struct Loft {
    pub house: TestHouse,
    pub pigeons: Namespace<Pigeon>,
}

impl Loft {
    pub fn new(seed: u64) -> Self {
        Self::of(TestHouse::with_settings(seed, |builder| builder.shards(1)))
    }

    fn of(house: TestHouse) -> Self {
        let pigeons = house.namespace().unwrap();
        Loft { house, pigeons }
    }

    /// The house that a power cut would leave now; this one goes on.
    pub fn after_power_loss(&self) -> Self {
        Self::of(self.house.on(self.house.disk().power_loss()))
    }

    pub fn pigeon(&self) -> Stub<Pigeon> {
        self.pigeons.get_by_name("pigeon")
    }

    /// Holds commits.
    pub fn hold(&self) {
        self.house.disk().hold();
    }

    pub fn release(&self) {
        self.house.disk().release();
    }

    /// Records that the log has had.
    pub fn records(&self) -> u64 {
        self.house.engine().stats().log.records
    }

    /// Lets everything run that can.
    pub async fn settle(&self) {
        let other = self.pigeons.get_by_name("other");
        for _ in 0..8 {
            // An answer may be there before anybody waits for it.
            tokio::task::yield_now().await;
            run(&other, async |_| Ok(())).await.unwrap();
        }
    }

    /// Moves the clock to so many milliseconds after the start.
    pub fn advance_to(&self, ms: u64) {
        self.house.advance(START_MS + ms - self.house.now_ms());
    }
}

/// Runs a closure as a handler that has the object alone.
pub fn run<R: Send + 'static, F: AsyncFnOnce(&Ctx) -> Result<R> + Send + 'static>(
    stub: &Stub<Pigeon>,
    act: F,
) -> impl Future<Output = Result<R, CallError>> + Send + use<R, F> {
    let stub = stub.clone();
    let handler = async move |_: &mut Pigeon, ctx: &Ctx| act(ctx).await.into_reply();
    async move { stub.call_exclusive("run", handler).await }
}

/// The same, in a task of its own.
pub fn start<R: Send + 'static>(
    stub: &Stub<Pigeon>,
    act: impl AsyncFnOnce(&Ctx) -> Result<R> + Send + 'static,
) -> JoinHandle<Result<R, CallError>> {
    tokio::spawn(run(stub, act))
}

/// The same for a handler that shares the object.
pub fn start_shared<R: Send + 'static>(
    stub: &Stub<Pigeon>,
    act: impl AsyncFnOnce(&Ctx) -> Result<R> + Send + 'static,
) -> JoinHandle<Result<R, CallError>> {
    let stub = stub.clone();
    let handler = async move |_: &Pigeon, ctx: &Ctx| act(ctx).await.into_reply();
    tokio::spawn(async move { stub.call_shared("share", handler).await })
}

pub fn keys(ctx: &Ctx) -> Result<Vec<String>> {
    let all = ctx.kv().list(&List::all())?.into_iter();
    Ok(all
        .map(|(key, _)| String::from_utf8(key).unwrap())
        .collect())
}

pub async fn keys_of(stub: &Stub<Pigeon>) -> Vec<String> {
    run(stub, async |ctx| keys(ctx)).await.unwrap()
}

/// When the alarm is due, in milliseconds since the start.
pub async fn due(stub: &Stub<Pigeon>) -> Option<u64> {
    let due_ms = run(stub, async |ctx| ctx.alarm().get()).await.unwrap();
    due_ms.map(|due_ms| due_ms - START_MS)
}

/// What its alarm handler has noted, `scheduled retries` each, and what it was told to do then.
pub async fn fired(stub: &Stub<Pigeon>) -> Vec<String> {
    let notes = run(stub, async |ctx| {
        ctx.kv().list_as::<String>(&List::prefix(b"fired/"))
    });
    let notes = notes.await.unwrap().into_iter();
    notes.map(|(_, note)| note).collect()
}

/// Sets the alarm, and says what its handler does after it has noted that it fired.
pub async fn set(stub: &Stub<Pigeon>, ms: u64, then: &'static str) {
    let set = run(stub, async move |ctx| {
        ctx.kv().put("then", then)?;
        ctx.alarm().set(START_MS + ms)
    });
    set.await.unwrap();
}

pub struct Pigeon;

impl Object for Pigeon {
    const CLASS: &'static str = "Pigeon";
    const HAS_ALARM: bool = true;
    type Stub = Stub<Pigeon>;

    async fn new(_: &Ctx) -> Result<Self, CallError> {
        Ok(Pigeon)
    }

    async fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> Result<(), CallError> {
        on_alarm(ctx, alarm).await.into_reply()
    }
}

async fn on_alarm(ctx: &Ctx, alarm: AlarmInfo) -> Result<()> {
    assert_eq!(ctx.alarm().get()?, None, "none while it runs");
    let count = ctx.kv().list(&List::prefix(b"fired/"))?.len();
    let note = format!("{} {}", alarm.scheduled_ms - START_MS, alarm.retry_count);
    ctx.kv().put_as(format!("fired/{count:03}"), &note)?;
    let then = ctx.kv().get("then")?.unwrap_or_default();
    match then.as_slice() {
        b"fail" => Err(Error::OutsideTurn),
        b"fail once" => {
            ctx.kv().put("then", "")?;
            Err(Error::OutsideTurn)
        }
        b"set and delete" => {
            ctx.alarm().set(alarm.scheduled_ms + 10)?;
            assert_eq!(ctx.alarm().get()?, Some(alarm.scheduled_ms + 10));
            ctx.alarm().delete()?;
            ctx.kv().put("went on", "")
        }
        b"delete all" => ctx.delete_all(),
        b"delete all but alarm" => ctx.delete_all_but_alarm(),
        b"delete all and set" => {
            ctx.delete_all()?;
            ctx.alarm().set(alarm.scheduled_ms + 10)
        }
        b"set and give up" => {
            ctx.alarm().set(alarm.scheduled_ms + 10)?;
            tokio::task::yield_now().await;
            ctx.abort_without_retry("give up")
        }
        b"give up" => ctx.abort_without_retry("give up"),
        b"grow on a full disk" => {
            GROWN_IN_VAIN.fetch_add(1, Ordering::SeqCst);
            ctx.kv().put("large", [7; 200_000])
        }
        b"grow" => ctx.kv().put("large", [7; 200_000]),
        b"orphan" => {
            ctx.sql().exec("INSERT INTO child VALUES (1)", ())?;
            Ok(())
        }
        _ => Ok(()),
    }
}
