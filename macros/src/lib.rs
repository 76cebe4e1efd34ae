//! The attribute `#[dovehouse::object]`; see its documentation in the crate `dovehouse`.

mod arguments;
mod expand;
mod method;

use proc_macro::TokenStream;

/// Turns an `impl` block into a class of durable objects with a typed stub.
///
/// For `impl Room` it generates `RoomStub`, which has an `async` method for every `pub` method of the
/// block, and the implementation of [`Object`](trait.Object.html).
///
/// | in the block | becomes |
/// | --- | --- |
/// | `fn new(ctx: &Ctx) -> Self` or `-> Result<Self, E>` | the constructor; it runs before the first event |
/// | `fn migrate(ctx: &Ctx)` | brings stored data up to date; it runs before the constructor |
/// | `pub fn f(&mut self, ctx: &Ctx, a: A) -> R` | `RoomStub::f(a)`; runs alone |
/// | `pub fn f(&self, …)` | the same; may interleave with other `&self` methods where it awaits |
/// | `fn fetch(&mut self, ctx: &Ctx, request: Request) -> Result<Response, E>`, or with `&self` | answers HTTP requests: `RoomStub::fetch(request)` |
/// | `fn alarm(&mut self, ctx: &Ctx, alarm: AlarmInfo)` | called when the object's alarm is due |
/// | `fn web_socket_message(&mut self, ctx: &Ctx, socket: &WebSocket, message: Message)` | called for each message of a WebSocket |
/// | `fn web_socket_close(&mut self, ctx: &Ctx, socket: &WebSocket, reason: CloseReason)` | called when a WebSocket is gone |
/// | `fn web_socket_error(&mut self, ctx: &Ctx, socket: &WebSocket, error: WebSocketError)` | called when a WebSocket was closed because of what the peer did on it |
/// | other functions | are left alone |
///
/// All may be `async`, may leave out `ctx`, and may return a value or a `Result` whose error can be
/// displayed. Arguments and results are owned, `Send`, and serialisable with serde, so that a call can leave the
/// process: see the trait `Transfer`, and `Local`, `Callback` and `Stream` for what is not data.
///
/// The class is named like the type; `#[dovehouse::object(class = "Name")]` names it otherwise, which
/// lets the type be renamed later without losing its objects. `storage = "kv"` makes a class without SQL; a
/// class keeps the storage that it was made with. `retention = "90d"` (or `"12h"`, `"30m"`, `"90s"`, `"off"`,
/// `"forever"`) says for how long its objects can be had as they were, and `thinned = true` that this is exact for
/// the last day only, and by the minute before; see `Object::RETENTION` and `Object::THINNED`.
#[proc_macro_attribute]
pub fn object(arguments: TokenStream, block: TokenStream) -> TokenStream {
    expand::object(arguments.into(), block.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
