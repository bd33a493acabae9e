//! Prompts: what the model sees, what it expects next, and vectors.

use std::collections::BTreeSet;

use selvedge_core::{
    Inference,
    inference::{Generate, Message, Predict, Prompt},
};

use super::{Bed, STORY, patiently};
use crate::suite::{Checked, cases, needs, refused, same};

cases! {
    it_says_what_it_is: "A model has a name, a context, a vocabulary, and a digest of 64 hex digits or none; it makes embeddings of the length it tells, or none.",
    encoding_is_the_same_every_time: "The same text gives the same symbols, all of them in the vocabulary.",
    symbols_stand_for_themselves: "A prompt of symbols is encoded as those symbols, and goes on as the text they came from.",
    a_chat_is_more_than_its_words: "With `chat`, a chat is rendered by a template: it holds the symbols of what was said, and more, and roles make a difference.",
    a_prediction_is_a_distribution: "Candidates are symbols of the vocabulary, each once, the likeliest first; their probabilities are between 0 and 1 and those of all symbols sum to 1.",
    a_prediction_has_as_many_as_asked: "A prediction has `top` candidates, the first of the longer list.",
    a_prediction_is_the_same_every_time: "The same context gives the same candidates.",
    embeddings_have_the_length_told: "With `embed`, each text has a vector of the model's length, finite and of norm 1, in the order of the texts.",
    embeddings_tell_texts_apart: "The same text has the same vector every time, and alone or among others; another text has another.",
}

async fn it_says_what_it_is(bed: &Bed) -> Checked {
    let model = bed.model.model();
    anyhow::ensure!(!bed.can.plugin.is_empty() && !model.name.is_empty(), "no name: {model:?}");
    anyhow::ensure!(model.context_length > 0 && model.vocabulary > 0, "{model:?}");
    let hex = model.sha256.len() == 64 && model.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    anyhow::ensure!(model.sha256.is_empty() || hex, "the digest is {:?}", model.sha256);
    same!(model.embedding_length > 0, bed.can.embed, "whether it makes embeddings");
    anyhow::ensure!(!bed.can.generate || bed.can.sequences > 0, "it runs no sequence");
    Ok(())
}

async fn encoding_is_the_same_every_time(bed: &Bed) -> Checked {
    let vocabulary = bed.model.model().vocabulary;
    for text in [STORY, "a", "Two  spaces and a\nline", "ünï \u{1F375} \u{4E00}"] {
        let symbols = bed.encode(text).await?;
        anyhow::ensure!(!symbols.is_empty(), "{text:?} has no symbols");
        anyhow::ensure!(symbols.iter().all(|symbol| (*symbol as usize) < vocabulary), "{symbols:?} of {text:?}");
        same!(bed.encode(text).await?, symbols, "the symbols of {text:?}");
    }
    anyhow::ensure!(bed.encode("once").await? != bed.encode("twice").await?, "two texts have the same symbols");
    Ok(())
}

async fn symbols_stand_for_themselves(bed: &Bed) -> Checked {
    let symbols = bed.encode(STORY).await?;
    let again = bed.model.encode(&bed.cx, Prompt::Symbols(symbols.clone())).await?;
    same!(again, symbols);
    bed.generates()?;
    let from_text = bed.answer(Generate::text(STORY).max_tokens(6)).await?;
    let from_symbols = bed.answer(Generate::new(Prompt::Symbols(symbols.clone())).max_tokens(6)).await?;
    same!((&from_symbols.symbols, &from_symbols.text), (&from_text.symbols, &from_text.text));
    // An answer's symbols are what the model saw: put behind the prompt, they are gone on from.
    let longer = [symbols, from_text.symbols[..3].to_vec()].concat();
    let rest = bed.answer(Generate::new(Prompt::Symbols(longer)).max_tokens(3)).await?;
    same!(rest.symbols, from_text.symbols[3..], "what follows after the first three symbols");
    Ok(())
}

async fn a_chat_is_more_than_its_words(bed: &Bed) -> Checked {
    needs(bed.can.chat, "`chat`")?;
    let encode = async |chat: Vec<Message>| anyhow::Ok(bed.model.encode(&bed.cx, Prompt::Chat(chat)).await?);
    let chat = encode(vec![Message::user("tea")]).await?;
    anyhow::ensure!(chat.len() > bed.encode("tea").await?.len(), "the chat is no longer than its words: {chat:?}");
    same!(encode(vec![Message::user("tea")]).await?, chat, "the same chat");
    anyhow::ensure!(encode(vec![Message::new("assistant", "tea")]).await? != chat, "the role makes no difference");
    let more = encode(vec![Message::system("You sell tea."), Message::user("tea")]).await?;
    anyhow::ensure!(more.len() > chat.len(), "another message makes it no longer");
    Ok(())
}

async fn a_prediction_is_a_distribution(bed: &Bed) -> Checked {
    needs(bed.can.predict, "`predict`")?;
    let vocabulary = bed.model.model().vocabulary;
    let request = Predict { context: bed.encode(STORY).await?, top: vocabulary };
    let all = patiently("the prediction", bed.model.predict(&bed.cx, request)).await??;
    same!(all.len(), vocabulary);
    let symbols: BTreeSet<_> = all.iter().map(|candidate| candidate.symbol).collect();
    same!((symbols.len(), symbols.iter().all(|symbol| (*symbol as usize) < vocabulary)), (vocabulary, true));
    let falls = all.is_sorted_by(|one, two| one.probability >= two.probability);
    anyhow::ensure!(falls, "the likeliest are not first");
    anyhow::ensure!(all.iter().all(|c| (0.0..=1.0).contains(&c.probability)), "not a probability");
    let sum: f64 = all.iter().map(|candidate| f64::from(candidate.probability)).sum();
    anyhow::ensure!((sum - 1.0).abs() < 1e-3, "the probabilities sum to {sum}");
    Ok(())
}

async fn a_prediction_has_as_many_as_asked(bed: &Bed) -> Checked {
    needs(bed.can.predict, "`predict`")?;
    let context = bed.encode(STORY).await?;
    let predict = async |top| {
        let request = Predict { context: context.clone(), top };
        anyhow::Ok(patiently("the prediction", bed.model.predict(&bed.cx, request)).await??)
    };
    let ten = predict(10).await?;
    same!(ten.len(), 10);
    for top in [0, 1, 4] {
        same!(predict(top).await?, ten[..top], "the first {top}");
    }
    Ok(())
}

async fn a_prediction_is_the_same_every_time(bed: &Bed) -> Checked {
    needs(bed.can.predict, "`predict`")?;
    let request = Predict { context: bed.encode(STORY).await?, top: 5 };
    let first = patiently("the prediction", bed.model.predict(&bed.cx, request.clone())).await??;
    same!(patiently("the prediction", bed.model.predict(&bed.cx, request)).await??, first);
    Ok(())
}

async fn embed(bed: &Bed, texts: &[&str]) -> anyhow::Result<Vec<Vec<f32>>> {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    Ok(patiently("the vectors", bed.model.embed(&bed.cx, texts)).await??)
}

async fn embeddings_have_the_length_told(bed: &Bed) -> Checked {
    needs(bed.can.embed, "`embed`")?;
    let vectors = embed(bed, &["green tea", "a bicycle", STORY]).await?;
    same!(vectors.len(), 3);
    for vector in &vectors {
        same!(vector.len(), bed.model.model().embedding_length);
        let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        anyhow::ensure!((norm - 1.0).abs() < 1e-3, "a vector of norm {norm}");
    }
    same!(embed(bed, &[]).await?.len(), 0, "vectors of no texts");
    refused!(embed_result(bed, "a".repeat(bed.model.model().context_length * 40)).await, TooLarge);
    Ok(())
}

async fn embed_result(bed: &Bed, text: String) -> selvedge_core::Result<Vec<Vec<f32>>> {
    bed.model.embed(&bed.cx, vec![text]).await
}

async fn embeddings_tell_texts_apart(bed: &Bed) -> Checked {
    needs(bed.can.embed, "`embed`")?;
    let near = |one: &[f32], two: &[f32]| one.iter().zip(two).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let together = embed(bed, &["green tea", "a bicycle"]).await?;
    let alone = embed(bed, &["green tea"]).await?;
    anyhow::ensure!(near(&alone[0], &together[0]) > 0.999, "the same text has another vector among others");
    anyhow::ensure!(near(&together[0], &together[1]) < 0.9999, "two texts have the same vector");
    Ok(())
}
