use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What may set an exit offer off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// The back button or gesture.
    Back,
    /// A sheet that is swiped away.
    Swipe,
    /// The paywall has been on screen for `timeout_ms`.
    Timeout,
    /// The app was left for at least `pause_ms` and came back.
    Pause,
}

/// Where the app runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Android: back is a gesture of the system, and covers swiping.
    Android,
    /// iOS: sheets are swiped away, and there is no back button.
    Ios,
    /// Anything else.
    Other,
}

/// The part of a placement's value that is about exit offers. All of it has defaults; without `enabled` there are none.
///
/// ```
/// use selvedge_core::experiment::{ExitOfferSettings, Platform, Trigger};
///
/// let settings: ExitOfferSettings = serde_json::from_str(r#"{
///     "enabled": true, "placement": "exit_offer", "triggers": { "android": ["back", "pause"] }, "max_per_day": 2
/// }"#)?;
/// assert!(settings.on(Platform::Android, Trigger::Pause));
/// assert!(settings.on(Platform::Ios, Trigger::Swipe), "iOS keeps its default");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExitOfferSettings {
    /// The server's switch, `exit_offer_enabled`: off by default.
    pub enabled: bool,
    /// The placement of the offer.
    pub placement: String,
    /// What sets it off, by platform. A platform that is left out has `back` (Android and others) or `swipe` (iOS).
    pub triggers: BTreeMap<Platform, Vec<Trigger>>,
    /// How long a paywall is on screen before `timeout` sets off, in milliseconds: 30 seconds.
    pub timeout_ms: u32,
    /// How long the app is left before `pause` sets off, in milliseconds: 5 seconds.
    pub pause_ms: u32,
    /// The most offers in one session: 1.
    pub max_per_session: u32,
    /// The most offers in any 24 hours: 1.
    pub max_per_day: u32,
    /// How long the store's answer about eligibility is good for, from when it was asked, in milliseconds: 10 minutes. One
    /// that comes later counts no more than one that is too old.
    pub eligibility_ms: u32,
    /// Make the offer also when nobody knows whether the person may have it: off by default.
    pub offer_when_unknown: bool,
}

impl Default for ExitOfferSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            placement: "exit_offer".into(),
            triggers: BTreeMap::new(),
            timeout_ms: 30_000,
            pause_ms: 5_000,
            max_per_session: 1,
            max_per_day: 1,
            eligibility_ms: 600_000,
            offer_when_unknown: false,
        }
    }
}

impl ExitOfferSettings {
    /// Whether this sets an offer off there.
    pub fn on(&self, platform: Platform, trigger: Trigger) -> bool {
        match self.triggers.get(&platform) {
            Some(triggers) => triggers.contains(&trigger),
            None => trigger == if platform == Platform::Ios { Trigger::Swipe } else { Trigger::Back },
        }
    }
}
