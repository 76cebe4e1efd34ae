//! Chat rooms: each room is one durable object. Messages are in its SQL database, settings in its
//! keys, and an alarm closes it when nobody has written for a while.
//!
//! ```text
//! cargo run --release --example chat -- [--addr 127.0.0.1:8787] [--data DIR]
//! ```
//! Open the address in two browser tabs. Every message that was shown survives `kill -9`.

// `pub` marks what can be called through a stub; the stub's documentation is the method's.
#![allow(unreachable_pub, missing_docs)]

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use dovehouse::{AutoResponse, Ctx, Dovehouse, Message, Namespace, WebSocket};
use serde::{Deserialize, Serialize};

const ROOM_BYTES_MAX: usize = 256;
const AUTHOR_BYTES_MAX: usize = 256;
const BODY_BYTES_MAX: usize = 4 << 10;
const REQUEST_BYTES_MAX: usize = 64 << 10;
const TOPIC_BYTES_MAX: usize = 1 << 10;
/// A room that grows beyond this forgets its oldest messages.
const ROOM_STATE_BYTES_MAX: usize = 3 << 20;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const IDLE_CLOSE_MS_MIN: u64 = 1_000;
const IDLE_CLOSE_MS_MAX: u64 = 365 * DAY_MS;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct StoredMessage {
    id: i64,
    author: String,
    body: String,
    /// Milliseconds since 1970.
    created_at: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct NewMessage {
    author: String,
    body: String,
}

impl NewMessage {
    /// Reads a message, or says what to fix.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err(r#"send a JSON body such as {"author": "ada", "body": "hello"}"#.into());
        }
        let message: NewMessage = serde_json::from_slice(bytes).map_err(|error| {
            format!(r#"the body is not {{"author": "…", "body": "…"}}: {error}"#)
        })?;
        if message.author.trim().is_empty() || message.author.len() > AUTHOR_BYTES_MAX {
            return Err(format!(
                "\"author\" must have 1 to {AUTHOR_BYTES_MAX} bytes"
            ));
        }
        if message.body.trim().is_empty() || message.body.len() > BODY_BYTES_MAX {
            return Err(format!("\"body\" must have 1 to {BODY_BYTES_MAX} bytes"));
        }
        Ok(message)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Settings {
    topic: String,
    /// Milliseconds without a message after which the room closes.
    idle_close_ms: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSettings {
    topic: Option<String>,
    idle_close_ms: Option<u64>,
}

impl NewSettings {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let settings: NewSettings = serde_json::from_slice(bytes).map_err(|error| {
            format!(r#"the body is not {{"topic": "…", "idle_close_ms": …}}: {error}"#)
        })?;
        if settings
            .topic
            .as_ref()
            .is_some_and(|topic| topic.len() > TOPIC_BYTES_MAX)
        {
            return Err(format!(
                "\"topic\" must have at most {TOPIC_BYTES_MAX} bytes"
            ));
        }
        let allowed = IDLE_CLOSE_MS_MIN..=IDLE_CLOSE_MS_MAX;
        if settings
            .idle_close_ms
            .is_some_and(|ms| !allowed.contains(&ms))
        {
            return Err(format!(
                "\"idle_close_ms\" must be from {IDLE_CLOSE_MS_MIN} to {IDLE_CLOSE_MS_MAX}"
            ));
        }
        Ok(settings)
    }
}

/// A chat room. Nothing of it is in memory only, so it may sleep whenever nobody writes.
struct Room;

#[dovehouse::object]
impl Room {
    fn new() -> Self {
        Room
    }

    /// Somebody comes in. The room may sleep while everybody is silent; what keeps the connections alive
    /// is answered without it.
    fn fetch(
        &mut self,
        ctx: &Ctx,
        request: dovehouse::Request,
    ) -> dovehouse::Result<dovehouse::Response> {
        if !dovehouse::wants_web_socket(&request) {
            let mut response = dovehouse::Response::new("connect with a WebSocket\n".into());
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return Ok(response);
        }
        ctx.set_web_socket_auto_response(Some(AutoResponse::new("ping", "pong")?));
        let (_socket, client) = ctx.accept_web_socket(&[])?;
        Ok(client.into_response())
    }

    /// Stores a message and sends it to everybody in the room.
    pub fn post(&mut self, ctx: &Ctx, message: NewMessage) -> dovehouse::Result<StoredMessage> {
        let stored = self.store(ctx, message)?;
        let text = serde_json::to_string(&stored).expect("a message can be written as JSON");
        broadcast(ctx, &text);
        Ok(stored)
    }

    /// The last messages, oldest first.
    pub fn messages(&self, ctx: &Ctx, limit: u32) -> dovehouse::Result<Vec<StoredMessage>> {
        if !self.exists(ctx)? {
            return Ok(Vec::new());
        }
        let newest = "SELECT id, author, body, created_at FROM message ORDER BY id DESC LIMIT ?";
        let rows = ctx.sql().exec(newest, (limit,))?;
        let mut messages: Vec<StoredMessage> = rows.deserialize()?;
        messages.reverse();
        Ok(messages)
    }

    pub fn settings(&self, ctx: &Ctx) -> dovehouse::Result<Settings> {
        let topic = ctx.kv().get("topic")?.unwrap_or_default();
        let idle = ctx
            .kv()
            .get("idle_close_ms")?
            .and_then(|bytes| bytes.try_into().ok());
        Ok(Settings {
            topic: String::from_utf8_lossy(&topic).into_owned(),
            idle_close_ms: idle.map_or(DAY_MS, u64::from_le_bytes),
        })
    }

    /// Changes what is given, and tells everybody in the room.
    pub fn change_settings(&mut self, ctx: &Ctx, new: NewSettings) -> dovehouse::Result<Settings> {
        if let Some(topic) = new.topic {
            ctx.kv().put("topic", topic)?;
        }
        if let Some(idle_close_ms) = new.idle_close_ms {
            ctx.kv().put("idle_close_ms", idle_close_ms.to_le_bytes())?;
        }
        let settings = self.settings(ctx)?;
        ctx.alarm().set(ctx.now_ms() + settings.idle_close_ms)?;
        broadcast(
            ctx,
            &serde_json::json!({ "settings": settings }).to_string(),
        );
        Ok(settings)
    }

    fn store(&mut self, ctx: &Ctx, message: NewMessage) -> dovehouse::Result<StoredMessage> {
        let schema = "CREATE TABLE IF NOT EXISTS message(
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            author TEXT NOT NULL,
            body TEXT NOT NULL,
            created_at INTEGER NOT NULL
        )";
        ctx.sql().exec(schema, ())?;
        let NewMessage { author, body } = message;
        let created_at = ctx.now_ms() as i64;
        let insert = "INSERT INTO message(author, body, created_at) VALUES (?, ?, ?) RETURNING id";
        let row = ctx
            .sql()
            .exec(insert, (&author, &body, created_at))?
            .one()?;
        let id = row.get(0)?;
        if ctx.stored_bytes()? > ROOM_STATE_BYTES_MAX {
            let oldest =
                "DELETE FROM message WHERE id <= (SELECT (min(id) + max(id)) / 2 FROM message)";
            ctx.sql().exec(oldest, ())?;
            ctx.sql().exec("PRAGMA incremental_vacuum", ())?;
        }
        ctx.alarm()
            .set(ctx.now_ms() + self.settings(ctx)?.idle_close_ms)?;
        Ok(StoredMessage {
            id,
            author,
            body,
            created_at,
        })
    }

    /// Whether anybody ever wrote here. Looking at a room must not make one.
    fn exists(&self, ctx: &Ctx) -> dovehouse::Result<bool> {
        let rows = ctx.sql().exec(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'message'",
            (),
        )?;
        Ok(rows.one()?.get::<i64>(0)? > 0)
    }

    /// Nobody wrote for a while: the room closes, and what was said in it is gone.
    fn alarm(&mut self, ctx: &Ctx) -> dovehouse::Result<()> {
        broadcast(ctx, r#"{"closed": true}"#);
        ctx.delete_all()
    }

    fn web_socket_message(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        message: Message,
    ) -> dovehouse::Result<()> {
        let bytes = match message {
            Message::Text(text) => text.into_bytes(),
            Message::Binary(bytes) => bytes,
        };
        match NewMessage::parse(&bytes) {
            Ok(message) => self.post(ctx, message).map(drop),
            Err(error) => {
                socket.send(serde_json::json!({ "error": error }).to_string());
                Ok(())
            }
        }
    }
}

fn broadcast(ctx: &Ctx, text: &str) {
    for socket in ctx.web_sockets() {
        socket.send(text);
    }
}

/// An error as the client sees it.
struct Failure(StatusCode, String);

impl Failure {
    fn bad_request(error: impl ToString) -> Self {
        Failure(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<dovehouse::CallError> for Failure {
    fn from(error: dovehouse::CallError) -> Self {
        Failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

type Rooms = State<Namespace<Room>>;
type RoomName = Result<Path<String>, PathRejection>;

fn room(rooms: &Namespace<Room>, name: RoomName) -> Result<RoomStub, Failure> {
    let Path(name) = name.map_err(Failure::bad_request)?;
    if name.len() > ROOM_BYTES_MAX {
        return Err(Failure::bad_request(format!(
            "a room's name has at most {ROOM_BYTES_MAX} bytes"
        )));
    }
    Ok(rooms.get_by_name(&name))
}

async fn read_body(body: Body) -> Result<Vec<u8>, Failure> {
    let bytes = to_bytes(body, REQUEST_BYTES_MAX).await;
    let too_large =
        |_| Failure::bad_request(format!("the body has more than {REQUEST_BYTES_MAX} bytes"));
    bytes.map(|bytes| bytes.to_vec()).map_err(too_large)
}

async fn post_message(
    rooms: Rooms,
    name: RoomName,
    body: Body,
) -> Result<impl IntoResponse, Failure> {
    let room = room(&rooms, name)?;
    let message = NewMessage::parse(&read_body(body).await?).map_err(Failure::bad_request)?;
    Ok((StatusCode::CREATED, Json(room.post(message).await?)))
}

#[derive(Deserialize)]
struct Page {
    limit: Option<u32>,
}

async fn list_messages(
    rooms: Rooms,
    name: RoomName,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<impl IntoResponse, Failure> {
    const LIMIT_DEFAULT: u32 = 100;
    const LIMIT_MAX: u32 = 1000;
    let Query(page) = page.map_err(Failure::bad_request)?;
    let limit = page.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    Ok(Json(room(&rooms, name)?.messages(limit).await?))
}

async fn get_settings(rooms: Rooms, name: RoomName) -> Result<impl IntoResponse, Failure> {
    Ok(Json(room(&rooms, name)?.settings().await?))
}

async fn put_settings(
    rooms: Rooms,
    name: RoomName,
    body: Body,
) -> Result<impl IntoResponse, Failure> {
    let room = room(&rooms, name)?;
    let settings = NewSettings::parse(&read_body(body).await?).map_err(Failure::bad_request)?;
    Ok(Json(room.change_settings(settings).await?))
}

async fn web_socket(
    rooms: Rooms,
    name: RoomName,
    request: Request,
) -> Result<impl IntoResponse, Failure> {
    Ok(room(&rooms, name)?.fetch(request).await?)
}

async fn not_found() -> Failure {
    Failure(
        StatusCode::NOT_FOUND,
        "there is nothing here; try GET /".into(),
    )
}

fn router(rooms: Namespace<Room>) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("chat.html")) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/rooms/{room}/messages",
            get(list_messages).post(post_message),
        )
        .route(
            "/rooms/{room}/settings",
            get(get_settings).put(put_settings),
        )
        .route("/rooms/{room}/ws", get(web_socket))
        .fallback(not_found)
        .with_state(rooms)
}

/// Chat rooms on dovehouse.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8787")]
    addr: SocketAddr,
    /// Where to keep the rooms.
    #[arg(long, default_value = "data/chat")]
    data: PathBuf,
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    // Small segments: rooms are small, and each start of the program begins a new one.
    let house = Dovehouse::builder(&arguments.data)
        .segment_bytes(16 << 20)
        .open()?;
    let rooms = house.namespace::<Room>()?;
    let listener = tokio::net::TcpListener::bind(arguments.addr).await?;
    println!(
        "chat is open at http://{}/ with its rooms in {}",
        listener.local_addr()?,
        arguments.data.display()
    );

    let closing = house.clone();
    let shutdown = async move {
        terminated().await;
        // This also ends the WebSockets, which the server waits for.
        if let Err(error) = closing.close().await {
            eprintln!("the rooms were not closed cleanly: {error}");
        }
    };
    axum::serve(listener, router(rooms))
        .with_graceful_shutdown(shutdown)
        .await?;
    Ok(())
}
