//! Experiment: who sees what, and did it earn more.
//!
//! What a feature or experiment means to a user is decided here, by pure functions: a [`Payload`] is evaluated for a [`User`], and
//! what is to be recorded and kept comes out beside the value. A plugin only says where payloads, documents and facts are.
//!
//! | looking for | go to |
//! | --- | --- |
//! | where a user falls, and which variation that is | [`hash`] |
//! | who an experiment is for | [`condition`], [`url`] |
//! | what is configured | [`payload`], [`definition`] |
//! | what a user sees, and why | [`evaluate`], [`result`] |
//! | what a user saw before | [`sticky`] |
//! | what a placement shows, and whether who leaves is made an offer | [`PlacementValue`], [`ExitOffer`] |
//! | events and the properties they need | [`PaywallEvent`] |

mod attributes;
pub mod condition;
pub mod definition;
pub mod evaluate;
mod event;
mod exit_offer;
pub mod hash;
mod members;
mod money;
pub mod payload;
mod placement;
mod properties;
mod request;
pub mod result;
mod run;
pub mod sticky;
pub mod url;
mod value;
mod version;

pub use attributes::Attributes;
pub use definition::Definition;
pub use evaluate::{Evaluation, Redirect, User};
pub use event::{
    ExitOfferTriggered, PaywallEvent, PaywallImpression, PurchaseCompleted, PurchaseInitiated, SubscriptionRenewed,
};
pub use exit_offer::{Declined, Eligibility, ExitAction, ExitInput, ExitOffer, ExitOfferSettings, Platform, Trigger};
pub use money::Currency;
pub use payload::Payload;
pub use placement::PlacementValue;
pub use request::EventRequest;
pub use result::{ExperimentResult, Exposure, FeatureResult, Source};

use std::{collections::BTreeMap, future::Future};

use serde::{Deserialize, Serialize};

use crate::{Context, Result, plugin::plugin_trait, store::Fact};

/// What an Experiment plugin can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExperimentCapabilities {
    /// The plugin's name, as error messages give it: `experiments`.
    pub plugin: &'static str,
    /// An assignment stays when the configuration changes.
    pub sticky: bool,
    /// A variation can be looked at without enrolling.
    pub peek: bool,
}

plugin_trait! {
    /// Placements, assignments and the facts they are judged by.
    pub trait Experiment, ExperimentTwin, AnyExperiment {
        sync {
            /// What this plugin can do. Asking for more is an `Unsupported` error.
            fn capabilities(&self) -> ExperimentCapabilities;
        }

        async {
            /// What a subject sees at a placement. The same subject sees the same thing every time.
            ///
            /// Unless it peeks, what it was assigned and its exposure are kept before this returns: call it when the
            /// placement is about to be shown, and peek to get something ready.
            ///
            /// # Errors
            /// `NotFound` for a placement that is not configured: that differs from one that shows nothing.
            async fn assign(&self, cx: &Context, request: Assign) -> Result<Assignment>;

            /// Keeps a fact for analysis. Tracking the same fact id again changes nothing.
            ///
            /// # Errors
            /// Those of [`PaywallEvent::check_fact`], and of what keeps it.
            async fn track(&self, cx: &Context, fact: Fact) -> Result<()>;
        }
    }
}

/// Asks what a subject sees.
///
/// Everything that decides is in here: nobody is signed in to a plugin, so there is no user to switch.
///
/// ```
/// use selvedge_core::experiment::Assign;
///
/// // Before somebody signs in, the device is the subject.
/// let before = Assign::new("phone-1", "main_paywall").on_device("phone-1");
/// // Afterwards, the account is: it keeps what the device was assigned, where the experiment says so.
/// let after = Assign::new("ada", "main_paywall").on_device("phone-1").with_attribute("country", "DE");
/// assert!(before.is_anonymous() && !after.is_anonymous());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    /// Who: a user id, or the device while nobody has signed in.
    pub subject: String,
    /// Where: `main_paywall`.
    pub placement: String,
    /// On which device. At login an account without an assignment of its own takes over its device's.
    #[serde(default)]
    pub device: Option<String>,
    /// What targeting may look at.
    #[serde(default)]
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// Look without enrolling: nothing is kept and no exposure is recorded.
    #[serde(default)]
    pub peek: bool,
    /// It is shown to somebody who was about to leave; its impression says so.
    #[serde(default)]
    pub exit_offer: bool,
}

impl Assign {
    /// Asks for a subject at a placement, and enrols it.
    pub fn new(subject: impl Into<String>, placement: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            placement: placement.into(),
            device: None,
            attributes: BTreeMap::new(),
            peek: false,
            exit_offer: false,
        }
    }

    /// Sets the device.
    #[must_use]
    pub fn on_device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// Adds something that targeting may look at.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Only looks.
    #[must_use]
    pub fn peeking(mut self) -> Self {
        self.peek = true;
        self
    }

    /// Nobody has signed in: the subject is the device itself.
    pub fn is_anonymous(&self) -> bool {
        self.device.as_ref() == Some(&self.subject)
    }
}

/// What a subject sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The placement.
    pub placement: String,
    /// The experiment that decided; `None` when none ran.
    pub experiment: Option<String>,
    /// The variation's key; [`Assignment::NO_EXPERIMENT`] when none ran.
    pub variation: String,
    /// What to show; `None` is an explicit "show nothing".
    pub show: Option<serde_json::Value>,
    /// The subject is part of the experiment, so its facts count.
    pub enrolled: bool,
}

impl Assignment {
    /// What the variation is called where no experiment decided.
    pub const NO_EXPERIMENT: &'static str = "default";

    /// What to show, with its type; `None` is an explicit "show nothing".
    ///
    /// # Errors
    /// `InvalidInput` when the placement's value is no [`PlacementValue`].
    pub fn value(&self) -> Result<Option<PlacementValue>> {
        let value = self.show.as_ref().map(PlacementValue::from_json).transpose();
        value.map_err(|error| error.with("placement", &self.placement))
    }
}
