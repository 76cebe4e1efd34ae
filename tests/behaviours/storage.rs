//! What is written together, what is durable when, and what leaves an object before that.

use dovehouse::engine::Quota;
use dovehouse::testing::{START_MS, eventually};
use dovehouse::{CallError, Ctx, Error, Object, Reply, Result, StorageKind, Stub};
use tokio::sync::{mpsc, oneshot};

use crate::pigeon::{Loft, due, fired, keys, keys_of, run, start, start_shared};

#[tokio::test]
async fn all_that_a_turn_writes_is_one_record_and_what_comes_after_an_await_is_the_next() {
    let loft = Loft::new(20);
    let pigeon = loft.pigeon();
    let before = loft.records();
    let writing = run(&pigeon, async |ctx| {
        ctx.kv().put("a", "1")?;
        ctx.sql().exec("CREATE TABLE t(x)", ())?;
        ctx.kv().put_many([("b", ""), ("c", "")])?;
        ctx.alarm().set(START_MS + 50)?;
        ctx.kv().delete("b")?;
        tokio::task::yield_now().await;
        ctx.kv().put("d", "")?;
        ctx.sql().exec("INSERT INTO t VALUES (1)", ())?;
        Ok(())
    });
    writing.await.unwrap();
    assert_eq!(loft.records(), before + 2);
    assert_eq!(keys_of(&pigeon).await, ["a", "c", "d"]);
    assert_eq!(loft.records(), before + 2, "reading writes nothing");
}

type Write = fn(&Ctx) -> Result<()>;

/// What, how, and whether the reply waits for it.
const WRITES: &[(&str, Write, bool)] = &[
    ("put", |ctx| ctx.kv().put("new", ""), true),
    ("put", |ctx| ctx.kv().unconfirmed().put("new", ""), false),
    (
        "put many",
        |ctx| ctx.kv().put_many([("a", "2"), ("b", "2")]),
        true,
    ),
    (
        "put many",
        |ctx| ctx.kv().unconfirmed().put_many([("a", "2"), ("b", "2")]),
        false,
    ),
    ("delete", |ctx| ctx.kv().delete("a").map(drop), true),
    (
        "delete",
        |ctx| ctx.kv().unconfirmed().delete("a").map(drop),
        false,
    ),
    (
        "delete many",
        |ctx| ctx.kv().delete_many(["a", "b"]).map(drop),
        true,
    ),
    (
        "delete many",
        |ctx| ctx.kv().unconfirmed().delete_many(["a", "b"]).map(drop),
        false,
    ),
    (
        "new alarm",
        |ctx| ctx.alarm_named("new").set(START_MS + 50),
        true,
    ),
    (
        "new alarm",
        |ctx| ctx.alarm_named("new").unconfirmed().set(START_MS + 50),
        false,
    ),
    (
        "earlier alarm",
        |ctx| ctx.alarm().unconfirmed().set(START_MS + 50),
        false,
    ),
    ("later alarm", |ctx| ctx.alarm().set(START_MS + 500), true),
    (
        "later alarm",
        |ctx| ctx.alarm().unconfirmed().set(START_MS + 500),
        false,
    ),
    ("no alarm", |ctx| ctx.alarm().delete(), true),
    ("no alarm", |ctx| ctx.alarm().unconfirmed().delete(), false),
    (
        "both",
        |ctx| {
            ctx.kv().unconfirmed().put("a", "2")?;
            ctx.kv().put("b", "2")
        },
        true,
    ),
    (
        "sql beside it",
        |ctx| {
            ctx.kv().unconfirmed().put("a", "2")?;
            ctx.sql().exec("CREATE TABLE t(x)", ()).map(drop)
        },
        true,
    ),
    ("nothing", |_| Ok(()), false),
];

#[tokio::test]
async fn a_reply_waits_for_confirmed_writes_and_for_no_others_in_transactions_too() {
    let loft = Loft::new(21);
    for within in [
        "a turn",
        "a transaction over awaits",
        "a transaction in another",
    ] {
        for (number, &(what, write, waits)) in WRITES.iter().enumerate() {
            let pigeon = loft.pigeons.get_by_name(&format!("{within} {number}"));
            let filling = run(&pigeon, async |ctx| {
                ctx.kv().put_many([("a", "1"), ("b", "1")])?;
                ctx.alarm().set(START_MS + 100)
            });
            filling.await.unwrap();
            loft.hold();
            let writing = start(&pigeon, async move |ctx| match within {
                "a turn" => write(ctx),
                "a transaction over awaits" => ctx.transaction(async |_| write(ctx)).await,
                _ => {
                    let both =
                        ctx.transaction(async |_| ctx.transaction(async |_| write(ctx)).await);
                    both.await
                }
            });
            loft.settle().await;
            assert_eq!(writing.is_finished(), !waits, "{what} {number} in {within}");
            loft.release();
            writing.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn what_an_inner_transaction_wrote_and_took_back_holds_up_no_reply() {
    let loft = Loft::new(28);
    let pigeon = loft.pigeon();
    run(&pigeon, async |_| Ok(())).await.unwrap();
    for confirmed in [false, true] {
        for over_awaits in [false, true] {
            loft.hold();
            let writing = start(&pigeon, async move |ctx| {
                ctx.transaction(async |_| {
                    match confirmed {
                        true => ctx.kv().put("outer", "")?,
                        false => ctx.kv().unconfirmed().put("outer", "")?,
                    }
                    let inside = || {
                        ctx.kv().put("inner", "")?;
                        ctx.alarm().set(START_MS + 50)?;
                        Err(Error::OutsideTurn)
                    };
                    let inner: Result<()> = match over_awaits {
                        true => ctx.transaction(async |_| inside()).await,
                        false => ctx.sql().transaction(|_| inside()),
                    };
                    assert!(inner.is_err());
                    Ok(())
                })
                .await
            });
            loft.settle().await;
            assert_eq!(writing.is_finished(), !confirmed, "{over_awaits}");
            loft.release();
            writing.await.unwrap().unwrap();
            let clearing = run(&pigeon, async |ctx| {
                assert_eq!(keys(ctx)?, ["outer"]);
                ctx.kv().delete("outer").map(drop)
            });
            clearing.await.unwrap();
        }
    }
}

/// A class without a database.
struct Plain;

impl Object for Plain {
    const CLASS: &'static str = "Plain";
    const STORAGE: StorageKind = StorageKind::Kv;
    type Stub = Stub<Plain>;

    async fn new(_: &Ctx) -> Result<Self, CallError> {
        Ok(Plain)
    }
}

#[tokio::test]
async fn transactions_over_awaits_nest_in_a_class_without_a_database_too() {
    let loft = Loft::new(29);
    let plain = loft.house.namespace::<Plain>().unwrap().get_by_name("p");
    let nested = plain.call_exclusive("nest", async |_, ctx| {
        let nested = ctx.transaction(async |_| {
            ctx.kv().put("outer", "")?;
            let undone: Result<()> = ctx
                .transaction(async |_| {
                    ctx.kv().put("inner", "")?;
                    ctx.kv().delete("outer")?;
                    tokio::task::yield_now().await;
                    Err(Error::OutsideTurn)
                })
                .await;
            assert!(undone.is_err());
            ctx.transaction(async |_| ctx.kv().put("kept", "")).await
        });
        nested.await.into_reply()?;
        keys(ctx).into_reply()
    });
    assert_eq!(nested.await.unwrap(), ["kept", "outer"]);
}

#[tokio::test]
async fn sync_is_over_at_once_when_nothing_is_under_way() {
    let loft = Loft::new(22);
    let pigeon = loft.pigeon();
    let filling = run(&pigeon, async |ctx| ctx.kv().put("key", ""));
    filling.await.unwrap();
    loft.hold();
    let syncing = run(&pigeon, async |ctx| ctx.sync().await);
    syncing.await.unwrap();
    loft.release();
}

#[tokio::test]
async fn several_wait_in_sync_for_one_commit_and_none_of_them_for_a_later_one() {
    let loft = Loft::new(23);
    let pigeon = loft.pigeon();
    run(&pigeon, async |_| Ok(())).await.unwrap();
    loft.hold();
    let (synced, mut syncs) = mpsc::unbounded_channel();
    let early: Vec<_> = (0..3)
        .map(|number| {
            let synced = synced.clone();
            start_shared(&pigeon, async move |ctx| {
                if number == 0 {
                    ctx.kv().unconfirmed().put("early", "")?;
                }
                ctx.sync().await?;
                synced.send("early").unwrap();
                Ok(())
            })
        })
        .collect();
    loft.settle().await;
    assert!(syncs.try_recv().is_err());
    let late = start_shared(&pigeon, async move |ctx| {
        ctx.kv().unconfirmed().put("late", "")?;
        ctx.sync().await?;
        synced.send("late").unwrap();
        Ok(())
    });
    loft.settle().await;
    loft.house.disk().release_one();
    for syncing in early {
        syncing.await.unwrap().unwrap();
    }
    assert!(!late.is_finished());
    loft.release();
    late.await.unwrap().unwrap();
    let order: Vec<_> = std::iter::from_fn(|| syncs.try_recv().ok()).collect();
    assert_eq!(order, ["early", "early", "early", "late"]);
}

#[tokio::test]
async fn after_a_failed_write_no_handler_goes_on_and_every_caller_is_told() {
    for confirmed in [true, false] {
        let loft = Loft::new(24);
        let pigeon = loft.pigeon();
        run(&pigeon, async |_| Ok(())).await.unwrap();
        loft.hold();
        let (went_on, mut goes_on) = mpsc::unbounded_channel();
        let (go, going) = oneshot::channel::<()>();
        let syncing = start_shared(&pigeon, async move |ctx| {
            match confirmed {
                true => ctx.kv().put("key", "")?,
                false => ctx.kv().unconfirmed().put("key", "")?,
            }
            ctx.sync().await?;
            went_on.send("synced").unwrap();
            Ok(())
        });
        let waiting = start_shared(&pigeon, async move |ctx| {
            let _ = going.await;
            ctx.kv().put("later", "")
        });
        loft.settle().await;
        loft.house.disk().fail_commits();
        let error = syncing.await.unwrap().unwrap_err();
        assert!(matches!(&error, CallError::Reset(_)), "{error}");
        let error = waiting.await.unwrap().unwrap_err();
        assert!(error.is_reset() && error.is_retryable(), "{error}");
        assert!(goes_on.recv().await.is_none(), "the handler is gone");
        assert!(go.send(()).is_err(), "and so is the other one");
        assert!(keys_of(&loft.pigeon()).await.is_empty(), "reads go on");
    }
}

#[tokio::test]
async fn what_is_not_durable_after_half_a_minute_resets_its_object_and_who_waits_is_told() {
    let loft = Loft::new(25);
    let pigeon = loft.pigeon();
    run(&pigeon, async |_| Ok(())).await.unwrap();
    loft.hold();
    let writing = start(&pigeon, async |ctx| {
        ctx.kv().put("key", "")?;
        ctx.alarm().set(START_MS + 50)
    });
    let reading = start(&pigeon.fresh(), async |ctx| keys(ctx));
    loft.settle().await;
    // What nobody has looked at before a step of the clock is not late by that.
    loft.house.advance(3_600_000);
    loft.settle().await;
    loft.house.advance(29_999);
    loft.settle().await;
    assert!(!writing.is_finished() && !reading.is_finished());
    loft.house.advance(1_000);
    let error = writing.await.unwrap().unwrap_err();
    assert_eq!(error, CallError::StorageTimeout { limit_ms: 30_000 });
    assert_eq!(reading.await.unwrap().unwrap_err(), error);
    assert!(error.is_overloaded() && error.is_reset() && !error.is_retryable());
    let text = error.to_string();
    assert!(
        text.contains("storage operation exceeded timeout"),
        "{text}"
    );
    // The object wakes when the disk goes on. That takes too long, or not long enough to be told; others go on.
    for too_long in [true, false] {
        let again = start(&pigeon.fresh(), async |ctx| keys(ctx));
        loft.settle().await;
        match too_long {
            true => {
                loft.house.advance(1_000);
                loft.settle().await;
                loft.house.advance(30_000);
                assert_eq!(again.await.unwrap().unwrap_err(), error);
            }
            false => {
                assert!(!again.is_finished());
                loft.release();
                assert_eq!(again.await.unwrap().unwrap()[0], "key");
            }
        }
    }
    assert!(
        run(&pigeon, async |_| Ok(())).await.is_err(),
        "a call was lost"
    );
    eventually(async || fired(&loft.pigeon()).await == ["50 0"]).await;
    assert!(keys_of(&loft.pigeon()).await.contains(&"key".into()));
}

#[tokio::test]
async fn an_object_that_was_reset_in_the_midst_of_a_commit_wakes_after_it_and_holds_up_nobody() {
    let loft = Loft::new(30);
    let pigeon = loft.pigeon();
    run(&pigeon, async |_| Ok(())).await.unwrap();
    loft.hold();
    let aborted = run(&pigeon, async |ctx| -> Result<()> {
        ctx.kv().unconfirmed().put("key", "")?;
        tokio::task::yield_now().await;
        ctx.abort("in its midst")
    });
    assert!(aborted.await.unwrap_err().is_reset());
    let reading = start(&loft.pigeon(), async |ctx| keys(ctx));
    loft.settle().await;
    assert!(!reading.is_finished());
    let lost = loft.after_power_loss();
    loft.release();
    assert_eq!(reading.await.unwrap().unwrap(), ["key"]);
    assert!(keys_of(&lost.pigeon()).await.is_empty());
}

#[tokio::test]
async fn deleting_everything_undoes_its_turn_and_what_is_written_afterwards_is_new() {
    let loft = Loft::new(26);
    let pigeon = loft.pigeon();
    let filling = run(&pigeon, async |ctx| {
        ctx.kv().put("old", "")?;
        ctx.sql()
            .exec("CREATE TABLE t(x); INSERT INTO t VALUES (1)", ())?;
        Ok(())
    });
    filling.await.unwrap();
    let clearing = run(&pigeon, async |ctx| {
        ctx.kv().put("in the turn", "")?;
        ctx.sql().exec("INSERT INTO t VALUES (2)", ())?;
        ctx.delete_all()?;
        assert!(keys(ctx)?.is_empty());
        let gone = ctx.sql().exec("SELECT * FROM t", ());
        assert!(gone.unwrap_err().to_string().contains("no such table"));
        ctx.sql().exec("CREATE TABLE t(y)", ())?;
        ctx.kv().put("new", "")
    });
    clearing.await.unwrap();
    let pigeon = loft.after_power_loss().pigeon();
    assert_eq!(keys_of(&pigeon).await, ["new"]);
    let rows = run(&pigeon, async |ctx| {
        let rows = ctx.sql().exec("SELECT y FROM t", ())?;
        rows.deserialize::<i64>()
    });
    assert_eq!(rows.await.unwrap(), [0_i64; 0]);
}

#[tokio::test]
async fn a_turn_that_violates_a_constraint_at_its_end_or_a_quota_is_undone_and_refused() {
    let loft = Loft::new(27);
    let pigeon = loft.pigeon();
    let tables = run(&pigeon, async |ctx| {
        ctx.kv().put("before", "")?;
        ctx.sql().exec(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
            (),
        )?;
        Ok(())
    });
    tables.await.unwrap();
    let classes = loft.house.engine().classes();
    let class = classes.iter().find(|class| class.2 == "Pigeon").unwrap();
    let quota = Quota {
        object_bytes: Some(100_000),
        ..Quota::default()
    };
    loft.house.engine().set_quota(class.0, quota);
    let orphan: Write = |ctx| {
        ctx.kv().put("with it", "")?;
        ctx.sql().exec("INSERT INTO child VALUES (1)", ()).map(drop)
    };
    let large: Write = |ctx| ctx.kv().put("large", [7; 200_000]);
    for (wrong, words) in [
        (orphan, "constraints were violated"),
        (large, "its quota is"),
    ] {
        let refused = run(&loft.pigeon(), async move |ctx| wrong(ctx));
        let error = refused.await.unwrap_err();
        assert!(matches!(&error, CallError::Refused(_)), "{error}");
        assert!(error.is_reset() && !error.is_retryable() && !error.is_overloaded());
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(keys_of(&loft.pigeon()).await, ["before"]);
    }
    assert_eq!(due(&loft.pigeon()).await, None);
}
