//! `/v1/files`.

use std::{future::Future, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::{
        FromRequest, Multipart, Path, Query, Request, State,
        multipart::{Field, MultipartError},
    },
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use selvedge_core::{Context, Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{FileObject, Problem, server::AppState};

/// How long a sender may be silent in the middle of a file.
const SILENCE: Duration = Duration::from_secs(30);
/// The most bytes of a field that is no file.
const FIELD: usize = 4 << 10;
/// What is thrown away of a file that is too large, so that its sender reads the answer instead of a broken connection.
const DISCARD: usize = 32 << 20;

#[derive(Deserialize)]
pub(super) struct Page {
    purpose: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
}

pub(super) async fn create(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    request: Request,
) -> Result<Json<FileObject>, Problem> {
    let mut form = Multipart::from_request(request, &state).await.map_err(|error| {
        Problem::bad("openai.files", format!("the body is no multipart form: {}", error.body_text()))
    })?;
    let mut upload = state.batches.upload();
    let (mut filename, mut purpose) = (None, None);
    while let Some(mut field) = timely(form.next_field()).await? {
        match field.name() {
            Some("file") if filename.is_none() => {
                filename = Some(field.file_name().unwrap_or("input.jsonl").to_owned());
                while let Some(bytes) = timely(field.chunk()).await? {
                    if let Err(error) = upload.push(&cx, &bytes).await {
                        discard(field).await;
                        return Err(Problem::from(error).param("file"));
                    }
                }
            }
            Some("purpose") => purpose = Some(text(field).await?),
            // Other fields of OpenAI's form, such as when a file should expire, change nothing here.
            _ => while timely(field.chunk()).await?.is_some() {},
        }
    }
    let missing = |name: &'static str| {
        Problem::bad("openai.files", format!("the form has no {name}")).param(name).code("missing_required_parameter")
    };
    let filename = filename.ok_or_else(|| missing("file"))?;
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    let made = upload.finish(&cx, &filename, &purpose).await;
    made.map(Json).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => Problem::from(error).param("purpose"),
        _ => error.into(),
    })
}

async fn text(mut field: Field<'_>) -> Result<String, Problem> {
    let mut all = Vec::new();
    while let Some(bytes) = timely(field.chunk()).await? {
        all.extend_from_slice(&bytes);
        if all.len() > FIELD {
            return Err(Problem::bad("openai.files", "a field of the form is too long").param("purpose"));
        }
    }
    String::from_utf8(all)
        .map_err(|_| Problem::bad("openai.files", "a field of the form is not UTF-8").param("purpose"))
}

/// Waits for a sender, but not for ever.
async fn timely<T>(next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Problem> {
    match tokio::time::timeout(SILENCE, next).await {
        Ok(Ok(next)) => Ok(next),
        Ok(Err(error)) => {
            Err(Problem::bad("openai.files", format!("the form did not arrive whole: {}", error.body_text())))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            Error::new(ErrorKind::DeadlineExceeded, "openai.files", "nothing more of the form came")
                .with("seconds", SILENCE.as_secs())
                .advise("send it again"),
        )),
    }
}

async fn discard(mut field: Field<'_>) {
    let mut left = DISCARD;
    let rest = async {
        while let Ok(Some(bytes)) = field.chunk().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whether the rest came in time makes no difference to the answer.
    let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
}

pub(super) async fn list(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let mut files = state.batches.files(&cx).await?;
    if page.order.as_deref() == Some("asc") {
        files.reverse();
    }
    files.retain(|file| page.purpose.as_ref().is_none_or(|purpose| *purpose == file.purpose));
    if let Some(after) = &page.after {
        let from = files.iter().position(|file| file.id == *after).map_or(files.len(), |at| at + 1);
        files.drain(..from);
    }
    let limit = page.limit.unwrap_or(10_000);
    let has_more = files.len() > limit;
    files.truncate(limit);
    let (first, last) = (files.first().map(|one| &one.id), files.last().map(|one| &one.id));
    Ok(Json(json!({ "object": "list", "data": files, "first_id": first, "last_id": last, "has_more": has_more })))
}

pub(super) async fn one(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, Problem> {
    Ok(Json(state.batches.file(&cx, &id).await?))
}

pub(super) async fn delete(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    state.batches.delete(&cx, &id).await?;
    Ok(Json(json!({ "id": id, "object": "file", "deleted": true })))
}

/// A page of it is in memory at a time, however slowly it is read.
pub(super) async fn content(
    State(state): State<AppState>,
    Extension(cx): Extension<Context>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let content = state.batches.content(&cx, &id).await?;
    let mut response: Response<Body> = Response::new(Body::from_stream(content));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}
