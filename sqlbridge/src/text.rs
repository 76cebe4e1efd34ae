//! The words of an SQL text: as much of SQLite's grammar as the bridge has to see by itself.

use std::borrow::Cow;
use std::ops::Range;

/// A piece of a text that means something: neither blank nor comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// Where it is, in bytes.
    pub(crate) at: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword, a name, a number, or a parameter.
    Word,
    /// A name or a text in one of SQLite's four kinds of quotes, with them.
    Quoted,
    /// Anything else, a byte each.
    Symbol,
}

/// The tokens of a text, from its beginning. An unclosed quote or comment goes to the end.
pub(crate) fn tokens(sql: &str) -> impl Iterator<Item = Token> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        at = skip_blank(bytes, at);
        let start = at;
        let first = *bytes.get(at)?;
        let kind = match first {
            b'\'' | b'"' | b'`' | b'[' => {
                at = end_of_quoted(bytes, at);
                Kind::Quoted
            }
            _ if is_word(first) => {
                let rest = bytes[at..].iter();
                at += rest.take_while(|&&byte| is_word(byte)).count();
                Kind::Word
            }
            _ => {
                at += 1;
                Kind::Symbol
            }
        };
        Some(Token {
            kind,
            at: start..at,
        })
    })
}

fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    let end_of = |from: usize, mark: &[u8]| {
        let rest = bytes.get(from..).unwrap_or_default();
        let found = rest.windows(mark.len()).position(|part| part == mark);
        found.map_or(bytes.len(), |found| from + found + mark.len())
    };
    loop {
        match &bytes[at..] {
            [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => at += 1,
            // A byte order mark; SQLite takes one for a blank wherever a token may begin.
            [0xef, 0xbb, 0xbf, ..] => at += 3,
            [b'-', b'-', ..] => at = end_of(at + 2, b"\n"),
            [b'/', b'*', ..] => at = end_of(at + 2, b"*/"),
            _ => return at,
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'_' | b'$' | b'@' | b':' | b'#' | b'?')
        || byte >= 0x80
}

fn end_of_quoted(bytes: &[u8], start: usize) -> usize {
    let quote = if bytes[start] == b'[' {
        b']'
    } else {
        bytes[start]
    };
    let mut at = start + 1;
    while at < bytes.len() {
        if bytes[at] == quote {
            // Twice is once, inside; but for brackets.
            if quote == b']' || bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

impl Token {
    /// Whether it is this keyword.
    pub(crate) fn is(&self, sql: &str, keyword: &str) -> bool {
        self.kind == Kind::Word && sql[self.at.clone()].eq_ignore_ascii_case(keyword)
    }

    pub(crate) fn is_symbol(&self, sql: &str, symbol: u8) -> bool {
        self.kind == Kind::Symbol && sql.as_bytes()[self.at.start] == symbol
    }

    /// The name that it stands for, without quotes.
    pub(crate) fn name<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        let text = &sql[self.at.clone()];
        if self.kind != Kind::Quoted {
            return text.into();
        }
        let quote = text.chars().next().map_or(']', |first| match first {
            '[' => ']',
            other => other,
        });
        let inner = text[1..].strip_suffix(quote).unwrap_or(&text[1..]);
        let twice = [quote, quote].iter().collect::<String>();
        inner.replace(&twice, &quote.to_string()).into()
    }
}

/// The first keyword of a text. Empty semicolons before it are skipped, as SQLite does it.
pub(crate) fn first_word(sql: &str) -> &str {
    let mut tokens = tokens(sql).skip_while(|token| token.is_symbol(sql, b';'));
    tokens.next().map_or("", |token| &sql[token.at])
}

/// Names that a statement has and SQLite's authorizer does not hear, or not as the statement's own: the new one
/// in `ALTER TABLE … RENAME TO …`, and what `ANALYZE` and `REINDEX` are about.
pub(crate) fn names_that_sqlite_does_not_tell(sql: &str) -> Vec<Cow<'_, str>> {
    let first = first_word(sql);
    let is = |keyword: &str| first.eq_ignore_ascii_case(keyword);
    if is("ALTER") {
        let words: Vec<Token> = tokens(sql).collect();
        let renames = words
            .windows(3)
            .filter(|three| three[0].is(sql, "RENAME") && three[1].is(sql, "TO"));
        renames.map(|three| three[2].name(sql)).collect()
    } else if is("ANALYZE") || is("REINDEX") {
        tokens(sql).map(|token| token.name(sql)).collect()
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_comments_are_no_words_and_names_lose_their_quotes() {
        let sql = "a/*b*/'c''d' \"e\"\"f\"[g h]--i\n`j`?1,:k é /*";
        let found: Vec<_> = tokens(sql).map(|token| &sql[token.at.clone()]).collect();
        assert_eq!(
            found,
            [
                "a",
                "'c''d'",
                "\"e\"\"f\"",
                "[g h]",
                "`j`",
                "?1",
                ",",
                ":k",
                "é"
            ]
        );
        let names: Vec<_> = tokens(sql)
            .map(|token| token.name(sql).into_owned())
            .collect();
        assert_eq!(
            names,
            ["a", "c'd", "e\"f", "g h", "j", "?1", ",", ":k", "é"]
        );
        for unclosed in ["'", "'a''", "[", "\"é", "/*", "-"] {
            tokens(unclosed).for_each(|token| drop(token.name(unclosed)));
        }
    }

    #[test]
    fn the_first_word_is_behind_comments_and_semicolons() {
        assert_eq!(first_word(" ;; -- x\n /**/;vacuum"), "vacuum");
        assert_eq!(first_word("\u{feff}vacuum"), "vacuum");
        assert_eq!(first_word(""), "");
    }

    #[test]
    fn the_new_name_of_a_table_is_found_and_that_of_a_column_is_not() {
        let names = names_that_sqlite_does_not_tell;
        assert_eq!(names("ALTER TABLE a RENAME TO [b]"), ["b"]);
        assert_eq!(names("alter table m.a rename/**/to'b';"), ["b"]);
        assert!(names("ALTER TABLE a RENAME b TO c").is_empty());
        assert!(names("ALTER TABLE a RENAME COLUMN b TO c").is_empty());
        assert!(names("SELECT 1").is_empty());
        assert_eq!(names("ANALYZE main.\"a\""), ["ANALYZE", "main", ".", "a"]);
    }
}
