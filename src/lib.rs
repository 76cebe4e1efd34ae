//! Self-hosted Durable Objects: named objects with a private, durable state, that sleep on disk and wake
//! when they are called.
//!
//! A class is a type with methods; [`#[dovehouse::object]`](object) turns it into one. Every name or id
//! is an object of it. An object runs one handler at a time, keeps keys, an SQL database and an alarm,
//! and holds WebSockets; nothing that it says leaves before what it wrote is durable. Millions of them
//! share one log on one disk.
//!
//! See [`Dovehouse`] for a first example, `docs/architecture.md` for how it works, and
//! `docs/durability.md` for what an acknowledgement means. [`testing`] is for tests of your own classes.
//!
//! This crate does **not** know bytes on disk: those are the engine's.

#![forbid(unsafe_code)]

extern crate self as dovehouse;

mod access;
mod actor;
mod alarms;
mod armed;
mod body;
mod call;
mod callback;
mod catalog;
mod class;
mod clock;
mod core;
mod cron;
mod ctx;
pub mod deploy;
mod encoding;
mod error;
mod fetch;
mod fire;
mod gate;
mod house;
mod id;
mod kv;
mod kv_limits;
mod lifetime;
mod listing;
mod locations;
mod meters;
mod moves;
mod namespace;
mod object;
mod past;
mod register;
mod retention;
mod scheduler;
mod sections;
mod server;
mod shard;
mod signal;
mod sql;
mod stays;
mod storage;
mod stream;
mod stub;
mod sweep;
mod sync;
pub mod testing;
mod time_travel;
mod transaction;
mod transfer;
mod turn;
mod waits;
mod web_socket;

pub use alarms::{AlarmApi, AlarmInfo};
pub use body::{Body, BodyError, BoxError, IntoBody};
pub use callback::Callback;
pub use catalog::StorageKind;
pub use clock::{Clock, SystemClock, TestClock};
pub use ctx::Ctx;
pub use dovehouse_engine as engine;
pub use dovehouse_engine::{Bookmark, BookmarkError, List, Moment, Retention};
pub use dovehouse_macros::object;
pub use dovehouse_sqlbridge as sqlbridge;
pub use dovehouse_sqlbridge::{
    Budget, Counters, Limit, Parameters, PoolSizes, Row, Rule, SqlPolicy, Value,
};
pub use error::{CallError, Error, Reply, Result};
pub use fetch::{Request, Response};
pub use house::{Builder, Dovehouse};
pub use http;
pub use id::{IdError, ObjectId};
pub use kv::Kv;
pub use listing::{Cursor, ObjectSummary, Order, Page, Query};
pub use namespace::Namespace;
pub use object::{FetchHandler, Object};
pub use past::{Past, PastSql};
#[doc(hidden)]
pub use serde;
pub use server::Server;
pub use sql::{Sql, SqlCursor, Turn};
pub use stream::{Stream, StreamSender, stream};
pub use stub::Stub;
pub use sweep::{Sweep, SweepProgress};
pub use time_travel::StorageApi;
pub use transaction::Transaction;
#[doc(hidden)]
pub use transfer::check_transfer;
pub use transfer::{Local, Transfer};
pub use web_socket::{
    AutoResponse, ClientEnd, ClientWebSocket, CloseReason, Message, ReadyState, StandardWebSocket,
    WebSocket, WebSocketError, wants_web_socket,
};

/// Its example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;

/// And its examples.
#[cfg(doctest)]
#[doc = include_str!("../docs/http.md")]
struct HttpPage;

#[cfg(doctest)]
#[doc = include_str!("../docs/testing-your-objects.md")]
struct TestingPage;
