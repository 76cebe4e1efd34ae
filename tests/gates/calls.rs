//! Calls: how they end, and how their objects do.

use dovehouse::CallError;
use dovehouse::testing::START_MS;

use super::dove::{Dove, go, marks, open, open_with, settle};

#[tokio::test]
async fn abort_undoes_the_turn_ends_every_call_at_once_and_the_next_finds_a_fresh_object() {
    let (_house, doves) = open(6);
    let dove = doves.get_by_name("a");
    assert_eq!(dove.see().await.unwrap(), 1);
    let (marks, mut marked) = marks();
    let (_never, gate) = go();
    let (first, other) = (marks.clone(), dove.fresh());
    let sharing = start!(other, share(first, gate));
    assert_eq!(marked.recv().await, Some("shares"));
    let error = dove.abort(marks).await.unwrap_err();
    assert_eq!(error, CallError::Aborted("told to abort".into()));
    assert!(error.is_reset() && !error.is_remote());
    assert_eq!(sharing.await.unwrap().unwrap_err(), error, "at once");
    assert_eq!(marked.recv().await, Some("dropped"));
    assert_eq!(
        other.see().await.unwrap_err(),
        error,
        "that stub lost a call"
    );
    assert!(dove.fresh().keys().await.unwrap().is_empty());
    assert_eq!(dove.fresh().see().await.unwrap(), 1);
}

#[tokio::test]
async fn an_alarm_whose_handler_aborts_is_tried_again_unless_it_is_given_up() {
    for (end, again) in [("retry", true), ("give up", false)] {
        let (house, doves) = open(7);
        let dove = doves.get_by_name("a");
        dove.set_alarm(START_MS + 10, end.into()).await.unwrap();
        house.advance(10);
        house.alarms_done().await;
        let due_ms = dove.alarm_at().await.unwrap();
        assert_eq!(due_ms.is_some(), again, "{end} {due_ms:?}");
    }
}

#[tokio::test]
async fn what_goes_on_after_a_call_keeps_the_object_awake_and_waits_while_another_is_alone() {
    let (house, doves) = open(8);
    let dove = doves.get_by_name("a");
    let (let_go, gate) = go();
    dove.go_on(gate).await.unwrap();
    settle(&doves.get_by_name("b")).await;
    assert!(!house.evict(dove.id()).await.unwrap());
    let (marks, mut marked) = marks();
    let (end, gate) = go();
    let alone = start!(dove, alone(marks, gate));
    assert_eq!(marked.recv().await, Some("alone"));
    let_go.send(()).unwrap();
    settle(&doves.get_by_name("b")).await;
    end.send(()).unwrap();
    alone.await.unwrap().unwrap();
    while dove.keys().await.unwrap() != ["later"] {
        tokio::task::yield_now().await;
    }
    while !house.evict(dove.id()).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_call_whose_caller_goes_away_ends_at_its_next_await_or_never_begins() {
    let (_house, doves) = open(11);
    let dove = doves.get_by_name("a");
    let (marks, mut marked) = marks();
    let (_never, gate) = go();
    let (first, second) = (marks.clone(), marks);
    let running = start!(dove, alone(first, gate));
    assert_eq!(marked.recv().await, Some("alone"));
    let waiting = start!(dove, mark(second, "never".into()));
    settle(&doves.get_by_name("b")).await;
    waiting.abort();
    running.abort();
    assert_eq!(dove.see().await.unwrap(), 1, "the object is free again");
    assert_eq!(marked.recv().await, Some("dropped"));
    assert_eq!(marked.recv().await, None);
}

#[tokio::test]
async fn too_many_calls_for_one_object_are_refused_and_circles_are_noticed() {
    let (_house, doves) = open_with(12, |builder| builder.queue_max(2));
    let (a, b) = (doves.get_by_name("a"), doves.get_by_name("b"));
    let (marks, mut marked) = marks();
    let ((go_a, gate_a), (go_b, gate_b)) = (go(), go());
    let (for_a, for_b) = (marks.clone(), marks);
    let first = start!(a, alone_then_call("b".into(), for_a, gate_a));
    let second = start!(b, alone_then_call("a".into(), for_b, gate_b));
    assert_eq!(
        (marked.recv().await, marked.recv().await),
        (Some("alone"), Some("alone"))
    );
    let waiting = [start!(a, ping()), start!(a, ping())];
    settle(&doves.get_by_name("c")).await;
    let error = a.ping().await.unwrap_err();
    assert!(
        error.is_overloaded() && !error.is_retryable() && !error.is_reset(),
        "{error}"
    );
    drop(waiting);

    go_a.send(()).unwrap();
    settle(&doves.get_by_name("c")).await;
    go_b.send(()).unwrap();
    let second = second.await.unwrap();
    assert!(
        second == Err(CallError::Deadlock) || second.as_ref().is_err_and(CallError::is_overloaded),
        "{second:?}"
    );
    assert_eq!(
        first.await.unwrap().unwrap(),
        1,
        "it goes on when the other has failed"
    );
}

#[tokio::test]
async fn errors_keep_their_kind_and_a_constructor_that_fails_is_tried_again_by_the_next_call() {
    let (house, doves) = open(13);
    let dove = doves.get_by_name("a");
    dove.put("refuse".into()).await.unwrap();
    assert!(house.evict(dove.id()).await.unwrap());
    for _ in 0..2 {
        let error = dove.fresh().ping().await.unwrap_err();
        let flags = (error.kind(), error.is_remote(), error.is_reset());
        assert_eq!(flags, ("Refused", true, true));
        let words = "the object cannot be constructed: not today";
        assert_eq!(error.to_string(), words);
    }
    assert_eq!(house.awake().await.unwrap(), 0, "nothing of it stays");
}

#[tokio::test]
async fn those_that_were_idle_for_longest_go_when_memory_is_short() {
    let (house, doves) = open_with(14, |builder| builder.awake_bytes(80 << 10));
    for number in 0..100 {
        house.advance(1);
        assert_eq!(
            doves.get_by_name(&number.to_string()).see().await.unwrap(),
            1
        );
    }
    settle(&doves.get_by_name("99")).await;
    assert!((20..=40).contains(&house.awake().await.unwrap()));
    assert_eq!(
        doves.get_by_name("98").see().await.unwrap(),
        2,
        "used lately"
    );
    assert_eq!(doves.get_by_name("0").see().await.unwrap(), 1);
}

#[tokio::test]
async fn a_house_that_closes_waits_for_handlers_and_keeps_what_they_write() {
    let (house, doves) = open(16);
    let dove = doves.get_by_name("a");
    let (marks, mut marked) = marks();
    let (let_go, gate) = go();
    let running = start!(dove, transaction(marks, gate, "keep".into()));
    assert_eq!(marked.recv().await, Some("first"));
    let closing = tokio::spawn(house.dovehouse().close());
    let refused = loop {
        match doves.get_by_name("b").ping().await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(refused.is_retryable() && refused == CallError::Closed);
    assert!(!closing.is_finished());
    let_go.send(()).unwrap();
    running.await.unwrap().unwrap();
    closing.await.unwrap().unwrap();
    let house = house.on(house.disk().clone());
    let doves = house.namespace::<Dove>().unwrap();
    let keys = doves.get_by_name("a").keys().await.unwrap();
    assert_eq!(keys, ["before", "first", "second"]);
}
