//! The pool of blocks that hold keys and values, and which of them others may use again.

use std::collections::{BTreeMap, HashMap};

use backend::KV_BLOCK_SIZE;

/// Names the tokens of a cached block *and all before it*; never used twice, so what was evicted is never mistaken for
/// what came later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PrefixId(u64);

impl PrefixId {
    /// Of no tokens at all.
    pub(crate) const EMPTY: PrefixId = PrefixId(0);
}

/// A full block by what it holds: its own tokens, after those that its parent names. Keys are compared whole, so no
/// collision of hashes can give one request another's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    parent: PrefixId,
    tokens: [u32; KV_BLOCK_SIZE],
}

#[derive(Debug, Clone, Default)]
struct Block {
    /// How many sequences have it in their tables.
    ref_count: u32,
    /// What it is in the cache as.
    cached: Option<(PrefixId, Key)>,
    /// Where it stands among the idle blocks, if it is cached and nobody's.
    idle_since: u64,
}

/// All blocks. Each is held by sequences, or idle (cached and nobody's), or free.
///
/// A sequence holds all blocks before any that it holds, and gives them back last first. Idle blocks are taken in the
/// order in which they became idle. So no block is evicted before those that continue it, and what is cached is always
/// reachable.
#[derive(Debug)]
pub(crate) struct BlockManager {
    blocks: Vec<Block>,
    free: Vec<u32>,
    idle: BTreeMap<u64, u32>,
    cached: HashMap<Key, u32>,
    /// Counts up: the last name given, the last moment in `idle`.
    last_prefix: u64,
    last_idle: u64,
    enabled: bool,
}

impl BlockManager {
    /// `total` free blocks; without `prefix_cache`, none is ever found again.
    pub(crate) fn new(total: usize, prefix_cache: bool) -> Self {
        BlockManager {
            blocks: vec![Block::default(); total],
            free: (0..total as u32).rev().collect(),
            idle: BTreeMap::new(),
            cached: HashMap::new(),
            last_prefix: 0,
            last_idle: 0,
            enabled: prefix_cache,
        }
    }

    /// Whether blocks are found again.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// All blocks.
    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be taken: free or idle.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks that are cached and nobody's.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many sequences hold a block.
    pub(crate) fn ref_count(&self, block: u32) -> u32 {
        self.blocks[block as usize].ref_count
    }

    /// Brings `matched`, the cached blocks with which `tokens` begin, up to date: what has gone since the last call is
    /// dropped, what has come is added, up to `limit` blocks. Takes nothing.
    pub(crate) fn find_prefix(
        &self,
        tokens: &[u32],
        limit: usize,
        matched: &mut Vec<(PrefixId, u32)>,
    ) {
        matched.truncate(limit);
        // Blocks go before those that they continue, so the last one that is still there vouches for all before it.
        while let Some(&(prefix, block)) = matched.last() {
            if self.blocks[block as usize].cached.is_some_and(|(id, _)| id == prefix) {
                break;
            }
            matched.pop();
        }
        let rest = tokens.as_chunks().0.iter().take(limit).skip(matched.len());
        for &tokens in rest {
            let parent = matched.last().map_or(PrefixId::EMPTY, |&(prefix, _)| prefix);
            let Some(&block) = self.cached.get(&Key { parent, tokens }) else { break };
            let Some((prefix, _)) = self.blocks[block as usize].cached else { break };
            matched.push((prefix, block));
        }
    }

    /// Holds a cached block.
    pub(crate) fn hold(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        if entry.ref_count == 0 {
            self.idle.remove(&entry.idle_since);
        }
        entry.ref_count += 1;
    }

    /// Takes a free block, else the one that has been idle longest; `None` if all are held.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first()?;
                self.forget(block);
                block
            }
        };
        self.blocks[block as usize].ref_count = 1;
        Some(block)
    }

    /// Enters a block that is full and computed; `parent` names what comes before it. Where another block holds the same,
    /// that one is held instead and this one given back: the block returned is the one to use.
    pub(crate) fn register(
        &mut self,
        block: u32,
        parent: PrefixId,
        tokens: [u32; KV_BLOCK_SIZE],
    ) -> Option<(PrefixId, u32)> {
        if !self.enabled {
            return None;
        }
        let key = Key { parent, tokens };
        if let Some(&other) = self.cached.get(&key) {
            let (prefix, _) = self.blocks[other as usize].cached?;
            if other != block {
                self.hold(other);
                self.release(block);
            }
            return Some((prefix, other));
        }
        self.last_prefix += 1;
        let prefix = PrefixId(self.last_prefix);
        self.blocks[block as usize].cached = Some((prefix, key));
        self.cached.insert(key, block);
        Some((prefix, block))
    }

    /// Gives a sequence's blocks back, the last first.
    pub(crate) fn release_all(&mut self, table: &mut Vec<u32>) {
        for block in table.drain(..).rev() {
            self.release(block);
        }
    }

    fn release(&mut self, block: u32) {
        let entry = &mut self.blocks[block as usize];
        entry.ref_count -= 1;
        if entry.ref_count > 0 {
            return;
        }
        if entry.cached.is_some() {
            self.last_idle += 1;
            entry.idle_since = self.last_idle;
            self.idle.insert(self.last_idle, block);
        } else {
            self.free.push(block);
        }
    }

    /// Forgets what idle blocks hold, and what the blocks of `table` hold that are in no other: they are not to be trusted.
    pub(crate) fn distrust(&mut self, table: &[u32]) {
        while let Some((_, block)) = self.idle.pop_first() {
            self.forget(block);
            self.free.push(block);
        }
        for &block in table {
            if self.blocks[block as usize].ref_count == 1 {
                self.forget(block);
            }
        }
    }

    fn forget(&mut self, block: u32) {
        if let Some((_, key)) = self.blocks[block as usize].cached.take() {
            self.cached.remove(&key);
        }
    }

    /// Checks that every block is held as often as it stands in `tables`, and is free, idle or held; that what is cached
    /// is reachable and goes after what continues it.
    #[cfg(test)]
    pub(crate) fn assert_consistent<'a>(&self, tables: impl Iterator<Item = &'a [u32]>) {
        let mut holders = vec![0; self.blocks.len()];
        tables.flatten().for_each(|&block| holders[block as usize] += 1);
        let mut places = vec![0; self.blocks.len()];
        self.free.iter().chain(self.idle.values()).for_each(|&block| places[block as usize] += 1);
        for (index, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.ref_count, holders[index], "block {index}");
            assert_eq!(places[index], u32::from(block.ref_count == 0), "block {index}");
            if let Some((prefix, key)) = block.cached {
                assert_eq!(self.cached.get(&key), Some(&(index as u32)));
                assert!(prefix.0 <= self.last_prefix);
            }
        }
        assert!(self.free.iter().all(|&block| self.blocks[block as usize].cached.is_none()));
        let by_name: HashMap<PrefixId, &Block> = self
            .cached
            .values()
            .filter_map(|&block| Some((self.blocks[block as usize].cached?.0, block)))
            .map(|(prefix, block)| (prefix, &self.blocks[block as usize]))
            .collect();
        assert_eq!(by_name.len(), self.cached.len());
        for child in by_name.values() {
            let Some((_, Key { parent, .. })) = child.cached else { continue };
            if parent != PrefixId::EMPTY {
                let parent = by_name[&parent];
                match child.ref_count {
                    0 => assert!(parent.ref_count > 0 || parent.idle_since > child.idle_since),
                    _ => assert!(parent.ref_count > 0),
                }
            }
        }
        for (&since, &block) in &self.idle {
            assert_eq!(self.blocks[block as usize].idle_since, since);
            assert!(self.blocks[block as usize].cached.is_some());
        }
    }

    /// Checks that a block is in the cache as what a sequence takes it for.
    #[cfg(test)]
    pub(crate) fn assert_holds(
        &self,
        block: u32,
        prefix: PrefixId,
        parent: Option<PrefixId>,
        tokens: [u32; KV_BLOCK_SIZE],
    ) {
        let key = Key { parent: parent.unwrap_or(PrefixId::EMPTY), tokens };
        assert_eq!(self.blocks[block as usize].cached, Some((prefix, key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(first: u32) -> [u32; KV_BLOCK_SIZE] {
        std::array::from_fn(|i| first + i as u32)
    }

    /// Takes and enters blocks that hold these tokens, one after another.
    fn fill(blocks: &mut BlockManager, contents: &[[u32; KV_BLOCK_SIZE]]) -> Vec<u32> {
        let mut parent = PrefixId::EMPTY;
        let mut table = Vec::new();
        for &tokens in contents {
            let block = blocks.allocate().unwrap();
            let (prefix, block) = blocks.register(block, parent, tokens).unwrap();
            parent = prefix;
            table.push(block);
        }
        table
    }

    fn found(blocks: &BlockManager, contents: &[[u32; KV_BLOCK_SIZE]], limit: usize) -> Vec<u32> {
        let mut matched = Vec::new();
        blocks.find_prefix(contents.as_flattened(), limit, &mut matched);
        matched.into_iter().map(|(_, block)| block).collect()
    }

    #[test]
    fn a_block_is_found_only_behind_what_came_before_it() {
        let mut blocks = BlockManager::new(8, true);
        let table = fill(&mut blocks, &[full(0), full(100)]);
        assert_eq!(found(&blocks, &[full(0), full(100), full(0)], 9), table);
        assert_eq!(found(&blocks, &[full(0), full(100)], 1), table[..1]);
        assert!(found(&blocks, &[full(100)], 9).is_empty());
        assert_eq!(found(&blocks, &[full(0), full(0)], 9), table[..1]);
        blocks.assert_consistent([table.as_slice()].into_iter());
    }

    #[test]
    fn what_two_compute_is_kept_once() {
        let mut blocks = BlockManager::new(4, true);
        let first = fill(&mut blocks, &[full(0), full(100)]);
        let second = fill(&mut blocks, &[full(0), full(100)]);
        assert_eq!(first, second);
        assert_eq!((blocks.available(), blocks.ref_count(first[0])), (2, 2));
        blocks.assert_consistent([first.as_slice(), second.as_slice()].into_iter());
    }

    #[test]
    fn the_longest_idle_goes_first_and_a_prefix_after_what_continues_it() {
        let mut blocks = BlockManager::new(4, true);
        let mut old = fill(&mut blocks, &[full(0), full(100)]);
        let mut new = fill(&mut blocks, &[full(200), full(300)]);
        blocks.release_all(&mut old);
        blocks.release_all(&mut new);
        assert_eq!((blocks.available(), blocks.idle()), (4, 4));
        let mut taken = vec![blocks.allocate().unwrap()];
        assert_eq!(found(&blocks, &[full(0), full(100)], 9).len(), 1);
        taken.push(blocks.allocate().unwrap());
        assert_eq!(found(&blocks, &[full(0), full(100)], 9).len(), 0);
        taken.push(blocks.allocate().unwrap());
        assert_eq!(found(&blocks, &[full(200), full(300)], 9).len(), 1);
        blocks.assert_consistent([taken.as_slice()].into_iter());
        taken.push(blocks.allocate().unwrap());
        assert_eq!(blocks.allocate(), None);
    }

    #[test]
    fn what_is_held_is_never_taken_and_what_is_not_trusted_never_found() {
        let mut blocks = BlockManager::new(3, true);
        let held = fill(&mut blocks, &[full(0)]);
        let mut rest = vec![blocks.allocate().unwrap(), blocks.allocate().unwrap()];
        assert_eq!(blocks.allocate(), None);
        blocks.release_all(&mut rest);
        blocks.distrust(&held);
        assert!(found(&blocks, &[full(0)], 9).is_empty());
        blocks.assert_consistent([held.as_slice()].into_iter());
    }

    #[test]
    fn what_was_matched_is_looked_at_again() {
        let mut blocks = BlockManager::new(3, true);
        let prompt = [full(0), full(100), full(200)];
        let mut table = fill(&mut blocks, &prompt[..2]);
        let mut matched = Vec::new();
        blocks.find_prefix(prompt.as_flattened(), 9, &mut matched);
        assert_eq!(matched.len(), 2);
        blocks.release_all(&mut table);
        let taken = [blocks.allocate().unwrap(), blocks.allocate().unwrap()];
        blocks.find_prefix(prompt.as_flattened(), 9, &mut matched);
        assert_eq!(matched.len(), 1);
        blocks.assert_consistent([taken.as_slice()].into_iter());
    }
}
