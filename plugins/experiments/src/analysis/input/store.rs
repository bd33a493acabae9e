//! From the facts of a Store to one row for each exposed user.

use std::{collections::HashMap, sync::Arc};

use selvedge_core::{
    Context, Error, ErrorKind, Result,
    store::{FactView, Store, StoreExt},
};
use serde::Deserialize;

use crate::analysis::{Day, Row, Source, options::Refunds};

/// Facts that are read at once.
const PAGE: usize = 1_000;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// The exposed users of an experiment, in the order of their exposure, with what each paid since.
#[derive(Debug, Default)]
pub struct Users {
    users: Vec<User>,
    left_out: Vec<(String, u64)>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct User {
    subject: String,
    variation: Arc<str>,
    day: i64,
    revenue: i64,
    converted: bool,
    discount: Option<f64>,
    product: Option<String>,
    /// Saw a second variation.
    crossed: bool,
    currency: Option<Arc<str>>,
}

/// What a fact's properties may hold; each kind of fact has its part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Properties {
    experiment: Option<String>,
    variant: Option<String>,
    product_id: Option<String>,
    discount_pct: Option<f64>,
    revenue: Option<i64>,
    currency: Option<String>,
    is_trial: bool,
}

/// Reads an experiment's users from the facts that [`track`](selvedge_core::Experiment::track) kept, in one pass and in
/// the order in which they were recorded:
///
/// - `paywall_impression` of this `experiment` exposes the user to `variant`, the first time it is recorded. A user who
///   then sees another variant counts for neither, and is counted as left out.
/// - `purchase_completed` and `subscription_renewed` add `revenue`, in whole minor units, to whoever was exposed before,
///   however long ago; what was paid before the exposure does not count. A purchase converts unless it `is_trial`.
/// - `purchase_initiated` says product and discount of the user's next purchase; the first purchase's are kept.
///
/// It holds each exposed user in memory, about 200 bytes, and a page of facts.
///
/// # Errors
/// `NotFound` when nobody was exposed; `InvalidInput` for several currencies, and for a refund when those are refused;
/// those of the Store.
pub async fn read_facts(store: &impl Store, cx: &Context, experiment: &str, refunds: Refunds) -> Result<Users> {
    let mut join = Join { experiment, refunds, ..Join::default() };
    let mut after = 0;
    loop {
        let page = store.facts(cx, None, after, PAGE).await?;
        page.items.iter().try_for_each(|fact| join.take(fact))?;
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    join.finish()
}

#[derive(Default)]
struct Join<'e> {
    experiment: &'e str,
    refunds: Refunds,
    users: Vec<User>,
    places: HashMap<String, usize>,
    variations: Vec<Arc<str>>,
    currency: Option<Arc<str>>,
    not_exposed: u64,
    refunded: u64,
    broken: u64,
    first_broken: Option<String>,
}

impl Join<'_> {
    fn take(&mut self, view: &FactView) -> Result<()> {
        let fact = &view.fact;
        if !matches!(
            fact.name.as_str(),
            "paywall_impression" | "purchase_initiated" | "purchase_completed" | "subscription_renewed"
        ) {
            return Ok(());
        }
        let Ok(properties) = serde_json::from_slice::<Properties>(&fact.properties) else {
            self.broken(view);
            return Ok(());
        };
        match fact.name.as_str() {
            "paywall_impression" => self.expose(view, properties),
            "purchase_initiated" => {
                if let Some(&place) = self.places.get(&fact.subject)
                    && !self.users[place].converted
                {
                    let user = &mut self.users[place];
                    (user.product, user.discount) = (properties.product_id, properties.discount_pct);
                }
            }
            name => return self.pay(view, properties, name == "purchase_completed"),
        }
        Ok(())
    }

    fn expose(&mut self, view: &FactView, properties: Properties) {
        if properties.experiment.as_deref() != Some(self.experiment) {
            return;
        }
        let Some(variant) = properties.variant else { return self.broken(view) };
        let known = self.variations.iter().find(|name| ***name == *variant).cloned();
        let variation = known.unwrap_or_else(|| {
            let name = Arc::<str>::from(variant);
            self.variations.push(name.clone());
            name
        });
        if let Some(&place) = self.places.get(&view.fact.subject) {
            let user = &mut self.users[place];
            user.crossed |= user.variation != variation;
            return;
        }
        self.places.insert(view.fact.subject.clone(), self.users.len());
        self.users.push(User {
            subject: view.fact.subject.clone(),
            variation,
            day: view.recorded_at.as_micros().div_euclid(MICROS_A_DAY),
            revenue: 0,
            converted: false,
            discount: None,
            product: None,
            crossed: false,
            currency: None,
        });
    }

    fn pay(&mut self, view: &FactView, properties: Properties, purchase: bool) -> Result<()> {
        let Some(&place) = self.places.get(&view.fact.subject) else {
            self.not_exposed += 1;
            return Ok(());
        };
        let Some(revenue) = properties.revenue else {
            self.broken(view);
            return Ok(());
        };
        self.one_currency(view, properties.currency)?;
        let user = &mut self.users[place];
        user.currency.clone_from(&self.currency);
        if revenue < 0 {
            match self.refunds {
                Refunds::Refuse => {
                    return Err(wrong(view, "revenue", "revenue is negative")
                        .with("value", revenue)
                        .advise("say what refunds are: `net` counts them as they are, `zero` as nothing"));
                }
                Refunds::Zero => {
                    self.refunded += 1;
                    return Ok(());
                }
                Refunds::Net => {}
            }
        }
        let sum = user.revenue.checked_add(revenue);
        user.revenue = sum.ok_or_else(|| wrong(view, "revenue", "the user's revenue is too large to be true"))?;
        if purchase && !properties.is_trial && revenue >= 0 {
            if !user.converted {
                user.product = properties.product_id.or(user.product.take());
                user.discount = properties.discount_pct.or(user.discount);
            }
            user.converted = true;
        }
        Ok(())
    }

    fn one_currency(&mut self, view: &FactView, currency: Option<String>) -> Result<()> {
        match (&self.currency, currency) {
            (_, None) => Ok(()),
            (None, Some(currency)) => {
                self.currency = Some(currency.into());
                Ok(())
            }
            (Some(first), Some(currency)) if **first == *currency => Ok(()),
            (Some(first), Some(currency)) => Err(wrong(view, "currency", "revenue is in several currencies")
                .with("currencies", format!("{first} and {currency}"))
                .advise("record revenue in one currency, at the rate of the day")),
        }
    }

    fn broken(&mut self, view: &FactView) {
        self.broken += 1;
        self.first_broken.get_or_insert_with(|| view.fact.id.to_string());
    }

    fn finish(mut self) -> Result<Users> {
        if self.users.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "experiment.facts", "nobody was exposed to the experiment")
                .with("experiment", self.experiment)
                .advise("check its key, and that `paywall_impression` is tracked with `experiment` and `variant`"));
        }
        let before = self.users.len();
        self.users.retain(|user| !user.crossed);
        let crossed = (before - self.users.len()) as u64;
        let broken = self.first_broken.map_or_else(
            || "facts that cannot be read".into(),
            |first| format!("facts that cannot be read or lack revenue or variant (the first: {first})"),
        );
        let left_out = [
            ("users who saw two variations".to_owned(), crossed),
            ("purchases and renewals of users who were not exposed before".to_owned(), self.not_exposed),
            ("refunds, which count as nothing".to_owned(), self.refunded),
            (broken, self.broken),
        ];
        let currency = self.currency.map_or_else(|| "of its currency".to_owned(), |currency| format!("of {currency}"));
        Ok(Users {
            users: self.users,
            left_out: left_out.into_iter().filter(|(_, count)| *count > 0).collect(),
            notes: vec![format!("revenue is in minor units {currency}, as it was tracked")],
        })
    }
}

/// The error of a fact.
fn wrong(view: &FactView, field: &str, message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "experiment.facts", message)
        .with("fact", view.fact.id)
        .with("name", &view.fact.name)
        .with("property", field)
}

impl Source for Users {
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        self.users.iter().zip(1..).try_for_each(|(user, line)| {
            take(&Row {
                user: &user.subject,
                variation: &user.variation,
                revenue: user.revenue as f64,
                converted: user.converted,
                covariate: None,
                day: Some(Day::date(user.day)),
                discount: user.discount,
                product: user.product.as_deref(),
                currency: user.currency.as_deref(),
                guardrails: &[],
                line,
            })
        })
    }

    fn left_out(&self) -> Vec<(String, u64)> {
        self.left_out.clone()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
