//! The parameters that chats and completions share.

use selvedge_core::{
    Error, ErrorKind,
    inference::{Generate, Prompt, Sampling},
};
use serde::Deserialize;
use serde_json::Value;

use crate::Problem;

/// As in OpenAI's reference; parameters that are not here are ignored, except for those whose meaning would be lost.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
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
    response_format: Option<Value>,
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

    /// The most tokens asked for.
    pub(super) fn limit(&self) -> Option<usize> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// What is asked of the model. OpenAI's defaults hold: temperature and `top_p` are 1, and without a seed each answer
    /// has its own.
    pub(super) fn generate(self, prompt: Prompt, max_tokens: usize) -> Result<Generate, Problem> {
        self.check()?;
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
        let generate = Generate { sampling, stop, ..Generate::new(prompt).max_tokens(max_tokens) };
        generate.sampling.check()?;
        Ok(generate)
    }

    fn check(&self) -> Result<(), Problem> {
        if self.limit() == Some(0) {
            return Err(Problem::bad("openai.parameters", "ask for at least one token").param("max_tokens"));
        }
        let asked = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        let text_only = |format: &Value| format.get("type").is_none_or(|kind| kind == "text");
        for (name, wanted) in [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("best_of", self.best_of.is_some_and(|n| n != 1)),
            ("echo", self.echo == Some(true)),
            ("logprobs", self.logprobs.as_ref().is_some_and(asked)),
            ("tools", self.tools.as_ref().is_some_and(|tools| !tools.is_empty())),
            ("response_format", !self.response_format.as_ref().is_none_or(text_only)),
        ] {
            if wanted {
                let error =
                    Error::new(ErrorKind::InvalidInput, "openai.parameters", format!("{name} is not supported"))
                        .advise(format!("leave {name} out"));
                return Err(Problem::from(error).param(name).code("unsupported_parameter"));
            }
        }
        Ok(())
    }
}
