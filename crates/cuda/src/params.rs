//! The structures that kernels take by value: `crates/cuda/kernels/common.cuh` and `kv.cuh` in Rust. Addresses are of device
//! memory.

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns that share a word of scales; every `k` is padded to a multiple of it.
pub(crate) const SLICE: usize = 256;
/// Tokens of an activation group.
pub(crate) const GROUP: usize = 8;

/// `ScaleFormat`: 8-bit scales under nested ones.
pub(crate) const SCALE_NESTED: u32 = 0;
/// `ScaleFormat`: scales in f32.
pub(crate) const SCALE_PLAIN: u32 = 1;

/// `HalfTile`: where the nested scales of eight rows begin.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct HalfTile {
    pub(crate) nested: u64,
    pub(crate) first: u32,
    pub(crate) offset: f32,
}

/// `Matrix4`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix4 {
    pub(crate) codes: u64,
    pub(crate) scales: u64,
    pub(crate) halves: u64,
    pub(crate) map: u64,
    pub(crate) code: u64,
    pub(crate) low_table: [u32; 2],
    pub(crate) high_table: [u32; 2],
    pub(crate) low_step: f32,
    pub(crate) high_step: f32,
    pub(crate) row_tiles: u32,
    pub(crate) k: u32,
    pub(crate) blocks_per_row: u32,
    pub(crate) format: u32,
}

/// `Matrix16`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix16 {
    pub(crate) tiles: u64,
    pub(crate) row_tiles: u32,
    pub(crate) k: u32,
}

/// `Routes`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Routes {
    pub(crate) slot_token: u64,
    pub(crate) slot_weight: u64,
    pub(crate) pair_slot: u64,
    pub(crate) expert_start: u64,
    pub(crate) expert_count: u64,
    pub(crate) active: u64,
    pub(crate) num_active: u64,
}

/// `Router`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Router {
    pub(crate) norm_weight: u64,
    pub(crate) eps: f32,
    pub(crate) weight: u64,
    pub(crate) k: u32,
    pub(crate) experts: u32,
    pub(crate) choices: u32,
    pub(crate) norm_topk_prob: i32,
}

/// `KvLayer`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvLayer {
    pub(crate) blocks: u64,
    pub(crate) scales: u64,
    pub(crate) kv_heads: u32,
}

/// `HeadRows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadRows {
    pub(crate) qkv: u64,
    pub(crate) q_norm: u64,
    pub(crate) k_norm: u64,
    pub(crate) inv_freq: u64,
    pub(crate) eps: f32,
    pub(crate) scale: f32,
    pub(crate) q_heads: u32,
    pub(crate) ld: u32,
}

/// `Rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) positions: u64,
    pub(crate) row_sequence: u64,
    pub(crate) block_tables: u64,
    pub(crate) max_blocks: u32,
    pub(crate) window: u32,
}

/// `HeadsOut`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadsOut {
    pub(crate) data: u64,
    pub(crate) ld: u32,
    pub(crate) groups: u32,
}

/// `Span`.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Span {
    pub(crate) row: i32,
    pub(crate) len: i32,
    pub(crate) first_position: i32,
    pub(crate) sequence: i32,
}

/// `QueryTiles`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryTiles {
    pub(crate) spans: u64,
    pub(crate) tiles: u64,
    pub(crate) count: u32,
}

/// `DecodeParts`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecodeParts {
    pub(crate) out: u64,
    pub(crate) state: u64,
    pub(crate) arrived: u64,
    pub(crate) tiles_least: u32,
    pub(crate) early: u32,
}

/// `SampleParams`.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct SampleParams {
    pub(crate) uniform: f64,
    pub(crate) temperature: f32,
    pub(crate) top_k: u32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) mask: u32,
    pub(crate) unused: u32,
}

/// The mask of a row in which any token may be drawn.
pub(crate) const NO_MASK: u32 = u32::MAX;

/// `Draws`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DrawInputs {
    pub(crate) params: u64,
    pub(crate) masks: u64,
    pub(crate) mask_bytes: u32,
}

/// `Workspace` of drawing.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrawWorkspace {
    pub(crate) extents: u64,
    pub(crate) weights: u64,
    pub(crate) counts: u64,
    pub(crate) chunk_weights: u64,
    pub(crate) finished: u64,
}

/// `Outputs` of drawing.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrawOutputs {
    pub(crate) tokens: u64,
    pub(crate) logprobs: u64,
    pub(crate) flags: u64,
}
