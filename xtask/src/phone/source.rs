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

/// Fetches Debian's package of it, which the backports have while it is the newest.
fn fetch(version: &str, folder: &Path) -> Result<()> {
    let by_hand = "run `rustup component add rust-src`, or `rustup target add` for each target";
    let (Some(mirror), Some(_)) = (system::mirror(), place::on_path("apt-get")) else {
        bail!(Missing::new(format!("the standard library's source is not installed: {by_hand}")));
    };
    let scratch = tempfile::tempdir()?;
    let at = scratch.path();
    for name in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(at.join(name))?;
    }
    let list = at.join("sources.list");
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(&list, format!("deb [signed-by={key}] {mirror} trixie-backports main\n"))?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(at).arg("-q").args(["-o", &format!("Dir::Etc::sourcelist={}", list.display())]);
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &format!("Dir::State::Lists={}", at.join("lists").display())]);
        command.args(["-o", &format!("Dir::Cache={}", at.join("cache").display())]).args(arguments);
        command
    };
    shell::quiet("look for the standard library's source", &mut apt(&["update"]))?;
    shell::quiet("fetch the standard library's source, 45 MB", &mut apt(&["download", "rust-src"]))?;
    let package = fs::read_dir(at)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    let found = shell::quiet("read its version", Command::new("dpkg-deb").arg("-f").arg(&package).arg("Version"))?;
    if !found.starts_with(&format!("{version}+")) && !found.starts_with(&format!("{version}-")) {
        let found = found.trim();
        bail!(Missing::new(format!("rustc is {version}, Debian's source of the standard library {found}: {by_hand}")));
    }
    let partial = folder.with_extension("partial");
    shell::quiet("unpack it", Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
    fs::rename(&partial, folder).with_context(|| format!("cannot move to {}", folder.display()))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("rustc").current_dir(place::root()).args(arguments).output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
