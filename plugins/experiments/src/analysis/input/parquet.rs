//! Parquet, read and written column by column, without Arrow.

use std::fs::File;

use parquet::{
    basic::{Compression, LogicalType, Type as Physical},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    schema::types::ColumnDescriptor,
};
use selvedge_core::{Error, ErrorKind, Result};

use super::{
    OPTIONAL, REQUIRED,
    export::{Columns, failed},
    ignored, missing,
};
use crate::analysis::{Day, Row, Source, collect::wrong};

/// Rows that are read at once.
const BATCH: usize = 8_192;

/// Rows that are written in one group.
const GROUP: usize = 1 << 18;

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

fn unreadable(error: ParquetError) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.input", "the Parquet file cannot be read")
        .caused_by(error)
        .advise("write it with Snappy or no compression; if it is, copy it again")
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

/// The values of a column in a batch; `None` where there is none.
enum Values {
    Text(Vec<Option<ByteArray>>),
    Whole(Vec<Option<i64>>),
    Number(Vec<Option<f64>>),
}

/// A column of a row group.
struct Column {
    reader: ColumnReader,
    name: String,
    most_levels: i16,
    /// What a whole number is divided by, for decimals.
    divisor: Option<f64>,
    date: bool,
    values: Values,
}

impl Column {
    fn open(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Result<Self> {
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

    fn read(&mut self, count: usize) -> Result<usize> {
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

    fn text<'v>(&'v self, row: usize, buffer: &'v mut String) -> Option<&'v str> {
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

    fn number(&self, row: usize) -> Option<f64> {
        match &self.values {
            Values::Number(values) => *values.get(row)?,
            Values::Whole(values) => values.get(row)?.map(|value| value as f64),
            Values::Text(values) => std::str::from_utf8(values.get(row)?.as_ref()?.data()).ok()?.trim().parse().ok(),
        }
    }

    fn day(&self, row: usize) -> Option<Day> {
        match &self.values {
            Values::Whole(values) => values.get(row)?.map(|number| Day { number, date: self.date }),
            Values::Text(values) => Day::parse(std::str::from_utf8(values.get(row)?.as_ref()?.data()).ok()?),
            Values::Number(_) => None,
        }
    }

    /// The error of a value that is missing or of another kind.
    fn wrong(&self, line: u64) -> Error {
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

/// Rows of a group that is being gathered.
#[derive(Default)]
struct Group {
    user: Vec<ByteArray>,
    variation: Vec<ByteArray>,
    revenue: Vec<f64>,
    converted: Vec<bool>,
    covariate: Vec<f64>,
    day: Vec<i32>,
    discount: (Vec<f64>, Vec<i16>),
    product: (Vec<ByteArray>, Vec<i16>),
    currency: (Vec<ByteArray>, Vec<i16>),
}

/// Writes all rows, compressed with Snappy; returns how many.
pub(super) fn write(rows: &mut dyn Source, file: File) -> Result<u64> {
    let (mut count, mut group) = (0, Group::default());
    let mut writer: Option<(SerializedFileWriter<File>, Columns)> = None;
    let mut file = Some(file);
    rows.each(&mut |row| {
        if let Some(file) = file.take() {
            writer = Some((create(file, row)?, Columns::of(row)));
        }
        count += 1;
        group.add(row)?;
        match &mut writer {
            Some((writer, columns)) if group.revenue.len() == GROUP => {
                std::mem::take(&mut group).write(writer, *columns)
            }
            _ => Ok(()),
        }
    })?;
    if let Some((mut writer, columns)) = writer {
        group.write(&mut writer, columns)?;
        writer.close().map_err(|error| failed(ErrorKind::InvalidInput, error))?;
    }
    Ok(count)
}

fn create(file: File, row: &Row<'_>) -> Result<SerializedFileWriter<File>> {
    let columns = Columns::of(row);
    let day = if row.day.is_some_and(|day| day.date) { "required int32 day (DATE);" } else { "required int32 day;" };
    let schema = format!(
        "message users {{ required binary user_id (UTF8); required binary variation (UTF8); required double revenue; \
         required boolean converted; {} {} optional double discount_pct; optional binary product_id (UTF8); \
         optional binary currency (UTF8); }}",
        if columns.covariate { "required double covariate;" } else { "" },
        if columns.day { day } else { "" },
    );
    let failed = |error| failed(ErrorKind::InvalidInput, error);
    let schema = parquet::schema::parser::parse_message_type(&schema).map_err(failed)?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    SerializedFileWriter::new(file, schema.into(), properties.into()).map_err(failed)
}

impl Group {
    fn add(&mut self, row: &Row<'_>) -> Result<()> {
        self.user.push(row.user.into());
        self.variation.push(row.variation.into());
        self.revenue.push(row.revenue);
        self.converted.push(row.converted);
        self.covariate.push(row.covariate.unwrap_or_default());
        let day = row.day.map_or(Ok(0), |day| i32::try_from(day.number));
        self.day.push(day.map_err(|error| failed(ErrorKind::InvalidInput, error).with("line", row.line))?);
        let discount = row.discount;
        self.discount.1.push(i16::from(discount.is_some()));
        self.discount.0.extend(discount);
        for (column, value) in [(&mut self.product, row.product), (&mut self.currency, row.currency)] {
            let value = value.filter(|value| !value.is_empty());
            column.1.push(i16::from(value.is_some()));
            column.0.extend(value.map(ByteArray::from));
        }
        Ok(())
    }

    fn write(self, writer: &mut SerializedFileWriter<File>, columns: Columns) -> Result<()> {
        if self.revenue.is_empty() {
            return Ok(());
        }
        let mut write = || -> Result<(), ParquetError> {
            let mut group = writer.next_row_group()?;
            let mut names = REQUIRED.into_iter().chain(OPTIONAL).filter(|name| match *name {
                "covariate" => columns.covariate,
                "day" => columns.day,
                _ => true,
            });
            while let (Some(name), Some(mut column)) = (names.next(), group.next_column()?) {
                match name {
                    "user_id" => column.typed::<ByteArrayType>().write_batch(&self.user, None, None)?,
                    "variation" => column.typed::<ByteArrayType>().write_batch(&self.variation, None, None)?,
                    "revenue" => column.typed::<DoubleType>().write_batch(&self.revenue, None, None)?,
                    "converted" => column.typed::<BoolType>().write_batch(&self.converted, None, None)?,
                    "covariate" => column.typed::<DoubleType>().write_batch(&self.covariate, None, None)?,
                    "day" => column.typed::<Int32Type>().write_batch(&self.day, None, None)?,
                    "discount_pct" => {
                        column.typed::<DoubleType>().write_batch(&self.discount.0, Some(&self.discount.1), None)?
                    }
                    "product_id" => {
                        column.typed::<ByteArrayType>().write_batch(&self.product.0, Some(&self.product.1), None)?
                    }
                    _ => column.typed::<ByteArrayType>().write_batch(&self.currency.0, Some(&self.currency.1), None)?,
                };
                column.close()?;
            }
            group.close()?;
            Ok(())
        };
        write().map_err(|error| failed(ErrorKind::InvalidInput, error))
    }
}
