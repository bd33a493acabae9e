//! Tiny models of every architecture whose layout is checked, written by the tests and open in a moment. What they say
//! means nothing.
#![allow(dead_code, reason = "each test program uses a part of it")]

/// A GGUF file in parts.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) values: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    U32(u32),
    U64(u64),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// Every architecture whose layout is checked.
pub(crate) const ARCHITECTURES: [&str; 9] =
    ["llama", "mistral3", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"];

const EMBEDDING: u64 = 64;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const HEAD: u64 = 16;
const FEED_FORWARD: u64 = 96;
const BLOCKS: u32 = 2;

/// Numbers that look random and are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.next() as usize % most.max(1)
    }
}

/// A whole model of this architecture.
pub(crate) fn model(architecture: &str) -> Gguf {
    let mut values = vec![
        ("general.architecture".to_owned(), text(architecture)),
        ("general.name".to_owned(), text("tiny")),
        ("general.file_type".to_owned(), Value::U32(0)),
    ];
    let mut number = |key: &str, value: Value| values.push((format!("{architecture}.{key}"), value));
    number("block_count", Value::U32(BLOCKS));
    number("context_length", Value::U32(128));
    number("embedding_length", Value::U32(EMBEDDING as u32));
    number("feed_forward_length", Value::U32(FEED_FORWARD as u32));
    number("attention.head_count", Value::U32(HEADS as u32));
    number("attention.head_count_kv", Value::U32(KV_HEADS as u32));
    number("attention.key_length", Value::U32(HEAD as u32));
    number("attention.value_length", Value::U32(HEAD as u32));
    number("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    number("rope.dimension_count", Value::U32(HEAD as u32));
    number("rope.freq_base", Value::F32(10_000.0));
    number("rope.scaling.type", text("linear"));
    number("rope.scaling.factor", Value::F32(1.0));
    number("attention.sliding_window", Value::U32(16));
    vocabulary(&mut values, ["gemma", "gemma2", "gemma3", "phi3"].contains(&architecture));
    let tokens = match values.iter().find(|(key, _)| key == "tokenizer.ggml.tokens") {
        Some((_, Value::Texts(tokens))) => tokens.len() as u64,
        _ => 0,
    };
    Gguf { values, tensors: tensors(architecture, tokens) }
}

fn vocabulary(values: &mut Vec<(String, Value)>, sentencepiece: bool) {
    let mut tokens: Vec<Vec<u8>> = [&b"<unk>"[..], b"<s>", b"</s>", b"<|im_end|>"].map(<[u8]>::to_vec).into();
    let mut kinds = vec![2, 3, 3, 3];
    let letters = (b'a'..=b'z').chain(b'A'..=b'Z');
    if sentencepiece {
        tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>").into_bytes()));
        kinds.resize(tokens.len(), 6);
        tokens.extend(letters.map(|letter| vec![letter]));
        tokens.extend(["▁", "te", "tea", "▁t"].map(|token| token.as_bytes().to_vec()));
    } else {
        // As GPT-2 writes bytes: those that cannot be seen are moved beyond the first 256 characters.
        let seen = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut moved = 0x100..;
        for byte in 0..=255_u8 {
            let code = if seen(byte) { u32::from(byte) } else { moved.next().unwrap() };
            tokens.push(char::from_u32(code).unwrap().to_string().into_bytes());
        }
        tokens.extend(["te", "tea", "Ġt"].map(|token| token.as_bytes().to_vec()));
    }
    kinds.resize(tokens.len(), 1);
    let mut add = |key: &str, value| values.push((format!("tokenizer.{key}"), value));
    add("ggml.model", text(if sentencepiece { "llama" } else { "gpt2" }));
    if sentencepiece {
        add("ggml.scores", Value::F32s((0..tokens.len()).map(|index| -(index as f32)).collect()));
    } else {
        add("ggml.pre", text("smollm"));
        add("ggml.merges", Value::Texts(["t e", "te a", "Ġ t"].map(|pair| pair.as_bytes().to_vec()).into()));
    }
    add("ggml.tokens", Value::Texts(tokens));
    add("ggml.token_type", Value::I32s(kinds));
    add("ggml.bos_token_id", Value::U32(1));
    add("ggml.eos_token_id", Value::U32(2));
    add("ggml.unknown_token_id", Value::U32(0));
    add("ggml.padding_token_id", Value::U32(2));
    add("ggml.add_bos_token", Value::Bool(true));
    add("chat_template", text("{% for m in messages %}{{'<|im_start|>' + m['role'] + '<|im_end|>'}}{% endfor %}"));
}

fn tensors(architecture: &str, tokens: u64) -> Vec<Tensor> {
    let (queries, keys) = (HEADS * HEAD, KV_HEADS * HEAD);
    let fused = architecture == "phi3";
    let mut parts = vec![
        ("token_embd.weight".to_owned(), vec![EMBEDDING, tokens]),
        ("output_norm.weight".to_owned(), vec![EMBEDDING]),
    ];
    if !["gemma", "gemma2"].contains(&architecture) {
        parts.push(("output.weight".to_owned(), vec![EMBEDDING, tokens]));
    }
    for block in 0..BLOCKS {
        let mut part = |name: &str, shape: &[u64]| parts.push((format!("blk.{block}.{name}"), shape.to_vec()));
        part("attn_norm.weight", &[EMBEDDING]);
        part("ffn_norm.weight", &[EMBEDDING]);
        part("attn_output.weight", &[queries, EMBEDDING]);
        part("ffn_down.weight", &[FEED_FORWARD, EMBEDDING]);
        if fused {
            part("attn_qkv.weight", &[EMBEDDING, queries + 2 * keys]);
            part("ffn_up.weight", &[EMBEDDING, 2 * FEED_FORWARD]);
        } else {
            part("attn_q.weight", &[EMBEDDING, queries]);
            part("attn_k.weight", &[EMBEDDING, keys]);
            part("attn_v.weight", &[EMBEDDING, keys]);
            part("ffn_gate.weight", &[EMBEDDING, FEED_FORWARD]);
            part("ffn_up.weight", &[EMBEDDING, FEED_FORWARD]);
        }
        if ["llama", "qwen2"].contains(&architecture) {
            part("attn_q.bias", &[queries]);
            part("attn_k.bias", &[keys]);
            part("attn_v.bias", &[keys]);
        }
        if ["qwen3", "gemma3"].contains(&architecture) {
            part("attn_q_norm.weight", &[HEAD]);
            part("attn_k_norm.weight", &[HEAD]);
        }
        if ["gemma2", "gemma3"].contains(&architecture) {
            part("post_attention_norm.weight", &[EMBEDDING]);
            part("post_ffw_norm.weight", &[EMBEDDING]);
        }
    }
    if ["llama", "mistral3"].contains(&architecture) {
        parts.push(("rope_freqs.weight".to_owned(), vec![HEAD / 2]));
    }
    let mut random = Random(7);
    let tensor = |(name, shape): (String, Vec<u64>)| {
        let vector = shape.len() == 1;
        let mut number = || (random.next() % 2001) as f32 / 10_000.0 - 0.1 + if vector { 1.0 } else { 0.0 };
        let data = (0..shape.iter().product::<u64>()).flat_map(|_| number().to_le_bytes()).collect();
        Tensor { name, shape, kind: 0, data }
    };
    parts.into_iter().map(tensor).collect()
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.as_bytes().to_vec())
}

impl Gguf {
    /// The file's bytes, and how many of them are the header.
    pub(crate) fn write(&self) -> (Vec<u8>, usize) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            put_text(&mut file, key.as_bytes());
            value.put(&mut file);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            put_text(&mut file, tensor.name.as_bytes());
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|length| file.extend(length.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(32);
        }
        let header = file.len();
        file.resize(header.next_multiple_of(32), 0);
        for tensor in &self.tensors {
            file.extend(&tensor.data);
            file.resize(file.len().next_multiple_of(32), 0);
        }
        (file, header)
    }
}

fn put_text(file: &mut Vec<u8>, text: &[u8]) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text);
}

impl Value {
    fn put(&self, file: &mut Vec<u8>) {
        let mut head = |kind: u32| file.extend(kind.to_le_bytes());
        match self {
            Self::U32(_) => head(4),
            Self::I32(_) => head(5),
            Self::F32(_) => head(6),
            Self::Bool(_) => head(7),
            Self::Text(_) => head(8),
            Self::U64(_) => head(10),
            Self::Texts(_) => [9, 8].into_iter().for_each(head),
            Self::I32s(_) => [9, 5].into_iter().for_each(head),
            Self::F32s(_) => [9, 6].into_iter().for_each(head),
        }
        let mut count = |length: usize| file.extend((length as u64).to_le_bytes());
        match self {
            Self::U32(value) => file.extend(value.to_le_bytes()),
            Self::U64(value) => file.extend(value.to_le_bytes()),
            Self::I32(value) => file.extend(value.to_le_bytes()),
            Self::F32(value) => file.extend(value.to_le_bytes()),
            Self::Bool(value) => file.push(u8::from(*value)),
            Self::Text(text) => put_text(file, text),
            Self::Texts(texts) => {
                count(texts.len());
                texts.iter().for_each(|text| put_text(file, text));
            }
            Self::I32s(values) => {
                count(values.len());
                values.iter().for_each(|value| file.extend(value.to_le_bytes()));
            }
            Self::F32s(values) => {
                count(values.len());
                values.iter().for_each(|value| file.extend(value.to_le_bytes()));
            }
        }
    }
}
