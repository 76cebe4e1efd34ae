//! `fetch` of objects: requests and responses whose bodies stream, the gate before them, and the server
//! in front.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use dovehouse::testing::{TestHouse, eventually};
use dovehouse::{
    Body, BodyError, CallError, ClientEnd, Ctx, Dovehouse, Local, Message, Request, Response,
    Result, Server, WebSocket, http,
};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// Answers requests, one way for each path.
struct Page {
    pieces: Option<mpsc::UnboundedReceiver<&'static str>>,
}

#[dovehouse::object]
impl Page {
    fn new() -> Self {
        Page { pieces: None }
    }

    async fn fetch(&mut self, ctx: &Ctx, request: Request) -> Result<Response, String> {
        let (parts, body) = request.into_parts();
        match parts.uri.path() {
            "/echo" => Ok(Response::new(body)),
            "/teapot" => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
                let method = parts.method.as_str().parse().unwrap();
                response.headers_mut().insert("x-method", method);
                Ok(response)
            }
            // What comes over the channel, each piece kept before it is shown.
            "/pieces" => {
                let pieces = (ctx.clone(), self.pieces.take().unwrap());
                let pieces = stream::unfold(pieces, async |(ctx, mut pieces)| {
                    let piece = pieces.recv().await?;
                    let kept = ctx.kv().put("piece", piece).map(|()| piece);
                    Some((kept, (ctx, pieces)))
                });
                Ok(Response::new(ctx.body(pieces)))
            }
            "/panics" => {
                let mut pieces = 0;
                let pieces = stream::poll_fn(move |_| {
                    pieces += 1;
                    assert!(pieces < 2, "told to panic");
                    std::task::Poll::Ready(Some(Ok::<_, String>("begins")))
                });
                Ok(Response::new(ctx.body(pieces)))
            }
            "/proxy" => {
                let pages = ctx.house().unwrap().namespace::<Page>().unwrap();
                let request = http::Request::post("/echo").body(body).unwrap();
                let response = pages.get_by_name("other").fetch(request).await;
                response.map_err(|error| error.to_string())
            }
            "/talk" => {
                let (socket, client) = ctx.accept_web_socket(&["talk"]).unwrap();
                socket.send("hello");
                Ok(client.into_response())
            }
            // Talks to another object as a client does.
            "/relay" => {
                let pages = ctx.house().unwrap().namespace::<Page>().unwrap();
                let other = pages.get_by_name("other");
                let mut response = other.fetch(get("/talk")).await.unwrap();
                let mut client = ClientEnd::take(&mut response).unwrap().accept();
                ctx.kv().put("relayed", "yes").unwrap();
                client.send("relayed").await.unwrap();
                let mut heard = Vec::new();
                while heard.len() < 2 {
                    heard.push(format!("{:?}", client.next().await.unwrap().unwrap()));
                }
                client.close(1000, "").await.unwrap();
                assert_eq!(client.next().await, None);
                Ok(Response::new(heard.join(" ").into()))
            }
            path => Err(format!("a secret about {path}")),
        }
    }

    pub fn set_pieces(&mut self, pieces: Local<mpsc::UnboundedReceiver<&'static str>>) {
        self.pieces = Some(pieces.0);
    }

    pub fn piece(&self, ctx: &Ctx) -> Result<Option<Vec<u8>>> {
        ctx.kv().get("piece")
    }

    fn web_socket_message(&mut self, _ctx: &Ctx, socket: &WebSocket, message: Message) {
        match message {
            Message::Text(text) if text == "close" => socket.close(4001, "enough").unwrap(),
            message => socket.send(message),
        }
    }
}

/// Has a handler that shares the object, which waits until two are there.
struct Meeting {
    second: std::cell::RefCell<Option<oneshot::Sender<()>>>,
}

#[dovehouse::object]
impl Meeting {
    fn new() -> Self {
        Meeting {
            second: Default::default(),
        }
    }

    async fn fetch(&self) -> Result<Response> {
        let first = self.second.take();
        match first {
            None => {
                let (second, met) = oneshot::channel();
                *self.second.borrow_mut() = Some(second);
                met.await.unwrap();
                Ok(Response::new("first".into()))
            }
            Some(second) => {
                second.send(()).unwrap();
                Ok(Response::new("second".into()))
            }
        }
    }
}

struct Mute;

#[dovehouse::object]
impl Mute {
    fn new() -> Self {
        Mute
    }
}

fn get(path: &str) -> http::Request<Body> {
    http::Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_request_reaches_its_object_and_the_response_its_caller_as_they_are() {
    let house = TestHouse::new();
    let page = house.namespace::<Page>().unwrap().get_by_name("a");
    let response = page.fetch(get("/teapot?x=1")).await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["x-method"], "GET");

    let request = http::Request::post("/echo").body("some text".to_owned());
    let response = page.fetch(request.unwrap()).await.unwrap();
    assert_eq!(response.into_body().text(9).await.unwrap(), "some text");

    let error = page.fetch(get("/elsewhere")).await.unwrap_err();
    assert!(matches!(&error, CallError::Failed { message, .. } if message.contains("secret")));
    let shown = Response::from(error);
    assert_eq!(shown.status(), 500);
    assert!(
        !shown
            .into_body()
            .text(100)
            .await
            .unwrap()
            .contains("secret")
    );

    let mute = house.namespace::<Mute>().unwrap().get_by_name("a");
    let error = mute.fetch(get("/")).await.unwrap_err();
    assert!(error.to_string().contains("must have a fetch() handler"));

    let meeting = house.namespace::<Meeting>().unwrap().get_by_name("a");
    let (one, two) = tokio::join!(meeting.fetch(get("/")), meeting.fetch(get("/")));
    let (one, two) = (one.unwrap().into_body(), two.unwrap().into_body());
    assert_eq!(one.text(9).await.unwrap(), "first", "sharers interleave");
    assert_eq!(two.text(9).await.unwrap(), "second");
}

#[tokio::test]
async fn a_reader_takes_no_more_than_it_allows() {
    let body = || Body::from("0123456789");
    assert_eq!(body().bytes(10).await.unwrap(), "0123456789");
    let error = body().bytes(9).await.unwrap_err();
    assert!(matches!(error, BodyError::TooLong { limit: 9 }));
    let streaming = axum::body::Body::from_stream(stream::iter(["01234"; 2].map(Ok::<_, String>)));
    let error = Body::new(streaming).bytes(9).await.unwrap_err();
    assert!(matches!(error, BodyError::TooLong { limit: 9 }));
    let error = Body::from(vec![0xff]).text(9).await.unwrap_err();
    assert!(matches!(error, BodyError::NotUtf8));
}

/// A body that comes over a channel.
fn channel_body() -> (mpsc::UnboundedSender<&'static str>, axum::body::Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let pieces = stream::unfold(receiver, async |mut receiver| {
        Some((Ok::<_, String>(receiver.recv().await?), receiver))
    });
    (sender, axum::body::Body::from_stream(pieces))
}

#[tokio::test]
async fn bodies_stream_both_ways_and_from_object_to_object() {
    let house = TestHouse::new();
    let page = house.namespace::<Page>().unwrap().get_by_name("a");
    for path in ["/echo", "/proxy"] {
        let (pieces, body) = channel_body();
        let request = http::Request::post(path).body(body).unwrap();
        let mut echo = page.fetch(request).await.unwrap().into_body();
        for piece in ["one", "two", "three"] {
            pieces.send(piece).unwrap();
            let chunk = echo.chunk().await.unwrap().unwrap();
            assert_eq!(chunk, piece, "{path}: it does not wait for the end");
        }
        drop(pieces);
        assert!(echo.chunk().await.is_none());
    }
}

#[tokio::test]
async fn each_piece_of_a_response_is_kept_before_it_is_shown() {
    let house = TestHouse::new();
    let page = house.namespace::<Page>().unwrap().get_by_name("a");
    let (pieces, receiver) = mpsc::unbounded_channel();
    page.set_pieces(Local(receiver)).await.unwrap();
    let mut body = page.fetch(get("/pieces")).await.unwrap().into_body();
    pieces.send("durable").unwrap();
    assert_eq!(body.chunk().await.unwrap().unwrap(), "durable");
    assert_eq!(page.piece().await.unwrap().unwrap(), b"durable");

    house.disk().fail_commits();
    pieces.send("lost").unwrap();
    let error = body.chunk().await.unwrap().unwrap_err();
    assert!(matches!(error, BodyError::Failed(_)), "{error}");
    assert!(body.chunk().await.is_none());
}

#[tokio::test]
async fn a_body_whose_object_panics_is_cut_off_and_one_that_nobody_reads_is_dropped() {
    let house = TestHouse::new();
    let page = house.namespace::<Page>().unwrap().get_by_name("a");
    let mut body = page.fetch(get("/panics")).await.unwrap().into_body();
    assert_eq!(body.chunk().await.unwrap().unwrap(), "begins");
    assert!(body.chunk().await.unwrap().is_err());

    let (pieces, receiver) = mpsc::unbounded_channel();
    page.set_pieces(Local(receiver)).await.unwrap();
    let body = page.fetch(get("/pieces")).await.unwrap().into_body();
    let sleeps = house.evict(page.id()).await.unwrap();
    assert!(!sleeps, "it is awake as long as its response is under way");
    drop(body);
    pieces.closed().await;
    eventually(async || house.evict(page.id()).await.unwrap()).await;
}

#[tokio::test]
async fn a_web_socket_within_the_process_is_one_like_others() {
    let house = TestHouse::new();
    let page = house.namespace::<Page>().unwrap().get_by_name("a");
    let mut response = page.fetch(get("/talk")).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut client = ClientEnd::take(&mut response).unwrap().accept();
    assert_eq!(client.next().await, Some(Ok("hello".into())));
    client.send("echo").await.unwrap();
    assert_eq!(client.next().await, Some(Ok("echo".into())));
    let long = vec![3; 1 << 20];
    client.send(long.clone()).await.unwrap();
    assert_eq!(client.next().await, Some(Ok(long.into())));
    client.send("close").await.unwrap();
    assert_eq!(client.next().await, None);
    assert_eq!(client.close_reason().unwrap().code, 4001);

    let relayed = page.fetch(get("/relay")).await.unwrap().into_body();
    let expected = r#"Text("hello") Text("relayed")"#;
    assert_eq!(relayed.text(100).await.unwrap(), expected);
}

/// A server on a port of its own; tell it to end.
struct Served {
    address: String,
    end: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<()>>,
}

fn serve(house: Dovehouse, listener: TcpListener) -> Served {
    let pages = house.namespace::<Page>().unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (end, ending) = oneshot::channel::<()>();
    let server = Server::new(house, move |request: Request| {
        let page = pages.get_by_name("front");
        async move {
            if request.uri().path() == "/rewritten" {
                // Another request goes on, without what came with this one.
                return page.fetch(get("/talk")).await;
            }
            page.fetch(request).await
        }
    });
    let server = server.shutdown_on(async { drop(ending.await) });
    let ended = tokio::spawn(server.run(listener));
    Served {
        address,
        end,
        ended,
    }
}

async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_server_answers_and_ends_gracefully() {
    let house = TestHouse::new();
    let page = house.namespace::<Page>().unwrap().get_by_name("front");
    let served = serve(
        house.dovehouse(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let close = "host: x\r\nconnection: close\r\n";
    let long = "x".repeat(100_000);
    let post = format!("POST /echo HTTP/1.1\r\n{close}content-length: 100000\r\n\r\n{long}");
    let answer = ask(&served.address, &post).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..100]);
    assert!(answer.matches('x').count() >= 100_000);
    let answer = ask(&served.address, &format!("GET /no HTTP/1.1\r\n{close}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(!answer.contains("secret"), "{answer}");
    // It asks for what is a WebSocket, and does not say so properly.
    let bad = format!("GET /talk HTTP/1.1\r\n{close}upgrade: websocket\r\n\r\n");
    let bad = ask(&served.address, &bad).await;
    assert!(bad.starts_with("HTTP/1.1 426"), "{bad}");

    let mut sockets = Vec::new();
    for path in ["talk", "rewritten"] {
        let url = format!("ws://{}/{path}", served.address);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let hello = socket.next().await.unwrap().unwrap();
        assert_eq!(hello.into_text().unwrap(), "hello");
        sockets.push(socket);
    }

    // A request that is under way when the server is told to end still gets all of its response.
    let (pieces, receiver) = mpsc::unbounded_channel();
    page.set_pieces(Local(receiver)).await.unwrap();
    let mut stream = TcpStream::connect(&served.address).await.unwrap();
    stream
        .write_all(b"GET /pieces HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    pieces.send("before").unwrap();
    let mut begun = [0; 16];
    stream.read_exact(&mut begun).await.unwrap();
    served.end.send(()).unwrap();
    while TcpStream::connect(&served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    pieces.send("after").unwrap();
    drop(pieces);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.contains("before") && rest.ends_with("after\r\n0\r\n\r\n"),
        "{rest}"
    );
    for mut socket in sockets {
        let Some(Ok(tokio_tungstenite::tungstenite::Message::Close(Some(frame)))) =
            socket.next().await
        else {
            panic!("a close frame")
        };
        assert_eq!(u16::from(frame.code), 1001);
        while socket.next().await.is_some() {}
    }
    served.ended.await.unwrap().unwrap();
    let error = page.fetch(get("/echo")).await.unwrap_err();
    assert!(matches!(error, CallError::Closed));
    assert_eq!(Response::from(error).status(), 503);
}

/// The example `documents` as a process, from its first request to its end.
#[tokio::test]
async fn the_axum_example_serves_documents_and_shows_their_changes() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/documents");
    assert!(program.exists(), "cargo build --example documents");
    let dir = tempfile::tempdir().unwrap();
    let mut process = Command::new(program)
        .args(["--addr", "127.0.0.1:0", "--data"])
        .arg(dir.path().join("documents"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap();
    let address = address.trim().trim_end_matches('/');

    let request = async |method: &str, path: &str, body: &str| {
        let length = body.len();
        let head = "host: x\r\nconnection: close\r\ncontent-length";
        let request = format!("{method} /documents/{path} HTTP/1.1\r\n{head}: {length}\r\n\r\n");
        let answer = ask(address, &(request + body)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().to_owned();
        (status, body.to_owned())
    };
    let mut changes = TcpStream::connect(address).await.unwrap();
    let looks_on = b"GET /documents/letter/changes HTTP/1.1\r\nhost: x\r\n\r\n";
    changes.write_all(looks_on).await.unwrap();
    let mut seen = vec![0; 4096];
    let head = changes.read(&mut seen).await.unwrap();
    assert!(seen[..head].starts_with(b"HTTP/1.1 200"));

    assert_eq!(request("GET", "letter", "").await.0, "404");
    assert_eq!(request("PUT", "letter", "Dear all,").await.0, "200");
    let long = "x".repeat((1 << 20) + 1);
    assert_eq!(request("PUT", "letter", &long).await.0, "413");
    assert_eq!(request("GET", "letter", "").await.1, "Dear all,");
    assert_eq!(request("POST", "letter/likes", "").await.1, "1");
    let interrupt = ["-INT", &process.id().to_string()].map(str::to_owned);
    assert!(
        Command::new("kill")
            .args(interrupt)
            .status()
            .unwrap()
            .success()
    );
    let mut shown = String::new();
    changes.read_to_string(&mut shown).await.unwrap();
    assert!(shown.contains("data: 9 bytes were written\n\n"), "{shown}");
    assert!(shown.contains("data: 1 people like it\n\n"), "{shown}");
    assert!(process.wait().unwrap().success());
}
