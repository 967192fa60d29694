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

use crate::{
    Attention, AttentionParams, Backend, BackendError, Batch, Drawn, Draws, GatedMlp, LinearWeight,
    Moe, Norm, Role, StepLimits, Storage, Weight, draw,
};
use attention::Attend;
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
    /// Normed activations.
    normed: Vec<f32>,
    /// `0, 1, 2, …`: the rows of a product that takes them all.
    all_rows: Vec<u32>,
    /// Of the last step that drew: its draws, and the logits that it drew from.
    draws: Draws,
    drawn_from: Vec<f32>,
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
    fn update(&mut self, positions: &[u32], inv_freq: &[f32]) {
        if self.positions == positions && self.inv_freq == inv_freq {
            return;
        }
        self.positions = positions.to_vec();
        self.inv_freq = inv_freq.to_vec();
        self.angles.clear();
        for &position in positions {
            // The product is rounded to f32 before the cosine, as the reference implementations do.
            self.angles.extend(inv_freq.iter().map(|f| {
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
            normed: Vec::new(),
            all_rows: Vec::new(),
            draws: Draws::default(),
            drawn_from: Vec::new(),
        })
    }

    /// Steps that suit a CPU.
    pub const LIMITS: StepLimits = StepLimits { tokens: 512, rows: 512, sequences: 64 };

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
    fn multiply(&mut self, x: &[f32], matrices: &[&Matrix], outs: Vec<DisjointColumns<'_>>) {
        let kernels = self.kernels;
        let k = matrices[0].k;
        let rows = self.rows(x.len() / k);
        let int8 = matrices.iter().any(|matrix| matrix.is_int8());
        let input = Input::new(x, k, int8, gemm::wants_pairs(rows.len()));
        let jobs: Vec<Job<'_>> = matrices
            .iter()
            .zip(outs)
            .map(|(matrix, out)| Job { matrix, input: &input, rows, out })
            .collect();
        gemm::gemm(kernels, &jobs);
    }

    /// The stack's outputs side by side in `out`.
    fn multiply_stack(&mut self, x: &[f32], linear: &Linear, out: &mut [f32]) {
        let outs = DisjointColumns::split(out, linear.iter().map(|matrix| matrix.n));
        self.multiply(x, &linear.iter().collect::<Vec<_>>(), outs);
    }

    fn load_matrix(&self, linear: LinearWeight, role: Role) -> Result<Matrix, BackendError> {
        Matrix::load(linear.weight, linear.bias, role, self.precision)
    }

    /// Calls `f` with `norm(x)`, or with `x` if there is no norm.
    fn with_normed<R>(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vec<f32>>>,
        f: impl FnOnce(&mut Self, &[f32]) -> R,
    ) -> R {
        let Some(norm) = norm else { return f(self, &x.data) };
        let mut normed = std::mem::take(&mut self.normed);
        normed.resize(x.data.len(), 0.0);
        let rows = x.data.par_chunks_exact(x.cols).zip(normed.par_chunks_exact_mut(x.cols));
        rows.with_min_len(16)
            .for_each(|(x, out)| math::rms_norm_row(x, &norm.weight, norm.eps, out));
        let result = f(self, &normed);
        self.normed = normed;
        result
    }

    /// Norms and rotates the query and key heads of `qkv`.
    fn rotate(&mut self, qkv: &mut Buffer, attention: &Attention<Vec<f32>>, positions: &[u32]) {
        self.rope.update(positions, &attention.inv_freq);
        let half = attention.inv_freq.len();
        let AttentionParams { num_attention_heads, num_key_value_heads, .. } = attention.params;
        let rows = qkv.data.par_chunks_exact_mut(qkv.cols);
        rows.zip(self.rope.angles.par_chunks_exact(half)).with_min_len(16).for_each(
            |(row, angles)| {
                let heads =
                    row.chunks_exact_mut(2 * half).take(num_attention_heads + num_key_value_heads);
                for (index, head) in heads.enumerate() {
                    let is_query = index < num_attention_heads;
                    let norm = if is_query { &attention.q_norm } else { &attention.k_norm };
                    if let Some(norm) = norm {
                        math::rms_norm_in_place(head, &norm.weight, norm.eps);
                    }
                    let (first, second) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            },
        );
    }
}

/// Matrices with the same input.
pub type Linear = Vec<Matrix>;

impl Storage for Cpu {
    type Buffer = Buffer;
    type Linear = Linear;
    type Mlp = GatedMlp<Matrix>;
    type Moe = Moe<Matrix>;
    type Vector = Vec<f32>;
    type Table = Matrix;
    type KvCache = KvCache;

    fn load_linear(&self, stack: Vec<LinearWeight>, role: Role) -> Result<Linear, BackendError> {
        stack.into_iter().map(|linear| self.load_matrix(linear, role)).collect()
    }

    fn load_mlp(&self, mlp: GatedMlp<LinearWeight>) -> Result<GatedMlp<Matrix>, BackendError> {
        let load = |linear| self.load_matrix(linear, Role::Projection);
        Ok(GatedMlp {
            gate_proj: load(mlp.gate_proj)?,
            up_proj: load(mlp.up_proj)?,
            down_proj: load(mlp.down_proj)?,
        })
    }

    fn load_moe(&self, moe: Moe<LinearWeight>) -> Result<Moe<Matrix>, BackendError> {
        let experts = moe.experts.into_iter().map(|expert| self.load_mlp(expert));
        Ok(Moe {
            gate: self.load_matrix(moe.gate, Role::Router)?,
            experts: experts.collect::<Result<_, _>>()?,
            num_experts_per_tok: moe.num_experts_per_tok,
            norm_topk_prob: moe.norm_topk_prob,
        })
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
}

impl Backend for Cpu {
    fn run(
        &mut self,
        _batch: &Batch<'_>,
        _rows: &[u32],
        logits: &mut Vec<f32>,
        step: impl FnOnce(&mut Self, &mut Vec<f32>) + Send,
    ) -> Result<(), BackendError> {
        let pool = self.pool.clone();
        pool.install(|| step(self, logits));
        Ok(())
    }

    fn run_and_draw(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        kept: &[u32],
        choose: &mut (dyn FnMut(&mut Draws) + Send),
        drawn: &mut Vec<Drawn>,
        logits: &mut Vec<f32>,
        step: impl FnOnce(&mut Self, &mut Vec<f32>) + Send,
    ) -> Result<(), BackendError> {
        // Nothing computes meanwhile here; so what `choose` has to say about the last step is said before the next.
        self.draws.clear();
        choose(&mut self.draws);
        let mut all = std::mem::take(&mut self.drawn_from);
        all.clear();
        self.run(batch, rows, &mut all, step)?;
        let vocab_size = all.len() / rows.len().max(1);
        let Draws { draws, masks } = &self.draws;
        self.pool.install(|| {
            let rows = all.par_chunks_exact(vocab_size.max(1)).zip(draws);
            rows.map(|(row, how)| draw(row, how, masks)).collect_into_vec(drawn);
        });
        self.drawn_from = all;
        self.last_logits(kept, logits)
    }

    fn last_logits(&mut self, rows: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError> {
        let vocab_size = self.drawn_from.len() / self.draws.draws.len().max(1);
        logits.clear();
        for &row in rows {
            logits.extend_from_slice(&self.drawn_from[row as usize * vocab_size..][..vocab_size]);
        }
        Ok(())
    }

    fn embed(&mut self, table: &Matrix, tokens: &[u32], out: &mut Buffer) {
        out.set_rows(tokens.len());
        for (&token, out) in tokens.iter().zip(out.data.chunks_exact_mut(table.k)) {
            table.row_f32(token as usize, out);
        }
    }

    fn linear(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vec<f32>>>,
        linear: &Linear,
        out: &mut Buffer,
    ) {
        out.set_rows(x.rows());
        self.with_normed(x, norm, |cpu, x| cpu.multiply_stack(x, linear, &mut out.data));
    }

    fn linear_add(&mut self, x: &Buffer, linear: &Linear, residual: &mut Buffer) {
        let mut out = vec![0.0; residual.data.len()];
        self.multiply_stack(&x.data, linear, &mut out);
        math::add_scaled(&mut residual.data, 1.0, &out);
    }

    fn attention(
        &mut self,
        qkv: &mut Buffer,
        attention: &Attention<Vec<f32>>,
        cache: &mut KvCache,
        layer: usize,
        batch: &Batch<'_>,
        out: &mut Buffer,
    ) {
        self.rotate(qkv, attention, batch.positions);
        cache.store(layer, batch, &qkv.data, qkv.cols);
        out.set_rows(qkv.rows());
        let (kernels, params) = (self.kernels, &attention.params);
        let width = out.cols;
        let out = DisjointColumns::new(&mut out.data, width);
        let (qkv, cols) = (&qkv.data, qkv.cols);
        Attend { kernels, cache, layer, params, batch, qkv, cols, out }.run();
    }

    fn gated_mlp(&mut self, residual: &mut Buffer, norm: &Norm<Vec<f32>>, mlp: &GatedMlp<Matrix>) {
        let width = mlp.gate_proj.n;
        let size = residual.rows() * width;
        let (mut gate, mut up) = (vec![0.0; size], vec![0.0; size]);
        let outs = [&mut gate, &mut up].map(|out| DisjointColumns::new(out, width));
        self.with_normed(residual, Some(norm), |cpu, x| {
            cpu.multiply(x, &[&mlp.gate_proj, &mlp.up_proj], outs.into());
        });
        moe::silu_mul(&mut gate, &up, width);
        let mut out = vec![0.0; residual.data.len()];
        let outs = vec![DisjointColumns::new(&mut out, residual.cols)];
        self.multiply(&gate, &[&mlp.down_proj], outs);
        math::add_scaled(&mut residual.data, 1.0, &out);
    }

    fn moe(&mut self, residual: &mut Buffer, norm: &Norm<Vec<f32>>, moe: &Moe<Matrix>) {
        let mut scores = vec![0.0; residual.rows() * moe.experts.len()];
        let mut sum = vec![0.0; residual.data.len()];
        self.with_normed(residual, Some(norm), |cpu, x| {
            cpu.multiply(
                x,
                &[&moe.gate],
                vec![DisjointColumns::new(&mut scores, moe.experts.len())],
            );
            let routes = moe::route(&scores, moe);
            moe::run_experts(cpu.kernels, x, moe, &routes, &mut sum);
        });
        math::add_scaled(&mut residual.data, 1.0, &sum);
    }

    fn logits(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vec<f32>>>,
        rows: &[u32],
        lm_head: &Linear,
        logits: &mut Vec<f32>,
    ) {
        logits.clear();
        let lm_head = &lm_head[0];
        logits.resize(rows.len() * lm_head.n, 0.0);
        if rows.is_empty() {
            return;
        }
        let chosen = rows.iter().flat_map(|&row| &x.data[row as usize * x.cols..][..x.cols]);
        let chosen = Buffer { data: chosen.copied().collect(), cols: x.cols };
        self.with_normed(&chosen, norm, |cpu, x| {
            let kernels = cpu.kernels;
            let rows = cpu.rows(rows.len());
            let input =
                Input::new(x, chosen.cols, lm_head.is_int8(), gemm::wants_pairs(rows.len()));
            let out = DisjointColumns::new(logits, lm_head.n);
            gemm::gemm(kernels, &[Job { matrix: lm_head, input: &input, rows, out }]);
        });
    }
}
