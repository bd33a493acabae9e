//! From prompts to symbols.

use llama_cpp_2::{
    model::{LlamaChatMessage, LlamaModel},
    token::LlamaToken,
};
use selvedge_core::{
    Error, ErrorKind, Result,
    inference::{Message, Prompt, Symbol},
};

/// The most bytes of text that are looked at: far more than any context takes, far less than llama.cpp counts to.
const MOST_TEXT: usize = 64 << 20;

/// The symbols of a prompt, as the model would see them.
pub(crate) fn symbols(model: &LlamaModel, operation: &'static str, prompt: &Prompt) -> Result<Vec<LlamaToken>> {
    match prompt {
        Prompt::Symbols(symbols) => check(model, operation, symbols),
        Prompt::Text(text) => tokenize(model, operation, text),
        Prompt::Chat(messages) => tokenize(model, operation, &render(model, operation, messages)?),
    }
}

/// Symbols of a caller, if the model knows all of them.
pub(crate) fn check(model: &LlamaModel, operation: &'static str, symbols: &[Symbol]) -> Result<Vec<LlamaToken>> {
    let known = model.n_vocab();
    let token = |symbol: &Symbol| i32::try_from(*symbol).ok().filter(|id| *id < known).map(LlamaToken).ok_or(*symbol);
    symbols.iter().map(token).collect::<Result<_, Symbol>>().map_err(|symbol| {
        Error::new(ErrorKind::InvalidInput, operation, "the model does not know this symbol")
            .with("symbol", symbol)
            .with("vocabulary", known)
            .advise("encode prompts with the model that reads them")
    })
}

/// The symbols of a text, with the begin-of-text symbol if the model wants one.
fn tokenize(model: &LlamaModel, operation: &'static str, text: &str) -> Result<Vec<LlamaToken>> {
    if text.len() > MOST_TEXT {
        return Err(Error::new(ErrorKind::TooLarge, operation, "the text is too long")
            .with("bytes", text.len())
            .with("most", MOST_TEXT)
            .advise("shorten it, or split it"));
    }
    Ok(model.vocab().tokenize(text.as_bytes(), true, true))
}

/// A chat in the model's own template, ready for the assistant to speak.
fn render(model: &LlamaModel, operation: &'static str, messages: &[Message]) -> Result<String> {
    if messages.is_empty() {
        return Err(empty(operation));
    }
    let template = model.chat_template(None).map_err(|error| {
        Error::new(ErrorKind::Unsupported, operation, "the model has no chat template")
            .caused_by(error)
            .advise("give the prompt as text, or use a model that was trained for chats")
    })?;
    let messages: Vec<_> = messages
        .iter()
        .map(|message| LlamaChatMessage::new(message.role.clone(), message.content.clone()))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            Error::new(ErrorKind::InvalidInput, operation, "a message contains the character NUL")
                .caused_by(error)
                .advise("remove it: templates cannot carry it")
        })?;
    model.apply_chat_template(&template, &messages, true).map_err(|error| {
        Error::new(ErrorKind::Unsupported, operation, "the model's chat template cannot be applied")
            .caused_by(error)
            .advise("render the chat yourself and give it as text")
    })
}

/// The error of a prompt without symbols.
pub(crate) fn empty(operation: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, operation, "the prompt is empty")
        .advise("give the model something to go on from")
}

/// An error if a prompt leaves no place in the context.
pub(crate) fn fits(operation: &'static str, prompt: usize, context: usize) -> Result<()> {
    if prompt < context {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, operation, "the prompt leaves no room in the model's context")
        .with("prompt", prompt)
        .with("context", context)
        .advise(format!("shorten the prompt to less than {context} symbols, or open the model with a longer context")))
}
