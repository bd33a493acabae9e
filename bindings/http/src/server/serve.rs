//! Listening, and ending well.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Request, State as Shared, connect_info::IntoMakeServiceWithConnectInfo},
    middleware::{self, Next},
    response::Response,
};
use selvedge_core::{CancelToken, Error, ErrorKind, Result};
use tokio::net::TcpListener;

/// Whether the server still takes work, and how much of it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifecycle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    draining: AtomicBool,
    running: AtomicUsize,
    cut_off: CancelToken,
}

impl Lifecycle {
    pub(crate) fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Cancelled when the time to drain is over.
    pub(crate) fn cut_off(&self) -> &CancelToken {
        &self.0.cut_off
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that did not end in time and were cut off.
    pub unfinished: usize,
}

/// Serves until `shutdown` completes; then takes no more requests and lets the running ones end for at most `drain`. What
/// is left is cancelled: its work stops, its leases and claims run out by themselves.
///
/// # Errors
/// `Unavailable` when the listener breaks.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> Result<Drained> {
    let lifecycle = Lifecycle::default();
    let app =
        router.layer(middleware::from_fn_with_state(lifecycle.clone(), count)).layer(Extension(lifecycle.clone()));
    let app: IntoMakeServiceWithConnectInfo<Router, SocketAddr> = app.into_make_service_with_connect_info();
    let stopping = CancelToken::new();
    let signal = {
        let (lifecycle, stopping) = (lifecycle.clone(), stopping.clone());
        async move {
            shutdown.await;
            lifecycle.0.draining.store(true, Ordering::Release);
            stopping.cancel();
        }
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(signal).into_future();
    let limit = async {
        stopping.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        ended = server => {
            ended.map_err(|error| {
                Error::new(ErrorKind::Unavailable, "http.serve", "the listener broke").caused_by(error)
            })?;
            Ok(Drained { unfinished: 0 })
        }
        () = limit => {
            let unfinished = lifecycle.0.running.load(Ordering::Acquire);
            lifecycle.0.cut_off.cancel();
            // A moment for what was cancelled to say so.
            let ended = async {
                while lifecycle.0.running.load(Ordering::Acquire) > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(500), ended).await;
            Ok(Drained { unfinished })
        }
    }
}

/// Counts a request until its answer has been sent or its client is gone.
async fn count(Shared(lifecycle): Shared<Lifecycle>, request: Request, next: Next) -> Response {
    let running = Running::new(lifecycle);
    let response = next.run(request).await;
    response.map(|body| Body::new(Counted { body, _running: running }))
}

/// A body that keeps its request counted.
struct Counted {
    body: Body,
    _running: Running,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<std::result::Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    // With these two a short answer keeps its Content-Length.
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

struct Running(Lifecycle);

impl Running {
    fn new(lifecycle: Lifecycle) -> Self {
        lifecycle.0.running.fetch_add(1, Ordering::AcqRel);
        Self(lifecycle)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
