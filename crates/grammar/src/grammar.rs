//! A compiled constraint, and an answer's way through it.

use std::sync::Arc;

use crate::{GrammarError, Spec, Vocabulary};

/// A compiled constraint, shared by all answers that must fit it.
#[derive(Debug, Clone)]
pub struct Grammar {}

impl Grammar {
    /// Compiles a constraint.
    ///
    /// # Errors
    /// Names what in it is not supported.
    pub fn compile(vocabulary: &Arc<Vocabulary>, spec: &Spec) -> Result<Self, GrammarError> {
        let _ = (vocabulary, spec);
        unimplemented!()
    }

    /// Tokens of a short text that fits, which a budget must allow at least; `None` where ends in time are not
    /// guaranteed (regular expressions and grammars).
    pub fn shortest(&self) -> Option<usize> {
        unimplemented!()
    }

    /// The way of one answer.
    pub fn matcher(&self) -> Matcher {
        unimplemented!()
    }
}

/// One answer's way through a grammar. `remaining` is always the number of tokens that may yet be generated, EOS not
/// counted: an answer that is complete needs none.
#[derive(Debug, Clone)]
pub struct Matcher {}

impl Matcher {
    /// Writes which tokens may come next: bit `i` of word `w` is token `32 w + i`. EOS is among them where the answer may end.
    ///
    /// # Errors
    /// If the grammar fails.
    pub fn mask(&mut self, remaining: usize, mask: &mut [u32]) -> Result<(), GrammarError> {
        let _ = (remaining, mask);
        unimplemented!()
    }

    /// Whether the budget is so near its end that [`Matcher::accept`] may refuse a token of the mask.
    pub fn is_near_limit(&self, remaining: usize) -> bool {
        let _ = remaining;
        unimplemented!()
    }

    /// Takes a token of the mask (not EOS); `remaining` counts from before it. `false`: the answer could not be completed
    /// after it within the budget; nothing has changed, and another token of the mask must be taken. One always can.
    ///
    /// # Errors
    /// If the grammar fails.
    pub fn accept(&mut self, token: u32, remaining: usize) -> Result<bool, GrammarError> {
        let _ = (token, remaining);
        unimplemented!()
    }

    /// Whether what has been taken fits as it is.
    pub fn is_complete(&self) -> bool {
        unimplemented!()
    }

    /// Whether nothing but EOS may come.
    pub fn is_finished(&self) -> bool {
        unimplemented!()
    }

    /// Whether the budget has decided about a token: the answer is then shorter than the model would have had it.
    pub fn was_cut(&self) -> bool {
        unimplemented!()
    }
}
