//! The events that revenue per user is computed from.

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Currency, Trigger,
    money::is_period,
    properties::{Properties, invalid},
};
use crate::{Result, store::Fact};

/// The largest amount of an event, in minor units: 10¹², so that a sum over a million users cannot overflow.
const MAX_REVENUE: i64 = 1_000_000_000_000;

/// An event of a paywall, with the properties its name asks for.
///
/// A [`Fact`] of one of these five names is only accepted with these properties; it may have others besides. Any other
/// name is the app's own: see [`check_fact`](PaywallEvent::check_fact).
///
/// ```
/// use selvedge_core::experiment::{Currency, PaywallEvent, PurchaseCompleted};
///
/// let bought = PaywallEvent::PurchaseCompleted(PurchaseCompleted {
///     product_id: "pro.annual".into(),
///     revenue: 2_999,
///     currency: Currency::new("USD")?,
///     is_trial: false,
///     discount_pct: 50,
///     is_refund: false,
///     placement_id: Some("exit_offer".into()),
///     transaction_id: Some("GPA.3345-1".into()),
/// });
/// let fact = bought.to_fact("user-1");
/// assert_eq!(fact.name, "purchase_completed");
/// assert_eq!(PaywallEvent::from_fact(&fact)?, Some(bought));
/// # Ok::<(), selvedge_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "properties", rename_all = "snake_case")]
pub enum PaywallEvent {
    /// Somebody came to a placement: the denominator of revenue per user.
    PaywallImpression(PaywallImpression),
    /// Somebody was about to leave, and is shown an offer for it. What they then see is an impression of its own.
    ExitOfferTriggered(ExitOfferTriggered),
    /// Somebody went to the store's purchase sheet.
    PurchaseInitiated(PurchaseInitiated),
    /// The store said that it was bought, or that it was refunded.
    PurchaseCompleted(PurchaseCompleted),
    /// A subscription was renewed, or a renewal was refunded.
    SubscriptionRenewed(SubscriptionRenewed),
}

/// The properties of `paywall_impression`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaywallImpression {
    /// Which placement: `main_paywall`.
    pub placement_id: String,
    /// The experiment that decided, with its bucketing version left out; `None` when none ran.
    pub experiment: Option<String>,
    /// The variation's key.
    pub variant: String,
    /// The group the person was put in when they were enrolled, as it is written to a purchase SDK's attribute
    /// `experiment_cohort`: `experiment:variant`.
    pub cohort: String,
    /// What was shown is an exit offer.
    pub is_exit_offer: bool,
    /// The variation shows nothing. Its people count like all others.
    pub shows_nothing: bool,
    /// The device, so that what it did before somebody signed in can be joined to their account.
    pub device: Option<String>,
}

impl PaywallImpression {
    /// The fact by which a subject counts in an experiment: an impression with an id that is the same each time.
    ///
    /// So one subject is enrolled in one version of an experiment once, however often, on however many devices and by
    /// however many racing calls it is assigned. The id is a UUID of version 8 (RFC 9562) from the SHA-256 of the three.
    pub fn exposure(self, subject: &str, version: u32) -> Fact {
        let enrolled = (subject, self.experiment.as_deref().unwrap_or_default(), version);
        // Two texts and a number always serialise; as JSON no two triples read the same.
        let digest = Sha256::digest(serde_json::to_vec(&enrolled).unwrap_or_default());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        let id = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        PaywallEvent::PaywallImpression(self).to_fact_with_id(id, subject)
    }
}

/// The properties of `exit_offer_triggered`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitOfferTriggered {
    /// What the person did.
    pub trigger_type: Trigger,
    /// The variation's key at the paywall they were leaving.
    pub variant: String,
    /// The paywall they were leaving.
    pub placement_id: Option<String>,
    /// The experiment that decided there.
    pub experiment: Option<String>,
    /// What they are offered.
    pub offering: Option<String>,
}

/// The properties of `purchase_initiated`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurchaseInitiated {
    /// The store's product id.
    pub product_id: String,
    /// What kind of offer, in the app's words: `none`, `free_trial`, `introductory`, `promotional`, `win_back`.
    pub offer_type: String,
    /// Percent off the full price: 0 to 100. Without it nobody can tell volume from price, so 0 is said too.
    pub discount_pct: u8,
    /// Where it began.
    pub placement_id: Option<String>,
}

/// The properties of `purchase_completed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurchaseCompleted {
    /// The store's product id.
    pub product_id: String,
    /// What was paid, in whole minor units of `currency` (cents, yen): never a fraction. Negative for a refund, and only then.
    pub revenue: i64,
    /// In which currency.
    pub currency: Currency,
    /// It begins a trial. A free one has revenue 0.
    pub is_trial: bool,
    /// Percent off the full price: 0 to 100; 0 is said too.
    pub discount_pct: u8,
    /// It gives money back.
    pub is_refund: bool,
    /// Where it began.
    pub placement_id: Option<String>,
    /// The store's transaction id.
    pub transaction_id: Option<String>,
}

/// The properties of `subscription_renewed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRenewed {
    /// For how long, as an ISO 8601 duration: `P1M`, `P1Y`.
    pub period: String,
    /// What was paid, in whole minor units of `currency`. Negative for a refund, and only then.
    pub revenue: i64,
    /// In which currency.
    pub currency: Currency,
    /// It gives money back.
    pub is_refund: bool,
    /// The store's product id.
    pub product_id: Option<String>,
    /// The store's transaction id.
    pub transaction_id: Option<String>,
}

impl PaywallEvent {
    /// The names of the five events.
    pub const NAMES: [&'static str; 5] = [
        "paywall_impression",
        "exit_offer_triggered",
        "purchase_initiated",
        "purchase_completed",
        "subscription_renewed",
    ];

    /// Its name: `paywall_impression`.
    pub fn name(&self) -> &'static str {
        let index = match self {
            Self::PaywallImpression(_) => 0,
            Self::ExitOfferTriggered(_) => 1,
            Self::PurchaseInitiated(_) => 2,
            Self::PurchaseCompleted(_) => 3,
            Self::SubscriptionRenewed(_) => 4,
        };
        Self::NAMES[index]
    }

    /// The fact that keeps it, with a new id. For what a store tells more than once, use
    /// [`to_fact_with_id`](Self::to_fact_with_id).
    pub fn to_fact(&self, subject: impl Into<String>) -> Fact {
        self.to_fact_with_id(Uuid::now_v7(), subject)
    }

    /// The fact that keeps it. Two facts with one id count once.
    pub fn to_fact_with_id(&self, id: Uuid, subject: impl Into<String>) -> Fact {
        struct Bare<'a>(&'a PaywallEvent);
        impl Serialize for Bare<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self.0 {
                    PaywallEvent::PaywallImpression(properties) => properties.serialize(serializer),
                    PaywallEvent::ExitOfferTriggered(properties) => properties.serialize(serializer),
                    PaywallEvent::PurchaseInitiated(properties) => properties.serialize(serializer),
                    PaywallEvent::PurchaseCompleted(properties) => properties.serialize(serializer),
                    PaywallEvent::SubscriptionRenewed(properties) => properties.serialize(serializer),
                }
            }
        }
        // Plain structs of texts, numbers and flags always serialise.
        let properties = serde_json::to_vec(&Bare(self)).unwrap_or_default();
        Fact { id, ..Fact::new(self.name(), subject, properties) }
    }

    /// Reads a fact; `None` when its name is not one of the five.
    ///
    /// # Errors
    /// `InvalidInput`, naming the event and the property that is missing or wrong.
    pub fn from_fact(fact: &Fact) -> Result<Option<Self>> {
        if !Self::NAMES.contains(&fact.name.as_str()) {
            return Ok(None);
        }
        let read = Properties::read(&fact.name, &fact.properties)?;
        Ok(match fact.name.as_str() {
            "paywall_impression" => Some(Self::PaywallImpression(PaywallImpression {
                placement_id: read.text("placement_id")?,
                experiment: read.optional_text("experiment")?,
                variant: read.text("variant")?,
                cohort: read.text("cohort")?,
                is_exit_offer: read.optional_flag("is_exit_offer")?,
                shows_nothing: read.optional_flag("shows_nothing")?,
                device: read.optional_text("device")?,
            })),
            "exit_offer_triggered" => Some(Self::ExitOfferTriggered(ExitOfferTriggered {
                trigger_type: read.one_of("trigger_type", "one of back, swipe, timeout or pause")?,
                variant: read.text("variant")?,
                placement_id: read.optional_text("placement_id")?,
                experiment: read.optional_text("experiment")?,
                offering: read.optional_text("offering")?,
            })),
            "purchase_initiated" => Some(Self::PurchaseInitiated(PurchaseInitiated {
                product_id: read.text("product_id")?,
                offer_type: read.text("offer_type")?,
                discount_pct: discount(&read)?,
                placement_id: read.optional_text("placement_id")?,
            })),
            "purchase_completed" => Some(Self::PurchaseCompleted(PurchaseCompleted {
                product_id: read.text("product_id")?,
                revenue: revenue(&read)?,
                currency: read.one_of("currency", "the three capital letters of ISO 4217")?,
                is_trial: read.flag("is_trial")?,
                discount_pct: discount(&read)?,
                is_refund: read.optional_flag("is_refund")?,
                placement_id: read.optional_text("placement_id")?,
                transaction_id: read.optional_text("transaction_id")?,
            })),
            "subscription_renewed" => Some(Self::SubscriptionRenewed(SubscriptionRenewed {
                period: period(&read)?,
                revenue: revenue(&read)?,
                currency: read.one_of("currency", "the three capital letters of ISO 4217")?,
                is_refund: read.optional_flag("is_refund")?,
                product_id: read.optional_text("product_id")?,
                transaction_id: read.optional_text("transaction_id")?,
            })),
            _ => None,
        })
    }

    /// What is checked before a fact is kept for analysis.
    ///
    /// One of the five names needs its properties. Any other name is the app's own and passes with any JSON object, but for
    /// one that differs from the five only in capitals and separators (`Purchase-Completed`): that is a slip, and would go
    /// uncounted.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field, or the event and its property; `TooLarge` above [`MAX_PROPERTIES`](Self::MAX_PROPERTIES).
    pub fn check_fact(fact: &Fact) -> Result<()> {
        fact.check()?;
        if fact.properties.len() > Self::MAX_PROPERTIES {
            return Err(crate::Error::new(
                crate::ErrorKind::TooLarge,
                "experiment.track",
                "an event's properties are too large",
            )
            .with("event", &fact.name)
            .with("bytes", fact.properties.len())
            .with("limit", Self::MAX_PROPERTIES)
            .advise("send what is analysed, and keep the rest elsewhere"));
        }
        if Self::from_fact(fact)?.is_some() {
            return Ok(());
        }
        let plain =
            |name: &str| name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
        let name = plain(&fact.name);
        match Self::NAMES.iter().find(|known| plain(known) == name) {
            Some(known) => {
                Err(invalid(&fact.name, "an event's name is almost a known one").advise(format!("write {known}")))
            }
            None => Properties::read(&fact.name, &fact.properties).map(|_| ()),
        }
    }

    /// The most bytes of an event's properties: 64 KiB.
    pub const MAX_PROPERTIES: usize = 64 << 10;
}

fn discount(read: &Properties<'_>) -> Result<u8> {
    let percent = read.integer("discount_pct", 0..=100, "whole percent from 0 to 100; 0 is said too")?;
    Ok(u8::try_from(percent).unwrap_or_default())
}

/// An amount whose sign fits `is_refund`.
fn revenue(read: &Properties<'_>) -> Result<i64> {
    let needs = "whole minor units (cents), up to 10^12, without a fraction";
    let revenue = read.integer("revenue", -MAX_REVENUE..=MAX_REVENUE, needs)?;
    match read.optional_flag("is_refund")? {
        true if revenue >= 0 => Err(read.wrong("revenue", "give a refund's revenue as a negative amount")),
        false if revenue < 0 => Err(read.wrong("revenue", "set is_refund for money that is given back")),
        _ => Ok(revenue),
    }
}

fn period(read: &Properties<'_>) -> Result<String> {
    let period = read.text("period")?;
    if is_period(&period) { Ok(period) } else { Err(read.wrong("period", "give an ISO 8601 duration: P1M or P1Y")) }
}

#[cfg(test)]
mod tests;
