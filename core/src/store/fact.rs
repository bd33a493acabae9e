use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::job::{check_name, check_payload};
use crate::Result;

/// Something that was observed and is analysed later: an exposure, a purchase. Recording the same id again changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The id to drop duplicates by.
    pub id: Uuid,
    /// What kind of fact: `purchase_completed`.
    pub name: String,
    /// Whom it is about.
    pub subject: String,
    /// Its properties, as JSON.
    pub properties: Bytes,
}

impl Fact {
    /// A fact with a new id.
    pub fn new(name: impl Into<String>, subject: impl Into<String>, properties: impl Into<Bytes>) -> Self {
        Self { id: Uuid::now_v7(), name: name.into(), subject: subject.into(), properties: properties.into() }
    }

    /// What every Store checks before it accepts the fact.
    ///
    /// # Errors
    /// `InvalidInput` or `TooLarge`, naming the field.
    pub fn check(&self) -> Result<()> {
        check_name("name", &self.name)?;
        check_name("subject", &self.subject)?;
        check_payload("fact properties", &self.properties)
    }
}

/// Which variation a subject sees in an experiment, kept so that it stays the same.
///
/// The first write wins within one `version`; a higher version replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StickyAssignment {
    /// Who: a user id.
    pub subject: String,
    /// Of which experiment.
    pub experiment: String,
    /// Sees what.
    pub variation: String,
    /// The experiment's bucketing version.
    pub version: u32,
}

impl StickyAssignment {
    /// What every Store checks before it accepts the assignment.
    ///
    /// # Errors
    /// `InvalidInput`, naming the field.
    pub fn check(&self) -> Result<()> {
        check_name("subject", &self.subject)?;
        check_name("experiment", &self.experiment)?;
        check_name("variation", &self.variation)
    }
}
