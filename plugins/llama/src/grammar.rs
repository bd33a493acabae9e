//! What an answer has to look like.

use llama_cpp_2::{json_schema_to_grammar, model::LlamaModel, sampling::LlamaSampler, token::LlamaToken};
use selvedge_core::{Error, ErrorKind, Result, inference::Grammar};

/// The most bytes of a grammar: what it allows grows much faster than its text.
const MOST: usize = 64 << 10;

/// llama.cpp's sampler that holds an answer to a grammar, after what was begun of it.
pub(crate) fn sampler(model: &LlamaModel, grammar: &Grammar, begun: &[LlamaToken]) -> Result<LlamaSampler> {
    let schema = |schema: &str| {
        // llama.cpp's reader of JSON may end the process on input that is none.
        serde_json::from_str::<serde_json::Value>(schema)
            .map_err(|error| unusable("the JSON Schema is no JSON").caused_by(error))?;
        json_schema_to_grammar(schema).map_err(|error| unusable("the JSON Schema cannot be used").caused_by(error))
    };
    let (Grammar::JsonSchema(text) | Grammar::Gbnf(text)) = grammar else {
        return build(model, &schema(r#"{"type":"object"}"#)?, begun);
    };
    if text.len() > MOST {
        return Err(Error::new(ErrorKind::TooLarge, "llama.generate", "the grammar is too long")
            .with("bytes", text.len())
            .with("most", MOST)
            .advise("shorten it"));
    }
    let rules = match grammar {
        Grammar::Gbnf(rules) => rules.clone(),
        _ => schema(text)?,
    };
    build(model, &rules, begun)
}

fn build(model: &LlamaModel, rules: &str, begun: &[LlamaToken]) -> Result<LlamaSampler> {
    let mut sampler = LlamaSampler::grammar(model, rules, "root")
        .map_err(|error| unusable("the grammar cannot be used").caused_by(error))?;
    for token in begun {
        sampler.try_accept(*token).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "llama.generate", "what was begun does not fit the grammar")
                .caused_by(error)
                .advise("begin with what an answer under the same grammar had")
        })?;
    }
    Ok(sampler)
}

fn unusable(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, "llama.generate", message)
        .advise("check it with a small example; llama.cpp's log says where it fails")
}

/// The error of a grammar that allows no symbol of the vocabulary.
pub(crate) fn dead_end() -> Error {
    Error::new(ErrorKind::InvalidInput, "llama.generate", "the grammar allows no symbol here")
        .advise("make sure that every beginning it allows can be completed")
        .retry(false)
}
