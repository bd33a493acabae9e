//! After it: from a file or the Store to a report.

use std::{path::Path, process::ExitCode};

use selvedge::{
    Context, Result,
    experiments::analysis::{
        Options, Report, analyze,
        input::{self, Users},
    },
};

use super::{
    super::{block_on, store::open_existing},
    how,
};
use crate::{
    arguments::experiment::{self as arguments, Shown},
    config::Config,
    output,
};

pub(super) fn file(options: arguments::Analyze) -> Result<()> {
    let how = how::options(options.how)?;
    show(&of_file(&options.input, &how)?, &options.shown)
}

pub(super) fn report(config: Config, options: arguments::Report) -> Result<()> {
    let how = Options { past_revenue: options.past_revenue, ..how::options(options.how)? };
    let users = users(config, options.store, &options.experiment, &how)?;
    show(&analyze(users, &how)?, &options.shown)
}

pub(super) fn check(config: impl FnOnce() -> Result<Config>, options: arguments::Check) -> Result<ExitCode> {
    let how = how::options(options.how)?;
    let report = match (&options.experiment, &options.input) {
        (_, Some(path)) => of_file(path, &how)?,
        (Some(experiment), None) => analyze(users(config()?, options.store, experiment, &how)?, &how)?,
        (None, None) => return Err(how::invalid("there is nothing to check")),
    };
    let srm = &report.srm;
    if options.json {
        output::json(&serde_json::json!({ "srm": srm, "left_out": report.left_out, "notes": report.notes }))?;
    } else {
        let rows: Vec<_> = report
            .variations
            .iter()
            .zip(&srm.expected)
            .map(|(variation, expected)| [variation.name.clone(), variation.n.to_string(), format!("{expected:.1}")])
            .collect();
        output::table(["variation", "users", "should be"], &rows)?;
        let verdict =
            if srm.holds { "as it should be" } else { "not as it should be: decide nothing until it is known why" };
        output::print(&format!("\nsample ratio: {verdict} (p {:.2e})\n", srm.p))?;
        for left_out in &report.left_out {
            output::print(&format!("left out: {} {}\n", left_out.rows, left_out.what))?;
        }
        report.notes.iter().try_for_each(|note| output::print(&format!("note: {note}\n")))?;
    }
    Ok(if srm.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn export(config: Config, options: arguments::Export) -> Result<()> {
    let Some(experiment) = &options.experiment else { return events(config, &options) };
    let how =
        Options { refunds: how::refunds(options.refunds), past_revenue: options.past_revenue, ..Options::default() };
    let mut users = users(config, options.store, experiment, &how)?;
    let count = input::export(&mut users, &options.output)?;
    output::note(&format!("{count} users written"));
    Ok(())
}

fn events(mut config: Config, options: &arguments::Export) -> Result<()> {
    config.store.replace(options.store.clone());
    let written = block_on(async {
        let store = open_existing(&config.store).await?;
        input::export_events(&store, &Context::new(), options.name.as_deref(), &options.output).await
    })?;
    output::note(&format!("{} events written", written.events));
    if written.without_properties > 0 {
        output::note(&format!("{} of them without properties, which are no text", written.without_properties));
    }
    Ok(())
}

fn of_file(path: &Path, options: &Options) -> Result<Report> {
    let rows = input::open(path, options)?;
    analyze(rows, options).map_err(|error| error.with("file", path.display()))
}

fn users(mut config: Config, store: Option<String>, experiment: &str, options: &Options) -> Result<Users> {
    config.store.replace(store);
    block_on(async {
        let store = open_existing(&config.store).await?;
        input::read_facts(&store, &Context::new(), experiment, options).await
    })
}

fn show(report: &Report, shown: &Shown) -> Result<()> {
    if let Some(path) = &shown.html {
        std::fs::write(path, report.html()).map_err(|error| {
            how::invalid("the page cannot be written").with("file", path.display()).caused_by(error)
        })?;
    }
    if shown.json {
        return output::json(report);
    }
    // Whoever asked for a page only wants no text beside it.
    if shown.html.is_some() { Ok(()) } else { output::print(&report.text()) }
}
