//! Writes users as files that every reader here takes.

use std::{fs::File, io::Write, path::Path};

use selvedge_core::{Error, ErrorKind, Result};

use super::{OPTIONAL, REQUIRED};
use crate::analysis::{Row, Source};

/// Writes all users to a file by its ending: `.parquet`, else CSV; `-` is CSV on stdout. Returns how many.
///
/// # Errors
/// Those of the source; `PermissionDenied` or `InvalidInput` when the file cannot be written; `Unsupported` for Parquet
/// where that is not built in.
pub fn export(rows: &mut dyn Source, path: &Path) -> Result<u64> {
    if path == Path::new("-") {
        return write_csv(rows, std::io::stdout().lock());
    }
    if path.extension().is_some_and(|ending| ending == "parquet") {
        return parquet(rows, path);
    }
    write_csv(rows, create(path)?)
}

#[cfg(feature = "parquet")]
fn parquet(rows: &mut dyn Source, path: &Path) -> Result<u64> {
    super::parquet::write(rows, create(path)?)
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &mut dyn Source, _: &Path) -> Result<u64> {
    Err(no_parquet())
}

#[cfg(not(feature = "parquet"))]
pub(super) fn no_parquet() -> Error {
    Error::new(ErrorKind::Unsupported, "experiment.export", "Parquet is not built in")
        .advise("write CSV, or build with the feature `parquet`")
}

pub(super) fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            std::io::ErrorKind::StorageFull => ErrorKind::StorageFull,
            _ => ErrorKind::InvalidInput,
        };
        failed(kind, error).with("file", path.display())
    })
}

/// The error of writing.
pub(super) fn failed(kind: ErrorKind, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(kind, "experiment.export", "the file cannot be written").caused_by(error)
}

/// The columns of a file: those that the first user has a value for beside those that all have.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) covariate: bool,
    pub(super) day: bool,
}

impl Columns {
    pub(super) fn of(row: &Row<'_>) -> Self {
        Self { covariate: row.covariate.is_some(), day: row.day.is_some() }
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let wanted = move |name: &&str| match *name {
            "covariate" => self.covariate,
            "day" => self.day,
            _ => true,
        };
        REQUIRED.into_iter().chain(OPTIONAL.into_iter().filter(wanted))
    }
}

fn write_csv(rows: &mut dyn Source, out: impl Write) -> Result<u64> {
    let mut writer = csv::WriterBuilder::new().buffer_capacity(1 << 18).from_writer(out);
    let failed = |error: csv::Error| failed(ErrorKind::InvalidInput, error);
    let (mut count, mut columns) = (0, None);
    rows.each(&mut |row: &Row<'_>| {
        let columns = match columns {
            Some(columns) => columns,
            None => {
                let found = Columns::of(row);
                writer.write_record(found.names()).map_err(failed)?;
                *columns.insert(found)
            }
        };
        count += 1;
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let converted = if row.converted { "1" } else { "0" };
        let mut fields = vec![row.user.to_owned(), row.variation.into(), row.revenue.to_string(), converted.into()];
        if columns.covariate {
            fields.push(number(row.covariate));
        }
        if columns.day {
            fields.push(row.day.map(|day| day.to_string()).unwrap_or_default());
        }
        fields.push(number(row.discount));
        fields.push(row.product.unwrap_or_default().into());
        fields.push(row.currency.unwrap_or_default().into());
        writer.write_record(fields).map_err(failed)
    })?;
    writer.flush().map_err(|error| failed(error.into()))?;
    Ok(count)
}
