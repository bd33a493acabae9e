//! Limits: answers that end, requests that are refused, and work that stops.

use selvedge_core::{
    CancelToken, Context, ErrorKind, Inference,
    inference::{Chunk, Generate, Message, Predict, Prompt, StopReason},
};

use super::{Bed, STORY, patiently};
use crate::suite::{Checked, cases, needs, refused, same};

cases! {
    an_answer_has_at_most_max_tokens: "An answer has at most `max_tokens` symbols, and `MaxTokens` is the reason if it has so many; with 0 it is empty.",
    an_answer_ends_where_the_context_does: "Prompt and answer together are no longer than the context.",
    a_prompt_that_is_too_long_is_refused: "A prompt that leaves no room for a symbol is `TooLarge`, and the model answers on.",
    a_bad_prompt_is_refused: "An empty prompt and a symbol beyond the vocabulary are `InvalidInput`.",
    a_cancelled_or_late_request_is_refused: "A context that is cancelled or past its deadline is refused by every method.",
    cancelling_stops_between_symbols: "A generation that is cancelled ends with `Cancelled`, and the model answers on.",
    a_deadline_stops_between_symbols: "A generation whose deadline passes ends with `DeadlineExceeded`, and the model answers on.",
    a_dropped_generation_stops: "A generation that is dropped leaves the model to others.",
    what_it_cannot_do_is_unsupported: "A method that the capabilities deny is `Unsupported`.",
}

async fn an_answer_has_at_most_max_tokens(bed: &Bed) -> Checked {
    bed.generates()?;
    for most in [0, 1, 3] {
        let answer = bed.answer(Generate::text(STORY).max_tokens(most)).await?;
        anyhow::ensure!(answer.symbols.len() <= most, "{} symbols of at most {most}", answer.symbols.len());
        if answer.reason != Some(StopReason::EndOfText) {
            same!((answer.symbols.len(), answer.reason), (most, Some(StopReason::MaxTokens)));
        }
    }
    same!(bed.answer(Generate::text(STORY).max_tokens(0)).await?.text, "");
    Ok(())
}

/// Some symbols, as many as told.
async fn long(bed: &Bed, symbols: usize) -> anyhow::Result<Vec<u32>> {
    let some = bed.encode(STORY).await?;
    Ok(some.iter().copied().cycle().take(symbols).collect())
}

async fn an_answer_ends_where_the_context_does(bed: &Bed) -> Checked {
    bed.generates()?;
    let context = bed.model.model().context_length;
    let prompt = Prompt::Symbols(long(bed, context - 3).await?);
    let answer = bed.answer(Generate::new(prompt).max_tokens(50)).await?;
    if answer.reason != Some(StopReason::EndOfText) {
        same!((answer.symbols.len(), answer.reason), (3, Some(StopReason::MaxTokens)));
    }
    anyhow::ensure!(answer.symbols.len() <= 3, "{} symbols where 3 have room", answer.symbols.len());
    Ok(())
}

async fn a_prompt_that_is_too_long_is_refused(bed: &Bed) -> Checked {
    let context = bed.model.model().context_length;
    for symbols in [context, context + 1, context * 3] {
        let symbols = long(bed, symbols).await?;
        if bed.can.generate {
            let request = Generate::new(Prompt::Symbols(symbols.clone())).max_tokens(1);
            refused!(bed.model.generate(&bed.cx, request).await, TooLarge);
        }
        if bed.can.predict {
            refused!(bed.model.predict(&bed.cx, Predict { context: symbols, top: 1 }).await, TooLarge);
        }
    }
    bed.generates()?;
    refused!(bed.model.generate(&bed.cx, Generate::text("tea ".repeat(context * 2))).await, TooLarge);
    bed.still_answers().await
}

async fn a_bad_prompt_is_refused(bed: &Bed) -> Checked {
    let vocabulary = u32::try_from(bed.model.model().vocabulary)?;
    for symbols in [vec![], vec![vocabulary], vec![u32::MAX]] {
        if bed.can.predict {
            let request = Predict { context: symbols.clone(), top: 1 };
            refused!(bed.model.predict(&bed.cx, request).await, InvalidInput);
        }
        if bed.can.generate {
            refused!(bed.model.generate(&bed.cx, Generate::new(Prompt::Symbols(symbols))).await, InvalidInput);
        }
    }
    bed.generates()?;
    refused!(bed.model.generate(&bed.cx, Generate::text("")).await, InvalidInput);
    bed.still_answers().await
}

async fn a_cancelled_or_late_request_is_refused(bed: &Bed) -> Checked {
    let cancelled = Context::new();
    cancelled.cancel().cancel();
    let late = Context::new().with_deadline(std::time::Instant::now());
    for (cx, kind) in [(cancelled, ErrorKind::Cancelled), (late, ErrorKind::DeadlineExceeded)] {
        let mut kinds = Vec::new();
        kinds.push(bed.model.encode(&cx, Prompt::Text(STORY.into())).await.map(drop));
        if bed.can.generate {
            let generation =
                async { bed.model.generate(&cx, Generate::text(STORY).max_tokens(1)).await?.collect().await.map(drop) };
            kinds.push(patiently("the refusal", generation).await?);
        }
        if bed.can.predict {
            kinds.push(bed.model.predict(&cx, Predict { context: bed.encode(STORY).await?, top: 1 }).await.map(drop));
        }
        if bed.can.embed {
            kinds.push(bed.model.embed(&cx, vec![STORY.into()]).await.map(drop));
        }
        for found in kinds {
            same!(found.map_err(|error| error.kind()), Err(kind));
        }
    }
    Ok(())
}

/// The kind of the error a generation ends with.
async fn ends_with(mut generation: selvedge_core::inference::Generation) -> anyhow::Result<Option<ErrorKind>> {
    let end = async {
        while let Some(chunk) = generation.next().await {
            if let Err(error) = chunk {
                return Some(error.kind());
            }
        }
        None
    };
    patiently("the end", end).await
}

async fn cancelling_stops_between_symbols(bed: &Bed) -> Checked {
    bed.generates()?;
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.child());
    let mut generation = bed.model.generate(&cx, bed.endless()).await?;
    let first = patiently("the first symbol", generation.next()).await?.transpose()?;
    anyhow::ensure!(matches!(first, Some(Chunk::Tokens { .. })), "found {first:?}, expected a symbol");
    cancel.cancel();
    same!(ends_with(generation).await?, Some(ErrorKind::Cancelled));
    bed.still_answers().await
}

async fn a_deadline_stops_between_symbols(bed: &Bed) -> Checked {
    bed.generates()?;
    let limit = std::time::Duration::from_millis(100);
    let cx = Context::new().with_timeout(limit);
    let mut generation = bed.model.generate(&cx, bed.endless()).await?;
    // Whatever came in time was allowed; what comes after the deadline is not.
    let first = patiently("the first symbol", generation.next()).await?;
    tokio::time::sleep(limit).await;
    let kind = match first {
        Some(Err(error)) => Some(error.kind()),
        _ => ends_with(generation).await?,
    };
    same!(kind, Some(ErrorKind::DeadlineExceeded));
    bed.still_answers().await
}

async fn a_dropped_generation_stops(bed: &Bed) -> Checked {
    bed.generates()?;
    for _ in 0..bed.can.sequences + 1 {
        let mut generation = bed.model.generate(&bed.cx, bed.endless()).await?;
        patiently("the first symbol", generation.next()).await?.transpose()?;
    }
    bed.still_answers().await
}

async fn what_it_cannot_do_is_unsupported(bed: &Bed) -> Checked {
    let (model, cx, can) = (&bed.model, &bed.cx, &bed.can);
    let chat = || Prompt::Chat(vec![Message::user("tea")]);
    let mut denied = Vec::new();
    if !can.predict {
        denied.push(("predict", model.predict(cx, Predict { context: vec![0], top: 1 }).await.map(drop)));
    }
    if !can.generate {
        denied.push(("generate", model.generate(cx, Generate::text(STORY)).await.map(drop)));
    }
    if !can.chat {
        denied.push(("a chat", model.encode(cx, chat()).await.map(drop)));
        if can.generate {
            denied.push(("the answer to a chat", model.generate(cx, Generate::new(chat())).await.map(drop)));
        }
    }
    if !can.embed {
        denied.push(("embed", model.embed(cx, vec![STORY.into()]).await.map(drop)));
    }
    if denied.is_empty() {
        return needs(false, "a capability that the plugin lacks: it says it can do everything");
    }
    for (what, result) in denied {
        anyhow::ensure!(result.is_err(), "{what} worked although the capabilities deny it");
        refused!(result, Unsupported);
    }
    Ok(())
}
