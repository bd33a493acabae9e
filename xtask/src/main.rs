//! Every chore of the repository: `cargo xtask --help` lists them.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod bindings;
mod check;
mod demo;
mod faults;
mod hook;
mod language;
mod package;
mod phone;
mod place;
mod setup;
mod shell;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Every chore of the repository
///
/// Downloads go to the folder in SELVEDGE_CACHE, by default the user's cache directory, never into the tree.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install or check what the other chores need: system packages and the model
    Setup,
    /// Set up, build, and run the storefront: exits 1 unless every order was charged exactly once
    Demo(demo::Demo),
    /// Set up and run every test; the last line is `N passed, N failed, N skipped`
    Test(test::Test),
    /// Check everything besides the tests: format, lints, licences, documents; exits 1 when something is not clean
    Check(check::Check),
    /// Install a git hook that runs the quick checks before each commit
    Hook(hook::Hook),
    /// Measure beside peers; exits 0 once measured, with a target that is not held shown in red
    Bench(bench::Bench),
    /// Generate the Kotlin and Swift of the library; with --check fail when what is committed differs
    Bindings(bindings::Bindings),
    /// Pack what apps import: the AAR, the JVM jar, the XCFramework and the Swift package
    Package(package::Package),
    /// Check what was packed, and build and run a small consumer against each artefact
    Verify(package::verify::Verify),
    /// Inject faults and count; exits 1 when anything was lost, doubled or wrong, or nothing was injected
    Faults(faults::Faults),
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<test::Failed>() || error.is::<check::Unclean>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            // 2 says that this machine lacks something, 1 that a chore was done and did not come out well.
            if error.is::<setup::system::Missing>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Setup => {
            let model = setup::tests(true)?;
            println!("ready; the model is {}", model.display());
            Ok(())
        }
        Chore::Demo(demo) => demo::run(&demo),
        Chore::Test(test) => test::run(&test),
        Chore::Check(check) => check::run(&check),
        Chore::Hook(hook) => hook::run(hook),
        Chore::Bench(bench) => bench::run(&bench),
        Chore::Bindings(options) => bindings::run(&options),
        Chore::Package(package) => package::run(&package),
        Chore::Verify(verify) => package::verify::run(&verify),
        Chore::Faults(faults) => faults::run(&faults).map(|_| ()),
    }
}
