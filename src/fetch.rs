//! `fetch`: HTTP requests to objects, with bodies that stream both ways, and upgrades to WebSockets.

use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;

use crate::body::{Body, IntoBody};
use crate::core::current;
use crate::ctx::Ctx;
use crate::error::CallError;
use crate::object::{FetchHandler, Object, no_fetch};
use crate::stub::Stub;
use crate::web_socket::{ClientEnd, check_upgrade, refuse, switch_protocols, wants_web_socket};

/// An HTTP request, as a `fetch` handler gets it.
pub type Request = http::Request<Body>;

/// An HTTP response, as a `fetch` handler gives it.
pub type Response = http::Response<Body>;

impl<T: Object> Stub<T> {
    /// Sends an HTTP request to the object's `fetch` handler, and waits for the head of the response. Bodies
    /// stream: the handler may answer before it has read the request's, and the response's is still being
    /// produced when this returns.
    ///
    /// The request may come from anywhere: made here, or taken from hyper, axum, or [`Server`](crate::Server). Nothing of it
    /// is checked or resolved; the handler sees its URI as it is.
    ///
    /// **WebSockets.** If the handler answers with [`ClientEnd::into_response`] and the request came in over HTTP, the
    /// response completes the handshake; send it as it is. If it did not, the response
    /// [brings](ClientEnd::take) the other end.
    ///
    /// # Errors
    /// As for any call; an HTTP status is not an error. A class without the handler fails with [`CallError::Failed`].
    pub async fn fetch<B: IntoBody>(
        &self,
        request: http::Request<B>,
    ) -> Result<Response, CallError> {
        let mut request = request.map(|body| leaving(body.into_body()));
        let upgrade = Upgrade::take(&mut request);
        let response = match T::FETCH {
            FetchHandler::None => Err(no_fetch::<T>()),
            FetchHandler::Exclusive => {
                let handler = async move |object: &mut T, ctx: &Ctx| {
                    let response = object.fetch(ctx, request).await;
                    response.map(|response| response.map(leaving))
                };
                self.call_exclusive("fetch", handler).await
            }
            FetchHandler::Shared => {
                let handler = async move |object: &T, ctx: &Ctx| {
                    let response = object.fetch_shared(ctx, request).await;
                    response.map(|response| response.map(leaving))
                };
                self.call_shared("fetch", handler).await
            }
        }?;
        Ok(match upgrade {
            Some(upgrade) => upgrade.complete(response),
            None => response,
        })
    }
}

/// A body on its way out of the object whose handler is being polled, if one is.
fn leaving(body: Body) -> Body {
    match current() {
        Some(current) => body.leaving(&current),
        None => body,
    }
}

/// An HTTP connection that asked to become a WebSocket.
pub(crate) struct Upgrade {
    connection: OnUpgrade,
    /// What completes the handshake, or what is wrong with the request.
    answer: Result<HeaderValue, (StatusCode, &'static str)>,
}

impl Upgrade {
    /// Takes the connection out of a request, if it comes with one and asks for it.
    pub(crate) fn take<B>(request: &mut http::Request<B>) -> Option<Self> {
        if !wants_web_socket(request) {
            return None;
        }
        let answer = check_upgrade(request.method(), request.headers());
        let connection = request.extensions_mut().remove()?;
        Some(Upgrade { connection, answer })
    }

    /// Gives the connection to the WebSocket that the response brings, if it does.
    pub(crate) fn complete(self, mut response: Response) -> Response {
        let Some(end) = ClientEnd::take(&mut response) else {
            return response;
        };
        match self.answer {
            Ok(answer) => {
                end.connect(self.connection);
                switch_protocols(&mut response, answer);
                response
            }
            Err((status, why)) => refuse(status, why),
        }
    }
}

/// What a client is told about a call that failed: no more than that it did, since the rest is for the log.
impl From<CallError> for Response {
    fn from(error: CallError) -> Self {
        let status = match error {
            CallError::Closed => StatusCode::SERVICE_UNAVAILABLE,
            error if error.is_overloaded() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = status.canonical_reason().unwrap_or_default();
        let mut response = Response::new(text.into());
        *response.status_mut() = status;
        response
    }
}
