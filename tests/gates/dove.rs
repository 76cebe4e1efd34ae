//! An object that does what its calls say, on a disk that can be held.

use dovehouse::testing::TestHouse;
use dovehouse::{AlarmInfo, Builder, CallError, Ctx, Error, List, Local, Namespace, Result};
use tokio::sync::{mpsc, oneshot};

pub fn open(seed: u64) -> (TestHouse, Namespace<Dove>) {
    open_with(seed, |builder| builder)
}

/// All on one shard, so that what is sent after something else comes after it.
pub fn open_with(
    seed: u64,
    settings: impl Fn(Builder) -> Builder + Send + Sync + 'static,
) -> (TestHouse, Namespace<Dove>) {
    let house = TestHouse::with_settings(seed, move |builder| settings(builder.shards(1)));
    let doves = house.namespace().unwrap();
    (house, doves)
}

/// Another house, as a power cut leaves this one, which goes on.
pub fn after_power_loss(house: &TestHouse) -> (TestHouse, Namespace<Dove>) {
    let cut = house.on(house.disk().power_loss());
    let doves = cut.namespace().unwrap();
    (cut, doves)
}

/// What handlers tell the test.
pub type Marks = Local<mpsc::UnboundedSender<&'static str>>;
/// What they wait for.
pub type Go = Local<oneshot::Receiver<()>>;

pub fn marks() -> (Marks, mpsc::UnboundedReceiver<&'static str>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender.into(), receiver)
}

pub fn go() -> (oneshot::Sender<()>, Go) {
    let (sender, receiver) = oneshot::channel();
    (sender, receiver.into())
}

/// Lets everything run that can.
pub async fn settle(dove: &DoveStub) {
    for _ in 0..8 {
        // An answer may be there before anybody waits for it.
        tokio::task::yield_now().await;
        dove.fresh().ping().await.unwrap();
    }
}

/// Notes when it is dropped.
struct Dropped(Marks);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

pub struct Dove {
    seen: u32,
}

#[dovehouse::object]
impl Dove {
    async fn new(ctx: &Ctx) -> Result<Self, CallError> {
        if ctx.kv().get("refuse").unwrap().is_some() {
            return Err(CallError::failed("Refused", "not today"));
        }
        Ok(Dove { seen: 0 })
    }

    pub fn ping(&self) {}

    pub fn see(&mut self) -> u32 {
        self.seen += 1;
        self.seen
    }

    pub fn mark(&self, marks: Marks, mark: String) {
        marks.send(String::leak(mark)).unwrap();
    }

    pub fn keys(&self, ctx: &Ctx) -> Result<Vec<String>> {
        let all = ctx.kv().list(&List::all())?;
        Ok(all
            .into_iter()
            .map(|(key, _)| String::from_utf8(key).unwrap())
            .collect())
    }

    pub fn put(&mut self, ctx: &Ctx, key: String) -> Result<()> {
        ctx.kv().put(key, "value")
    }

    pub async fn put_and_call(&mut self, ctx: &Ctx, whom: String) -> Result<u32, CallError> {
        ctx.kv().put("before the call", "").unwrap();
        let doves = ctx.house().unwrap().namespace::<Dove>().unwrap();
        doves.get_by_name(&whom).see().await
    }

    /// Marks, waits, and marks again.
    pub async fn share(&self, marks: Marks, go: Go) {
        let _dropped = Dropped(marks.clone());
        marks.send("shares").unwrap();
        go.0.await.unwrap();
        marks.send("shared").unwrap();
    }

    pub async fn alone(&mut self, marks: Marks, go: Go) {
        let _dropped = Dropped(marks.clone());
        marks.send("alone").unwrap();
        go.0.await.unwrap();
        marks.send("was alone").unwrap();
    }

    pub async fn section(&self, ctx: &Ctx, marks: Marks, go: Go) -> Result<()> {
        let inside = async {
            marks.send("enters").unwrap();
            go.0.await.unwrap();
            marks.send("leaves").unwrap();
            Result::<()>::Ok(())
        };
        ctx.block_concurrency_while(inside).await
    }

    pub async fn failing_section(&self, ctx: &Ctx, marks: Marks, go: Go) -> Result<()> {
        ctx.kv().put("before", "")?;
        let inside = async {
            marks.send("enters").unwrap();
            go.0.await.unwrap();
            ctx.kv().put("inside", "").unwrap();
            Result::<(), CallError>::Err(CallError::failed("Broken", "told to"))
        };
        ctx.block_concurrency_while(inside).await?;
        unreachable!("a section that fails ends its object");
    }

    /// Sections beside each other, then inside each other.
    pub async fn sections(&self, ctx: &Ctx, marks: Marks) -> Result<bool> {
        let one = |name: &'static str| {
            let marks = marks.clone();
            ctx.block_concurrency_while(async move {
                marks.send(name).unwrap();
                tokio::task::yield_now().await;
                marks.send(name).unwrap();
                Result::<()>::Ok(())
            })
        };
        tokio::try_join!(one("a"), one("b"))?;
        Ok(matches!(nested(ctx, 64).await, Ok(()))
            && matches!(nested(ctx, 65).await, Err(Error::Limit { limit: 64, .. })))
    }

    /// Calls another object from inside a section, which calls back.
    pub async fn section_with_a_call(&self, ctx: &Ctx) -> Result<usize, CallError> {
        let doves = ctx.house().unwrap().namespace::<Dove>().unwrap();
        let other = doves.get_by_name("other");
        let me = ctx.id().name().unwrap().to_owned();
        ctx.block_concurrency_while(other.ask(me))
            .await
            .map_err(|error| CallError::failed("", error.to_string()))
    }

    pub async fn ask(&self, ctx: &Ctx, whom: String) -> Result<usize, CallError> {
        let doves = ctx.house().unwrap().namespace::<Dove>().unwrap();
        Ok(doves.get_by_name(&whom).keys().await?.len())
    }

    /// Has itself alone, waits, and calls another that does the same.
    pub async fn alone_then_call(
        &mut self,
        ctx: &Ctx,
        whom: String,
        marks: Marks,
        go: Go,
    ) -> Result<u32, CallError> {
        marks.send("alone").unwrap();
        go.0.await.unwrap();
        let doves = ctx.house().unwrap().namespace::<Dove>().unwrap();
        doves.get_by_name(&whom).see().await
    }

    pub async fn transaction(&self, ctx: &Ctx, marks: Marks, go: Go, end: String) -> Result<()> {
        ctx.kv().put("before", "")?;
        ctx.transaction(async |transaction| {
            ctx.kv().put("first", "")?;
            marks.send("first").unwrap();
            go.0.await.unwrap();
            ctx.sql().exec("CREATE TABLE t(x)", ())?;
            ctx.kv().put("second", "")?;
            match &*end {
                "panic" => panic!("told to"),
                "rollback" => transaction.rollback(),
                "error" => return Err(Error::InsideTransaction),
                _ => {}
            }
            Ok(())
        })
        .await
    }

    pub async fn nested_transactions(&self, ctx: &Ctx) -> Result<Vec<String>> {
        ctx.transaction(async |_| {
            ctx.kv().put("outer", "")?;
            ctx.sql().exec("CREATE TABLE t(x)", ())?;
            let inner: Result<()> = ctx
                .transaction(async |_| {
                    ctx.kv().put("inner", "")?;
                    ctx.sql().exec("INSERT INTO t VALUES (1)", ())?;
                    tokio::task::yield_now().await;
                    assert!(matches!(ctx.delete_all(), Err(Error::InsideTransaction)));
                    Err(Error::OutsideTurn)
                })
                .await;
            assert!(matches!(inner, Err(Error::OutsideTurn)));
            assert!(ctx.sql().exec("SELECT * FROM t", ())?.is_empty());
            ctx.transaction(async |_| ctx.kv().put("kept", "")).await
        })
        .await?;
        self.keys(ctx)
    }

    pub fn tables(&self, ctx: &Ctx) -> Result<bool> {
        Ok(!ctx
            .sql()
            .exec("SELECT 1 FROM sqlite_schema WHERE name = 't'", ())?
            .is_empty())
    }

    pub fn abort(&self, ctx: &Ctx, marks: Marks) -> Result<()> {
        ctx.kv().put("aborted", "")?;
        let _dropped = Dropped(marks);
        ctx.abort("told to abort");
    }

    /// Goes on after the call: waits, then writes.
    pub fn go_on(&self, ctx: &Ctx, go: Go) {
        let mine = ctx.clone();
        ctx.wait_until(async move {
            go.0.await.unwrap();
            mine.kv().put("later", "")
        });
    }

    pub async fn sync(&self, ctx: &Ctx, marks: Marks) -> Result<()> {
        ctx.kv().unconfirmed().put("unconfirmed", "")?;
        ctx.sync().await?;
        marks.send("synced").unwrap();
        Ok(())
    }

    pub fn put_unconfirmed(&mut self, ctx: &Ctx, confirm: bool) -> Result<()> {
        ctx.kv().unconfirmed().put_many([("a", ""), ("b", "")])?;
        match confirm {
            true => ctx.kv().put("c", ""),
            false => Ok(()),
        }
    }

    pub fn set_alarm(&mut self, ctx: &Ctx, due_ms: u64, end: String) -> Result<()> {
        ctx.kv().put_as("end", &end)?;
        ctx.alarm().set(due_ms)
    }

    pub fn alarm_at(&self, ctx: &Ctx) -> Result<Option<u64>> {
        ctx.alarm().get()
    }

    fn alarm(&mut self, ctx: &Ctx, _: AlarmInfo) -> Result<()> {
        match ctx.kv().get_as::<String>("end")?.as_deref() {
            Some("retry") => ctx.abort("try again"),
            _ => ctx.abort_without_retry("give up"),
        }
    }
}

fn nested(ctx: &Ctx, depth: usize) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + '_>> {
    Box::pin(async move {
        match depth {
            0 => Ok(()),
            depth => {
                // The error of the innermost is not one of the sections around it.
                let mut result = Ok(());
                let inside = async {
                    result = nested(ctx, depth - 1).await;
                    Result::<()>::Ok(())
                };
                ctx.block_concurrency_while(inside).await?;
                result
            }
        }
    })
}
