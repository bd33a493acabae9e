//! `cargo xtask package`: what apps import. What cannot be built here is named, with how to install it, and the rest is built.

mod android;
mod apple;
mod jvm;
mod native;
mod notices;
pub(crate) mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{place, shell};

/// What to pack.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Package {
    /// The folder to write to; by default `package` in the target folder. What lies there is replaced
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Put language models into the host's library too (llama.cpp: minutes to build)
    #[arg(long)]
    models: bool,
    /// Where the XCFramework will be downloaded from; without it Package.swift names the one beside it
    #[arg(long, value_name = "URL")]
    xcframework_url: Option<String>,
}

/// What is packed, and what could not be.
struct Packing {
    out: PathBuf,
    /// Our licences and those of what is in the library: they lie in every artefact.
    licences: tempfile::TempDir,
    gaps: Vec<String>,
}

/// Builds and packs.
pub(crate) fn run(options: &Package) -> Result<()> {
    let out = folder(options.out.as_deref())?;
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot clear {}", out.display()))?;
    }
    fs::create_dir_all(&out)?;
    let mut packing = Packing { out, licences: tempfile::tempdir()?, gaps: Vec::new() };
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(place::root().join(name), packing.licences.path().join(name))?;
    }
    notices::write(packing.licences.path())?;
    let library = native::host(options.models)?;
    jvm::pack(&packing, &library)?;
    android::pack(&mut packing)?;
    apple::pack(&mut packing, options.xcframework_url.as_deref())?;
    fs::write(packing.out.join(GAPS), packing.gaps.join("\n"))?;
    for file in files(&packing.out)? {
        let size = fs::metadata(&file)?.len();
        println!("{:>10.2} MB  {}", size as f64 / 1e6, file.display());
    }
    for gap in &packing.gaps {
        println!("not packed: {gap}");
    }
    Ok(())
}

/// One gap a line.
const GAPS: &str = "gaps.txt";

fn folder(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(named) => std::path::absolute(named).context("the output folder"),
        None => Ok(place::target()?.join("package")),
    }
}

/// The artefacts themselves: what lies at the top.
fn files(out: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(out)
        .with_context(|| format!("nothing is packed at {}: run `cargo xtask package`", out.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.file_name().is_some_and(|name| name != GAPS))
        .collect();
    files.sort();
    Ok(files)
}

/// The JDK's packer, which Maven's users have anyway. The date is fixed, so that the same input gives the same file.
fn jar(arguments: &[&str], file: &Path, folder: &Path) -> Result<()> {
    let mut command = Command::new("jar");
    command.args(arguments).arg("--file").arg(file).args(["--date", "2020-01-01T00:00:00+00:00", "-C"]);
    shell::quiet(&format!("pack {}", name(file)), command.arg(folder).arg(".")).map(drop)
}

/// Unpacks an archive into a folder.
fn unpack(file: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut command = Command::new("jar");
    command.current_dir(folder).args(["--extract", "--file"]).arg(file);
    shell::quiet(&format!("unpack {}", name(file)), &mut command).map(drop)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
