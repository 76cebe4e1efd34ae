//! The chat example as a process: killed with SIGKILL again and again while clients talk, it has every
//! acknowledged message when it comes back.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

const ROUNDS: usize = 12;
const ROOMS: usize = 2;
const CLIENTS_A_ROOM: usize = 2;

/// The example's program, which `cargo test` builds beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/chat");
    assert!(
        program.exists(),
        "build it first: cargo build --example chat"
    );
    program
}

/// A running chat.
struct Chat {
    process: Child,
    address: String,
}

impl Chat {
    fn start(data: &Path) -> Self {
        let mut process = Command::new(program())
            .args(["--addr", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let address = address
            .unwrap_or_else(|| panic!("it says where it listens, not {line:?}"))
            .to_owned();
        Chat { process, address }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends it politely, and tells whether it ended well.
    fn terminate(mut self) -> bool {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.process.wait().unwrap().success()
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: chat\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    async fn messages(&self, room: usize) -> Vec<Value> {
        let (status, body) = self
            .request(
                "GET",
                &format!("/rooms/room-{room}/messages?limit=1000"),
                "",
            )
            .await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

/// What the clients of all rounds saw acknowledged: the id of each text, by room.
type Acknowledged = Arc<Mutex<Vec<BTreeMap<String, i64>>>>;

struct Counter {
    acknowledged: AtomicUsize,
    moved: Notify,
}

/// Sends one text after the other over a WebSocket, each when the one before came back.
async fn talk(
    address: String,
    room: usize,
    name: String,
    acknowledged: Acknowledged,
    counter: Arc<Counter>,
) {
    let url = format!("ws://{address}/rooms/room-{room}/ws");
    let Ok((mut socket, _)) = tokio_tungstenite::connect_async(url).await else {
        return;
    };
    for number in 0.. {
        let text = format!("{name} says {number}");
        let message = json!({ "author": name, "body": text }).to_string();
        if socket.send(Message::text(message)).await.is_err() {
            return;
        }
        loop {
            let Some(Ok(frame)) = socket.next().await else {
                return;
            };
            let Message::Text(frame) = frame else {
                continue;
            };
            let message: Value = serde_json::from_str(&frame).unwrap();
            // Whatever was shown to anybody was acknowledged, one's own words and others'.
            let body = message["body"].as_str().unwrap().to_owned();
            acknowledged.lock()[room].insert(body.clone(), message["id"].as_i64().unwrap());
            counter.acknowledged.fetch_add(1, Ordering::SeqCst);
            counter.moved.notify_one();
            if body == text {
                break;
            }
        }
    }
}

/// Every acknowledged message is there under its id, and nothing is there twice.
async fn check(chat: &Chat, acknowledged: &Acknowledged, round: usize) {
    for room in 0..ROOMS {
        let found = chat.messages(room).await;
        let ids: Vec<i64> = found
            .iter()
            .map(|message| message["id"].as_i64().unwrap())
            .collect();
        assert!(
            ids.windows(2).all(|pair| pair[0] < pair[1]),
            "round {round}: ids grow"
        );
        let by_text: BTreeMap<&str, i64> = found
            .iter()
            .map(|message| {
                (
                    message["body"].as_str().unwrap(),
                    message["id"].as_i64().unwrap(),
                )
            })
            .collect();
        assert_eq!(by_text.len(), found.len(), "round {round}: nothing twice");
        for (text, id) in &acknowledged.lock()[room] {
            assert_eq!(
                by_text.get(text.as_str()),
                Some(id),
                "round {round}: {text:?} was acknowledged"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_chat_comes_back_with_every_acknowledged_message() {
    let seed = std::env::var("SEED").map_or(2026, |seed| seed.parse().expect("SEED is a number"));
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let acknowledged: Acknowledged = Arc::new(Mutex::new(vec![BTreeMap::new(); ROOMS]));
    for round in 0..ROUNDS {
        let chat = Chat::start(dir.path());
        check(&chat, &acknowledged, round).await;
        let counter = Arc::new(Counter {
            acknowledged: AtomicUsize::new(0),
            moved: Notify::new(),
        });
        let mut clients = Vec::new();
        for client in 0..ROOMS * CLIENTS_A_ROOM {
            let (room, name) = (client % ROOMS, format!("client {client} of round {round}"));
            let talk = talk(
                chat.address.clone(),
                room,
                name,
                acknowledged.clone(),
                counter.clone(),
            );
            clients.push(tokio::spawn(talk));
        }
        let (status, body) = chat
            .request(
                "POST",
                "/rooms/room-0/messages",
                &json!({ "author": "post", "body": format!("post {round}") }).to_string(),
            )
            .await;
        assert_eq!(status, 201, "{body}");
        let posted: Value = serde_json::from_str(&body).unwrap();
        acknowledged.lock()[0].insert(format!("post {round}"), posted["id"].as_i64().unwrap());

        let enough = rng.usize(1..120);
        while counter.acknowledged.load(Ordering::SeqCst) < enough {
            counter.moved.notified().await;
        }
        chat.kill();
        for client in clients {
            client.await.unwrap();
        }
    }
    let chat = Chat::start(dir.path());
    check(&chat, &acknowledged, ROUNDS).await;
    let total: usize = acknowledged.lock().iter().map(BTreeMap::len).sum();
    println!("{total} acknowledged messages survived {ROUNDS} kills (seed {seed})");
    assert!(chat.terminate(), "SIGTERM closes it cleanly");
}

#[tokio::test]
async fn bad_requests_are_told_what_to_fix() {
    let dir = tempfile::tempdir().unwrap();
    let chat = Chat::start(dir.path());
    let long_room = format!("/rooms/{}/messages", "r".repeat(257));
    let long_body = json!({ "author": "a", "body": "x".repeat(4097) }).to_string();
    let good = json!({ "author": "a", "body": "b" }).to_string();
    let messages = "/rooms/a%2Fb%20c/messages";
    let cases = [
        ("POST", messages, "", 400),
        ("POST", messages, "{", 400),
        ("POST", messages, "[]", 400),
        ("POST", messages, r#"{"author": "a"}"#, 400),
        ("POST", messages, r#"{"author": "", "body": "b"}"#, 400),
        ("POST", messages, r#"{"author": "a", "body": ""}"#, 400),
        ("POST", messages, &long_body, 400),
        ("POST", &long_room, &good, 400),
        ("GET", &long_room, "", 400),
        ("GET", "/rooms/a/messages?limit=x", "", 400),
        ("GET", "/rooms/%FF/messages", "", 400),
        ("PUT", "/rooms/a/settings", r#"{"idle_close_ms": 1}"#, 400),
        ("PUT", "/rooms/a/settings", r#"{"colour": "red"}"#, 400),
        ("GET", "/rooms/a/elsewhere", "", 404),
        ("GET", "/favicon.ico", "", 404),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = chat.request(method, path, body).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert!(
            answer["error"]
                .as_str()
                .is_some_and(|error| error.len() > 8),
            "{method} {path}: {answer}"
        );
    }
    assert_eq!(chat.request("GET", "/healthz", "").await.0, 200);
    let url = format!("ws://{}/rooms/a/ws", chat.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(Message::text("ping")).await.unwrap();
    let answer = socket.next().await.unwrap().unwrap();
    assert_eq!(answer.into_text().unwrap(), "pong", "the host answers it");
    let (status, page) = chat.request("GET", "/", "").await;
    assert!(status == 200 && page.contains("<html"));
    let (status, _) = chat.request("POST", messages, &good).await;
    assert_eq!(status, 201, "a room's name may be anything");
    let (_, answer) = chat.request("GET", messages, "").await;
    assert_eq!(
        serde_json::from_str::<Vec<Value>>(&answer).unwrap()[0]["body"],
        "b"
    );
    chat.kill();
}
