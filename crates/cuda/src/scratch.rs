//! Memory that operations need beside the buffers of the model: how much, and where it lies.

use backend::{Role, StepLimits};

use crate::CudaError;
use crate::arena::Arena;
use crate::buffer::{group_bytes, row_len};
use crate::draws;
use crate::layout::{Part, Stack};
use crate::params::{DrawWorkspace, GROUP, Routes};

/// Most rows that the kernels for few rows take; more go to those for many.
pub(crate) const FEW: usize = 8;
/// Logits of a chunk of the vocabulary that a block of `argmax` and `sample` reads.
pub(crate) const SAMPLE_CHUNK: usize = 4096;

/// Bins that a row's logits are sorted into where a token is drawn.
const DRAW_BINS: usize = 2048;

/// The largest sizes that a model's operations ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wants {
    /// Columns of a product's input.
    k: usize,
    /// Columns between gate-and-up and down, and the rows of down.
    intermediate: usize,
    hidden: usize,
    experts: usize,
    /// Experts of a token; 0 without a mixture.
    choices: usize,
    vocab: usize,
    /// 16-row tiles of projections, and of an expert's down.
    row_tiles: usize,
    down_tiles: usize,
}

impl Wants {
    /// A stack of projections with `n` rows.
    pub(crate) fn linear(&mut self, stack: &Stack, n: usize, role: Role) {
        self.k = self.k.max(stack.k);
        self.row_tiles = self.row_tiles.max(stack.row_tiles);
        if role == Role::LmHead {
            self.vocab = self.vocab.max(n);
        }
    }

    /// The experts of a layer; `choices` is 0 for a dense block.
    pub(crate) fn experts(&mut self, gate_up: &Stack, down: &Stack, count: usize, choices: usize) {
        debug_assert_eq!(gate_up.places[0].part, Part::Upper);
        self.k = self.k.max(gate_up.k);
        self.intermediate = self.intermediate.max(down.k);
        self.hidden = self.hidden.max(gate_up.k);
        self.experts = self.experts.max(count);
        self.choices = self.choices.max(choices);
        self.down_tiles = self.down_tiles.max(down.row_tiles / count);
    }

    /// Logits of a row.
    pub(crate) fn vocab(&self) -> usize {
        self.vocab
    }

    /// Slots for so many tokens: every expert's begin at a multiple of [`GROUP`].
    fn slots(&self, tokens: usize) -> usize {
        let pairs = tokens * self.choices.max(1);
        let padding = (GROUP - 1) * self.experts.min(pairs);
        (pairs + padding).next_multiple_of(GROUP)
    }

    /// Sizes of the pieces of [`Scratch`], in order.
    pub(crate) fn pieces(&self, limits: &StepLimits) -> [usize; 25] {
        let slots = self.slots(limits.tokens);
        let few_slots = self.slots(FEW.min(limits.tokens));
        let h_rows = 4 * few_slots * row_len(self.intermediate);
        let pairs = limits.tokens * self.choices;
        let rows = limits.rows;
        let chunks = self.vocab.div_ceil(SAMPLE_CHUNK).max(1);
        [
            group_bytes(slots, self.k),
            group_bytes(slots, self.intermediate),
            if self.choices > 0 { 4 * slots * row_len(self.hidden) } else { 0 },
            4 * slots,
            4 * slots,
            4 * pairs,
            4 * (self.experts + 1),
            4 * self.experts,
            4 * self.experts,
            4,
            4 * pairs,
            4 * pairs,
            4 * FEW * self.experts,
            // Partial sums of the products of few rows, and what has arrived of them.
            4 * 16 * FEW * (LINEAR_PARTS * self.row_tiles).max(DOWN_PARTS * self.down_tiles),
            4 * self.row_tiles.max(self.down_tiles) + 16,
            4 * rows * row_len(self.vocab),
            4 * rows.min(FEW) * row_len(self.k),
            32 * rows * chunks,
            h_rows,
            8 * rows * DRAW_BINS,
            4 * rows * DRAW_BINS,
            8 * rows * chunks,
            4 * rows,
            draws::num_bytes(rows, self.vocab),
            draws::drawn_bytes(rows),
        ]
    }
}

/// Most parts that a product of few rows sums a row tile from: projections, and experts' down. As `gemv.cu` says, given
/// the rows that each card takes.
const LINEAR_PARTS: usize = 8;
const DOWN_PARTS: usize = 64;

/// Addresses of the pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    /// Normed activations in groups.
    pub(crate) x_groups: u64,
    /// What lies between gate-and-up and down, in groups, and as rows of f32. Apart: columns of padding are zeros, and what
    /// one form leaves there would be no number in the other.
    pub(crate) h_groups: u64,
    pub(crate) h_rows: u64,
    /// f32 `[slots][hidden]`: what experts give.
    pub(crate) y: u64,
    pub(crate) routes: Routes,
    /// A workspace of routing: `[pairs]` each, `[FEW][experts]`, and a counter.
    pub(crate) pair_expert: u64,
    pub(crate) pair_weight: u64,
    pub(crate) scores: u64,
    /// A counter that routing leaves at zero.
    pub(crate) finished: u64,
    pub(crate) partial: u64,
    /// Counters that every kernel leaves at zero.
    pub(crate) arrivals: u64,
    /// f32 `[rows][vocab]`.
    pub(crate) logits: u64,
    /// f32 `[few rows][hidden]`.
    pub(crate) logit_rows: u64,
    pub(crate) drawing: DrawWorkspace,
    /// How tokens are drawn, masks included.
    pub(crate) draws: u64,
    /// i32, f32 and u32, `[rows]` each: what was drawn.
    pub(crate) drawn: u64,
    /// Groups of `x_groups` and of `h`.
    pub(crate) groups: u32,
}

impl Scratch {
    pub(crate) fn take(
        arena: &Arena,
        wants: &Wants,
        limits: &StepLimits,
    ) -> Result<Self, CudaError> {
        let pieces = wants.pieces(limits);
        let mut at = [0; 25];
        for (at, bytes) in at.iter_mut().zip(pieces) {
            *at = arena.take(bytes)?;
        }
        Ok(Scratch {
            x_groups: at[0],
            h_groups: at[1],
            h_rows: at[18],
            y: at[2],
            routes: Routes {
                slot_token: at[3],
                slot_weight: at[4],
                pair_slot: at[5],
                expert_start: at[6],
                expert_count: at[7],
                active: at[8],
                num_active: at[9],
            },
            pair_expert: at[10],
            pair_weight: at[11],
            scores: at[12],
            partial: at[13],
            // The first word is routing's.
            finished: at[14],
            arrivals: at[14] + 16,
            logits: at[15],
            logit_rows: at[16],
            drawing: DrawWorkspace {
                extents: at[17],
                weights: at[19],
                counts: at[20],
                chunk_weights: at[21],
                finished: at[22],
            },
            draws: at[23],
            drawn: at[24],
            groups: (wants.slots(limits.tokens) / GROUP) as u32,
        })
    }
}
