//! From the facts of a Store to one row for each exposed user.

use std::{collections::HashMap, sync::Arc};

use selvedge_core::{
    Context, Error, ErrorKind, Result,
    store::{FactView, Store},
};
use serde::Deserialize;

use super::{facts::each_fact, people::People};
use crate::analysis::{Day, Options, Row, Source, options::Refunds};

/// The fact that exposes somebody.
pub(super) const IMPRESSION: &str = "paywall_impression";

const MICROS_A_DAY: i64 = 86_400_000_000;

/// The exposed users of an experiment, in the order of their exposure, with what each paid since.
#[derive(Debug, Default)]
pub struct Users {
    users: Vec<User>,
    with_covariate: bool,
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
    /// What was paid before the exposure, if that is asked for.
    past: i64,
    /// How many facts there are of each guardrail's name.
    counts: Box<[u32]>,
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
    device: Option<String>,
}

/// Reads an experiment's users from the facts that [`track`](selvedge_core::Experiment::track) kept, in the order in which
/// they were recorded:
///
/// - `paywall_impression` of this `experiment` exposes the user to `variant`, the first time it is recorded. A user who
///   then sees another variant counts for neither, and is counted as left out.
/// - `purchase_completed` and `subscription_renewed` add `revenue`, in whole minor units, to whoever was exposed before,
///   however long ago; what was paid before the exposure does not count. A purchase converts unless it `is_trial`.
/// - `purchase_initiated` says product and discount of the user's next purchase; the first purchase's are kept.
/// - A fact by the name of one of [`Options::guardrails`] counts for whoever was exposed before.
/// - With [`Options::past_revenue`], what the user paid before the exposure is the covariate.
///
/// A device and the account that signs in on it are one user. An impression whose `device` is its subject is one of nobody
/// signed in; the first account whose impression names that device, at this experiment or elsewhere, owns what the device did
/// signed out. So the user is exposed when the device was, and what the account pays from then on counts. An account that
/// was never exposed and buys with `device` among the purchase's properties owns that device likewise, from that purchase on.
/// Further accounts on the device are users of their own.
///
/// The impressions are read first, to know whose devices are whose, and then all facts, once. It holds each exposed user in
/// memory, about 300 bytes, each device with its account, and a page of facts; with past revenue, also whoever has paid.
///
/// # Errors
/// `NotFound` when nobody was exposed; `InvalidInput` for several currencies, and for a refund when those are refused;
/// those of the Store.
pub async fn read_facts(store: &impl Store, cx: &Context, experiment: &str, options: &Options) -> Result<Users> {
    let people = People::read(store, cx, experiment).await?;
    let mut join = Join::new(experiment, options, people);
    each_fact(store, cx, None, |fact| join.take(fact)).await?;
    join.finish()
}

struct Join<'e> {
    experiment: &'e str,
    options: &'e Options,
    people: People,
    users: Vec<User>,
    /// Where the user of a person is.
    places: HashMap<String, usize>,
    variations: Vec<Arc<str>>,
    currency: Option<Arc<str>>,
    /// What was paid by persons who are not exposed yet, by currency.
    past: HashMap<String, Vec<(Option<String>, i64)>>,
    /// How many facts there are of each guardrail's name, whoever they are about.
    guarded: Vec<u64>,
    not_exposed: u64,
    refunded: u64,
    broken: u64,
    first_broken: Option<String>,
}

impl<'e> Join<'e> {
    fn new(experiment: &'e str, options: &'e Options, people: People) -> Self {
        Self {
            experiment,
            options,
            people,
            users: Vec::new(),
            places: HashMap::new(),
            variations: Vec::new(),
            currency: None,
            past: HashMap::new(),
            guarded: vec![0; options.guardrails.len()],
            not_exposed: 0,
            refunded: 0,
            broken: 0,
            first_broken: None,
        }
    }

    fn take(&mut self, view: &FactView) -> Result<()> {
        self.guard(view);
        match view.fact.name.as_str() {
            IMPRESSION => self.expose(view),
            "purchase_initiated" => {
                self.initiate(view);
                Ok(())
            }
            "purchase_completed" => self.pay(view, true),
            "subscription_renewed" => self.pay(view, false),
            _ => Ok(()),
        }
    }

    /// Counts the fact where it is a guardrail. What it says does not matter, so it is not read.
    fn guard(&mut self, view: &FactView) {
        for (index, guardrail) in self.options.guardrails.iter().enumerate() {
            if guardrail.column == view.fact.name {
                self.guarded[index] += 1;
                if let Some(place) = self.known(view) {
                    let count = &mut self.users[place].counts[index];
                    *count = count.saturating_add(1);
                }
            }
        }
    }

    fn expose(&mut self, view: &FactView) -> Result<()> {
        let Some(properties) = self.properties(view) else { return Ok(()) };
        if properties.experiment.as_deref() != Some(self.experiment) {
            return Ok(());
        }
        let Some(variant) = properties.variant else {
            self.broken(view);
            return Ok(());
        };
        let known = self.variations.iter().find(|name| ***name == *variant).cloned();
        let variation = known.unwrap_or_else(|| {
            let name = Arc::<str>::from(variant);
            self.variations.push(name.clone());
            name
        });
        if let Some(place) = self.known(view) {
            let user = &mut self.users[place];
            user.crossed |= user.variation != variation;
            return Ok(());
        }
        let person = self.people.person(&view.fact.subject).to_owned();
        let mut past = 0_i64;
        for (currency, revenue) in self.past.remove(&person).unwrap_or_default() {
            self.one_currency(view, currency)?;
            past = past.checked_add(revenue).ok_or_else(|| too_much(view))?;
        }
        self.places.insert(person.clone(), self.users.len());
        self.users.push(User {
            subject: person,
            variation,
            day: view.recorded_at.as_micros().div_euclid(MICROS_A_DAY),
            revenue: 0,
            converted: false,
            discount: None,
            product: None,
            crossed: false,
            currency: None,
            past,
            counts: vec![0; self.options.guardrails.len()].into(),
        });
        Ok(())
    }

    fn initiate(&mut self, view: &FactView) {
        if !self.may_count(view) {
            return;
        }
        let Some(properties) = self.properties(view) else { return };
        if let Some(place) = self.place(view, properties.device.as_deref())
            && !self.users[place].converted
        {
            let user = &mut self.users[place];
            (user.product, user.discount) = (properties.product_id, properties.discount_pct);
        }
    }

    fn pay(&mut self, view: &FactView, purchase: bool) -> Result<()> {
        if !self.may_count(view) && !self.options.past_revenue {
            self.not_exposed += 1;
            return Ok(());
        }
        let Some(properties) = self.properties(view) else { return Ok(()) };
        let place = self.place(view, properties.device.as_deref());
        self.not_exposed += u64::from(place.is_none());
        let Some(revenue) = properties.revenue else {
            self.broken(view);
            return Ok(());
        };
        let Some(place) = place else { return self.pay_before(view, properties.currency, revenue) };
        self.one_currency(view, properties.currency)?;
        let user = &mut self.users[place];
        user.currency.clone_from(&self.currency);
        if revenue < 0 {
            match self.options.refunds {
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
        user.revenue = user.revenue.checked_add(revenue).ok_or_else(|| too_much(view))?;
        if purchase && !properties.is_trial && revenue >= 0 {
            if !user.converted {
                user.product = properties.product_id.or(user.product.take());
                user.discount = properties.discount_pct.or(user.discount);
            }
            user.converted = true;
        }
        Ok(())
    }

    /// What somebody paid who may be exposed later. A refund counts as it is: a covariate is whatever was known.
    fn pay_before(&mut self, view: &FactView, currency: Option<String>, revenue: i64) -> Result<()> {
        if !self.options.past_revenue {
            return Ok(());
        }
        let sums = self.past.entry(self.people.person(&view.fact.subject).to_owned()).or_default();
        match sums.iter_mut().find(|(known, _)| *known == currency) {
            Some((_, sum)) => *sum = sum.checked_add(revenue).ok_or_else(|| too_much(view))?,
            None => sums.push((currency, revenue)),
        }
        Ok(())
    }

    /// The user whom the fact is about, where its subject says so.
    fn known(&self, view: &FactView) -> Option<usize> {
        self.places.get(self.people.person(&view.fact.subject)).copied()
    }

    /// Whether the fact may be about an exposed user. If not, what it says does not matter.
    fn may_count(&self, view: &FactView) -> bool {
        self.people.with_devices || self.known(view).is_some()
    }

    /// The user whom the fact is about: its subject, or else the device that it names, which is then the subject's.
    fn place(&mut self, view: &FactView, device: Option<&str>) -> Option<usize> {
        let subject = view.fact.subject.as_str();
        if let Some(place) = self.known(view) {
            return Some(place);
        }
        let (device, place) = device.and_then(|device| Some((device, *self.places.get(device)?)))?;
        if !self.people.claim(device, subject) {
            return None;
        }
        self.places.insert(subject.to_owned(), place);
        Some(place)
    }

    fn properties(&mut self, view: &FactView) -> Option<Properties> {
        let properties = serde_json::from_slice(&view.fact.properties);
        if properties.is_err() {
            self.broken(view);
        }
        properties.ok()
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
        let not_exposed = if self.options.past_revenue {
            "purchases and renewals of users who were not exposed before; of those exposed since, they are past revenue"
        } else {
            "purchases and renewals of users who were not exposed before"
        };
        let left_out = [
            ("users who saw two variations".to_owned(), crossed),
            (not_exposed.to_owned(), self.not_exposed),
            ("refunds, which count as nothing".to_owned(), self.refunded),
            (broken, self.broken),
        ];
        let currency = self.currency.map_or_else(|| "of its currency".to_owned(), |currency| format!("of {currency}"));
        let mut notes = vec![format!("revenue is in minor units {currency}, as it was tracked")];
        let guarded = self.options.guardrails.iter().zip(&self.guarded).filter(|(_, count)| **count == 0);
        notes.extend(guarded.map(|(guardrail, _)| format!("no fact is named {}", guardrail.column)));
        Ok(Users {
            users: self.users,
            with_covariate: self.options.past_revenue,
            left_out: left_out.into_iter().filter(|(_, count)| *count > 0).collect(),
            notes,
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

fn too_much(view: &FactView) -> Error {
    wrong(view, "revenue", "the user's revenue is too large to be true")
}

impl Source for Users {
    fn each(&mut self, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let mut guardrails = Vec::new();
        self.users.iter().zip(1..).try_for_each(|(user, line)| {
            guardrails.clear();
            guardrails.extend(user.counts.iter().copied().map(f64::from));
            take(&Row {
                user: &user.subject,
                variation: &user.variation,
                revenue: user.revenue as f64,
                converted: user.converted,
                covariate: self.with_covariate.then_some(user.past as f64),
                day: Some(Day::date(user.day)),
                discount: user.discount,
                product: user.product.as_deref(),
                currency: user.currency.as_deref(),
                guardrails: &guardrails,
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

    fn in_minor_units(&self) -> bool {
        true
    }
}
