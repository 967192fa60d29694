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
        // Those up to this rank wait for others to compute what they need too: no more of them than might run.
        let mut passed = None;
        let mut num_passed = 0;
        let mut oldest_first = self.bypassed >= BYPASS_MAX;
        while left > 0 && num_passed < self.limits.sequences {
            let Some(rank) = self.next_candidate(passed, oldest_first) else { break };
            let Some(mut sequence) = self.take_waiting(rank) else { break };
            let limit = sequence.cacheable_blocks();
            self.blocks.find_prefix(&sequence.tokens, limit, &mut sequence.matched);
            if self.is_computed_by_another(&sequence) {
                sequence.prefix_waits += 1;
                self.add(sequence);
                num_passed += 1;
                if !std::mem::take(&mut oldest_first) {
                    passed = Some(rank);
                }
                continue;
            }
            if !self.make_room(&sequence) {
                self.add(sequence);
                break;
            }
            self.note_bypass(&mut sequence);
            oldest_first = self.bypassed >= BYPASS_MAX;
            self.start(&mut sequence);
            left = left.saturating_sub(sequence.remaining());
            let at = self.running.partition_point(|other| other.rank() < sequence.rank());
            self.running.insert(at, sequence);
        }
    }

    /// Counts how many run before the oldest that waits. If that is the one that is to run now, it is due if they were many.
    fn note_bypass(&mut self, sequence: &mut Sequence) {
        let oldest = self.waiting.keys().map(Rank::arrival).min();
        if oldest.is_some_and(|oldest| oldest < sequence.id) {
            self.bypassed += 1;
        } else {
            sequence.is_due |= self.bypassed >= BYPASS_MAX;
            self.bypassed = 0;
        }
    }

    /// The first in rank after `passed`, or the oldest.
    fn next_candidate(&self, passed: Option<Rank>, oldest_first: bool) -> Option<Rank> {
        if oldest_first {
            return self.waiting.keys().min_by_key(|rank| rank.arrival()).copied();
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { tokens: 40, sequences: 4, rows: 4 };

    fn scheduler(limits: Limits, blocks: usize) -> Scheduler {
        Scheduler::new(limits, BlockManager::new(blocks, true))
    }

    /// A sequence whose prompt begins with `first`; other ones have nothing in common with it.
    fn sequence(id: u64, first: u32, len: usize, priority: i32) -> Sequence {
        let prompt = (0..len as u32).map(|i| first * 1000 + i).collect();
        let mut sequence = Sequence::new(RequestId(id), prompt, true, None);
        sequence.priority = priority;
        sequence
    }

    /// Runs a step in which every answer goes on; returns (request, tokens) of each part.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
        let mut plan = Vec::new();
        scheduler.schedule(&mut plan);
        scheduler.computed(&plan);
        for chunk in &plan {
            let sequence = scheduler.running_mut(chunk.index);
            if sequence.remaining() == 0 {
                sequence.tokens.push(7);
            }
        }
        scheduler.assert_consistent();
        let part = |chunk: &Chunk| (scheduler.running()[chunk.index].id.0, chunk.len);
        plan.iter().map(part).collect()
    }

    #[test]
    fn prompts_take_what_decoding_leaves() {
        let mut scheduler = scheduler(LIMITS, 100);
        scheduler.add(sequence(1, 1, 10, 0));
        assert_eq!(step(&mut scheduler), [(1, 10)]);
        scheduler.add(sequence(2, 2, 100, 0));
        scheduler.add(sequence(3, 3, 30, 0));
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 39)]);
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 39)]);
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 22), (3, 17)]);
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 1), (3, 13)]);
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 1), (3, 1)]);
    }

    #[test]
    fn the_last_to_come_gives_way_and_comes_back_first() {
        let mut scheduler = scheduler(LIMITS, 4);
        scheduler.add(sequence(1, 1, 20, 0));
        scheduler.add(sequence(2, 2, 14, 0));
        assert_eq!(step(&mut scheduler), [(1, 20), (2, 14)]);
        scheduler.add(sequence(3, 3, 2, 0));
        for _ in 0..12 {
            assert_eq!(step(&mut scheduler), [(1, 1), (2, 1)]);
        }
        // The second took the last block; now the first needs one too.
        let parts: Vec<_> = (0..8).map(|_| step(&mut scheduler)).collect();
        assert_eq!(scheduler.preemptions, 1);
        assert_eq!(parts.last().unwrap(), &[(1, 1)]);
        let waiting: Vec<u64> = scheduler.waiting.values().map(|waiting| waiting.id.0).collect();
        assert_eq!(waiting, [2, 3]);
        scheduler.remove(RequestId(1));
        // Its full block is there still: of 27 tokens 11 are computed again.
        assert_eq!(step(&mut scheduler)[0], (2, 11));
    }

    #[test]
    fn a_higher_priority_takes_the_place_of_a_lower() {
        let mut scheduler = scheduler(Limits { sequences: 1, ..LIMITS }, 10);
        scheduler.add(sequence(1, 1, 10, 0));
        step(&mut scheduler);
        scheduler.add(sequence(2, 2, 10, 0));
        assert_eq!(step(&mut scheduler), [(1, 1)]);
        scheduler.add(sequence(3, 3, 10, 1));
        assert_eq!(step(&mut scheduler), [(3, 10)]);
        scheduler.remove(RequestId(3));
        assert_eq!(step(&mut scheduler), [(1, 12)]);
    }

    /// However many of a higher priority come, at most [`BYPASS_MAX`] of them run before one that waits.
    #[test]
    fn the_oldest_is_overtaken_only_so_often() {
        let mut scheduler = scheduler(Limits { sequences: 1, ..LIMITS }, 10);
        scheduler.add(sequence(1, 1, 10, 5));
        step(&mut scheduler);
        scheduler.add(sequence(2, 2, 10, -5));
        scheduler.add(sequence(3, 3, 10, -5));
        let mut order = Vec::new();
        for id in 4..60 {
            let ended = scheduler.running()[0].id;
            scheduler.remove(ended);
            scheduler.add(sequence(id, id as u32, 10, 5));
            order.push(step(&mut scheduler)[0].0);
        }
        let at = |id| order.iter().position(|&ran| ran == id).unwrap();
        assert_eq!((at(2), at(3)), (BYPASS_MAX as usize, 2 * BYPASS_MAX as usize + 1));
    }

    /// However often one of a lower priority is preempted, in the end it is due and stays.
    #[test]
    fn one_that_was_preempted_often_stays() {
        let mut scheduler = scheduler(Limits { sequences: 1, ..LIMITS }, 10);
        scheduler.add(sequence(1, 1, 10, 0));
        step(&mut scheduler);
        for id in 2..20 {
            scheduler.add(sequence(id, id as u32, 10, 1));
            step(&mut scheduler);
            scheduler.remove(RequestId(id));
            step(&mut scheduler);
        }
        assert_eq!(scheduler.preemptions, 4);
        assert_eq!(scheduler.running()[0].id, RequestId(1));
    }

    #[test]
    fn what_another_computes_is_waited_for() {
        let mut scheduler = scheduler(LIMITS, 100);
        scheduler.add(sequence(1, 1, 100, 0));
        scheduler.add(sequence(2, 1, 100, 0));
        scheduler.add(sequence(3, 1, 90, 0));
        assert_eq!(step(&mut scheduler), [(1, 40)]);
        assert_eq!(step(&mut scheduler), [(1, 40)]);
        // Five blocks are there, a sixth comes with this step; then only what follows the last full block is left.
        assert_eq!(step(&mut scheduler), [(1, 20), (3, 10)]);
        assert_eq!(step(&mut scheduler), [(1, 1), (3, 1), (2, 4)]);
        assert_eq!(scheduler.cached_tokens, 80 + 96);
    }

    #[test]
    fn a_prompt_that_is_scored_takes_the_rows_that_are_left() {
        let mut scheduler = scheduler(LIMITS, 100);
        scheduler.add(sequence(1, 1, 10, 0));
        step(&mut scheduler);
        let prompt = (0..40).collect();
        scheduler.add(Sequence::new(RequestId(2), prompt, false, Some(35)));
        // Positions 34 to 38 say what follows; three rows are left beside the other's.
        assert_eq!(step(&mut scheduler), [(1, 1), (2, 37)]);
    }
}
