//! Everything a fresh machine needs, one idempotent step after another.

pub(crate) mod model;
pub(crate) mod python;
pub(crate) mod system;

use std::path::PathBuf;

use anyhow::Result;

/// What every build and every model needs; gives the path of the model.
pub(crate) fn all(verify: bool) -> Result<PathBuf> {
    system::ensure(&system::BASE)?;
    model::ensure(verify)
}
