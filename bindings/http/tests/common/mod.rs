//! What the tests share: a server on a real socket over a real SQLite file.

#![allow(dead_code, clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::Router;
use selvedge_core::{CancelToken, Error, Result};
use selvedge_http::{Drained, serve};
use selvedge_sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

/// A folder with a database in it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("server.db")
    }

    pub(crate) fn open(&self) -> SqliteStore {
        open(&self.path())
    }
}

pub(crate) fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).expect("the database opens")
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: CancelToken,
    task: JoinHandle<Result<Drained, Error>>,
}

impl Server {
    pub(crate) async fn start(router: Router) -> Self {
        Self::with_drain(router, Duration::from_secs(5)).await
    }

    pub(crate) async fn with_drain(router: Router, drain: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let stop = CancelToken::new();
        let task = tokio::spawn(serve(listener, router, stop.cancelled(), drain));
        Self { address, stop, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks it to end.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end.
    pub(crate) async fn ended(self) -> Drained {
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("it ends in time")
            .expect("no panic")
            .expect("no error")
    }
}

/// Waits until something is so, or fails after ten seconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < Duration::from_secs(10), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client")
}

pub(crate) async fn text(response: reqwest::Response) -> (u16, String) {
    (response.status().as_u16(), response.text().await.expect("a body"))
}

pub(crate) async fn json(response: reqwest::Response) -> (u16, serde_json::Value) {
    let (status, text) = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
}
