//! One column of a group of rows, whatever its type.

use parquet::{
    basic::{LogicalType, Type as Physical},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    schema::types::ColumnDescriptor,
};
use selvedge_core::{Error, ErrorKind, Result};

use crate::analysis::{Day, collect::wrong};

pub(super) fn unreadable(error: ParquetError) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.input", "the Parquet file cannot be read")
        .caused_by(error)
        .advise("write it with Snappy or no compression; if it is, copy it again")
}

/// The values of a column in a batch; `None` where there is none.
enum Values {
    Text(Vec<Option<ByteArray>>),
    Whole(Vec<Option<i64>>),
    Number(Vec<Option<f64>>),
}

/// A column of a row group.
pub(super) struct Column {
    reader: ColumnReader,
    pub(super) name: String,
    most_levels: i16,
    /// What a whole number is divided by, for decimals.
    divisor: Option<f64>,
    date: bool,
    values: Values,
}

impl Column {
    pub(super) fn open(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Result<Self> {
        let name = descriptor.path().string();
        let unsupported = |what: &str| {
            Error::new(ErrorKind::Unsupported, "experiment.input", "the column's type cannot be read")
                .with("line", 1)
                .with("column", &name)
                .with("type", what)
                .advise("write text, whole numbers, doubles, booleans or dates")
        };
        if descriptor.max_rep_level() > 0 {
            return Err(unsupported("a list"));
        }
        if matches!(descriptor.physical_type(), Physical::INT96 | Physical::FIXED_LEN_BYTE_ARRAY) {
            return Err(unsupported(&descriptor.physical_type().to_string()));
        }
        let logical = descriptor.logical_type_ref();
        if matches!(logical, Some(LogicalType::Timestamp { .. } | LogicalType::Time { .. })) {
            return Err(unsupported("a time"));
        }
        let divisor = match logical {
            Some(LogicalType::Decimal(decimal)) => Some(10f64.powi(decimal.scale)),
            _ => None,
        };
        let date = matches!(logical, Some(LogicalType::Date));
        let values = Values::Text(Vec::new());
        Ok(Self { reader, name, most_levels: descriptor.max_def_level(), divisor, date, values })
    }

    pub(super) fn read(&mut self, count: usize) -> Result<usize> {
        let most = self.most_levels;
        let (read, values) = match &mut self.reader {
            ColumnReader::ByteArrayColumnReader(reader) => {
                let (read, values) = batch(reader, count, most)?;
                (read, Values::Text(values))
            }
            ColumnReader::Int32ColumnReader(reader) => {
                let (read, values) = batch(reader, count, most)?;
                (read, Values::Whole(values.into_iter().map(|value| value.map(i64::from)).collect()))
            }
            ColumnReader::Int64ColumnReader(reader) => {
                let (read, values) = batch(reader, count, most)?;
                (read, Values::Whole(values))
            }
            ColumnReader::BoolColumnReader(reader) => {
                let (read, values) = batch(reader, count, most)?;
                (read, Values::Whole(values.into_iter().map(|value| value.map(i64::from)).collect()))
            }
            ColumnReader::DoubleColumnReader(reader) => {
                let (read, values) = batch(reader, count, most)?;
                (read, Values::Number(values))
            }
            ColumnReader::FloatColumnReader(reader) => {
                let (read, values) = batch(reader, count, most)?;
                (read, Values::Number(values.into_iter().map(|value| value.map(f64::from)).collect()))
            }
            // Refused when it was opened.
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                (0, Values::Text(vec![]))
            }
        };
        self.values = match (values, self.divisor) {
            (Values::Whole(values), Some(divisor)) => {
                Values::Number(values.into_iter().map(|value| value.map(|value| value as f64 / divisor)).collect())
            }
            (values, _) => values,
        };
        Ok(read)
    }

    pub(super) fn text<'v>(&'v self, row: usize, buffer: &'v mut String) -> Option<&'v str> {
        match &self.values {
            Values::Text(values) => std::str::from_utf8(values.get(row)?.as_ref()?.data()).ok(),
            Values::Whole(values) => {
                use std::fmt::Write;
                let value = values.get(row).copied()??;
                buffer.clear();
                let _ = write!(buffer, "{value}");
                Some(buffer)
            }
            Values::Number(_) => None,
        }
    }

    pub(super) fn number(&self, row: usize) -> Option<f64> {
        match &self.values {
            Values::Number(values) => *values.get(row)?,
            Values::Whole(values) => values.get(row)?.map(|value| value as f64),
            Values::Text(values) => std::str::from_utf8(values.get(row)?.as_ref()?.data()).ok()?.trim().parse().ok(),
        }
    }

    pub(super) fn day(&self, row: usize) -> Option<Day> {
        match &self.values {
            Values::Whole(values) => values.get(row)?.map(|number| Day { number, date: self.date }),
            Values::Text(values) => Day::parse(std::str::from_utf8(values.get(row)?.as_ref()?.data()).ok()?),
            Values::Number(_) => None,
        }
    }

    /// The error of a value that is missing or of another kind.
    pub(super) fn wrong(&self, line: u64) -> Error {
        wrong(line, &self.name, "the value is missing or of another kind")
    }
}

/// The next values of a column, and how many rows they are.
fn batch<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    count: usize,
    most_levels: i16,
) -> Result<(usize, Vec<Option<T::T>>)> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (records, _, _) = reader.read_records(count, Some(&mut levels), None, &mut values).map_err(unreadable)?;
    if most_levels == 0 {
        return Ok((records, values.into_iter().map(Some).collect()));
    }
    let mut values = values.into_iter();
    let present = levels.into_iter().map(|level| if level == most_levels { values.next() } else { None });
    Ok((records, present.collect()))
}
