//! `dovehouse load`: a writer for crash tests, and the reader that goes with it.
//!
//! Every object appends numbered writes, one after the other. `ACK object seq` is printed once write
//! `seq` of `object` is durable, through the whole runtime: call, turn, commit, output gate. After a
//! crash `load --dump` prints how far each object has come; no object may be behind its last ACK.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dovehouse::{Ctx, Dovehouse, List, Namespace};

use crate::exit::{DAMAGE, FAILURE, Failure};

/// The newest writes that an object keeps: enough to see a hole.
const KEPT: u64 = 32;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The store's directory, which is made if it is not there
    #[arg(long)]
    data: PathBuf,
    /// How many objects write at the same time
    #[arg(long, default_value_t = 16)]
    objects: u64,
    /// Where the writes go
    #[arg(long, value_enum, default_value_t = Kind::Kv)]
    kind: Kind,
    /// How long to write
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Write nothing: print `object seq` for every object as it was recovered
    #[arg(long)]
    dump: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
enum Kind {
    /// Keys
    Kv,
    /// Tables
    Sql,
    /// Both, in one commit
    Mixed,
}

/// An object that counts its writes, in keys and in a table.
struct Load;

#[dovehouse::object]
impl Load {
    fn new() -> Self {
        Load
    }

    /// Makes the next write, and returns its number.
    pub fn append(&mut self, ctx: &Ctx, kind: Kind) -> dovehouse::Result<u64> {
        let seq = last_key(ctx)?.max(last_row(ctx)?) + 1;
        // What another kind wrote before goes, so that what is there has no holes.
        let oldest = seq.saturating_sub(KEPT);
        self.forget_keys(ctx, if kind == Kind::Sql { seq } else { oldest })?;
        self.forget_rows(ctx, if kind == Kind::Kv { seq } else { oldest })?;
        if kind != Kind::Sql {
            ctx.kv().put(key(seq), seq.to_le_bytes())?;
        }
        if kind != Kind::Kv {
            ctx.sql().exec(
                "CREATE TABLE IF NOT EXISTS load(seq INTEGER PRIMARY KEY)",
                (),
            )?;
            ctx.sql()
                .exec("INSERT INTO load VALUES (?)", (seq as i64,))?;
        }
        Ok(seq)
    }

    fn forget_keys(&self, ctx: &Ctx, up_to: u64) -> dovehouse::Result<()> {
        for (key, _) in ctx
            .kv()
            .list(&List::prefix(b"write/").end(key(up_to + 1).as_bytes()))?
        {
            ctx.kv().delete(key)?;
        }
        Ok(())
    }

    fn forget_rows(&self, ctx: &Ctx, up_to: u64) -> dovehouse::Result<()> {
        if has_table(ctx)? {
            ctx.sql()
                .exec("DELETE FROM load WHERE seq <= ?", (up_to as i64,))?;
        }
        Ok(())
    }

    /// The number of the last write; an error if one before it is missing.
    pub fn last(&self, ctx: &Ctx) -> Result<u64, String> {
        let (key, row) = read(ctx).map_err(|error| error.to_string())?;
        let without_hole = |numbers: &[u64]| numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        if !without_hole(&key) || !without_hole(&row) {
            return Err(format!("writes are missing: keys {key:?}, rows {row:?}"));
        }
        Ok(key.last().max(row.last()).copied().unwrap_or(0))
    }
}

fn key(seq: u64) -> String {
    format!("write/{seq:020}")
}

fn last_key(ctx: &Ctx) -> dovehouse::Result<u64> {
    let last = ctx.kv().list(&List::prefix(b"write/").reverse().limit(1))?;
    Ok(last.first().map_or(0, |(_, value)| number(value)))
}

fn last_row(ctx: &Ctx) -> dovehouse::Result<u64> {
    if !has_table(ctx)? {
        return Ok(0);
    }
    let last: Option<i64> = ctx
        .sql()
        .exec("SELECT max(seq) FROM load", ())?
        .one()?
        .get(0)?;
    Ok(last.unwrap_or(0) as u64)
}

fn has_table(ctx: &Ctx) -> dovehouse::Result<bool> {
    let found = ctx
        .sql()
        .exec("SELECT 1 FROM sqlite_schema WHERE name = 'load'", ())?;
    Ok(!found.is_empty())
}

/// All numbers that are kept, in keys and in rows.
fn read(ctx: &Ctx) -> dovehouse::Result<(Vec<u64>, Vec<u64>)> {
    let keys = ctx
        .kv()
        .list(&List::prefix(b"write/"))?
        .iter()
        .map(|(_, value)| number(value))
        .collect();
    let mut rows = Vec::new();
    if has_table(ctx)? {
        for row in ctx.sql().exec("SELECT seq FROM load ORDER BY seq", ())? {
            rows.push(row?.get(0)?);
        }
    }
    Ok((keys, rows))
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_le_bytes)
}

fn object_name(number: u64) -> String {
    format!("load-{number}")
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let house = Dovehouse::open(&arguments.data).map_err(failure)?;
        let loads = house.namespace::<Load>().map_err(failure)?;
        let result = if arguments.dump {
            dump(&house, &loads).await
        } else {
            write(&loads, arguments).await
        };
        house.close().await.map_err(failure)?;
        result
    })
}

#[expect(clippy::disallowed_methods, reason = "--seconds is real time")]
async fn write(loads: &Namespace<Load>, arguments: &Arguments) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let kind = arguments.kind;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..arguments.objects {
        let name = object_name(number);
        let load = loads.get_by_name(&name);
        writers.spawn(async move {
            while Instant::now() < end {
                let seq = load
                    .append(kind)
                    .await
                    .map_err(|error| Failure::new(FAILURE, error))?;
                acknowledge(&name, seq)?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.map_err(|error| Failure::new(FAILURE, error))??;
    }
    Ok(())
}

/// One line, whole, and out of our hands before the next write begins.
fn acknowledge(name: &str, seq: u64) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ACK {name} {seq}")?;
    Ok(out.flush()?)
}

async fn dump(house: &Dovehouse, loads: &Namespace<Load>) -> Result<(), Failure> {
    let mut names = Vec::new();
    for info in house.engine().objects() {
        names.extend(info?.name.filter(|name| name.starts_with("load-")));
    }
    names.sort_by_key(|name| (name.len(), name.clone()));
    for name in names {
        let last = loads
            .get_by_name(&name)
            .last()
            .await
            .map_err(|error| Failure::new(DAMAGE, error))?;
        println!("{name} {last}");
    }
    Ok(())
}

fn failure(error: dovehouse::Error) -> Failure {
    match error {
        dovehouse::Error::Engine(error) => error.into(),
        other => Failure::new(FAILURE, other),
    }
}
