//! A real NATS server with JetStream for tests: on a free port, in a folder of its own, that ends with the process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to answer after its start.
const SOON: Duration = Duration::from_secs(30);

/// A private `nats-server` with JetStream. It stops, and its files go, when this is dropped and when the process ends however
/// it ends.
#[derive(Debug)]
pub struct NatsServer {
    port: u16,
    keeper: Child,
    /// The keeper stops the server when this is closed.
    leash: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

/// Runs the server until its input ends; `kill` and `start` do what they say to it.
const KEEPER: &str = r#"
set -eu
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill -KILL $server 2>/dev/null || true; wait $server 2>/dev/null || true; }; rm -rf "$folder"' EXIT
start() {
  "$1" --jetstream --store_dir "$folder/data" --addr 127.0.0.1 --port "$2" --log "$folder/log" &
  server=$!
}
start "$@"
echo done
while read -r order; do
  case $order in
    kill) kill -KILL $server; wait $server 2>/dev/null || true; server= ;;
    start) start "$@" ;;
  esac
  echo done
done
"#;

impl NatsServer {
    /// Starts a server.
    ///
    /// # Errors
    /// When nats-server is not installed, with how to install it, or does not start.
    pub fn start() -> Result<Self> {
        let program = program()?;
        // Free a moment ago: another process may be faster, so there are a few tries.
        let mut last = None;
        for _ in 0..3 {
            match Self::try_start(&program) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no try was made")?)
    }

    fn try_start(program: &PathBuf) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(program).arg(port.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        let mut keeper = command.spawn().context("cannot start a shell for nats-server")?;
        let leash = keeper.stdin.take();
        let said = BufReader::new(keeper.stdout.take().context("no output")?);
        let mut server = Self { port, keeper, leash, said };
        server.is_done()?;
        server.is_ready()?;
        Ok(server)
    }

    /// The keeper has done what it was told.
    fn is_done(&mut self) -> Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        if line.trim() != "done" {
            bail!("nats-server's keeper ended: {}", self.keeper.wait()?);
        }
        Ok(())
    }

    /// Waits until the server greets.
    fn is_ready(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let greeted = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                let mut greeting = [0; 5];
                stream.read_exact(&mut greeting)?;
                Ok(greeting == *b"INFO ")
            });
            if matches!(greeted, Ok(true)) {
                return Ok(());
            }
            ensure!(begun.elapsed() < SOON, "nats-server does not answer on port {}: {greeted:?}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server without a warning. Its files stay.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.order("kill")
    }

    /// Starts it again after [`NatsServer::kill`], on the same port and files, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.order("start")?;
        self.is_ready()
    }

    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.leash.as_mut().context("the server has ended")?, "{order}")?;
        self.is_done()
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        drop(self.leash.take());
        // What it came to is of no interest: its files are gone or were never there.
        let _ = self.keeper.wait();
    }
}

/// Debian keeps it where only root looks.
fn program() -> Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.push("/usr/sbin".into());
    folders
        .into_iter()
        .map(|folder| folder.join("nats-server"))
        .find(|program| program.is_file())
        .context("nats-server is not installed: `apt-get install nats-server`")
}
