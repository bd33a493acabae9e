//! Models that break one rule each.

use futures_util::StreamExt;
use selvedge_core::{
    AnyInference, Context, Inference, Result,
    inference::{
        Candidate, Chunk, Generate, Generation, InferenceCapabilities, ModelInfo, Predict, Prompt, Sampling, Symbol,
    },
};
use selvedge_testkit::{ToyModel, inference_suite};

use super::finds;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    StopIgnored,
    SeedIgnored,
    CancelIgnored,
    OneTooMany,
    PromptNotCounted,
    LongVectors,
    LongPromptsCut,
    ChunkLost,
    PretendsNoEmbed,
    UnlikelyFirst,
    BegunForgotten,
}

#[derive(Debug)]
struct Broken {
    inner: ToyModel,
    flaw: Flaw,
}

impl Inference for Broken {
    fn capabilities(&self) -> InferenceCapabilities {
        InferenceCapabilities { embed: self.flaw != Flaw::PretendsNoEmbed, ..self.inner.capabilities() }
    }

    fn model(&self) -> ModelInfo {
        let model = self.inner.model();
        let embedding_length = if self.flaw == Flaw::PretendsNoEmbed { 0 } else { model.embedding_length };
        ModelInfo { embedding_length, ..model }
    }

    async fn encode(&self, cx: &Context, prompt: Prompt) -> Result<Vec<Symbol>> {
        self.inner.encode(cx, prompt).await
    }

    async fn predict(&self, cx: &Context, request: Predict) -> Result<Vec<Candidate>> {
        let mut candidates = self.inner.predict(cx, request).await?;
        if self.flaw == Flaw::UnlikelyFirst {
            candidates.reverse();
        }
        Ok(candidates)
    }

    async fn generate(&self, cx: &Context, mut request: Generate) -> Result<Generation> {
        let deaf = Context::new();
        let cx = if self.flaw == Flaw::CancelIgnored { cx.check("toy").map(|()| &deaf)? } else { cx };
        let room = self.inner.model().context_length - 1;
        match (self.flaw, &mut request) {
            (Flaw::StopIgnored, Generate { stop, .. }) => stop.retain(String::is_empty),
            (Flaw::SeedIgnored, Generate { sampling: Sampling { seed, .. }, .. }) => *seed = fastrand::u32(..),
            (Flaw::OneTooMany, Generate { max_tokens, .. }) => *max_tokens += 1,
            (Flaw::LongPromptsCut, Generate { prompt: Prompt::Symbols(symbols), .. }) => symbols.truncate(room),
            (Flaw::BegunForgotten, Generate { begun, .. }) => begun.clear(),
            _ => (),
        }
        let flaw = self.flaw;
        let mut place = 0;
        let chunks = self.inner.generate(cx, request).await?.filter_map(move |chunk| {
            place += 1;
            std::future::ready(match chunk {
                Ok(Chunk::Tokens { .. }) if flaw == Flaw::ChunkLost && place == 4 => None,
                Ok(Chunk::End { reason, mut usage }) if flaw == Flaw::PromptNotCounted => {
                    usage.prompt_tokens = 0;
                    Some(Ok(Chunk::End { reason, usage }))
                }
                chunk => Some(chunk),
            })
        });
        Ok(Generation::new(chunks))
    }

    async fn embed(&self, cx: &Context, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let mut vectors = self.inner.embed(cx, texts).await?;
        if self.flaw == Flaw::LongVectors {
            vectors.iter_mut().flatten().for_each(|x| *x *= 2.0);
        }
        Ok(vectors)
    }
}

macro_rules! mutants {
    ($($name:ident: $flaw:ident, $case:literal, [$($reach:literal),*];)*) => {
        $(#[test]
        fn $name() {
            let open = || Ok(AnyInference::new(Broken { inner: ToyModel::new(200), flaw: Flaw::$flaw }));
            finds(&inference_suite(open).report(), concat!("inference::", $case), &[$(concat!("inference::", $reach)),*]);
        })*
    };
}

mutants! {
    an_ignored_stop_text_is_found: StopIgnored, "generate::a_stop_text_ends_the_answer", ["generate::a_stop_text"];
    an_ignored_seed_is_found: SeedIgnored, "generate::a_seed_decides_what_is_sampled",
        ["generate::a_seed", "generate::an_answer_that_was_begun"];
    an_ignored_cancel_is_found: CancelIgnored, "limits::cancelling_stops_between_symbols",
        ["limits::cancelling", "limits::a_deadline"];
    a_symbol_too_many_is_found: OneTooMany, "limits::an_answer_has_at_most_max_tokens", ["limits", "generate", "prompt"];
    a_prompt_not_counted_is_found: PromptNotCounted, "generate::tokens_are_counted", ["generate::tokens"];
    vectors_of_another_norm_are_found: LongVectors, "prompt::embeddings_have_the_length_told", ["prompt::embeddings"];
    a_prompt_cut_in_silence_is_found: LongPromptsCut, "limits::a_prompt_that_is_too_long_is_refused", ["limits"];
    a_lost_chunk_is_found: ChunkLost, "generate::tokens_are_counted", ["generate", "prompt", "limits"];
    a_false_capability_is_found: PretendsNoEmbed, "limits::what_it_cannot_do_is_unsupported", ["limits::what"];
    a_forgotten_beginning_is_found: BegunForgotten, "generate::an_answer_that_was_begun_goes_on",
        ["generate::an_answer_that_was_begun"];
    candidates_upside_down_are_found: UnlikelyFirst, "prompt::a_prediction_is_a_distribution",
        ["prompt::a_prediction", "generate::greedy_takes"];
}
