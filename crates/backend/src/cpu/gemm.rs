//! `out = x W^T` for several matrices at once: the one place where matrices meet activations.
//!
//! For a few rows of input every weight row is read once and multiplied where it lies (*dot*). For more, the weights of
//! [`PANEL_ROWS`] rows are unpacked into a panel that all input rows then share (*tile*).
#![allow(unsafe_code)] // columns are shared out between tasks, see `DisjointColumns::row_part`

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::disjoint::DisjointColumns;
use super::input::Input;
use super::kernels::{BLOCK, DOT_ROWS, Int8Tile, Kernels, PANEL_ROWS, PackedRow, TILE_TOKENS};
use super::matrix::{Data, Int8Form, Matrix, RowScales};

/// Most input rows that the dot kernels take: above it, unpacking a panel costs less than unpacking for every row.
const DOT_ROWS_MAX: usize = 4;
/// Columns of a panel, so that it stays in the second-level cache: 16 rows x 2048 x 2 bytes.
const PANEL_COLS: usize = 2048;
/// Weight bytes a dot task reads: long enough to outweigh its dispatch, short enough to balance the threads.
const DOT_TASK_BYTES: usize = 192 << 10;

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
        _ => (DOT_TASK_BYTES / job.matrix.row_bytes().max(1))
            .next_multiple_of(DOT_ROWS)
            .max(DOT_ROWS),
    };
    let n = if job.rows.is_empty() { 0 } else { n };
    (0..n).step_by(step).map(move |start| (index, start, n.min(start + step)))
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    row: Vec<f32>,
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
        (Data::Packed { int8: Some(form), .. }, false) => {
            dot_packed(kernels, job, form, start, end)
        }
        (Data::Packed { int8: Some(form), .. }, true) => {
            let unpack = |n, codes: &mut [i8]| {
                (kernels.unpack)(job.matrix.packed_row(n), &form.table, codes);
            };
            tile_int8(kernels, job, start..end, &form.scales, form.scale_block, unpack, scratch);
        }
        (Data::Int8 { codes, scales }, false) => dot_int8(kernels, job, codes, scales, start, end),
        (Data::Int8 { codes: all, scales }, true) => {
            let k = job.matrix.k;
            let unpack =
                |n: usize, codes: &mut [i8]| codes.copy_from_slice(&all[n * k..(n + 1) * k]);
            tile_int8(kernels, job, start..end, scales, BLOCK, unpack, scratch);
        }
        (_, false) => dot_f32(kernels, job, start, end, scratch),
        (_, true) => tile_f32(kernels, job, start, end, scratch),
    }
}

/// Writes elements of a row from column `n` on, with the bias; the columns must belong to the task.
fn put(job: &Job<'_>, out_row: usize, n: usize, values: &[f32]) {
    // SAFETY: the columns belong to this task alone.
    let out = unsafe { job.out.row_part(out_row, n, values.len()) };
    out.copy_from_slice(values);
    if let Some(bias) = &job.matrix.bias {
        for (out, bias) in out.iter_mut().zip(&bias[n..]) {
            *out += bias;
        }
    }
}

fn dot_packed(kernels: &Kernels, job: &Job<'_>, form: &Int8Form, start: usize, end: usize) {
    let matrix = job.matrix;
    let row = |n| PackedRow { packed: matrix.packed_row(n), scales: form.scales.row(n) };
    for n in (start..end).step_by(DOT_ROWS) {
        // Where fewer remain, the last is computed more than once.
        let rows: [_; DOT_ROWS] = std::array::from_fn(|i| row((n + i).min(end - 1)));
        for (out_row, &x_row) in job.rows.iter().enumerate() {
            let x = job.input.int8().row(x_row as usize);
            let dots = (kernels.dot_packed)(&rows, &form.table, x);
            let count = DOT_ROWS.min(end - n);
            let out: [f32; DOT_ROWS] =
                std::array::from_fn(|i| dots[i] * form.scales.unit(n + i.min(count - 1)));
            put(job, out_row, n, &out[..count]);
        }
    }
}

fn dot_int8(
    kernels: &Kernels,
    job: &Job<'_>,
    codes: &[i8],
    scales: &RowScales,
    start: usize,
    end: usize,
) {
    let k = job.matrix.k;
    for n in start..end {
        let weights = &codes[n * k..(n + 1) * k];
        for (out_row, &row) in job.rows.iter().enumerate() {
            let x = job.input.int8().row(row as usize);
            let dot = (kernels.dot_int8)(weights, scales.row(n), x);
            put(job, out_row, n, &[dot * scales.unit(n)]);
        }
    }
}

fn dot_f32(kernels: &Kernels, job: &Job<'_>, start: usize, end: usize, scratch: &mut Scratch) {
    scratch.row.resize(job.matrix.k, 0.0);
    for n in start..end {
        job.matrix.row_f32(n, &mut scratch.row);
        for (out_row, &row) in job.rows.iter().enumerate() {
            let dot = (kernels.dot_f32)(&scratch.row, job.input.row(row as usize));
            put(job, out_row, n, &[dot]);
        }
    }
}

/// Tiles of int8 rows, whose codes `unpack` gives one by one.
fn tile_int8(
    kernels: &Kernels,
    job: &Job<'_>,
    range: Range<usize>,
    scales: &RowScales,
    scale_block: usize,
    unpack: impl Fn(usize, &mut [i8]),
    scratch: &mut Scratch,
) {
    let k = job.matrix.k;
    let int8 = job.input.int8();
    unpack_rows(range.clone(), k, k / scale_block, scales, unpack, scratch);
    let out = reset(&mut scratch.out, job.rows.len());
    for from in (0..k).step_by(PANEL_COLS) {
        let to = k.min(from + PANEL_COLS);
        scratch.panel.resize((to - from) / 2 * PANEL_ROWS, [0; 2]);
        (kernels.interleave)(&scratch.codes, k, from..to, &mut scratch.panel);
        for (rows, out) in job.rows.chunks(TILE_TOKENS).zip(out.chunks_mut(TILE_TOKENS)) {
            let mut tokens: [&[[i16; 2]]; TILE_TOKENS] = [&[]; TILE_TOKENS];
            let mut token_scales: [&[f32]; TILE_TOKENS] = [&[]; TILE_TOKENS];
            for (t, &row) in rows.iter().enumerate() {
                tokens[t] = &int8.pairs(row as usize)[from / 2..to / 2];
                token_scales[t] = &int8.scales(row as usize)[from / BLOCK..to / BLOCK];
            }
            let tile = Int8Tile {
                panel: &scratch.panel,
                panel_scales: &scratch.panel_scales[from / scale_block..to / scale_block],
                tokens: &tokens[..rows.len()],
                token_scales: &token_scales[..rows.len()],
            };
            (kernels.tile_int8)(&tile, out);
        }
    }
    put_panel(job, range.start, range.end, out);
}

/// Int8 codes of the rows (absent rows of the panel are zero), and their scales side by side.
fn unpack_rows(
    range: Range<usize>,
    k: usize,
    num_scales: usize,
    scales: &RowScales,
    unpack: impl Fn(usize, &mut [i8]),
    scratch: &mut Scratch,
) {
    scratch.codes.clear();
    scratch.codes.resize(PANEL_ROWS * k, 0);
    scratch.panel_scales.clear();
    scratch.panel_scales.resize(num_scales, [0.0; PANEL_ROWS]);
    for (r, n) in range.enumerate() {
        unpack(n, &mut scratch.codes[r * k..(r + 1) * k]);
        for (panel, scale) in scratch.panel_scales.iter_mut().zip(scales.row(n)) {
            panel[r] = scale.to_f32() * scales.unit(n);
        }
    }
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
        put(job, row, start, &values[..end - start]);
    }
}
