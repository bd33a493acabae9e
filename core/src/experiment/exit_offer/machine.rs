use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Declined, Eligibility, ExitAction, ExitInput, ExitOfferSettings, Platform, Trigger};
use crate::{Timestamp, experiment::ExitOfferTriggered};

const DAY: Duration = Duration::from_secs(86_400);

/// Decides about exit offers: tell it what happens, and do what it says.
///
/// A decision is made from what is already known, so it takes no time: everything is loaded while the paywall is read. All
/// of its state serialises, for the moment the system ends the app's process.
///
/// ```
/// use selvedge_core::{Timestamp, experiment::{Eligibility, ExitAction, ExitInput, ExitOffer, ExitOfferSettings, Platform}};
///
/// let settings = ExitOfferSettings { enabled: true, ..Default::default() };
/// let mut exit = ExitOffer::new(Platform::Android);
/// let shown = ExitInput::PaywallShown {
///     placement: "main_paywall".into(), offering: Some("annual".into()), experiment: None, variant: "control".into(),
/// };
/// exit.configure(settings);
/// let actions = exit.on(Timestamp(0), shown);
/// let Some(ExitAction::LoadOffer { revision, .. }) = actions.first() else { panic!() };
///
/// exit.on(Timestamp(1), ExitInput::OfferLoaded { revision: *revision, offering: Some("annual_half_price".into()) });
/// exit.on(Timestamp(2), ExitInput::EligibilityKnown { revision: *revision, eligibility: Eligibility::Eligible });
/// assert!(matches!(exit.on(Timestamp(3), ExitInput::Back)[0], ExitAction::ShowOffer { .. }));
/// assert!(matches!(exit.on(Timestamp(4), ExitInput::Back)[0], ExitAction::LetGo { .. }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitOffer {
    platform: Platform,
    settings: ExitOfferSettings,
    screen: Screen,
    /// The purchase sheet lies over the screen.
    purchasing: bool,
    paused_at: Option<Timestamp>,
    revision: u64,
    offer: Option<String>,
    asked_at: Timestamp,
    eligibility: Eligibility,
    purchased: bool,
    shown_in_session: u32,
    last_offering: Option<String>,
    /// The offers of the last day.
    shown: Vec<Timestamp>,
}

/// What is on screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Screen {
    Nothing,
    Paywall(Paywall),
    Offer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Paywall {
    placement: String,
    offering: Option<String>,
    experiment: Option<String>,
    variant: String,
    since: Timestamp,
    timed_out: bool,
}

impl ExitOffer {
    /// Nothing has happened yet, and exit offers are off.
    pub fn new(platform: Platform) -> Self {
        Self {
            platform,
            settings: ExitOfferSettings::default(),
            screen: Screen::Nothing,
            purchasing: false,
            paused_at: None,
            revision: 0,
            offer: None,
            asked_at: Timestamp::default(),
            eligibility: Eligibility::Unknown,
            purchased: false,
            shown_in_session: 0,
            last_offering: None,
            shown: Vec::new(),
        }
    }

    /// Sets what a paywall's placement says about exit offers. Call it before [`ExitInput::PaywallShown`].
    pub fn configure(&mut self, settings: ExitOfferSettings) {
        self.settings = settings;
    }

    /// Takes in what happened at `at`, the device's wall clock, and says what to do, in order.
    ///
    /// [`Back`](ExitInput::Back) and [`Swipe`](ExitInput::Swipe) always come to exactly one of
    /// [`ShowOffer`](ExitAction::ShowOffer) and [`LetGo`](ExitAction::LetGo).
    pub fn on(&mut self, at: Timestamp, input: ExitInput) -> Vec<ExitAction> {
        match input {
            ExitInput::SessionStarted => self.start_session(),
            ExitInput::PaywallShown { placement, offering, experiment, variant } => {
                return self.show_paywall(Paywall {
                    placement,
                    offering,
                    experiment,
                    variant,
                    since: at,
                    timed_out: false,
                });
            }
            ExitInput::OfferLoaded { revision, offering } if revision == self.revision => self.offer = offering,
            ExitInput::OfferFailed { revision } if revision == self.revision => self.offer = None,
            ExitInput::EligibilityKnown { revision, eligibility } if revision == self.revision => {
                self.eligibility = eligibility;
            }
            ExitInput::OfferLoaded { .. } | ExitInput::OfferFailed { .. } | ExitInput::EligibilityKnown { .. } => (),
            ExitInput::Back => return self.leave(at, Trigger::Back),
            ExitInput::Swipe => return self.leave(at, Trigger::Swipe),
            ExitInput::Tick => return self.tick(at),
            ExitInput::Paused => self.paused_at = (!self.purchasing).then_some(at),
            ExitInput::Resumed => return self.resume(at),
            ExitInput::PurchaseStarted => self.purchasing = true,
            ExitInput::PurchaseFinished => {
                self.purchased = true;
                self.close();
            }
            ExitInput::PurchaseCancelled => self.purchasing = false,
            ExitInput::Dismissed => self.close(),
        }
        Vec::new()
    }

    /// What would keep an offer from being made for this trigger now; `None` when one would be.
    pub fn declined(&self, at: Timestamp, trigger: Trigger) -> Option<Declined> {
        self.offer_for(at, trigger).err()
    }

    fn start_session(&mut self) {
        self.purchased = false;
        self.shown_in_session = 0;
        self.last_offering = None;
    }

    fn close(&mut self) {
        self.screen = Screen::Nothing;
        self.purchasing = false;
        self.paused_at = None;
    }

    fn show_paywall(&mut self, paywall: Paywall) -> Vec<ExitAction> {
        self.close();
        // What was asked for before belongs to another paywall, or to another moment.
        self.revision += 1;
        self.offer = None;
        self.eligibility = Eligibility::Unknown;
        self.asked_at = paywall.since;
        self.screen = Screen::Paywall(paywall);
        if self.barred(self.asked_at).is_some() {
            return Vec::new();
        }
        let (placement, revision) = (self.settings.placement.clone(), self.revision);
        vec![
            ExitAction::LoadOffer { placement: placement.clone(), revision },
            ExitAction::CheckEligibility { placement, revision },
        ]
    }

    /// Somebody leaves: they see an offer, or go.
    fn leave(&mut self, at: Timestamp, trigger: Trigger) -> Vec<ExitAction> {
        match self.offer_for(at, trigger) {
            Ok(offering) => self.make(at, trigger, offering),
            Err(reason) => {
                self.close();
                vec![ExitAction::LetGo { reason }]
            }
        }
    }

    /// Somebody stays: they see an offer, or nothing changes.
    fn nudge(&mut self, at: Timestamp, trigger: Trigger) -> Vec<ExitAction> {
        match self.offer_for(at, trigger) {
            Ok(offering) => self.make(at, trigger, offering),
            Err(_) => Vec::new(),
        }
    }

    fn tick(&mut self, at: Timestamp) -> Vec<ExitAction> {
        let timeout = Duration::from_millis(self.settings.timeout_ms.into());
        match &mut self.screen {
            Screen::Paywall(paywall)
                if !self.purchasing && !paywall.timed_out && at.since(paywall.since) >= timeout =>
            {
                // Once for each paywall: what it came to then is not asked again.
                paywall.timed_out = true;
                self.nudge(at, Trigger::Timeout)
            }
            _ => Vec::new(),
        }
    }

    fn resume(&mut self, at: Timestamp) -> Vec<ExitAction> {
        let away = Duration::from_millis(self.settings.pause_ms.into());
        match self.paused_at.take() {
            Some(paused) if at.since(paused) >= away => self.nudge(at, Trigger::Pause),
            _ => Vec::new(),
        }
    }

    /// What to offer, or why nothing is.
    fn offer_for(&self, at: Timestamp, trigger: Trigger) -> Result<String, Declined> {
        let Screen::Paywall(paywall) = &self.screen else {
            return Err(if self.screen == Screen::Offer { Declined::OfferShown } else { Declined::NoPaywall });
        };
        if self.purchasing {
            return Err(Declined::Purchasing);
        }
        if let Some(reason) = self.barred(at) {
            return Err(reason);
        }
        if !self.settings.on(self.platform, trigger) {
            return Err(Declined::OtherTrigger);
        }
        let offering = self.offer.clone().ok_or(Declined::NotLoaded)?;
        if [&paywall.offering, &self.last_offering].into_iter().flatten().any(|seen| *seen == offering) {
            return Err(Declined::SameOffering);
        }
        match self.eligibility {
            Eligibility::Ineligible => Err(Declined::Ineligible),
            Eligibility::NoOffer => Err(Declined::NoOffer),
            Eligibility::Unknown if !self.settings.offer_when_unknown => Err(Declined::UnknownEligibility),
            Eligibility::Eligible if self.eligibility_expired(at) => Err(Declined::EligibilityExpired),
            Eligibility::Unknown | Eligibility::Eligible => Ok(offering),
        }
    }

    /// What keeps every offer from being made, whatever was loaded.
    fn barred(&self, at: Timestamp) -> Option<Declined> {
        let today = self.shown.iter().filter(|shown| apart(**shown, at) < DAY).count();
        if !self.settings.enabled {
            Some(Declined::Disabled)
        } else if self.purchased {
            Some(Declined::Purchased)
        } else if self.shown_in_session >= self.settings.max_per_session {
            Some(Declined::SessionCap)
        } else if today >= self.settings.max_per_day as usize {
            Some(Declined::DayCap)
        } else {
            None
        }
    }

    fn eligibility_expired(&self, at: Timestamp) -> bool {
        apart(self.asked_at, at) > Duration::from_millis(self.settings.eligibility_ms.into())
    }

    fn make(&mut self, at: Timestamp, trigger: Trigger, offering: String) -> Vec<ExitAction> {
        let Screen::Paywall(paywall) = std::mem::replace(&mut self.screen, Screen::Offer) else { return Vec::new() };
        self.paused_at = None;
        self.shown_in_session += 1;
        self.last_offering = Some(offering.clone());
        self.shown.retain(|shown| apart(*shown, at) < DAY);
        self.shown.push(at);
        let event = ExitOfferTriggered {
            trigger_type: trigger,
            variant: paywall.variant,
            placement_id: Some(paywall.placement),
            experiment: paywall.experiment,
            offering: Some(offering.clone()),
        };
        let placement = self.settings.placement.clone();
        vec![ExitAction::ShowOffer { placement, offering, trigger }, ExitAction::Record { event }]
    }
}

/// How far two moments lie apart, whichever comes first: a clock that was set back makes nothing new.
fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

#[cfg(test)]
mod tests;
