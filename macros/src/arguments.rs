//! What the attribute's arguments say.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Ident, Lit, LitStr, MetaNameValue, Result, Token};

pub(crate) struct Arguments {
    pub(crate) class: LitStr,
    /// Constants of the implementation of `Object`, for what is said.
    pub(crate) constants: Vec<TokenStream>,
}

const EXPECTED: &str = "expected `class = \"Name\"`, `storage = \"sqlite\"` or `\"kv\"`, \
                        `retention = \"30d\"`, or `thinned = true`";
const EXPECTED_TIME: &str = "expected a time as `\"30d\"`, `\"12h\"`, `\"30m\"` or `\"90s\"`, \
                             or `\"off\"`, or `\"forever\"`";

pub(crate) fn arguments(arguments: TokenStream, ident: &Ident) -> Result<Arguments> {
    let mut found = Arguments {
        class: LitStr::new(&ident.to_string(), ident.span()),
        constants: Vec::new(),
    };
    let parser = Punctuated::<MetaNameValue, Token![,]>::parse_terminated;
    for argument in parser.parse2(arguments)? {
        let name = argument.path.get_ident().map(Ident::to_string);
        let Expr::Lit(ExprLit { lit, .. }) = &argument.value else {
            return Err(Error::new_spanned(&argument, EXPECTED));
        };
        match (name.as_deref(), lit) {
            (Some("class"), Lit::Str(class)) => found.class = class.clone(),
            (Some("storage"), Lit::Str(storage)) => found.constants.push(expand_storage(storage)?),
            (Some("retention"), Lit::Str(time)) => found.constants.push(expand_retention(time)?),
            (Some("thinned"), Lit::Bool(is_thinned)) => {
                found
                    .constants
                    .push(quote!(const THINNED: bool = #is_thinned;));
            }
            _ => return Err(Error::new_spanned(&argument, EXPECTED)),
        }
    }
    Ok(found)
}

fn expand_storage(storage: &LitStr) -> Result<TokenStream> {
    let kind = match storage.value().as_str() {
        "sqlite" => quote!(Sqlite),
        "kv" => quote!(Kv),
        _ => return Err(Error::new_spanned(storage, EXPECTED)),
    };
    Ok(quote!(const STORAGE: ::dovehouse::StorageKind = ::dovehouse::StorageKind::#kind;))
}

fn expand_retention(time: &LitStr) -> Result<TokenStream> {
    let text = time.value();
    let retention = match text.as_str() {
        "off" => quote!(Off),
        "forever" => quote!(Forever),
        _ => {
            let seconds = seconds(&text).ok_or_else(|| Error::new_spanned(time, EXPECTED_TIME))?;
            quote!(For(::core::time::Duration::from_secs(#seconds)))
        }
    };
    Ok(quote! {
        const RETENTION: ::core::option::Option<::dovehouse::Retention> =
            ::core::option::Option::Some(::dovehouse::Retention::#retention);
    })
}

/// A whole number and its unit, in seconds.
fn seconds(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let in_seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    number.checked_mul(in_seconds)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_have_a_whole_number_and_a_unit() {
        let times = [
            ("0d", 0),
            ("90s", 90),
            ("30m", 1_800),
            ("12h", 43_200),
            ("30d", 2_592_000),
        ];
        for (text, expected) in times {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "d",
            "30",
            "-1d",
            "1.5h",
            "1 d",
            "30w",
            "30é",
            "18446744073709551615d",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
