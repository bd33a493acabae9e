//! How an experiment is analysed.

use std::collections::BTreeMap;

use selvedge_core::Result;
use serde::{Deserialize, Serialize};

use super::{Correction, Guardrail, Prior, Spending, invalid};

/// What becomes of negative revenue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refunds {
    /// It is an error: whether refunds count is for people to say.
    #[default]
    Refuse,
    /// It counts as it is, so that revenue is what was kept.
    Net,
    /// It counts as nothing: the user bought and gave back.
    Zero,
}

/// How an experiment is analysed. [`Options::default`] is a single look at 5 %, two-sided.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The variation that the others are compared with; else the one named `control`, else the first by name.
    pub control: Option<String>,
    /// The share of users that each variation was to have; equal unless given.
    pub weights: BTreeMap<String, f64>,
    /// The error allowed, of both sides and all variations together.
    pub alpha: f64,
    /// How it is spent over the looks.
    pub spending: Spending,
    /// The users of the control that the experiment was planned for, those of the others by their weights. Without it, this
    /// counts as the only look.
    pub planned_per_arm: Option<u64>,
    /// The fractions at which it was looked before. Without them, each day in the data counts as a look.
    pub looks: Vec<f64>,
    /// How p-values of several variations are corrected.
    pub correction: Correction,
    /// What is believed of the relative lift beforehand; flat unless given.
    pub prior: Option<Prior>,
    /// The users of both arms at which the confidence sequence is tightest [default: those planned, else those there].
    pub tuned_for: Option<f64>,
    /// Caps revenue at this quantile of the users who paid, all variations together, and reports that too: 0.999.
    pub winsorise: Option<f64>,
    /// What becomes of negative revenue.
    pub refunds: Refunds,
    /// What must not get worse.
    pub guardrails: Vec<Guardrail>,
    /// Of users from a Store, makes what each paid before the exposure, in minor units, their covariate (CUPED). A file has a
    /// column for it instead.
    ///
    /// It adds no bias, because it was there before anything was shown: whatever it is, both arms are drawn from the same
    /// users, so the covariate's difference that is taken out is 0 but for chance. It has to be *recorded* before the
    /// exposure is, and an exposure before what it leads to.
    pub past_revenue: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control: None,
            weights: BTreeMap::new(),
            alpha: 0.05,
            spending: Spending::ObrienFleming,
            planned_per_arm: None,
            looks: Vec::new(),
            correction: Correction::Holm,
            prior: None,
            tuned_for: None,
            winsorise: None,
            refunds: Refunds::Refuse,
            guardrails: Vec::new(),
            past_revenue: false,
        }
    }
}

impl Options {
    /// # Errors
    /// `InvalidInput`, naming the option.
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return Err(invalid("the error allowed lies between 0 and 1").with("alpha", self.alpha));
        }
        if self.planned_per_arm == Some(0) {
            return Err(invalid("an experiment is planned for a user at least").with("planned", 0));
        }
        if let Some(quantile) = self.winsorise
            && !(quantile > 0.5 && quantile < 1.0)
        {
            return Err(invalid("revenue is capped at a quantile above a half and below 1").with("winsorise", quantile));
        }
        if let Some(tuned_for) = self.tuned_for
            && !(tuned_for >= 1.0 && tuned_for.is_finite())
        {
            return Err(invalid("a confidence sequence is tuned for a user at least").with("tuned_for", tuned_for));
        }
        for guardrail in &self.guardrails {
            if !(guardrail.margin >= 0.0 && guardrail.margin < 1.0) {
                return Err(invalid("the margin of a guardrail is a fraction, 0 or more and below 1")
                    .with("column", &guardrail.column)
                    .with("margin", guardrail.margin));
            }
        }
        if !self.looks.is_empty() && self.planned_per_arm.is_none() {
            return Err(
                invalid("looks are fractions of what was planned").advise("say for how many users it was planned")
            );
        }
        Ok(())
    }
}
