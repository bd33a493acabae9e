//! The files of the repository, without what git ignores.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use ignore::WalkBuilder;

use crate::place;

/// The files, by their path from the root with `/` between the names.
#[derive(Debug, Default)]
pub(super) struct Sources {
    root: PathBuf,
    files: Vec<String>,
}

impl Sources {
    pub(super) fn of_repository() -> Result<Self> {
        Self::of(&place::root())
    }

    pub(super) fn of(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        // What is hidden is part of it (.ci, .cargo), git's own folder is not.
        let walk = WalkBuilder::new(root)
            .hidden(false)
            .require_git(false)
            .git_global(false)
            .filter_entry(|entry| entry.file_name() != ".git")
            .build();
        for entry in walk {
            let entry = entry.context("cannot list the repository")?;
            if entry.file_type().is_some_and(|kind| kind.is_file()) {
                let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
                let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
                files.push(names.join("/"));
            }
        }
        files.sort();
        Ok(Self { root: root.to_owned(), files })
    }

    /// The paths that begin and end so.
    pub(super) fn paths(&self, start: &str, end: &str) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(move |path| path.starts_with(start) && path.ends_with(end))
    }

    /// The files that begin and end so, with what is in them.
    pub(super) fn texts(&self, start: &str, end: &str) -> Result<Vec<(&str, String)>> {
        self.paths(start, end).map(|path| Ok((path, self.read(path)?))).collect()
    }

    pub(super) fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.root.join(path)).with_context(|| format!("cannot read {path}"))
    }

    /// Whether this is a file, or a folder with a file in it.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files
            .iter()
            .any(|file| file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_ignores_is_not_a_source() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [(".gitignore", "/target\n"), ("target/x.rs", ""), (".ci/run", "#!"), ("core/src/a.rs", "")]
        {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = Sources::of(folder.path()).unwrap();
        assert_eq!(sources.paths("", "").collect::<Vec<_>>(), [".ci/run", ".gitignore", "core/src/a.rs"]);
        assert!(sources.has("core") && sources.has("core/src/") && sources.has("core/src/a.rs"));
        assert!(!sources.has("core/sr") && !sources.has("target"));
    }
}
