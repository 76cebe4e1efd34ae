//! The HTTP front: requests to one object and to many, a broadcast in a room, and what an idle WebSocket
//! takes. The clients speak raw TCP, so that what is measured is the server's.

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener as StdListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dovehouse::{Ctx, Dovehouse, Message, Namespace, Request, Response, Server, WebSocket};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Run, histogram, machine, record};
use crate::exit::{FAILURE, Failure};
use crate::output;

/// Connections that share an object when they are idle.
const ROOM_SIZE: u64 = 200;
/// A key that is as good as another: nobody checks it.
const UPGRADE: &str = "host: bench\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

struct Front;

#[dovehouse::object]
impl Front {
    fn new() -> Self {
        Front
    }

    /// Opens a WebSocket, or reads a key, or counts it up.
    fn fetch(&mut self, ctx: &Ctx, request: Request) -> dovehouse::Result<Response> {
        if dovehouse::wants_web_socket(&request) {
            return Ok(ctx.accept_web_socket(&[])?.1.into_response());
        }
        let before = ctx
            .kv()
            .get("count")?
            .and_then(|bytes| bytes.try_into().ok());
        let count = before.map_or(0, u64::from_le_bytes);
        if request.method() == dovehouse::http::Method::POST {
            ctx.kv().put("count", (count + 1).to_le_bytes())?;
        }
        Ok(Response::new(format!("{count:016}").into()))
    }

    /// Tells everybody.
    fn web_socket_message(&mut self, ctx: &Ctx, _socket: &WebSocket, message: Message) {
        let sockets = ctx.web_sockets();
        sockets
            .iter()
            .for_each(|socket| socket.send(message.clone()));
    }

    pub fn connections(&self, ctx: &Ctx) -> usize {
        ctx.web_sockets().len()
    }
}

/// A house with a server in front of it, on a thread of its own.
struct Served {
    house: Dovehouse,
    fronts: Namespace<Front>,
    address: String,
    end: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<dovehouse::Result<()>>,
}

impl Served {
    fn start(dir: &Path) -> Result<Self, Failure> {
        let house = Dovehouse::open(dir).map_err(failure)?;
        let fronts = house.namespace::<Front>().map_err(failure)?;
        let listener = StdListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        let (end, ended) = tokio::sync::oneshot::channel();
        let (served, namespace) = (house.clone(), fronts.clone());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener);
                let server = Server::new(served, move |request: Request| {
                    let front = namespace.get_by_name(request.uri().path());
                    async move { front.fetch(request).await }
                });
                let server = server.shutdown_on(async { drop(ended.await) });
                server.run(listener.expect("it listens")).await
            })
        });
        Ok(Served {
            house,
            fronts,
            address,
            end,
            thread,
        })
    }

    fn end(self) -> Result<(), Failure> {
        let _ = self.end.send(());
        let ended = self.thread.join();
        ended.expect("the server does not panic").map_err(failure)
    }
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(FAILURE, error)
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("the system can start a runtime")
}

/// Requests over connections that stay open: reads and durable writes, to one object and to many, a quarter of the time each.
pub(super) fn http(run: &mut Run) -> Result<(), Failure> {
    let served = Served::start(&run.dir)?;
    let bar = output::progress(4, "kinds of requests");
    for (objects, name) in [(1, "one"), (run.objects, "many")] {
        for (method, what) in [("GET", "read"), ("POST", "write")] {
            let prefix = format!("{name}_{what}_");
            let time = Duration::from_secs(run.seconds) / 4;
            let load = requests(&served.address, run, method, objects, time);
            let latency = runtime().block_on(load)?;
            bar.inc(1);
            let per_s = latency.len() as f64 / time.as_secs_f64();
            run.note_number(&format!("{prefix}per_s"), per_s);
            run.note_latency(&prefix, &latency);
        }
    }
    bar.finish_and_clear();
    served.end()
}

#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
async fn requests(
    address: &str,
    run: &Run,
    method: &'static str,
    objects: u64,
    time: Duration,
) -> Result<Histogram<u64>, Failure> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..run.clients as u64 {
        let mut stream = TcpStream::connect(address).await?;
        let mut rng = fastrand::Rng::with_seed(run.seed ^ client);
        clients.spawn(async move {
            stream.set_nodelay(true)?;
            let (mut latency, mut answer) = (histogram(), [0; 4096]);
            while start.elapsed() < time {
                let number = rng.u64(..objects);
                let request = format!(
                    "{method} /{number} HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\n\r\n"
                );
                let since = Instant::now();
                stream.write_all(request.as_bytes()).await?;
                let mut read = 0;
                // The body is sixteen digits.
                while !ends_with_body(&answer[..read]) {
                    match stream.read(&mut answer[read..]).await? {
                        0 => return Err(failure("the server closed a connection")),
                        more => read += more,
                    }
                }
                record(&mut latency, since.elapsed());
            }
            Ok::<_, Failure>(latency)
        });
    }
    let mut all = histogram();
    while let Some(latency) = clients.join_next().await {
        all.add(latency.map_err(failure)??)
            .expect("they count alike");
    }
    Ok(all)
}

fn ends_with_body(answer: &[u8]) -> bool {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    head.is_some_and(|head| answer.len() == head + 4 + 16)
}

/// A broadcast in a room, and idle connections whose objects sleep.
pub(super) fn web_sockets(run: &mut Run) -> Result<(), Failure> {
    let served = Served::start(&run.dir)?;
    let bar = output::progress(run.seconds, "seconds of broadcasts");
    let latency = runtime().block_on(broadcast(&served.address, run, &bar))?;
    bar.finish_and_clear();
    let deliveries = latency.len() as f64 * run.clients as f64;
    run.note_number("deliveries_per_s", deliveries / run.seconds as f64);
    run.note_latency("broadcast_", &latency);
    idle(run, &served)?;
    served.end()
}

/// From a message of one to its arrival at everybody, itself included.
#[expect(clippy::disallowed_methods, reason = "benches measure real time")]
async fn broadcast(
    address: &str,
    run: &Run,
    bar: &indicatif::ProgressBar,
) -> Result<Histogram<u64>, Failure> {
    let mut sockets = Vec::new();
    for _ in 0..run.clients {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream
            .write_all(format!("GET /room HTTP/1.1\r\n{UPGRADE}").as_bytes())
            .await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        sockets.push(stream);
    }
    // Masked with zeros, so the same text comes back, with a header of two bytes.
    let text = [b'x'; 100];
    let sent = [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], &text[..]].concat();
    let (start, time) = (Instant::now(), Duration::from_secs(run.seconds));
    let (mut latency, mut received) = (histogram(), [0; 102]);
    while start.elapsed() < time {
        let since = Instant::now();
        sockets[0].write_all(&sent).await?;
        for socket in &mut sockets {
            socket.read_exact(&mut received).await?;
        }
        record(&mut latency, since.elapsed());
        bar.set_position(start.elapsed().as_secs());
    }
    Ok(latency)
}

/// What connections take whose objects sleep. Their clients are another process, so that the heap is the server's.
fn idle(run: &mut Run, served: &Served) -> Result<(), Failure> {
    let before = (machine::heap_bytes(), machine::rss_bytes());
    let mut child = Holder::start(&served.address, run.objects)?;
    child.wait_until_ready()?;
    let asleep = async {
        let rooms = run.objects.div_ceil(ROOM_SIZE);
        let mut connections = 0;
        for room in 0..rooms {
            let front = served.fronts.get_by_name(&format!("/idle/{room}"));
            connections += front.connections().await.map_err(failure)? as u64;
            while !served.house.evict(front.id()).await.map_err(failure)? {
                tokio::task::yield_now().await;
            }
        }
        let room = served.fronts.get_by_name("/room");
        while !served.house.evict(room.id()).await.map_err(failure)? {
            tokio::task::yield_now().await;
        }
        let awake = served.house.awake().await.map_err(failure)?;
        Ok::<_, Failure>((connections, awake))
    };
    let (connections, awake) = runtime().block_on(asleep)?;
    run.note("idle_connections", connections);
    run.note("awake_objects", awake);
    if let Some(heap) = machine::heap_bytes_since(before.0) {
        let each = heap as f64 / connections as f64;
        run.note_number("heap_bytes_per_connection", each);
    }
    if let (Some(before), Some(now)) = (before.1, machine::rss_bytes()) {
        let each = now.saturating_sub(before) as f64 / connections as f64;
        run.note_number("rss_bytes_per_connection", each);
    }
    Ok(())
}

/// A process that holds connections, until its input ends.
struct Holder(Child);

impl Holder {
    fn start(address: &str, connections: u64) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["bench", "ws", "--hold", address, "--objects"])
            .arg(connections.to_string());
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Holder(command.spawn()?))
    }

    fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let output = self.0.stdout.take().expect("it is piped");
        let mut line = String::new();
        match BufReader::new(output).read_line(&mut line)? {
            0 => Err(failure("the clients ended: is `ulimit -n` high enough?")),
            _ => Ok(()),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its input ends, and then it does.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The other process: opens connections and does nothing with them.
pub(super) fn hold(address: &str, connections: u64) -> Result<(), Failure> {
    let bar = output::progress(connections, "connections");
    let mut held = Vec::new();
    for number in 0..connections {
        let mut stream = std::net::TcpStream::connect(address)?;
        let room = number / ROOM_SIZE;
        write!(stream, "GET /idle/{room} HTTP/1.1\r\n{UPGRADE}")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        if !answer.ends_with(b"101") {
            return Err(failure(String::from_utf8_lossy(&answer)));
        }
        held.push(stream);
        bar.inc(1);
    }
    bar.finish_and_clear();
    output::print("ready")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
