//! The rows of one forward pass.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2 as sys;

/// Rows, each a token at a place of a slot. Ordered by slot: llama.cpp takes neighbouring slots in one go.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    slots: Vec<sys::llama_seq_id>,
    outputs: Vec<i8>,
    // What llama.cpp wants beside it: each row is of one sequence.
    counts: Vec<i32>,
    pointers: Vec<*mut sys::llama_seq_id>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.outputs.clear();
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds a row. `output`: its logits, or its share in the embedding, are wanted.
    pub(crate) fn add(&mut self, token: LlamaToken, position: usize, slot: usize, output: bool) {
        // A context has far fewer places and slots than an i32 can name: the builder checks.
        self.tokens.push(token.0);
        self.positions.push(i32::try_from(position).unwrap_or(i32::MAX));
        self.slots.push(i32::try_from(slot).unwrap_or(i32::MAX));
        self.outputs.push(output.into());
    }

    /// The rows as llama.cpp takes them. Valid until this batch is changed or moved.
    pub(super) fn raw(&mut self) -> sys::llama_batch {
        self.counts.clear();
        self.counts.resize(self.tokens.len(), 1);
        self.pointers.clear();
        self.pointers.extend(self.slots.iter_mut().map(|slot| slot as *mut _));
        sys::llama_batch {
            n_tokens: i32::try_from(self.tokens.len()).unwrap_or(i32::MAX),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.counts.as_mut_ptr(),
            seq_id: self.pointers.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}
