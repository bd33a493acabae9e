//! The `Idempotency-Key` header.

use http::HeaderMap;
use selvedge_core::{Error, ErrorKind, Result};

/// The header's name.
pub(crate) const HEADER: &str = "idempotency-key";

/// The key of a request. The IETF draft makes it a structured-field string (RFC 9651), in double quotes; bare values are
/// taken too, because most clients send them.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("there is more than one"));
    }
    let text = value.to_str().map_err(|_| invalid("it has characters that are not printable ASCII"))?.trim();
    let key = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => unquote(rest).ok_or_else(|| invalid("its quotes do not close, or an escape is wrong"))?,
    };
    if key.is_empty() { Err(invalid("it is empty")) } else { Ok(Some(key)) }
}

/// What stands before the closing quote. Parameters after it are ignored, as the RFC has it.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '\\' => match chars.next()? {
                escaped @ ('"' | '\\') => key.push(escaped),
                _ => return None,
            },
            '"' => break,
            other => key.push(other),
        }
    }
    let rest = chars.as_str().trim_start();
    (rest.is_empty() || rest.starts_with(';')).then_some(key)
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "http.idempotency", format!("the Idempotency-Key cannot be read: {message}"))
        .advise("send one key of 1 to 255 printable ASCII characters, in double quotes")
}

pub(crate) fn missing() -> Error {
    Error::new(ErrorKind::InvalidInput, "http.idempotency", "the Idempotency-Key header is missing")
        .advise("make a key for each intent, keep it with the intent, and send the same key with every retry")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Result<Option<String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, value.parse().expect("a header value"));
        }
        read(&headers)
    }

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        assert_eq!(key(&["\"order-1\""]).expect("quoted"), Some("order-1".into()));
        assert_eq!(key(&["order-1"]).expect("bare"), Some("order-1".into()));
        assert_eq!(key(&[r#""a\"b\\c";v=1"#]).expect("escaped"), Some(r#"a"b\c"#.into()));
        assert_eq!(key(&[]).expect("none"), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in [&["a", "b"][..], &["\"open"], &[""], &["\"\""], &[r#""a\x""#], &["\"a\" b"]] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }
}
