//! What several of these tests need.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use selvedge_core::{
    Commit, Context, Store,
    store::{JobFilter, LeaseRequest, NewJob, StoreExt},
};
use selvedge_sqlite::SqliteStore;

/// How long anything here may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// All payloads of a queue's jobs, in any state.
pub(crate) async fn payloads(store: &SqliteStore, queue: &str) -> Vec<String> {
    let (cx, mut all) = (Context::new(), Vec::new());
    let mut filter = JobFilter { queue: Some(queue.into()), limit: 1000, ..JobFilter::default() };
    loop {
        let page = store.jobs(&cx, filter.clone()).await.expect("the jobs can be read");
        all.extend(page.items.iter().map(|job| String::from_utf8_lossy(&job.payload).into_owned()));
        match page.next {
            Some(next) => filter.after = Some(selvedge_core::store::JobId(next)),
            None => return all,
        }
    }
}

/// Fails unless both hold the same, each once.
pub(crate) fn assert_same(found: &[String], expected: &[String]) {
    let (found_set, expected_set) = (found.iter().collect::<BTreeSet<_>>(), expected.iter().collect::<BTreeSet<_>>());
    let missing: Vec<_> = expected_set.difference(&found_set).take(5).collect();
    let extra: Vec<_> = found_set.difference(&expected_set).take(5).collect();
    assert!(missing.is_empty() && extra.is_empty(), "lost {missing:?}, made up {extra:?}");
    assert_eq!(found.len(), found_set.len(), "something is there twice");
}

/// Enqueues one job for each payload.
pub(crate) async fn enqueue(store: &SqliteStore, queue: &str, payload: String) -> selvedge_core::Result<()> {
    store.enqueue(&Context::new(), NewJob::new(queue, payload)).await.map(drop)
}

/// Leases and completes all that is ready; how many there were.
pub(crate) async fn drain(store: &SqliteStore, queue: &str) -> usize {
    let (cx, mut done) = (Context::new(), 0);
    loop {
        let jobs = store.lease(&cx, LeaseRequest::new(queue, 100)).await.expect("leases");
        if jobs.is_empty() {
            return done;
        }
        done += jobs.len();
        let commit = Commit::new().complete_many(jobs.iter().map(|job| job.lease));
        assert_eq!(store.commit(&cx, commit).await.expect("completes").lost().count(), 0);
    }
}

/// Another process that runs one ignored test of this file.
pub(crate) struct Other {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(test: &str, path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        Self::spawn(command.args(["--ignored", "--exact", "--nocapture", test]), path)
    }

    pub(crate) fn spawn(command: &mut Command, path: &Path) -> Self {
        let mut child = command.env("STORE", path).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { child, lines }
    }

    /// The rest of the next line that begins with `prefix`; `None` when it has ended.
    pub(crate) fn line(&mut self, prefix: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => return None,
                Ok(_) => {
                    if let Some(rest) = line.trim_end().strip_prefix(prefix) {
                        return Some(rest.to_owned());
                    }
                }
            }
        }
    }

    /// Ends it as a power cut of the process would: `SIGKILL`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        let status = self.child.wait().expect("it ends");
        assert!(!status.success(), "it ended by itself before it was killed");
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("it ends")
    }
}

/// Whether this machine lets a test mount a file system in a namespace of its own; says so when it does not.
pub(crate) fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    let tried = command.args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("not run: this machine does not let `unshare --map-root-user --mount` mount a file system");
    }
    may
}

/// The Store that the test which started this process uses.
pub(crate) fn path_of_parent() -> PathBuf {
    PathBuf::from(std::env::var_os("STORE").expect("started by another test"))
}
