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
//! runs a loop of five parts: plan, batch, decode, sample, stream. All requests are in that loop at once (continuous batching:
//! Orca, OSDI '22): before each pass the [Scheduler](Builder::scheduler) says which of them advance and by how many tokens, so
//! a long prompt is read in pieces between the symbols of other answers (Sarathi-Serve, OSDI '24), and an answer that is left
//! out keeps what it has read. A request that is more urgent than everything in the pass under way cuts that pass short.
//!
//! What a prompt has in common with what [a slot](Builder::sequences) read before is not read again. What several prompts begin with is
//! kept beside the slots too: as much as one slot holds, so that it is there when all slots are in use.
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
//! - The file is mapped into memory. Whoever shortens it while it is open ends the process; replace it by renaming.

mod backend;
mod builder;
mod digest;
mod embedder;
mod gguf;
mod grammar;
mod inbox;
mod layout;
mod logits;
mod model;
mod passage;
mod plausible;
mod prefixes;
mod prepare;
mod prompt;
mod sampling;
mod sequence;
mod slots;
mod softmax;
mod sys;
mod text;
mod worker;

pub use builder::Builder;
pub use digest::Manifest;
pub use model::Llama;
pub use prepare::{Format, Prepared, prepare};
