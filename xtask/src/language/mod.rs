//! The tests of the languages besides Rust: each on the library that was built, each giving its counts.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{place, shell, test::Count};

pub(crate) mod kotlin;
pub(crate) mod python;
pub(crate) mod swift;

/// The storefront's phone in another language.
struct Phone {
    language: &'static str,
    program: Command,
    /// A folder for its database, and what the phone calls that folder.
    folder: PathBuf,
    inside: PathBuf,
}

impl Phone {
    /// Two tests of the storefront's server with this phone: on a bad link, and killed in the middle of a callback. In both,
    /// shoppers come to the paywall at the end.
    fn test(&self) -> Result<Count> {
        let mut count =
            self.story("every order is charged once, and the report has every shopper and cent", &[], &[])?;
        let database = format!("storefront-{}.db", std::process::id());
        let named = self.inside.join(&database).display().to_string();
        count += self.story("a phone killed while it sends loses no order", &["--kill"], &["--database", &named])?;
        for end in ["", "-wal", "-shm"] {
            // The last two are gone when the engine was closed in order.
            let _ = fs::remove_file(self.folder.join(format!("{database}{end}")));
        }
        Ok(count)
    }

    fn story(&self, name: &str, options: &[&str], phone: &[&str]) -> Result<Count> {
        let mut command = Command::new(place::program("storefront")?);
        command.args(["host", "--orders", "12"]).args(options).arg("--");
        command.arg(self.program.get_program()).args(self.program.get_args()).args(phone);
        let named = self.program.get_envs().filter_map(|(name, value)| value.map(|value| (name, value)));
        let label = format!("storefront in {}", self.language);
        let (status, _) = shell::streamed(&label, command.envs(named), |_, _| {})?;
        let passed = status.success();
        println!("test storefront in {}: {name} ... {}", self.language, if passed { "ok" } else { "FAILED" });
        Ok(Count { passed: passed.into(), failed: (!passed).into(), skipped: 0 })
    }
}
