//! Before an experiment: boundaries and the number of users.

use selvedge::{
    Result,
    experiments::analysis::{self, Allocation, Looks, Plan, power::cv_of_all},
};

use super::how;
use crate::{
    arguments::experiment::{self as arguments, Metric},
    output::{self, thousands},
};

pub(super) fn bounds(options: &arguments::Bounds) -> Result<()> {
    let looks = Looks {
        fractions: options.looks.clone(),
        alpha: options.error.alpha,
        sides: options.sides,
        spending: how::spending(options.error.spending),
    };
    let found = analysis::bounds(&looks)?;
    if options.json {
        return output::json(&found);
    }
    let rows: Vec<_> = looks
        .fractions
        .iter()
        .enumerate()
        .map(|(look, fraction)| {
            [
                format!("{:.1} %", fraction * 100.0),
                boundary(found.z[look]),
                found.nominal_p[look].map_or_else(|| "none".into(), |p| format!("{p:.2e}")),
                format!("{:.2e}", found.spent[look] * f64::from(options.sides)),
            ]
        })
        .collect();
    output::table(["users in", "stop at |z|", "nominal p", "error spent"], &rows)
}

fn boundary(z: Option<f64>) -> String {
    z.map_or_else(|| "none".into(), |z| format!("{z:.4}"))
}

pub(super) fn power(options: &arguments::Power) -> Result<()> {
    let plan = Plan {
        cv: cv(options)?,
        lift: options.lift,
        power: options.power,
        looks: Looks {
            fractions: how::looks(&options.looks)?,
            alpha: options.error.alpha,
            sides: options.sides,
            spending: how::spending(options.error.spending),
        },
        allocation: Allocation { treated_per_control: options.allocation },
        variance: how::variance(options.variance),
    };
    let found = analysis::power(&plan)?;
    if options.json {
        return output::json(&found);
    }
    output::print(&format!(
        "{} users an arm ({} in all) to find a lift of {:+} % with {} % power, at a CV of {:.2}\n",
        thousands(found.n_per_arm as f64),
        thousands(found.n_total as f64),
        options.lift * 100.0,
        options.power * 100.0,
        plan.cv,
    ))?;
    if plan.looks.fractions.len() > 1 {
        output::print(&format!(
            "{} looks cost {:.1} % more users than one, and on average {:.0} % of them are used if the lift is there\n",
            plan.looks.fractions.len(),
            (found.inflation - 1.0) * 100.0,
            found.expected_share * 100.0,
        ))?;
    }
    output::print("\n")?;
    let rows: Vec<_> =
        found.by_variance.iter().map(|by| [by.variance.as_str().to_owned(), thousands(by.n_per_arm as f64)]).collect();
    output::table(["what the lift does to the variance", "users an arm"], &rows)?;
    let article = found.article;
    let [low, high] = article.claimed_per_arm.map(|users| thousands(users as f64));
    let [right_low, right_high] = article.right_per_arm.map(|users| thousands(users as f64));
    let [power_low, power_high] = article.power_of_claimed.map(|power| power * 100.0);
    output::print(&format!(
        "\nThe article says {low} to {high} an arm, for a CV of 3 to 5 and a lift of 10 %. By its own numbers it is {right_low} \
         to {right_high}; with its numbers of users, your plan would have a power of {power_low:.0} % to {power_high:.0} %.\n"
    ))
}

/// The coefficient of variation that is meant.
fn cv(options: &arguments::Power) -> Result<f64> {
    match (options.metric, options.cv, options.payers) {
        (Metric::Revenue, Some(cv), _) => Ok(cv),
        (Metric::Revenue, None, Some(payers)) => cv_of_all(payers, options.payer_cv),
        // Everybody who buys counts the same.
        (Metric::Conversion, _, Some(payers)) => cv_of_all(payers, 0.0),
        _ => Err(how::invalid("how much users differ is not known")
            .advise("give --cv, or the share of users who pay with --payers")),
    }
}
