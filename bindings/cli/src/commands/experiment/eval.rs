//! What one user sees of a payload.

use std::path::Path;

use selvedge::{
    Error, ErrorKind, Result,
    experiment::{Definition, Payload, User},
};
use serde_json::{Map, Value};

use crate::arguments::experiment::Eval;
use crate::output;

pub(super) fn run(options: &Eval) -> Result<()> {
    let payload =
        Payload::parse(&read(&options.payload)?).map_err(|error| error.with("file", options.payload.display()))?;
    for problem in payload.problems() {
        output::warn(&format!("left out: {} {}: {}", problem.kind, problem.key, problem.error));
    }
    let attributes: Map<String, Value> = serde_json::from_str(&options.attributes).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "cli.experiment", "the attributes are no JSON object")
            .with("attributes", &options.attributes)
            .caused_by(error)
            .advise(r#"give one, as in '{"id":"user-1","country":"DE"}'"#)
    })?;
    let mut user = User::new(attributes);
    user.url.clone_from(&options.url);
    let definition = options.experiment.as_deref().map(Definition::parse).transpose()?;
    let mut evaluation = payload.evaluate(&user);
    let result = match (&definition, &options.feature) {
        (Some(definition), _) => serde_json::to_value(evaluation.experiment(definition)),
        (None, Some(key)) => serde_json::to_value(evaluation.feature(key)),
        (None, None) => {
            return Err(Error::new(ErrorKind::InvalidInput, "cli.experiment", "there is nothing to evaluate"));
        }
    };
    let result = result.map_err(|error| {
        Error::new(ErrorKind::Internal, "cli.experiment", "the result cannot be written as JSON").caused_by(error)
    })?;
    if options.json {
        return output::json(&result);
    }
    let rows = result.as_object().into_iter().flatten().map(|(name, value)| [name.clone(), value.to_string()]);
    output::table(["what", "is"], &rows.collect::<Vec<_>>())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, "cli.experiment", "the payload cannot be read")
            .with("file", path.display())
            .caused_by(error)
    })
}
