//! Swift: on the system's own toolchain where there is one, else in a Debian trixie that is made once and kept in the cache.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::Phone;
use crate::{
    bindings, place,
    setup::system::{self, Missing, Need},
    shell,
    test::Count,
};

/// Debian's `swiftlang` needs the C headers beside it.
const PACKAGES: &str = "swiftlang,libc6-dev";

static NEEDS: [Need; 1] = [Need {
    name: "debootstrap",
    why: "makes the Debian trixie that has Swift",
    debian: "debootstrap",
    homebrew: "swift",
    present: || place::on_path("debootstrap").is_some(),
}];

/// Enters the chroot in a mount namespace of its own, so that nothing stays mounted. Swift does not start without /proc.
const ENTER: &str = r#"set -e
root=$1; shift
mkdir -p "$root/src" "$root/native" "$root/models" "$root/build"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in src native models build; do mount --bind "$1" "$root/$folder"; shift; done
exec chroot "$root" env -i -C /src HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 LIBRARY_PATH=/native LD_LIBRARY_PATH=/native "$@""#;

/// Builds the package against the library and runs its tests.
pub(crate) fn run(model: &Path) -> Result<Count> {
    let library = bindings::library()?.parent().context("the library lies in no folder")?.to_path_buf();
    let swift = Swift::find(&Folders { source: place::root(), library, build: place::target()?.join("swift") }, model)?;
    let mut command = swift.command("test", "bindings/swift")?;
    command.args(swift.stand_in()?);
    let mut tally = Tally::default();
    let (status, _) = shell::streamed("Swift tests", &mut command, |_, line| tally.line(line))?;
    let mut count = tally.finish(status.success());
    let (program, inside) = (swift.product("storefront")?, swift.built(""));
    count += Phone { language: "Swift", program, folder: swift.folders.build, inside }.test()?;
    Ok(count)
}

/// The program that measures what calls cost, optimised.
pub(crate) fn bench(library: &Path, model: &Path) -> Result<Command> {
    let library = library.parent().context("the library lies in no folder")?.to_path_buf();
    let swift = Swift::find(&Folders { source: place::root(), library, build: place::target()?.join("swift") }, model)?;
    let mut build = swift.command("build", "bindings/swift")?;
    shell::quiet("build the Swift package", build.args(["--configuration", "release", "--product", "bench"]))?;
    let mut program = swift.enter()?;
    program.arg(swift.built("release/bench"));
    Ok(program)
}

/// The folders that a package's build sees.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// What the package lies in.
    pub(crate) source: PathBuf,
    /// Where the native library is.
    pub(crate) library: PathBuf,
    /// Where the products go.
    pub(crate) build: PathBuf,
}

/// A Swift toolchain, and the folders that its programs see.
pub(crate) struct Swift {
    /// The chroot it lies in; `None` is this system.
    root: Option<PathBuf>,
    folders: Folders,
    model: PathBuf,
}

impl Swift {
    /// Finds a toolchain or makes one.
    pub(crate) fn find(folders: &Folders, model: &Path) -> Result<Self> {
        let root = if modern() { None } else { Some(trixie()?) };
        fs::create_dir_all(&folders.build)?;
        Ok(Self { root, folders: folders.clone(), model: model.to_path_buf() })
    }

    /// `swift VERB` on a package below the source folder.
    pub(crate) fn command(&self, verb: &str, package: &str) -> Result<Command> {
        let mut command = self.enter()?;
        command.args(["swift", verb, "--package-path"]).arg(self.source(package));
        command.arg("--scratch-path").arg(self.built(""));
        Ok(command)
    }

    /// A program of the toolchain.
    pub(crate) fn program(&self, name: &str) -> Result<Command> {
        let mut command = self.enter()?;
        // Debian puts only some of them on the path.
        let hidden = Path::new("/usr/libexec/swift/bin").join(name);
        let there =
            self.root.as_ref().is_some_and(|root| root.join(hidden.strip_prefix("/").unwrap_or(&hidden)).exists());
        command.arg(if there { hidden } else { name.into() });
        Ok(command)
    }

    /// What programs call a part of the source folder.
    pub(crate) fn source(&self, part: impl AsRef<Path>) -> PathBuf {
        self.inside("src", &self.folders.source).join(part)
    }

    /// What programs call a part of the build folder.
    pub(crate) fn built(&self, part: impl AsRef<Path>) -> PathBuf {
        self.inside("build", &self.folders.build).join(part)
    }

    /// What programs call a folder: in the chroot it lies at its top.
    fn inside(&self, name: &str, folder: &Path) -> PathBuf {
        if self.root.is_some() { Path::new("/").join(name) } else { folder.to_path_buf() }
    }

    /// Compiles what stands in for UIKit, so that what is written for it runs on every system; the options that make it known.
    fn stand_in(&self) -> Result<Vec<OsString>> {
        let folder = self.built("stand-ins");
        fs::create_dir_all(self.folders.build.join("stand-ins"))?;
        let library = folder.join("libUIKit.a");
        let mut command = self.program("swiftc")?;
        command.args(["-swift-version", "6", "-parse-as-library", "-static", "-emit-library", "-emit-module"]);
        command.args(["-module-name", "UIKit", "-emit-module-path"]).arg(folder.join("UIKit.swiftmodule"));
        command.arg("-o").arg(&library).arg(self.source("bindings/swift/Tests/StandIns/UIKit.swift"));
        shell::quiet("compile the stand-in for UIKit", &mut command)?;
        let options = ["-Xswiftc", "-I", "-Xswiftc"].map(OsString::from).into_iter().chain([folder.into()]);
        Ok(options.chain(["-Xlinker".into(), library.into()]).collect())
    }

    /// A program that was built.
    fn product(&self, name: &str) -> Result<Command> {
        let mut command = self.enter()?;
        command.arg(self.built("debug").join(name));
        Ok(command)
    }

    /// `env` in the source folder, with what the package needs to find the library and the model.
    fn enter(&self) -> Result<Command> {
        let Folders { source, library, build } = &self.folders;
        let Some(root) = &self.root else {
            let mut command = Command::new("env");
            command.current_dir(source);
            for name in ["LIBRARY_PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
                command.env(name, library);
            }
            command.env("SELVEDGE_MODEL", &self.model);
            return Ok(command);
        };
        let models = self.model.parent().context("the model lies in no folder")?;
        let name = self.model.file_name().context("the model has no name")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"]).arg(root);
        command.arg(source).arg(library).arg(models).arg(build);
        command.arg(format!("SELVEDGE_MODEL=/models/{}", name.to_string_lossy()));
        Ok(command)
    }
}

/// Whether this system's own Swift is new enough for the package.
fn modern() -> bool {
    let Ok(output) = Command::new("swift").arg("--version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text.split_once("Swift version ").and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    major.is_some_and(|major| major >= 6)
}

/// The chroot, made when it is not there: about two minutes and 2.6 GB.
fn trixie() -> Result<PathBuf> {
    let root = place::cache()?.join("trixie");
    let by_hand = "install Swift 6 from https://swift.org/install, or run this as root on Debian";
    if !shell::succeeds(Command::new("unshare").args(["--mount", "true"])) {
        bail!(Missing::new(format!("this machine has no Swift 6, and mounting is not allowed here: {by_hand}")));
    }
    if root.join("usr/bin/swiftc").exists() {
        return Ok(root);
    }
    if place::on_path("apt-get").is_none() {
        bail!(Missing::new(format!("this machine has no Swift 6: {by_hand}")));
    }
    system::ensure(&NEEDS)?;
    shell::say("no Swift 6 on this machine: making a Debian trixie that has it, 2.6 GB in the cache folder, once");
    // What was broken off is begun anew; a folder of this name is always whole.
    let partial = root.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot clear {}", partial.display()))?;
    }
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), "trixie"]).arg(&partial);
    if let Some(mirror) = system::mirror() {
        command.arg(mirror);
    }
    shell::quiet("make a Debian trixie with Swift", &mut command)?;
    shell::quiet("drop what was downloaded for it", Command::new("chroot").arg(&partial).args(["apt-get", "clean"]))?;
    fs::rename(&partial, &root).with_context(|| format!("cannot move to {}", root.display()))?;
    Ok(root)
}

/// Counts what Swift Testing prints: a line for each test, and one for the whole run.
#[derive(Debug, Default)]
struct Tally {
    count: Count,
    run: Option<u64>,
}

impl Tally {
    fn line(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once(" Test ") else { return };
        if let Some(rest) = rest.strip_prefix("run with ") {
            self.run = rest.split(' ').next().and_then(|number| number.parse().ok());
        } else if rest.contains("() failed after") {
            self.count.failed += 1;
        } else if rest.contains("() skipped") {
            self.count.skipped += 1;
        }
    }

    fn finish(mut self, success: bool) -> Count {
        match self.run {
            Some(run) => self.count.passed = run.saturating_sub(self.count.failed + self.count.skipped),
            None => eprintln!("the Swift tests did not come to their end"),
        }
        if (!success || self.run.is_none()) && self.count.failed == 0 {
            eprintln!("swift test failed although no test did: counted as one failure; its words are above");
            self.count.failed = 1;
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_swift_testing_prints_is_counted() {
        let mut tally = Tally::default();
        for line in [
            "◇ Test run started.",
            "◇ Test aChatStreamsInBatches() started.",
            "➜ Test textsBecomeVectors() skipped: \"SELVEDGE_MODEL names no model\"",
            "✔ Test aChatStreamsInBatches() passed after 4.7 seconds.",
            "✘ Test nothingLeaks() recorded an issue at ScenariosTests.swift:413:9: Expectation failed",
            "✘ Test nothingLeaks() failed after 1.5 seconds with 1 issue.",
            "✘ Suite ScenariosTests failed after 7.3 seconds with 1 issue.",
            "✘ Test run with 3 tests failed after 7.3 seconds with 1 issue.",
        ] {
            tally.line(line);
        }
        assert_eq!(tally.finish(false), Count { passed: 1, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_run_that_never_ends_is_a_failure() {
        assert_eq!(Tally::default().finish(true).failed, 1);
        assert_eq!(Tally { run: Some(3), ..Tally::default() }.finish(false).failed, 1);
    }
}
