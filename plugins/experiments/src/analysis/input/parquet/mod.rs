//! Parquet, read and written column by column, without Arrow.

mod column;
mod events;
mod write;

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use selvedge_core::Result;

use self::column::{Column, unreadable};
pub(super) use self::{events::EventWriter, write::write};
use super::{OPTIONAL, REQUIRED, ignored, missing};
use crate::analysis::{Row, Source, collect::wrong};

/// Rows that are read at once.
const BATCH: usize = 8_192;

/// A Parquet file with the columns of a CSV file. In errors, the line is the number of the row.
pub struct Parquet {
    reader: SerializedFileReader<File>,
    head: Vec<String>,
    guardrails: Vec<String>,
}

impl std::fmt::Debug for Parquet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parquet").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Parquet {
    /// Reads the schema; `guardrails` are further columns that must be there.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is damaged or empty, and a column that is missing.
    pub fn new(file: File, guardrails: &[String]) -> Result<Self> {
        let reader = SerializedFileReader::new(file).map_err(unreadable)?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let head: Vec<_> = schema.columns().iter().map(|column| column.path().string()).collect();
        for name in REQUIRED.iter().copied().chain(guardrails.iter().map(String::as_str)) {
            if !head.iter().any(|found| found == name) {
                return Err(missing(name, &head));
            }
        }
        Ok(Self { reader, head, guardrails: guardrails.to_vec() })
    }
}

impl Source for Parquet {
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let mut line = 0;
        for group in 0..self.reader.num_row_groups() {
            self.group(group, &mut line, take)?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let ignored = ignored(&self.head, &self.guardrails);
        let told = (!ignored.is_empty()).then(|| format!("columns not looked at: {}", ignored.join(", ")));
        told.into_iter().collect()
    }
}

impl Parquet {
    fn group(&self, group: usize, line: &mut u64, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let group = self.reader.get_row_group(group).map_err(unreadable)?;
        let rows = group.metadata().num_rows();
        let guardrails = self.guardrails.iter().map(String::as_str);
        let wanted: Vec<_> = REQUIRED.into_iter().chain(OPTIONAL).chain(guardrails).collect();
        let open = |name: &str| -> Result<Option<Column>> {
            let Some(place) = self.head.iter().position(|found| found == name) else { return Ok(None) };
            let reader = group.get_column_reader(place).map_err(unreadable)?;
            Ok(Some(Column::open(reader, group.metadata().column(place).column_descr())?))
        };
        let mut columns = wanted.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut left = usize::try_from(rows).unwrap_or(0);
        while left > 0 {
            let count = left.min(BATCH);
            for column in columns.iter_mut().flatten() {
                if column.read(count)? != count {
                    return Err(wrong(*line + 1, &column.name, "the file is cut short"));
                }
            }
            for row in 0..count {
                *line += 1;
                hand_over(&columns, row, *line, take)?;
            }
            left -= count;
        }
        Ok(())
    }
}

fn hand_over(
    columns: &[Option<Column>],
    row: usize,
    line: u64,
    take: &mut dyn FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let [
        Some(user),
        Some(variation),
        Some(revenue),
        Some(converted),
        covariate,
        day,
        discount,
        product,
        currency,
        guardrails @ ..,
    ] = columns
    else {
        return Ok(());
    };
    let mut buffers = [const { String::new() }; 4];
    let [of_user, of_variation, of_product, of_currency] = &mut buffers;
    let number = |column: &Column| column.number(row).ok_or_else(|| column.wrong(line));
    let flag = match number(converted)? {
        0.0 => false,
        1.0 => true,
        other => return Err(wrong(line, "converted", "converted is 0 or 1").with("value", other)),
    };
    let mut guarded = Vec::with_capacity(guardrails.len());
    for column in guardrails.iter().flatten() {
        let value = number(column)?;
        if !value.is_finite() {
            return Err(wrong(line, &column.name, "the value must be a number").with("value", value));
        }
        guarded.push(value);
    }
    take(&Row {
        user: user.text(row, of_user).ok_or_else(|| user.wrong(line))?,
        variation: variation.text(row, of_variation).ok_or_else(|| variation.wrong(line))?,
        revenue: number(revenue)?,
        converted: flag,
        covariate: covariate.as_ref().map(number).transpose()?,
        day: day.as_ref().map(|column| column.day(row).ok_or_else(|| column.wrong(line))).transpose()?,
        discount: discount.as_ref().and_then(|column| column.number(row)),
        product: product.as_ref().and_then(|column| column.text(row, of_product)),
        currency: currency.as_ref().and_then(|column| column.text(row, of_currency)),
        guardrails: &guarded,
        line,
    })
}
