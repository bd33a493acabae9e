//! Where users come from: CSV, Parquet, or the facts in a Store.

mod csv;
mod events;
mod export;
mod facts;
#[cfg(feature = "parquet")]
mod parquet;
mod people;
mod store;

use std::{fs::File, path::Path};

use selvedge_core::{Error, ErrorKind, Result};

#[cfg(feature = "parquet")]
pub use self::parquet::Parquet;
pub use self::{
    csv::Csv,
    events::{EVENT_COLUMNS, ExportedEvents, export_events},
    export::export,
    store::{Users, read_facts},
};
use super::{Options, Source};

/// The columns that every file has.
pub const REQUIRED: [&str; 4] = ["user_id", "variation", "revenue", "converted"];

/// The columns that a file may have.
pub const OPTIONAL: [&str; 5] = ["covariate", "day", "discount_pct", "product_id", "currency"];

/// Opens a file by its ending: `.parquet`, else CSV; `-` is CSV on stdin.
///
/// # Errors
/// `NotFound`, `PermissionDenied` or `InvalidInput` when it cannot be read or has no such columns; `Unsupported` for
/// Parquet where that is not built in.
pub fn open(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let columns: Vec<_> = options.guardrails.iter().map(|guardrail| guardrail.column.clone()).collect();
    if path == Path::new("-") {
        return Ok(Box::new(Csv::new(std::io::stdin().lock(), &columns)?));
    }
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    if path.extension().is_some_and(|ending| ending == "parquet") {
        return parquet(file, &columns).map_err(|error| error.with("file", path.display()));
    }
    Ok(Box::new(Csv::new(file, &columns).map_err(|error| error.with("file", path.display()))?))
}

#[cfg(feature = "parquet")]
fn parquet(file: File, columns: &[String]) -> Result<Box<dyn Source>> {
    Ok(Box::new(Parquet::new(file, columns)?))
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: File, _: &[String]) -> Result<Box<dyn Source>> {
    Err(Error::new(ErrorKind::Unsupported, "experiment.input", "Parquet is not built in")
        .advise("give CSV, or build with the feature `parquet`"))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::InvalidInput,
    };
    Error::new(kind, "experiment.input", "the file cannot be opened")
        .with("file", path.display())
        .caused_by(error)
        .advise("check the path")
}

/// The error of a file that lacks a column.
fn missing(column: &str, found: &[String]) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.input", "a column is missing")
        .with("line", 1)
        .with("column", column)
        .with("found", found.join(", "))
        .advise("give user_id, variation, revenue and converted, and the columns of the guardrails")
}

/// Columns that nothing is done with.
fn ignored(found: &[String], guardrails: &[String]) -> Vec<String> {
    let known = |name: &String| {
        REQUIRED.contains(&name.as_str()) || OPTIONAL.contains(&name.as_str()) || guardrails.contains(name)
    };
    found.iter().filter(|name| !known(name)).cloned().collect()
}
