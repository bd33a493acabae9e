//! Experiment: who sees what, and did it earn more.

mod event;
mod exit_offer;
mod money;
mod placement;
mod properties;

pub use event::{
    ExitOfferTriggered, PaywallEvent, PaywallImpression, PurchaseCompleted, PurchaseInitiated, SubscriptionRenewed,
};
pub use exit_offer::{Declined, Eligibility, ExitAction, ExitInput, ExitOffer, ExitOfferSettings, Platform, Trigger};
pub use money::Currency;
pub use placement::PlacementValue;

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
            /// # Errors
            /// `NotFound` for a placement that is not configured: that differs from one that shows nothing.
            async fn assign(&self, cx: &Context, request: Assign) -> Result<Assignment>;

            /// Keeps a fact for analysis. Tracking the same fact id again changes nothing.
            async fn track(&self, cx: &Context, fact: Fact) -> Result<()>;
        }
    }
}

/// Asks what a subject sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assign {
    /// Who: a user id.
    pub subject: String,
    /// Where: `main_paywall`.
    pub placement: String,
    /// What targeting may look at.
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// Look without enrolling: nothing is kept and no exposure is recorded.
    pub peek: bool,
}

impl Assign {
    /// Asks for a subject at a placement, and enrols it.
    pub fn new(subject: impl Into<String>, placement: impl Into<String>) -> Self {
        Self { subject: subject.into(), placement: placement.into(), attributes: BTreeMap::new(), peek: false }
    }
}

/// What a subject sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The placement.
    pub placement: String,
    /// The experiment that decided; `None` when none ran.
    pub experiment: Option<String>,
    /// The variation's name.
    pub variation: String,
    /// What to show; `None` is an explicit "show nothing".
    pub show: Option<serde_json::Value>,
    /// The subject is part of the experiment, so its facts count.
    pub enrolled: bool,
}
