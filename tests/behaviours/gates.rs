//! Gates: who waits for whom, and what leaves when.

use dovehouse::http::Request;
use dovehouse::testing::{TestHouse, eventually};
use dovehouse::{Body, CallError, ClientEnd, Ctx, Message, Namespace, Response, Result, WebSocket};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::waits::{Go, Marks, go, marks, open, settle};

struct Clerk;

#[dovehouse::object]
impl Clerk {
    fn new() -> Self {
        Clerk
    }

    pub fn note(&mut self, ctx: &Ctx, text: String) -> Result<()> {
        ctx.kv().put("note", text)
    }

    pub fn read(&self, ctx: &Ctx) -> Result<Option<String>> {
        let note = ctx.kv().get("note")?;
        Ok(note.map(|note| String::from_utf8(note).unwrap()))
    }

    pub async fn hold(&mut self, ctx: &Ctx, marks: Marks, go: Go, abort: bool) {
        marks.send("holds".into()).unwrap();
        go.0.await.unwrap();
        if abort {
            ctx.abort("told to");
        }
    }

    pub fn abort(&self, ctx: &Ctx) {
        ctx.abort("told to");
    }

    /// Orders from a shop elsewhere, as soon as the order is in the books.
    pub async fn order(&mut self, ctx: &Ctx, what: String, address: String) -> Result<(), String> {
        let words = |error: &dyn ToString| error.to_string();
        ctx.kv().put("note", &what).map_err(|error| words(&error))?;
        ctx.sync().await.map_err(|error| words(&error))?;
        let mut shop = TcpStream::connect(address)
            .await
            .map_err(|error| words(&error))?;
        shop.write_all(what.as_bytes())
            .await
            .map_err(|error| words(&error))
    }

    /// Tells another object over a WebSocket.
    pub async fn tell(&mut self, ctx: &Ctx, whom: String) -> Result<(), CallError> {
        let clerks = ctx.house().unwrap().namespace::<Clerk>().unwrap();
        let request = Request::get("/").body(Body::empty()).unwrap();
        let mut response = clerks.get_by_name(&whom).fetch(request).await?;
        let mut client = ClientEnd::take(&mut response).unwrap().accept();
        ctx.kv().put("note", "told").unwrap();
        client.send("told").await.unwrap();
        while client.next().await.is_some() {}
        Ok(())
    }

    fn fetch(&mut self, ctx: &Ctx) -> Result<Response> {
        Ok(ctx.accept_web_socket(&[])?.1.into_response())
    }

    fn web_socket_message(&mut self, ctx: &Ctx, socket: &WebSocket, _: Message) -> Result<()> {
        ctx.kv().put("note", "heard")?;
        socket.close(1000, "")
    }
}

fn clerks(seed: u64) -> (TestHouse, Namespace<Clerk>) {
    let house = open(seed);
    let clerks = house.namespace().unwrap();
    (house, clerks)
}

/// A clerk of another house, as a power cut leaves this one.
fn clerk_after_power_loss(house: &TestHouse) -> (TestHouse, ClerkStub) {
    let house = house.on(house.disk().power_loss());
    let clerk = house.namespace::<Clerk>().unwrap().get_by_name("a");
    (house, clerk)
}

#[tokio::test]
async fn ten_thousand_waiting_calls_end_with_their_object_or_leave_without_a_trace() {
    let (house, clerks) = clerks(201);
    for abort in [true, false] {
        let clerk = clerks.get_by_name("busy");
        let (marks, mut marked) = marks();
        let (let_go, gate) = go();
        let holding = start!(clerk, hold(marks, gate, abort));
        assert_eq!(marked.recv().await.unwrap(), "holds");
        // As many as may wait.
        let waiting: Vec<_> = (0..10_000).map(|_| start!(clerk, read())).collect();
        let overloaded = async || {
            let one_more = start!(clerk, read());
            settle(&house).await;
            let refused = one_more.is_finished();
            one_more.abort();
            refused
        };
        eventually(overloaded).await;
        if abort {
            let_go.send(()).unwrap();
            for call in waiting {
                let error = call.await.unwrap().unwrap_err();
                assert_eq!(error, CallError::Aborted("told to".into()));
            }
        } else {
            waiting.iter().for_each(|call| call.abort());
            eventually(async || !overloaded().await).await;
            let_go.send(()).unwrap();
            holding.await.unwrap().unwrap();
            assert_eq!(clerk.read().await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn a_read_waits_for_the_write_that_it_shows_and_other_objects_wait_for_nothing() {
    let (house, clerks) = clerks(202);
    let clerk = clerks.get_by_name("a");
    assert_eq!(clerk.read().await.unwrap(), None);
    house.disk().hold();
    let writing = start!(clerk, note("new".into()));
    let reading = start!(clerk, read());
    settle(&house).await;
    assert_eq!(clerks.get_by_name("b").read().await.unwrap(), None);
    assert!(!writing.is_finished() && !reading.is_finished());
    house.disk().release();
    writing.await.unwrap().unwrap();
    assert_eq!(reading.await.unwrap().unwrap().as_deref(), Some("new"));
}

#[tokio::test]
async fn when_a_commit_fails_nobody_who_waits_hears_of_it_whatever_the_object() {
    let (house, clerks) = clerks(203);
    let (a, b) = (clerks.get_by_name("a"), clerks.get_by_name("b"));
    a.note("old".into()).await.unwrap();
    house.disk().hold();
    let waiting = [
        start!(a, note("lost".into())),
        start!(b, note("lost".into())),
    ];
    let reading = start!(a, read());
    settle(&house).await;
    house.disk().fail_commits();
    house.disk().release();
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert!(error.is_reset() && error.is_retryable(), "{error}");
    }
    assert!(reading.await.unwrap().unwrap_err().is_reset());
    assert_eq!(a.fresh().read().await.unwrap().as_deref(), Some("old"));
    let later = b.fresh().note("later".into()).await;
    assert!(later.unwrap_err().is_reset(), "the gate stays shut");
}

#[tokio::test]
async fn a_reply_that_waits_while_its_object_aborts_is_given_once_its_write_is_durable() {
    let (house, clerks) = clerks(204);
    let clerk = clerks.get_by_name("a");
    clerk.read().await.unwrap();
    house.disk().hold();
    let writing = start!(clerk, note("kept".into()));
    settle(&house).await;
    let aborting = start!(clerk.fresh(), abort());
    settle(&house).await;
    assert!(!writing.is_finished());
    house.disk().release();
    writing.await.unwrap().unwrap();
    let aborted = Err(CallError::Aborted("told to".into()));
    assert_eq!(aborting.await.unwrap(), aborted);
    let (_after, clerk) = clerk_after_power_loss(&house);
    let kept = clerk.read().await.unwrap();
    assert_eq!(kept.as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_message_on_an_outgoing_web_socket_waits_for_the_write_before_it() {
    let (house, clerks) = clerks(205);
    let (a, b) = (clerks.get_by_name("a"), clerks.get_by_name("b"));
    assert_eq!((a.read().await, b.read().await), (Ok(None), Ok(None)));
    house.disk().hold();
    let telling = start!(a, tell("b".into()));
    settle(&house).await;
    assert_eq!(b.read().await.unwrap(), None, "it has heard nothing yet");
    house.disk().release();
    telling.await.unwrap().unwrap();
    assert_eq!(b.read().await.unwrap().as_deref(), Some("heard"));
}

/// How an object calls out: `sync` first.
#[tokio::test]
async fn what_an_object_sends_elsewhere_after_a_sync_is_never_ahead_of_its_writes() {
    let (house, clerks) = clerks(206);
    let shop = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = shop.local_addr().unwrap().to_string();
    let clerk = clerks.get_by_name("a");
    clerk.read().await.unwrap();
    house.disk().hold();
    let order = (clerk.clone(), address.clone());
    let ordering = tokio::spawn(async move { order.0.order("one dove".into(), order.1).await });
    settle(&house).await;
    let nobody = shop.accept().now_or_never();
    assert!(nobody.is_none(), "nobody calls before the write is durable");
    house.disk().release();
    let (mut customer, _) = shop.accept().await.unwrap();
    let mut words = String::new();
    customer.read_to_string(&mut words).await.unwrap();
    assert_eq!(words, "one dove");
    ordering.await.unwrap().unwrap();
    let (_after, after) = clerk_after_power_loss(&house);
    let note = after.read().await.unwrap();
    assert_eq!(note.as_deref(), Some("one dove"), "the books know");

    house.disk().fail_commits();
    let error = clerk.order("two doves".into(), address).await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    settle(&house).await;
    assert!(shop.accept().now_or_never().is_none());
}
