//! Critical sections and transactions that last over awaits.

use dovehouse::CallError;

use super::dove::{after_power_loss, go, marks, open, settle};

#[tokio::test]
async fn a_section_keeps_out_handlers_under_way_and_new_ones_and_lets_them_go_in_order() {
    let (_house, doves) = open(1);
    let dove = doves.get_by_name("a");
    let (marks, mut marked) = marks();
    let ((share, shared), (leave, left)) = (go(), go());
    let (first, second, third) = (marks.clone(), marks.clone(), marks);
    let sharing = start!(dove, share(first, shared));
    assert_eq!(marked.recv().await, Some("shares"));
    let section = start!(dove, section(second, left));
    assert_eq!(marked.recv().await, Some("enters"));
    let new = start!(dove, mark(third, "new".into()));
    settle(&doves.get_by_name("b")).await;
    share.send(()).unwrap();
    settle(&doves.get_by_name("b")).await;
    assert!(marked.try_recv().is_err(), "nothing else is polled");
    leave.send(()).unwrap();
    section.await.unwrap().unwrap();
    sharing.await.unwrap().unwrap();
    new.await.unwrap().unwrap();
    let order: Vec<_> = std::iter::from_fn(|| marked.try_recv().ok()).collect();
    assert_eq!(order, ["leaves", "new", "shared", "dropped"]);
}

#[tokio::test]
async fn a_section_that_fails_or_takes_too_long_resets_the_object_and_who_waits_gets_its_error() {
    let (house, doves) = open(2);
    let dove = doves.get_by_name("a");
    for too_long in [false, true] {
        let dove = dove.fresh();
        let (marks, mut marked) = marks();
        let (let_go, gate) = go();
        let failing = start!(dove, failing_section(marks, gate));
        assert_eq!(marked.recv().await, Some("enters"));
        let waiting = start!(dove, see());
        settle(&doves.get_by_name("b")).await;
        match too_long {
            true => house.advance(30_000),
            false => let_go.send(()).unwrap(),
        }
        let error = failing.await.unwrap().unwrap_err();
        assert_eq!(waiting.await.unwrap().unwrap_err(), error);
        match too_long {
            true => assert!(error.is_overloaded() && error.is_reset(), "{error}"),
            false => assert_eq!(error, CallError::failed("Broken", "told to")),
        }
        let keys = dove.fresh().keys().await.unwrap();
        assert_eq!(keys, ["before"], "what it wrote in its last turn is gone");
        assert_eq!(dove.fresh().see().await.unwrap(), 1);
    }
}

#[tokio::test]
async fn sections_queue_beside_each_other_nest_64_deep_and_admit_calls_that_they_made() {
    let (_house, doves) = open(3);
    let dove = doves.get_by_name("a");
    let (marks, mut marked) = marks();
    assert!(dove.sections(marks).await.unwrap());
    let order: Vec<_> = std::iter::from_fn(|| marked.try_recv().ok()).collect();
    assert_eq!(order, ["a", "a", "b", "b"]);
    dove.put("key".into()).await.unwrap();
    assert_eq!(dove.section_with_a_call().await.unwrap(), 1);
}

#[tokio::test]
async fn a_transaction_over_awaits_is_all_or_nothing_and_nobody_sees_its_midst() {
    for (end, kept) in [
        ("keep", true),
        ("error", false),
        ("rollback", false),
        ("panic", false),
    ] {
        let (house, doves) = open(4);
        let dove = doves.get_by_name("a");
        let (marks, mut marked) = marks();
        let (let_go, gate) = go();
        let running = start!(dove, transaction(marks, gate, end.into()));
        assert_eq!(marked.recv().await, Some("first"));
        let reading = start!(dove.fresh(), keys());
        settle(&doves.get_by_name("b")).await;
        assert!(!reading.is_finished(), "it waits for the end");
        let (_midst, midst_doves) = after_power_loss(&house);
        let_go.send(()).unwrap();
        let ended = running.await.unwrap();
        assert_eq!(ended.is_ok(), kept || end == "rollback", "{end}: {ended:?}");
        let expected: &[&str] = match kept {
            true => &["before", "first", "second"],
            false => &["before"],
        };
        if end != "panic" {
            assert_eq!(reading.await.unwrap().unwrap(), expected, "{end}");
        }
        let doves = midst_doves;
        let keys = doves.get_by_name("a").keys().await.unwrap();
        assert!(
            keys.iter().all(|key| key == "before"),
            "in the midst: {keys:?}"
        );
        let (_house, doves) = after_power_loss(&house);
        assert_eq!(
            doves.get_by_name("a").keys().await.unwrap(),
            expected,
            "{end}"
        );
        assert_eq!(
            doves.get_by_name("a").tables().await.unwrap(),
            kept,
            "{end}"
        );
    }
}

#[tokio::test]
async fn a_transaction_whose_caller_goes_away_is_undone_and_others_go_on() {
    let (_house, doves) = open(5);
    let dove = doves.get_by_name("a");
    let (marks, mut marked) = marks();
    let (_never, gate) = go();
    let running = start!(dove, transaction(marks, gate, "keep".into()));
    assert_eq!(marked.recv().await, Some("first"));
    running.abort();
    assert_eq!(dove.keys().await.unwrap(), ["before"]);
    assert_eq!(
        dove.nested_transactions().await.unwrap(),
        ["before", "kept", "outer"]
    );
}
