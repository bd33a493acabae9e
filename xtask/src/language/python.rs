//! Python: the third host. The generated module lies beside the library, and the standard library's unittest runs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{bindings, place, shell, test::Count};

/// Generates the module and runs the scenarios.
pub(crate) fn run(model: &Path) -> Result<Count> {
    let library = bindings::library()?;
    let generated = bindings::generate(&library)?;
    let drifted = bindings::drift(&generated)?;
    ensure!(drifted.is_empty(), "generated code is not what the library says; run `cargo xtask bindings`: {drifted:?}");
    let mut command = python(&generated, &library)?;
    command.args(["-m", "unittest", "--verbose", "test_scenarios"]).env("SELVEDGE_MODEL", model);
    let mut count = Count::default();
    let (status, _) = shell::streamed("Python tests", &mut command, |_, line| {
        if let Some(ran) = line.strip_prefix("Ran ").and_then(|rest| rest.split(' ').next()?.parse().ok()) {
            count.passed = ran;
        }
        if let Some(ended) = ended(line, count.passed) {
            count = ended;
        }
    })?;
    if !status.success() && count.failed == 0 {
        eprintln!("Python ended with {status} before its tests did: counted as one failure");
        count.failed = 1;
    }
    Ok(count)
}

/// The program that measures what calls cost.
pub(crate) fn bench(library: &Path) -> Result<Command> {
    let mut command = python(&bindings::generate(library)?, library)?;
    command.arg("bench_calls.py").env("SELVEDGE_LIBRARY", library);
    Ok(command)
}

/// Python, with the generated module and the library beside it.
fn python(generated: &Path, library: &Path) -> Result<Command> {
    let module = generated.join("python");
    let name = library.file_name().context("the library has no name")?;
    fs::copy(library, module.join(name)).with_context(|| format!("cannot write to {}", module.display()))?;
    let mut command = Command::new("python3");
    command.current_dir(place::root().join("bindings/ffi/python"));
    command.env("PYTHONPATH", &module).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// Reads the last line of unittest: `OK (skipped=2)`, `FAILED (failures=1, errors=1)`, given how many ran.
fn ended(line: &str, ran: u64) -> Option<Count> {
    let rest = line.strip_prefix("OK").or_else(|| line.strip_prefix("FAILED"))?;
    let inner = rest.trim().trim_start_matches('(').trim_end_matches(')');
    if !(rest.is_empty() || rest.starts_with(" (")) {
        return None;
    }
    let mut count = Count::default();
    for part in inner.split(", ").filter(|part| !part.is_empty()) {
        let (what, number) = part.split_once('=')?;
        let number: u64 = number.parse().ok()?;
        match what {
            "skipped" => count.skipped += number,
            _ => count.failed += number,
        }
    }
    count.passed = ran.saturating_sub(count.failed + count.skipped);
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_unittest_is_counted() {
        assert_eq!(ended("OK", 33), Some(Count { passed: 33, failed: 0, skipped: 0 }));
        assert_eq!(ended("OK (skipped=3)", 33), Some(Count { passed: 30, failed: 0, skipped: 3 }));
        let failed = ended("FAILED (failures=2, errors=1, skipped=1)", 10);
        assert_eq!(failed, Some(Count { passed: 6, failed: 3, skipped: 1 }));
        assert_eq!(ended("OK computer", 1), None);
    }
}
