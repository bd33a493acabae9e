//! The tests of the languages besides Rust: each on the library that was built, each giving its counts.

use std::process::Command;

use anyhow::Result;

use crate::{place, shell, test::Count};

pub(crate) mod kotlin;
pub(crate) mod python;
pub(crate) mod swift;

/// The storefront's server with a phone of another language: one test.
fn storefront(language: &str, phone: &Command) -> Result<Count> {
    let mut command = Command::new(place::program("storefront")?);
    command.args(["host", "--orders", "12", "--"]).arg(phone.get_program()).args(phone.get_args());
    let named = phone.get_envs().filter_map(|(name, value)| value.map(|value| (name, value)));
    let (status, _) = shell::streamed(&format!("storefront in {language}"), command.envs(named), |_, _| {})?;
    let (name, passed) = (format!("every order of the {language} phone is charged once"), status.success());
    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    Ok(Count { passed: passed.into(), failed: (!passed).into(), skipped: 0 })
}
