//! From rows, one for each user, to what is kept of each variation.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use selvedge_core::{Error, ErrorKind, Result};

use super::{Day, Moments, Options, Paired, Sales, options::Refunds};

/// The most variations; more is a column that is not one.
const MOST_VARIATIONS: usize = 64;

/// The most days and the most products; more is a column that is neither.
const MOST_GROUPS: usize = 10_000;

/// One user.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row<'a> {
    /// Who; each user once.
    pub user: &'a str,
    /// What the user was shown.
    pub variation: &'a str,
    /// All that the user paid since, 0 for most.
    pub revenue: f64,
    /// Whether the user bought.
    pub converted: bool,
    /// Something known of the user from before: past revenue, past sessions.
    pub covariate: Option<f64>,
    /// The day of the first exposure.
    pub day: Option<Day>,
    /// Percent off the list price, 0 for none.
    pub discount: Option<f64>,
    /// What was bought.
    pub product: Option<&'a str>,
    /// ISO 4217.
    pub currency: Option<&'a str>,
    /// The values of the guardrails' columns, in the order of [`Options::guardrails`].
    pub guardrails: &'a [f64],
    /// The line of the file, for errors.
    pub line: u64,
}

/// Where rows come from.
pub trait Source {
    /// Hands over every row.
    ///
    /// # Errors
    /// `InvalidInput` for what cannot be read, naming line and column, and those of `take`.
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()>;

    /// What the source left out, and why; it is told in the report.
    fn left_out(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// What else is to be told of it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether revenue is in minor units of its currency (cents), as events carry it.
    fn in_minor_units(&self) -> bool {
        false
    }
}

impl Source for &[Row<'_>] {
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        self.iter().try_for_each(take)
    }
}

impl Source for Box<dyn Source> {
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        (**self).each(take)
    }

    fn left_out(&self) -> Vec<(String, u64)> {
        (**self).left_out()
    }

    fn notes(&self) -> Vec<String> {
        (**self).notes()
    }

    fn in_minor_units(&self) -> bool {
        (**self).in_minor_units()
    }
}

/// The error of a value.
pub(crate) fn wrong(line: u64, column: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.input", message).with("line", line).with("column", column)
}

/// What is kept of a variation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) revenue: Moments,
    pub(crate) conversions: u64,
    pub(crate) paired: Paired,
    pub(crate) guardrails: Vec<Moments>,
    pub(crate) days: BTreeMap<Day, Moments>,
    pub(crate) products: BTreeMap<String, Sales>,
    /// Revenue of users who paid, only when it is to be capped.
    pub(crate) paid: Vec<f64>,
}

/// Takes rows.
#[derive(Debug)]
pub(crate) struct Collector<'o> {
    options: &'o Options,
    names: Vec<String>,
    pub(crate) cells: Vec<Cell>,
    users: Vec<User>,
    pub(crate) currency: Option<String>,
    pub(crate) with_covariate: Option<bool>,
    with_day: Option<bool>,
    dates: Option<bool>,
    pub(crate) refunds: u64,
    pub(crate) paid_without_conversion: u64,
}

/// A user who was there, in 16 bytes: sorted at the end, they show who was there twice. Two of ten million users share a hash
/// with a probability of 3 in a million: they would be taken for the same user, and the report refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct User {
    hash: u64,
    line: u32,
    variation: u8,
}

impl<'o> Collector<'o> {
    pub(crate) fn new(options: &'o Options) -> Self {
        Self {
            options,
            names: Vec::new(),
            cells: Vec::new(),
            users: Vec::new(),
            currency: None,
            with_covariate: None,
            with_day: None,
            dates: None,
            refunds: 0,
            paid_without_conversion: 0,
        }
    }

    pub(crate) fn take(&mut self, row: &Row<'_>) -> Result<()> {
        let variation = self.variation(row)?;
        self.user(row, variation)?;
        self.one_currency(row)?;
        let revenue = self.revenue(row)?;
        self.paid_without_conversion += u64::from(revenue > 0.0 && !row.converted);
        let covariate = self.covariate(row)?;
        self.day(row)?;
        let capped = self.options.winsorise.is_some();
        let cell = &mut self.cells[variation];
        cell.revenue.add(revenue);
        cell.conversions += u64::from(row.converted);
        if let Some(covariate) = covariate {
            cell.paired.add(revenue, covariate);
        }
        if capped && revenue != 0.0 {
            cell.paid.push(revenue);
        }
        cell.guardrails.resize(row.guardrails.len(), Moments::default());
        for (moments, &value) in cell.guardrails.iter_mut().zip(row.guardrails) {
            moments.add(value);
        }
        if let Some(day) = row.day {
            cell.days.entry(day).or_default().add(revenue);
            if cell.days.len() > MOST_GROUPS {
                return Err(wrong(row.line, "day", "there are too many days").advise("give whole days"));
            }
        }
        if row.converted || revenue != 0.0 {
            let discount = row.discount.unwrap_or(0.0);
            if !(0.0..=100.0).contains(&discount) {
                return Err(wrong(row.line, "discount_pct", "a discount is a percentage").with("value", discount));
            }
            let product = row.product.unwrap_or_default();
            // Most rows are of a product that is there.
            if !cell.products.contains_key(product) {
                if cell.products.len() == MOST_GROUPS {
                    return Err(wrong(row.line, "product_id", "there are too many products"));
                }
                cell.products.insert(product.into(), Sales::default());
            }
            if let Some(sales) = cell.products.get_mut(product) {
                sales.add(revenue, discount, row.converted);
            }
        }
        Ok(())
    }

    pub(crate) fn name(&self, variation: usize) -> &str {
        &self.names[variation]
    }

    /// The variations by name.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.names.len()).collect();
        order.sort_by_key(|&variation| &self.names[variation]);
        order
    }

    fn variation(&mut self, row: &Row<'_>) -> Result<usize> {
        if let Some(known) = self.names.iter().position(|name| name == row.variation) {
            return Ok(known);
        }
        if row.variation.is_empty() {
            return Err(wrong(row.line, "variation", "the user has no variation"));
        }
        if self.names.len() == MOST_VARIATIONS {
            return Err(wrong(row.line, "variation", "there are more than 64 variations")
                .with("variation", row.variation)
                .advise("check which column holds the variation"));
        }
        self.names.push(row.variation.into());
        self.cells.push(Cell::default());
        Ok(self.names.len() - 1)
    }

    fn user(&mut self, row: &Row<'_>, variation: usize) -> Result<()> {
        if row.user.is_empty() {
            return Err(wrong(row.line, "user_id", "the row has no user"));
        }
        let mut hasher = DefaultHasher::new();
        row.user.hash(&mut hasher);
        let line = u32::try_from(row.line).unwrap_or(u32::MAX);
        self.users.push(User { hash: hasher.finish(), line, variation: variation as u8 });
        Ok(())
    }

    /// Checks that each user was there once.
    pub(crate) fn once(&mut self) -> Result<()> {
        self.users.sort_unstable();
        let twice = self.users.windows(2).filter(|pair| pair[0].hash == pair[1].hash);
        let Some([first, second]) = twice.min_by_key(|pair| pair[1].line).and_then(|pair| pair.first_chunk()) else {
            return Ok(());
        };
        let line = u64::from(second.line);
        if first.variation == second.variation {
            return Err(wrong(line, "user_id", "the user has two rows")
                .with("first_line", first.line)
                .advise("give one row for each user, with all that the user paid"));
        }
        let [one, other] = [first, second].map(|user| &self.names[usize::from(user.variation)]);
        Err(wrong(line, "variation", "the user is in two variations")
            .with("first_line", first.line)
            .with("variations", format!("{one} and {other}"))
            .advise("assign by user and keep the assignment; who saw both can count for neither"))
    }

    fn one_currency(&mut self, row: &Row<'_>) -> Result<()> {
        let Some(currency) = row.currency.filter(|currency| !currency.is_empty()) else { return Ok(()) };
        match &self.currency {
            Some(first) if first == currency => Ok(()),
            Some(first) => Err(wrong(row.line, "currency", "revenue is in several currencies")
                .with("currencies", format!("{first} and {currency}"))
                .advise("convert it to one, at the rate of one day")),
            None => {
                self.currency = Some(currency.into());
                Ok(())
            }
        }
    }

    fn revenue(&mut self, row: &Row<'_>) -> Result<f64> {
        if !row.revenue.is_finite() {
            return Err(wrong(row.line, "revenue", "revenue must be a number").with("value", row.revenue));
        }
        if row.revenue >= 0.0 {
            return Ok(row.revenue);
        }
        self.refunds += 1;
        match self.options.refunds {
            Refunds::Net => Ok(row.revenue),
            Refunds::Zero => Ok(0.0),
            Refunds::Refuse => Err(wrong(row.line, "revenue", "revenue is negative")
                .with("value", row.revenue)
                .advise("say what refunds are: `net` counts them as they are, `zero` as nothing")),
        }
    }

    fn day(&mut self, row: &Row<'_>) -> Result<()> {
        if *self.with_day.get_or_insert(row.day.is_some()) != row.day.is_some() {
            return Err(wrong(row.line, "day", "some users have a day and some have none"));
        }
        if let Some(day) = row.day
            && *self.dates.get_or_insert(day.date) != day.date
        {
            return Err(wrong(row.line, "day", "some days are dates and some are numbers").with("value", day));
        }
        Ok(())
    }

    fn covariate(&mut self, row: &Row<'_>) -> Result<Option<f64>> {
        if *self.with_covariate.get_or_insert(row.covariate.is_some()) != row.covariate.is_some() {
            return Err(wrong(row.line, "covariate", "some users have a covariate and some have none")
                .advise("give 0, or the mean, where nothing is known"));
        }
        match row.covariate {
            Some(covariate) if !covariate.is_finite() => {
                Err(wrong(row.line, "covariate", "the covariate must be a number").with("value", covariate))
            }
            covariate => Ok(covariate),
        }
    }
}
