//! Writes the events themselves, one row each.

use std::{io::Write, path::Path};

use chrono::{DateTime, SecondsFormat};
use selvedge_core::{
    Context, ErrorKind, Result,
    store::{FactView, Store},
};
use serde_json::{Map, Value};

use super::{
    export::{create, failed},
    facts::each_fact,
};

/// The columns of exported events. `revenue` is in minor units, as it was tracked; `properties` are all of them, as JSON.
pub const EVENT_COLUMNS: [&str; 12] = [
    "id",
    "name",
    "subject",
    "recorded_at",
    "experiment",
    "variant",
    "placement_id",
    "product_id",
    "discount_pct",
    "revenue",
    "currency",
    "properties",
];

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportedEvents {
    /// Events, a row each.
    pub events: u64,
    /// Those of them whose properties are not text: their column `properties` is empty, and all that would be in them.
    pub without_properties: u64,
}

/// Writes the facts of a Store to a file, in the order in which they were recorded, one row each: Parquet by its ending, else
/// CSV; `-` is CSV on stdout. With a `name`, only those of that name.
///
/// The columns are [`EVENT_COLUMNS`]. A property that an event has by that name, and of that type, is in its column; else the
/// column is empty. `recorded_at` is in UTC to the microsecond: in CSV as RFC 3339, in Parquet as a timestamp. It holds a page
/// of facts, and in Parquet a group of rows, 32 MiB. It writes where it is called: call it where that may block.
///
/// # Errors
/// Those of the Store; `PermissionDenied`, `StorageFull` or `InvalidInput` when the file cannot be written; `Unsupported` for
/// Parquet where that is not built in.
pub async fn export_events(
    store: &impl Store,
    cx: &Context,
    name: Option<&str>,
    path: &Path,
) -> Result<ExportedEvents> {
    let mut sheet = open(path)?;
    let mut done = ExportedEvents::default();
    let write = |view: &FactView| {
        let event = Event::of(view);
        done.events += 1;
        done.without_properties += u64::from(event.properties.is_none());
        sheet.write(&event)
    };
    each_fact(store, cx, name, write).await?;
    sheet.finish()?;
    Ok(done)
}

/// An event as a row.
pub(super) struct Event<'a> {
    pub(super) view: &'a FactView,
    /// Experiment, variant, placement, product and currency.
    pub(super) texts: [Option<String>; 5],
    pub(super) discount: Option<f64>,
    pub(super) revenue: Option<i64>,
    pub(super) properties: Option<&'a str>,
}

impl<'a> Event<'a> {
    fn of(view: &'a FactView) -> Self {
        let properties = std::str::from_utf8(&view.fact.properties).ok();
        // What is no object has no properties to look up.
        let values: Option<Map<String, Value>> = properties.and_then(|text| serde_json::from_str(text).ok());
        let value = |name: &str| values.as_ref().and_then(|values| values.get(name));
        let text = |name: &str| value(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            view,
            texts: ["experiment", "variant", "placement_id", "product_id", "currency"].map(text),
            discount: value("discount_pct").and_then(Value::as_f64),
            revenue: value("revenue").and_then(Value::as_i64),
            properties,
        }
    }
}

/// A file that events are written to.
pub(super) trait Sheet: Send {
    fn write(&mut self, event: &Event<'_>) -> Result<()>;

    /// Writes what was held back.
    fn finish(self: Box<Self>) -> Result<()>;
}

fn open(path: &Path) -> Result<Box<dyn Sheet>> {
    if path == Path::new("-") {
        return csv(std::io::stdout());
    }
    if path.extension().is_some_and(|ending| ending == "parquet") {
        return parquet(path);
    }
    csv(create(path)?)
}

#[cfg(feature = "parquet")]
fn parquet(path: &Path) -> Result<Box<dyn Sheet>> {
    Ok(Box::new(super::parquet::EventWriter::new(create(path)?)?))
}

#[cfg(not(feature = "parquet"))]
fn parquet(_: &Path) -> Result<Box<dyn Sheet>> {
    Err(super::export::no_parquet())
}

fn csv(out: impl Write + Send + 'static) -> Result<Box<dyn Sheet>> {
    let mut writer = csv::WriterBuilder::new().buffer_capacity(1 << 18).from_writer(out);
    writer.write_record(EVENT_COLUMNS).map_err(unwritten)?;
    Ok(Box::new(writer))
}

impl<W: Write + Send> Sheet for csv::Writer<W> {
    fn write(&mut self, event: &Event<'_>) -> Result<()> {
        write_csv(self, event).map_err(unwritten)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.flush().map_err(|error| unwritten(error.into()))
    }
}

fn write_csv(writer: &mut csv::Writer<impl Write>, event: &Event<'_>) -> Result<(), csv::Error> {
    let (fact, recorded_at) = (&event.view.fact, event.view.recorded_at);
    let time = DateTime::from_timestamp_micros(recorded_at.as_micros());
    let time = time.map_or_else(|| recorded_at.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Micros, true));
    let [experiment, variant, placement, product, currency] =
        event.texts.each_ref().map(|text| text.as_deref().unwrap_or_default());
    writer.write_record([
        &*fact.id.to_string(),
        &fact.name,
        &fact.subject,
        &time,
        experiment,
        variant,
        placement,
        product,
        &event.discount.map(|discount| discount.to_string()).unwrap_or_default(),
        &event.revenue.map(|revenue| revenue.to_string()).unwrap_or_default(),
        currency,
        event.properties.unwrap_or_default(),
    ])
}

fn unwritten(error: csv::Error) -> selvedge_core::Error {
    failed(ErrorKind::InvalidInput, error)
}
