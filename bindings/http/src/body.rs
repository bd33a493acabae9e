//! Request bodies: bounded, and with errors that name the place.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use selvedge_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;

use crate::Problem;

const OPERATION: &str = "http.body";
/// What is thrown away of a body that is too large, so that its sender reads the answer instead of a broken connection.
const DISCARD: usize = 32 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(mut body: Body, limit: usize) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "the body did not arrive whole").caused_by(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > limit {
            let mut left = DISCARD;
            let rest = async {
                while let Some(Ok(frame)) = body.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                    if left == 0 {
                        break;
                    }
                }
            };
            // Whether the rest came in time makes no difference to the answer.
            let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
            return Err(Error::new(ErrorKind::TooLarge, OPERATION, "the body is too large")
                .with("limit_bytes", limit)
                .advise("send less at once, or ask the operator for a larger limit"));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

/// Reads JSON; an error names the field, or the line and column.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::bad(OPERATION, format!("the body is not UTF-8: byte {} does not fit", error.valid_up_to()))
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() && path != "." {
            Problem::bad(OPERATION, format!("{path}: {inner}")).param(path)
        } else {
            Problem::bad(OPERATION, format!("the body is not the JSON expected: {inner}"))
        }
    })?;
    reader.end().map_err(|error| Problem::bad(OPERATION, format!("the body goes on after its JSON: {error}")))?;
    Ok(value)
}
