//! Tools and peers from PyPI, each set in an environment of its own in the cache folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::system;
use crate::{place, shell};

/// The `bin` folder of an environment that holds exactly these pinned packages.
pub(crate) fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let (folder, stamp) = folder_and_stamp(name)?;
    let bin = folder.join("bin");
    let wanted = packages.join("\n");
    if holds(&folder, &stamp, &wanted) {
        return Ok(bin);
    }
    system::ensure(&system::VENV)?;
    let mut create = Command::new("python3");
    shell::quiet(
        &format!("create the Python environment {name}"),
        create.args(["-m", "venv", "--clear"]).arg(&folder),
    )?;
    let mut install = Command::new(bin.join("python3"));
    install.args(["-m", "pip", "install"]).args(packages);
    shell::quiet(&format!("install {} from PyPI", packages.join(", ")), &mut install)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(bin)
}

fn folder_and_stamp(name: &str) -> Result<(PathBuf, PathBuf)> {
    let folder = place::cache()?.join("python").join(name);
    let stamp = folder.join("installed.txt");
    Ok((folder, stamp))
}

/// The interpreter is asked too: it goes away with an upgrade of the system's Python.
fn holds(folder: &Path, stamp: &Path, wanted: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
        && shell::succeeds(Command::new(folder.join("bin/python3")).arg("-V"))
}
