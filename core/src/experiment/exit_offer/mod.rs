//! Exit offers: whether somebody who leaves a paywall is made one more offer. No I/O: the app tells what happened and
//! when, and is told what to do.

mod machine;
mod settings;

pub use machine::ExitOffer;
pub use settings::{ExitOfferSettings, Platform, Trigger};

use serde::{Deserialize, Serialize};

use super::ExitOfferTriggered;

/// Whether the store would let this person have the offer.
///
/// StoreKit answers `isEligibleForIntroOffer` for a subscription group; Play Billing leaves out of `ProductDetails` what
/// somebody may not have. Both are asked while the paywall is read, never when it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eligibility {
    /// They may have it.
    Eligible,
    /// They may not.
    Ineligible,
    /// The store has not said so, or could not.
    Unknown,
    /// The product has no such offer.
    NoOffer,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum ExitInput {
    /// The app came to the foreground anew: what is counted by session begins at 0.
    SessionStarted,
    /// A paywall is on screen.
    PaywallShown {
        /// Its placement.
        placement: String,
        /// What it sells.
        offering: Option<String>,
        /// The experiment that decided.
        experiment: Option<String>,
        /// The variation's key.
        variant: String,
    },
    /// What [`ExitAction::LoadOffer`] asked for is here.
    OfferLoaded {
        /// The revision it was asked for with; an older one is passed over.
        revision: u64,
        /// What it sells; `None` when its placement shows nothing.
        offering: Option<String>,
    },
    /// What [`ExitAction::LoadOffer`] asked for cannot be had.
    OfferFailed {
        /// The revision it was asked for with; an older one is passed over.
        revision: u64,
    },
    /// What [`ExitAction::CheckEligibility`] asked for.
    EligibilityKnown {
        /// The revision it was asked for with; an older one is passed over.
        revision: u64,
        /// The store's answer.
        eligibility: Eligibility,
    },
    /// The back button or gesture.
    Back,
    /// A sheet was swiped away, or is about to be.
    Swipe,
    /// A timer of the app; how often it ticks does not matter.
    Tick,
    /// The app went to the background.
    Paused,
    /// The app came back.
    Resumed,
    /// The store's purchase sheet opens. Until it is done nothing counts as leaving.
    PurchaseStarted,
    /// Something was bought.
    PurchaseFinished,
    /// The purchase sheet was closed without a purchase, or failed.
    PurchaseCancelled,
    /// The paywall or the offer is gone from the screen.
    Dismissed,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ExitAction {
    /// Get the exit offer's placement ready: peek at it and load its products. Then say [`ExitInput::OfferLoaded`].
    LoadOffer {
        /// Which placement.
        placement: String,
        /// Give it back with the answer.
        revision: u64,
    },
    /// Ask the store whether the person may have it. Then say [`ExitInput::EligibilityKnown`].
    CheckEligibility {
        /// For which placement.
        placement: String,
        /// Give it back with the answer.
        revision: u64,
    },
    /// Show the offer in place of leaving.
    ShowOffer {
        /// Which placement: assign it now, so that its impression counts.
        placement: String,
        /// What it sells.
        offering: String,
        /// What set it off.
        trigger: Trigger,
    },
    /// Let the person leave.
    LetGo {
        /// Why there is no offer.
        reason: Declined,
    },
    /// Keep this event, by `track`.
    Record {
        /// Its properties.
        event: ExitOfferTriggered,
    },
}

/// Why no offer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declined {
    /// No paywall is on screen.
    NoPaywall,
    /// An exit offer is on screen: nobody is held twice.
    OfferShown,
    /// The purchase sheet is open.
    Purchasing,
    /// Something was bought in this session.
    Purchased,
    /// Exit offers are switched off at this placement.
    Disabled,
    /// This trigger is not among those of the platform.
    OtherTrigger,
    /// As many as one session may see were shown.
    SessionCap,
    /// As many as one day may see were shown.
    DayCap,
    /// The offer is not loaded, or its placement shows nothing.
    NotLoaded,
    /// It sells what the paywall sold, or what was just offered.
    SameOffering,
    /// The store says no.
    Ineligible,
    /// The product has no such offer.
    NoOffer,
    /// Nobody knows whether the person may have it.
    UnknownEligibility,
    /// What the store said has expired.
    EligibilityExpired,
}
