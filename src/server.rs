//! The HTTP front: connections that come in, and the program's `fetch` that answers them.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::body::Body;
use crate::error::{CallError, Reply, Result};
use crate::fetch::{Request, Response, Upgrade};
use crate::house::Dovehouse;

/// How long a client may take to send a request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How long requests under way may take when the server ends.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may be silent before the system asks whether the peer is still there, and how often it
/// asks before it gives up. What a peer that vanished leaves behind would stay for ever: a sleeping WebSocket says nothing.
const SILENCE: Duration = Duration::from_secs(60);
const PROBES: u32 = 4;
const BETWEEN_PROBES: Duration = Duration::from_secs(15);
/// What to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An HTTP/1.1 server in front of a house: one `fetch` function answers every request, and sends those that
/// are for objects on to them.
///
/// It does for a program what a Worker's entry does: route. Programs that have a router already, such as
/// axum's, call [`Stub::fetch`](crate::Stub::fetch) from their handlers instead, and need no `Server`.
///
/// An error of the function is logged, and answered with status 500. Requests carry the peer's
/// [`SocketAddr`] in their extensions.
///
/// ```no_run
/// use dovehouse::{CallError, Ctx, Dovehouse, Request, Response, Server};
///
/// struct Page;
///
/// #[dovehouse::object]
/// impl Page {
///     fn new() -> Self {
///         Page
///     }
///
///     fn fetch(&mut self, ctx: &Ctx, request: Request) -> dovehouse::Result<Response> {
///         let before = ctx.kv().get("visits")?.map_or(0, |bytes| bytes[0]);
///         ctx.kv().put("visits", [before.wrapping_add(1)])?;
///         Ok(Response::new(format!("{} was seen {before} times", request.uri().path()).into()))
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let house = Dovehouse::open("data")?;
/// let pages = house.namespace::<Page>()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8787").await?;
/// let server = Server::new(house, move |request: Request| {
///     let page = pages.get_by_name(request.uri().path());
///     async move { page.fetch(request).await }
/// });
/// let interrupted = async { tokio::signal::ctrl_c().await.unwrap() };
/// server.shutdown_on(interrupted).run(listener).await?;
/// # Ok(())
/// # }
/// ```
pub struct Server<F> {
    house: Dovehouse,
    fetch: Arc<F>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<F> fmt::Debug for Server<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("house", &self.house)
            .finish_non_exhaustive()
    }
}

impl<F, R> Server<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output: Reply<Value = Response>> + Send + 'static,
{
    /// A server whose requests this function answers.
    pub fn new(house: Dovehouse, fetch: F) -> Self {
        Server {
            house,
            fetch: Arc::new(fetch),
            shutdown: Box::pin(std::future::pending()),
        }
    }

    /// Ends the server, gracefully, when this is ready. Default: never.
    pub fn shutdown_on(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Serves the listener's connections, until the shutdown.
    ///
    /// Then, in this order: no more connections are accepted; requests under way get their responses, for up
    /// to 30 seconds, and what is not answered by then is cut off; the house is [closed](Dovehouse::close), which
    /// ends WebSockets with code 1001. An error is the house's.
    pub async fn run(mut self, listener: TcpListener) -> Result<()> {
        let (ending, ended) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut self.shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let fetch = self.fetch.clone();
                        connections.spawn(serve(stream, peer, fetch, ended.clone()));
                    }
                    Err(error) => pause(&error).await,
                },
                // Those that have ended are let go.
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        ending.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(REQUEST_PATIENCE, all).await.is_err() {
            tracing::warn!("{} connections are cut off", connections.len());
        }
        connections.shutdown().await;
        self.house.close().await
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the system's lack of room passes in real time"
)]
async fn pause(error: &io::Error) {
    tracing::warn!("a connection cannot be accepted: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn serve<F, R>(
    stream: TcpStream,
    peer: SocketAddr,
    fetch: Arc<F>,
    mut ended: watch::Receiver<bool>,
) where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output: Reply<Value = Response>> + Send + 'static,
{
    // Small frames should not wait for more of them.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(SILENCE)
        .with_interval(BETWEEN_PROBES)
        .with_retries(PROBES);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let answer = service_fn(move |request| {
        let fetch = fetch.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&*fetch, request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = async { drop(ended.wait_for(|ended| *ended).await) };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = ended => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, "a connection broke: {error}");
    }
}

async fn answer<F, R>(fetch: &F, request: http::Request<Incoming>, peer: SocketAddr) -> Response
where
    F: Fn(Request) -> R,
    R: Future<Output: Reply<Value = Response>>,
{
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    // Taken here, so that the function may send another request on in this one's place.
    let upgrade = Upgrade::take(&mut request);
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = match fetch(request).await.into_reply() {
        Ok(response) => response,
        Err(error) => {
            if !matches!(error, CallError::Closed) {
                tracing::error!(%method, %uri, "a request failed: {error}");
            }
            error.into()
        }
    };
    match upgrade {
        Some(upgrade) => upgrade.complete(response),
        None => response,
    }
}
