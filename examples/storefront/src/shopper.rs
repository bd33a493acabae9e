//! A shopper at a paywall, and what the phone does for them.

use anyhow::Context as _;
use fastrand::Rng;
use selvedge::{
    Context, Engine, Result, Timestamp,
    experiment::{
        Assign, Assignment, Currency, Eligibility, ExitAction, ExitInput, ExitOffer, PaywallEvent, PlacementValue,
        Platform, PurchaseCompleted, PurchaseInitiated,
    },
};

/// Where shoppers come to.
pub(crate) const PAYWALL: &str = "main_paywall";
const PRODUCT: &str = "pro.annual";
/// The full price, in cents.
const PRICE: i64 = 2_999;

/// Somebody who comes to the paywall. What they are like does not depend on what they see.
pub(crate) struct Shopper {
    pub(crate) name: String,
    /// What it is worth to them, in cents.
    worth: i64,
    /// The store may refuse to sell at a discount: they had one before.
    eligibility: Eligibility,
    card_fails: bool,
}

impl Shopper {
    pub(crate) fn new(name: String, random: &mut Rng) -> Self {
        // Most would pay little.
        let worth = (5_000.0 * random.f64().powi(3)) as i64;
        let mut one_in = |n| random.u8(..n) == 0;
        let eligibility = if one_in(8) { Eligibility::Ineligible } else { Eligibility::Eligible };
        Self { name, worth, eligibility, card_fails: one_in(20) }
    }

    /// Comes to the paywall, and does what they want and the phone says. What they saw there, and what they paid in cents.
    pub(crate) async fn visit(&self, phone: &Engine, cx: &Context) -> anyhow::Result<(Assignment, i64)> {
        let assignment = phone.assign(cx, Assign::new(&self.name, PAYWALL)).await?;
        let value = assignment.value()?.context("the paywall shows nothing")?;
        let mut exit = ExitOffer::new(Platform::Android);
        exit.configure(value.exit_offer.clone().unwrap_or_default());
        let shown = ExitInput::PaywallShown {
            placement: PAYWALL.into(),
            offering: value.offering.clone(),
            experiment: assignment.experiment.clone(),
            variant: assignment.variation.clone(),
        };
        // While the paywall is read, the offer is got ready.
        for action in exit.on(Timestamp::now(), shown) {
            let known = match action {
                ExitAction::LoadOffer { placement, revision } => {
                    let offer = phone.assign(cx, Assign::new(&self.name, placement).peeking()).await?.value()?;
                    ExitInput::OfferLoaded { revision, offering: offer.and_then(|offer| offer.offering) }
                }
                ExitAction::CheckEligibility { revision, .. } => {
                    ExitInput::EligibilityKnown { revision, eligibility: self.eligibility }
                }
                _ => continue,
            };
            exit.on(Timestamp::now(), known);
        }
        let paid = self.buy(phone, cx, &mut exit, PAYWALL, &value).await?;
        if paid > 0 {
            return Ok((assignment, paid));
        }
        let mut offer = None;
        for action in exit.on(Timestamp::now(), ExitInput::Back) {
            match action {
                ExitAction::ShowOffer { placement, .. } => {
                    let assign = Assign { exit_offer: true, ..Assign::new(&self.name, &placement) };
                    let value = phone.assign(cx, assign).await?.value()?.context("the exit offer shows nothing")?;
                    offer = Some((placement, value));
                }
                ExitAction::Record { event } => {
                    phone.track(cx, PaywallEvent::ExitOfferTriggered(event).to_fact(&self.name)).await?;
                }
                _ => (),
            }
        }
        let Some((placement, value)) = offer else { return Ok((assignment, 0)) };
        let paid = self.buy(phone, cx, &mut exit, &placement, &value).await?;
        Ok((assignment, paid))
    }

    /// They buy what is worth its price to them. What they paid: 0 when they did not.
    async fn buy(
        &self,
        phone: &Engine,
        cx: &Context,
        exit: &mut ExitOffer,
        placement: &str,
        value: &PlacementValue,
    ) -> Result<i64> {
        let (discount_pct, placement_id) = (value.discount_pct, Some(placement.to_owned()));
        let price = PRICE * i64::from(100 - discount_pct) / 100;
        if self.worth < price {
            return Ok(0);
        }
        exit.on(Timestamp::now(), ExitInput::PurchaseStarted);
        let initiated = PaywallEvent::PurchaseInitiated(PurchaseInitiated {
            product_id: PRODUCT.into(),
            offer_type: if discount_pct == 0 { "none" } else { "promotional" }.into(),
            discount_pct,
            placement_id: placement_id.clone(),
        });
        phone.track(cx, initiated.to_fact(&self.name)).await?;
        if self.card_fails {
            exit.on(Timestamp::now(), ExitInput::PurchaseCancelled);
            return Ok(0);
        }
        let completed = PaywallEvent::PurchaseCompleted(PurchaseCompleted {
            product_id: PRODUCT.into(),
            revenue: price,
            currency: Currency::new("USD")?,
            is_trial: false,
            discount_pct,
            is_refund: false,
            placement_id,
            transaction_id: None,
        });
        phone.track(cx, completed.to_fact(&self.name)).await?;
        exit.on(Timestamp::now(), ExitInput::PurchaseFinished);
        Ok(price)
    }
}
