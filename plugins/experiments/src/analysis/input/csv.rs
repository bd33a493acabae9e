//! CSV, read as a stream.

use std::io::Read;

use csv::{ErrorKind as Failure, ReaderBuilder, StringRecord};
use selvedge_core::{Error, ErrorKind, Result};

use super::{REQUIRED, ignored, missing};
use crate::analysis::{Day, Row, Source, collect::wrong};

/// A CSV file with a head: `user_id`, `variation`, `revenue` and `converted`, and what else there may be.
#[derive(Debug)]
pub struct Csv<R> {
    reader: csv::Reader<R>,
    head: Vec<String>,
    places: Places,
    guardrails: Vec<usize>,
    ignored: Vec<String>,
}

/// Where each column is.
#[derive(Clone, Copy, Debug)]
struct Places {
    required: [usize; 4],
    covariate: Option<usize>,
    day: Option<usize>,
    discount: Option<usize>,
    product: Option<usize>,
    currency: Option<usize>,
}

impl<R: Read> Csv<R> {
    /// Reads the head; `guardrails` are further columns that must be there.
    ///
    /// # Errors
    /// `InvalidInput` for an empty file and a column that is missing or there twice.
    pub fn new(reader: R, guardrails: &[String]) -> Result<Self> {
        let mut reader = ReaderBuilder::new().buffer_capacity(1 << 18).from_reader(reader);
        let head = reader.headers().map_err(|error| unreadable(error, &[]))?;
        let head: Vec<_> = head.iter().map(|name| name.trim_start_matches('\u{feff}').trim().to_owned()).collect();
        if head.iter().all(String::is_empty) {
            return Err(Error::new(ErrorKind::InvalidInput, "experiment.input", "the file is empty")
                .with("line", 1)
                .with("column", REQUIRED[0])
                .advise("give a head of user_id, variation, revenue and converted, and a line for each user"));
        }
        let place = |name: &str| head.iter().position(|found| found == name);
        for (index, name) in head.iter().enumerate() {
            if place(name) != Some(index) {
                return Err(wrong(1, name, "a column is there twice"));
            }
        }
        let required = |name: &str| place(name).ok_or_else(|| missing(name, &head));
        let [user, variation, revenue, converted] = REQUIRED;
        let places = Places {
            required: [required(user)?, required(variation)?, required(revenue)?, required(converted)?],
            covariate: place("covariate"),
            day: place("day"),
            discount: place("discount_pct"),
            product: place("product_id"),
            currency: place("currency"),
        };
        let guarded = guardrails.iter().map(|name| required(name)).collect::<Result<_>>()?;
        let ignored = ignored(&head, guardrails);
        Ok(Self { reader, head, places, guardrails: guarded, ignored })
    }
}

impl<R: Read> Source for Csv<R> {
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let mut record = StringRecord::new();
        let mut guarded = vec![0.0; self.guardrails.len()];
        let places = self.places;
        while self.reader.read_record(&mut record).map_err(|error| unreadable(error, &self.head))? {
            let line = record.position().map_or(0, csv::Position::line);
            let text = |place: usize| record.get(place).unwrap_or_default();
            let number = |place: usize| number(text(place), line, &self.head[place]);
            let optional = |place: Option<usize>| place.map(number).transpose();
            let [user, variation, revenue, converted] = places.required;
            for (value, &place) in guarded.iter_mut().zip(&self.guardrails) {
                *value = number(place)?;
                if !value.is_finite() {
                    return Err(wrong(line, &self.head[place], "the value must be a number").with("value", text(place)));
                }
            }
            let day = |place: usize| {
                let meant = "a day is a whole number or a date such as 2026-11-27";
                Day::parse(text(place)).ok_or_else(|| wrong(line, "day", meant).with("value", text(place)))
            };
            take(&Row {
                user: text(user),
                variation: text(variation),
                revenue: number(revenue)?,
                converted: flag(text(converted), line)?,
                covariate: optional(places.covariate)?,
                day: places.day.map(day).transpose()?,
                // Most users buy nothing, and have no discount.
                discount: optional(places.discount.filter(|&place| !text(place).is_empty()))?,
                product: places.product.map(text),
                currency: places.currency.map(text),
                guardrails: &guarded,
                line,
            })?;
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let told = (!self.ignored.is_empty()).then(|| format!("columns not looked at: {}", self.ignored.join(", ")));
        told.into_iter().collect()
    }
}

fn number(text: &str, line: u64, column: &str) -> Result<f64> {
    text.trim().parse().map_err(|_| {
        let message = if text.is_empty() { "the value is missing" } else { "the value is not a number" };
        wrong(line, column, message).with("value", format!("{text:?}"))
    })
}

fn flag(text: &str, line: u64) -> Result<bool> {
    match text.trim() {
        "1" | "true" | "True" | "TRUE" | "1.0" => Ok(true),
        "0" | "false" | "False" | "FALSE" | "0.0" => Ok(false),
        other => Err(wrong(line, "converted", "converted is 0 or 1").with("value", format!("{other:?}"))),
    }
}

fn unreadable(error: csv::Error, head: &[String]) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        Failure::UnequalLengths { expected_len, len, .. } if len < expected_len => {
            let column = head.get(len as usize).map_or("", String::as_str);
            wrong(line, column, "the line is cut short")
                .with("fields", format!("{len} of {expected_len}"))
                .advise("copy the file again, or export it anew")
        }
        Failure::UnequalLengths { expected_len, len, .. } => {
            let column = head.last().map_or("", String::as_str);
            wrong(line, column, "the line has more fields than the head")
                .with("fields", format!("{len} of {expected_len}"))
                .advise("put fields that hold a comma in quotes")
        }
        Failure::Utf8 { err, .. } => {
            let column = head.get(err.field()).map_or("", String::as_str);
            wrong(line, column, "the text is not UTF-8")
        }
        Failure::Io(error) => Error::new(ErrorKind::InvalidInput, "experiment.input", "the file cannot be read")
            .with("line", line)
            .caused_by(error),
        _ => wrong(line, "", "the line cannot be read"),
    }
}
