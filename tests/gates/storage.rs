//! Keys and values, and what is durable when.

use dovehouse::testing::eventually;
use dovehouse::{Ctx, Error, List, Result};
use serde::{Deserialize, Serialize};

use super::dove::{after_power_loss, marks, open, settle};

#[tokio::test]
async fn unconfirmed_writes_hold_up_nothing_but_sync_and_confirmed_ones_do() {
    let (house, doves) = open(9);
    let dove = doves.get_by_name("a");
    dove.ping().await.unwrap();
    house.disk().hold();
    dove.put_unconfirmed(false).await.unwrap();
    assert_eq!(dove.keys().await.unwrap(), ["a", "b"]);
    let (marks, mut marked) = marks();
    let syncing = start!(dove, sync(marks));
    let confirmed = start!(dove, put_unconfirmed(true));
    settle(&doves.get_by_name("b")).await;
    assert!(!syncing.is_finished() && !confirmed.is_finished() && marked.try_recv().is_err());
    let (_lost, lost_doves) = after_power_loss(&house);
    house.disk().release();
    syncing.await.unwrap().unwrap();
    confirmed.await.unwrap().unwrap();
    assert_eq!(marked.recv().await, Some("synced"));
    let (_house, doves) = after_power_loss(&house);
    let keys = doves.get_by_name("a").keys().await.unwrap();
    assert_eq!(keys, ["a", "b", "c", "unconfirmed"]);
    assert!(
        lost_doves.get_by_name("a").keys().await.unwrap().is_empty(),
        "it was said too early, as agreed"
    );
}

#[tokio::test]
async fn a_call_leaves_an_object_when_what_it_wrote_before_is_durable() {
    let (house, doves) = open(15);
    let (dove, other) = (doves.get_by_name("a"), doves.get_by_name("b"));
    dove.ping().await.unwrap();
    house.disk().hold();
    let calling = start!(dove, put_and_call("b".into()));
    settle(&doves.get_by_name("c")).await;
    assert_eq!(other.see().await.unwrap(), 1, "it was not called yet");
    house.disk().release();
    assert_eq!(calling.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn an_unconfirmed_write_that_fails_resets_the_object() {
    let (house, doves) = open(10);
    let dove = doves.get_by_name("a");
    dove.ping().await.unwrap();
    house.disk().hold();
    dove.put_unconfirmed(false).await.unwrap();
    house.disk().fail_commits();
    eventually(async || house.awake().await.unwrap() == 0).await;
    assert!(dove.fresh().keys().await.unwrap().is_empty());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Ring {
    number: u64,
    #[serde(default)]
    place: Option<String>,
}

#[derive(Serialize)]
struct OldRing {
    number: u64,
}

struct Ledger;

#[dovehouse::object]
impl Ledger {
    fn new() -> Self {
        Ledger
    }

    pub fn typed(&mut self, ctx: &Ctx) -> Result<()> {
        let ring = Ring {
            number: u64::MAX,
            place: Some("left".into()),
        };
        ctx.kv().put_as("ring/1", &ring)?;
        ctx.kv().put_as("ring/2", &OldRing { number: 2 })?;
        assert_eq!(ctx.kv().get_as("ring/1")?, Some(ring));
        assert_eq!(ctx.kv().get_as::<Ring>("ring/3")?, None);
        let rings: Vec<(_, Ring)> = ctx.kv().list_as(&List::prefix(b"ring/").reverse())?;
        assert_eq!((rings[0].1.number, &rings[0].1.place), (2, &None));
        let wrong = ctx.kv().get_as::<Vec<String>>("ring/1");
        assert!(
            matches!(wrong, Err(Error::Value { what: "read", .. })),
            "{wrong:?}"
        );
        let pairs: (f64, i128, Vec<u8>) = (-0.0, i128::MIN, vec![0, 255]);
        ctx.kv().put_as("pairs", &pairs)?;
        let read: (f64, i128, Vec<u8>) = ctx.kv().get_as("pairs")?.expect("just put");
        assert_eq!(
            (read.0.to_bits(), read.1, read.2),
            (pairs.0.to_bits(), pairs.1, pairs.2)
        );
        Ok(())
    }

    pub fn many(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.kv().put_many([("b", "2"), ("a", "1"), ("c", "3")])?;
        let found = ctx.kv().get_many(["c", "none", "a", "c"])?;
        assert_eq!(
            found,
            [
                (b"a".to_vec(), b"1".to_vec()),
                (b"c".to_vec(), b"3".to_vec())
            ]
        );
        let too_long = "x".repeat(5_000);
        let failed = ctx
            .kv()
            .put_many([("a", "new"), ("d", "4"), (&too_long, "5")]);
        assert!(failed.is_err());
        assert_eq!(
            ctx.kv().get("a")?.as_deref(),
            Some(&b"1"[..]),
            "none of them is kept"
        );
        assert_eq!(ctx.kv().delete_many(["a", "none", "d", "b"])?, 2);
        let keys = |list: &List| -> Result<Vec<String>> {
            let listed = ctx.kv().list(list)?.into_iter();
            Ok(listed
                .map(|(key, _)| String::from_utf8(key).expect("text"))
                .collect())
        };
        ctx.kv()
            .put_many([("c/1", ""), ("c/2", ""), ("c/3", ""), ("d", "")])?;
        assert_eq!(
            keys(&List::prefix(b"c/").start_after(b"c/1"))?,
            ["c/2", "c/3"]
        );
        assert_eq!(keys(&List::all().start(b"c/2").end(b"d"))?, ["c/2", "c/3"]);
        assert_eq!(
            keys(&List::prefix(b"c").reverse().limit(2))?,
            ["c/3", "c/2"]
        );
        assert!(keys(&List::all().start(b"e").end(b"a"))?.is_empty());
        Ok(())
    }

    pub fn clear(&mut self, ctx: &Ctx) -> Result<Option<u64>> {
        ctx.alarm().set(u64::MAX / 2)?;
        ctx.delete_all_but_alarm()?;
        let kept = ctx.alarm().get()?;
        ctx.delete_all()?;
        assert_eq!(
            (ctx.alarm().get()?, ctx.kv().list(&List::all())?.len()),
            (None, 0)
        );
        Ok(kept)
    }

    fn alarm(&mut self) {}
}

#[tokio::test]
async fn values_are_typed_or_bytes_and_several_keys_are_changed_all_or_none() {
    let (house, _) = open(21);
    let ledger = house.namespace::<Ledger>().unwrap().get_by_name("a");
    ledger.typed().await.unwrap();
    ledger.many().await.unwrap();
    assert_eq!(ledger.clear().await.unwrap(), Some(u64::MAX / 2));
}
