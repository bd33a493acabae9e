//! Generation: the same answer for the same request, streamed or whole.

use selvedge_core::{
    Inference,
    inference::{Chunk, Generate, Generated, Predict, Prompt, Sampling, StopReason},
};

use super::{Bed, STORY, patiently};
use crate::suite::{Checked, cases, needs, refused, same};

cases! {
    chunks_add_up_to_the_answer: "The chunks of a stream, put together, are the collected answer; the last is the end, and nothing follows it.",
    greedy_is_the_same_every_time: "With temperature 0 the same prompt gives the same symbols, whatever the seed.",
    greedy_takes_the_likeliest: "With temperature 0 each symbol is the first candidate of the prediction for what came before.",
    a_seed_decides_what_is_sampled: "With a temperature the same seed gives the same symbols, and of several seeds not all give the same.",
    sampling_from_one_is_greedy: "With `top_k` 1 any temperature gives the greedy answer.",
    bad_settings_are_refused: "A temperature, `top_p` or `min_p` out of range is `InvalidInput`.",
    a_stop_text_ends_the_answer: "A stop text ends the answer before it, with the reason, and no chunk shows a part of it.",
    a_stop_text_that_does_not_occur_changes_nothing: "A stop text that does not occur leaves the answer as it is, to its last character.",
    an_empty_stop_text_is_refused: "An empty stop text is `InvalidInput`.",
    tokens_are_counted: "The usage counts the prompt's symbols as `encode` gives them, and the symbols added.",
    an_answer_that_was_begun_goes_on: "What was begun of an answer is not streamed again, counts towards `max_tokens`, and the rest is that of an unbroken run, greedy or sampled.",
    answers_at_one_moment_are_those_alone: "Requests that run at one moment each get the answer they would get alone.",
}

async fn stream(bed: &Bed, request: Generate) -> anyhow::Result<Vec<Chunk>> {
    let chunks = async {
        let mut generation = bed.model.generate(&bed.cx, request).await?;
        let mut chunks = Vec::new();
        while let Some(chunk) = generation.next().await {
            chunks.push(chunk?);
        }
        anyhow::Ok(chunks)
    };
    patiently("the stream", chunks).await?
}

fn story(tokens: usize) -> Generate {
    Generate::text(STORY).max_tokens(tokens)
}

async fn chunks_add_up_to_the_answer(bed: &Bed) -> Checked {
    bed.generates()?;
    let chunks = stream(bed, story(12)).await?;
    let mut added = Generated::default();
    let ends = chunks.iter().filter(|chunk| matches!(chunk, Chunk::End { .. })).count();
    same!(ends, 1, "ends");
    anyhow::ensure!(matches!(chunks.last(), Some(Chunk::End { .. })), "the last chunk is {:?}", chunks.last());
    for chunk in chunks {
        match chunk {
            Chunk::Tokens { symbols, text } => {
                added.symbols.extend(symbols);
                added.text.push_str(&text);
            }
            Chunk::End { reason, usage } => (added.reason, added.usage) = (Some(reason), usage),
        }
    }
    let whole = bed.answer(story(12)).await?;
    same!((&added.symbols, &added.text, added.reason), (&whole.symbols, &whole.text, whole.reason));
    same!(added.usage.completion_tokens, whole.usage.completion_tokens);
    anyhow::ensure!(!whole.text.is_empty(), "the answer has no text");
    Ok(())
}

async fn greedy_is_the_same_every_time(bed: &Bed) -> Checked {
    bed.generates()?;
    let first = bed.answer(story(8)).await?;
    let again = bed.answer(story(8).sampling(Sampling { seed: 99, ..Sampling::GREEDY })).await?;
    same!((again.symbols, again.text), (first.symbols, first.text));
    Ok(())
}

async fn greedy_takes_the_likeliest(bed: &Bed) -> Checked {
    bed.generates()?;
    needs(bed.can.predict, "`predict`")?;
    let mut context = bed.encode(STORY).await?;
    for symbol in bed.answer(story(4)).await?.symbols {
        let request = Predict { context: context.clone(), top: 1 };
        let likeliest = patiently("the prediction", bed.model.predict(&bed.cx, request)).await??;
        same!(likeliest.first().map(|candidate| candidate.symbol), Some(symbol), "after {} symbols", context.len());
        context.push(symbol);
    }
    Ok(())
}

async fn a_seed_decides_what_is_sampled(bed: &Bed) -> Checked {
    bed.generates()?;
    let with = async |seed| {
        let sampling = Sampling { temperature: 1.5, seed, ..Sampling::GREEDY };
        anyhow::Ok(bed.answer(story(8).sampling(sampling)).await?.symbols)
    };
    let first = with(1).await?;
    same!(with(1).await?, first, "the same seed");
    same!(with(u32::MAX).await?, with(u32::MAX).await?, "the largest seed");
    for seed in 2..6 {
        if with(seed).await? != first {
            return Ok(());
        }
    }
    anyhow::bail!("five seeds give the same symbols: {first:?}")
}

async fn sampling_from_one_is_greedy(bed: &Bed) -> Checked {
    bed.generates()?;
    let sampling = Sampling { temperature: 1.5, top_k: 1, seed: 3, ..Sampling::GREEDY };
    same!(bed.answer(story(6).sampling(sampling)).await?.symbols, bed.answer(story(6)).await?.symbols);
    Ok(())
}

async fn bad_settings_are_refused(bed: &Bed) -> Checked {
    bed.generates()?;
    for bad in [
        Sampling { temperature: -1.0, ..Sampling::GREEDY },
        Sampling { temperature: f32::NAN, ..Sampling::GREEDY },
        Sampling { top_p: 0.0, ..Sampling::GREEDY },
        Sampling { top_p: 1.5, ..Sampling::GREEDY },
        Sampling { min_p: 2.0, ..Sampling::GREEDY },
    ] {
        refused!(bed.model.generate(&bed.cx, story(1).sampling(bad)).await, InvalidInput);
    }
    Ok(())
}

async fn a_stop_text_ends_the_answer(bed: &Bed) -> Checked {
    bed.generates()?;
    let free = bed.answer(story(12)).await?.text;
    // From the middle, over the border of two symbols wherever it lies.
    let middle: Vec<_> = free.char_indices().map(|(place, _)| place).collect();
    anyhow::ensure!(middle.len() >= 10, "the answer {free:?} is too short to stop in");
    let stop = &free[middle[middle.len() / 2]..middle[middle.len() / 2 + 4]];
    let expected = free.split(stop).next().unwrap_or_default();
    let (mut shown, mut ended) = (String::new(), None);
    for chunk in stream(bed, story(12).stop("\u{1}never\u{1}").stop(stop)).await? {
        match chunk {
            Chunk::Tokens { text, .. } => shown.push_str(&text),
            Chunk::End { reason, .. } => ended = Some(reason),
        }
        anyhow::ensure!(expected.starts_with(&shown), "{shown:?} shows more than {expected:?}, before {stop:?}");
    }
    same!((shown.as_str(), ended), (expected, Some(StopReason::StopText)));
    Ok(())
}

async fn a_stop_text_that_does_not_occur_changes_nothing(bed: &Bed) -> Checked {
    bed.generates()?;
    let free = bed.answer(story(8)).await?;
    // Its beginning is the answer's last character, which must not be held back for ever.
    let almost = format!("{}\u{1}", free.text.chars().last().unwrap_or('x'));
    let stopped = bed.answer(story(8).stop(almost)).await?;
    same!((stopped.text, stopped.symbols, stopped.reason), (free.text, free.symbols, free.reason));
    Ok(())
}

async fn an_empty_stop_text_is_refused(bed: &Bed) -> Checked {
    bed.generates()?;
    refused!(bed.model.generate(&bed.cx, story(1).stop("")).await, InvalidInput);
    Ok(())
}

async fn tokens_are_counted(bed: &Bed) -> Checked {
    bed.generates()?;
    for tokens in [1, 5] {
        let answer = bed.answer(story(tokens)).await?;
        same!(answer.usage.prompt_tokens, bed.encode(STORY).await?.len(), "symbols of the prompt");
        same!(answer.usage.completion_tokens, answer.symbols.len(), "symbols added");
    }
    let symbols = bed.encode(STORY).await?;
    let answer = bed.answer(Generate::new(Prompt::Symbols(symbols.clone())).max_tokens(1)).await?;
    same!(answer.usage.prompt_tokens, symbols.len(), "symbols of a prompt of symbols");
    Ok(())
}

async fn an_answer_that_was_begun_goes_on(bed: &Bed) -> Checked {
    bed.generates()?;
    for sampling in [Sampling::GREEDY, Sampling { temperature: 0.9, seed: 5, ..Sampling::GREEDY }] {
        let request = || story(10).sampling(sampling);
        let whole = bed.answer(request()).await?.symbols;
        for cut in [1, whole.len() / 2, whole.len() - 1] {
            let (begun, rest) = whole.split_at(cut);
            let added = bed.answer(request().begun(begun.to_vec())).await?.symbols;
            same!(added, rest, "after {cut} of {} symbols", whole.len());
        }
    }
    let begun = bed.answer(story(10)).await?.symbols;
    let over = bed.answer(story(begun.len()).begun(begun)).await?;
    same!((over.symbols.len(), over.reason), (0, Some(StopReason::MaxTokens)), "nothing is left to add");
    Ok(())
}

async fn answers_at_one_moment_are_those_alone(bed: &Bed) -> Checked {
    bed.generates()?;
    let prompts = ["The capital of France is", "Tea is made of", "One two three four"];
    let request = |prompt: &str| Generate::text(prompt).max_tokens(6);
    let together = crate::suite::race(prompts.len(), |number| {
        let (model, cx, request) = (bed.model.clone(), bed.cx.clone(), request(prompts[number]));
        async move { Ok(model.generate(&cx, request).await?.collect().await?.symbols) }
    });
    let together = patiently("the answers", together).await??;
    for (prompt, together) in prompts.into_iter().zip(together) {
        same!(together, bed.answer(request(prompt)).await?.symbols, "the answer to {prompt:?}");
    }
    Ok(())
}
