//! A job queue: each queue is one durable object, whose jobs run when they are due, and again when they failed.
//!
//! ```text
//! cargo run --example job_queue -- DIR
//! ```
//! One alarm stands for all jobs of a queue: it is set for the earliest. Another one tidies up every night. Kill
//! the program while it works and start it again: jobs that were not done go on, each at least once.

// `pub` marks what can be called through a stub; the stub's documentation is the method's.
#![allow(unreachable_pub, missing_docs)]

use dovehouse::{AlarmInfo, Ctx, Dovehouse, Result, Sql};

/// Tries of a job, the first one included.
const TRIES_MAX: u32 = 4;
const RETRY_MS: u64 = 5_000;
/// Jobs that run because of one alarm; the others follow with the next.
const AT_A_TIME: usize = 50;
/// How long a job that is done can be looked up.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

const WORK: &str = "work";
const TIDY: &str = "tidy";

const SCHEMA: [&str; 2] = [
    "CREATE TABLE job(
         id INTEGER PRIMARY KEY, payload TEXT NOT NULL, due_ms INTEGER,
         tries INTEGER NOT NULL DEFAULT 0, ended_ms INTEGER, outcome TEXT)",
    "CREATE INDEX job_by_due ON job(due_ms) WHERE due_ms IS NOT NULL",
];

/// Jobs, and what became of them.
#[derive(Debug)]
pub struct Queue;

#[dovehouse::object]
impl Queue {
    fn migrate(ctx: &Ctx) -> Result<()> {
        ctx.sql().migrate(&SCHEMA).map(drop)
    }

    fn new(ctx: &Ctx) -> Result<Self> {
        let is_scheduled = ctx.alarm_named(TIDY).get()?.is_some();
        if !is_scheduled {
            ctx.alarm_named(TIDY).cron("0 3 * * *")?;
        }
        Ok(Queue)
    }

    /// Adds a job that is to run after a delay. The job and its alarm are durable when this returns its number.
    pub fn push(&mut self, ctx: &Ctx, payload: String, delay_ms: u64) -> Result<i64> {
        let due_ms = (ctx.now_ms() + delay_ms) as i64;
        let insert = "INSERT INTO job(payload, due_ms) VALUES (?, ?) RETURNING id";
        let id = ctx.sql().exec(insert, (payload, due_ms))?.one()?.get(0)?;
        plan(ctx)?;
        Ok(id)
    }

    /// What became of a job: nothing as long as it waits.
    pub fn outcome(&self, ctx: &Ctx, id: i64) -> Result<Option<String>> {
        let mut found: Vec<Option<String>> = ctx
            .sql()
            .exec("SELECT outcome FROM job WHERE id = ?", (id,))?
            .deserialize()?;
        Ok(found.pop().flatten())
    }

    /// How many jobs wait.
    pub fn waiting(&self, ctx: &Ctx) -> Result<i64> {
        let count = "SELECT count(*) FROM job WHERE due_ms IS NOT NULL";
        Ok(ctx.sql().exec(count, ())?.one()?.get(0)?)
    }

    async fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo) -> Result<()> {
        match alarm.name.as_str() {
            TIDY => {
                let before = ctx.now_ms().saturating_sub(KEPT_MS) as i64;
                let sql: Sql<'_> = ctx.sql();
                sql.exec("DELETE FROM job WHERE ended_ms < ?", (before,))
                    .map(drop)
            }
            _ => self.work(ctx).await,
        }
    }

    async fn work(&mut self, ctx: &Ctx) -> Result<()> {
        let due =
            "SELECT id, payload, tries FROM job WHERE due_ms <= ? ORDER BY due_ms, id LIMIT ?";
        let now_ms = ctx.now_ms() as i64;
        let due = ctx.sql().exec(due, (now_ms, AT_A_TIME as i64))?;
        let due: Vec<(i64, String, u32)> = due.deserialize()?;
        for (id, payload, tries) in due {
            // What a job does outside must bear being done twice: a crash here has it run again.
            let done = run(&payload, tries).await;
            let (due_ms, outcome) = match done {
                Ok(outcome) => (None, Some(outcome)),
                Err(error) if tries + 1 >= TRIES_MAX => (None, Some(format!("failed: {error}"))),
                Err(_) => (Some((ctx.now_ms() + (RETRY_MS << tries)) as i64), None),
            };
            let ended_ms = outcome.as_ref().map(|_| ctx.now_ms() as i64);
            let update = "UPDATE job SET due_ms = ?, tries = tries + 1, ended_ms = ?, outcome = ? WHERE id = ?";
            ctx.sql().exec(update, (due_ms, ended_ms, outcome, id))?;
        }
        plan(ctx)
    }
}

/// Sets the alarm for the job that is due first. In the alarm's own handler that makes it the next one.
fn plan(ctx: &Ctx) -> Result<()> {
    let first = "SELECT min(due_ms) FROM job WHERE due_ms IS NOT NULL";
    let first: Option<i64> = ctx.sql().exec(first, ())?.one()?.get(0)?;
    match first {
        Some(due_ms) => ctx.alarm_named(WORK).set(due_ms as u64),
        None => ctx.alarm_named(WORK).delete(),
    }
}

/// The work itself. A payload `flaky` fails the first time, and `broken` each time.
async fn run(payload: &str, tries: u32) -> Result<String, String> {
    match payload {
        "broken" => Err("it is broken".to_owned()),
        "flaky" if tries == 0 => Err("try again".to_owned()),
        other => Ok(format!("{other} is done")),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: job_queue DIR")?;
    let house = Dovehouse::open(dir)?;
    let queue = house.namespace::<Queue>()?.get_by_name("letters");
    for number in 0..5 {
        queue
            .push(format!("letter {number}"), number * 1000)
            .await?;
    }
    let last = queue.push("flaky".into(), 0).await?;
    while queue.waiting().await? > 0 {
        println!("{} jobs wait", queue.waiting().await?);
        #[expect(clippy::disallowed_methods, reason = "it shows a progress to people")]
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    println!("{:?}", queue.outcome(last).await?);
    house.close().await?;
    Ok(())
}
