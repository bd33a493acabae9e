//! The servers that are measured on: private clusters, kept by a program of the testkit.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{place, shell};

/// A PostgreSQL of its own that ends, files and all, with this value or this process.
pub(super) struct Cluster {
    keeper: Child,
    /// The URL of its database `postgres`.
    url: String,
}

impl Cluster {
    /// Starts one that flushes as a real server does, with these settings, by the program that keeps it.
    pub(super) fn start(keeper: &Path, settings: &[&str]) -> Result<Self> {
        let mut keeper = Command::new(keeper)
            .args(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the program that keeps PostgreSQL")?;
        let mut url = String::new();
        BufReader::new(keeper.stdout.take().context("no output")?).read_line(&mut url)?;
        if url.trim().is_empty() {
            bail!("PostgreSQL did not start ({}); what it said is above", keeper.wait()?);
        }
        let cluster = Self { keeper, url: url.trim().to_owned() };
        for setting in ["fsync", "synchronous_commit"] {
            ensure!(cluster.ask(&format!("SHOW {setting}"))? == "on", "{setting} is off: this measures nothing");
        }
        Ok(cluster)
    }

    /// A new and empty database, in place of the one of that name; its URL. What others left to write is written first.
    pub(super) fn fresh(&self, name: &str) -> Result<String> {
        for sql in [
            format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"),
            format!("CREATE DATABASE \"{name}\""),
            "CHECKPOINT".to_owned(),
        ] {
            self.ask(&sql)?;
        }
        Ok(self.url.replace("/postgres?", &format!("/{name}?")))
    }

    /// What the server answers to one statement in its database `postgres`.
    pub(super) fn ask(&self, sql: &str) -> Result<String> {
        ask(&self.url, sql)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // What it came to is of no interest: its files are gone.
        let _ = self.keeper.wait();
    }
}

/// What a database answers to one statement: its first column and row, or nothing.
pub(super) fn ask(url: &str, sql: &str) -> Result<String> {
    let mut command = client("psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]);
    command.args(["--command", sql, url]);
    let output = command.stdin(Stdio::null()).output().context("cannot run psql")?;
    if !output.status.success() {
        bail!("{}: {}", shell::line_of(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A transaction that has taken a snapshot and does nothing more, until this is dropped.
pub(super) struct Idle {
    psql: Child,
    _said: BufReader<ChildStdout>,
    said_to: Option<ChildStdin>,
}

impl Idle {
    pub(super) fn begin(url: &str) -> Result<Self> {
        let mut command = client("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1", url]);
        let mut psql = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run psql")?;
        let mut to = psql.stdin.take().context("no input")?;
        to.write_all(b"BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM pg_class;\n")?;
        let mut said = BufReader::new(psql.stdout.take().context("no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line.trim().parse::<u64>().is_ok(), "the transaction took no snapshot: {line:?}");
        Ok(Self { psql, _said: said, said_to: Some(to) })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.said_to.take());
        // It has read the end of its input and ends.
        let _ = self.psql.wait();
    }
}

/// A client program of PostgreSQL.
pub(super) fn client(name: &str) -> Command {
    let named = std::env::var_os("SELVEDGE_PG_BIN").map(|folder| PathBuf::from(folder).join(name));
    Command::new(named.filter(|path| path.is_file()).unwrap_or_else(|| name.into()))
}

/// Builds the testkit's program that keeps a cluster.
pub(super) fn keeper() -> Result<PathBuf> {
    let mut build = place::cargo();
    build.args(["build", "--release", "--workspace", "--all-features", "--example", "cluster"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    super::super::executable("cluster", &shell::quiet("build the keeper of PostgreSQL", &mut build)?)
}
