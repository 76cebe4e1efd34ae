//! From the block to the stub and the implementation of `Object`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Ident, ImplItem, ImplItemFn, ItemImpl, Result, Type, Visibility};

use crate::arguments::{Arguments, arguments};
use crate::method::{Method, Receiver};

/// Expands the attribute.
pub(crate) fn object(attribute: TokenStream, block: TokenStream) -> Result<TokenStream> {
    let block: ItemImpl = syn::parse2(block)?;
    let ident = type_ident(&block)?;
    let Arguments { class, constants } = arguments(attribute, &ident)?;
    let functions: Vec<&ImplItemFn> = block
        .items
        .iter()
        .filter_map(|item| match item {
            ImplItem::Fn(function) => Some(function),
            _ => None,
        })
        .collect();

    let mut constructor = None;
    let mut events = Vec::new();
    let mut calls = Vec::new();
    for function in functions {
        let method = Method::parse(function)?;
        match method.ident().to_string().as_str() {
            "new" if method.receiver == Receiver::None => constructor = Some(expand_new(&method)?),
            "migrate" if method.receiver == Receiver::None && method.takes_ctx => {
                events.push(expand_migrate(&method)?)
            }
            "alarm" | "web_socket_message" | "web_socket_close" | "web_socket_error" => {
                events.push(expand_event(&method)?)
            }
            "fetch" if method.receiver != Receiver::None => events.push(expand_fetch(&method)?),
            _ if method.receiver == Receiver::None => {}
            _ if matches!(function.vis, Visibility::Public(_)) => {
                calls.push(expand_call(&ident, &method)?)
            }
            _ => {}
        }
    }
    let constructor = constructor.ok_or_else(|| {
        let message = "a durable object needs a constructor: `fn new(ctx: &Ctx) -> Self` or `-> Result<Self, E>`";
        Error::new_spanned(&block.self_ty, message)
    })?;

    let stub = format_ident!("{ident}Stub");
    let stub_doc =
        format!("A handle to one [`{ident}`], wherever it is and whether it is awake or not.");
    Ok(quote! {
        #block

        #[doc = #stub_doc]
        #[derive(Clone, Debug)]
        pub struct #stub(::dovehouse::Stub<#ident>);

        impl #stub {
            #(#calls)*

            /// Another stub of the same object, which does not share the failures of this one; see
            /// [`Stub::fresh`](::dovehouse::Stub::fresh).
            pub fn fresh(&self) -> Self {
                #stub(self.0.fresh())
            }

            /// The object's id.
            pub fn id(&self) -> &::dovehouse::ObjectId {
                self.0.id()
            }

            /// Answers a request to upgrade to a WebSocket, and hands the connection to the object;
            /// see [`Stub::accept_web_socket`](::dovehouse::Stub::accept_web_socket).
            pub fn accept_web_socket<B>(
                &self,
                request: &mut ::dovehouse::http::Request<B>,
                tags: &[&str],
            ) -> ::dovehouse::Response {
                self.0.accept_web_socket(request, tags)
            }

            /// Sends an HTTP request to the object's `fetch` handler; see
            /// [`Stub::fetch`](::dovehouse::Stub::fetch).
            pub async fn fetch<B: ::dovehouse::IntoBody>(
                &self,
                request: ::dovehouse::http::Request<B>,
            ) -> ::core::result::Result<::dovehouse::Response, ::dovehouse::CallError> {
                self.0.fetch(request).await
            }
        }

        impl ::core::convert::From<::dovehouse::Stub<#ident>> for #stub {
            fn from(stub: ::dovehouse::Stub<#ident>) -> Self {
                #stub(stub)
            }
        }

        impl ::core::convert::AsRef<::dovehouse::Stub<#ident>> for #stub {
            fn as_ref(&self) -> &::dovehouse::Stub<#ident> {
                &self.0
            }
        }

        impl ::dovehouse::serde::Serialize for #stub {
            fn serialize<S: ::dovehouse::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::core::result::Result<S::Ok, S::Error> {
                ::dovehouse::serde::Serialize::serialize(&self.0, serializer)
            }
        }

        impl<'de> ::dovehouse::serde::Deserialize<'de> for #stub {
            fn deserialize<D: ::dovehouse::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                ::dovehouse::serde::Deserialize::deserialize(deserializer).map(#stub)
            }
        }

        impl ::dovehouse::Object for #ident {
            const CLASS: &'static str = #class;
            #(#constants)*
            type Stub = #stub;

            #constructor
            #(#events)*
        }
    })
}

fn type_ident(block: &ItemImpl) -> Result<Ident> {
    if let Some((path, _)) = &block.trait_ {
        return Err(Error::new_spanned(
            path,
            "put the attribute on an inherent `impl` block",
        ));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &block.generics,
            "a class of durable objects cannot be generic",
        ));
    }
    match &*block.self_ty {
        Type::Path(path) if path.path.get_ident().is_some() => {
            Ok(path.path.get_ident().expect("just checked").clone())
        }
        other => Err(Error::new_spanned(other, "expected the name of a type")),
    }
}

fn expand_new(method: &Method<'_>) -> Result<TokenStream> {
    no_more_arguments(method, 0)?;
    let call = method.call(None, &[]);
    Ok(quote! {
        async fn new(ctx: &::dovehouse::Ctx) -> ::core::result::Result<Self, ::dovehouse::CallError> {
            let _ = ctx;
            #call
        }
    })
}

fn expand_migrate(method: &Method<'_>) -> Result<TokenStream> {
    no_more_arguments(method, 0)?;
    let call = method.call(None, &[]);
    Ok(quote! {
        async fn migrate(ctx: &::dovehouse::Ctx) -> ::core::result::Result<(), ::dovehouse::CallError> {
            let _done = #call?;
            ::core::result::Result::Ok(())
        }
    })
}

fn expand_event(method: &Method<'_>) -> Result<TokenStream> {
    if method.receiver != Receiver::Exclusive {
        return Err(Error::new_spanned(
            &method.item.sig,
            "an event handler takes `&mut self`",
        ));
    }
    let ident = method.ident();
    let (parameters, names, constant) = match ident.to_string().as_str() {
        "alarm" => (
            quote!(alarm: ::dovehouse::AlarmInfo),
            vec![quote!(alarm)],
            Some(quote!(
                const HAS_ALARM: bool = true;
            )),
        ),
        "web_socket_message" => (
            quote!(socket: &::dovehouse::WebSocket, message: ::dovehouse::Message),
            vec![quote!(socket), quote!(message)],
            None,
        ),
        "web_socket_error" => (
            quote!(socket: &::dovehouse::WebSocket, error: ::dovehouse::WebSocketError),
            vec![quote!(socket), quote!(error)],
            None,
        ),
        _ => (
            quote!(socket: &::dovehouse::WebSocket, reason: ::dovehouse::CloseReason),
            vec![quote!(socket), quote!(reason)],
            None,
        ),
    };
    // Trailing parameters may be left out by the handler.
    no_more_arguments(method, names.len())?;
    let call = method.call(Some(quote!(self)), &names[..method.arguments.len()]);
    Ok(quote! {
        #constant

        async fn #ident(
            &mut self,
            ctx: &::dovehouse::Ctx,
            #parameters,
        ) -> ::core::result::Result<(), ::dovehouse::CallError> {
            let _ = (ctx, #(&#names),*);
            let _done = #call?;
            ::core::result::Result::Ok(())
        }
    })
}

fn expand_fetch(method: &Method<'_>) -> Result<TokenStream> {
    no_more_arguments(method, 1)?;
    let (ident, receiver, kind) = match method.receiver {
        Receiver::Shared => (quote!(fetch_shared), quote!(&self), quote!(Shared)),
        _ => (quote!(fetch), quote!(&mut self), quote!(Exclusive)),
    };
    // The request may be left out by the handler.
    let passed = [quote!(request)];
    let call = method.call(Some(quote!(self)), &passed[..method.arguments.len()]);
    Ok(quote! {
        const FETCH: ::dovehouse::FetchHandler = ::dovehouse::FetchHandler::#kind;

        async fn #ident(
            #receiver,
            ctx: &::dovehouse::Ctx,
            request: ::dovehouse::Request,
        ) -> ::core::result::Result<::dovehouse::Response, ::dovehouse::CallError> {
            let _ = (ctx, &request);
            #call
        }
    })
}

fn no_more_arguments(method: &Method<'_>, allowed: usize) -> Result<()> {
    match method.arguments.get(allowed) {
        None => Ok(()),
        Some((_, ty)) => Err(Error::new_spanned(
            ty,
            "the runtime has nothing to pass here",
        )),
    }
}

fn expand_call(object: &Ident, method: &Method<'_>) -> Result<TokenStream> {
    let signature = &method.item.sig;
    if !signature.generics.params.is_empty() {
        let message = "a method that is called through the stub cannot be generic";
        return Err(Error::new_spanned(&signature.generics, message));
    }
    for (_, ty) in &method.arguments {
        if let Type::Reference(_) | Type::ImplTrait(_) = ty {
            let message = "arguments travel to another thread: take an owned type, such as `String` for `&str`";
            return Err(Error::new_spanned(ty, message));
        }
    }
    let ident = method.ident();
    let docs: Vec<_> = method
        .item
        .attrs
        .iter()
        .filter(|found| found.path().is_ident("doc"))
        .collect();
    let fallback = docs.is_empty().then(|| {
        let text = format!("Calls [`{object}::{ident}`].");
        quote!(#[doc = #text])
    });
    let (names, types): (Vec<_>, Vec<_>) = method.arguments.iter().cloned().unzip();
    let reply = method.reply_type();
    let passed: Vec<TokenStream> = names.iter().map(|name| quote!(#name)).collect();
    let call = method.call(Some(quote!(this)), &passed);
    // `Self` inside the call is the object, not the stub.
    let call = replace_self(call, object);
    let (deliver, this) = match method.receiver {
        Receiver::Exclusive => (format_ident!("call_exclusive"), quote!(&mut #object)),
        _ => (format_ident!("call_shared"), quote!(&#object)),
    };
    let name = ident.to_string();
    let returned = replace_self(quote!(#reply), object);
    let types: Vec<_> = types
        .iter()
        .map(|ty| replace_self(quote!(#ty), object))
        .collect();
    let travels = types
        .iter()
        .zip(&method.arguments)
        .map(|(ty, (_, at))| quote_spanned!(at.span()=> ::dovehouse::check_transfer::<#ty>();));
    let comes_back =
        quote_spanned!(signature.output.span()=> ::dovehouse::check_transfer::<#returned>(););
    Ok(quote! {
        #(#docs)*
        #fallback
        pub async fn #ident(
            &self,
            #(#names: #types),*
        ) -> ::core::result::Result<#returned, ::dovehouse::CallError> {
            #(#travels)*
            #comes_back
            self.0.#deliver(#name, async move |this: #this, ctx: &::dovehouse::Ctx| {
                let _ = ctx;
                #call
            }).await
        }
    })
}

fn replace_self(tokens: TokenStream, object: &Ident) -> TokenStream {
    use proc_macro2::{Group, TokenTree};
    let replaced = tokens.into_iter().map(|token| match token {
        TokenTree::Ident(ident) if ident == "Self" => TokenTree::Ident(object.clone()),
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), replace_self(group.stream(), object));
            inner.set_span(group.span());
            TokenTree::Group(inner)
        }
        other => other,
    });
    replaced.collect()
}
