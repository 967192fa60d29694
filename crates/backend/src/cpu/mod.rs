//! The CPU backend.
//!
//! [`Precision::F32`] computes in `f32` throughout and is the reference of the project. [`Precision::Int8`] rounds the
//! input of every matrix product to 8 bits, a scale for every 64 elements; the rest stays in `f32`.

mod kernels;
mod math;
mod disjoint;
mod matrix;
mod input;
mod gemm;
mod attention;
mod moe;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rayon::prelude::*;

use crate::{AttentionParams, Backend, BackendError, Batch, GatedMlp, Moe, Role, Rope, Weight};
use attention::Attention;
use disjoint::DisjointColumns;
use gemm::Job;
use input::Input;
use kernels::Kernels;

pub use attention::KvCache;
pub use matrix::Matrix;

/// How matrix products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// In `f32` throughout.
    F32,
    /// With activations rounded to 8 bits.
    Int8,
}

/// The CPU backend: threads, and the kernels of this processor.
pub struct Cpu {
    pool: Arc<rayon::ThreadPool>,
    kernels: &'static Kernels,
    precision: Precision,
    rope: RopeTable,
    /// `0, 1, 2, …`: the rows of a product that takes them all.
    all_rows: Vec<u32>,
}

/// Activations `[rows, cols]`.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    data: Vec<f32>,
    cols: usize,
}

impl Buffer {
    /// The values, row by row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Sets the values, `[rows, cols]`.
    ///
    /// # Panics
    /// If their number is no multiple of the columns.
    pub fn set(&mut self, data: &[f32]) {
        assert!(data.len().is_multiple_of(self.cols));
        self.data.clear();
        self.data.extend_from_slice(data);
    }

    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    fn set_rows(&mut self, rows: usize) {
        self.data.resize(rows * self.cols, 0.0);
    }
}

/// Cosines and sines of the last step's positions: every layer asks for the same.
#[derive(Default)]
struct RopeTable {
    positions: Vec<u32>,
    inv_freq: Vec<f32>,
    /// `[positions][inv_freq]` of (cos, sin).
    angles: Vec<(f32, f32)>,
}

impl RopeTable {
    fn update(&mut self, positions: &[u32], rope: &Rope) {
        if self.positions == positions && self.inv_freq == rope.inv_freq {
            return;
        }
        self.positions = positions.to_vec();
        self.inv_freq.clone_from(&rope.inv_freq);
        self.angles.clear();
        for &position in positions {
            // The product is rounded to f32 before the cosine, as the reference implementations do.
            self.angles.extend(rope.inv_freq.iter().map(|f| {
                let (sin, cos) = (position as f32 * f).sin_cos();
                (cos, sin)
            }));
        }
    }
}

/// Name of the instruction set whose kernels this processor gets.
pub fn isa() -> &'static str {
    kernels::detect().name
}

impl Cpu {
    /// A backend with `threads` threads (at least one).
    pub fn new(threads: usize, precision: Precision) -> Result<Self, BackendError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| BackendError::Threads { threads, reason: e.to_string() })?;
        Ok(Cpu {
            pool: Arc::new(pool),
            kernels: kernels::detect(),
            precision,
            rope: RopeTable::default(),
            all_rows: Vec::new(),
        })
    }

    /// Name of the instruction set whose kernels are used.
    pub fn isa(&self) -> &'static str {
        self.kernels.name
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// How matrix products are computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn rows(&mut self, rows: usize) -> &[u32] {
        while self.all_rows.len() < rows {
            self.all_rows.push(self.all_rows.len() as u32);
        }
        &self.all_rows[..rows]
    }

    /// `outs[i] = matrices[i](x)`, all rows.
    fn multiply(&mut self, x: &[f32], matrices: &[&Matrix], outs: Vec<&mut [f32]>) {
        let kernels = self.kernels;
        let k = matrices[0].k;
        let rows = self.rows(x.len() / k);
        let input =
            Input::new(x, k, matrices.iter().any(|m| m.is_int8()), gemm::wants_pairs(rows.len()));
        let jobs: Vec<Job<'_>> = matrices
            .iter()
            .zip(outs)
            .map(|(matrix, out)| Job {
                matrix,
                input: &input,
                rows,
                out: DisjointColumns::new(out, matrix.n),
            })
            .collect();
        gemm::gemm(kernels, &jobs);
    }
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type Linear = Matrix;
    type Vector = Vec<f32>;
    type Table = Matrix;
    type KvCache = KvCache;

    fn load_linear(
        &self,
        weight: Weight,
        bias: Option<Weight>,
        role: Role,
    ) -> Result<Matrix, BackendError> {
        Matrix::load(weight, bias, role, self.precision)
    }

    fn load_vector(&self, weight: Weight) -> Result<Vec<f32>, BackendError> {
        matrix::load_vector(weight)
    }

    fn load_table(&self, weight: Weight) -> Result<Matrix, BackendError> {
        Matrix::load(weight, None, Role::Projection, Precision::F32)
    }

    fn buffer(&self, rows_max: usize, cols: usize) -> Result<Buffer, BackendError> {
        let mut data = Vec::new();
        data.try_reserve_exact(rows_max * cols).map_err(|_| BackendError::Memory {
            what: "activations",
            bytes: rows_max * cols * 4,
            hint: "use a smaller batch",
        })?;
        Ok(Buffer { data, cols })
    }

    fn kv_cache(
        &self,
        num_layers: usize,
        num_blocks: usize,
        params: &AttentionParams,
    ) -> Result<KvCache, BackendError> {
        let bytes = KvCache::num_bytes(num_layers, num_blocks, params);
        // Asked for once, as a whole and given back: the allocations that follow are the same bytes in parts.
        Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| BackendError::Memory {
            what: "keys and values",
            bytes,
            hint: "use a shorter context",
        })?;
        Ok(KvCache::new(num_layers, num_blocks, params))
    }

    fn run<R: Send>(&mut self, step: impl FnOnce(&mut Self) -> R + Send) -> R {
        let pool = self.pool.clone();
        pool.install(|| step(self))
    }

    fn embed(&mut self, table: &Matrix, tokens: &[u32], out: &mut Buffer) {
        out.set_rows(tokens.len());
        for (&token, out) in tokens.iter().zip(out.data.chunks_exact_mut(table.k)) {
            table.row_f32(token as usize, out);
        }
    }

    fn rms_norm(&mut self, x: &Buffer, weight: &Vec<f32>, eps: f32, out: &mut Buffer) {
        out.set_rows(x.rows());
        let rows = x.data.par_chunks_exact(x.cols).zip(out.data.par_chunks_exact_mut(x.cols));
        rows.with_min_len(16).for_each(|(x, out)| math::rms_norm_row(x, weight, eps, out));
    }

    fn linear(&mut self, x: &Buffer, linears: &[&Matrix], outs: &mut [&mut Buffer]) {
        for out in outs.iter_mut() {
            out.set_rows(x.rows());
        }
        self.multiply(&x.data, linears, outs.iter_mut().map(|out| &mut out.data[..]).collect());
    }

    fn linear_add(&mut self, x: &Buffer, linear: &Matrix, residual: &mut Buffer) {
        let mut out = vec![0.0; residual.data.len()];
        self.multiply(&x.data, &[linear], vec![&mut out]);
        math::add_scaled(&mut residual.data, 1.0, &out);
    }

    fn rope(
        &mut self,
        x: &mut Buffer,
        positions: &[u32],
        head_norm: Option<(&Vec<f32>, f32)>,
        rope: &Rope,
    ) {
        self.rope.update(positions, rope);
        let half = rope.inv_freq.len();
        let rows = x.data.par_chunks_exact_mut(x.cols).zip(self.rope.angles.par_chunks_exact(half));
        rows.with_min_len(16).for_each(|(row, angles)| {
            for head in row.chunks_exact_mut(2 * half) {
                if let Some((weight, eps)) = head_norm {
                    math::rms_norm_in_place(head, weight, eps);
                }
                let (first, second) = head.split_at_mut(half);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        });
    }

    fn attention(
        &mut self,
        q: &Buffer,
        k: &Buffer,
        v: &Buffer,
        cache: &mut KvCache,
        layer: usize,
        batch: &Batch<'_>,
        params: &AttentionParams,
        out: &mut Buffer,
    ) {
        cache.store(layer, batch, &k.data, &v.data);
        out.set_rows(q.rows());
        let cols = out.cols;
        let out = DisjointColumns::new(&mut out.data, cols);
        Attention { kernels: self.kernels, cache, layer, params, batch, q: &q.data, out }.run();
    }

    fn gated_mlp(&mut self, x: &Buffer, mlp: &GatedMlp<Matrix>, residual: &mut Buffer) {
        let size = x.rows() * mlp.gate_proj.n;
        let (mut gate, mut up) = (vec![0.0; size], vec![0.0; size]);
        self.multiply(&x.data, &[&mlp.gate_proj, &mlp.up_proj], vec![&mut gate, &mut up]);
        moe::silu_mul(&mut gate, &up, mlp.gate_proj.n);
        let mut out = vec![0.0; residual.data.len()];
        self.multiply(&gate, &[&mlp.down_proj], vec![&mut out]);
        math::add_scaled(&mut residual.data, 1.0, &out);
    }

    fn moe(&mut self, x: &Buffer, moe: &Moe<Matrix>, residual: &mut Buffer) {
        let mut scores = vec![0.0; x.rows() * moe.experts.len()];
        self.multiply(&x.data, &[&moe.gate], vec![&mut scores]);
        let routes = moe::route(&scores, moe);
        moe::run_experts(self.kernels, &x.data, moe, &routes, residual);
    }

    fn logits(&mut self, x: &Buffer, rows: &[u32], lm_head: &Matrix, logits: &mut Vec<f32>) {
        logits.clear();
        logits.resize(rows.len() * lm_head.n, 0.0);
        if rows.is_empty() {
            return;
        }
        let input = Input::new(&x.data, x.cols, lm_head.is_int8(), gemm::wants_pairs(rows.len()));
        let out = DisjointColumns::new(logits, lm_head.n);
        gemm::gemm(self.kernels, &[Job { matrix: lm_head, input: &input, rows, out }]);
    }
}
