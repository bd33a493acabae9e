//! Whether the numbers and tensors of a model fit together, for the architectures whose layout is known here.
//!
//! llama.cpp checks shapes too, but not before it has divided by a number of the file, nor the types of tensors: both end
//! the process when they are wrong.

use std::collections::HashMap;

use crate::gguf::{Fault, Header, Tensor, Value, damaged};

/// An architecture: which tensors its blocks have beside the common ones.
struct Layout {
    name: &'static str,
    required: &'static [Names],
    optional: &'static [Names],
    /// Positions are told to every number of a head, not to a part of it.
    whole_rope: bool,
}

type Names = &'static [&'static str];

const SPLIT: Names = &["attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight"];
const FUSED: Names = &["attn_qkv.weight"];
const HEAD_NORMS: Names = &["attn_q_norm.weight", "attn_k_norm.weight"];
const POST_NORMS: Names = &["post_attention_norm.weight", "post_ffw_norm.weight"];
const BIASES: Names = &["attn_q.bias", "attn_k.bias", "attn_v.bias"];
const MORE_BIASES: Names = &["attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"];

const LAYOUTS: &[Layout] = &[
    Layout { name: "llama", required: &[SPLIT], optional: &[BIASES, MORE_BIASES], whole_rope: true },
    Layout { name: "mistral3", required: &[SPLIT], optional: &[BIASES, MORE_BIASES], whole_rope: true },
    Layout { name: "smollm3", required: &[SPLIT], optional: &[BIASES], whole_rope: true },
    Layout { name: "qwen2", required: &[SPLIT], optional: &[BIASES], whole_rope: true },
    Layout { name: "qwen3", required: &[SPLIT, HEAD_NORMS], optional: &[BIASES], whole_rope: true },
    Layout { name: "gemma", required: &[SPLIT], optional: &[BIASES], whole_rope: false },
    Layout { name: "gemma2", required: &[SPLIT, POST_NORMS], optional: &[BIASES], whole_rope: false },
    Layout { name: "gemma3", required: &[SPLIT, HEAD_NORMS, POST_NORMS], optional: &[BIASES], whole_rope: false },
    Layout { name: "phi3", required: &[FUSED], optional: &[], whole_rope: false },
];

/// What every block of every layout has.
const BLOCK: Names = &["attn_norm.weight", "attn_output.weight", "ffn_norm.weight", "ffn_up.weight", "ffn_down.weight"];

/// The names of all architectures whose layout is known.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    LAYOUTS.iter().map(|layout| layout.name)
}

/// Checks the numbers and tensors of a model of this architecture; false when its layout is not known.
pub(crate) fn check(architecture: &str, header: &Header, vocabulary: u64) -> Result<bool, Fault> {
    let Some(layout) = LAYOUTS.iter().find(|layout| layout.name == architecture) else {
        return Ok(false);
    };
    let sizes = Sizes::read(layout, header, vocabulary)?;
    let mut tensors: HashMap<&[u8], &Tensor> =
        header.tensors.iter().map(|tensor| (tensor.name.as_slice(), tensor)).collect();
    let mut take = |name: &str, shape: &[u64], required: bool| match tensors.remove(name.as_bytes()) {
        Some(tensor) if tensor.shape != shape => damaged(format!("{name} has a shape that does not fit the model")),
        Some(tensor) if !multiplies(tensor.kind, shape.len()) => {
            damaged(format!("{name} has a type that cannot be calculated with"))
        }
        None if required => damaged(format!("the tensor {name} is missing")),
        _ => Ok(()),
    };
    take("token_embd.weight", &[sizes.embedding, vocabulary], true)?;
    take("output_norm.weight", &[sizes.embedding], true)?;
    take("output.weight", &[sizes.embedding, vocabulary], false)?;
    for name in ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"] {
        take(name, &[sizes.rope / 2], false)?;
    }
    for block in 0..sizes.blocks {
        for part in BLOCK.iter().chain(layout.required.iter().copied().flatten()) {
            take(&format!("blk.{block}.{part}"), &sizes.shape(layout, part), true)?;
        }
        for part in layout.optional.iter().copied().flatten() {
            take(&format!("blk.{block}.{part}"), &sizes.shape(layout, part), false)?;
        }
    }
    match tensors.keys().next() {
        None => Ok(true),
        Some(name) => damaged(format!("{architecture} has no tensor {}", String::from_utf8_lossy(name))),
    }
}

/// Whether ggml's CPU code calculates with this type: vectors have to be F32, and some types are for results only.
fn multiplies(kind: u32, dimensions: usize) -> bool {
    const RESULTS_AND_INTEGERS: [u32; 7] = [9, 15, 24, 25, 26, 27, 28];
    if dimensions < 2 { kind == 0 } else { !RESULTS_AND_INTEGERS.contains(&kind) }
}

/// The sizes from which every shape follows.
struct Sizes {
    blocks: u64,
    embedding: u64,
    heads: u64,
    kv_heads: u64,
    head: u64,
    feed_forward: u64,
    rope: u64,
}

impl Sizes {
    fn read(layout: &Layout, header: &Header, vocabulary: u64) -> Result<Self, Fault> {
        let numbers = Numbers { architecture: layout.name, header };
        for key in ["expert_count", "expert_used_count", "expert_group_count", "nextn_predict_layers", "pooling_type"] {
            numbers.absent(key)?;
        }
        for key in [
            "embedding_length_out",
            "attention.key_length_swa",
            "attention.value_length_swa",
            "rope.dimension_count_swa",
        ] {
            numbers.absent(key)?;
        }
        numbers.required("context_length", 1, 1 << 24)?;
        let embedding = numbers.required("embedding_length", 1, 1 << 17)?;
        let heads = numbers.required("attention.head_count", 1, 1 << 12)?;
        let kv_heads = numbers.optional("attention.head_count_kv", 1, heads)?.unwrap_or(heads);
        let head = numbers.optional("attention.key_length", 1, 1 << 12)?.unwrap_or(embedding / heads);
        let value = numbers.optional("attention.value_length", 1, 1 << 12)?.unwrap_or(embedding / heads);
        let rope = numbers.optional("rope.dimension_count", 1, head.max(1))?.unwrap_or(head);
        let uneven = heads % kv_heads != 0 || head == 0 || head != value || rope % 2 != 0;
        if uneven || (layout.whole_rope && rope != head) || vocabulary == 0 {
            return damaged("the sizes of its attention heads do not fit together");
        }
        numbers.positive("attention.layer_norm_rms_epsilon", true)?;
        for key in ["rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor", "rope.scale_linear"] {
            numbers.positive(key, false)?;
        }
        numbers.optional("rope.scaling.original_context_length", 1, 1 << 24)?;
        numbers.optional("attention.sliding_window", 0, 1 << 24)?;
        match header.get(&format!("{}.rope.scaling.type", layout.name)) {
            None => {}
            Some(Value::Text(kind)) if matches!(kind.as_slice(), b"none" | b"linear" | b"yarn" | b"longrope") => {}
            Some(_) => return damaged("rope.scaling.type cannot be used"),
        }
        Ok(Self {
            blocks: numbers.required("block_count", 1, 512)?,
            embedding,
            heads,
            kv_heads,
            head,
            feed_forward: numbers.required("feed_forward_length", 1, 1 << 20)?,
            rope,
        })
    }

    fn shape(&self, layout: &Layout, part: &str) -> Vec<u64> {
        let (queries, keys) = (self.heads * self.head, self.kv_heads * self.head);
        let fused = layout.name == "phi3";
        match part {
            "attn_q.weight" => vec![self.embedding, queries],
            "attn_k.weight" | "attn_v.weight" => vec![self.embedding, keys],
            "attn_qkv.weight" => vec![self.embedding, queries + 2 * keys],
            "attn_output.weight" => vec![queries, self.embedding],
            "attn_q.bias" => vec![queries],
            "attn_k.bias" | "attn_v.bias" => vec![keys],
            "attn_qkv.bias" => vec![queries + 2 * keys],
            "attn_q_norm.weight" | "attn_k_norm.weight" => vec![self.head],
            "ffn_up.weight" if fused => vec![self.embedding, 2 * self.feed_forward],
            "ffn_gate.weight" | "ffn_up.weight" => vec![self.embedding, self.feed_forward],
            "ffn_down.weight" => vec![self.feed_forward, self.embedding],
            "ffn_gate.bias" | "ffn_up.bias" => vec![self.feed_forward],
            _ => vec![self.embedding],
        }
    }
}

/// The numbers that a file gives for its architecture.
struct Numbers<'h> {
    architecture: &'static str,
    header: &'h Header,
}

impl Numbers<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.header.get(&format!("{}.{key}", self.architecture))
    }

    fn optional(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) if (least..=most).contains(value) => Ok(Some(*value)),
            Some(_) => damaged(format!("{key} is no number from {least} to {most}")),
        }
    }

    fn required(&self, key: &str, least: u64, most: u64) -> Result<u64, Fault> {
        self.optional(key, least, most)?.map_or_else(|| damaged(format!("{key} is missing")), Ok)
    }

    /// A number that leads to a layout which is not known here.
    fn absent(&self, key: &str) -> Result<(), Fault> {
        match self.get(key) {
            None | Some(Value::Unsigned(0)) => Ok(()),
            Some(_) => Err(Fault::Unchecked(format!("{} with {key}", self.architecture))),
        }
    }

    fn positive(&self, key: &str, required: bool) -> Result<(), Fault> {
        match self.get(key) {
            Some(Value::Float(value)) if value.is_finite() && *value > 0.0 => Ok(()),
            None if !required => Ok(()),
            _ => damaged(format!("{key} is no positive number")),
        }
    }
}
