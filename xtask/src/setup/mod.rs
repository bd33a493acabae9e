//! Everything a fresh machine needs, one idempotent step after another.

pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod postgres;
pub(crate) mod python;
pub(crate) mod system;

use std::path::PathBuf;

use anyhow::Result;

/// The OpenAI clients that the server's tests are asked by.
const OPENAI: [&str; 1] = ["openai==3.54.0"];
const OPENAI_NODE: [&str; 1] = ["openai@7.57.0"];

/// What the tests need besides; gives the path of the model.
pub(crate) fn tests(verify: bool) -> Result<PathBuf> {
    let model = all(verify)?;
    python::environment("openai", &OPENAI)?;
    node::modules("openai", &OPENAI_NODE)?;
    postgres::servers()?;
    Ok(model)
}

/// What every build and every model needs; gives the path of the model.
pub(crate) fn all(verify: bool) -> Result<PathBuf> {
    system::ensure(&system::BASE)?;
    model::ensure(verify)
}
