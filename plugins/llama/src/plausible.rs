//! Whether a model's metadata means something: what llama.cpp takes for granted, and would end the process without.

use std::collections::HashSet;

use crate::gguf::{Fault, Header, Value, damaged};

/// Encoders, and models that read no text: they cannot go on with a prompt.
const NO_DECODERS: &[&str] = &["bert", "t5", "clip", "wavtokenizer", "mmproj", "diffusion", "llada", "dream", "rnd1"];

/// The code of an array of numbers of these kinds.
const INT32: u32 = 5;
const FLOAT32: u32 = 6;

/// Checks a header; the architecture.
pub(crate) fn check(header: &Header) -> Result<String, Fault> {
    let Some(Value::Text(architecture)) = header.get("general.architecture") else {
        return damaged("it does not name its architecture");
    };
    let architecture = String::from_utf8_lossy(architecture).into_owned();
    let causal = header.get(&format!("{architecture}.attention.causal"));
    if NO_DECODERS.iter().any(|known| architecture.contains(known)) || causal == Some(&Value::Bool(false)) {
        return Err(Fault::Unsupported(format!("{architecture} is no decoder model")));
    }
    if header.tensors.is_empty() {
        return damaged("it has no weights");
    }
    vocabulary(header)?;
    Ok(architecture)
}

/// The tokens, and what belongs to each.
fn vocabulary(header: &Header) -> Result<(), Fault> {
    let Some(Value::Texts(tokens)) = header.get("tokenizer.ggml.tokens") else {
        return damaged("it has no vocabulary");
    };
    if tokens.is_empty() || tokens.iter().collect::<HashSet<_>>().len() != tokens.len() {
        return damaged("its vocabulary is empty or has a token twice");
    }
    for (key, kind) in [("tokenizer.ggml.scores", FLOAT32), ("tokenizer.ggml.token_type", INT32)] {
        match header.get(key) {
            None => {}
            Some(Value::Numbers(found, numbers)) if *found == kind && numbers.len() == tokens.len() => {}
            Some(_) => return damaged(format!("{key} does not fit its vocabulary")),
        }
    }
    match header.get("tokenizer.ggml.merges") {
        None | Some(Value::Texts(_)) => Ok(()),
        Some(_) => damaged("its merges are no texts"),
    }
}
