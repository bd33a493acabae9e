use std::sync::Arc;

use selvedge::{Context, store::StoreExt};

use crate::{
    call::{Call, CancelHandle},
    engine::{Engine, Running},
    error::Outcome,
    hosts::{NetworkStatus, ThermalStatus, ask},
};

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, uniffi::Enum)]
pub enum Health {
    /// It is well.
    Ok,
    /// It works, and something should be done about it.
    Warning,
    /// It does not work.
    Error,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Finding {
    /// What was looked at: `database`.
    pub check: String,
    /// How well it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it, if there is something.
    pub advice: Option<String>,
}

/// What is well, what is not, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct DoctorReport {
    /// The library's version.
    pub version: String,
    /// The worst finding.
    pub health: Health,
    /// All findings.
    pub findings: Vec<Finding>,
}

#[uniffi::export]
impl Engine {
    /// Looks at the database, the models, the network and the heat. What fails is a finding, not an error.
    ///
    /// # Errors
    /// `Closed`, `Unavailable` while suspended.
    #[uniffi::method(default(cancel = None))]
    pub async fn doctor(&self, cancel: Option<Arc<CancelHandle>>) -> Outcome<DoctorReport> {
        self.run("engine.doctor", Call::default(), cancel, |running, cx| async move {
            let mut findings = vec![database(&running, &cx).await];
            findings.extend(running.engine.models().map(|(name, model)| {
                let model = selvedge::Inference::model(model);
                ok("model", format!("{name}: {}, context {} tokens", model.description, model.context_length))
            }));
            findings.extend(network(&running).await);
            findings.extend(heat(&running).await);
            let health = findings.iter().map(|finding| finding.health).max().unwrap_or(Health::Ok);
            Ok(DoctorReport { version: env!("CARGO_PKG_VERSION").into(), health, findings })
        })
        .await
    }
}

fn ok(check: &str, found: impl Into<String>) -> Finding {
    Finding { check: check.into(), health: Health::Ok, found: found.into(), advice: None }
}

fn warning(check: &str, found: impl Into<String>, advice: &str) -> Finding {
    Finding { check: check.into(), health: Health::Warning, found: found.into(), advice: Some(advice.into()) }
}

fn failed(check: &str, error: &selvedge::Error) -> Finding {
    Finding {
        check: check.into(),
        health: Health::Error,
        found: error.message().into(),
        advice: error.advice().map(Into::into),
    }
}

async fn database(running: &Running, cx: &Context) -> Finding {
    let info = async { running.engine.store()?.info(cx).await }.await;
    match info {
        Ok(info) => ok(
            "database",
            format!(
                "{}: {}, schema {}, {} bytes; {}",
                info.location,
                info.backend,
                info.schema,
                info.bytes.unwrap_or(0),
                info.durability
            ),
        ),
        Err(error) => failed("database", &error),
    }
}

async fn network(running: &Running) -> Option<Finding> {
    let host = running.hosts.connectivity.clone()?;
    Some(match ask("host.connectivity", running.config.callback_timeout(), move || host.status()).await {
        Ok(NetworkStatus::Offline) => warning("network", "offline", "intents wait; flush when the network is back"),
        Ok(NetworkStatus::Metered) => ok("network", "metered"),
        Ok(NetworkStatus::Unmetered) => ok("network", "unmetered"),
        Err(error) => failed("network", &error),
    })
}

async fn heat(running: &Running) -> Option<Finding> {
    let host = running.hosts.thermal.clone()?;
    Some(match ask("host.thermal", running.config.callback_timeout(), move || host.read()).await {
        Ok(reading) => {
            let forecast = match reading.headroom {
                Some(headroom) => format!("{:?}, headroom {headroom:.2} (1.0 is severe)", reading.status),
                None => format!("{:?}", reading.status),
            };
            match reading.status {
                ThermalStatus::None | ThermalStatus::Light => ok("heat", forecast),
                _ => warning("heat", forecast, "models run slower until the device has cooled down"),
            }
        }
        Err(error) => failed("heat", &error),
    })
}
