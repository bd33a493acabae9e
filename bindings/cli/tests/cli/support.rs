//! A process to test: what it is given, what it says, and a server that goes away with its test.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use selvedge_testkit::postgres::Cluster;
use serde_json::Value;
use tempfile::TempDir;

/// What is awaited has to come in this time, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The model that `cargo xtask setup` fetches, or the one that `SELVEDGE_MODEL` names.
pub(crate) fn model() -> PathBuf {
    let path = match std::env::var_os("SELVEDGE_MODEL") {
        Some(path) => PathBuf::from(path),
        None => cache().join("models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    assert!(path.is_file(), "there is no model at {}: run `cargo xtask setup`, or set SELVEDGE_MODEL", path.display());
    path
}

/// Where `cargo xtask` keeps what it fetches.
pub(crate) fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    set("SELVEDGE_CACHE")
        .unwrap_or_else(|| set("XDG_CACHE_HOME").or_else(home).expect("HOME or SELVEDGE_CACHE is set").join("selvedge"))
}

/// A PostgreSQL server that the tests share. A machine without PostgreSQL skips those that need it, unless it is meant to run
/// them all.
pub(crate) fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(|| match Cluster::start() {
        Ok(cluster) => Some(cluster),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{error:#}"),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    });
    CLUSTER.as_ref()
}

/// The command, in a folder and with none of the environment that would change what it does.
pub(crate) fn selvedge(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("SELVEDGE_")
            || ["NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"].contains(&&*shown)
        {
            command.env_remove(name);
        }
    }
    command
}

/// What a process said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The one JSON object on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// It ended with this code, and what it said on stderr has these words.
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {self:?}");
        }
    }
}

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Said {
    let output = command.output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it speaks UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs with these arguments in a folder of its own.
pub(crate) fn with<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    run(selvedge(folder.path()).args(arguments))
}

/// `selvedge serve` on a free port, over a Store of its own. Dropping it ends the process.
pub(crate) struct Server {
    process: Mutex<Child>,
    address: String,
    folder: TempDir,
}

impl Server {
    /// Starts with this configuration and waits until it listens.
    pub(crate) fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("selvedge.toml"), config).expect("a configuration");
        Self::within(folder)
    }

    /// Ends it as a crash does, and starts it again over the same Store.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        *self = Self::within(folder);
    }

    /// Starts with what is in the folder.
    pub(crate) fn within(folder: TempDir) -> Self {
        let mut command = selvedge(folder.path());
        let mut process = command
            .args(["serve", "--address", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let out = process.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let Some(address) = line.trim().strip_prefix("listening on http://").map(str::to_owned) else {
            let mut err = String::new();
            let _ = process.stderr.take().expect("a pipe").read_to_string(&mut err);
            panic!("it said {line:?} and {err}");
        };
        Self { process: Mutex::new(process), address, folder }
    }

    /// With the model, which the tests share while any of them uses it.
    pub(crate) fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::with_model("[log]\nlevel = \"error\"\n"));
            *running = Arc::downgrade(&server);
            server
        })
    }

    /// With the model, named `smol` and computing on one thread (the tests share the machine), and more configuration.
    pub(crate) fn with_model(config: &str) -> Self {
        Self::start(&format!("{config}\n[[models]]\nname = \"smol\"\nthreads = 1\npath = {:?}\n", model()))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        text(client().get(self.url(path)).send().await.expect("an answer")).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let response = client().post(self.url(path)).body(body).send().await.expect("an answer");
        let (status, text) = text(response).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
    }

    /// A sample of `/metrics`; 0 when it is not there yet.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, metrics) = self.get("/metrics").await;
        let sample = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sample.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Asks it to end, as an operator's init system does.
    pub(crate) fn terminate(&self) {
        let process = self.process.lock().expect("no panic");
        let id = Pid::from_child(&process);
        kill_process(id, Signal::TERM).expect("it is ours");
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&self) {
        let mut process = self.process.lock().expect("no panic");
        process.kill().expect("it is ours");
        process.wait().expect("it is ours");
    }

    /// The bytes of memory it has.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory(&self) -> usize {
        let id = self.process.lock().expect("no panic").id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
        line.trim().trim_end_matches("kB").trim().parse::<usize>().expect("a number") << 10
    }

    /// How it ended and what it said.
    pub(crate) async fn ended(&self) -> (ExitStatus, String) {
        let start = Instant::now();
        loop {
            if let Some(ended) = self.try_ended() {
                return ended;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Server {
    fn try_ended(&self) -> Option<(ExitStatus, String)> {
        let mut process = self.process.lock().expect("no panic");
        let status = process.try_wait().expect("it is ours")?;
        let mut err = String::new();
        process.stderr.take().expect("a pipe").read_to_string(&mut err).expect("UTF-8");
        Some((status, err))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
    }
}

pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client")
}

pub(crate) async fn text(response: reqwest::Response) -> (u16, String) {
    (response.status().as_u16(), response.text().await.expect("a body"))
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The data of server-sent events, as they come.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: Vec::new() }
    }

    /// The next event's data; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("UTF-8");
                // A comment keeps the line open and says nothing.
                match event.trim_end().strip_prefix("data: ") {
                    Some(data) => return Some(data.to_owned()),
                    None => continue,
                }
            }
            self.buffer.extend(self.response.chunk().await.expect("the stream goes on")?);
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(data) = self.next().await {
            all.push(data);
        }
        all
    }
}
