//! The conformance cases of the SDK specification, as the crate `growthbook-rust` carries them.

use std::{path::PathBuf, process::Command};

use serde_json::Value;

/// A file of the crate `growthbook-rust`, from where cargo keeps its source.
pub(crate) fn file(path: &str) -> String {
    let text = |command: &mut Command| {
        let output = command.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("cargo prints text")
    };
    let version = text(Command::new(env!("CARGO")).arg("-vV"));
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let metadata = text(
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host])
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let package = metadata["packages"].as_array().expect("packages").iter().find(|package| {
        package["name"] == "growthbook-rust"
            && package["version"].as_str().is_some_and(|version| version.starts_with("0.4."))
    });
    let manifest =
        PathBuf::from(package.expect("growthbook-rust is a dependency")["manifest_path"].as_str().expect("a path"));
    let path = manifest.with_file_name("").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Equal JSON, where a number is its value.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}
