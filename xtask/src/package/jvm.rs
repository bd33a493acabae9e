//! The jars, in the layout of a Maven repository; `selvedge-jvm` has this machine's library inside.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{Packing, copy_tree, jar, name, unpack};
use crate::{place, shell};

/// What Maven builds, and whether it has sources of its own.
const MODULES: [&str; 4] = ["selvedge-jvm", "selvedge-okhttp", "selvedge-ktor", "selvedge-android"];
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn pack(packing: &Packing, library: &Path) -> Result<()> {
    let project = place::root().join("bindings/kotlin");
    let mut command = Command::new("mvn");
    command.current_dir(&project).args(["--batch-mode", "--no-transfer-progress", "-DskipTests", "package"]);
    shell::quiet("build the jars", command.args(["-pl", &MODULES.join(",")]))?;
    for module in MODULES {
        let built = project.join(module).join("target");
        for kind in ["", "-sources"] {
            let file = format!("{module}-{VERSION}{kind}.jar");
            fs::copy(built.join(&file), packing.out.join(&file)).with_context(|| format!("Maven made no {file}"))?;
        }
        let staged = built.join("packed");
        if staged.exists() {
            fs::remove_dir_all(&staged)?;
        }
        copy_tree(packing.licences.path(), &staged.join("META-INF"))?;
        if module == "selvedge-jvm" {
            let folder = staged.join(platform()?);
            fs::create_dir_all(&folder)?;
            fs::copy(library, folder.join(name(library)))?;
        }
        jar(&["--update"], &packing.out.join(format!("{module}-{VERSION}.jar")), &staged)?;
        fs::copy(project.join(module).join("pom.xml"), packing.out.join(format!("{module}-{VERSION}.pom")))?;
    }
    fs::copy(project.join("pom.xml"), packing.out.join(format!("selvedge-parent-{VERSION}.pom")))?;
    // The AAR holds the classes of both, so it has the sources of both. Its POM is its own.
    let android = |end: &str| packing.out.join(format!("selvedge-android-{VERSION}{end}"));
    let sources = tempfile::tempdir()?;
    unpack(&packing.out.join(format!("selvedge-jvm-{VERSION}-sources.jar")), sources.path())?;
    jar(&["--update"], &android("-sources.jar"), sources.path())?;
    fs::remove_file(android(".jar"))?;
    fs::remove_file(android(".pom"))?;
    Ok(())
}

/// A property of the Kotlin project: the version of something.
pub(super) fn property(name: &str) -> Result<String> {
    let pom = fs::read_to_string(place::root().join("bindings/kotlin/pom.xml"))?;
    let value = pom.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</"));
    Ok(value.with_context(|| format!("bindings/kotlin/pom.xml has no property {name}"))?.0.to_owned())
}

/// Where JNA looks for a library of this machine inside a jar.
pub(super) fn platform() -> Result<String> {
    let system = match std::env::consts::OS {
        "linux" => "linux",
        "macos" => "darwin",
        "windows" => "win32",
        other => bail!("JNA knows no system {other}"),
    };
    Ok(format!("{system}-{}", std::env::consts::ARCH.replace('_', "-")))
}

/// The classes of the JVM's and Android's modules, in one folder.
pub(super) fn classes(to: &Path) -> Result<()> {
    for module in ["selvedge-jvm", "selvedge-android"] {
        copy_tree(&place::root().join("bindings/kotlin").join(module).join("target/classes"), to)?;
    }
    Ok(())
}
