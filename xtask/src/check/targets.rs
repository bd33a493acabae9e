//! Core, SQLite and the FFI crate compile for every phone target.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::Result;

use super::{Outcome, sources::Sources};
use crate::{
    phone::{self, source::Std},
    place,
    setup::system::Missing,
    shell,
};

/// Stands for a C compiler: types are checked and nothing is linked, so no C is needed, but build scripts ask for it.
/// (They also ask which one it is.)
const COMPILER: &str = "#!/bin/sh
case $1 in -E) echo '\"clang\"'; exit ;; -\\?) exit 1 ;; esac
while [ $# -gt 0 ]; do [ \"$1\" = -o ] && : > \"$2\"; shift; done
";

pub(super) fn check(_: &Sources) -> Result<Outcome> {
    let scratch = tempfile::tempdir()?;
    let compiler = scratch.path().join("cc");
    fs::write(&compiler, COMPILER)?;
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755))?;
    let mut problems = Vec::new();
    for target in phone::TARGETS {
        let library = match Std::of(target) {
            Ok(library) => library,
            Err(error) if error.is::<Missing>() => return Ok(Outcome::Skipped(format!("{error:#}"))),
            Err(error) => return Err(error),
        };
        if let Err(error) = types(target, &library, &compiler, scratch.path()) {
            problems.push(format!("{target}: {error:#}"));
        }
    }
    Ok(Outcome::Checked(problems))
}

fn types(target: &str, library: &Std, compiler: &Path, sdk: &Path) -> Result<()> {
    let mut command = place::cargo();
    command.args(["check", "--lib", "-p", "selvedge-core", "-p", "selvedge-sqlite", "-p", "selvedge-ffi"]);
    command.args(["--target", target, "--target-dir"]).arg(place::target()?.join("phones"));
    let name = target.replace('-', "_");
    command.env(format!("CC_{name}"), compiler).env(format!("AR_{name}"), "ar").env("SDKROOT", sdk);
    library.apply(&mut command);
    shell::quiet(&format!("check types for {target}"), &mut command).map(drop)
}
