use std::pin::Pin;

use futures_core::Stream;

use super::Engine;
use crate::{
    Context, Inference, Result, Scheduler,
    inference::{Chunk, Generate, Generation},
    scheduler::{Permit, Work},
};

impl Engine {
    /// Asks a model to go on with a prompt or chat, through the Scheduler: the place is held until the answer ends or is
    /// dropped.
    ///
    /// # Errors
    /// Those of [`Scheduler::admit`] and [`Inference::generate`].
    ///
    /// # Cancellation safety
    /// Dropping the future or the stream stops the work at the next symbol and gives the place back.
    pub async fn chat(&self, cx: &Context, model: Option<&str>, request: Generate) -> Result<Generation> {
        let model = self.model(model)?;
        let prompt = model.encode(cx, request.prompt.clone()).await?;
        let work = Work { prompt: prompt.len(), answer: request.max_tokens.saturating_sub(request.begun.len()) };
        let permit = self.scheduler()?.admit(cx, work).await?;
        // The Scheduler has the last word on how urgent a tenant's requests may be.
        let cx = &cx.clone().with_class(permit.class());
        // The prompt was encoded to count its tokens: it need not be encoded again.
        let request = Generate { prompt: crate::inference::Prompt::Symbols(prompt), ..request };
        let inner = model.generate(cx, request).await?;
        Ok(Generation::new(Admitted { inner, permit: Some(permit) }))
    }

    /// Vectors for texts, through the Scheduler.
    ///
    /// # Errors
    /// Those of [`Scheduler::admit`] and [`Inference::embed`].
    pub async fn embed(&self, cx: &Context, model: Option<&str>, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let model = self.model(model)?;
        let tokens = texts.iter().map(String::len).sum();
        let permit = self.scheduler()?.admit(cx, Work { prompt: tokens, answer: 0 }).await?;
        model.embed(&cx.clone().with_class(permit.class()), texts).await
    }
}

/// A generation that holds its place while it runs: an answer that has ended gives it back, even if nobody lets go of it.
struct Admitted {
    inner: Generation,
    permit: Option<Permit>,
}

impl Stream for Admitted {
    type Item = Result<Chunk>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.inner).poll_next(cx);
        if let std::task::Poll::Ready(None | Some(Err(_) | Ok(Chunk::End { .. }))) = &next {
            if let (Some(permit), std::task::Poll::Ready(Some(Ok(Chunk::End { usage, .. })))) =
                (&mut self.permit, &next)
            {
                permit.done(Work {
                    prompt: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
                    answer: usage.completion_tokens,
                });
            }
            self.permit = None;
        }
        next
    }
}
