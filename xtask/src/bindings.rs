//! `cargo xtask bindings`: the Kotlin, Swift and Python that UniFFI generates from `selvedge-ffi`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{place, shell, workspace};

/// Where generated files are committed: what the generator calls them, and where they lie in the tree.
const COMMITTED: [(&str, &str); 4] = [
    (
        "kotlin/dev/selvedge/ffi/selvedge_ffi.kt",
        "bindings/kotlin/selvedge-jvm/src/generated/kotlin/dev/selvedge/ffi/selvedge_ffi.kt",
    ),
    ("swift/SelvedgeGenerated.swift", "bindings/swift/Sources/SelvedgeGenerated/SelvedgeGenerated.swift"),
    ("swift/selvedge_ffiFFI.h", "bindings/swift/Sources/selvedge_ffiFFI/selvedge_ffiFFI.h"),
    ("swift/module.modulemap", "bindings/swift/Sources/selvedge_ffiFFI/module.modulemap"),
];

/// Generate the bindings.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Bindings {
    /// Change nothing; exit 1 when what is committed differs from what the library says
    #[arg(long)]
    check: bool,
}

/// Generates; with `--check` compares only.
pub(crate) fn run(options: &Bindings) -> Result<()> {
    let generated = generate(&library()?)?;
    let drifted = drift(&generated)?;
    if options.check {
        ensure!(
            drifted.is_empty(),
            "generated code differs from the library: run `cargo xtask bindings` and commit\n  {}",
            drifted.join("\n  ")
        );
        println!("the generated code is what the library says");
        return Ok(());
    }
    for (from, to) in COMMITTED {
        let to = place::root().join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(generated.join(from), &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    match drifted.as_slice() {
        [] => println!("nothing changed"),
        files => files.iter().for_each(|file| println!("wrote {file}")),
    }
    Ok(())
}

/// The committed files that differ from the generated ones.
pub(crate) fn drift(generated: &Path) -> Result<Vec<String>> {
    let mut drifted = Vec::new();
    for (from, to) in COMMITTED {
        let wanted = fs::read(generated.join(from)).with_context(|| format!("the generator wrote no {from}"))?;
        if fs::read(place::root().join(to)).ok() != Some(wanted) {
            drifted.push(to.to_owned());
        }
    }
    Ok(drifted)
}

/// Builds the library, with models; gives its path. It is not stripped: the generator reads its symbols.
pub(crate) fn library() -> Result<PathBuf> {
    shell::quiet("build the library and the generator", &mut workspace::cargo("build"))?;
    let name = format!("{}selvedge_ffi{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    place::built(&name)
}

/// Generates for every language below the target folder; gives that folder.
pub(crate) fn generate(library: &Path) -> Result<PathBuf> {
    let out = place::target()?.join("bindings");
    for language in ["kotlin", "python"] {
        let mut command = Command::new(place::program("uniffi-bindgen")?);
        command.current_dir(place::root()).arg("generate").arg(library);
        command.args(["--no-format", "--language", language, "--out-dir"]).arg(out.join(language));
        shell::quiet(&format!("generate {language}"), &mut command)?;
    }
    let mut command = Command::new(place::program("uniffi-bindgen-swift")?);
    command.current_dir(place::root()).args(["--swift-sources", "--headers", "--modulemap"]);
    command.args(["--module-name", "selvedge_ffiFFI", "--modulemap-filename", "module.modulemap"]);
    shell::quiet("generate swift", command.arg(library).arg(out.join("swift")))?;
    Ok(out)
}
