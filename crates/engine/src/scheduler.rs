//! Which sequences get how many tokens of a step.
//!
//! Everything here follows from what was submitted, cancelled and computed, in that order: no clock, no chance.
//!
//! - Those that run decode in every step; what a step has left goes to prompts, in the order of rank.
//! - Rank is priority, then arrival. So within a priority the first to come is the first to be served.
//! - No one starves: of those that came later, at most [`BYPASS_MAX`] run before the oldest that waits. It is *due* then:
//!   next whatever its priority, and not to be preempted by any that is not due. So is one that was preempted too often.
//!   The oldest that is due is never preempted, and every sequence fits alone: it ends, and another is the oldest.
//! - A sequence gets the blocks of its whole prompt when it begins, and one more whenever it has filled the last. Where
//!   there is none, the last in rank is preempted: it gives up its blocks and is computed again when there is room.
//! - One whose next block is being computed by another waits for it, rather than compute it again.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::RequestId;
use crate::block_manager::{BlockManager, PrefixId};
use crate::sequence::{Rank, Sequence};

/// How many later ones may run before the oldest that waits.
const BYPASS_MAX: u32 = 16;
/// Steps that a sequence waits, at most, for others to compute what it needs too.
const PREFIX_WAITS_MAX: u32 = 1000;

/// Bounds of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Tokens.
    pub(crate) tokens: usize,
    /// Sequences; no more than tokens or rows, so that all can decode.
    pub(crate) sequences: usize,
    /// Rows whose logits are wanted.
    pub(crate) rows: usize,
}

/// The part that a sequence has in a step: its tokens from `num_computed` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its place in [`Scheduler::running`].
    pub(crate) index: usize,
    /// How many tokens.
    pub(crate) len: usize,
}

/// All sequences, and the blocks that they share.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    blocks: BlockManager,
    waiting: BTreeMap<Rank, Sequence>,
    /// In the order of rank.
    running: Vec<Sequence>,
    /// Of those that wait, how many have not begun.
    new: usize,
    /// How many have run since the oldest that waits was overtaken first.
    bypassed: u32,
    /// How often a sequence was preempted, since the start.
    pub(crate) preemptions: u64,
    /// Tokens of prompts that began, and those of them that were cached, since the start.
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

impl Scheduler {
    /// Nothing to do, and all blocks free.
    pub(crate) fn new(limits: Limits, blocks: BlockManager) -> Self {
        let Limits { tokens, sequences, rows } = limits;
        let limits = Limits { sequences: sequences.min(tokens).min(rows), ..limits };
        assert!(limits.sequences > 0, "a step holds something");
        Scheduler {
            limits,
            blocks,
            waiting: BTreeMap::new(),
            running: Vec::new(),
            new: 0,
            bypassed: 0,
            preemptions: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
        }
    }

    /// Puts a sequence into the queue.
    pub(crate) fn add(&mut self, sequence: Sequence) {
        self.new += usize::from(sequence.num_cached.is_none());
        self.waiting.insert(sequence.rank(), sequence);
    }

    /// Takes a sequence out, wherever it is; its blocks are free at once.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(index);
            self.blocks.release_all(&mut sequence.block_table);
            return Some(sequence);
        }
        let rank = *self.waiting.iter().find(|(_, sequence)| sequence.id == id)?.0;
        self.take_waiting(rank)
    }

    /// One of those that run has computed nonsense: what it entered into the cache is not to be relied on.
    pub(crate) fn distrust(&mut self, index: usize) {
        self.blocks.distrust(&self.running[index].block_table);
    }

    /// Those that run, in the order of rank.
    pub(crate) fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// One of those that run.
    pub(crate) fn running_mut(&mut self, index: usize) -> &mut Sequence {
        &mut self.running[index]
    }

    /// All sequences.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.running.iter().chain(self.waiting.values())
    }

    /// Whether there is something to compute.
    pub(crate) fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// How many wait, those that were preempted among them.
    pub(crate) fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many have not begun.
    pub(crate) fn num_new(&self) -> usize {
        self.new
    }

    /// The blocks.
    pub(crate) fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// Decides about the next step. It is empty only if there is nothing to do.
    pub(crate) fn schedule(&mut self, plan: &mut Vec<Chunk>) {
        // Where blocks are so short, another sequence would only take them from those that run.
        if !self.grow() {
            self.admit();
        }
        self.share(plan);
    }

    /// Gives those that run the blocks that they need next, if need be by preempting the last in rank. Says whether it had to.
    fn grow(&mut self) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            if sequence.block_table.len() >= sequence.blocks_needed() {
                index += 1;
            } else if let Some(block) = self.blocks.allocate() {
                sequence.block_table.push(block);
            } else {
                preempted = true;
                self.preempt_last();
            }
        }
        preempted
    }

    fn preempt_last(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        self.blocks.release_all(&mut sequence.block_table);
        sequence.preempt();
        self.preemptions += 1;
        self.add(sequence);
    }

    /// Lets sequences begin, as many as the step has tokens for.
    fn admit(&mut self) {
        let taken: usize = self.running.iter().map(Sequence::remaining).sum();
        let mut left = self.limits.tokens.saturating_sub(taken);
        // Those up to this rank wait for others to compute what they need too.
        let mut passed = None;
        let mut oldest_first = self.bypassed >= BYPASS_MAX;
        while left > 0 {
            let Some(rank) = self.next_candidate(passed, oldest_first) else { break };
            let Some(mut sequence) = self.take_waiting(rank) else { break };
            let limit = sequence.cacheable_blocks();
            self.blocks.find_prefix(&sequence.tokens, limit, &mut sequence.matched);
            if self.is_computed_by_another(&sequence) {
                sequence.prefix_waits += 1;
                self.add(sequence);
                if !std::mem::take(&mut oldest_first) {
                    passed = Some(rank);
                }
                continue;
            }
            if !self.make_room(&sequence) {
                self.add(sequence);
                break;
            }
            let oldest = self.waiting.values().map(|waiting| waiting.id).min();
            if oldest.is_some_and(|oldest| oldest < sequence.id) {
                self.bypassed += 1;
            } else {
                sequence.is_due |= self.bypassed >= BYPASS_MAX;
                self.bypassed = 0;
            }
            oldest_first = self.bypassed >= BYPASS_MAX;
            self.start(&mut sequence);
            left = left.saturating_sub(sequence.remaining());
            let at = self.running.partition_point(|other| other.rank() < sequence.rank());
            self.running.insert(at, sequence);
        }
    }

    /// The first in rank after `passed`, or the oldest.
    fn next_candidate(&self, passed: Option<Rank>, oldest_first: bool) -> Option<Rank> {
        if oldest_first {
            let oldest = self.waiting.iter().min_by_key(|(_, sequence)| sequence.id);
            return oldest.map(|(&rank, _)| rank);
        }
        let after = passed.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiting.range((after, Bound::Unbounded)).map(|(&rank, _)| rank).next()
    }

    fn take_waiting(&mut self, rank: Rank) -> Option<Sequence> {
        let sequence = self.waiting.remove(&rank)?;
        self.new -= usize::from(sequence.num_cached.is_none());
        Some(sequence)
    }

    /// Whether one that runs is about to compute the block that this one needs next.
    fn is_computed_by_another(&self, sequence: &Sequence) -> bool {
        let index = sequence.matched.len();
        if sequence.prefix_waits >= PREFIX_WAITS_MAX || index >= sequence.cacheable_blocks() {
            return false;
        }
        let parent = sequence.matched.last().map(|&(prefix, _)| prefix);
        let wanted = sequence.block_tokens(index);
        self.blocks.is_enabled()
            && self.running.iter().any(|other| {
                let known = other.prefix.len() >= index;
                let end = (index + 1) * backend::KV_BLOCK_SIZE;
                known
                    && end > other.num_computed
                    && end <= other.target()
                    && other.remaining() > 1
                    && index.checked_sub(1).map(|last| other.prefix[last]) == parent
                    && other.block_tokens(index) == wanted
            })
    }

    /// Whether there is room for a sequence, if need be after some of lower priority gave up theirs.
    fn make_room(&mut self, sequence: &Sequence) -> bool {
        let lesser = |other: &Sequence| !other.is_due && other.priority < sequence.priority;
        let victims = self.running.iter().rev().take_while(|other| lesser(other)).count();
        if !self.has_room(sequence, victims) {
            return false;
        }
        while !self.has_room(sequence, 0) {
            self.preempt_last();
            self.bypassed += 1;
        }
        true
    }

    /// Whether there is room for a sequence without the last `victims` of those that run.
    fn has_room(&self, sequence: &Sequence, victims: usize) -> bool {
        let staying = self.running.len() - victims;
        if staying >= self.limits.sequences {
            return false;
        }
        // Blocks that only the victims hold come free; those among them that the newcomer begins with stay taken.
        let only_theirs = |block: u32| self.blocks.ref_count(block) == 1;
        let mut freed = 0;
        let mut idle_matched = sequence
            .matched
            .iter()
            .filter(|&&(_, block)| self.blocks.ref_count(block) == 0)
            .count();
        for victim in &self.running[staying..] {
            freed += victim.block_table.iter().filter(|&&block| only_theirs(block)).count();
            let shared = victim.block_table.iter().zip(&sequence.matched);
            idle_matched +=
                shared.filter(|&(&block, &(_, same))| block == same && only_theirs(block)).count();
        }
        let needed = sequence.blocks_needed() - sequence.matched.len();
        // A block more for each that runs: else one of them would soon have to be preempted for it.
        let reserve = staying;
        needed + idle_matched + reserve <= self.blocks.available() + freed
    }

    /// Takes a sequence's blocks: those that are cached, and new ones.
    fn start(&mut self, sequence: &mut Sequence) {
        for (prefix, block) in std::mem::take(&mut sequence.matched) {
            self.blocks.hold(block);
            sequence.block_table.push(block);
            sequence.prefix.push(prefix);
        }
        sequence.num_computed = sequence.block_table.len() * backend::KV_BLOCK_SIZE;
        while sequence.block_table.len() < sequence.blocks_needed() {
            let Some(block) = self.blocks.allocate() else {
                unreachable!("room was made for {} blocks", sequence.blocks_needed())
            };
            sequence.block_table.push(block);
        }
        if sequence.num_cached.is_none() {
            let cached = sequence.num_computed.min(sequence.prompt_len);
            sequence.num_cached = Some(cached);
            self.prompt_tokens += sequence.prompt_len as u64;
            self.cached_tokens += cached as u64;
        }
    }

    /// Shares a step out: a token to each that decodes, the rest to prompts.
    fn share(&self, plan: &mut Vec<Chunk>) {
        plan.clear();
        let Limits { mut tokens, mut rows, .. } = self.limits;
        let sequences = || self.running.iter().enumerate();
        for (index, _) in sequences().filter(|(_, sequence)| sequence.remaining() == 1) {
            plan.push(Chunk { index, len: 1 });
            (tokens, rows) = (tokens - 1, rows - 1);
        }
        for (index, sequence) in sequences().filter(|(_, sequence)| sequence.remaining() > 1) {
            let without_rows = sequence.first_row().saturating_sub(sequence.num_computed);
            let len = sequence.remaining().min(tokens).min(without_rows + rows);
            if len > 0 {
                plan.push(Chunk { index, len });
                tokens -= len;
                rows -= len.saturating_sub(without_rows);
            }
        }
    }

    /// Enters what a step has computed.
    pub(crate) fn computed(&mut self, plan: &[Chunk]) {
        for chunk in plan {
            let sequence = &mut self.running[chunk.index];
            sequence.num_computed += chunk.len;
            let full = sequence.num_computed / backend::KV_BLOCK_SIZE;
            for index in sequence.prefix.len()..full {
                let parent = sequence.prefix.last().copied().unwrap_or(PrefixId::EMPTY);
                let block = sequence.block_table[index];
                let Some(tokens) = sequence.block_tokens(index) else { break };
                let Some((prefix, block)) = self.blocks.register(block, parent, tokens) else {
                    break;
                };
                sequence.block_table[index] = block;
                sequence.prefix.push(prefix);
            }
        }
    }

    /// Checks all that must be true between two steps.
    #[cfg(test)]
    pub(crate) fn assert_consistent(&self) {
        let tables = self.running.iter().map(|sequence| sequence.block_table.as_slice());
        self.blocks.assert_consistent(tables);
        assert!(self.running.len() <= self.limits.sequences);
        assert!(self.running.is_sorted_by_key(Sequence::rank));
        assert!(self.waiting.iter().all(|(&rank, sequence)| rank == sequence.rank()));
        let new = self.waiting.values().filter(|sequence| sequence.num_cached.is_none());
        assert_eq!(self.new, new.count());
        for sequence in self.waiting.values() {
            assert!(sequence.block_table.is_empty() && sequence.num_computed == 0);
        }
        for sequence in &self.running {
            assert!(sequence.remaining() > 0);
            let blocks = sequence.block_table.len();
            assert!(blocks * backend::KV_BLOCK_SIZE >= sequence.num_computed);
            assert!(blocks <= sequence.blocks_needed());
            for (index, &block) in sequence.block_table.iter().enumerate() {
                match sequence.prefix.get(index) {
                    Some(&prefix) => {
                        let parent = index.checked_sub(1).map(|last| sequence.prefix[last]);
                        let tokens = sequence.block_tokens(index).unwrap();
                        self.blocks.assert_holds(block, prefix, parent, tokens);
                        assert!((index + 1) * backend::KV_BLOCK_SIZE <= sequence.num_computed);
                    }
                    // What is yet to be written is nobody else's.
                    None => assert_eq!(self.blocks.ref_count(block), 1),
                }
            }
        }
    }
}
