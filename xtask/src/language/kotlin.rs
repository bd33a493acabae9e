//! Kotlin on the JVM, by Maven.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::Phone;
use crate::{
    bindings, place,
    setup::system::{self, Need},
    shell,
    test::Count,
};

static NEEDS: [Need; 1] = [Need {
    name: "Maven, with a JDK of version 17 or later",
    why: "builds and tests the Kotlin package",
    debian: "maven",
    homebrew: "maven",
    present: || shell::succeeds(Command::new("mvn").arg("--version")),
}];

/// Builds the package against the library and runs its tests.
pub(crate) fn run(model: &Path) -> Result<Count> {
    system::ensure(&NEEDS)?;
    let library = bindings::library()?;
    let folder = library.parent().context("the library lies in no folder")?;
    let mut command = Command::new("mvn");
    command.current_dir(project());
    command.args(["--batch-mode", "--no-transfer-progress", "test"]);
    command.arg(format!("-Dselvedge.library.path={}", folder.display()));
    command.arg(format!("-Dselvedge.model={}", model.display()));
    let mut count = Count::default();
    let (status, _) = shell::streamed("Kotlin tests", &mut command, |_, line| {
        if let Some(module) = module(line) {
            count += module;
        }
    })?;
    if !status.success() && count.failed == 0 {
        eprintln!("Maven ended with {status} although no test failed: counted as one failure");
        count.failed = 1;
    }
    if status.success() {
        let built = project().join("storefront/target");
        let program = program("storefront", folder)?;
        count += Phone { language: "Kotlin", program, inside: built.clone(), folder: built }.test()?;
    }
    Ok(count)
}

/// A jar of `group:name:version` or `group:name:version:classifier`, from Maven's own cache; fetched if it is not there.
pub(crate) fn artefact(coordinates: &str) -> Result<PathBuf> {
    let mut parts = coordinates.split(':');
    let mut part = || parts.next().with_context(|| format!("{coordinates} is no artefact"));
    let (group, name, version) = (part()?, part()?, part()?);
    let classifier = parts.next();
    let home = std::env::var_os("HOME").context("no HOME")?;
    let file = format!("{name}-{version}{}.jar", classifier.map(|text| format!("-{text}")).unwrap_or_default());
    let folder = format!(".m2/repository/{}/{name}/{version}", group.replace('.', "/"));
    let file = Path::new(&home).join(folder).join(file);
    if !file.exists() {
        let full = classifier.map_or(coordinates.into(), |text| format!("{group}:{name}:{version}:jar:{text}"));
        let mut command = Command::new("mvn");
        command.args(["--batch-mode", "-q", "dependency:get", "-Dtransitive=false", &format!("-Dartifact={full}")]);
        shell::quiet(&format!("fetch {coordinates}"), &mut command)?;
    }
    Ok(file)
}

/// The program that measures what calls cost.
pub(crate) fn bench(library: &Path) -> Result<Command> {
    system::ensure(&NEEDS)?;
    let mut command = Command::new("mvn");
    command.current_dir(project()).args(["--batch-mode", "--no-transfer-progress", "-q", "process-classes"]);
    shell::quiet("build the Kotlin package", command.args(["-pl", "bench", "-am"]))?;
    program("bench", library.parent().context("the library lies in no folder")?)
}

fn project() -> PathBuf {
    place::root().join("bindings/kotlin")
}

/// The program of a module, as Maven left it.
fn program(module: &str, library: &Path) -> Result<Command> {
    let built = project().join(module).join("target");
    let list = built.join("class-path");
    let others = fs::read_to_string(&list).with_context(|| format!("Maven wrote no {}", list.display()))?;
    let mut command = Command::new("java");
    command.arg(format!("-Djna.library.path={}", library.display()));
    command.args(["-cp", &format!("{}:{}", built.join("classes").display(), others.trim())]);
    command.arg(format!("dev.selvedge.{module}.MainKt"));
    Ok(command)
}

/// Reads the sum that surefire prints for a module: `[INFO] Tests run: 33, Failures: 0, Errors: 0, Skipped: 0`. The lines of
/// single classes say more, so they are not read twice.
fn module(line: &str) -> Option<Count> {
    let sums = line.split_once("Tests run: ")?.1;
    if sums.contains("Time elapsed") {
        return None;
    }
    let mut numbers =
        sums.split(", ").map(|part| part.rsplit(' ').next().and_then(|number| number.trim().parse().ok()));
    let mut next = || numbers.next().flatten();
    let (run, failures, errors, skipped): (u64, u64, u64, u64) = (next()?, next()?, next()?, next()?);
    Some(Count { passed: run.saturating_sub(failures + errors + skipped), failed: failures + errors, skipped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_module_is_counted_once() {
        let sum = "[ERROR] Tests run: 33, Failures: 1, Errors: 2, Skipped: 3";
        assert_eq!(module(sum), Some(Count { passed: 27, failed: 3, skipped: 3 }));
        assert_eq!(
            module("[INFO] Tests run: 33, Failures: 0, Errors: 0, Skipped: 0, Time elapsed: 15.3 s -- in X"),
            None
        );
        assert_eq!(module("[INFO] BUILD SUCCESS"), None);
    }
}
