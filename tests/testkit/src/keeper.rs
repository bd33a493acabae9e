//! A server of another program for tests: on a free port, in a folder of its own, that ends with the process.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to answer after its start.
const SOON: Duration = Duration::from_secs(30);

/// A shell that keeps a server. Both end, and the server's files go, when this is dropped and when the process ends however it
/// ends.
#[derive(Debug)]
pub(crate) struct Keeper {
    name: &'static str,
    port: u16,
    shell: Child,
    /// The shell stops the server when this is closed.
    leash: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

/// Runs the server until its input ends; `kill` and `start` do what they say to it.
const SHELL: &str = r#"
set -eu
program=$1 port=$2 line=$3
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill -KILL $server 2>/dev/null || true; wait $server 2>/dev/null || true; }; rm -rf "$folder"' EXIT
start() {
  eval "$line" >"$folder/said" 2>&1 &
  server=$!
}
start
echo done
while read -r order; do
  case $order in
    kill) kill -KILL $server; wait $server 2>/dev/null || true; server= ;;
    start) start ;;
  esac
  echo done
done
"#;

impl Keeper {
    /// Starts a server by a line of shell in which `$program`, `$port` and `$folder` are known. `answers` tells whether the
    /// server on a port is ready.
    pub(crate) fn start(name: &'static str, line: &str, answers: fn(u16) -> std::io::Result<bool>) -> Result<Self> {
        let program = program(name)?;
        // Free a moment ago: another process may be faster, so there are a few tries.
        let mut last = None;
        for _ in 0..3 {
            match Self::try_start(name, &program, line, answers) {
                Ok(keeper) => return Ok(keeper),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no try was made")?)
    }

    fn try_start(
        name: &'static str,
        program: &Path,
        line: &str,
        answers: fn(u16) -> std::io::Result<bool>,
    ) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("sh");
        command.args(["-c", SHELL, "keeper"]).arg(program).arg(port.to_string()).arg(format!("exec {line}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        let mut shell = command.spawn().with_context(|| format!("cannot start a shell for {name}"))?;
        let leash = shell.stdin.take();
        let said = BufReader::new(shell.stdout.take().context("no output")?);
        let mut keeper = Self { name, port, shell, leash, said };
        keeper.is_done()?;
        keeper.is_ready(answers)?;
        Ok(keeper)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server without a warning. Its files stay.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.order("kill")
    }

    /// Starts it again, on the same port and files, and waits until it answers.
    pub(crate) fn restart(&mut self, answers: fn(u16) -> std::io::Result<bool>) -> Result<()> {
        self.order("start")?;
        self.is_ready(answers)
    }

    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.leash.as_mut().context("the server has ended")?, "{order}")?;
        self.is_done()
    }

    /// The shell has done what it was told.
    fn is_done(&mut self) -> Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        if line.trim() != "done" {
            bail!("the keeper of {} ended: {}", self.name, self.shell.wait()?);
        }
        Ok(())
    }

    fn is_ready(&self, answers: fn(u16) -> std::io::Result<bool>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answered = answers(self.port);
            if matches!(answered, Ok(true)) {
                return Ok(());
            }
            ensure!(begun.elapsed() < SOON, "{} does not answer on port {}: {answered:?}", self.name, self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.leash.take());
        // What it came to is of no interest: its files are gone or were never there.
        let _ = self.shell.wait();
    }
}

/// Debian keeps some where only root looks.
fn program(name: &str) -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is not installed: `apt-get install {name}`"))
}
