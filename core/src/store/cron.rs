use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::NewJob;
use crate::{Error, ErrorKind, Result, Timestamp};

/// A job that is enqueued again and again: a name, a cron expression and the job.
///
/// Expressions have five fields, or six with seconds first, and go by UTC. When a Store was down over several moments,
/// the job is enqueued once, not once for each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cron {
    /// The schedule's name; writing the same name again replaces it.
    pub name: String,
    /// The expression: `*/5 * * * *`.
    pub expression: String,
    /// The job to enqueue.
    pub job: NewJob,
}

impl Cron {
    /// A schedule.
    ///
    /// ```
    /// use selvedge_core::{Timestamp, store::{Cron, NewJob}};
    ///
    /// let hourly = Cron::new("report", "0 * * * *", NewJob::new("reports", ""))?;
    /// assert_eq!(hourly.next_after(Timestamp(0))?, Timestamp(3_600_000_000));
    /// # Ok::<(), selvedge_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` when the expression cannot be read or never fires.
    pub fn new(name: impl Into<String>, expression: impl Into<String>, job: NewJob) -> Result<Self> {
        let cron = Self { name: name.into(), expression: expression.into(), job };
        cron.next_after(Timestamp(0))?;
        Ok(cron)
    }

    /// The first moment after `now` at which it fires.
    ///
    /// # Errors
    /// `InvalidInput` when the expression cannot be read or never fires again.
    pub fn next_after(&self, now: Timestamp) -> Result<Timestamp> {
        let invalid = |reason: String| {
            Error::new(ErrorKind::InvalidInput, "store.cron", format!("the cron expression cannot be used: {reason}"))
                .with("schedule", &self.name)
                .with("expression", &self.expression)
                .advise("use five fields (minute hour day month weekday), or six with seconds first")
        };
        let pattern = croner::Cron::from_str(&self.expression).map_err(|error| invalid(error.to_string()))?;
        let from: DateTime<Utc> =
            DateTime::from_timestamp_micros(now.0).ok_or_else(|| invalid("the moment is out of range".into()))?;
        let next = pattern.find_next_occurrence(&from, false).map_err(|error| invalid(error.to_string()))?;
        Ok(Timestamp(next.timestamp_micros()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_moment_is_later_and_on_the_minute(now in 0i64..4_000_000_000_000_000, minute in 0u32..60, hour in 0u32..24) {
            let cron = Cron::new("n", format!("{minute} {hour} * * *"), NewJob::new("q", "")).expect("valid");
            let next = cron.next_after(Timestamp(now)).expect("fires");
            prop_assert!(next.0 > now);
            prop_assert!(next.0 - now <= 86_400_000_000);
            prop_assert_eq!(next.0 / 1_000_000 % 86_400, i64::from(hour * 3600 + minute * 60));
        }
    }

    #[test]
    fn what_is_not_an_expression_is_refused() {
        for bad in ["", "x", "61 * * * *", "* * * *", "0 0 30 2 *"] {
            let refused = Cron::new("n", bad, NewJob::new("q", ""));
            assert_eq!(refused.map_err(|e| e.kind()).err(), Some(ErrorKind::InvalidInput), "{bad}");
        }
    }
}
