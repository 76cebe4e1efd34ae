//! WebSockets of objects, over TCP: they outlive their object's sleep, and wait at the output gate.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use axum::extract::{Path, Request, State};
use dovehouse::testing::{START_MS, TestHouse, eventually};
use dovehouse::{
    AutoResponse, Body, CloseReason, Ctx, Message, Namespace, ReadyState, Response, Result,
    WebSocket, WebSocketError,
};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as RawFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Answers, remembers, and tells others.
struct Parrot {
    heard_since_waking: u32,
}

#[dovehouse::object]
impl Parrot {
    fn new(ctx: &Ctx) -> Result<Self, String> {
        match ctx.kv().get("refuse").unwrap() {
            Some(_) => Err("told not to wake".into()),
            None => Ok(Parrot {
                heard_since_waking: 0,
            }),
        }
    }

    /// `/NAME/TAG` accepts a connection that may sleep, `/NAME/standard` one that may not.
    fn fetch(&mut self, ctx: &Ctx, request: dovehouse::Request) -> Result<Response> {
        let tag = request.uri().path().rsplit('/').next().unwrap();
        if tag == "standard" {
            let context = ctx.clone();
            let client = ctx.accept_standard_web_socket(async move |mut socket| {
                let mut count = 0;
                while let Some(Ok(_)) = socket.next().await {
                    count += 1;
                    context.kv().put("count", [count]).unwrap();
                    socket.send(format!("message {count}"));
                }
                let reason = socket.close_reason().unwrap();
                context
                    .kv()
                    .put("goodbye", reason.code.to_string())
                    .unwrap();
            })?;
            return Ok(client.into_response());
        }
        ctx.kv().put("accepted", tag)?;
        let (socket, client) = ctx.accept_web_socket(&[tag, "fetched", tag])?;
        socket.set_attachment(Some(tag.into()))?;
        socket.allow_half_open(tag == "half");
        let tags: Vec<_> = socket.tags().collect();
        socket.send(format!("welcome {}", tags.join(" ")));
        Ok(client.into_response())
    }

    pub fn tell(&mut self, ctx: &Ctx, tag: Option<String>, text: String) {
        let sockets = match tag {
            Some(tag) => ctx.web_sockets_tagged(&tag),
            None => ctx.web_sockets(),
        };
        sockets.iter().for_each(|socket| socket.send(text.as_str()));
    }

    pub fn sockets(&self, ctx: &Ctx) -> usize {
        ctx.web_sockets().len()
    }

    pub fn goodbye(&self, ctx: &Ctx) -> Result<Option<String>> {
        Ok(ctx
            .kv()
            .get("goodbye")?
            .map(|text| String::from_utf8(text).unwrap()))
    }

    pub fn refuse_to_wake(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.kv().put("refuse", "")
    }

    /// Answers "ping" with "pong" from now on, and lets a handler take a second.
    pub fn settle(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.set_web_socket_auto_response(Some(AutoResponse::new("ping", "pong")?));
        ctx.set_web_socket_event_timeout_ms(Some(1000))
    }

    pub fn auto_responses(&self, ctx: &Ctx) -> (bool, Vec<Option<u64>>) {
        let is_set = ctx.web_socket_auto_response().is_some();
        ctx.set_web_socket_auto_response(None);
        let sockets = ctx.web_sockets();
        let times = sockets.iter().map(WebSocket::auto_response_ms).collect();
        (is_set, times)
    }

    /// What is too much or not allowed, as errors.
    pub fn limits(&mut self, ctx: &Ctx) -> Vec<String> {
        let socket = &ctx.web_sockets()[0];
        let long = "x".repeat(2049);
        let refused = [
            ctx.accept_web_socket(&["same"; 11]).map(drop),
            ctx.accept_web_socket(&[&long[..257]]).map(drop),
            socket.set_attachment(Some(vec![0; 16_385])),
            AutoResponse::new("", &long).map(drop),
            ctx.set_web_socket_event_timeout_ms(Some(604_800_001)),
            socket.close(1000, &long[..124]),
            socket.close(None, "why"),
            socket.close(1006, ""),
            socket.close(2000, ""),
            socket.close(5000, ""),
        ];
        let errors = refused.map(|refused| refused.unwrap_err().to_string());
        ctx.accept_web_socket(&[&long[..256]; 10]).unwrap();
        socket.set_attachment(Some(vec![0; 16_384])).unwrap();
        errors.into()
    }

    /// Sends more than waits for anybody.
    pub fn flood(&mut self, ctx: &Ctx) {
        for socket in ctx.web_sockets() {
            (0..48).for_each(|_| socket.send(vec![0; 1 << 20]));
        }
    }

    async fn web_socket_message(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        message: Message,
    ) -> Result<(), String> {
        self.heard_since_waking += 1;
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(bytes) => {
                socket.send(bytes.into_iter().rev().collect::<Vec<u8>>());
                return Ok(());
            }
        };
        match &*text {
            "fail" => return Err("told to fail".into()),
            "panic" => panic!("told to panic"),
            "hang" => std::future::pending().await,
            "close" => {
                socket.send("last words");
                socket.close(4000, "enough").unwrap();
                // Neither has an effect any more.
                socket.send("too late");
                socket.close(None, "").unwrap();
            }
            "attached" => {
                let note = socket.attachment().unwrap_or_default();
                socket.send(String::from_utf8(note).unwrap());
            }
            text => {
                ctx.kv().put("heard", text).unwrap();
                socket.send(format!("{text} {}", self.heard_since_waking));
            }
        }
        Ok(())
    }

    fn web_socket_close(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        reason: CloseReason,
    ) -> Result<()> {
        match socket.attachment().as_deref() {
            Some(b"half") => socket.close(None, "")?,
            _ => assert_eq!(socket.ready_state(), ReadyState::Closed),
        }
        let CloseReason {
            code,
            reason,
            was_clean,
            ..
        } = reason;
        ctx.kv()
            .put("goodbye", format!("{code} {reason} {was_clean}"))
    }

    fn web_socket_error(
        &mut self,
        ctx: &Ctx,
        _socket: &WebSocket,
        error: WebSocketError,
    ) -> Result<()> {
        ctx.kv().put("goodbye", format!("error: {error}"))
    }
}

type Parrots = State<Namespace<Parrot>>;

/// Hands the connection over without waking the object.
async fn connect(
    parrots: Parrots,
    Path((name, tag)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let parrot = parrots.get_by_name(&name);
    parrot.accept_web_socket(&mut request, &[&tag])
}

/// Lets the object decide.
async fn fetch(
    parrots: Parrots,
    Path((name, _)): Path<(String, String)>,
    request: Request,
) -> Response {
    let response = parrots.get_by_name(&name).fetch(request).await;
    response.unwrap_or_else(Response::from)
}

struct Setup {
    house: TestHouse,
    parrots: Namespace<Parrot>,
    address: String,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Setup {
    async fn new(seed: u64) -> Self {
        let house = TestHouse::with_seed(seed);
        let parrots = house.namespace::<Parrot>().unwrap();
        let app = axum::Router::new()
            .route("/{name}/{tag}", axum::routing::get(connect))
            .route("/fetch/{name}/{tag}", axum::routing::get(fetch));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(axum::serve(listener, app.with_state(parrots.clone())).into_future());
        Setup {
            house,
            parrots,
            address,
        }
    }

    async fn connect(&self, name: &str, tag: &str) -> Socket {
        let url = format!("ws://{}/{name}/{tag}", self.address);
        tokio_tungstenite::connect_async(url).await.unwrap().0
    }

    /// Puts it to sleep, as soon as it has nothing to do.
    async fn evict(&self, polly: &ParrotStub) {
        eventually(async || self.house.evict(polly.id()).await.unwrap()).await;
        assert_eq!(self.house.awake().await.unwrap(), 0);
    }
}

async fn ask(socket: &mut Socket, text: &str) -> String {
    socket.send(Frame::text(text)).await.unwrap();
    hear(socket).await
}

async fn hear(socket: &mut Socket) -> String {
    let frame = socket.next().await.unwrap().unwrap();
    frame.into_text().unwrap().to_string()
}

/// The code and reason of the goodbye that comes next, and then the end.
async fn hear_goodbye(socket: &mut Socket) -> (u16, String) {
    let Frame::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("a close frame")
    };
    while socket.next().await.is_some() {}
    (frame.code.into(), frame.reason.to_string())
}

async fn remembers_goodbye(polly: &ParrotStub, expected: &str) {
    eventually(async || polly.goodbye().await.unwrap().as_deref() == Some(expected)).await;
}

#[tokio::test]
async fn a_connection_outlives_its_objects_sleep_and_wakes_it() {
    let setup = Setup::new(1).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("fetch/polly", "a").await;
    assert_eq!(hear(&mut socket).await, "welcome a fetched");
    assert_eq!(ask(&mut socket, "hello").await, "hello 1");
    assert_eq!(ask(&mut socket, "hello").await, "hello 2");

    setup.evict(&polly).await;
    socket.send(Frame::Ping("?".into())).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Frame::Pong("?".into())
    );
    assert_eq!(setup.house.awake().await.unwrap(), 0, "pings wake nobody");
    let again = ask(&mut socket, "again").await;
    assert_eq!(again, "again 1", "a fresh instance, the same connection");
    assert_eq!(ask(&mut socket, "attached").await, "a");
    polly
        .tell(Some("fetched".into()), "by tag".into())
        .await
        .unwrap();
    assert_eq!(hear(&mut socket).await, "by tag");
}

#[tokio::test]
async fn an_object_reaches_its_connections_by_tag_and_in_order() {
    let setup = Setup::new(2).await;
    let (mut one, mut two) = (
        setup.connect("polly", "one").await,
        setup.connect("polly", "two").await,
    );
    // A round trip shows that each is known.
    ask(&mut one, "x").await;
    ask(&mut two, "x").await;
    let polly = setup.parrots.get_by_name("polly");
    polly
        .tell(Some("two".into()), "only two".into())
        .await
        .unwrap();
    for number in 0..20 {
        polly.tell(None, format!("all {number}")).await.unwrap();
    }
    assert_eq!(hear(&mut two).await, "only two");
    for number in 0..20 {
        assert_eq!(hear(&mut one).await, format!("all {number}"));
        assert_eq!(hear(&mut two).await, format!("all {number}"));
    }
    one.send(Frame::binary(vec![1, 2, 3])).await.unwrap();
    let answer = one.next().await.unwrap().unwrap();
    assert_eq!(answer, Frame::binary(vec![3, 2, 1]));
}

#[tokio::test]
async fn the_host_answers_one_text_in_a_sleeping_objects_place() {
    let setup = Setup::new(3).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "ping").await, "ping 1", "not set yet");
    polly.settle().await.unwrap();
    assert_eq!(ask(&mut socket, "ping").await, "pong");
    setup.evict(&polly).await;
    setup.house.advance(5);
    assert_eq!(ask(&mut socket, "ping").await, "pong");
    assert_eq!(setup.house.awake().await.unwrap(), 0);
    assert_eq!(
        ask(&mut socket, "ping ").await,
        "ping  1",
        "exactly this text"
    );

    let (was_set, times) = polly.auto_responses().await.unwrap();
    assert_eq!((was_set, times), (true, vec![Some(START_MS + 5)]));
    assert_eq!(ask(&mut socket, "ping").await, "ping 2");
    let (is_set, times) = polly.auto_responses().await.unwrap();
    assert_eq!((is_set, times), (false, vec![Some(START_MS + 5)]));
}

#[tokio::test]
async fn both_sides_can_say_goodbye() {
    let setup = Setup::new(4).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "close").await, "last words");
    assert_eq!(hear_goodbye(&mut socket).await, (4000, "enough".into()));
    remembers_goodbye(&polly, "4000 enough true").await;

    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    remembers_goodbye(&polly, "1005  true").await;

    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    drop(socket);
    let lost = "1006 WebSocket disconnected without sending Close frame. false";
    remembers_goodbye(&polly, lost).await;

    // A peer that does not answer a goodbye has ten seconds.
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "close").await, "last words");
    polly.sockets().await.unwrap();
    while polly.sockets().await.unwrap() > 0 {
        setup.house.advance(10_000);
        tokio::task::yield_now().await;
    }
    remembers_goodbye(&polly, "1006 the peer does not answer a goodbye false").await;
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_and_is_told() {
    let setup = Setup::new(5).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("polly", "a").await;
    let bad_text = RawFrame::message(vec![0xff], OpCode::Data(Data::Text), true);
    socket.send(Frame::Frame(bad_text)).await.unwrap();
    let goodbye = hear_goodbye(&mut socket).await;
    assert_eq!(goodbye, (1007, "a text is not UTF-8".into()));
    remembers_goodbye(&polly, "error: a text is not UTF-8").await;
    assert_eq!(polly.sockets().await.unwrap(), 0);
}

#[tokio::test]
async fn a_handler_that_fails_keeps_the_connection_and_a_reset_ends_it() {
    let setup = Setup::new(6).await;
    let polly = setup.parrots.get_by_name("polly");
    let reset = (1011, "the object was reset".to_owned());
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "x").await, "x 1");
    socket.send(Frame::text("fail")).await.unwrap();
    assert_eq!(ask(&mut socket, "y").await, "y 3");
    socket.send(Frame::text("panic")).await.unwrap();
    assert_eq!(hear_goodbye(&mut socket).await, reset);

    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "z").await, "z 1");
    polly.settle().await.unwrap();
    socket.send(Frame::text("hang")).await.unwrap();
    // The object does nothing else meanwhile, so the time for it may pass at any moment.
    let goodbye = tokio::select! {
        goodbye = hear_goodbye(&mut socket) => goodbye,
        () = async {
            loop {
                setup.house.advance(1000);
                tokio::task::yield_now().await;
            }
        } => unreachable!(),
    };
    assert_eq!(goodbye, reset);

    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "z").await, "z 1");
    polly.refuse_to_wake().await.unwrap();
    setup.evict(&polly).await;
    socket.send(Frame::text("x")).await.unwrap();
    assert_eq!(hear_goodbye(&mut socket).await, reset, "it cannot wake");
}

#[tokio::test]
async fn what_a_failed_write_would_reveal_is_never_sent() {
    for is_handshake in [false, true] {
        let setup = Setup::new(7).await;
        let mut socket = setup.connect("polly", "a").await;
        assert_eq!(ask(&mut socket, "durable").await, "durable 1");
        setup.house.disk().fail_commits();
        if is_handshake {
            let url = format!("ws://{}/fetch/polly/b", setup.address);
            let refused = tokio_tungstenite::connect_async(url).await.unwrap_err();
            assert!(refused.to_string().contains("500"), "{refused}");
        } else {
            socket.send(Frame::text("lost")).await.unwrap();
        }
        assert_eq!(hear_goodbye(&mut socket).await.0, 1011);
    }
}

#[tokio::test]
async fn limits_are_errors_that_name_them() {
    let setup = Setup::new(8).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    let errors = polly.limits().await.unwrap();
    let expected = ["10", "256", "16384", "2048", "604800000", "123"];
    for (error, limit) in errors.iter().zip(expected) {
        assert!(
            error.contains(&format!("exceeds the limit of {limit}")),
            "{error}"
        );
    }
    let closes = &errors[expected.len()..];
    assert!(
        closes
            .iter()
            .all(|error| error.contains("cannot be closed like that"))
    );
    // An end that nobody took is a connection that is gone.
    remembers_goodbye(&polly, "1006 it was never opened false").await;
    assert_eq!(polly.sockets().await.unwrap(), 1);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_dropped() {
    let setup = Setup::new(9).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    polly.flood().await.unwrap();
    polly.flood().await.unwrap();
    remembers_goodbye(&polly, "1006 the peer does not read what it is sent false").await;
}

#[tokio::test]
async fn a_standard_connection_keeps_its_object_in_memory() {
    let setup = Setup::new(10).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("fetch/polly", "standard").await;
    assert_eq!(ask(&mut socket, "a").await, "message 1");
    assert!(!setup.house.evict(polly.id()).await.unwrap());
    assert_eq!(ask(&mut socket, "b").await, "message 2");
    assert_eq!(
        polly.sockets().await.unwrap(),
        0,
        "it is not among the others"
    );
    socket.close(None).await.unwrap();
    remembers_goodbye(&polly, "1005").await;
    setup.evict(&polly).await;

    let mut socket = setup.connect("fetch/polly", "standard").await;
    assert_eq!(ask(&mut socket, "a").await, "message 1");
    let mut other = setup.connect("polly", "a").await;
    other.send(Frame::text("panic")).await.unwrap();
    assert_eq!(hear_goodbye(&mut socket).await.0, 1011);
}

#[tokio::test]
async fn other_requests_are_told_what_is_missing_and_a_closing_house_says_goodbye() {
    let setup = Setup::new(11).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut plain = dovehouse::http::Request::get("/").body(()).unwrap();
    let response = polly.accept_web_socket(&mut plain, &[]);
    assert_eq!(response.status(), 426);
    let text = Body::text(response.into_body(), 1000).await.unwrap();
    assert!(text.contains("WebSocket"));

    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    let closed = tokio::spawn(setup.house.dovehouse().close());
    assert_eq!(hear_goodbye(&mut socket).await.0, 1001);
    closed.await.unwrap().unwrap();
}

/// Clients that come, talk and go in every way, while their objects fall asleep and panic.
#[tokio::test]
async fn after_a_storm_nothing_is_left_of_the_connections() {
    let setup = Setup::new(12).await;
    let clients = (0..24).map(async |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..12 {
            let name = ["a", "b", "c"][rng.usize(..3)];
            let path = ["fetch/", ""][rng.usize(..2)].to_owned() + name;
            let tag = ["x", "standard", "half"][rng.usize(..3)];
            let url = format!("ws://{}/{path}/{tag}", setup.address);
            // An object that was just reset may refuse.
            let Ok((mut socket, _)) = tokio_tungstenite::connect_async(url).await else {
                continue;
            };
            for _ in 0..rng.usize(..6) {
                let text = ["hello", "fail", "attached", "panic", "close"][rng.usize(..5)];
                let _ = socket.send(Frame::text(text)).await;
                let _ = socket.send(Frame::Ping("?".into())).await;
                let polly = setup.parrots.get_by_name(name);
                let _ = setup.house.evict(polly.id()).await;
            }
            if rng.bool() {
                let _ = socket.close(None).await;
                while let Some(Ok(_)) = socket.next().await {}
            }
        }
    });
    futures_util::future::join_all(clients).await;
    for name in ["a", "b", "c"] {
        let polly = setup.parrots.get_by_name(name);
        while polly.fresh().sockets().await.unwrap_or(1) > 0 {
            tokio::task::yield_now().await;
        }
        while !setup.house.evict(polly.id()).await.unwrap() {
            tokio::task::yield_now().await;
        }
    }
    setup.house.close().await.unwrap();
}
