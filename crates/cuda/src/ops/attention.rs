//! Attention: decoding and prefill.

use backend::Attention;

use super::launch::Shared;
use crate::CudaError;
use crate::backend::{Cuda, KvCache, Vector};
use crate::buffer::{Buffer, Form};
use crate::kv::KvLayout;
use crate::params;
use crate::params::{DecodeParts, HeadRows, HeadsOut, KvLayer, QueryTiles, Rows, SLICE};

/// Bytes of dynamic shared memory of the wide kernels for decoding.
const WIDE_SHARED: u32 = 73_728;

/// What every kernel of attention takes.
struct Inputs {
    kv: KvLayer,
    heads: HeadRows,
    rows: Rows,
    out: HeadsOut,
}

impl Cuda {
    pub(super) fn attend(
        &mut self,
        qkv: &Buffer,
        attention: &Attention<Vector>,
        cache: &KvCache,
        layer: usize,
        out: &mut Buffer,
    ) -> Result<(), CudaError> {
        out.rows = qkv.rows;
        out.form = if qkv.rows <= self.few() { Form::Rows } else { Form::Groups };
        if out.form == Form::Groups && !out.cols.is_multiple_of(SLICE) {
            self.clear(out)?;
        }
        let inputs = self.attention_inputs(qkv, attention, cache, layer, out);
        let layout = &cache.layout;
        let fast = matches!(layout.head_dim, 64 | 128) && layout.group() <= 16;
        match (fast, self.step.shape.is_decode()) {
            (true, true) => self.decode_attention(&inputs, layout, qkv.rows),
            (true, false) => self.prefill_attention(&inputs, layout, qkv.rows),
            (false, _) => self.plain_attention(&inputs, layout, qkv.rows),
        }
    }

    fn attention_inputs(
        &self,
        qkv: &Buffer,
        attention: &Attention<Vector>,
        cache: &KvCache,
        layer: usize,
        out: &Buffer,
    ) -> Inputs {
        let params = &attention.params;
        let norm = |norm: &Option<backend::Norm<Vector>>| {
            norm.as_ref().map_or((0, 0.0), |norm| (norm.weight.address, norm.eps))
        };
        let ((q_norm, eps), (k_norm, _)) = (norm(&attention.q_norm), norm(&attention.k_norm));
        Inputs {
            kv: cache.layout.layer(cache.blocks, cache.scales, layer),
            heads: HeadRows {
                qkv: qkv.address,
                q_norm,
                k_norm,
                inv_freq: attention.inv_freq.address,
                eps,
                scale: params.scale,
                q_heads: params.num_attention_heads as u32,
                ld: qkv.ld(),
            },
            rows: Rows {
                positions: self.step.positions,
                row_sequence: self.step.row_sequence,
                block_tables: self.step.block_tables,
                max_blocks: self.step.shape.table_len as u32,
                window: params.sliding_window.unwrap_or(0) as u32,
            },
            out: HeadsOut {
                data: out.address,
                ld: out.ld(),
                groups: if out.form == Form::Groups { out.groups() } else { 0 },
            },
        }
    }

    fn decode_attention(
        &mut self,
        inputs: &Inputs,
        layout: &KvLayout,
        rows: usize,
    ) -> Result<(), CudaError> {
        let scratch = self.attention_scratch()?;
        let multiprocessors = self.multiprocessors() as usize;
        let decoding = layout.decoding(multiprocessors, rows, self.step.shape.table_len);
        let parts = DecodeParts {
            out: scratch.parts,
            state: scratch.states,
            arrived: scratch.arrived,
            tiles_least: 1,
            // What the step is about is copied before the first kernel, the older tokens were stored by earlier steps.
            early: 1,
        };
        let form = kv_name(layout.fp8);
        let (name, shared) = match decoding.wide {
            true => (format!("attention_decode_wide_d{}_8_{form}", layout.head_dim), WIDE_SHARED),
            false => {
                let heads = if layout.group() <= 8 { 8 } else { 16 };
                (format!("attention_decode_d{}_{heads}_{form}", layout.head_dim), 0)
            }
        };
        let grid = [decoding.splits as u32, layout.kv_heads as u32, rows as u32];
        let shared = Shared::Bytes(shared);
        let Inputs { kv, heads, rows, out } = inputs;
        self.launch("attention_decode", &name, grid, shared, params![kv, heads, rows, out, &parts])
    }

    /// Rotates the queries into the workspace, and keys and values into the cache.
    fn rope_store(
        &mut self,
        inputs: &Inputs,
        layout: &KvLayout,
        rows: usize,
    ) -> Result<u64, CudaError> {
        let q = self.attention_scratch()?.q;
        let head_dim = layout.head_dim as i32;
        let form = kv_name(layout.fp8);
        let (name, shared) = match layout.head_dim {
            128 => (format!("rope_store_d128_{form}"), 0),
            head_dim => (format!("rope_store_{form}"), 36 * head_dim as u32),
        };
        let Inputs { kv, heads, rows: described, .. } = inputs;
        self.launch(
            "attention_prefill",
            &name,
            [rows as u32, 1, 1],
            Shared::Bytes(shared),
            params![kv, heads, described, &q, &head_dim],
        )?;
        Ok(q)
    }

    fn prefill_attention(
        &mut self,
        inputs: &Inputs,
        layout: &KvLayout,
        rows: usize,
    ) -> Result<(), CudaError> {
        let q = self.rope_store(inputs, layout, rows)?;
        let count = self.step.shape.tiles as u32;
        let list = QueryTiles { spans: self.step.spans, tiles: self.step.tiles, count };
        let (heads_of_tiles, tiles) = (layout.kv_heads as u32, self.step.shape.tiles as u32);
        let head_dim = layout.head_dim as u32;
        let (file, grid, shared) = match self.kernels.has("attention_wgmma") {
            true => {
                let blocks = self.multiprocessors().min(heads_of_tiles * tiles);
                ("attention_wgmma", [blocks, 1, 1], 1536 * head_dim + 1280)
            }
            false => ("attention_prefill", [heads_of_tiles, tiles, 1], 512 * head_dim),
        };
        let name = format!("{file}_d{head_dim}_{}", kv_name(layout.fp8));
        let Inputs { kv, heads, rows, out } = inputs;
        let parameters = params![kv, &q, rows, &list, out, &heads.q_heads, &heads.scale];
        self.launch(file, &name, grid, Shared::Bytes(shared), parameters)
    }

    /// Heads of any size, without tensor cores.
    fn plain_attention(
        &mut self,
        inputs: &Inputs,
        layout: &KvLayout,
        rows: usize,
    ) -> Result<(), CudaError> {
        let q = self.rope_store(inputs, layout, rows)?;
        let name = format!("attention_any_{}", kv_name(layout.fp8));
        let (grid, head_dim) = ([layout.q_heads as u32, rows as u32, 1], layout.head_dim as i32);
        let shared = Shared::Bytes(8 * layout.head_dim as u32);
        let Inputs { kv, heads, rows, out } = inputs;
        let parameters = params![kv, &q, rows, out, &heads.q_heads, &head_dim, &heads.scale];
        self.launch("attention_any", &name, grid, shared, parameters)
    }

    fn attention_scratch(&self) -> Result<crate::backend::AttentionScratch, CudaError> {
        let scratch = self.attention.get().copied();
        scratch.ok_or_else(|| CudaError::argument("running a step", "no cache has been made"))
    }

    /// Sets a buffer to zeros.
    fn clear(&mut self, buffer: &Buffer) -> Result<(), CudaError> {
        let len = crate::buffer::num_bytes(buffer.rows_max, buffer.cols);
        self.overlap = false;
        // SAFETY: the piece that was taken for the buffer.
        unsafe { self.stream.memset(buffer.address, 0, len) }
    }
}

fn kv_name(fp8: bool) -> &'static str {
    if fp8 { "fp8" } else { "bf16" }
}
