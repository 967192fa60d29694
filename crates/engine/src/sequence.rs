//! A request's tokens, and how many of them the cache holds.

use std::cmp::Reverse;
use std::time::Duration;

use backend::KV_BLOCK_SIZE;

use crate::RequestId;
use crate::block_manager::PrefixId;

/// After so many preemptions a sequence goes before all others: it has given way often enough.
const PREEMPTIONS_MAX: u32 = 4;

/// Who goes first: the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Those who are due come first, in the order of their arrival.
    is_not_due: bool,
    priority: Reverse<i32>,
    arrival: RequestId,
}

impl Rank {
    /// Whose it is; later ones are greater.
    pub(crate) fn arrival(&self) -> RequestId {
        self.arrival
    }
}

/// The tokens of a request and their place in the cache.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Its name; later ones are greater.
    pub(crate) id: RequestId,
    pub(crate) priority: i32,
    pub(crate) deadline: Option<Duration>,
    /// Goes before all that are not due, whatever the priority.
    pub(crate) is_due: bool,
    /// Prompt and answer, as far as it goes.
    pub(crate) tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub(crate) prompt_len: usize,
    /// Tokens whose keys and values the cache holds, from the beginning.
    pub(crate) num_computed: usize,
    /// Blocks of the cache, in order.
    pub(crate) block_table: Vec<u32>,
    /// Names of the first blocks of the table, those that are full and computed.
    pub(crate) prefix: Vec<PrefixId>,
    /// While it waits: cached blocks with which it begins, to be looked at again.
    pub(crate) matched: Vec<(PrefixId, u32)>,
    /// Steps that it has waited for another to compute what both need.
    pub(crate) prefix_waits: u32,
    /// Tokens that were in the cache when it first ran.
    pub(crate) num_cached: Option<usize>,
    /// Tokens of the prompt that have been reported as done.
    num_reported: usize,
    /// The next token of the prompt whose log-probability is wanted; none from `prompt_len` on.
    pub(crate) next_logprob: usize,
    /// Whether tokens are generated; else the prompt is scored alone.
    generates: bool,
    preemptions: u32,
}

impl Sequence {
    /// A sequence of which nothing is computed. `logprobs_from` is the first token of the prompt whose log-probability is
    /// wanted.
    pub(crate) fn new(
        id: RequestId,
        prompt: Vec<u32>,
        generates: bool,
        logprobs_from: Option<usize>,
    ) -> Self {
        Sequence {
            id,
            priority: 0,
            deadline: None,
            is_due: false,
            prompt_len: prompt.len(),
            next_logprob: logprobs_from.map_or(prompt.len(), |from| from.clamp(1, prompt.len())),
            tokens: prompt,
            num_computed: 0,
            block_table: Vec::new(),
            prefix: Vec::new(),
            matched: Vec::new(),
            prefix_waits: 0,
            num_cached: None,
            num_reported: 0,
            generates,
            preemptions: 0,
        }
    }

    /// Its place among others.
    pub(crate) fn rank(&self) -> Rank {
        let priority = if self.is_due { 0 } else { self.priority };
        Rank { is_not_due: !self.is_due, priority: Reverse(priority), arrival: self.id }
    }

    /// Tokens to compute before there is something new to know: all, but where nothing is generated the last one is given.
    pub(crate) fn target(&self) -> usize {
        self.tokens.len() - usize::from(!self.generates)
    }

    /// Tokens that have yet to be computed.
    pub(crate) fn remaining(&self) -> usize {
        self.target() - self.num_computed
    }

    /// Blocks that hold all that is to be computed.
    pub(crate) fn blocks_needed(&self) -> usize {
        self.target().div_ceil(KV_BLOCK_SIZE)
    }

    /// The first position whose logits are wanted; so are those of every position after it. It has to be computed, even if
    /// it is cached.
    pub(crate) fn first_row(&self) -> usize {
        let next = if self.wants_logprobs() { self.next_logprob } else { self.tokens.len() };
        next - 1
    }

    /// Whether the token after this position is to be drawn: it is the last.
    pub(crate) fn draws_at(&self, position: usize) -> bool {
        position + 1 == self.tokens.len()
    }

    /// Whether tokens are generated.
    pub(crate) fn generates(&self) -> bool {
        self.generates
    }

    /// Whether the log-probability of a token of the prompt is wanted and not known yet.
    pub(crate) fn wants_logprobs(&self) -> bool {
        self.next_logprob < self.prompt_len
    }

    /// How many tokens of the prompt are done, if that are more than when it was asked last.
    pub(crate) fn newly_done(&mut self) -> Option<usize> {
        let is_whole = self.num_computed >= self.target().min(self.prompt_len);
        let done = if is_whole { self.prompt_len } else { self.num_computed };
        let is_more = done > self.num_reported;
        self.num_reported = self.num_reported.max(done);
        is_more.then_some(done)
    }

    /// Blocks at its beginning that may come from the cache.
    pub(crate) fn cacheable_blocks(&self) -> usize {
        self.first_row().min(self.target()) / KV_BLOCK_SIZE
    }

    /// The tokens of a full block.
    pub(crate) fn block_tokens(&self, index: usize) -> Option<[u32; KV_BLOCK_SIZE]> {
        self.tokens.as_chunks().0.get(index).copied()
    }

    /// Forgets what is computed, to begin again; its blocks must have been given back.
    pub(crate) fn preempt(&mut self) {
        debug_assert!(self.block_table.is_empty());
        self.num_computed = 0;
        self.prefix.clear();
        self.matched.clear();
        self.preemptions += 1;
        self.is_due |= self.preemptions >= PREEMPTIONS_MAX;
    }
}
