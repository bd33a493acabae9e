//! Placements, events and exit offers.

mod config;
mod event;
mod exit_offer;

pub use config::{ConfigHealth, ConfigOrigin, ExperimentsConfig, TrustedKey};
pub use event::PaywallEvent;
pub use exit_offer::{Declined, Eligibility, ExitAction, ExitInput, ExitOffer, ExitOfferSettings, Platform, Trigger};

use std::{collections::HashMap, sync::Arc};

use selvedge::{
    Error, ErrorKind, experiment as core,
    experiments::{Experiments, Refreshed},
};

use crate::{
    call::{Call, CancelHandle},
    engine::{Engine, Running},
    error::{Outcome, guarded},
    hosts::{HostedTransport, HttpTransport},
};

/// Asks what somebody sees at a placement.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct AssignRequest {
    /// Who: a user id, or the device while nobody has signed in.
    pub subject: String,
    /// Where: `main_paywall`.
    pub placement: String,
    /// On which device. At login an account without an assignment of its own takes over its device's.
    #[uniffi(default = None)]
    pub device: Option<String>,
    /// What targeting may look at, as one JSON object.
    #[uniffi(default = None)]
    pub attributes_json: Option<String>,
    /// Look without enrolling: nothing is kept and no impression is recorded.
    #[uniffi(default = false)]
    pub peek: bool,
    /// It is shown to somebody who was about to leave; its impression says so.
    #[uniffi(default = false)]
    pub exit_offer: bool,
}

/// What somebody sees.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Assignment {
    /// The placement.
    pub placement: String,
    /// The experiment that decided; `None` when none ran.
    pub experiment: Option<String>,
    /// The variation's key.
    pub variation: String,
    /// They are part of the experiment, so their events count.
    pub enrolled: bool,
    /// What to show; `None` is an explicit "show nothing".
    pub shown: Option<Shown>,
}

/// What a placement shows.
#[derive(Clone, Debug, PartialEq, uniffi::Record)]
pub struct Shown {
    /// What is sold: the purchase SDK's name for a set of products.
    pub offering: Option<String>,
    /// Texts, by name.
    pub copy: HashMap<String, String>,
    /// Percent off the full price, 0 to 100.
    pub discount_pct: u8,
    /// Whether, where and when an offer is made to who is leaving.
    pub exit_offer: Option<ExitOfferSettings>,
    /// All of it, as JSON: the app may keep more in it.
    pub json: String,
}

/// An event to keep.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct NewEvent {
    /// Whom it is about.
    pub subject: String,
    /// What happened.
    pub event: PaywallEvent,
    /// Its id, a UUID: the same event told twice counts once. Without it, a new one.
    #[uniffi(default = None)]
    pub id: Option<String>,
}

#[uniffi::export]
impl Engine {
    /// What somebody sees at a placement. The same person sees the same every time, and unless this peeks, what was
    /// assigned and its impression are kept before this returns.
    ///
    /// # Errors
    /// `NotFound` for a placement that is not configured: that differs from one that shows nothing. `Unsupported` when the
    /// engine was opened without experiments, `InvalidInput` for attributes that are no JSON object.
    pub async fn assign(
        &self,
        request: AssignRequest,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<Assignment> {
        self.run("engine.assign", call, cancel, |running, cx| async move {
            let assignment = running.engine.assign(&cx, request.into_core()?).await?;
            let value = assignment.value()?;
            let shown = match (value, assignment.show) {
                (Some(value), Some(show)) => Some(Shown {
                    offering: value.offering,
                    copy: value.copy.into_iter().collect(),
                    discount_pct: value.discount_pct,
                    exit_offer: value.exit_offer.map(Into::into),
                    json: show.to_string(),
                }),
                _ => None,
            };
            Ok(Assignment {
                placement: assignment.placement,
                experiment: assignment.experiment,
                variation: assignment.variation,
                enrolled: assignment.enrolled,
                shown,
            })
        })
        .await
    }

    /// Keeps an event and sends it to the server with the outbox. The same id again changes nothing.
    ///
    /// # Errors
    /// `InvalidInput`, naming the property that is wrong; `Unsupported` when the engine was opened without experiments.
    pub async fn track(&self, event: NewEvent, call: Call, cancel: Option<Arc<CancelHandle>>) -> Outcome<()> {
        self.run("engine.track", call, cancel, |running, cx| async move {
            let (paywall, subject) = (event.event.into_core()?, event.subject);
            let fact = match event.id {
                Some(id) => paywall.to_fact_with_id(event_id(&id)?, subject),
                None => paywall.to_fact(subject),
            };
            Ok(running.engine.track(&cx, fact).await?)
        })
        .await
    }

    /// Fetches the configuration of placements if it has changed, and says whether it had. Whatever goes wrong, the one that
    /// holds stays. `path` is below the server's address: `/v1/config`.
    ///
    /// # Errors
    /// `Unavailable` when the server does not answer with one, `Damaged`, `PermissionDenied` for a signature that is wrong or
    /// not trusted, `Conflict` for one that is older, `Unsupported` when the engine was opened without experiments.
    pub async fn refresh_config(
        &self,
        transport: Arc<dyn HttpTransport>,
        path: String,
        call: Call,
        cancel: Option<Arc<CancelHandle>>,
    ) -> Outcome<bool> {
        self.run("engine.refresh_config", call, cancel, |running, cx| async move {
            let transport = HostedTransport { inner: transport, limit: running.config.callback_timeout() };
            let refreshed = running.experiments()?.refresh_by(&cx, Arc::new(transport), path).await?;
            Ok(refreshed == Refreshed::New)
        })
        .await
    }

    /// How the configuration of placements is doing.
    ///
    /// # Errors
    /// `Closed`; `Unsupported` when the engine was opened without experiments.
    pub fn config_health(&self) -> Outcome<ConfigHealth> {
        guarded("engine.config_health", || Ok(self.running()?.experiments()?.health().into()))
    }
}

impl Running {
    fn experiments(&self) -> selvedge::Result<&Experiments> {
        self.experiments.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "engine.experiments", "the engine was opened without experiments")
                .advise("set `experiments` in its configuration")
        })
    }
}

impl AssignRequest {
    fn into_core(self) -> selvedge::Result<core::Assign> {
        let attributes = match &self.attributes_json {
            Some(json) => serde_json::from_str(json).map_err(|error| {
                Error::new(ErrorKind::InvalidInput, "engine.assign", "attributes are not one JSON object")
                    .caused_by(error)
                    .advise("pass an object such as {\"country\":\"DE\"}")
            })?,
            None => Default::default(),
        };
        Ok(core::Assign {
            subject: self.subject,
            placement: self.placement,
            device: self.device,
            attributes,
            peek: self.peek,
            exit_offer: self.exit_offer,
        })
    }
}

fn event_id(text: &str) -> selvedge::Result<uuid::Uuid> {
    text.parse().map_err(|error: uuid::Error| {
        Error::new(ErrorKind::InvalidInput, "engine.track", "this is not the id of an event")
            .with("id", text)
            .caused_by(error)
            .advise("pass a UUID, or none")
    })
}
