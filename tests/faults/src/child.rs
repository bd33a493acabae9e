//! Processes that are killed, frozen and lied to about the time.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child as Process, Command},
};

/// A wall clock that is wrong by so many hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skew(pub(crate) i64);

/// libfaketime, if it is installed: it lies to a whole process. Without it only the engine's clock is shifted.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

/// This program again, in another role. It is killed when this is dropped, and ends by itself when this process ends.
#[derive(Debug)]
pub(crate) struct Child {
    process: Process,
    pid: Pid,
    faked: bool,
}

impl Child {
    /// Starts it; each line it prints goes to `heard`.
    pub(crate) fn start(
        arguments: &[String],
        skew: Option<Skew>,
        mut heard: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let library = skew.and_then(|_| faketime());
        match (skew, &library) {
            (None, _) => (),
            (Some(Skew(hours)), Some(library)) => {
                // Waiting goes by the monotonic clock, which no skew moves.
                let since = format!("{hours:+}h");
                command.env("LD_PRELOAD", library).env("FAKETIME", since).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            }
            (Some(Skew(hours)), None) => drop(command.arg("--skew").arg(hours.to_string())),
        }
        let mut process = command.spawn().context("cannot start a child process")?;
        let stdout = process.stdout.take().context("the child has no stdout")?;
        let pid = process.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the child has no id")?;
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                heard(&line);
            }
        });
        Ok(Self { process, pid, faked: library.is_some() })
    }

    /// Kills it as `kill -9` does, and sees it die of that.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.process.start_kill()?;
        let status = self.process.wait().await?;
        ensure!(status.signal() == Some(9), "a child ended by itself before it was killed: {status}");
        Ok(())
    }

    pub(crate) fn freeze(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::STOP)?)
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // What is frozen dies of SIGKILL too. libfaketime leaves two files behind when its process is killed.
        let _ = self.process.start_kill();
        if self.faked {
            let id = self.pid.as_raw_nonzero();
            for name in [format!("faketime_shm_{id}"), format!("sem.faketime_sem_{id}")] {
                let _ = std::fs::remove_file(PathBuf::from("/dev/shm").join(name));
            }
        }
    }
}

/// In a child: ends this process when the one that started it is gone.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}
