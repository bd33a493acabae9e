//! Events as Parquet.

use std::fs::File;

use parquet::{
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::ParquetError,
    file::writer::{SerializedFileWriter, SerializedRowGroupWriter},
};
use selvedge_core::{ErrorKind, Result};

use super::{
    super::{
        events::{Event, Sheet},
        export::failed,
    },
    write::create,
};

/// Rows and bytes of text after which a group is written.
const GROUP: (usize, usize) = (1 << 18, 32 << 20);

/// The columns of [`EVENT_COLUMNS`](super::super::EVENT_COLUMNS), in their order.
const SCHEMA: &str = "message events { required binary id (UTF8); required binary name (UTF8); required binary subject (UTF8); \
                      required int64 recorded_at (TIMESTAMP(MICROS,true)); optional binary experiment (UTF8); \
                      optional binary variant (UTF8); optional binary placement_id (UTF8); optional binary product_id (UTF8); \
                      optional double discount_pct; optional int64 revenue; optional binary currency (UTF8); \
                      optional binary properties (UTF8); }";

/// Writes events, compressed with Snappy, group by group.
pub(in super::super) struct EventWriter {
    writer: SerializedFileWriter<File>,
    group: Group,
}

impl EventWriter {
    pub(in super::super) fn new(file: File) -> Result<Self> {
        Ok(Self { writer: create(file, SCHEMA)?, group: Group::default() })
    }

    fn flush(&mut self) -> Result<()> {
        std::mem::take(&mut self.group).write(&mut self.writer).map_err(unwritten)
    }
}

impl Sheet for EventWriter {
    fn write(&mut self, event: &Event<'_>) -> Result<()> {
        self.group.add(event);
        if self.group.recorded_at.len() >= GROUP.0 || self.group.bytes >= GROUP.1 {
            self.flush()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if !self.group.recorded_at.is_empty() {
            self.flush()?;
        }
        self.writer.close().map_err(unwritten)?;
        Ok(())
    }
}

fn unwritten(error: ParquetError) -> selvedge_core::Error {
    failed(ErrorKind::InvalidInput, error)
}

/// Values that are there, and for each row whether one is.
struct Optional<T> {
    values: Vec<T>,
    levels: Vec<i16>,
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self { values: Vec::new(), levels: Vec::new() }
    }
}

impl<T> Optional<T> {
    fn push(&mut self, value: Option<T>) {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
    }
}

/// Rows that are being gathered.
#[derive(Default)]
struct Group {
    id: Vec<ByteArray>,
    name: Vec<ByteArray>,
    subject: Vec<ByteArray>,
    recorded_at: Vec<i64>,
    /// Experiment, variant, placement, product and currency.
    texts: [Optional<ByteArray>; 5],
    discount: Optional<f64>,
    revenue: Optional<i64>,
    properties: Optional<ByteArray>,
    bytes: usize,
}

impl Group {
    fn add(&mut self, event: &Event<'_>) {
        let fact = &event.view.fact;
        // What has a column of its own is in the properties too.
        self.bytes += fact.name.len() + fact.subject.len() + 2 * fact.properties.len();
        self.id.push(fact.id.to_string().as_str().into());
        self.name.push(fact.name.as_str().into());
        self.subject.push(fact.subject.as_str().into());
        self.recorded_at.push(event.view.recorded_at.as_micros());
        for (column, text) in self.texts.iter_mut().zip(&event.texts) {
            column.push(text.as_deref().map(ByteArray::from));
        }
        self.discount.push(event.discount);
        self.revenue.push(event.revenue);
        self.properties.push(event.properties.map(ByteArray::from));
    }

    fn write(self, writer: &mut SerializedFileWriter<File>) -> Result<(), ParquetError> {
        let mut group = writer.next_row_group()?;
        let [experiment, variant, placement, product, currency] = &self.texts;
        for column in [&self.id, &self.name, &self.subject] {
            next::<ByteArrayType>(&mut group, column, None)?;
        }
        next::<Int64Type>(&mut group, &self.recorded_at, None)?;
        for column in [experiment, variant, placement, product] {
            next::<ByteArrayType>(&mut group, &column.values, Some(&column.levels))?;
        }
        next::<DoubleType>(&mut group, &self.discount.values, Some(&self.discount.levels))?;
        next::<Int64Type>(&mut group, &self.revenue.values, Some(&self.revenue.levels))?;
        for column in [currency, &self.properties] {
            next::<ByteArrayType>(&mut group, &column.values, Some(&column.levels))?;
        }
        group.close()?;
        Ok(())
    }
}

/// Writes the group's next column.
fn next<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("the schema has fewer columns than are written".into()));
    };
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}
