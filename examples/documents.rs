//! An axum application that calls objects: shared documents, each a durable object, which whoever looks at
//! one sees change.
//!
//! ```text
//! cargo run --release --example documents -- [--addr 127.0.0.1:8788] [--data DIR]
//! curl -X PUT --data 'Dear all,' localhost:8788/documents/letter
//! curl localhost:8788/documents/letter
//! curl -X POST localhost:8788/documents/letter/likes
//! curl -N localhost:8788/documents/letter/changes
//! ```
//!
//! axum routes. What is HTTP in a document's own hands goes to its `fetch` handler with the body as it comes
//! (`fetch`); what is a plain call is one (`like`).

// `pub` marks what can be called through a stub.
#![allow(unreachable_pub, missing_docs)]

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use clap::Parser;
use dovehouse::{Body, BodyError, CallError, Ctx, Dovehouse, Namespace, Response};
use futures_util::stream;
use tokio::sync::broadcast;

const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Changes that somebody who looks on may be behind.
const BEHIND_MAX: usize = 16;

struct Document {
    /// Tells those who look on. In memory only, like their connections.
    changes: broadcast::Sender<String>,
}

#[dovehouse::object]
impl Document {
    fn new() -> Self {
        Document {
            changes: broadcast::Sender::new(BEHIND_MAX),
        }
    }

    /// Reads and writes the document, and shows its changes as they are made.
    async fn fetch(
        &mut self,
        ctx: &Ctx,
        request: dovehouse::Request,
    ) -> dovehouse::Result<Response> {
        let is_changes = request.uri().path().ends_with("/changes");
        match *request.method() {
            Method::GET if is_changes => Ok(self.show_changes(ctx)),
            Method::GET => Ok(match ctx.kv().get("text")? {
                Some(text) => Response::new(text.into()),
                None => status(StatusCode::NOT_FOUND, "nobody has written it yet"),
            }),
            Method::PUT => match request.into_body().bytes(DOCUMENT_BYTES_MAX).await {
                Ok(text) => {
                    ctx.kv().put("text", &text)?;
                    self.tell(format!("{} bytes were written", text.len()));
                    Ok(Response::new(Body::empty()))
                }
                Err(error @ BodyError::TooLong { .. }) => {
                    Ok(status(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))
                }
                Err(error) => Ok(status(StatusCode::BAD_REQUEST, error.to_string())),
            },
            _ => Ok(status(StatusCode::METHOD_NOT_ALLOWED, "GET or PUT it")),
        }
    }

    /// Counts somebody who likes it. Returns how many do.
    pub fn like(&mut self, ctx: &Ctx) -> dovehouse::Result<u64> {
        let before = ctx.kv().get("likes")?;
        let before = before.and_then(|bytes| bytes.try_into().ok());
        let likes = before.map_or(0, u64::from_le_bytes) + 1;
        ctx.kv().put("likes", likes.to_le_bytes())?;
        self.tell(format!("{likes} people like it"));
        Ok(likes)
    }

    /// Each change, as an event of the browsers' `EventSource`. It is seen once it is durable, as
    /// everything is that leaves an object.
    fn show_changes(&self, ctx: &Ctx) -> Response {
        let changes = stream::unfold(self.changes.subscribe(), async |mut changes| {
            let change = changes.recv().await.ok()?;
            Some((Ok::<_, BodyError>(format!("data: {change}\n\n")), changes))
        });
        let mut response = Response::new(ctx.body(changes));
        let kind = "text/event-stream".parse().expect("it may be in a header");
        response.headers_mut().insert("content-type", kind);
        response
    }

    fn tell(&self, change: String) {
        // Without anybody who looks on it is an error, and none of ours.
        let _ = self.changes.send(change);
    }
}

fn status(status: StatusCode, text: impl Into<String>) -> Response {
    let mut response = Response::new(text.into().into());
    *response.status_mut() = status;
    response
}

type Documents = State<Namespace<Document>>;

async fn fetch(documents: Documents, Path(name): Path<String>, request: Request) -> Response {
    let response = documents.get_by_name(&name).fetch(request).await;
    response.unwrap_or_else(failed)
}

async fn like(documents: Documents, Path(name): Path<String>) -> Response {
    let likes = documents.get_by_name(&name).like().await;
    likes.map_or_else(failed, |likes| Response::new(likes.to_string().into()))
}

/// Clients learn that a call failed; why is for the log.
fn failed(error: CallError) -> Response {
    eprintln!("a call failed: {error}");
    error.into()
}

/// Shared documents on dovehouse.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8788")]
    addr: SocketAddr,
    /// Where to keep the documents.
    #[arg(long, default_value = "data/documents")]
    data: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let house = Dovehouse::builder(&arguments.data)
        .segment_bytes(16 << 20)
        .open()?;
    let router = Router::new()
        .route("/documents/{name}", get(fetch).put(fetch))
        .route("/documents/{name}/changes", get(fetch))
        .route("/documents/{name}/likes", post(like))
        .with_state(house.namespace::<Document>()?);
    let listener = tokio::net::TcpListener::bind(arguments.addr).await?;
    println!("documents are at http://{}/", listener.local_addr()?);
    let shutdown = async move {
        let interrupted = tokio::signal::ctrl_c().await;
        interrupted.expect("signals can be listened to");
        // This breaks off the changes that somebody looks at, which the server would wait for.
        if let Err(error) = house.close().await {
            eprintln!("the documents were not closed cleanly: {error}");
        }
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await?;
    Ok(())
}
