//! Writes Parquet.

use std::fs::File;

use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int32Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
};
use selvedge_core::{ErrorKind, Result};

use super::super::{
    OPTIONAL, REQUIRED,
    export::{Columns, failed},
};
use crate::analysis::{Row, Source};

/// Rows that are written in one group.
const GROUP: usize = 1 << 18;

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
pub(in super::super) fn write(rows: &mut dyn Source, file: File) -> Result<u64> {
    let (mut count, mut group) = (0, Group::default());
    let mut writer: Option<(SerializedFileWriter<File>, Columns)> = None;
    let mut file = Some(file);
    rows.each(&mut |row| {
        if let Some(file) = file.take() {
            writer = Some((create(file, &schema(row))?, Columns::of(row)));
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

fn schema(row: &Row<'_>) -> String {
    let columns = Columns::of(row);
    let day = if row.day.is_some_and(|day| day.date) { "required int32 day (DATE);" } else { "required int32 day;" };
    format!(
        "message users {{ required binary user_id (UTF8); required binary variation (UTF8); required double revenue; \
         required boolean converted; {} {} optional double discount_pct; optional binary product_id (UTF8); \
         optional binary currency (UTF8); }}",
        if columns.covariate { "required double covariate;" } else { "" },
        if columns.day { day } else { "" },
    )
}

/// A file with such columns, compressed with Snappy.
pub(super) fn create(file: File, schema: &str) -> Result<SerializedFileWriter<File>> {
    let failed = |error| failed(ErrorKind::InvalidInput, error);
    let schema = parquet::schema::parser::parse_message_type(schema).map_err(failed)?;
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
