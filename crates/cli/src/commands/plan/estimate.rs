//! What fits on a card.

use anyhow::Result;
use backend::KV_BLOCK_SIZE;
use cuda::MemoryPlan;

use crate::cards::Card;
use crate::gpu::{self, DRIVER_BYTES, Footprint};
use crate::pool::PoolArgs;

/// Most sequences that `serve` takes.
const CONCURRENCY_MAX: u16 = 1024;

/// What is planned for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// Tokens of each sequence.
    pub(super) context: usize,
    /// Whether that was typed, and not less will do.
    pub(super) is_typed: bool,
    /// Sequences at once as `serve` has them; `None` for one as `prompt` has it.
    pub(super) concurrency: Option<u16>,
    pub(super) fp8_kv: bool,
}

/// Whose memory it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Card(&'static Card),
    /// Some card with this much memory.
    Bytes(u64),
}

impl Target {
    /// All that CUDA shows.
    pub(super) fn total_bytes(&self) -> u64 {
        match self {
            Target::Card(card) => card.total_bytes,
            Target::Bytes(bytes) => *bytes,
        }
    }

    /// The card, if it is a known one.
    pub(super) fn card(&self) -> Option<&'static Card> {
        match self {
            Target::Card(card) => Some(card),
            Target::Bytes(_) => None,
        }
    }
}

/// What came out for a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    /// Tokens of each sequence that are planned: those that were asked for, or as many of them as fit.
    pub(super) context: usize,
    pub(super) plan: MemoryPlan,
    pub(super) fits: bool,
    /// Most tokens of each sequence, at the concurrency that was asked for; 0 where nothing fits.
    pub(super) context_max: usize,
    /// The same with keys and values in 8 bits.
    pub(super) context_max_fp8: usize,
    /// Tokens of each sequence, and most such sequences at once, as `serve` has them.
    pub(super) full_context: usize,
    pub(super) concurrency_max: u16,
}

impl Estimate {
    /// Bytes of the card that are taken.
    pub(super) fn needed(&self) -> u64 {
        self.plan.total() as u64 + DRIVER_BYTES
    }
}

impl Ask {
    /// What a card that has `total` bytes can hold.
    pub(super) fn estimate(
        &self,
        footprint: &Footprint,
        made_for: usize,
        total: u64,
    ) -> Result<Estimate> {
        let budget = total.saturating_sub(DRIVER_BYTES);
        let context_max = self.longest(footprint, made_for, self.fp8_kv, budget)?;
        let context = match context_max {
            0 => self.context,
            _ if self.is_typed => self.context,
            most => self.context.min(most),
        };
        Ok(Estimate {
            context,
            plan: self.plan(footprint, context, self.concurrency, self.fp8_kv)?,
            fits: context_max >= context,
            context_max,
            context_max_fp8: self.longest(footprint, made_for, true, budget)?,
            full_context: self.context,
            concurrency_max: self.most(footprint, budget)?,
        })
    }

    /// What is allocated for sequences of `context` tokens.
    pub(super) fn plan(
        &self,
        footprint: &Footprint,
        context: usize,
        concurrency: Option<u16>,
        fp8_kv: bool,
    ) -> Result<MemoryPlan> {
        let Some(sequences) = concurrency else {
            return footprint.plan(context, gpu::limits(context, 1), fp8_kv);
        };
        let tokens = usize::from(sequences) * context.next_multiple_of(KV_BLOCK_SIZE);
        footprint.plan(tokens, PoolArgs::of(sequences).limits(), fp8_kv)
    }

    fn fits(
        &self,
        footprint: &Footprint,
        context: usize,
        concurrency: Option<u16>,
        fp8_kv: bool,
        budget: u64,
    ) -> Result<bool> {
        Ok(self.plan(footprint, context, concurrency, fp8_kv)?.total() as u64 <= budget)
    }

    fn longest(
        &self,
        footprint: &Footprint,
        made_for: usize,
        fp8_kv: bool,
        budget: u64,
    ) -> Result<usize> {
        let fits = |context| self.fits(footprint, context, self.concurrency, fp8_kv, budget);
        let sequences = u64::from(self.concurrency.unwrap_or(1));
        // More than what keys and values alone have room for need not be tried.
        let block = footprint.block_bytes(fp8_kv)?.saturating_mul(sequences);
        let most = made_for.min((budget / block.max(1)) as usize * KV_BLOCK_SIZE);
        if most == made_for && fits(made_for)? {
            return Ok(made_for);
        }
        let blocks = gpu::largest(most / KV_BLOCK_SIZE, |blocks| fits(blocks * KV_BLOCK_SIZE))?;
        Ok(blocks * KV_BLOCK_SIZE)
    }

    fn most(&self, footprint: &Footprint, budget: u64) -> Result<u16> {
        let blocks = self.context.div_ceil(KV_BLOCK_SIZE) as u64;
        let sequence = footprint.block_bytes(self.fp8_kv)?.saturating_mul(blocks);
        let most = (budget / sequence.max(1)).min(u64::from(CONCURRENCY_MAX)) as usize;
        let fits = |sequences: usize| {
            self.fits(footprint, self.context, Some(sequences as u16), self.fp8_kv, budget)
        };
        Ok(gpu::largest(most, fits)? as u16)
    }
}
