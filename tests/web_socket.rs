//! WebSockets of objects, over TCP: they outlive their object's sleep, and wait at the output gate.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use dovehouse::engine::wal::sim::{Failure, Fault, Operation, SimFs};
use dovehouse::{CloseReason, Ctx, Dovehouse, Message, Namespace, Result, WebSocket};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// Answers, remembers, and tells others.
struct Parrot {
    heard_since_waking: u32,
}

#[dovehouse::object]
impl Parrot {
    fn new() -> Self {
        Parrot {
            heard_since_waking: 0,
        }
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

    pub fn goodbyes(&self, ctx: &Ctx) -> Result<Option<String>> {
        Ok(ctx
            .kv()
            .get("goodbye")?
            .map(|text| String::from_utf8(text).unwrap()))
    }

    fn web_socket_message(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        message: Message,
    ) -> Result<(), String> {
        self.heard_since_waking += 1;
        match message {
            Message::Text(text) if text == "fail" => return Err("told to fail".into()),
            Message::Text(text) if text == "panic" => panic!("told to panic"),
            Message::Text(text) if text == "close" => socket.close(4000, "enough"),
            Message::Text(text) if text == "attach" => {
                socket.set_attachment(Some(b"a note".to_vec()))
            }
            Message::Text(text) if text == "attached" => {
                let note = socket.attachment().unwrap_or_default();
                socket.send(String::from_utf8(note).unwrap());
            }
            Message::Text(text) => {
                ctx.kv().put("heard", &text).unwrap();
                socket.send(format!("{text} {}", self.heard_since_waking));
            }
            Message::Binary(bytes) => socket.send(bytes.into_iter().rev().collect::<Vec<u8>>()),
        }
        Ok(())
    }

    fn web_socket_close(
        &mut self,
        ctx: &Ctx,
        _socket: &WebSocket,
        reason: CloseReason,
    ) -> Result<()> {
        ctx.kv().put(
            "goodbye",
            format!("{} {} {}", reason.code, reason.reason, reason.was_clean),
        )
    }
}

type Parrots = State<Namespace<Parrot>>;

async fn connect(
    parrots: Parrots,
    Path((name, tag)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    parrots
        .get_by_name(&name)
        .accept_web_socket(&mut request, &[&tag])
        .map(Body::from)
}

struct Setup {
    disk: SimFs,
    house: Dovehouse,
    parrots: Namespace<Parrot>,
    address: String,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Setup {
    async fn new(seed: u64) -> Self {
        let disk = SimFs::new(seed);
        let builder = Dovehouse::builder("store").fs(Arc::new(disk.clone()));
        let house = builder.segment_bytes(1 << 20).shards(2).open().unwrap();
        let parrots = house.namespace::<Parrot>().unwrap();
        let app = axum::Router::new().route("/{name}/{tag}", axum::routing::get(connect));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(axum::serve(listener, app.with_state(parrots.clone())).into_future());
        Setup {
            disk,
            house,
            parrots,
            address,
        }
    }

    async fn connect(&self, name: &str, tag: &str) -> Socket {
        let url = format!("ws://{}/{name}/{tag}", self.address);
        tokio_tungstenite::connect_async(url).await.unwrap().0
    }
}

async fn ask(socket: &mut Socket, text: &str) -> String {
    socket.send(Frame::text(text)).await.unwrap();
    hear(socket).await
}

async fn hear(socket: &mut Socket) -> String {
    socket
        .next()
        .await
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn a_connection_outlives_its_objects_sleep_and_wakes_it() {
    let setup = Setup::new(1).await;
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "hello").await, "hello 1");
    assert_eq!(ask(&mut socket, "hello").await, "hello 2");
    socket.send(Frame::text("attach")).await.unwrap();
    assert_eq!(ask(&mut socket, "attached").await, "a note");

    let polly = setup.parrots.get_by_name("polly");
    assert!(setup.house.evict(polly.id()).await.unwrap());
    assert_eq!(setup.house.awake().await.unwrap(), 0);
    assert_eq!(
        ask(&mut socket, "again").await,
        "again 1",
        "a fresh instance, the same connection"
    );
    assert_eq!(ask(&mut socket, "attached").await, "a note");
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
    assert_eq!(
        one.next().await.unwrap().unwrap(),
        Frame::binary(vec![3, 2, 1])
    );
}

#[tokio::test]
async fn both_sides_can_say_goodbye() {
    let setup = Setup::new(3).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut socket = setup.connect("polly", "a").await;
    socket.send(Frame::text("close")).await.unwrap();
    let Frame::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("a close frame")
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (4000, "enough")
    );
    while socket.next().await.is_some() {}

    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    while polly.goodbyes().await.unwrap().as_deref() != Some("1005  true") {
        tokio::task::yield_now().await;
    }
    assert_eq!(polly.sockets().await.unwrap(), 0);
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_keeps_the_connection() {
    let setup = Setup::new(4).await;
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "x").await, "x 1");
    socket.send(Frame::text("fail")).await.unwrap();
    assert_eq!(ask(&mut socket, "y").await, "y 3");
    socket.send(Frame::text("panic")).await.unwrap();
    assert_eq!(ask(&mut socket, "z").await, "z 1", "the object was reset");
}

#[tokio::test]
async fn what_a_failed_write_would_reveal_is_never_sent() {
    let setup = Setup::new(5).await;
    let mut socket = setup.connect("polly", "a").await;
    assert_eq!(ask(&mut socket, "durable").await, "durable 1");
    setup.disk.inject(Fault {
        operation: Operation::Write,
        name: "segment",
        after: 0,
        failure: Failure::Eio,
        lasting: true,
    });
    socket.send(Frame::text("lost")).await.unwrap();
    // Binary messages write nothing, so their answer needs no commit: it is the next to arrive.
    socket.send(Frame::binary(vec![1, 2])).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Frame::binary(vec![2, 1])
    );
}

#[tokio::test]
async fn other_requests_are_told_what_is_missing_and_a_closing_house_says_goodbye() {
    let setup = Setup::new(6).await;
    let polly = setup.parrots.get_by_name("polly");
    let mut plain = dovehouse::http::Request::get("/").body(()).unwrap();
    let response = polly.accept_web_socket(&mut plain, &[]);
    assert_eq!(response.status(), 426);
    assert!(response.body().contains("WebSocket"));

    let mut socket = setup.connect("polly", "a").await;
    ask(&mut socket, "x").await;
    setup.house.clone().close().await.unwrap();
    let Frame::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("a close frame")
    };
    assert_eq!(u16::from(frame.code), 1001);
}
