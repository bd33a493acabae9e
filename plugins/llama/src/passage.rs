//! Tokens, and whose they are.

use llama_cpp_2::token::LlamaToken;

/// What a sequence consists of, as the caches see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage<'a> {
    pub(crate) tenant: Option<&'a str>,
    pub(crate) tokens: &'a [LlamaToken],
}

impl<'a> Passage<'a> {
    /// With how many of its tokens another begins as well. With none if that is another tenant's: how soon an answer comes would tell
    /// one what the other has asked.
    pub(crate) fn common(self, other: Passage<'_>) -> usize {
        if self.tenant != other.tenant {
            return 0;
        }
        self.tokens.iter().zip(other.tokens).take_while(|(a, b)| a == b).count()
    }

    /// At most so many of its tokens.
    pub(crate) fn first(self, count: usize) -> Self {
        Self { tokens: &self.tokens[..count.min(self.tokens.len())], ..self }
    }

    /// All that need not be fed for an output: the last token does.
    pub(crate) fn before_last(self) -> Self {
        self.first(self.tokens.len().saturating_sub(1))
    }

    pub(crate) fn to_owned(self) -> OwnedPassage {
        OwnedPassage { tenant: self.tenant.map(str::to_owned), tokens: self.tokens.to_vec() }
    }
}

/// A passage that stays after its sequence has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedPassage {
    tenant: Option<String>,
    tokens: Vec<LlamaToken>,
}

impl OwnedPassage {
    pub(crate) fn as_ref(&self) -> Passage<'_> {
        Passage { tenant: self.tenant.as_deref(), tokens: &self.tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_have_no_beginning_in_common() {
        let tokens: Vec<_> = (0..9).map(LlamaToken).collect();
        let of = |tenant| Passage { tenant, tokens: &tokens };
        for (one, other, common) in
            [(None, None, 9), (Some("a"), Some("a"), 9), (Some("a"), Some("b"), 0), (Some("a"), None, 0)]
        {
            assert_eq!(of(one).common(of(other)), common);
            assert_eq!(of(one).common(of(other).to_owned().as_ref().before_last()), common.min(8));
        }
    }
}
