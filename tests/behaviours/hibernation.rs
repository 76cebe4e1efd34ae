//! WebSockets whose objects sleep: who wakes whom, what waits, and how connections end.

use dovehouse::testing::{TestHouse, eventually};
use dovehouse::{
    AutoResponse, CloseReason, Ctx, Message, Namespace, ReadyState, Request, Response, Result,
    Server, WebSocket,
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::waits::{Go, Marks, go, marks, open, open_with, settle};

/// Answers, and counts what it has heard since it woke.
pub struct Parrot {
    heard: u32,
    /// What the message "wait" waits for, and whom it tells.
    waits: Option<(Marks, Go)>,
}

#[dovehouse::object]
impl Parrot {
    fn new(ctx: &Ctx) -> Result<Self, String> {
        match ctx.kv().get("refuse").unwrap() {
            Some(_) => Err("told not to wake".into()),
            None => Ok(Parrot {
                heard: 0,
                waits: None,
            }),
        }
    }

    /// The path's last part says what kind of connection it is.
    async fn fetch(&mut self, ctx: &Ctx, request: Request) -> Result<Response> {
        let kind = request.uri().path().rsplit('/').next().unwrap();
        if kind == "standard" {
            let client = ctx.accept_standard_web_socket(async |mut socket| {
                socket.allow_half_open(true);
                while socket.next().await.is_some() {}
                socket.send("after goodbye");
            })?;
            return Ok(client.into_response());
        }
        let (socket, client) = ctx.accept_web_socket(&[kind])?;
        socket.allow_half_open(kind == "half");
        if kind == "failing" {
            socket.send("welcome");
            // The turn ends here, and what was sent leaves with it.
            tokio::task::yield_now().await;
            socket.send("never sent");
            let failing = async { Result::<(), _>::Err("told to fail") };
            ctx.block_concurrency_while(failing).await?;
        }
        Ok(client.into_response())
    }

    pub fn will_wait(&mut self, marks: Marks, go: Go) {
        self.waits = Some((marks, go));
    }

    /// Answers "ping" with "pong" from now on.
    pub fn settle(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.set_web_socket_auto_response(Some(AutoResponse::new("ping", "pong")?));
        Ok(())
    }

    pub fn refuse_to_wake(&mut self, ctx: &Ctx) -> Result<()> {
        ctx.kv().put("refuse", "")
    }

    pub fn states(&self, ctx: &Ctx) -> Vec<String> {
        let shown = |socket: &WebSocket| match socket.ready_state() {
            ReadyState::Open => "open".to_owned(),
            ReadyState::Closing => "closing".to_owned(),
            ReadyState::Closed => "closed".to_owned(),
        };
        ctx.web_sockets().iter().map(shown).collect()
    }

    /// The tags of its connections.
    pub fn kinds(&self, ctx: &Ctx) -> Vec<String> {
        let sockets = ctx.web_sockets();
        let kinds = sockets.iter().flat_map(|socket| socket.tags());
        kinds.map(str::to_owned).collect()
    }

    pub fn finish(&mut self, ctx: &Ctx) -> Result<()> {
        for socket in ctx.web_sockets() {
            socket.send("after goodbye");
            socket.close(4000, "now")?;
        }
        Ok(())
    }

    pub fn goodbye(&self, ctx: &Ctx) -> Result<Option<String>> {
        let text = ctx.kv().get("goodbye")?;
        Ok(text.map(|text| String::from_utf8(text).unwrap()))
    }

    async fn web_socket_message(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        message: Message,
    ) -> Result<()> {
        self.heard += 1;
        let Message::Text(text) = message else {
            return Ok(());
        };
        match &*text {
            "abort" => ctx.abort("told to"),
            "wait" => {
                let (marks, go) = self.waits.take().unwrap();
                marks.send("waits".into()).unwrap();
                go.0.await.unwrap();
                socket.send("waited");
                Ok(())
            }
            "fail in a section" => {
                socket.send("before");
                tokio::task::yield_now().await;
                socket.send("never sent");
                let failing = async { Result::<(), _>::Err("told to fail") };
                ctx.block_concurrency_while(failing).await
            }
            "close" => {
                ctx.kv().put("note", "closed")?;
                socket.close(4000, "enough")
            }
            "put" => {
                ctx.kv().put("note", "put")?;
                socket.send("put");
                Ok(())
            }
            text => {
                socket.send(format!("{text} {}", self.heard));
                Ok(())
            }
        }
    }

    fn web_socket_close(&mut self, ctx: &Ctx, _: &WebSocket, reason: CloseReason) -> Result<()> {
        let CloseReason {
            code,
            reason,
            was_clean,
            ..
        } = reason;
        let before = self
            .goodbye(ctx)?
            .map_or(String::new(), |before| before + "; ");
        ctx.kv()
            .put("goodbye", format!("{before}{code} {reason} {was_clean}"))
    }
}

/// A house behind a server.
pub struct Cage {
    pub house: TestHouse,
    pub parrots: Namespace<Parrot>,
    address: String,
}

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Cage {
    pub async fn new(house: TestHouse) -> Self {
        let parrots = house.namespace::<Parrot>().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let found = parrots.clone();
        let server = Server::new(house.dovehouse(), move |request: Request| {
            let parrot = found.get_by_name(request.uri().path().split('/').nth(1).unwrap());
            async move { parrot.fetch(request).await }
        });
        tokio::spawn(server.run(listener));
        Cage {
            house,
            parrots,
            address,
        }
    }

    pub async fn try_connect(
        &self,
        path: &str,
    ) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
        let url = format!("ws://{}/{path}", self.address);
        Ok(tokio_tungstenite::connect_async(url).await?.0)
    }

    pub async fn connect(&self, path: &str) -> Socket {
        self.try_connect(path).await.unwrap()
    }

    pub async fn put_to_sleep(&self, parrot: &ParrotStub) {
        eventually(async || self.house.evict(parrot.id()).await.unwrap()).await;
    }
}

pub async fn hear(socket: &mut Socket) -> String {
    let frame = socket.next().await.unwrap().unwrap();
    frame.into_text().unwrap().to_string()
}

pub async fn ask(socket: &mut Socket, text: &str) -> String {
    socket.send(Frame::text(text)).await.unwrap();
    hear(socket).await
}

/// The code of the goodbye that comes next, and then the end.
pub async fn hear_goodbye(socket: &mut Socket) -> u16 {
    let Frame::Close(frame) = socket.next().await.unwrap().unwrap() else {
        panic!("a close frame")
    };
    while socket.next().await.is_some() {}
    frame.map_or(1005, |frame| frame.code.into())
}

#[tokio::test]
async fn a_send_and_a_close_wait_for_the_write_before_them_and_an_automatic_answer_does_not() {
    let cage = Cage::new(open(211)).await;
    cage.parrots.get_by_name("polly").settle().await.unwrap();
    let mut socket = cage.connect("polly/a").await;
    assert_eq!(ask(&mut socket, "hello").await, "hello 1");
    cage.house.disk().hold();
    socket.send(Frame::text("put")).await.unwrap();
    assert_eq!(
        ask(&mut socket, "ping").await,
        "pong",
        "what came after overtakes"
    );
    socket.send(Frame::text("close")).await.unwrap();
    settle(&cage.house).await;
    assert!(socket.next().now_or_never().is_none());
    cage.house.disk().release();
    assert_eq!(hear(&mut socket).await, "put");
    assert_eq!(hear_goodbye(&mut socket).await, 4000);
}

#[tokio::test]
async fn automatic_answers_take_their_place_among_what_the_object_sends() {
    let cage = Cage::new(open(212)).await;
    cage.parrots.get_by_name("polly").settle().await.unwrap();
    let mut socket = cage.connect("polly/a").await;
    for text in ["a", "ping", "b", "ping", "ping", "c"] {
        socket.feed(Frame::text(text)).await.unwrap();
    }
    socket.flush().await.unwrap();
    for expected in ["a 1", "pong", "b 2", "pong", "pong", "c 3"] {
        assert_eq!(hear(&mut socket).await, expected);
    }
}

#[tokio::test]
async fn connections_are_listed_newest_first() {
    let cage = Cage::new(open(217)).await;
    let polly = cage.parrots.get_by_name("polly");
    let _open = [
        cage.connect("polly/first").await,
        cage.connect("polly/second").await,
        cage.connect("polly/third").await,
    ];
    let newest_first = ["third", "second", "first"];
    assert_eq!(polly.kinds().await.unwrap(), newest_first);
    cage.put_to_sleep(&polly).await;
    assert_eq!(polly.kinds().await.unwrap(), newest_first);
}

#[tokio::test]
async fn messages_on_many_connections_wake_one_instance_and_racing_upgrades_let_it_sleep() {
    let cage = Cage::new(open(213)).await;
    let polly = cage.parrots.get_by_name("polly");
    let racing = (0..8).map(|_| cage.connect("polly/a"));
    let mut sockets = futures_util::future::join_all(racing).await;
    for _ in 0..2 {
        cage.put_to_sleep(&polly).await;
        let answers = sockets.iter_mut().map(|socket| ask(socket, "x"));
        let mut answers = futures_util::future::join_all(answers).await;
        answers.sort();
        let expected: Vec<_> = (1..=8).map(|number| format!("x {number}")).collect();
        assert_eq!(answers, expected);
    }
}

#[tokio::test]
async fn the_object_of_a_silent_connection_sleeps_after_ten_seconds_and_an_abort_ends_it() {
    let cage = Cage::new(open(214)).await;
    let mut socket = cage.connect("polly/a").await;
    assert_eq!(ask(&mut socket, "x").await, "x 1");
    // A handler may be heard a moment before it has ended.
    settle(&cage.house).await;
    cage.house.advance(9_999);
    settle(&cage.house).await;
    assert_eq!(ask(&mut socket, "x").await, "x 2", "not before");
    settle(&cage.house).await;
    cage.house.advance(12_500);
    eventually(async || cage.house.awake().await.unwrap() == 0).await;
    assert_eq!(ask(&mut socket, "x").await, "x 1", "a fresh instance");
    socket.send(Frame::text("abort")).await.unwrap();
    assert_eq!(hear_goodbye(&mut socket).await, 1011);
    let polly = cage.parrots.get_by_name("polly");
    assert!(polly.states().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_peer_that_has_vanished_is_noticed_and_one_that_is_silent_is_asked_without_waking_anybody()
 {
    let house = open_with(215, |builder| builder.web_socket_ping_ms(20_000));
    let cage = Cage::new(house).await;
    let polly = cage.parrots.get_by_name("polly");
    polly.settle().await.unwrap();
    // Nobody reads at its end, so nobody answers there.
    let dead = cage.connect("polly/dead").await;
    let mut alive = cage.connect("polly/alive").await;
    assert_eq!(ask(&mut alive, "x").await, "x 1");
    cage.put_to_sleep(&polly).await;
    for _ in 0..2 {
        cage.house.advance(20_000);
        settle(&cage.house).await;
    }
    assert_eq!(alive.next().await.unwrap().unwrap(), Frame::Ping("".into()));
    alive.flush().await.unwrap();
    // The host answers this itself, and has read the answer to its ping by then.
    assert_eq!(ask(&mut alive, "ping").await, "pong");
    assert_eq!(cage.house.awake().await.unwrap(), 0);
    cage.house.advance(20_000);
    let gone = "1006 the peer does not answer a ping false";
    eventually(async || polly.goodbye().await.unwrap().as_deref() == Some(gone)).await;
    assert_eq!(polly.states().await.unwrap(), ["open"]);
    assert_eq!(
        ask(&mut alive, "x").await,
        "x 1",
        "it was asleep until then"
    );
    drop(dead);
}

/// The host reads nothing meanwhile, so it cannot know.
#[tokio::test]
async fn a_peer_whose_message_takes_long_is_not_taken_for_gone() {
    let house = open_with(218, |builder| builder.web_socket_ping_ms(20_000));
    let cage = Cage::new(house).await;
    let polly = cage.parrots.get_by_name("polly");
    let mut socket = cage.connect("polly/a").await;
    let (marks, mut marked) = marks();
    let (go, gate) = go();
    polly.will_wait(marks, gate).await.unwrap();
    socket.send(Frame::text("wait")).await.unwrap();
    assert_eq!(marked.recv().await.unwrap(), "waits");
    for _ in 0..5 {
        cage.house.advance(20_000);
        settle(&cage.house).await;
    }
    go.send(()).unwrap();
    assert_eq!(hear(&mut socket).await, "waited");
    assert_eq!(ask(&mut socket, "x").await, "x 2");
}

#[tokio::test]
async fn a_half_open_connection_hears_what_the_object_says_after_the_peers_goodbye() {
    let cage = Cage::new(open(216)).await;
    let polly = cage.parrots.get_by_name("polly");
    let mut socket = cage.connect("polly/standard").await;
    socket.close(None).await.unwrap();
    assert_eq!(hear(&mut socket).await, "after goodbye");
    assert_eq!(hear_goodbye(&mut socket).await, 1005);

    let mut socket = cage.connect("polly/half").await;
    assert_eq!(ask(&mut socket, "x").await, "x 1");
    socket.close(None).await.unwrap();
    eventually(async || polly.goodbye().await.unwrap().is_some()).await;
    assert_eq!(polly.states().await.unwrap(), ["closing"]);
    cage.put_to_sleep(&polly).await;
    polly.finish().await.unwrap();
    assert_eq!(hear(&mut socket).await, "after goodbye");
    assert_eq!(hear_goodbye(&mut socket).await, 4000);
    eventually(async || polly.states().await.unwrap().is_empty()).await;
    let once = polly.goodbye().await.unwrap();
    assert_eq!(once.as_deref(), Some("1005  true"), "told once");

    // One whose peer is gone for good does not stay.
    let mut socket = cage.connect("polly/half").await;
    socket.close(None).await.unwrap();
    eventually(async || polly.states().await.unwrap() == ["closing"]).await;
    drop(socket);
    eventually(async || polly.states().await.unwrap().is_empty()).await;
}
