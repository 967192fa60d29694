//! The mixture of experts: routing, and all chosen experts' products as one list of jobs.

use std::ops::Range;

use rayon::prelude::*;

use super::disjoint::DisjointColumns;
use super::gemm::{self, Job};
use super::input::Input;
use super::kernels::Kernels;
use super::{Matrix, math};
use crate::Moe;

/// Which tokens go where, grouped by expert.
pub(super) struct Routes {
    /// Token rows, those of one expert after another.
    rows: Vec<u32>,
    /// Weight of each entry of `rows`.
    weights: Vec<f32>,
    /// Per expert its part of `rows`.
    ranges: Vec<Range<usize>>,
}

/// Chooses experts by the routers' scores `[num_tokens, num_experts]`: softmax over all, the highest
/// `num_experts_per_tok`, scaled to sum to one if the model has it so. Equal scores go to the lower index.
pub(super) fn route(scores: &[f32], moe: &Moe<Matrix>) -> Routes {
    let num_experts = moe.experts.len();
    let mut chosen: Vec<Vec<(u32, f32)>> = vec![Vec::new(); num_experts];
    for (row, scores) in scores.chunks_exact(num_experts).enumerate() {
        let mut probabilities = scores.to_vec();
        math::softmax(&mut probabilities);
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        order.truncate(moe.num_experts_per_tok);
        let sum: f32 = order.iter().map(|&expert| probabilities[expert]).sum();
        let scale = if moe.norm_topk_prob { 1.0 / sum } else { 1.0 };
        for expert in order {
            chosen[expert].push((row as u32, probabilities[expert] * scale));
        }
    }
    let mut routes = Routes { rows: Vec::new(), weights: Vec::new(), ranges: Vec::new() };
    for chosen in chosen {
        let start = routes.rows.len();
        routes.rows.extend(chosen.iter().map(|&(row, _)| row));
        routes.weights.extend(chosen.iter().map(|&(_, weight)| weight));
        routes.ranges.push(start..routes.rows.len());
    }
    routes
}

/// `sum += weight * expert(x)` for every route.
pub(super) fn run_experts(
    kernels: &'static Kernels,
    x: &[f32],
    moe: &Moe<Matrix>,
    routes: &Routes,
    sum: &mut [f32],
) {
    let first = &moe.experts[0].gate_proj;
    let (hidden, intermediate) = (first.k, first.n);
    let longest = routes.ranges.iter().map(Range::len).max().unwrap_or(0);
    let size = routes.rows.len() * intermediate;
    let (mut gate, mut up) = (vec![0.0; size], vec![0.0; size]);
    let used: Vec<_> =
        moe.experts.iter().zip(&routes.ranges).filter(|(_, range)| !range.is_empty()).collect();

    let int8 = used.iter().any(|(e, _)| e.gate_proj.is_int8() || e.up_proj.is_int8());
    let input = Input::new(x, hidden, int8, gemm::wants_pairs(longest));
    let mut jobs = Vec::new();
    let outs =
        split(&mut gate, intermediate, &used).into_iter().zip(split(&mut up, intermediate, &used));
    for ((expert, range), (gate, up)) in used.iter().zip(outs) {
        let rows = &routes.rows[(*range).clone()];
        jobs.push(Job { matrix: &expert.gate_proj, input: &input, rows, out: gate });
        jobs.push(Job { matrix: &expert.up_proj, input: &input, rows, out: up });
    }
    gemm::gemm(kernels, &jobs);
    drop(jobs);
    silu_mul(&mut gate, &up, intermediate);

    let int8 = used.iter().any(|(e, _)| e.down_proj.is_int8());
    let input = Input::new(&gate, intermediate, int8, gemm::wants_pairs(longest));
    let all: Vec<u32> = (0..routes.rows.len() as u32).collect();
    let mut out = vec![0.0; routes.rows.len() * hidden];
    let outs = split(&mut out, hidden, &used);
    let jobs: Vec<_> = used
        .iter()
        .zip(outs)
        .map(|((expert, range), out)| Job {
            matrix: &expert.down_proj,
            input: &input,
            rows: &all[(*range).clone()],
            out,
        })
        .collect();
    gemm::gemm(kernels, &jobs);
    drop(jobs);
    for ((&row, &weight), out) in
        routes.rows.iter().zip(&routes.weights).zip(out.chunks_exact(hidden))
    {
        let to = &mut sum[row as usize * hidden..(row as usize + 1) * hidden];
        math::add_scaled(to, weight, out);
    }
}

/// Cuts `[rows, cols]` into the experts' parts.
fn split<'a, T>(
    data: &'a mut [f32],
    cols: usize,
    used: &[(T, &Range<usize>)],
) -> Vec<DisjointColumns<'a>> {
    let mut rest = data;
    let mut parts = Vec::with_capacity(used.len());
    for (_, range) in used {
        let (part, tail) = rest.split_at_mut(range.len() * cols);
        parts.push(DisjointColumns::new(part, cols));
        rest = tail;
    }
    parts
}

/// `gate = silu(gate) * up`, row by row on all threads.
pub(super) fn silu_mul(gate: &mut [f32], up: &[f32], cols: usize) {
    let rows = gate.par_chunks_exact_mut(cols).zip(up.par_chunks_exact(cols));
    rows.with_min_len(4).for_each(|(gate, up)| math::silu_mul(gate, up));
}
