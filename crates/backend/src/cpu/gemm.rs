//! `out = x W^T` for several matrices at once: the one place where matrices meet activations.
//!
//! For a few rows of input every weight row is read once and multiplied where it lies (*dot*). For more, the weights of
//! [`PANEL_ROWS`] rows are unpacked into a panel that all input rows then share (*tile*).
#![allow(unsafe_code)] // columns are shared out between tasks, see `DisjointColumns::row_part`

use std::cell::RefCell;

use rayon::prelude::*;

use super::disjoint::DisjointColumns;
use super::input::Input;
use super::kernels::{BLOCK, Int8Tile, Kernels, PANEL_ROWS, TILE_TOKENS};
use super::matrix::{Data, Matrix};

/// Most input rows that the dot kernels take: above it, unpacking a panel costs less than unpacking for every row.
const DOT_ROWS_MAX: usize = 4;
/// Columns of a panel, so that it stays in the second-level cache: 16 rows x 2048 x 2 bytes.
const PANEL_COLS: usize = 2048;
/// Weight bytes a dot task reads: long enough to outweigh its dispatch, short enough to balance the threads.
const DOT_TASK_BYTES: usize = 64 << 10;

/// One product: rows of an input times a matrix.
pub(crate) struct Job<'a> {
    pub(crate) matrix: &'a Matrix,
    pub(crate) input: &'a Input<'a>,
    /// Which rows of the input, in the order of the output's rows.
    pub(crate) rows: &'a [u32],
    /// `[rows.len(), matrix.n]`.
    pub(crate) out: DisjointColumns<'a>,
}

/// Whether inputs for this many rows must hold the tiles' form.
pub(crate) fn wants_pairs(rows: usize) -> bool {
    rows > DOT_ROWS_MAX
}

/// Runs all jobs, shared out between the threads of the current pool.
pub(crate) fn gemm(kernels: &'static Kernels, jobs: &[Job<'_>]) {
    let tasks: Vec<(usize, usize, usize)> =
        jobs.iter().enumerate().flat_map(|(i, job)| tasks(i, job)).collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(job, start, end)| {
        SCRATCH.with_borrow_mut(|scratch| run_task(kernels, &jobs[job], start, end, scratch));
    });
}

/// Cuts a job into ranges of weight rows.
fn tasks(index: usize, job: &Job<'_>) -> impl Iterator<Item = (usize, usize, usize)> {
    let n = job.matrix.n;
    let step = match job.rows.len() {
        0 => n,
        m if wants_pairs(m) => PANEL_ROWS,
        _ => (DOT_TASK_BYTES / job.matrix.row_bytes().max(1)).next_multiple_of(2).max(2),
    };
    let n = if job.rows.is_empty() { 0 } else { n };
    (0..n).step_by(step).map(move |start| (index, start, n.min(start + step)))
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    row: Vec<f32>,
    weight_scales: [Vec<f32>; 2],
    scales: [Vec<f32>; 2],
    codes: Vec<i8>,
    panel: Vec<[i16; 2]>,
    panel_scales: Vec<[f32; PANEL_ROWS]>,
    panel_f32: Vec<[f32; PANEL_ROWS]>,
    out: Vec<[f32; PANEL_ROWS]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn run_task(kernels: &Kernels, job: &Job<'_>, start: usize, end: usize, scratch: &mut Scratch) {
    match (&job.matrix.data, wants_pairs(job.rows.len())) {
        (Data::Packed { int8: Some(code), .. }, false) => {
            dot_packed(kernels, job, &code.table, start, end, scratch);
        }
        (Data::Int8 { codes, .. }, false) => dot_int8(kernels, job, codes, start, end, scratch),
        (_, false) => dot_f32(kernels, job, start, end, scratch),
        (Data::Packed { int8: Some(_), .. } | Data::Int8 { .. }, true) => {
            tile_int8(kernels, job, start, end, scratch);
        }
        (_, true) => tile_f32(kernels, job, start, end, scratch),
    }
}

/// Writes one element, with the bias.
fn put(job: &Job<'_>, out_row: usize, n: usize, value: f32) {
    let bias = job.matrix.bias.as_ref().map_or(0.0, |bias| bias[n]);
    // SAFETY: column n belongs to this task alone.
    unsafe { job.out.row_part(out_row, n, 1)[0] = value + bias };
}

fn dot_packed(
    kernels: &Kernels,
    job: &Job<'_>,
    table: &[i8; 16],
    start: usize,
    end: usize,
    scratch: &mut Scratch,
) {
    let matrix = job.matrix;
    let per_scale = matrix.scale_block();
    let int8 = job.input.int8();
    let (weight_scales, scales) = (&mut scratch.weight_scales, &mut scratch.scales);
    for buffer in weight_scales.iter_mut().chain(scales.iter_mut()) {
        buffer.resize(matrix.k / per_scale, 0.0);
    }
    for n in (start..end).step_by(2) {
        // An odd last row is computed twice.
        let pair = [n, (n + 1).min(end - 1)];
        matrix.row_scales(pair[0], &mut weight_scales[0]);
        matrix.row_scales(pair[1], &mut weight_scales[1]);
        for (out_row, &row) in job.rows.iter().enumerate() {
            let row = row as usize;
            for i in 0..2 {
                combine(&weight_scales[i], int8.scales(row), &mut scales[i]);
            }
            let rows =
                [matrix.packed_row(pair[0], &scales[0]), matrix.packed_row(pair[1], &scales[1])];
            let dots = (kernels.dot_packed)(rows, table, int8.codes(row));
            put(job, out_row, pair[0], dots[0]);
            if pair[1] > pair[0] {
                put(job, out_row, pair[1], dots[1]);
            }
        }
    }
}

/// Weight scales times activation scales; weight blocks may be half as long.
fn combine(weights: &[f32], activations: &[f32], out: &mut [f32]) {
    if weights.len() == activations.len() {
        for ((out, w), a) in out.iter_mut().zip(weights).zip(activations) {
            *out = w * a;
        }
    } else {
        for (i, (out, w)) in out.iter_mut().zip(weights).enumerate() {
            *out = w * activations[i / 2];
        }
    }
}

fn dot_int8(
    kernels: &Kernels,
    job: &Job<'_>,
    codes: &[i8],
    start: usize,
    end: usize,
    scratch: &mut Scratch,
) {
    let k = job.matrix.k;
    let int8 = job.input.int8();
    for buffer in [&mut scratch.weight_scales[0], &mut scratch.scales[0]] {
        buffer.resize(k / BLOCK, 0.0);
    }
    for n in start..end {
        job.matrix.row_scales(n, &mut scratch.weight_scales[0]);
        for (out_row, &row) in job.rows.iter().enumerate() {
            let row = row as usize;
            combine(&scratch.weight_scales[0], int8.scales(row), &mut scratch.scales[0]);
            let dot =
                (kernels.dot_int8)(&codes[n * k..(n + 1) * k], int8.codes(row), &scratch.scales[0]);
            put(job, out_row, n, dot);
        }
    }
}

fn dot_f32(kernels: &Kernels, job: &Job<'_>, start: usize, end: usize, scratch: &mut Scratch) {
    scratch.row.resize(job.matrix.k, 0.0);
    for n in start..end {
        job.matrix.row_f32(n, &mut scratch.row);
        for (out_row, &row) in job.rows.iter().enumerate() {
            put(job, out_row, n, (kernels.dot_f32)(&scratch.row, job.input.row(row as usize)));
        }
    }
}

fn tile_int8(kernels: &Kernels, job: &Job<'_>, start: usize, end: usize, scratch: &mut Scratch) {
    let matrix = job.matrix;
    let int8 = job.input.int8();
    let per_scale = matrix.scale_block();
    unpack_rows(kernels, matrix, start, end, scratch);
    let out = reset(&mut scratch.out, job.rows.len());
    for from in (0..matrix.k).step_by(PANEL_COLS) {
        let to = matrix.k.min(from + PANEL_COLS);
        interleave(kernels, matrix.k, from..to, &scratch.codes, &mut scratch.panel);
        for (rows, out) in job.rows.chunks(TILE_TOKENS).zip(out.chunks_mut(TILE_TOKENS)) {
            let mut tokens: [&[[i16; 2]]; TILE_TOKENS] = [&[]; TILE_TOKENS];
            let mut token_scales: [&[f32]; TILE_TOKENS] = [&[]; TILE_TOKENS];
            for (t, &row) in rows.iter().enumerate() {
                tokens[t] = &int8.pairs(row as usize)[from / 2..to / 2];
                token_scales[t] = &int8.scales(row as usize)[from / BLOCK..to / BLOCK];
            }
            let tile = Int8Tile {
                panel: &scratch.panel,
                panel_scales: &scratch.panel_scales[from / per_scale..to / per_scale],
                tokens: &tokens[..rows.len()],
                token_scales: &token_scales[..rows.len()],
            };
            (kernels.tile_int8)(&tile, out);
        }
    }
    put_panel(job, start, end, out);
}

/// Int8 codes of rows `start..end` (absent rows of the panel are zero), and their scales side by side.
fn unpack_rows(
    kernels: &Kernels,
    matrix: &Matrix,
    start: usize,
    end: usize,
    scratch: &mut Scratch,
) {
    let k = matrix.k;
    let per_scale = matrix.scale_block();
    scratch.codes.clear();
    scratch.codes.resize(PANEL_ROWS * k, 0);
    scratch.panel_scales.clear();
    scratch.panel_scales.resize(k / per_scale, [0.0; PANEL_ROWS]);
    scratch.row.resize(k / per_scale, 0.0);
    for (r, n) in (start..end).enumerate() {
        let codes = &mut scratch.codes[r * k..(r + 1) * k];
        match &matrix.data {
            Data::Packed { int8: Some(code), .. } => {
                (kernels.unpack)(matrix.packed_row(n, &[]).packed, &code.table, codes);
            }
            Data::Int8 { codes: all, .. } => codes.copy_from_slice(&all[n * k..(n + 1) * k]),
            _ => unreachable!("only int8 matrices are tiled in int8"),
        }
        matrix.row_scales(n, &mut scratch.row[..k / per_scale]);
        for (scales, &scale) in scratch.panel_scales.iter_mut().zip(&scratch.row) {
            scales[r] = scale;
        }
    }
}

fn interleave(
    kernels: &Kernels,
    k: usize,
    cols: std::ops::Range<usize>,
    codes: &[i8],
    panel: &mut Vec<[i16; 2]>,
) {
    panel.resize(cols.len() / 2 * PANEL_ROWS, [0; 2]);
    (kernels.interleave)(codes, k, cols, panel);
}

fn tile_f32(kernels: &Kernels, job: &Job<'_>, start: usize, end: usize, scratch: &mut Scratch) {
    let k = job.matrix.k;
    scratch.panel_f32.clear();
    scratch.panel_f32.resize(k, [0.0; PANEL_ROWS]);
    scratch.row.resize(k, 0.0);
    for (r, n) in (start..end).enumerate() {
        job.matrix.row_f32(n, &mut scratch.row[..k]);
        for (column, &value) in scratch.panel_f32.iter_mut().zip(&scratch.row) {
            column[r] = value;
        }
    }
    let out = reset(&mut scratch.out, job.rows.len());
    for from in (0..k).step_by(PANEL_COLS / 2) {
        let to = k.min(from + PANEL_COLS / 2);
        for (rows, out) in job.rows.chunks(TILE_TOKENS).zip(out.chunks_mut(TILE_TOKENS)) {
            let mut tokens: [&[f32]; TILE_TOKENS] = [&[]; TILE_TOKENS];
            for (t, &row) in rows.iter().enumerate() {
                tokens[t] = &job.input.row(row as usize)[from..to];
            }
            (kernels.tile_f32)(&scratch.panel_f32[from..to], &tokens[..rows.len()], out);
        }
    }
    put_panel(job, start, end, out);
}

fn reset(out: &mut Vec<[f32; PANEL_ROWS]>, rows: usize) -> &mut [[f32; PANEL_ROWS]] {
    out.clear();
    out.resize(rows, [0.0; PANEL_ROWS]);
    out
}

fn put_panel(job: &Job<'_>, start: usize, end: usize, out: &[[f32; PANEL_ROWS]]) {
    for (row, values) in out.iter().enumerate() {
        // SAFETY: columns start..end belong to this task alone.
        let to = unsafe { job.out.row_part(row, start, end - start) };
        to.copy_from_slice(&values[..end - start]);
        if let Some(bias) = &job.matrix.bias {
            for (to, bias) in to.iter_mut().zip(&bias[start..end]) {
                *to += bias;
            }
        }
    }
}
