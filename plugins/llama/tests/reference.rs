//! Greedy answers are llama.cpp's own: those of a plain loop over its API, and those its example program printed.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::num::NonZeroU32;

use llama_cpp_2::{
    LogOptions,
    context::params::LlamaContextParams,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    send_logs_to_tracing,
};
use selvedge_core::{
    Context, Inference,
    inference::{Generate, StopReason},
};
use selvedge_llama::Llama;

const SYMBOLS: usize = 48;

/// What `llama-simple -n 48` of the same llama.cpp printed for the same file.
const GOLDEN: &[(&str, &str)] = &[
    (
        "The capital of France is",
        " Paris.\n\nThe United States has a population of approximately 321 million people.\n\nThe United States has a \
         population of approximately 311 million people.\n\nThe United States has a population of approximately 3",
    ),
    (
        "Green tea is a kind of",
        " herbal tea made from the leaves of the Camellia sinica plant. It's a popular choice among tea enthusiasts due \
         to its unique flavor and the fact that it's a natural source of antioxidants.\n\nThe tea is made by ste",
    ),
];

/// The whole prompt in one batch, then the largest logit again and again.
fn plain_loop(model: &LlamaModel, backend: &LlamaBackend, prompt: &str) -> Vec<u32> {
    let params =
        LlamaContextParams::default().with_n_ctx(NonZeroU32::new(2048)).with_n_threads(1).with_n_threads_batch(1);
    let mut context = model.new_context(backend, params).expect("a context");
    let prompt = model.vocab().tokenize(prompt.as_bytes(), true, true);
    let mut batch = LlamaBatch::new(512, 1);
    batch.add_sequence(&prompt, 0, false).expect("it fits");
    let mut position = i32::try_from(prompt.len()).unwrap();
    let mut symbols = Vec::new();
    while symbols.len() < SYMBOLS {
        context.decode(&mut batch).expect("a forward pass");
        let logits = context.get_logits_ith(batch.n_tokens() - 1);
        let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        let token = llama_cpp_2::token::LlamaToken(i32::try_from(best).unwrap());
        if model.vocab().is_eog(token) {
            break;
        }
        symbols.push(u32::try_from(best).unwrap());
        batch.clear();
        batch.add(token, position, &[0], true).expect("it fits");
        position += 1;
    }
    symbols
}

#[tokio::test]
async fn greedy_answers_are_those_of_llama_cpp() {
    let path = support::model();
    let expected: Vec<_> = {
        send_logs_to_tracing(LogOptions::default());
        let backend = LlamaBackend::init().expect("a backend");
        let model = LlamaModel::load_from_file(&backend, &path, &LlamaModelParams::default()).expect("a model");
        GOLDEN.iter().map(|(prompt, _)| plain_loop(&model, &backend, prompt)).collect()
    };
    let llama = Llama::builder(&path).threads(1).open().expect("the model opens");
    for ((prompt, golden), expected) in GOLDEN.iter().zip(expected) {
        let request = Generate::text(*prompt).max_tokens(SYMBOLS);
        let answer = llama.generate(&Context::new(), request).await.unwrap().collect().await.unwrap();
        assert_eq!(answer.symbols, expected, "{prompt}");
        assert_eq!(answer.text, *golden, "{prompt}");
        assert_eq!((answer.reason, answer.usage.completion_tokens), (Some(StopReason::MaxTokens), SYMBOLS));
    }
}
