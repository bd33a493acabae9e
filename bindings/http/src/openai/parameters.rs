//! The parameters that chats and completions share.

use selvedge_core::{
    Error, ErrorKind,
    inference::{Generate, Grammar, InferenceCapabilities, Prompt, Sampling},
};
use serde::Deserialize;
use serde_json::Value;

use crate::Problem;

/// As in OpenAI's reference; parameters that are not here are ignored, except for those whose meaning would be lost.
#[derive(Debug, Deserialize)]
pub(crate) struct Parameters {
    pub(super) model: Option<String>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    best_of: Option<u32>,
    echo: Option<bool>,
    logprobs: Option<Value>,
    tools: Option<Vec<Value>>,
    response_format: Option<ResponseFormat>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    r#type: Option<String>,
    json_schema: Option<JsonSchema>,
}

#[derive(Debug, Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
}

impl ResponseFormat {
    /// What the answer is held to; `None` is any text.
    fn grammar(self) -> Result<Option<Grammar>, Problem> {
        match self.r#type.as_deref() {
            None | Some("text") => Ok(None),
            Some("json_object") => Ok(Some(Grammar::Json)),
            Some("json_schema") => match self.json_schema.and_then(|given| given.schema) {
                Some(schema @ Value::Object(_)) => Ok(Some(Grammar::JsonSchema(schema.to_string()))),
                _ => Err(Problem::bad("openai.parameters", "the format has no schema, or it is not an object")
                    .param("response_format.json_schema.schema")),
            },
            Some(_) => Err(Problem::bad("openai.parameters", "a format is text, json_object or json_schema")
                .param("response_format.type")),
        }
    }
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// A text, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl Parameters {
    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The seed that was asked for, or else this one.
    pub(crate) fn seeded(&mut self, otherwise: u32) {
        self.seed.get_or_insert(otherwise.into());
    }

    /// The most tokens asked for.
    pub(super) fn limit(&self) -> Option<usize> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// What is asked of the model. OpenAI's defaults hold: temperature and `top_p` are 1, and without a seed each answer
    /// has its own.
    pub(super) fn generate(
        self,
        prompt: Prompt,
        max_tokens: usize,
        can: &InferenceCapabilities,
    ) -> Result<Generate, Problem> {
        self.check()?;
        let grammar = self.response_format.map(ResponseFormat::grammar).transpose()?.flatten();
        if grammar.is_some() && !can.grammar {
            return Err(unsupported("response_format"));
        }
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
            seed: self.seed.map_or_else(|| fastrand::u32(..), |seed| (seed ^ (seed >> 32)) as u32),
            ..Sampling::GREEDY
        };
        for (name, value, high) in [("temperature", sampling.temperature, 2.0), ("top_p", sampling.top_p, 1.0)] {
            if !(0.0..=high).contains(&value) {
                return Err(Problem::bad("openai.parameters", format!("{name} must be 0 to {high}")).param(name));
            }
        }
        let stop = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.len() > 4 || stop.iter().any(String::is_empty) {
            return Err(Problem::bad("openai.parameters", "stop takes up to 4 texts, none of them empty").param("stop"));
        }
        let generate = Generate { sampling, stop, grammar, ..Generate::new(prompt).max_tokens(max_tokens) };
        generate.sampling.check()?;
        Ok(generate)
    }

    fn check(&self) -> Result<(), Problem> {
        if self.limit() == Some(0) {
            return Err(Problem::bad("openai.parameters", "ask for at least one token").param("max_tokens"));
        }
        let asked = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        for (name, wanted) in [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("best_of", self.best_of.is_some_and(|n| n != 1)),
            ("echo", self.echo == Some(true)),
            ("logprobs", self.logprobs.as_ref().is_some_and(asked)),
            ("tools", self.tools.as_ref().is_some_and(|tools| !tools.is_empty())),
        ] {
            if wanted {
                return Err(unsupported(name));
            }
        }
        Ok(())
    }
}

fn unsupported(name: &str) -> Problem {
    let error = Error::new(ErrorKind::InvalidInput, "openai.parameters", format!("{name} is not supported"))
        .advise(format!("leave {name} out"));
    Problem::from(error).param(name).code("unsupported_parameter")
}
