use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use selvedge::{Error, ErrorKind, Timestamp, experiment as core};

use super::PaywallEvent;
use crate::{
    alive::{Alive, EXIT_OFFERS},
    error::{Outcome, guarded},
};

/// What may set an exit offer off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Trigger {
    /// The back button or gesture.
    Back,
    /// A sheet that is swiped away.
    Swipe,
    /// The paywall has been on screen for so long.
    Timeout,
    /// The app was left for some time and came back.
    Pause,
}

/// Where the app runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, uniffi::Enum)]
pub enum Platform {
    /// Android: back is a gesture of the system, and covers swiping.
    Android,
    /// iOS: sheets are swiped away, and there is no back button.
    Ios,
    /// Anything else.
    Other,
}

/// Whether the store would let this person have the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
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

/// Whether, where and when an offer is made to who is leaving: a part of a placement's value.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ExitOfferSettings {
    /// The server's switch.
    #[uniffi(default = false)]
    pub enabled: bool,
    /// The placement of the offer.
    #[uniffi(default = "exit_offer")]
    pub placement: String,
    /// What sets it off, by platform. A platform that is left out has `Back` (Android and others) or `Swipe` (iOS).
    #[uniffi(default)]
    pub triggers: HashMap<Platform, Vec<Trigger>>,
    /// How long a paywall is on screen before `Timeout` sets off, in ms.
    #[uniffi(default = 30000)]
    pub timeout_ms: u32,
    /// How long the app is left before `Pause` sets off, in ms.
    #[uniffi(default = 5000)]
    pub pause_ms: u32,
    /// The most offers in one session.
    #[uniffi(default = 1)]
    pub max_per_session: u32,
    /// The most offers in any 24 hours.
    #[uniffi(default = 1)]
    pub max_per_day: u32,
    /// How long the store's answer about eligibility is good for, from when it was asked, in ms.
    #[uniffi(default = 600000)]
    pub eligibility_ms: u32,
    /// Make the offer also when nobody knows whether the person may have it.
    #[uniffi(default = false)]
    pub offer_when_unknown: bool,
}

/// What happened at a paywall.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
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
    /// What `LoadOffer` asked for is here.
    OfferLoaded {
        /// The revision it was asked for with; an older one is passed over.
        revision: u64,
        /// What it sells; `None` when its placement shows nothing.
        offering: Option<String>,
    },
    /// What `LoadOffer` asked for cannot be had.
    OfferFailed {
        /// The revision it was asked for with.
        revision: u64,
    },
    /// What `CheckEligibility` asked for.
    EligibilityKnown {
        /// The revision it was asked for with.
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
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum ExitAction {
    /// Get the exit offer's placement ready: peek at it and load its products. Then say `OfferLoaded`.
    LoadOffer {
        /// Which placement.
        placement: String,
        /// Give it back with the answer.
        revision: u64,
    },
    /// Ask the store whether the person may have it. Then say `EligibilityKnown`.
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
        /// The event.
        event: PaywallEvent,
    },
}

/// Why no offer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
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

/// Decides whether somebody who leaves a paywall is made one more offer: tell it what happens, and do what it says.
///
/// It does no I/O, so a decision takes no time and may be made on the main thread. It may be used from any thread.
#[derive(Debug, uniffi::Object)]
pub struct ExitOffer {
    machine: Mutex<core::ExitOffer>,
    _alive: Alive,
}

#[uniffi::export]
impl ExitOffer {
    /// Nothing has happened yet, and exit offers are off.
    #[uniffi::constructor]
    pub fn new(platform: Platform) -> Arc<Self> {
        Self::of(core::ExitOffer::new(platform.into()))
    }

    /// Goes on from what [`save`](ExitOffer::save) gave, after the system ended the app's process.
    ///
    /// # Errors
    /// `InvalidInput` when it is something else.
    #[uniffi::constructor]
    pub fn restore(saved: String) -> Outcome<Arc<Self>> {
        guarded("exit_offer.restore", || {
            let machine = serde_json::from_str(&saved).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, "exit_offer.restore", "this is not the state of an exit offer")
                    .caused_by(error)
                    .advise("pass what `save` returned, or begin with a new one")
            })?;
            Ok(Self::of(machine))
        })
    }

    /// All of its state, as text.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn save(&self) -> Outcome<String> {
        guarded("exit_offer.save", || {
            let saved = serde_json::to_string(&*self.machine());
            Ok(saved.map_err(|error| crate::error::internal("exit_offer.save", error))?)
        })
    }

    /// Sets what a paywall's placement says about exit offers; `None` switches them off. Call it before `PaywallShown`.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn configure(&self, settings: Option<ExitOfferSettings>) -> Outcome<()> {
        guarded("exit_offer.configure", || {
            self.machine().configure(settings.map(Into::into).unwrap_or_default());
            Ok(())
        })
    }

    /// Takes in what happened at `at_ms`, the wall clock in ms since the Unix epoch, and says what to do, in order. `Back`
    /// and `Swipe` always come to exactly one of `ShowOffer` and `LetGo`.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn on(&self, input: ExitInput, at_ms: i64) -> Outcome<Vec<ExitAction>> {
        guarded("exit_offer.on", || {
            Ok(self.machine().on(moment(at_ms), input.into()).into_iter().map(Into::into).collect())
        })
    }

    /// What would keep an offer from being made for this trigger now; `None` when one would be.
    ///
    /// # Errors
    /// None; it is a `Result` like every call.
    pub fn declined(&self, trigger: Trigger, at_ms: i64) -> Outcome<Option<Declined>> {
        guarded("exit_offer.declined", || Ok(self.machine().declined(moment(at_ms), trigger.into()).map(Into::into)))
    }
}

impl ExitOffer {
    fn of(machine: core::ExitOffer) -> Arc<Self> {
        Arc::new(Self { machine: Mutex::new(machine), _alive: Alive::of(&EXIT_OFFERS) })
    }

    fn machine(&self) -> MutexGuard<'_, core::ExitOffer> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn moment(ms: i64) -> Timestamp {
    Timestamp(ms.saturating_mul(1_000))
}

/// Enums whose variants have the same names on both sides.
macro_rules! twins {
    ($($name:ident { $($variant:ident),* $(,)? })*) => {$(
        impl From<$name> for core::$name {
            fn from(one: $name) -> Self {
                match one { $($name::$variant => Self::$variant),* }
            }
        }
        impl From<core::$name> for $name {
            fn from(one: core::$name) -> Self {
                match one { $(core::$name::$variant => Self::$variant),* }
            }
        }
    )*};
}

twins! {
    Trigger { Back, Swipe, Timeout, Pause }
    Platform { Android, Ios, Other }
    Eligibility { Eligible, Ineligible, Unknown, NoOffer }
    Declined {
        NoPaywall, OfferShown, Purchasing, Purchased, Disabled, OtherTrigger, SessionCap, DayCap, NotLoaded, SameOffering,
        Ineligible, NoOffer, UnknownEligibility, EligibilityExpired,
    }
}

/// Settings have the same fields on both sides.
macro_rules! settings {
    ($from:ty => $to:ty) => {
        impl From<$from> for $to {
            fn from(settings: $from) -> Self {
                let triggers = settings.triggers.into_iter();
                Self {
                    enabled: settings.enabled,
                    placement: settings.placement,
                    triggers: triggers
                        .map(|(platform, triggers)| (platform.into(), triggers.into_iter().map(Into::into).collect()))
                        .collect(),
                    timeout_ms: settings.timeout_ms,
                    pause_ms: settings.pause_ms,
                    max_per_session: settings.max_per_session,
                    max_per_day: settings.max_per_day,
                    eligibility_ms: settings.eligibility_ms,
                    offer_when_unknown: settings.offer_when_unknown,
                }
            }
        }
    };
}

settings!(ExitOfferSettings => core::ExitOfferSettings);
settings!(core::ExitOfferSettings => ExitOfferSettings);

impl From<ExitInput> for core::ExitInput {
    fn from(input: ExitInput) -> Self {
        match input {
            ExitInput::SessionStarted => Self::SessionStarted,
            ExitInput::PaywallShown { placement, offering, experiment, variant } => {
                Self::PaywallShown { placement, offering, experiment, variant }
            }
            ExitInput::OfferLoaded { revision, offering } => Self::OfferLoaded { revision, offering },
            ExitInput::OfferFailed { revision } => Self::OfferFailed { revision },
            ExitInput::EligibilityKnown { revision, eligibility } => {
                Self::EligibilityKnown { revision, eligibility: eligibility.into() }
            }
            ExitInput::Back => Self::Back,
            ExitInput::Swipe => Self::Swipe,
            ExitInput::Tick => Self::Tick,
            ExitInput::Paused => Self::Paused,
            ExitInput::Resumed => Self::Resumed,
            ExitInput::PurchaseStarted => Self::PurchaseStarted,
            ExitInput::PurchaseFinished => Self::PurchaseFinished,
            ExitInput::PurchaseCancelled => Self::PurchaseCancelled,
            ExitInput::Dismissed => Self::Dismissed,
        }
    }
}

impl From<core::ExitAction> for ExitAction {
    fn from(action: core::ExitAction) -> Self {
        match action {
            core::ExitAction::LoadOffer { placement, revision } => Self::LoadOffer { placement, revision },
            core::ExitAction::CheckEligibility { placement, revision } => {
                Self::CheckEligibility { placement, revision }
            }
            core::ExitAction::ShowOffer { placement, offering, trigger } => {
                Self::ShowOffer { placement, offering, trigger: trigger.into() }
            }
            core::ExitAction::LetGo { reason } => Self::LetGo { reason: reason.into() },
            core::ExitAction::Record { event } => Self::Record { event: event.into() },
        }
    }
}
