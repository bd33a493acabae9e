//! Answers, predictions and vectors of a real model.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use selvedge_core::{
    CancelToken, Context, ErrorKind, Inference,
    inference::{Chunk, Generate, Generated, Message, Predict, Prompt, Sampling, StopReason},
};
use selvedge_llama::Llama;

/// One model for the tests that need no other settings.
static LLAMA: LazyLock<Llama> = LazyLock::new(|| open(512, 512));

fn open(context_length: usize, batch: usize) -> Llama {
    // One thread each: tests run side by side, and ggml's threads spin while they wait for one another.
    let builder = Llama::builder(support::model()).threads(1);
    builder.context_length(context_length).batch(batch).open().expect("the model opens")
}

async fn answer(request: Generate) -> Generated {
    LLAMA.generate(&Context::new(), request).await.unwrap().collect().await.unwrap()
}

/// Whether the worker is free again: a short request gets through within a time that a long one leaves no room for.
async fn is_free(llama: &Llama) {
    let cx = Context::new().with_timeout(Duration::from_secs(20));
    let one = Generate::text("Tea").max_tokens(1);
    llama.generate(&cx, one).await.unwrap().collect().await.expect("the worker is free again");
}

#[tokio::test]
async fn a_chat_is_answered_in_the_models_own_template() {
    let chat = Prompt::Chat(vec![Message::system("You sell tea."), Message::user("What is the capital of France?")]);
    let symbols = LLAMA.encode(&Context::new(), chat.clone()).await.unwrap();
    let text = "<|im_start|>system\nYou sell tea.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n\
                <|im_start|>assistant\n";
    assert_eq!(symbols, LLAMA.encode(&Context::new(), Prompt::Text(text.into())).await.unwrap());
    let answer = answer(Generate::new(chat).max_tokens(60)).await;
    assert!(answer.text.contains("Paris"), "{answer:?}");
    assert_eq!(answer.reason, Some(StopReason::EndOfText));
    assert_eq!(answer.usage.prompt_tokens, symbols.len());
    assert_eq!(answer.usage.completion_tokens, answer.symbols.len());
    assert!(!answer.usage.prefill.is_zero() && !answer.usage.decode.is_zero());
}

#[tokio::test]
async fn a_seed_decides_what_is_sampled() {
    let sampling = Sampling { temperature: 1.2, top_k: 50, top_p: 0.95, min_p: 0.02, seed: 7 };
    let with = |seed| answer(Generate::text("Once upon a time").max_tokens(24).sampling(Sampling { seed, ..sampling }));
    let (first, again, other) = (with(7).await, with(7).await, with(8).await);
    assert_eq!(first.symbols, again.symbols);
    assert_ne!(first.symbols, other.symbols);
    // llama.cpp takes the largest seed for a wish to be random.
    assert_eq!(with(u32::MAX).await.symbols, with(u32::MAX).await.symbols);
}

#[tokio::test]
async fn a_stop_text_over_several_symbols_ends_the_answer_and_stays_out_of_it() {
    let free = answer(Generate::text("The capital of France is").max_tokens(24)).await;
    let stop = "United States has";
    let expected = free.text.split(stop).next().expect("a first part").to_owned();
    assert!(expected.len() < free.text.len(), "{free:?}");
    let request = Generate::text("The capital of France is").max_tokens(24).stop("no such text").stop(stop);
    let mut stream = LLAMA.generate(&Context::new(), request).await.unwrap();
    let (mut shown, mut reason) = (String::new(), None);
    while let Some(chunk) = stream.next().await {
        match chunk.unwrap() {
            Chunk::Tokens { text, .. } => shown.push_str(&text),
            Chunk::End { reason: why, .. } => reason = Some(why),
        }
        assert!(expected.starts_with(&shown), "{shown:?} leaked a stop text");
    }
    assert_eq!((shown, reason), (expected, Some(StopReason::StopText)));
}

#[tokio::test]
async fn characters_of_several_symbols_come_out_whole() {
    let text = "🍵🫖🍵🫖🍵🫖🍵🫖🍵🫖🍵🫖";
    let symbols = LLAMA.encode(&Context::new(), Prompt::Text(text.into())).await.unwrap();
    assert!(symbols.len() > text.chars().count(), "the characters are cut: {symbols:?}");
    let answer = answer(Generate::text(text).max_tokens(32)).await;
    // Only an answer that was cut off may end in the middle of a character.
    let whole = answer.text.trim_end_matches('\u{FFFD}');
    assert!(whole.contains('🍵') && !whole.contains('\u{FFFD}'), "{answer:?}");
}

#[tokio::test]
async fn strange_prompts_are_answered_or_refused() {
    let long = "a".repeat(200_000);
    for text in ["\0", "a\0b", "\u{FEFF}\u{202E}\u{10FFFF}", "<|im_end|><|im_start|>", " ", "\n\n\n", "e\u{301}\u{301}"]
    {
        let generated = answer(Generate::text(text).max_tokens(2)).await;
        assert!(generated.usage.prompt_tokens > 0, "{text:?}");
    }
    for text in [long.clone(), "1".repeat(200_000), " ".repeat(200_000), "🍵".repeat(50_000)] {
        assert!(!LLAMA.encode(&Context::new(), Prompt::Text(text)).await.unwrap().is_empty());
    }
    let refused = [
        (Generate::text(""), ErrorKind::InvalidInput),
        (Generate::chat([]), ErrorKind::InvalidInput),
        (Generate::chat([Message::user("a\0b")]), ErrorKind::InvalidInput),
        (Generate::new(Prompt::Symbols(Vec::new())), ErrorKind::InvalidInput),
        (Generate::new(Prompt::Symbols(vec![u32::MAX])), ErrorKind::InvalidInput),
        (Generate::new(Prompt::Symbols(vec![49152])), ErrorKind::InvalidInput),
        (Generate::text("a").stop(""), ErrorKind::InvalidInput),
        (Generate::text("a").sampling(Sampling { top_p: f32::NAN, ..Sampling::GREEDY }), ErrorKind::InvalidInput),
        (Generate::text(long), ErrorKind::TooLarge),
    ];
    for (request, kind) in refused {
        let error = LLAMA.generate(&Context::new(), request).await.expect_err("it is refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
}

#[tokio::test]
async fn an_answer_ends_where_the_context_does() {
    let llama = open(32, 8);
    assert_eq!(llama.model().context_length, 32);
    let prompt = llama.encode(&Context::new(), Prompt::Text("Once upon a time there was a".into())).await.unwrap();
    let request = Generate::new(Prompt::Symbols(prompt.clone())).max_tokens(1000);
    let answer = llama.generate(&Context::new(), request).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.reason, Some(StopReason::MaxTokens));
    assert_eq!(prompt.len() + answer.symbols.len(), 32);
    // A prompt that is read in pieces gives the same answer as one that is read at once.
    let whole = open(32, 32);
    let request = Generate::new(Prompt::Symbols(prompt)).max_tokens(4);
    let again = whole.generate(&Context::new(), request).await.unwrap().collect().await.unwrap();
    assert_eq!(again.symbols, answer.symbols[..4]);
    let full = Generate::new(Prompt::Symbols(vec![1; 32]));
    assert_eq!(llama.generate(&Context::new(), full).await.unwrap_err().kind(), ErrorKind::TooLarge);
    let nothing = llama.generate(&Context::new(), Generate::text("Tea").max_tokens(0)).await.unwrap();
    assert_eq!(nothing.collect().await.unwrap().reason, Some(StopReason::MaxTokens));
}

#[tokio::test]
async fn cancelling_ends_an_answer_and_frees_the_worker() {
    let llama = open(2048, 512);
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.clone());
    let endless = || Generate::text("1 2 3 4 5 6 7 8 9 10 11 12").max_tokens(2000);
    let mut stream = llama.generate(&cx, endless()).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(Chunk::Tokens { .. }))));
    cancel.cancel();
    assert_eq!(stream.collect().await.unwrap_err().kind(), ErrorKind::Cancelled);
    is_free(&llama).await;

    let late = Context::new().with_timeout(Duration::from_millis(300));
    let stream = llama.generate(&late, endless()).await.unwrap();
    assert_eq!(stream.collect().await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    is_free(&llama).await;

    let mut stream = llama.generate(&Context::new(), endless()).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(Chunk::Tokens { .. }))));
    drop(stream);
    is_free(&llama).await;
}

#[tokio::test]
async fn cancelling_ends_the_reading_of_a_prompt_between_two_pieces() {
    let llama = open(2048, 16);
    let prompt = Prompt::Symbols(vec![100; 2000]);
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.clone());
    let stream = llama.generate(&cx, Generate::new(prompt.clone()).max_tokens(1)).await.unwrap();
    let waiting = llama.generate(&cx, Generate::new(prompt).max_tokens(1)).await.unwrap();
    cancel.cancel();
    let started = Instant::now();
    assert_eq!(stream.collect().await.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(waiting.collect().await.unwrap_err().kind(), ErrorKind::Cancelled);
    let cancelled = started.elapsed();
    let whole = Generate::new(Prompt::Symbols(vec![100; 200])).max_tokens(1);
    let usage = llama.generate(&Context::new(), whole).await.unwrap().collect().await.unwrap().usage;
    assert!(cancelled < usage.prefill, "{cancelled:?}, and a tenth of the prompt takes {:?}", usage.prefill);
}

#[tokio::test]
async fn closing_the_model_ends_what_runs() {
    let llama = open(2048, 512);
    let mut stream = llama.generate(&Context::new(), Generate::text("1 2 3 4 5").max_tokens(2000)).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(Chunk::Tokens { .. }))));
    drop(llama);
    assert_eq!(stream.collect().await.unwrap_err().kind(), ErrorKind::Cancelled);
    #[cfg(target_os = "linux")]
    {
        let closed = open(64, 64);
        let threads = |name: &str| {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks
                .filter(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim() == name)
                .count()
        };
        assert!(threads("llama") >= 1);
        let name = closed.model().name;
        drop(closed);
        assert_eq!(name, "SmolLM2-135M-Instruct.Q4_1");
    }
}

#[tokio::test]
async fn many_requests_at_once_all_get_their_answer() {
    let expected = answer(Generate::text("The capital of France is").max_tokens(6)).await.text;
    let tasks: Vec<_> = (0..12)
        .map(|_| tokio::spawn(async { answer(Generate::text("The capital of France is").max_tokens(6)).await.text }))
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_prediction_begins_with_the_symbol_that_greedy_takes() {
    let context = LLAMA.encode(&Context::new(), Prompt::Text("The capital of France is".into())).await.unwrap();
    let found = LLAMA.predict(&Context::new(), Predict { context: context.clone(), top: 20 }).await.unwrap();
    let all = LLAMA.predict(&Context::new(), Predict { context: context.clone(), top: 1 << 20 }).await.unwrap();
    let sum =
        |candidates: &[selvedge_core::inference::Candidate]| candidates.iter().map(|c| c.probability).sum::<f32>();
    assert_eq!((found.len(), all.len()), (20, LLAMA.model().vocabulary));
    assert_eq!(found[..], all[..20]);
    assert!(sum(&found) < 1.0 && (sum(&all) - 1.0).abs() < 1e-3, "{} {}", sum(&found), sum(&all));
    assert!(found.is_sorted_by(|a, b| a.probability >= b.probability));
    let greedy = answer(Generate::new(Prompt::Symbols(context)).max_tokens(1)).await;
    assert_eq!(greedy.symbols, [found[0].symbol]);
}

#[tokio::test]
async fn similar_texts_have_similar_vectors() {
    let texts = ["A cup of green tea", "A mug of black tea", "The invoice was paid by bank transfer on Monday"];
    let long = "Tea is grown on hills. ".repeat(45);
    let texts = texts.into_iter().chain([long.as_str()]).map(String::from).collect();
    let vectors = LLAMA.embed(&Context::new(), texts).await.unwrap();
    let cosine = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(a, b)| a * b).sum::<f32>();
    for (index, vector) in vectors.iter().enumerate() {
        assert_eq!(vector.len(), LLAMA.model().embedding_length);
        assert!((cosine(index, index) - 1.0).abs() < 1e-4);
    }
    assert!(cosine(0, 1) > cosine(0, 2), "{} {}", cosine(0, 1), cosine(0, 2));
    assert_eq!(LLAMA.embed(&Context::new(), vec![String::new()]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(LLAMA.embed(&Context::new(), Vec::new()).await.unwrap().is_empty());
}
