//! `cargo xtask hook`: a git hook that runs the quick checks before each commit.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{check, place, shell};

/// The hook: short, so that what it runs changes with the repository.
const HOOK: &str = "#!/bin/sh\n# Installed by `cargo xtask hook`; `cargo xtask hook --remove` takes it away.\n\
                    exec cargo xtask check --quick\n";

/// Whether to install or to remove it.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Hook {
    /// Take it away again
    #[arg(long)]
    remove: bool,
}

/// Installs or removes the hook of this repository.
pub(crate) fn run(hook: Hook) -> Result<()> {
    let path = path_in(&place::root())?;
    if hook.remove {
        remove(&path)?;
        shell::say(format_args!("removed {}", path.display()));
        return Ok(());
    }
    // Now, and not during somebody's first commit.
    check::fetch_tools()?;
    install(&path)?;
    shell::say(format_args!("each commit now runs `cargo xtask check --quick`, by {}", path.display()));
    Ok(())
}

/// Where git looks for it, worktrees and `core.hooksPath` included.
fn path_in(repository: &Path) -> Result<PathBuf> {
    let output = Command::new("git")
        .current_dir(repository)
        .args(["rev-parse", "--git-path", "hooks/pre-commit"])
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("{} is no git repository: {}", repository.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(repository.join(String::from_utf8_lossy(&output.stdout).trim()))
}

fn install(path: &Path) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == HOOK) {
        return Ok(());
    }
    if path.exists() {
        bail!("{} is somebody else's hook: add `cargo xtask check --quick` to it, or move it away", path.display());
    }
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, HOOK).with_context(|| format!("cannot write {}", path.display()))?;
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(found) if found == HOOK => {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(_) => bail!("{} is somebody else's hook, so it stays", path.display()),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) -> bool {
        let mut command = Command::new("git");
        command.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
        // Run from a hook, git names the repository it came from.
        for name in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
            command.env_remove(name);
        }
        shell::succeeds(command.args(arguments))
    }

    #[test]
    fn the_hook_is_run_by_git_and_goes_away_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(git(folder.path(), &["init", "-q"]));
        let path = folder.path().join(".git/hooks/pre-commit");
        install(&path).unwrap();
        install(&path).unwrap();
        // There is no xtask in this repository, so the check fails and the commit with it.
        assert!(!git(folder.path(), &["commit", "-q", "--allow-empty", "-m", "a"]));
        remove(&path).unwrap();
        assert!(git(folder.path(), &["commit", "-q", "--allow-empty", "-m", "a"]));
    }

    #[test]
    fn somebody_elses_hook_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pre-commit");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(install(&path).is_err() && remove(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
    }
}
