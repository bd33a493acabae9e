//! Beginnings that prompts have in common, kept beside the slots: a system's prompt, a chat template's head.
//!
//! A slot still has what its last answer left, but only until somebody else needs it; while all are in use, nothing is left of what
//! everybody begins with.

use std::collections::VecDeque;

use llama_cpp_2::token::LlamaToken;

/// A beginning shorter than this is not worth being kept, or restored where a slot has almost as much.
pub(crate) const WORTH: usize = 16;
/// So many of the last prompts are compared with one that comes.
const RECENT: usize = 32;

/// What prompts had in common, and the caches of it.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    recent: VecDeque<Vec<LlamaToken>>,
    /// The one that was used last is the last.
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    tokens: Vec<LlamaToken>,
    /// The cache of a sequence that begins with them.
    state: Vec<u8>,
}

fn common(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    /// A prompt has come: how much of it some of the last ones begin with, if that is worth keeping and is not kept yet.
    pub(crate) fn notice(&mut self, prompt: &[LlamaToken]) -> Option<usize> {
        let shared = self.recent.iter().map(|other| common(other, prompt)).max().unwrap_or(0);
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(prompt.to_vec());
        let known = self.kept.iter().map(|kept| common(&kept.tokens, prompt)).max().unwrap_or(0);
        (shared >= known + WORTH).then_some(shared)
    }

    /// Keeps a cache of these tokens, which has `held` of them and of what came after. All that is kept has no more than `room`
    /// tokens: what was not used for longest goes.
    pub(crate) fn keep(&mut self, tokens: &[LlamaToken], held: usize, state: Vec<u8>, room: usize) {
        let most = (state.len() / held.max(1)).saturating_mul(room);
        if state.is_empty() || state.len() > most {
            return;
        }
        self.kept.push(Kept { tokens: tokens.to_vec(), state });
        let mut bytes: usize = self.kept.iter().map(|kept| kept.state.len()).sum();
        while bytes > most {
            bytes -= self.kept.remove(0).state.len();
        }
    }

    /// With how many of a prompt's tokens the best of what is kept begins; the last of them has to be fed anyway.
    pub(crate) fn common(&self, tokens: &[LlamaToken]) -> usize {
        self.best(tokens).map_or(0, |(_, cached)| cached)
    }

    /// The cache that has the most of a prompt, and how many tokens of it are the prompt's.
    pub(crate) fn take(&mut self, tokens: &[LlamaToken]) -> Option<(&[u8], usize)> {
        let (at, cached) = self.best(tokens)?;
        let kept = self.kept.remove(at);
        self.kept.push(kept);
        self.kept.last().map(|kept| (&kept.state[..], cached))
    }

    fn best(&self, tokens: &[LlamaToken]) -> Option<(usize, usize)> {
        let most = tokens.len().saturating_sub(1);
        let known = self.kept.iter().map(|kept| common(&kept.tokens, &tokens[..most])).enumerate();
        known.max_by_key(|(_, cached)| *cached).filter(|(_, cached)| *cached > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(head: std::ops::Range<i32>, tail: i32) -> Vec<LlamaToken> {
        head.chain([tail; 8]).map(LlamaToken).collect()
    }

    #[test]
    fn what_two_prompts_begin_with_is_kept_once() {
        let mut prefixes = Prefixes::default();
        assert_eq!(prefixes.notice(&prompt(0..40, -1)), None, "nobody else begins so");
        assert_eq!(prefixes.notice(&prompt(0..40, -2)), Some(40));
        prefixes.keep(&prompt(0..40, -2)[..40], 48, vec![7; 480], 1000);
        assert_eq!(prefixes.notice(&prompt(0..40, -3)), None, "it is kept");
        assert_eq!(prefixes.notice(&prompt(0..10, -3)), None, "too little");
        let asked = prompt(0..40, -4);
        assert_eq!(prefixes.common(&asked), 40);
        assert_eq!(prefixes.take(&asked), Some((&[7; 480][..], 40)));
        assert_eq!(prefixes.take(&asked[..40]).map(|(_, cached)| cached), Some(39), "the last is fed for its output");
        assert_eq!(prefixes.take(&prompt(5..40, -4)), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let mut prefixes = Prefixes::default();
        let heads = [0..20, 100..120, 200..220];
        for (number, head) in (0u8..).zip(heads.clone()) {
            // A byte a token, and room for two.
            prefixes.keep(&prompt(head, -1)[..20], 28, vec![number; 28], 60);
            prefixes.take(&prompt(0..20, -2));
        }
        let kept = heads.map(|head| prefixes.common(&prompt(head, -2)));
        assert_eq!(kept, [20, 0, 20]);
        prefixes.keep(&prompt(300..400, -1)[..100], 100, vec![9; 100], 60);
        assert_eq!(prefixes.common(&prompt(300..400, -2)), 0, "larger than all there is room for");
    }
}
