//! The Inference suite.

mod generate;
mod limits;
mod prompt;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use selvedge_core::{
    AnyInference, Context, Inference, Result,
    inference::{Generate, Generated, InferenceCapabilities, Prompt, Symbol},
};

use crate::suite::{Checked, Suite, needs};

/// The longest a single wait may take: a large model on a small machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A text that models go on with.
const STORY: &str = "Once upon a time there was a";

/// Every rule of Inference, checked on the one model that `open` opens. All cases share it, so a large one is opened once;
/// with a short context the suite is quick.
///
/// ```no_run
/// # use selvedge_core::AnyInference;
/// # fn my_model() -> selvedge_core::Result<AnyInference> { unreachable!() }
/// fn main() -> std::process::ExitCode {
///     selvedge_testkit::inference_suite(my_model).run()
/// }
/// ```
pub fn inference_suite<O>(open: O) -> Suite
where
    O: Fn() -> Result<AnyInference> + Send + Sync + 'static,
{
    let model = Arc::new(OnceLock::new());
    let open = Arc::new(open);
    let cases = [prompt::cases(), generate::cases(), limits::cases()].into_iter().flatten().collect();
    Suite::new(cases, move || {
        let (model, open) = (model.clone(), open.clone());
        async move {
            // Errors cannot be cloned, and every case should say why there is no model.
            let model = model.get_or_init(|| open().map_err(|error| error.to_string())).clone();
            let model: AnyInference = model.map_err(|error| anyhow::anyhow!("the model does not open: {error}"))?;
            Ok(Bed { can: model.capabilities(), model, cx: Context::new() })
        }
    })
}

/// What a case works with.
pub(crate) struct Bed {
    model: AnyInference,
    can: InferenceCapabilities,
    cx: Context,
}

impl Bed {
    fn generates(&self) -> Checked {
        needs(self.can.generate, "`generate`")
    }

    async fn encode(&self, text: &str) -> anyhow::Result<Vec<Symbol>> {
        Ok(patiently("the symbols", self.model.encode(&self.cx, Prompt::Text(text.into()))).await??)
    }

    /// The whole answer.
    async fn answer(&self, request: Generate) -> anyhow::Result<Generated> {
        let answer = async { self.model.generate(&self.cx, request).await?.collect().await };
        Ok(patiently("the answer", answer).await??)
    }

    /// As many symbols as the context has room for: more than comes in the time a case needs.
    fn endless(&self) -> Generate {
        Generate::text("1 2 3 4 5 6 7 8 9 10 11 12").max_tokens(self.model.model().context_length)
    }

    /// Whether a short request gets through.
    async fn still_answers(&self) -> Checked {
        self.answer(Generate::text(STORY).max_tokens(1)).await.map(drop)
    }
}

/// Waits for something, but not for ever.
async fn patiently<T>(what: &str, wait: impl Future<Output = T>) -> anyhow::Result<T> {
    let late = |_| anyhow::anyhow!("{what} did not come within {PATIENCE:?}");
    tokio::time::timeout(PATIENCE, wait).await.map_err(late)
}
