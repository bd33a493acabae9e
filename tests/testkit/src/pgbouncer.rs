//! A real PgBouncer for tests: in transaction mode, in front of a [`Cluster`], on a free port, ending with the process.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, ChildStdin, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::postgres::{Cluster, unprivileged};

/// A pool between the tests and a cluster. It stops when this is dropped and when the process ends however it ends.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    keeper: Child,
    /// The keeper stops it when this is closed.
    leash: Option<ChildStdin>,
}

/// Runs it until its input ends.
const KEEPER: &str = r#"
set -eu
folder=$(mktemp -d)
trap 'kill -INT $bouncer 2>/dev/null || true; wait $bouncer 2>/dev/null || true; rm -rf "$folder"' EXIT
echo '"postgres" ""' >"$folder/users"
cat >"$folder/ini" <<END
[databases]
postgres = host=127.0.0.1 port=$2
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = trust
auth_file = $folder/users
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
logfile = $folder/log
pidfile = $folder/pid
END
pgbouncer -q "$folder/ini" &
bouncer=$!
i=0
until pg_isready -q -h 127.0.0.1 -p "$1"; do
  i=$((i + 1))
  if [ $i -gt 200 ] || ! kill -0 $bouncer 2>/dev/null; then cat "$folder/log" >&2; exit 1; fi
  sleep 0.05
done
echo ready
cat >/dev/null
"#;

impl PgBouncer {
    /// Starts one in front of a cluster.
    ///
    /// # Errors
    /// When PgBouncer is not installed, with how to install it, or does not start, with what it said.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = unprivileged();
        command.args(["sh", "-c", KEEPER, "keeper", &port.to_string(), &cluster.port().to_string()]);
        // Debian keeps it among the programs of the administrator.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        let mut keeper = command.spawn().context("cannot start a shell for PgBouncer")?;
        let leash = keeper.stdin.take();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().context("no output")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("PgBouncer did not start ({}); is it installed (`apt-get install pgbouncer`)?", keeper.wait()?);
        }
        Ok(Self { port, keeper, leash })
    }

    /// The URL of the cluster's database `postgres`, through the pool.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.keeper.wait();
    }
}
