//! A model that learnt nothing: what comes next is decided by a hash.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use futures_util::stream;
use selvedge_core::{
    Context, Error, ErrorKind, Inference, Result,
    inference::{
        Candidate, Chunk, Generate, Generation, InferenceCapabilities, ModelInfo, Predict, Prompt, Sampling,
        StopReason, Symbol, Usage,
    },
};

/// A language model whose symbols are the letters a to z and the space, each as likely as its hash with the context says.
///
/// It keeps every rule of the Inference suite, so that the suite can be tested without a model file.
#[derive(Clone, Copy, Debug)]
pub struct ToyModel {
    context_length: usize,
}

const ALPHABET: &[u8; 27] = b" abcdefghijklmnopqrstuvwxyz";
const WIDTH: usize = 8;

impl ToyModel {
    /// A model with room for so many symbols, prompt and answer.
    pub fn new(context_length: usize) -> Self {
        Self { context_length }
    }

    fn candidates(context: &[Symbol]) -> Vec<Candidate> {
        let weight = |symbol: Symbol| {
            let mut hasher = DefaultHasher::new();
            // Only the last few symbols count, as in a model that forgets.
            (symbol, &context[context.len().saturating_sub(3)..]).hash(&mut hasher);
            (hasher.finish() % 1000) as f32 + 1.0
        };
        let weights: Vec<_> = (0..ALPHABET.len() as Symbol).map(|symbol| (symbol, weight(symbol).powi(4))).collect();
        let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut all: Vec<_> =
            weights.into_iter().map(|(symbol, weight)| Candidate { symbol, probability: weight / sum }).collect();
        all.sort_by(|one, two| two.probability.total_cmp(&one.probability));
        all
    }

    fn next(context: &[Symbol], sampling: &Sampling, random: &mut fastrand::Rng) -> Symbol {
        let mut candidates = Self::candidates(context);
        if sampling.top_k > 0 {
            candidates.truncate(sampling.top_k as usize);
        }
        let sum: f32 = candidates.iter().map(|candidate| candidate.probability).sum();
        let mut left = if sampling.temperature == 0.0 { 0.0 } else { random.f32() * sum };
        let chosen = candidates.iter().find(|candidate| {
            left -= candidate.probability;
            left < 0.0
        });
        chosen.or(candidates.last()).map_or(0, |candidate| candidate.symbol)
    }

    fn room(&self, operation: &'static str, prompt: &[Symbol]) -> Result<()> {
        let refuse = |kind, message| Err(Error::new(kind, operation, message).with("symbols", prompt.len()));
        if prompt.is_empty() {
            return refuse(ErrorKind::InvalidInput, "the prompt is empty");
        }
        if prompt.iter().any(|symbol| *symbol as usize >= ALPHABET.len()) {
            return refuse(ErrorKind::InvalidInput, "the prompt has a symbol that the model does not know");
        }
        if prompt.len() >= self.context_length {
            return refuse(ErrorKind::TooLarge, "the prompt leaves no room for an answer");
        }
        Ok(())
    }
}

fn symbols(prompt: Prompt) -> Vec<Symbol> {
    let letters = |text: &str| {
        let place = |byte: u8| ALPHABET.iter().position(|known| *known == byte.to_ascii_lowercase()).unwrap_or(0);
        text.bytes().map(|byte| place(byte) as Symbol).collect()
    };
    match prompt {
        Prompt::Symbols(symbols) => symbols,
        Prompt::Text(text) => letters(&text),
        Prompt::Chat(messages) => {
            letters(&messages.iter().map(|m| format!("{} {} ", m.role, m.content)).collect::<String>())
        }
    }
}

/// What a generation keeps between two symbols.
struct Running {
    cx: Context,
    context: Vec<Symbol>,
    added: usize,
    limit: usize,
    sampling: Sampling,
    stop: Vec<String>,
    /// Text that may be the beginning of a stop text.
    held: String,
    usage: Usage,
    ended: bool,
}

impl Running {
    fn step(&mut self) -> Result<Chunk> {
        self.cx.check("toy.generate")?;
        if self.added >= self.limit {
            if !self.held.is_empty() {
                return Ok(Chunk::Tokens { symbols: Vec::new(), text: std::mem::take(&mut self.held) });
            }
            return Ok(self.end(StopReason::MaxTokens));
        }
        if self.stop.iter().any(|stop| self.held.ends_with(stop.as_str())) {
            return Ok(self.end(StopReason::StopText));
        }
        let started = Instant::now();
        let symbol = self.letter();
        self.usage.decode += started.elapsed();
        self.held.push(char::from(ALPHABET[symbol as usize]));
        Ok(Chunk::Tokens { symbols: vec![symbol], text: self.sure() })
    }

    fn letter(&mut self) -> Symbol {
        // A draw goes by the seed and the number of the symbol, so that an answer can be gone on with.
        let mut random = fastrand::Rng::with_seed(u64::from(self.sampling.seed) << 32 | self.added as u64);
        let symbol = ToyModel::next(&self.context, &self.sampling, &mut random);
        self.add(symbol);
        symbol
    }

    fn add(&mut self, symbol: Symbol) {
        self.context.push(symbol);
        self.added += 1;
        self.usage.completion_tokens += 1;
    }

    /// Takes over what another run has added and shown.
    fn go_on(&mut self, begun: &[Symbol]) {
        for symbol in begun {
            self.add(*symbol);
            self.held.push(char::from(ALPHABET[*symbol as usize]));
            let _shown = self.sure();
        }
    }

    /// The text that no stop text can begin with any more.
    fn sure(&mut self) -> String {
        if let Some(place) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let rest = self.held.split_off(place);
            return std::mem::replace(&mut self.held, rest);
        }
        let may_begin = |place: &usize| self.stop.iter().any(|stop| stop.starts_with(&self.held[*place..]));
        let place = (0..self.held.len()).find(may_begin).unwrap_or(self.held.len());
        let rest = self.held.split_off(place);
        std::mem::replace(&mut self.held, rest)
    }

    fn end(&mut self, reason: StopReason) -> Chunk {
        self.ended = true;
        Chunk::End { reason, usage: self.usage }
    }
}

impl Inference for ToyModel {
    fn capabilities(&self) -> InferenceCapabilities {
        InferenceCapabilities {
            plugin: "toy",
            predict: true,
            generate: true,
            chat: true,
            embed: true,
            grammar: false,
            sequences: 1,
        }
    }

    fn model(&self) -> ModelInfo {
        ModelInfo {
            name: "toy".into(),
            description: "letters by a hash".into(),
            sha256: String::new(),
            context_length: self.context_length,
            vocabulary: ALPHABET.len(),
            embedding_length: WIDTH,
        }
    }

    async fn encode(&self, cx: &Context, prompt: Prompt) -> Result<Vec<Symbol>> {
        cx.check("toy.encode")?;
        Ok(symbols(prompt))
    }

    async fn predict(&self, cx: &Context, request: Predict) -> Result<Vec<Candidate>> {
        cx.check("toy.predict")?;
        self.room("toy.predict", &request.context)?;
        let mut candidates = Self::candidates(&request.context);
        candidates.truncate(request.top);
        Ok(candidates)
    }

    async fn generate(&self, cx: &Context, request: Generate) -> Result<Generation> {
        cx.check("toy.generate")?;
        request.sampling.check()?;
        if request.stop.iter().any(String::is_empty) {
            return Err(Error::new(ErrorKind::InvalidInput, "toy.generate", "a stop text is empty"));
        }
        let prompt = symbols(request.prompt);
        self.room("toy.generate", &prompt)?;
        if !request.begun.is_empty() {
            self.room("toy.generate", &request.begun)?;
        }
        let mut running = Running {
            cx: cx.clone(),
            limit: request.max_tokens.min(self.context_length - prompt.len()),
            usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
            context: prompt,
            added: 0,
            sampling: request.sampling,
            stop: request.stop,
            held: String::new(),
            ended: false,
        };
        running.go_on(&request.begun);
        Ok(Generation::new(stream::unfold(running, |mut running| async move {
            if running.ended {
                return None;
            }
            let chunk = running.step();
            running.ended |= chunk.is_err();
            Some((chunk, running))
        })))
    }

    async fn embed(&self, cx: &Context, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        cx.check("toy.embed")?;
        texts.into_iter().map(|text| self.vector(&symbols(Prompt::Text(text)))).collect()
    }
}

impl ToyModel {
    /// How often each group of letters occurs, scaled to length 1.
    fn vector(&self, text: &[Symbol]) -> Result<Vec<f32>> {
        self.room("toy.embed", text)?;
        let mut counts = [0.0f32; WIDTH];
        text.iter().for_each(|symbol| counts[*symbol as usize % WIDTH] += 1.0);
        let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
        Ok(counts.iter().map(|count| count / length).collect())
    }
}
