//! The handshake that makes an HTTP connection a WebSocket.

use std::marker::PhantomData;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use sha1::{Digest, Sha1};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::SOCKETS_MAX;
use super::connection::{Delivery, Transport, serve};
use crate::body::Body;
use crate::class::Address;
use crate::object::Object;
use crate::shard::{Event, Shard};
use crate::stub::Stub;

/// What a server adds to a client's key, by RFC 6455.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks for a WebSocket. A `fetch` handler answers it with
/// [`ClientEnd::into_response`](crate::ClientEnd::into_response).
pub fn wants_web_socket<B>(request: &Request<B>) -> bool {
    has_word(request.headers(), header::UPGRADE, "websocket")
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name);
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// What a request has to say for an HTTP connection to become a WebSocket: the answer to its key, or
/// what is wrong with it.
pub(crate) fn check_upgrade(
    method: &Method,
    headers: &HeaderMap,
) -> Result<HeaderValue, (StatusCode, &'static str)> {
    if method != Method::GET
        || !has_word(headers, header::UPGRADE, "websocket")
        || !has_word(headers, header::CONNECTION, "upgrade")
    {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "this address speaks WebSocket: connect with one",
        ));
    }
    if !has_word(headers, header::SEC_WEBSOCKET_VERSION, "13") {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        ));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok());
    let key = key.ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"))?;
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX);
    let answer = data_encoding::BASE64.encode(&digest.finalize());
    Ok(HeaderValue::try_from(answer).expect("base64 may be in a header"))
}

/// Makes a response one that gives the connection over.
pub(crate) fn switch_protocols<B>(response: &mut Response<B>, answer: HeaderValue) {
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
}

pub(crate) fn refuse(status: StatusCode, why: &'static str) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13");
    response.body(why.into()).expect("the parts are valid")
}

impl<T: Object> Stub<T> {
    /// Answers a request to upgrade to a WebSocket: returns the response to send, and hands the
    /// connection to the object without waking it. `tags` let the object find it again; see
    /// [`Ctx::accept_web_socket`](crate::Ctx::accept_web_socket), which lets the object decide instead.
    ///
    /// Works with the requests of hyper and of everything built on it, such as axum. A request that
    /// is not such an upgrade gets a response with status 400 or 426 that says what is missing. A connection
    /// more than the object may have is closed again.
    pub fn accept_web_socket<B>(&self, request: &mut Request<B>, tags: &[&str]) -> Response<Body> {
        let answer = match check_upgrade(request.method(), request.headers()) {
            Ok(answer) => answer,
            Err((status, why)) => return refuse(status, why),
        };
        let Ok(tags) = super::check_tags(tags) else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "at most 10 tags of at most 256 bytes",
            );
        };
        let accept = Accept {
            address: self.address.clone(),
            upgrade: hyper::upgrade::on(request),
            tags,
            class: PhantomData::<fn() -> T>,
        };
        if self.house.send(&self.address, Box::new(accept)).is_err() {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the house is closed");
        }
        let mut response = Response::new(Body::empty());
        switch_protocols(&mut response, answer);
        response
    }
}

/// A connection on its way to its object's shard.
struct Accept<T> {
    address: Address,
    upgrade: OnUpgrade,
    tags: Box<[Box<str>]>,
    class: PhantomData<fn() -> T>,
}

impl<T: Object> Event for Accept<T> {
    fn deliver(self: Box<Self>, shard: &Rc<Shard>) {
        let id = self.address.id.raw();
        if shard.sockets.count(id) >= SOCKETS_MAX {
            // Dropping what was promised to it ends the connection.
            tracing::warn!(object = %self.address.id, "it has {SOCKETS_MAX} WebSockets and gets no more");
            return;
        }
        let socket = shard.sockets.add(id, self.tags, false);
        let (transport, opened) = oneshot::channel();
        let _receiver_is_here = transport.send(Transport::Upgrade(self.upgrade));
        spawn_local(serve(
            shard.clone(),
            self.address,
            socket,
            Delivery::Handlers,
            opened,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_rfc_has_it() {
        let request = Request::get("/")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "WebSocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let request = request.body(()).unwrap();
        assert!(wants_web_socket(&request));
        let answer = check_upgrade(request.method(), request.headers()).unwrap();
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
