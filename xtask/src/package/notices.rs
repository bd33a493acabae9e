//! The licences of what is compiled into the library: their texts have to travel with it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{place, shell};

/// The file, wherever it lies in an artefact.
pub(super) const FILE: &str = "THIRD-PARTY.txt";

/// What starts the name of a file that holds a licence.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// Writes the list of crates with their licences, and each text once.
pub(super) fn write(folder: &Path) -> Result<()> {
    let mut tree = place::cargo();
    tree.args(["tree", "-p", "selvedge-ffi", "--features", "llama", "--target", "all"]);
    tree.args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe", "--format", "{p}"]);
    let tree = shell::quiet("list what is inside the library", &mut tree)?;
    let mut command = place::cargo();
    let metadata =
        shell::quiet("read its licences", command.args(["metadata", "--format-version", "1", "--all-features"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no package")?;
    let mut list = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let text = |field: &str| package[field].as_str().unwrap_or("unknown");
        let (name, version) = (text("name"), text("version"));
        let line = format!("{name} v{version}");
        // What has no source is our own.
        if package["source"].is_null() || !tree.lines().any(|found| found.starts_with(&line)) {
            continue;
        }
        list.push_str(&format!("{name} {version}: {}, {}\n", text("license"), text("repository")));
        let home = Path::new(text("manifest_path")).parent().context("a package without a folder")?;
        for found in licences(home)? {
            texts.entry(found).or_default().push(name.to_owned());
        }
    }
    let mut notice = format!(
        "The library contains the following, and Rust's standard library (MIT OR Apache-2.0, https://github.com/rust-lang/rust).\n\
         SQLite itself is in the public domain. A build without models contains no llama.cpp.\n\n{list}"
    );
    for (text, mut names) in texts {
        names.dedup();
        notice.push_str(&format!("\n{}\n{}\n\n{}\n", "-".repeat(72), names.join(", "), text.trim()));
    }
    fs::create_dir_all(folder)?;
    fs::write(folder.join(FILE), notice).with_context(|| format!("cannot write {FILE}"))
}

/// The licence texts of a crate, and of the C library that it brings along.
fn licences(home: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for folder in [home.to_path_buf(), home.join("llama.cpp")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            if path.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
                texts.push(fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
            }
        }
    }
    Ok(texts)
}
