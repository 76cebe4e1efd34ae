//! Alarms: set, moved, fired and given up.

use std::sync::atomic::{AtomicU32, Ordering};

use dovehouse::engine::Quota;
use dovehouse::testing::{START_MS, eventually};
use dovehouse::{CallError, Ctx, Error, Object, Reply, Result, Stub};
use tokio::sync::oneshot;

use crate::pigeon::{Loft, due, fired, keys_of, run, set, start};

/// How often a handler has grown its object while the disk was full.
pub static GROWN_IN_VAIN: AtomicU32 = AtomicU32::new(0);

#[tokio::test]
async fn an_alarm_is_unset_at_first_and_the_last_set_counts_until_it_is_cleared() {
    let loft = Loft::new(1);
    let pigeon = loft.pigeon();
    assert_eq!(due(&pigeon).await, None);
    set(&pigeon, 50, "").await;
    set(&pigeon, 20, "").await;
    assert_eq!(due(&pigeon).await, Some(20));
    set(&pigeon, 70, "").await;
    assert_eq!(due(&pigeon).await, Some(70));
    let clear = run(&pigeon, async |ctx| ctx.alarm().delete());
    clear.await.unwrap();
    assert_eq!(due(&pigeon).await, None);
    loft.advance_to(1_000);
    loft.settle().await;
    assert!(fired(&pigeon).await.is_empty());
}

#[tokio::test]
async fn setting_an_alarm_to_the_time_that_it_has_writes_nothing() {
    let loft = Loft::new(2);
    let pigeon = loft.pigeon();
    set(&pigeon, 50, "").await;
    let records = loft.records();
    let again = run(&pigeon, async |ctx| ctx.alarm().set(START_MS + 50));
    again.await.unwrap();
    assert_eq!(loft.records(), records);
    // And so does clearing what is not set.
    let named = run(&pigeon, async |ctx| ctx.alarm_named("other").delete());
    named.await.unwrap();
    assert_eq!(loft.records(), records);
}

#[tokio::test]
async fn a_time_that_has_passed_means_now_and_zero_is_refused() {
    let loft = Loft::new(3);
    let pigeon = loft.pigeon();
    loft.advance_to(100);
    let past = run(&pigeon, async |ctx| {
        assert!(matches!(ctx.alarm().set(0), Err(Error::AlarmTime)));
        assert_eq!(ctx.alarm().get()?, None);
        ctx.alarm().set(1)?;
        ctx.alarm().get()
    });
    assert_eq!(past.await.unwrap(), Some(START_MS + 100));
    eventually(async || fired(&pigeon).await == ["100 0"]).await;
}

/// A class without a handler.
struct Mute;

impl Object for Mute {
    const CLASS: &'static str = "Mute";
    type Stub = Stub<Mute>;

    async fn new(ctx: &Ctx) -> Result<Self, CallError> {
        let refused = ctx.alarm().set(START_MS + 1);
        assert!(matches!(refused, Err(Error::NoAlarmHandler { .. })));
        Ok(Mute)
    }
}

#[tokio::test]
async fn a_class_without_a_handler_cannot_set_an_alarm_nor_can_its_constructor() {
    let loft = Loft::new(4);
    let mute = loft.house.namespace::<Mute>().unwrap().get_by_name("m");
    let refused = mute.call_exclusive("set", async |_, ctx| {
        Ok(ctx.alarm().set(START_MS + 1).unwrap_err().to_string())
    });
    let refused = refused.await.unwrap();
    assert!(
        refused.contains("must have an alarm() handler"),
        "{refused}"
    );
}

/// The class of the pigeons in a program that has lost their handler.
struct Silent;

impl Object for Silent {
    const CLASS: &'static str = "Pigeon";
    type Stub = Stub<Silent>;

    async fn new(_: &Ctx) -> Result<Self, CallError> {
        Ok(Silent)
    }
}

#[tokio::test]
async fn an_alarm_for_which_there_is_no_handler_any_more_is_not_tried_again() {
    let loft = Loft::new(16);
    set(&loft.pigeon(), 10, "").await;
    let house = loft.house.on(loft.house.disk().power_loss());
    let silent = house.namespace::<Silent>().unwrap().get_by_name("pigeon");
    let due = async || {
        let due = silent.call_shared("due", async |_, ctx| ctx.alarm().get().into_reply());
        due.await.unwrap()
    };
    assert_eq!(due().await, Some(START_MS + 10));
    house.advance(10);
    eventually(async || due().await.is_none()).await;
}

#[tokio::test]
async fn an_alarm_and_the_keys_of_its_turn_are_there_together_or_not_at_all() {
    let loft = Loft::new(5);
    let pigeon = loft.pigeon();
    run(&pigeon, async |_| Ok(())).await.unwrap();
    loft.hold();
    let setting = start(&pigeon, async |ctx| {
        ctx.kv().put("key", "")?;
        ctx.sql().exec("CREATE TABLE t(x)", ())?;
        ctx.alarm().set(START_MS + 50)
    });
    loft.settle().await;
    let before = loft.after_power_loss();
    loft.release();
    setting.await.unwrap().unwrap();
    let after = loft.after_power_loss();
    for (loft, is_there) in [(&before, false), (&after, true)] {
        let pigeon = loft.pigeon();
        assert_eq!(due(&pigeon).await, is_there.then_some(50));
        assert_eq!(keys_of(&pigeon).await.len(), usize::from(is_there));
    }
    after.advance_to(50);
    eventually(async || fired(&after.pigeon()).await == ["50 0"]).await;
    before.settle().await;
    assert!(fired(&before.pigeon()).await.is_empty());
}

#[tokio::test]
async fn several_moves_while_commits_are_under_way_end_in_one_alarm_at_the_last_time() {
    let loft = Loft::new(6);
    let pigeon = loft.pigeon();
    set(&pigeon, 90, "").await;
    loft.hold();
    let mut moves = Vec::new();
    for ms in [50, 20, 80, 10, 60] {
        moves.push(start(&pigeon, async move |ctx| {
            ctx.alarm().set(START_MS + ms)
        }));
        loft.settle().await;
    }
    loft.release();
    for moved in moves {
        moved.await.unwrap().unwrap();
    }
    loft.advance_to(59);
    loft.settle().await;
    assert!(fired(&pigeon).await.is_empty());
    loft.advance_to(60);
    eventually(async || fired(&pigeon).await == ["60 0"]).await;
    loft.advance_to(1_000);
    loft.settle().await;
    assert_eq!(fired(&pigeon).await, ["60 0"]);
}

#[tokio::test]
async fn what_the_object_has_decides_when_its_alarm_event_comes_to_run() {
    for (then, expected) in [("leave", "10 0"), ("delete", ""), ("later", "500 0")] {
        let loft = Loft::new(7);
        let pigeon = loft.pigeon();
        set(&pigeon, 10, "").await;
        // The event comes while another has the object alone, and changes the alarm.
        let (running, runs) = oneshot::channel();
        let (go, going) = oneshot::channel();
        let busy = start(&pigeon, async move |ctx| {
            running.send(()).unwrap();
            let _: () = going.await.unwrap();
            match then {
                "delete" => ctx.alarm().delete(),
                "later" => ctx.alarm().set(START_MS + 500),
                _ => Ok(()),
            }
        });
        runs.await.unwrap();
        loft.advance_to(20);
        loft.settle().await;
        go.send(()).unwrap();
        busy.await.unwrap().unwrap();
        loft.settle().await;
        if then == "later" {
            assert!(fired(&pigeon).await.is_empty());
            assert_eq!(due(&pigeon).await, Some(500));
            loft.advance_to(500);
        }
        eventually(async || fired(&pigeon).await.concat() == expected).await;
        assert_eq!(due(&pigeon).await, None, "{then}");
    }
}

#[tokio::test]
async fn deleting_an_alarm_in_its_handler_lets_the_handler_go_on_and_removes_the_next_one() {
    let loft = Loft::new(8);
    let pigeon = loft.pigeon();
    set(&pigeon, 10, "set and delete").await;
    loft.advance_to(10);
    eventually(async || keys_of(&pigeon).await.contains(&"went on".into())).await;
    assert_eq!(due(&pigeon).await, None);
    loft.advance_to(1_000);
    loft.settle().await;
    assert_eq!(fired(&pigeon).await, ["10 0"]);
}

#[tokio::test]
async fn deleting_everything_takes_or_keeps_the_alarm_as_asked_and_one_set_afterwards_stays() {
    let loft = Loft::new(9);
    let pigeon = loft.pigeon();
    for set_before in [true, false] {
        for (end, expected) in [
            ("but alarm", set_before.then_some(50)),
            ("all", None),
            ("all and set", Some(70)),
        ] {
            let cleared = run(&pigeon, async move |ctx| {
                ctx.alarm().delete()?;
                if set_before {
                    ctx.alarm().set(START_MS + 50)?;
                }
                ctx.kv().put("key", "")?;
                tokio::task::yield_now().await;
                match end {
                    "but alarm" => ctx.delete_all_but_alarm()?,
                    _ => ctx.delete_all()?,
                }
                if end == "all and set" {
                    ctx.alarm().set(START_MS + 70)?;
                }
                Ok(())
            });
            cleared.await.unwrap();
            assert_eq!(due(&pigeon).await, expected, "{end}, {set_before}");
            assert!(keys_of(&pigeon).await.is_empty());
        }
    }
}

#[tokio::test]
async fn deleting_everything_in_the_handler_ends_its_alarm_and_spares_the_next() {
    for (then, next) in [
        ("delete all but alarm", None),
        ("delete all and set", Some(20)),
    ] {
        let loft = Loft::new(10);
        let pigeon = loft.pigeon();
        set(&pigeon, 10, then).await;
        loft.advance_to(10);
        eventually(async || !keys_of(&pigeon).await.contains(&"then".into())).await;
        assert_eq!(due(&pigeon).await, next, "{then}");
        loft.advance_to(1_000);
        loft.settle().await;
        let expected: &[&str] = if next.is_some() { &["20 0"] } else { &[] };
        eventually(async || fired(&pigeon).await == expected).await;
    }
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_restores_the_alarm_and_one_that_is_kept_moves_it() {
    let loft = Loft::new(11);
    let pigeon = loft.pigeon();
    set(&pigeon, 100, "").await;
    let rolled_back = run(&pigeon, async |ctx| {
        let outer: Result<()> = ctx
            .transaction(async |_| {
                ctx.alarm().set(START_MS + 50)?;
                tokio::task::yield_now().await;
                let inner: Result<()> = ctx
                    .transaction(async |_| {
                        ctx.alarm().delete()?;
                        tokio::task::yield_now().await;
                        Err(Error::OutsideTurn)
                    })
                    .await;
                assert!(inner.is_err());
                assert_eq!(ctx.alarm().get()?, Some(START_MS + 50));
                let innermost: Result<()> = ctx.sql().transaction(|_| {
                    ctx.alarm().delete()?;
                    Err(Error::OutsideTurn)
                });
                assert!(innermost.is_err());
                assert_eq!(ctx.alarm().get()?, Some(START_MS + 50));
                Err(Error::OutsideTurn)
            })
            .await;
        assert!(outer.is_err());
        ctx.alarm().get()
    });
    assert_eq!(rolled_back.await.unwrap(), Some(START_MS + 100));
    let kept = run(&pigeon, async |ctx| {
        ctx.transaction(async |_| {
            ctx.alarm().set(START_MS + 50)?;
            ctx.sql().transaction(|_| ctx.alarm().set(START_MS + 60))
        })
        .await
    });
    kept.await.unwrap();
    assert_eq!(due(&pigeon).await, Some(60));
    loft.advance_to(60);
    eventually(async || fired(&pigeon).await == ["60 0"]).await;
}

#[tokio::test]
async fn an_alarm_that_is_set_while_a_retry_waits_replaces_it() {
    let loft = Loft::new(12);
    let pigeon = loft.pigeon();
    set(&pigeon, 10, "fail once").await;
    loft.advance_to(10);
    eventually(async || due(&pigeon).await.is_some_and(|due| due > 10)).await;
    set(&pigeon, 1_000, "").await;
    loft.advance_to(1_000);
    // It has not failed yet.
    eventually(async || fired(&pigeon).await == ["10 0", "1000 0"]).await;
    loft.advance_to(60_000);
    loft.settle().await;
    assert_eq!(fired(&pigeon).await.len(), 2);
}

#[tokio::test]
async fn giving_an_alarm_up_ends_that_one_and_never_one_that_was_set_meanwhile() {
    for (then, next) in [("give up", None), ("set and give up", Some(20))] {
        let loft = Loft::new(13);
        set(&loft.pigeon(), 10, then).await;
        loft.advance_to(10);
        eventually(async || try_due(&loft).await == Some(next)).await;
        loft.settle().await;
        assert_eq!(try_due(&loft).await, Some(next), "{then}");
        // Outside of an alarm's handler there is nothing to give up.
        let given_up = run(&loft.pigeon(), async |ctx| -> Result<()> {
            ctx.abort_without_retry("nothing to give up")
        });
        assert!(given_up.await.unwrap_err().is_reset());
        assert_eq!(try_due(&loft).await, Some(next), "{then}");
    }
}

/// When the alarm is due, if the object can be asked: it may be reset meanwhile.
async fn try_due(loft: &Loft) -> Option<Option<u64>> {
    let due_ms = run(&loft.pigeon(), async |ctx| ctx.alarm().get());
    let due_ms = due_ms.await.ok()?;
    Some(due_ms.map(|due_ms| due_ms - START_MS))
}

/// Waits until a try is over, and moves the clock to the next one. `None` if there is none.
async fn next_try(loft: &Loft) -> Option<u64> {
    let now = loft.house.now_ms() - START_MS;
    let mut next = None;
    eventually(async || {
        next = try_due(loft).await;
        next.is_some_and(|due| due.is_none_or(|due| due > now))
    })
    .await;
    let due = next.flatten()?;
    loft.advance_to(due);
    Some(due - now)
}

#[tokio::test]
async fn what_the_handler_wrote_too_much_or_wrongly_counts_as_its_failure() {
    for then in ["grow", "orphan"] {
        let loft = Loft::new(14);
        let pigeon = loft.pigeon();
        let tables = run(&pigeon, async |ctx| {
            ctx.sql().exec(
                "CREATE TABLE parent(id INTEGER PRIMARY KEY);
                 CREATE TABLE child(id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
                (),
            )?;
            Ok(())
        });
        tables.await.unwrap();
        set(&pigeon, 10, then).await;
        let classes = loft.house.engine().classes();
        let class = classes.iter().find(|class| class.2 == "Pigeon").unwrap();
        let quota = Quota {
            object_bytes: Some(100_000),
            ..Quota::default()
        };
        loft.house.engine().set_quota(class.0, quota);
        loft.advance_to(10);
        for tries in 0..6 {
            let wait = next_try(&loft).await.expect("it is tried again");
            let base = 2_000 << tries;
            assert!((base..=base + base / 4).contains(&wait), "{then}: {wait}");
        }
        assert_eq!(next_try(&loft).await, None, "{then}: it is given up");
        assert!(fired(&loft.pigeon()).await.is_empty(), "all was undone");
    }
}

#[tokio::test]
async fn while_the_disk_is_full_no_try_counts_and_the_alarm_is_handled_when_there_is_room() {
    let loft = Loft::new(15);
    set(&loft.pigeon(), 10, "grow on a full disk").await;
    loft.house.disk().fill();
    for number in 0.. {
        let filler = loft.pigeons.get_by_name(&format!("filler {number}"));
        let fill = run(&filler, async |ctx| ctx.kv().put("filling", [7; 100_000]));
        if fill.await.is_err() {
            break;
        }
    }
    loft.advance_to(10);
    // More often than a handler may fail; the clock goes on while it is put off.
    while GROWN_IN_VAIN.load(Ordering::SeqCst) < 9 {
        loft.house.advance(100_000);
        tokio::task::yield_now().await;
    }
    loft.house.disk().repair();
    let done = async || {
        loft.house.advance(100_000);
        try_due(&loft).await == Some(None)
    };
    eventually(done).await;
    assert_eq!(fired(&loft.pigeon()).await, ["10 0"], "no try has counted");
}
