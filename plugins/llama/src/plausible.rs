//! Whether a model's metadata means something: what llama.cpp takes for granted, and would end the process without.

use std::collections::HashSet;

use crate::{
    gguf::{Fault, Header, Value, damaged},
    layout,
};

/// Encoders, and models that read no text: they cannot go on with a prompt.
const NO_DECODERS: &[&str] = &["bert", "t5", "clip", "wavtokenizer", "mmproj", "diffusion", "llada", "dream", "rnd1"];

/// The code of an array of numbers of these kinds.
const INT32: u32 = 5;
const FLOAT32: u32 = 6;

/// The least tokens of a vocabulary that can spell any text: one for each byte.
const LEAST_TOKENS: usize = 256;

/// Checks a header; the architecture. What is only checked to keep llama.cpp from ending the process is left out for a
/// `trusted` file, one whose digest is the expected one.
pub(crate) fn check(header: &Header, trusted: bool) -> Result<String, Fault> {
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
    if !matches!(header.get("split.count"), None | Some(Value::Unsigned(0 | 1))) {
        return Err(Fault::Unsupported("it is one of several files: join them with llama-gguf-split --merge".into()));
    }
    let Some(Value::Texts(tokens)) = header.get("tokenizer.ggml.tokens") else {
        return damaged("it has no vocabulary");
    };
    vocabulary(header, tokens)?;
    if !trusted {
        tokenizer(header, tokens)?;
        if !layout::check(&architecture, header, tokens.len() as u64)? {
            return Err(Fault::Unchecked(architecture));
        }
    }
    Ok(architecture)
}

/// The tokens, and what belongs to each.
fn vocabulary(header: &Header, tokens: &[Vec<u8>]) -> Result<(), Fault> {
    // llama.cpp reads a token up to its first NUL, and gives one without text a name of its own.
    let seen = |token: &Vec<u8>| token.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let distinct: HashSet<Vec<u8>> = tokens.iter().map(seen).collect();
    if tokens.is_empty() || distinct.len() != tokens.len() || distinct.iter().any(|text| text.starts_with(b"[EMPTY_")) {
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
        None => {}
        // A space inside, not at the beginning, parts what is merged.
        Some(Value::Texts(merges))
            if merges.iter().all(|merge| merge.iter().skip(1).any(|byte| *byte == b' ') && !merge.contains(&0)) => {}
        Some(_) => return damaged("its merges are not pairs of texts"),
    }
    match header.get("tokenizer.chat_template") {
        None => Ok(()),
        Some(Value::Text(template)) if std::str::from_utf8(template).is_ok_and(|text| !text.contains('\0')) => Ok(()),
        Some(_) => damaged("its chat template is no text"),
    }
}

/// Whether any text can be cut into tokens and put together again.
fn tokenizer(header: &Header, tokens: &[Vec<u8>]) -> Result<(), Fault> {
    if tokens.len() < LEAST_TOKENS {
        return damaged("its vocabulary cannot spell every byte");
    }
    match header.get("tokenizer.ggml.model") {
        Some(Value::Text(model)) if model == b"gpt2" => {}
        Some(Value::Text(model)) if model == b"llama" => {
            let known: HashSet<&[u8]> = tokens.iter().map(Vec::as_slice).collect();
            if !(0..=255_u8).all(|byte| known.contains(format!("<0x{byte:02X}>").as_bytes())) {
                return damaged("its vocabulary cannot spell every byte");
            }
        }
        Some(Value::Text(model)) => {
            return Err(Fault::Unchecked(format!("the tokenizer {}", String::from_utf8_lossy(model))));
        }
        _ => return damaged("it does not name its tokenizer"),
    }
    for name in ["bos", "eos", "eot", "eom", "unknown", "seperator", "padding"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match header.get(&key) {
            None => {}
            Some(Value::Unsigned(id)) if *id < tokens.len() as u64 => {}
            Some(_) => return damaged(format!("{key} is not in its vocabulary")),
        }
    }
    for name in ["bos", "eos"] {
        let adds = header.get(&format!("tokenizer.ggml.add_{name}_token"));
        if adds == Some(&Value::Bool(true)) && header.get(&format!("tokenizer.ggml.{name}_token_id")).is_none() {
            return damaged(format!("it adds a token {name} and has none"));
        }
    }
    Ok(())
}
