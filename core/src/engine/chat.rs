use std::{
    pin::Pin,
    task::{Poll, ready},
};

use futures_core::Stream;

use super::{Engine, charge::Charge};
use crate::{
    BoxFuture, Context, Inference, Result, Scheduler,
    inference::{Chunk, Generate, Generation},
    scheduler::{Permit, Work},
};

impl Engine {
    /// Asks a model to go on with a prompt or chat, through the Scheduler: the place is held until the answer ends or is
    /// dropped.
    ///
    /// The [allowances](crate::allowance) of the context are kept to: tokens are taken by an estimate before it begins, and
    /// settled by what was used once the stream has been read to its end. A stream that is dropped before, or whose caller
    /// is gone, is settled with the next call or the next [`Engine::maintain`].
    ///
    /// # Errors
    /// `RateLimited` with `retry_after` when an allowance is used up, `InvalidInput` when the prompt is more than it ever
    /// allows; those of [`Scheduler::admit`] and [`Inference::generate`].
    ///
    /// # Cancellation safety
    /// Dropping the future or the stream stops the work at the next symbol and gives the place back. In the moment that an
    /// allowance is taken it may stay taken: tokens until they are gained back, a concurrent place until it runs out.
    pub async fn chat(&self, cx: &Context, model: Option<&str>, request: Generate) -> Result<Generation> {
        let model = self.model(model)?;
        let prompt = model.encode(cx, request.prompt.clone()).await?;
        let work = Work { prompt: prompt.len(), answer: request.max_tokens.saturating_sub(request.begun.len()) };
        let charge = self.charge(cx, work).await?;
        let cx = &charge.as_ref().map_or_else(|| cx.clone(), |charge| charge.bound(cx));
        let begun = async {
            let permit = self.scheduler()?.admit(cx, work).await?;
            // The Scheduler has the last word on how urgent a tenant's requests may be.
            let cx = &cx.clone().with_class(permit.class());
            // The prompt was encoded to count its tokens: it need not be encoded again.
            let request = Generate { prompt: crate::inference::Prompt::Symbols(prompt), ..request };
            Ok((model.generate(cx, request).await?, permit))
        };
        let (inner, permit) = match begun.await {
            Ok(begun) => begun,
            // Nothing was used.
            Err(error) => {
                if let Some(charge) = charge {
                    drop(charge);
                    self.settle().await;
                }
                return Err(error);
            }
        };
        let charged = charge.map(|mut charge| {
            charge.used = work.prompt as u64;
            Charged { charge, engine: self.clone() }
        });
        Ok(Generation::new(Admitted { inner, permit: Some(permit), charged, settling: None }))
    }

    /// Vectors for texts, through the Scheduler. The [allowances](crate::allowance) of the context are kept to.
    ///
    /// # Errors
    /// `RateLimited` with `retry_after` when an allowance is used up, `InvalidInput` when the texts are more than it ever
    /// allows; those of [`Scheduler::admit`] and [`Inference::embed`].
    pub async fn embed(&self, cx: &Context, model: Option<&str>, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let model = self.model(model)?;
        let mut charge = None;
        if cx.allowances().is_some_and(|allowances| !allowances.is_empty()) {
            let mut tokens = 0;
            for text in &texts {
                tokens += model.encode(cx, crate::inference::Prompt::Text(text.clone())).await?.len();
            }
            charge = self.charge(cx, Work { prompt: tokens, answer: 0 }).await?.map(|charge| (charge, tokens));
        }
        let cx = &charge.as_ref().map_or_else(|| cx.clone(), |(charge, _)| charge.bound(cx));
        let embedded = async {
            let tokens = texts.iter().map(String::len).sum();
            let permit = self.scheduler()?.admit(cx, Work { prompt: tokens, answer: 0 }).await?;
            model.embed(&cx.clone().with_class(permit.class()), texts).await
        };
        let embedded = embedded.await;
        if let Some((mut charge, tokens)) = charge {
            charge.used = if embedded.is_ok() { tokens as u64 } else { 0 };
            drop(charge);
            self.settle().await;
        }
        embedded
    }
}

/// What a generation took of its allowances, and where that is settled.
struct Charged {
    charge: Charge,
    engine: Engine,
}

/// A generation that holds its place while it runs: an answer that has ended gives it back, even if nobody lets go of it.
struct Admitted {
    inner: Generation,
    permit: Option<Permit>,
    charged: Option<Charged>,
    /// Between the last chunk and the end of the stream.
    settling: Option<BoxFuture<'static, ()>>,
}

impl Admitted {
    /// What the chunk says of the tokens used.
    fn note(&mut self, next: Option<&Result<Chunk>>) {
        match next {
            Some(Ok(Chunk::Tokens { symbols, .. })) => {
                if let Some(charged) = &mut self.charged {
                    charged.charge.used += symbols.len() as u64;
                }
                return;
            }
            Some(Ok(Chunk::End { usage, .. })) => {
                if let Some(permit) = &mut self.permit {
                    permit.done(Work {
                        prompt: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
                        answer: usage.completion_tokens,
                    });
                }
                if let Some(charged) = &mut self.charged {
                    charged.charge.used = (usage.prompt_tokens + usage.completion_tokens) as u64;
                }
            }
            None | Some(Err(_)) => (),
        }
        self.permit = None;
        if let Some(Charged { charge, engine }) = self.charged.take() {
            drop(charge);
            self.settling = Some(Box::pin(async move { engine.settle().await }));
        }
    }
}

impl Stream for Admitted {
    type Item = Result<Chunk>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        if self.settling.is_none() {
            let next = ready!(Pin::new(&mut self.inner).poll_next(cx));
            self.note(next.as_ref());
            if next.is_some() {
                return Poll::Ready(next);
            }
        }
        // The stream ends when it is settled: whoever reads it to its end may count on that.
        if let Some(settling) = &mut self.settling {
            ready!(settling.as_mut().poll(cx));
            self.settling = None;
        }
        Poll::Ready(None)
    }
}
