//! Beginnings that prompts have in common, kept beside the slots: a system's prompt, a chat template's head.
//!
//! A slot still has what its last answer left, but only until somebody else needs it; while all are in use, nothing is left of what
//! everybody begins with.

use std::collections::VecDeque;

use crate::passage::{OwnedPassage, Passage};

/// A beginning shorter than this is not worth being kept, or restored where a slot has almost as much.
pub(crate) const WORTH: usize = 16;
/// So many of the last prompts are compared with one that comes.
const RECENT: usize = 32;

/// What prompts had in common, and the caches of it.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    recent: VecDeque<OwnedPassage>,
    /// The one that was used last is the last.
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    beginning: OwnedPassage,
    /// The cache of a sequence that begins so.
    state: Vec<u8>,
}

impl Prefixes {
    /// A prompt has come: how much of it others of the last ones begin with, if that is worth keeping and is not kept yet. A prompt
    /// that goes on from another, as a conversation's next turn does, finds that in its slot: a copy each turn would be for nobody.
    pub(crate) fn notice(&mut self, prompt: Passage<'_>) -> Option<usize> {
        let others = self.recent.iter().map(OwnedPassage::as_ref);
        let others = others.map(|other| (other.common(prompt), other.tokens.len()));
        let shared = others.filter(|(shared, length)| shared < length).map(|(shared, _)| shared).max().unwrap_or(0);
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(prompt.to_owned());
        self.lacks(prompt, shared).then_some(shared)
    }

    /// Whether a copy of so much of a prompt is worth having beside what is kept.
    pub(crate) fn lacks(&self, prompt: Passage<'_>, shared: usize) -> bool {
        let known = self.kept.iter().map(|kept| kept.beginning.as_ref().common(prompt)).max().unwrap_or(0);
        shared >= known + WORTH
    }

    /// Keeps a cache that begins so, and has `held` tokens with what came after. All that is kept has no more than `room`
    /// tokens: what was not used for longest goes.
    pub(crate) fn keep(&mut self, beginning: Passage<'_>, held: usize, state: Vec<u8>, room: usize) {
        let most = (state.len() / held.max(1)).saturating_mul(room);
        if state.is_empty() || state.len() > most {
            return;
        }
        self.kept.push(Kept { beginning: beginning.to_owned(), state });
        let mut bytes: usize = self.kept.iter().map(|kept| kept.state.len()).sum();
        while bytes > most {
            bytes -= self.kept.remove(0).state.len();
        }
    }

    /// With how many of a prompt's tokens the best of what is kept begins, if a slot that has `cached` of them is worth leaving for it.
    pub(crate) fn better(&self, prompt: Passage<'_>, cached: usize) -> Option<usize> {
        self.best(prompt, cached).map(|(_, common)| common)
    }

    /// The same, with the cache it is in.
    pub(crate) fn find(&mut self, prompt: Passage<'_>, cached: usize) -> Option<(&[u8], usize)> {
        let (at, common) = self.best(prompt, cached)?;
        let kept = self.kept.remove(at);
        self.kept.push(kept);
        self.kept.last().map(|kept| (&kept.state[..], common))
    }

    fn best(&self, prompt: Passage<'_>, cached: usize) -> Option<(usize, usize)> {
        let prompt = prompt.before_last();
        let known = self.kept.iter().map(|kept| kept.beginning.as_ref().common(prompt)).enumerate();
        known.max_by_key(|(_, common)| *common).filter(|(_, common)| *common >= cached + WORTH)
    }
}

#[cfg(test)]
mod tests {
    use llama_cpp_2::token::LlamaToken;

    use super::*;

    fn prompt(head: std::ops::Range<i32>, tail: i32) -> OwnedPassage {
        let tokens: Vec<_> = head.chain([tail; 8]).map(LlamaToken).collect();
        Passage { tenant: None, tokens: &tokens }.to_owned()
    }

    #[test]
    fn what_two_prompts_begin_with_is_kept_once() {
        let mut prefixes = Prefixes::default();
        assert_eq!(prefixes.notice(prompt(0..40, -1).as_ref()), None, "nobody else begins so");
        assert_eq!(prefixes.notice(prompt(0..40, -2).as_ref()), Some(40));
        assert_eq!(prefixes.notice(prompt(0..40, -3).as_ref()), Some(40), "nobody has kept it yet");
        prefixes.keep(prompt(0..40, -2).as_ref().first(40), 48, vec![7; 480], 1000);
        assert!(!prefixes.lacks(prompt(0..40, -3).as_ref(), 40), "somebody was faster");
        assert_eq!(prefixes.notice(prompt(0..40, -4).as_ref()), None, "it is kept");
        assert_eq!(prefixes.notice(prompt(0..10, -4).as_ref()), None, "too little");
        let asked = prompt(0..40, -5);
        assert_eq!(prefixes.better(asked.as_ref(), 0), Some(40));
        assert_eq!(prefixes.better(asked.as_ref(), 30), None, "ten tokens are not worth leaving the slot for");
        assert_eq!(prefixes.find(asked.as_ref(), 0), Some((&[7; 480][..], 40)));
        assert_eq!(prefixes.better(asked.as_ref().first(40), 0), Some(39), "the last is fed for its output");
        assert_eq!(prefixes.find(prompt(5..40, -5).as_ref(), 0), None);
    }

    #[test]
    fn a_conversation_that_goes_on_is_not_copied_each_turn() {
        let mut prefixes = Prefixes::default();
        for turn in 1..5 {
            let so_far: Vec<_> = (0..turn * 40).map(LlamaToken).collect();
            let so_far = Passage { tenant: None, tokens: &so_far };
            assert_eq!(prefixes.notice(so_far), None, "turn {turn}");
        }
        assert_eq!(prefixes.notice(prompt(0..40, -1).as_ref()), Some(40), "another begins like them");
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let mut prefixes = Prefixes::default();
        let heads = [0..20, 100..120, 200..220];
        for (number, head) in (0u8..).zip(heads.clone()) {
            // A byte a token, and room for two.
            prefixes.keep(prompt(head, -1).as_ref().first(20), 28, vec![number; 28], 60);
            prefixes.find(prompt(0..20, -2).as_ref(), 0);
        }
        let kept = heads.map(|head| prefixes.better(prompt(head, -2).as_ref(), 0));
        assert_eq!(kept, [Some(20), None, Some(20)]);
        prefixes.keep(prompt(300..400, -1).as_ref().first(100), 100, vec![9; 100], 60);
        assert_eq!(prefixes.better(prompt(300..400, -2).as_ref(), 0), None, "larger than all there is room for");
    }
}
