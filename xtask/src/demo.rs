//! `cargo xtask demo`: the storefront, from a bare machine to its account of what happened.

use std::{ffi::OsString, path::PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use crate::{setup, shell, workspace};

/// What the storefront is asked to do.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Demo {
    /// How many orders the shopper places
    #[arg(long)]
    pub(crate) orders: Option<u32>,
    /// The share of requests and answers that the link drops, 0 to 1
    #[arg(long, value_parser = share)]
    pub(crate) drop_rate: Option<f64>,
    /// Seeds every random choice, so that a run can be repeated
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How many shoppers come to the paywall
    #[arg(long)]
    pub(crate) shoppers: Option<u32>,
    /// Also write the counts to this file: intents, attempts, drops, effects, tokens_per_second, experiment
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Sets up, builds, and runs the storefront.
pub(crate) fn run(demo: &Demo) -> Result<()> {
    let model = setup::all(false)?;
    let storefront = workspace::program("storefront")?;
    let mut command = std::process::Command::new(storefront);
    command.args(arguments(demo)).arg("--model").arg(model);
    let (status, _) = shell::streamed("storefront", &mut command, |_, _| {})?;
    if !status.success() {
        bail!(
            "the storefront ended with {status}: an effect was lost or doubled, or it could not run; its words are above"
        );
    }
    Ok(())
}

fn arguments(demo: &Demo) -> Vec<OsString> {
    let mut arguments = Vec::new();
    let mut flag = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            arguments.extend([name.into(), value]);
        }
    };
    flag("--orders", demo.orders.map(|n| n.to_string().into()));
    flag("--drop-rate", demo.drop_rate.map(|p| p.to_string().into()));
    flag("--seed", demo.seed.map(|s| s.to_string().into()));
    flag("--shoppers", demo.shoppers.map(|n| n.to_string().into()));
    flag("--json", demo.json.clone().map(OsString::from));
    arguments
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share lies between 0 and 1".to_owned()),
    }
}
