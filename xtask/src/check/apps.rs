//! Kotlin and Swift in their own communities' form: ktlint, swift-format and DocC.

use std::{ffi::OsStr, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{Outcome, Sources, tools::found};
use crate::{
    language::{
        kotlin,
        swift::{Folders, Swift},
    },
    place,
    setup::{self, system::Missing},
    shell,
};

const KTLINT: &str = "com.pinterest.ktlint:ktlint-cli:1.7.1:all";

/// What is written by hand; the generator's code is checked by its own check.
const SWIFT: [&str; 5] = ["Package.swift", "Sources/Selvedge", "Sources/bench", "Sources/storefront", "Tests"];

pub(super) fn kotlin(sources: &Sources) -> Result<Outcome> {
    if place::on_path("java").is_none() || place::on_path("mvn").is_none() {
        return Ok(Outcome::Skipped("this machine has no Java and Maven".into()));
    }
    let files = sources.paths("bindings/kotlin", ".kt").chain(sources.paths("tests/consumers", ".kt"));
    let files = files.filter(|path| !path.contains("/generated/"));
    let mut ktlint = Command::new("java");
    ktlint
        .current_dir(place::root())
        .arg("-jar")
        .arg(kotlin::artefact(KTLINT)?)
        .args(["--relative", "--log-level=error"]);
    found(&ktlint.args(files).output().context("cannot run ktlint")?, "ktlint")
}

pub(super) fn swift(_: &Sources) -> Result<Outcome> {
    let build = place::target()?.join("swift-check");
    let folders = Folders { source: place::root(), library: place::target()?, build: build.clone() };
    let swift = match setup::tests(false).and_then(|model| Swift::find(&folders, &model)) {
        Err(error) if error.is::<Missing>() => return Ok(Outcome::Skipped(format!("{error:#}"))),
        found => found?,
    };
    let mut lint = swift.program("swift")?;
    lint.args(["format", "lint", "--strict", "--recursive", "--configuration"]);
    // Relative to the source folder: the tool cuts the first letter off what it finds below an absolute one.
    lint.arg("bindings/swift/.swift-format").args(SWIFT.map(|part| Path::new("bindings/swift").join(part)));
    let Outcome::Checked(mut problems) = found(&lint.output().context("cannot run swift-format")?, "swift-format")?
    else {
        unreachable!("what a tool found is no skip");
    };
    problems.extend(documented(&swift, &build)?);
    Ok(Outcome::Checked(problems))
}

/// DocC, with every warning a problem: a symbol in the catalogue that is not there, a parameter that is not.
fn documented(swift: &Swift, build: &Path) -> Result<Vec<String>> {
    // A module that is up to date gives no graph, and one of which a part was removed is not built again. It may not be there.
    let _ = std::fs::remove_dir_all(build);
    let graphs = build.join("graphs");
    std::fs::create_dir_all(&graphs)?;
    let inside = swift.built("graphs");
    let mut command = swift.command("build", "bindings/swift")?;
    command.args(["--target", "Selvedge"]);
    for flag in [OsStr::new("-emit-symbol-graph"), OsStr::new("-emit-symbol-graph-dir"), inside.as_os_str()] {
        command.arg("-Xswiftc").arg(flag);
    }
    shell::quiet("read the Swift package's symbols", &mut command)?;
    let mut docc = swift.program("docc")?;
    docc.arg("convert").arg(swift.source("bindings/swift/Sources/Selvedge/Selvedge.docc"));
    docc.arg("--additional-symbol-graph-dir").arg(inside).arg("--output-path").arg(swift.built("documentation"));
    docc.args(["--fallback-display-name", "Selvedge", "--fallback-bundle-identifier", "dev.selvedge"]);
    let output = docc.arg("--warnings-as-errors").output().context("cannot run docc")?;
    match found(&output, "docc")? {
        Outcome::Checked(problems) => Ok(problems),
        Outcome::Skipped(_) => Ok(Vec::new()),
    }
}
