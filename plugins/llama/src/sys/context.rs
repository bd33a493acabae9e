#![allow(unsafe_code, reason = "llama.cpp is called here and nowhere else")]
//! A context: the caches of sequences, and forward passes over them.

use std::{
    ffi::c_void,
    marker::PhantomData,
    ptr::NonNull,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use selvedge_core::{Error, ErrorKind, Result};

use super::{Batch, ThreadPool};

/// How a context is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Places for tokens in each slot.
    pub(crate) context_length: usize,
    /// Sequences whose caches it holds.
    pub(crate) slots: usize,
    /// The most rows in one pass.
    pub(crate) batch: usize,
    pub(crate) threads: usize,
    pub(crate) pooling: Pooling,
}

/// What comes out of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// Logits of the rows that want an output.
    Logits,
    /// The mean of the rows' embeddings, by sequence.
    Mean,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Done,
    /// The flag was raised: some rows may be in the caches, and none has an output.
    CutShort,
}

/// llama.cpp's context, used by one thread: making two at once from one model is not allowed.
pub(crate) struct Context<'m> {
    pointer: NonNull<sys::llama_context>,
    vocabulary: usize,
    embedding_length: usize,
    batch: usize,
    threads: usize,
    // Both are used by llama.cpp until the context is freed, which is before the fields are dropped.
    _pool: Rc<ThreadPool>,
    _flag: Arc<AtomicBool>,
    _model: PhantomData<&'m LlamaModel>,
}

/// The model's pointer, which its type keeps to itself.
fn model_pointer(model: &LlamaModel) -> *mut sys::llama_model {
    const { assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>()) }
    // SAFETY: `LlamaModel` is `repr(transparent)` over a pointer type that is `repr(transparent)` over
    // `NonNull<llama_model>`, in the one version that `Cargo.toml` pins.
    unsafe { std::mem::transmute_copy(model) }
}

/// Asked by ggml between two nodes of its graph.
extern "C" fn raised(flag: *mut c_void) -> bool {
    // SAFETY: it is the flag that the context was made with, which lives as long as the context.
    unsafe { &*flag.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

impl<'m> Context<'m> {
    /// `flag`, when raised, cuts a pass short.
    pub(crate) fn new(
        model: &'m LlamaModel,
        settings: Settings,
        pool: &Rc<ThreadPool>,
        flag: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let threads = i32::try_from(settings.threads).unwrap_or(i32::MAX);
        // SAFETY: a plain function.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = small(settings.context_length.saturating_mul(settings.slots));
        params.n_batch = small(settings.batch);
        params.n_ubatch = small(settings.batch);
        params.n_seq_max = small(settings.slots);
        params.n_threads = threads;
        params.n_threads_batch = threads;
        params.no_perf = true;
        // Each sequence attends to its own cache only: one cache for all makes each look at the cells of all others.
        params.kv_unified = false;
        if settings.pooling == Pooling::Mean {
            params.embeddings = true;
            params.pooling_type = sys::LLAMA_POOLING_TYPE_MEAN;
        } else {
            // Of a prompt only the last row has an output. Memory for an output of each row would be set aside otherwise.
            params.n_outputs_max = small(settings.slots);
        }
        params.abort_callback = Some(raised);
        params.abort_callback_data = Arc::as_ptr(flag).cast_mut().cast();
        // SAFETY: the model lives for `'m`, and so does this context at the most; the callback's data is kept below.
        let pointer = unsafe { sys::llama_init_from_model(model_pointer(model), params) };
        let pointer = NonNull::new(pointer).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "llama.open", "llama.cpp cannot make a context for this model")
                .advise(
                    "open it with a shorter context or for fewer sequences, or free memory; llama.cpp's log says more",
                )
                .retry(false)
        })?;
        // SAFETY: both pointers are valid, and the pool is kept until the context is freed.
        unsafe { sys::llama_attach_threadpool(pointer.as_ptr(), pool.as_ptr(), pool.as_ptr()) };
        Ok(Self {
            pointer,
            vocabulary: usize::try_from(model.n_vocab()).unwrap_or(0),
            embedding_length: usize::try_from(model.n_embd_out()).unwrap_or(0),
            batch: settings.batch,
            threads: settings.threads,
            _pool: pool.clone(),
            _flag: flag.clone(),
            _model: PhantomData,
        })
    }

    /// The most rows in one pass.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Threads of the passes from now on: at most those of the pool.
    pub(crate) fn set_threads(&mut self, threads: usize) {
        if threads != self.threads {
            self.threads = threads;
            let threads = i32::try_from(threads).unwrap_or(i32::MAX);
            // SAFETY: the context is valid.
            unsafe { sys::llama_set_n_threads(self.pointer.as_ptr(), threads, threads) };
        }
    }

    /// One forward pass.
    pub(crate) fn decode(&mut self, batch: &mut Batch) -> Result<Decoded> {
        // SAFETY: the context is valid, and the rows live and stay where they are during the call.
        match unsafe { sys::llama_decode(self.pointer.as_ptr(), batch.raw()) } {
            0 => Ok(Decoded::Done),
            2 => Ok(Decoded::CutShort),
            1 => Err(failed("there is no room in the caches")),
            -1 => Err(failed("the rows are not valid")),
            code => Err(failed(&format!("code {code}"))),
        }
    }

    /// The logits of a row that wanted an output.
    pub(crate) fn logits(&mut self, row: usize) -> Result<&[f32]> {
        let row = i32::try_from(row).unwrap_or(i32::MAX);
        // SAFETY: the context is valid; for a row without output the answer is null.
        let logits = unsafe { sys::llama_get_logits_ith(self.pointer.as_ptr(), row) };
        // SAFETY: as many as the vocabulary has, until the next pass, which needs `&mut self`.
        self.floats(logits, self.vocabulary).ok_or_else(|| failed("a row has no logits"))
    }

    /// The mean embedding of a slot's rows in the last pass.
    pub(crate) fn embedding(&mut self, slot: usize) -> Result<&[f32]> {
        let slot = i32::try_from(slot).unwrap_or(i32::MAX);
        // SAFETY: the context is valid; for a slot without rows the answer is null.
        let embedding = unsafe { sys::llama_get_embeddings_seq(self.pointer.as_ptr(), slot) };
        self.floats(embedding, self.embedding_length).ok_or_else(|| failed("a text has no embedding"))
    }

    /// Numbers that llama.cpp owns until the next call that takes `&mut self`.
    fn floats(&self, pointer: *mut f32, count: usize) -> Option<&[f32]> {
        // SAFETY: llama.cpp answers null, or a pointer to `count` numbers: the vocabulary's logits, or an embedding.
        NonNull::new(pointer).map(|pointer| unsafe { std::slice::from_raw_parts(pointer.as_ptr(), count) })
    }

    /// Empties a slot from a place on. False when that is not possible for this model: then the whole slot has to go.
    pub(crate) fn forget(&mut self, slot: usize, from: usize) -> bool {
        let (slot, from) = (i32::try_from(slot).unwrap_or(i32::MAX), i32::try_from(from).unwrap_or(i32::MAX));
        // SAFETY: the context and so its memory are valid; -1 stands for the end.
        unsafe { sys::llama_memory_seq_rm(sys::llama_get_memory(self.pointer.as_ptr()), slot, from, -1) }
    }

    /// Empties all slots.
    pub(crate) fn forget_all(&mut self) {
        // SAFETY: the context and so its memory are valid.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.pointer.as_ptr()), true) }
    }

    /// The bytes that a copy of what a slot holds takes.
    pub(crate) fn size(&self, slot: usize) -> usize {
        let slot = i32::try_from(slot).unwrap_or(i32::MAX);
        // SAFETY: the context is valid.
        unsafe { sys::llama_state_seq_get_size(self.pointer.as_ptr(), slot) }
    }

    /// A copy of what a slot holds.
    pub(crate) fn save(&mut self, slot: usize) -> Vec<u8> {
        let size = self.size(slot);
        let slot = i32::try_from(slot).unwrap_or(i32::MAX);
        let mut state = vec![0; size];
        // SAFETY: it writes at most `size` bytes, which there are.
        let written = unsafe { sys::llama_state_seq_get_data(self.pointer.as_ptr(), state.as_mut_ptr(), size, slot) };
        state.truncate(written);
        state
    }

    /// Puts a copy that [`save`](Self::save) made of this context into an empty slot. False when that fails; the slot is
    /// empty then.
    pub(crate) fn restore(&mut self, slot: usize, state: &[u8]) -> bool {
        let number = i32::try_from(slot).unwrap_or(i32::MAX);
        // SAFETY: the bytes are read within their length.
        let read = unsafe { sys::llama_state_seq_set_data(self.pointer.as_ptr(), state.as_ptr(), state.len(), number) };
        let whole = read == state.len() && !state.is_empty();
        if !whole {
            self.forget(slot, 0);
        }
        whole
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: it was made by `llama_init_from_model` and is freed once.
        unsafe { sys::llama_free(self.pointer.as_ptr()) }
    }
}

fn failed(reason: &str) -> Error {
    Error::new(ErrorKind::Internal, "llama.step", "llama.cpp's forward pass failed").with("reason", reason)
}
