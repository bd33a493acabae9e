//! Peers from npm, each set in a folder of its own in the cache folder, with the Node they run on.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use super::system;
use crate::{place, shell};

/// The peers on Node bring the Node they ask for along.
const NODE: &str = "node@22.23.3";

/// The `node_modules` folder that holds exactly these pinned packages, and Node at `.bin/node`.
pub(crate) fn modules(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = place::cache()?.join("node").join(name);
    let modules = folder.join("node_modules");
    let wanted = [&[NODE], packages].concat().join("\n");
    let stamp = folder.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(modules);
    }
    system::ensure(&system::NPM)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).arg(NODE).args(packages);
    shell::quiet(&format!("install {} from npm", packages.join(", ")), &mut install)?;
    ensure!(
        shell::succeeds(Command::new(modules.join(".bin/node")).arg("--version")),
        "npm installed {NODE}, and it does not run: its install script may be forbidden here (npm config get ignore-scripts)"
    );
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(modules)
}
