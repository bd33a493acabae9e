use selvedge::experiment::{self as core, Currency};

use super::Trigger;

/// An event of a paywall. `track` refuses one whose properties do not fit.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum PaywallEvent {
    /// Somebody came to a placement that the engine did not assign: `assign` records its own impressions.
    PaywallImpression {
        /// Which placement: `main_paywall`.
        placement_id: String,
        /// The variation's key.
        variant: String,
        /// The group the person is in: `experiment:variant`.
        cohort: String,
        /// The experiment that decided.
        experiment: Option<String>,
        /// What was shown is an exit offer.
        is_exit_offer: bool,
    },
    /// Somebody was about to leave and is shown an offer for it. An [`ExitOffer`](super::ExitOffer) says when to record it.
    ExitOfferTriggered {
        /// What the person did.
        trigger_type: Trigger,
        /// The variation's key at the paywall they were leaving.
        variant: String,
        /// That paywall.
        placement_id: Option<String>,
        /// The experiment that decided there.
        experiment: Option<String>,
        /// What they are offered.
        offering: Option<String>,
    },
    /// Somebody went to the store's purchase sheet.
    PurchaseInitiated {
        /// The store's product id.
        product_id: String,
        /// What kind of offer: `none`, `free_trial`, `introductory`, `promotional`, `win_back`.
        offer_type: String,
        /// Percent off the full price, 0 to 100. 0 is said too.
        discount_pct: u8,
        /// Where it began.
        placement_id: Option<String>,
    },
    /// The store said that it was bought, or that it was refunded.
    PurchaseCompleted {
        /// The store's product id.
        product_id: String,
        /// What was paid, in whole minor units of the currency (cents, yen). Negative for a refund, and only then.
        revenue: i64,
        /// ISO 4217: `USD`.
        currency: String,
        /// It begins a trial.
        is_trial: bool,
        /// Percent off the full price, 0 to 100. 0 is said too.
        discount_pct: u8,
        /// It gives money back.
        is_refund: bool,
        /// Where it began.
        placement_id: Option<String>,
        /// The store's transaction id.
        transaction_id: Option<String>,
    },
    /// A subscription was renewed, or a renewal was refunded.
    SubscriptionRenewed {
        /// For how long, as an ISO 8601 duration: `P1M`.
        period: String,
        /// What was paid, in whole minor units of the currency. Negative for a refund, and only then.
        revenue: i64,
        /// ISO 4217: `USD`.
        currency: String,
        /// It gives money back.
        is_refund: bool,
        /// The store's product id.
        product_id: Option<String>,
        /// The store's transaction id.
        transaction_id: Option<String>,
    },
}

impl PaywallEvent {
    pub(super) fn into_core(self) -> selvedge::Result<core::PaywallEvent> {
        Ok(match self {
            Self::PaywallImpression { placement_id, variant, cohort, experiment, is_exit_offer } => {
                core::PaywallEvent::PaywallImpression(core::PaywallImpression {
                    placement_id,
                    variant,
                    cohort,
                    experiment,
                    is_exit_offer,
                    ..core::PaywallImpression::default()
                })
            }
            Self::ExitOfferTriggered { trigger_type, variant, placement_id, experiment, offering } => {
                core::PaywallEvent::ExitOfferTriggered(core::ExitOfferTriggered {
                    trigger_type: trigger_type.into(),
                    variant,
                    placement_id,
                    experiment,
                    offering,
                })
            }
            Self::PurchaseInitiated { product_id, offer_type, discount_pct, placement_id } => {
                core::PaywallEvent::PurchaseInitiated(core::PurchaseInitiated {
                    product_id,
                    offer_type,
                    discount_pct,
                    placement_id,
                })
            }
            Self::PurchaseCompleted {
                product_id,
                revenue,
                currency,
                is_trial,
                discount_pct,
                is_refund,
                placement_id,
                transaction_id,
            } => core::PaywallEvent::PurchaseCompleted(core::PurchaseCompleted {
                product_id,
                revenue,
                currency: Currency::new(currency)?,
                is_trial,
                discount_pct,
                is_refund,
                placement_id,
                transaction_id,
            }),
            Self::SubscriptionRenewed { period, revenue, currency, is_refund, product_id, transaction_id } => {
                core::PaywallEvent::SubscriptionRenewed(core::SubscriptionRenewed {
                    period,
                    revenue,
                    currency: Currency::new(currency)?,
                    is_refund,
                    product_id,
                    transaction_id,
                })
            }
        })
    }
}

impl From<core::ExitOfferTriggered> for PaywallEvent {
    fn from(event: core::ExitOfferTriggered) -> Self {
        Self::ExitOfferTriggered {
            trigger_type: event.trigger_type.into(),
            variant: event.variant,
            placement_id: event.placement_id,
            experiment: event.experiment,
            offering: event.offering,
        }
    }
}
