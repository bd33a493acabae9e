//! The places of a context: who holds which, and what lies in those that nobody holds.

use crate::{
    passage::{OwnedPassage, Passage},
    prefixes::WORTH,
};

/// The slots of a context. What an answer leaves behind stays until its slot is needed, so that a prompt with the same
/// beginning need not be read again.
#[derive(Debug)]
pub(crate) struct Slots(Vec<Slot>);

#[derive(Debug, Default)]
struct Slot {
    held: bool,
    /// What is in the cache while nobody holds the slot.
    left: OwnedPassage,
}

/// A slot that was taken, with so many tokens of the prompt in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) slot: usize,
    pub(crate) cached: usize,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Slot::default()).collect())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many of a passage's tokens the slot that [`take`](Self::take) would give has in its cache.
    pub(crate) fn common(&self, passage: Passage<'_>) -> usize {
        self.best(passage).map_or(0, |taken| taken.cached)
    }

    /// Takes a free slot for a passage of which at least the last has to be fed: the one that has the most of them already, or
    /// the lowest, so that the slots in use lie side by side. What else is in its cache is to be forgotten.
    pub(crate) fn take(&mut self, passage: Passage<'_>) -> Option<Taken> {
        let taken = self.best(passage)?;
        self.0[taken.slot] = Slot { held: true, left: OwnedPassage::default() };
        Some(taken)
    }

    fn best(&self, passage: Passage<'_>) -> Option<Taken> {
        let common = |slot: &Slot| slot.left.as_ref().common(passage.before_last());
        let mut free = self.0.iter().enumerate().filter(|(_, slot)| !slot.held);
        let mut best = free.next().map(|(slot, place)| Taken { slot, cached: common(place) })?;
        let lowest = best.cached;
        for (slot, place) in free {
            let cached = common(place);
            // A beginning shorter than that is not worth leaving the lowest free slot for.
            if cached > best.cached && cached >= lowest + WORTH {
                best = Taken { slot, cached };
            }
        }
        Some(best)
    }

    /// Whether nobody holds a slot.
    pub(crate) fn is_free(&self, slot: usize) -> bool {
        self.0.get(slot).is_some_and(|slot| !slot.held)
    }

    /// Takes note that two slots have exchanged what they hold.
    pub(crate) fn swap(&mut self, one: usize, other: usize) {
        self.0.swap(one, other);
    }

    /// Gives a slot back with what is in its cache.
    pub(crate) fn give_back(&mut self, slot: usize, left: OwnedPassage) {
        if let Some(place) = self.0.get_mut(slot) {
            *place = Slot { held: false, left };
        }
    }
}

#[cfg(test)]
mod tests {
    use llama_cpp_2::token::LlamaToken;

    use super::*;

    fn passage(range: std::ops::Range<i32>) -> OwnedPassage {
        let tokens: Vec<_> = range.map(LlamaToken).collect();
        Passage { tenant: None, tokens: &tokens }.to_owned()
    }

    #[test]
    fn the_lowest_free_slot_is_taken_unless_another_has_much_of_the_prompt() {
        let mut slots = Slots::new(3);
        let prompt = passage(0..100);
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 0, cached: 0 }));
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 1, cached: 0 }));
        slots.give_back(1, passage(0..60));
        // Slot 2 is free too, and empty; slot 1 is both lower and better.
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 1, cached: 60 }));
        slots.give_back(1, passage(0..60));
        slots.give_back(0, passage(0..50));
        assert_eq!(
            slots.take(prompt.as_ref()),
            Some(Taken { slot: 0, cached: 50 }),
            "ten tokens are not worth the higher slot"
        );
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 1, cached: 60 }));
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 2, cached: 0 }));
        assert_eq!(slots.take(prompt.as_ref()), None);
    }

    #[test]
    fn the_last_token_is_fed_again_for_its_output() {
        let mut slots = Slots::new(1);
        let prompt = passage(0..40);
        slots.take(prompt.as_ref());
        slots.give_back(0, passage(0..90));
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 0, cached: 39 }));
        slots.give_back(0, passage(5..9));
        assert_eq!(slots.take(prompt.as_ref()), Some(Taken { slot: 0, cached: 0 }));
    }
}
