//! What is reported: one value, as JSON, as text and as one page of HTML.

mod html;
mod plot;
mod text;

use serde::Serialize;

use super::{AlwaysValid, Cuped, Decomposition, Effect, Guarded, Novelty, Posterior, SampleRatio};

/// The analysis of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Users of all variations.
    pub users: u64,
    /// The currency of all revenue, if the data name one.
    pub currency: Option<String>,
    /// Whether all revenue is in minor units of that currency (cents), as events carry it; a file has what it has.
    pub minor_units: bool,
    /// The name of the control.
    pub control: String,
    /// The error allowed.
    pub alpha: f64,
    /// Each variation, the control first.
    pub variations: Vec<Variation>,
    /// Whether the arms have the users that they should have.
    pub srm: SampleRatio,
    /// What to do.
    pub decision: Decision,
    /// Each look with its boundary, the last one being now.
    pub looks: Vec<Look>,
    /// Revenue per user over the days, all users up to a day together; empty without days.
    pub cumulative: Vec<Cumulative>,
    /// What was left out of the data, and how many rows; empty when all counted.
    pub left_out: Vec<LeftOut>,
    /// What else one should know.
    pub notes: Vec<String>,
}

/// One variation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variation {
    /// Its name.
    pub name: String,
    /// Users who were exposed.
    pub n: u64,
    /// What all of them paid.
    pub revenue: f64,
    /// What one of them paid, payers or not: the metric to decide by.
    pub revenue_per_user: f64,
    /// Users who bought.
    pub conversions: u64,
    /// The share of users who bought.
    pub conversion: f64,
    /// Standard deviation over mean of revenue per user.
    pub cv: f64,
    /// How it compares with the control; none for the control itself.
    #[serde(flatten)]
    pub comparison: Option<Comparison>,
}

/// A variation beside the control.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Revenue per user.
    pub lift: Lift,
    /// The share of users who bought.
    pub conversion_lift: Lift,
    /// Revenue per user, with revenue of single users capped.
    pub winsorised: Option<Winsorised>,
    /// The p-value of the difference, corrected for the number of variations.
    pub p_adjusted: Option<f64>,
    /// The relative lift as an interval that holds at all times.
    pub always_valid: Option<AlwaysValid>,
    /// What to believe of the relative lift.
    pub bayes: Option<Posterior>,
    /// The lift with the covariate taken out.
    pub cuped: Option<Cuped>,
    /// Why revenue per user changed.
    pub decomposition: Decomposition,
    /// What must not get worse.
    pub guardrails: Vec<Guarded>,
    /// Whether the lift lasts.
    pub novelty: Option<Novelty>,
}

/// A lift; a part is missing where nothing can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lift {
    /// The difference of the means.
    pub absolute: Option<Effect>,
    /// It as a fraction of the control's mean.
    pub relative: Option<Effect>,
}

/// A lift with revenue capped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Winsorised {
    /// The most that counts for one user.
    pub cap: f64,
    /// Users of both arms who paid more.
    pub capped: u64,
    /// The lift.
    #[serde(flatten)]
    pub lift: Lift,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The variation to ship, or to go on with.
    pub variation: String,
    /// Why.
    pub reason: String,
    /// The share of the planned users who are in; 1 when nothing was planned.
    pub fraction: f64,
    /// What |z| must reach at this look; none where nothing could.
    pub boundary: Option<f64>,
    /// What conversion alone would have shipped; none where it agrees with revenue, or shows nothing.
    pub conversion_would_ship: Option<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Ship the variation: it earns more.
    Ship,
    /// Keep the control: it earns more.
    KeepControl,
    /// Neither is shown to earn more, and all planned users are in.
    NoDifference,
    /// Go on: not all planned users are in.
    Continue,
    /// Something is wrong with the data: find out what, and decide nothing.
    Investigate,
}

/// A look at the data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Look {
    /// The share of the planned users who were in.
    pub fraction: f64,
    /// What |z| must reach.
    pub boundary: Option<f64>,
    /// z of each variation, in their order, without the control; none where it is not known.
    pub z: Vec<Option<f64>>,
}

/// All users up to a day.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cumulative {
    /// The day.
    pub day: String,
    /// Users of each variation so far.
    pub users: Vec<u64>,
    /// Revenue of each variation so far.
    pub revenue: Vec<f64>,
}

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What, and why.
    pub what: String,
    /// How many rows.
    pub rows: u64,
}

impl Report {
    /// The report as plain text.
    pub fn text(&self) -> String {
        text::write(self)
    }

    /// The report as one page of HTML that needs nothing else, with its plots.
    pub fn html(&self) -> String {
        html::write(self)
    }

    /// The variations beside the control, with how they compare.
    pub(crate) fn treated(&self) -> impl Iterator<Item = (&Variation, &Comparison)> {
        self.variations.iter().filter_map(|variation| Some((variation, variation.comparison.as_ref()?)))
    }
}
