//! Fetching: one conditional request, whose answer is believed or leaves everything as it was.

use std::sync::Arc;

use bytes::Bytes;
use selvedge_core::{
    Context, Error, ErrorKind, Result,
    transport::{HttpRequest, HttpTransport},
};

use super::{ConfigSource, Configs, OPERATION};

/// Where configurations are fetched.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) transport: Arc<dyn HttpTransport>,
    pub(crate) path: String,
}

/// What a refresh found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refreshed {
    /// A new configuration holds from now on.
    New,
    /// The one that holds is still the newest.
    Unchanged,
}

/// What a request came to.
enum Requested {
    New { body: Bytes, etag: Option<String> },
    Unchanged,
}

impl Remote {
    /// Asks for what is newer than `etag` (RFC 9110, section 13.1.2).
    async fn request(&self, cx: &Context, etag: Option<String>) -> Result<Requested> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let conditional = etag.is_some();
        headers.extend(etag.map(|etag| ("if-none-match".into(), etag)));
        headers.extend(cx.trace().map(|trace| ("traceparent".into(), trace.to_string())));
        let request = HttpRequest { method: "GET", path: self.path.clone(), headers, body: Bytes::new() };
        let response = self.transport.send(cx, request).await?;
        match response.status {
            200 => {
                let etag = response.header("etag").map(ToOwned::to_owned);
                Ok(Requested::New { etag, body: response.body })
            }
            304 if conditional => Ok(Requested::Unchanged),
            status => Err(Error::new(ErrorKind::Unavailable, OPERATION, "the server sent no configuration")
                .with("status", status)
                .with("path", &self.path)
                .advise("check the path and the API key; the last good configuration stays")),
        }
    }
}

impl Configs {
    /// Fetches, once. Whatever goes wrong, the configuration that holds stays.
    pub(crate) async fn refresh(&self, cx: &Context, remote: &Remote) -> Result<Refreshed> {
        match self.note(remote.request(cx, self.etag()).await)? {
            Requested::New { body, etag } => {
                self.take(&body, etag, ConfigSource::Server)?;
                Ok(Refreshed::New)
            }
            Requested::Unchanged => {
                self.confirm();
                Ok(Refreshed::Unchanged)
            }
        }
    }
}
