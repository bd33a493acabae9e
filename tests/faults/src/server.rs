//! The PostgreSQL that is crashed: a private cluster that flushes as a real one does.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use selvedge::postgres::tokio_postgres::{self, Client, NoTls};
use selvedge_testkit::postgres::Cluster;

use crate::counts::lock;

/// A cluster that many tasks share. Clones share it; the last one stops it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    cluster: Arc<Mutex<Cluster>>,
    url: String,
}

impl Server {
    /// Starts it with real flushes.
    pub(crate) fn start() -> Result<Self> {
        Cluster::start_with(&[]).map(Self::of)
    }

    pub(crate) fn of(cluster: Cluster) -> Self {
        Self { url: cluster.url(), cluster: Arc::new(Mutex::new(cluster)) }
    }

    /// Straight to it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The same through a proxy.
    pub(crate) fn url_at(port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
    }

    pub(crate) fn port(&self) -> Result<u16> {
        let config: tokio_postgres::Config = self.url.parse()?;
        config.get_ports().first().copied().context("the cluster's URL names no port")
    }

    /// `pg_ctl restart -m immediate`, and its recovery.
    pub(crate) async fn crash(&self) -> Result<()> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || lock(&cluster).crash()).await?.context("the server did not recover")
    }

    /// A plain connection straight to it.
    pub(crate) async fn client(&self) -> Result<Client> {
        connect(&self.url).await
    }

    /// Ends some connections from the server's side, as an administrator or a fail-over does; how many.
    pub(crate) async fn terminate(&self, most: i64) -> Result<u64> {
        let sql = "SELECT pg_terminate_backend(pid) FROM (
                     SELECT pid FROM pg_stat_activity
                     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT $1) AS victim";
        let rows = self.client().await?.query(sql, &[&most]).await?;
        Ok(rows.iter().filter(|row| row.get::<_, bool>(0)).count() as u64)
    }
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect to PostgreSQL")?;
    tokio::spawn(connection);
    Ok(client)
}
