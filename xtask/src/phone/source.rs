//! The standard library of a target: rustup's, or compiled from its source, which must be that of this very compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    place,
    setup::system::{self, Missing},
    shell,
};

/// Where a target's standard library comes from.
#[derive(Clone, Debug)]
pub(crate) enum Std {
    /// `rustup target add` was run.
    Installed,
    /// It is compiled from this folder.
    Source(PathBuf),
}

impl Std {
    /// Finds it for a target; fetches the source when there is none.
    pub(crate) fn of(target: &str) -> Result<Self> {
        let libraries = rustc(&["--print", "target-libdir", "--target", target])?;
        let installed = fs::read_dir(libraries.trim()).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
        });
        if installed { Ok(Self::Installed) } else { Ok(Self::Source(source()?)) }
    }

    /// Adds what cargo needs to build for a target with it.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Self::Source(library) = self {
            // Compiling the standard library is a nightly feature; the source is the stable compiler's own.
            command.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library).arg("-Zbuild-std");
        }
    }
}

/// The standard library's source.
fn source() -> Result<PathBuf> {
    let sysroot = rustc(&["--print", "sysroot"])?;
    let own = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if own.exists() {
        return Ok(own);
    }
    let text = rustc(&["--version", "--verbose"])?;
    let version = text.lines().find_map(|line| line.strip_prefix("release: ")).context("rustc names no release")?;
    let folder = place::cache()?.join(format!("rust-src-{version}"));
    let library = folder.join("usr/lib/rustlib/src/rust/library");
    if !library.exists() {
        fetch(version, &folder)?;
    }
    if !library.exists() {
        bail!("Debian's rust-src has no {}", library.display());
    }
    Ok(library)
}

/// Debian's package of it, by its digest: the package lists only have the newest compiler's.
const PACKAGE: (&str, &str, &str) = (
    "1.95.0",
    "pool/main/r/rustc/rust-src_1.95.0+dfsg1-2_all.deb",
    "8e39f55364384322c334f8453c1914b49de94c5a7eca02b427861a624d95854a",
);

fn fetch(version: &str, folder: &Path) -> Result<()> {
    let by_hand = "run `rustup component add rust-src`, or `rustup target add` for each target";
    let helper = Path::new("/usr/lib/apt/apt-helper");
    let (known, path, digest) = PACKAGE;
    let Some(mirror) = system::mirror().filter(|_| helper.exists() && known == version) else {
        bail!(Missing::new(format!("the standard library's source for rustc {version} is not installed: {by_hand}")));
    };
    let scratch = tempfile::tempdir()?;
    let package = scratch.path().join("rust-src.deb");
    let mut command = Command::new(helper);
    command.arg("download-file").arg(format!("{}/{path}", mirror.trim_end_matches('/'))).arg(&package);
    shell::quiet("fetch the standard library's source, 45 MB", command.arg(format!("SHA256:{digest}")))?;
    let partial = folder.with_extension("partial");
    shell::quiet("unpack it", Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
    fs::rename(&partial, folder).with_context(|| format!("cannot move to {}", folder.display()))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("rustc").current_dir(place::root()).args(arguments).output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
