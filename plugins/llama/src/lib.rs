//! Language models for Selvedge: the [`Inference`](selvedge_core::Inference) trait on llama.cpp.
//!
//! ```no_run
//! use selvedge_core::{Context, Inference, inference::{Generate, Message}};
//! use selvedge_llama::Llama;
//!
//! # async fn example() -> selvedge_core::Result<()> {
//! let model = Llama::builder("SmolLM2-135M-Instruct.Q4_1.gguf").open()?;
//! let request = Generate::chat([Message::user("Which tea is mild?")]).max_tokens(64);
//! let answer = model.generate(&Context::new(), request).await?.collect().await?;
//! println!("{}", answer.text);
//! # Ok(())
//! # }
//! ```
//!
//! One thread per model owns llama.cpp's context, because the thread that calls a forward pass also computes in it. It
//! runs a loop of five parts: plan, batch, decode, sample, stream. Requests reach it over a channel and are served in the
//! order in which they came, one at a time.
//!
//! # Files that cannot be trusted
//! llama.cpp ends the process on some malformed files. So a file's header is read here first: its metadata, vocabulary,
//! sizes and the name, shape and type of every tensor have to fit together, for the architectures whose layout is known:
//! `llama` (Mistral and SmolLM2 too), `mistral3`, `smollm3`, `qwen2`, `qwen3`, `gemma`, `gemma2`, `gemma3` and `phi3`,
//! without experts, with a BPE (`gpt2`) or SentencePiece (`llama`) vocabulary. Any other is `Unsupported` unless
//! [its digest is given](Builder::sha256): a file that is known to be whole is opened without the check of its layout, and
//! then llama.cpp decides. Weights that are no numbers are `Damaged` when they are first used.
//!
//! # Limits
//! - Decoder models in one file only: an encoder (BERT, T5) and a part of a split model are refused.
//! - A chat is rendered by llama.cpp's own template engine, which knows the common templates and runs no Jinja. Texts
//!   that look like the model's control symbols (`<|im_end|>`) are read as such, in chats and in texts.
//! - [`Plan::threads`](selvedge_core::scheduler::Plan) is not applied: the binding sets threads when a model is opened.
//! - The file is mapped into memory. Whoever shortens it while it is open ends the process; replace it by renaming.

mod backend;
mod builder;
mod digest;
mod gguf;
mod layout;
mod logits;
mod model;
mod plausible;
mod prompt;
mod sequence;
mod text;
mod worker;

pub use builder::Builder;
pub use digest::Manifest;
pub use model::Llama;
