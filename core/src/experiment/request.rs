use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{PaywallEvent, properties::invalid};
use crate::{Result, store::Fact};

/// An event as it is sent to a server: the body of `POST /v1/events`, and the payload of an intent.
///
/// ```
/// use selvedge_core::experiment::EventRequest;
///
/// let body = r#"{"id":"0199f7c8-8d5e-7c3a-9d0e-2f6b8c1a4e55","name":"workout_finished","subject":"ada","properties":{"minutes":20}}"#;
/// let fact = serde_json::from_str::<EventRequest>(body)?.into_fact()?;
/// assert_eq!(fact.subject, "ada");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventRequest {
    /// The event's id: what is sent again with it counts once.
    pub id: Uuid,
    /// Its name: `purchase_completed`.
    pub name: String,
    /// Whom it is about.
    pub subject: String,
    /// Its properties: a JSON object.
    pub properties: Box<RawValue>,
}

impl EventRequest {
    /// The operation of an intent whose payload is an event: `/v1/intents` takes it, and keeps the event in the commit that
    /// settles the intent's key.
    pub const OPERATION: &'static str = "events.track";

    /// The event of a fact.
    ///
    /// # Errors
    /// `InvalidInput` when the fact's properties are not JSON.
    pub fn of(fact: &Fact) -> Result<Self> {
        let properties = serde_json::from_slice(&fact.properties)
            .map_err(|error| invalid(&fact.name, "an event's properties are not a JSON object").caused_by(error))?;
        Ok(Self { id: fact.id, name: fact.name.clone(), subject: fact.subject.clone(), properties })
    }

    /// The fact to keep.
    ///
    /// # Errors
    /// Those of [`PaywallEvent::check_fact`].
    pub fn into_fact(self) -> Result<Fact> {
        let properties = String::from(Box::<str>::from(self.properties)).into_bytes();
        let fact = Fact { id: self.id, ..Fact::new(self.name, self.subject, properties) };
        PaywallEvent::check_fact(&fact)?;
        Ok(fact)
    }
}
