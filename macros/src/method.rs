//! What a method of the block looks like from outside.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, FnArg, Ident, ImplItemFn, Pat, PatType, ReceiverKind, Result, ReturnType, Type};

/// A method's receiver, which says how it is scheduled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// No receiver.
    None,
    /// `&self`: may interleave.
    Shared,
    /// `&mut self`: runs alone.
    Exclusive,
}

/// A method, taken apart.
pub(crate) struct Method<'a> {
    pub(crate) item: &'a ImplItemFn,
    pub(crate) receiver: Receiver,
    /// Whether the first argument after the receiver is `&Ctx`.
    pub(crate) takes_ctx: bool,
    /// The other arguments.
    pub(crate) arguments: Vec<(Ident, &'a Type)>,
}

impl<'a> Method<'a> {
    pub(crate) fn parse(item: &'a ImplItemFn) -> Result<Self> {
        let mut receiver = Receiver::None;
        let mut takes_ctx = false;
        let mut arguments = Vec::new();
        for input in &item.sig.inputs {
            match input {
                FnArg::Receiver(found) => {
                    receiver = match &found.kind {
                        ReceiverKind::Reference(_, _, Some(_)) => Receiver::Exclusive,
                        ReceiverKind::Reference(_, _, None) => Receiver::Shared,
                        _ => {
                            let message =
                                "a durable object is never moved: take `&self` or `&mut self`";
                            return Err(Error::new_spanned(found, message));
                        }
                    };
                }
                FnArg::Typed(typed) if is_ctx(&typed.ty) && arguments.is_empty() => {
                    takes_ctx = true
                }
                FnArg::Typed(typed) => arguments.push((name(typed, arguments.len()), &*typed.ty)),
            }
        }
        Ok(Method {
            item,
            receiver,
            takes_ctx,
            arguments,
        })
    }

    pub(crate) fn ident(&self) -> &Ident {
        &self.item.sig.ident
    }

    /// An expression that calls the method and gives a `Result` with a `CallError`. `instance` is how
    /// to reach the object, `arguments` what to pass after the context.
    pub(crate) fn call(
        &self,
        receiver: Option<TokenStream>,
        arguments: &[TokenStream],
    ) -> TokenStream {
        let ident = self.ident();
        let ctx = self.takes_ctx.then(|| quote!(ctx));
        let all = receiver
            .into_iter()
            .chain(ctx)
            .chain(arguments.iter().cloned());
        let awaited = self.item.sig.asyncness.is_some().then(|| quote!(.await));
        let call = quote!(Self::#ident(#(#all),*) #awaited);
        if self.returns_result() {
            quote!(::dovehouse::Reply::into_reply(#call))
        } else {
            quote!(::core::result::Result::<_, ::dovehouse::CallError>::Ok(#call))
        }
    }

    /// Whether the return type is spelled as some `Result`.
    fn returns_result(&self) -> bool {
        let ReturnType::Type(_, returned) = &self.item.sig.output else {
            return false;
        };
        let Type::Path(path) = &**returned else {
            return false;
        };
        path.path
            .segments
            .last()
            .is_some_and(|segment| segment.ident == "Result")
    }

    /// What the stub's method returns when all goes well.
    pub(crate) fn reply_type(&self) -> TokenStream {
        match &self.item.sig.output {
            ReturnType::Default => quote!(()),
            ReturnType::Type(_, returned) if self.returns_result() => {
                quote!(<#returned as ::dovehouse::Reply>::Value)
            }
            ReturnType::Type(_, returned) => quote!(#returned),
        }
    }
}

fn is_ctx(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else {
        return false;
    };
    let Type::Path(path) = &*reference.elem else {
        return false;
    };
    path.path
        .segments
        .last()
        .is_some_and(|segment| segment.ident == "Ctx")
}

/// The argument's name, or one that stands in for a pattern.
fn name(argument: &PatType, index: usize) -> Ident {
    match &*argument.pat {
        Pat::Ident(pattern) => pattern.ident.clone(),
        _ => quote::format_ident!("argument_{index}"),
    }
}
