//! A document that several people write at the same time: each document is one durable object, which puts
//! everybody's edits in one order.
//!
//! ```text
//! cargo run --release --example collab -- [--addr 127.0.0.1:8789] [--data DIR]
//! websocat ws://localhost:8789/letter/ada
//! {"edit":{"base":0,"at":0,"delete":0,"insert":"Dear all,"}}
//! {"cursor":9}
//! ```
//! An edit names the version that its author saw. The document moves it past the edits that came since, stores it with
//! the new text, and tells everybody. Connections stay while the document sleeps; who is there is in what it has
//! attached to them. [`Replica`](replica::Replica) is what a client does with what it hears.

// `pub` marks what can be called through a stub; the stub's documentation is the method's.
#![allow(unreachable_pub, missing_docs)]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use dovehouse::{
    CloseReason, Ctx, Dovehouse, Message, Request, Response, Result, Server, WebSocket,
};

pub mod edit;
pub mod replica;

use edit::{Asked, Edit, Person, Told};

const TEXT_CHARS_MAX: usize = 100_000;
/// Edits that are kept, to move late ones past them.
const EDITS_KEPT: u64 = 1_000;

const SCHEMA: [&str; 2] = [
    "CREATE TABLE document(version INTEGER NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE edit(base INTEGER PRIMARY KEY, at INTEGER, deleted INTEGER, inserted TEXT)",
];

pub struct Document {
    version: u64,
    text: String,
}

#[dovehouse::object]
impl Document {
    fn migrate(ctx: &Ctx) -> Result<()> {
        ctx.sql().migrate(&SCHEMA).map(drop)
    }

    fn new(ctx: &Ctx) -> Result<Self> {
        let stored = ctx.sql().exec("SELECT version, text FROM document", ())?;
        let mut stored: Vec<(u64, String)> = stored.deserialize()?;
        let (version, text) = stored.pop().unwrap_or_default();
        Ok(Document { version, text })
    }

    /// `/DOCUMENT/PERSON` comes in with a WebSocket; without one the text can be read.
    fn fetch(&mut self, ctx: &Ctx, request: Request) -> Result<Response> {
        if !dovehouse::wants_web_socket(&request) {
            return Ok(Response::new(self.text.clone().into()));
        }
        let number = ctx.kv().get_as("people")?.unwrap_or(0) + 1;
        ctx.kv().put_as("people", &number)?;
        let name = request.uri().path().split('/').nth(2).unwrap_or_default();
        let name = name.chars().take(40).collect();
        let (socket, client) = ctx.accept_web_socket(&[])?;
        attach(
            &socket,
            &Person {
                number,
                name,
                cursor: 0,
            },
        )?;
        self.show(&socket);
        tell_people(ctx, None);
        Ok(client.into_response())
    }

    fn web_socket_message(
        &mut self,
        ctx: &Ctx,
        socket: &WebSocket,
        message: Message,
    ) -> Result<()> {
        let asked = match &message {
            Message::Text(text) => serde_json::from_str(text),
            Message::Binary(bytes) => serde_json::from_slice(bytes),
        };
        match asked {
            Ok(Asked::Edit(edit)) => self.edit(ctx, socket, edit),
            Ok(Asked::Cursor(cursor)) => {
                let cursor = cursor.min(TEXT_CHARS_MAX);
                attach(
                    socket,
                    &Person {
                        cursor,
                        ..person(socket)
                    },
                )?;
                tell_people(ctx, None);
                Ok(())
            }
            Err(error) => refuse(socket, &error.to_string()),
        }
    }

    fn web_socket_close(&mut self, ctx: &Ctx, socket: &WebSocket, _: CloseReason) {
        tell_people(ctx, Some(person(socket).number));
    }

    fn edit(&mut self, ctx: &Ctx, socket: &WebSocket, edit: Edit) -> Result<()> {
        if edit.base > self.version || edit.at.max(edit.delete) > TEXT_CHARS_MAX {
            return refuse(socket, "there is no such version or place");
        }
        let newer = "SELECT base, at, deleted, inserted FROM edit WHERE base >= ? ORDER BY base";
        let newer = ctx.sql().exec(newer, (edit.base as i64,))?;
        let newer: Vec<(u64, usize, usize, String)> = newer.deserialize()?;
        if edit.base + (newer.len() as u64) < self.version {
            self.show(socket);
            return Ok(());
        }
        let edit = newer
            .into_iter()
            .fold(edit, |edit, (base, at, delete, insert)| {
                edit.after(&Edit {
                    base,
                    at,
                    delete,
                    insert,
                })
            });
        let length = self.text.chars().count();
        if edit.at + edit.delete > length {
            return refuse(socket, "there is no such place");
        }
        if length - edit.delete + edit.insert.chars().count() > TEXT_CHARS_MAX {
            return refuse(socket, "the document is full");
        }
        let (version, text) = (self.version + 1, edit.apply(&self.text));
        let Edit {
            base,
            at,
            delete,
            insert,
        } = edit.clone();
        let parameters = (base as i64, at as i64, delete as i64, insert);
        ctx.sql()
            .exec("INSERT INTO edit VALUES (?, ?, ?, ?)", parameters)?;
        let oldest = version.saturating_sub(EDITS_KEPT) as i64;
        ctx.sql()
            .exec("DELETE FROM edit WHERE base < ?", (oldest,))?;
        let upsert = "INSERT OR REPLACE INTO document(rowid, version, text) VALUES (1, ?, ?)";
        ctx.sql().exec(upsert, (version as i64, &text))?;
        (self.version, self.text) = (version, text);
        // Nobody hears of it before it is durable.
        let by = person(socket).number;
        for socket in ctx.web_sockets() {
            tell(
                &socket,
                &Told::Edit {
                    edit: edit.clone(),
                    by,
                },
            );
        }
        Ok(())
    }

    fn show(&self, socket: &WebSocket) {
        let (version, text) = (self.version, self.text.clone());
        let you = person(socket).number;
        tell(socket, &Told::Document { version, text, you });
    }
}

fn attach(socket: &WebSocket, person: &Person) -> Result<()> {
    let bytes = serde_json::to_vec(person).expect("a person can be written as JSON");
    socket.set_attachment(Some(bytes))
}

fn person(socket: &WebSocket) -> Person {
    let bytes = socket
        .attachment()
        .expect("it was attached when it was accepted");
    serde_json::from_slice(&bytes).expect("it was written as JSON")
}

/// Tells everybody who is there, in the order in which they came, but for one who is leaving.
fn tell_people(ctx: &Ctx, leaving: Option<u64>) {
    let sockets = ctx.web_sockets();
    let people = sockets.iter().rev().map(person);
    let people = people.filter(|person| Some(person.number) != leaving);
    let told = Told::People(people.collect());
    sockets.iter().for_each(|socket| tell(socket, &told));
}

fn refuse(socket: &WebSocket, why: &str) -> Result<()> {
    tell(socket, &Told::Refused(why.to_owned()));
    Ok(())
}

fn tell(socket: &WebSocket, told: &Told) {
    socket.send(serde_json::to_string(told).expect("it can be written as JSON"));
}

/// Documents that several people write.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8789")]
    addr: SocketAddr,
    /// Where to keep the documents.
    #[arg(long, default_value = "data/collab")]
    data: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let house = Dovehouse::open(&arguments.data)?;
    let documents = house.namespace::<Document>()?;
    let server = Server::new(house, move |request: Request| {
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let document = documents.get_by_name(name);
        async move { document.fetch(request).await }
    });
    let listener = tokio::net::TcpListener::bind(arguments.addr).await?;
    println!(
        "documents are at ws://{}/DOCUMENT/PERSON",
        listener.local_addr()?
    );
    let interrupted = async {
        tokio::signal::ctrl_c()
            .await
            .expect("signals can be listened to")
    };
    server.shutdown_on(interrupted).run(listener).await?;
    Ok(())
}
