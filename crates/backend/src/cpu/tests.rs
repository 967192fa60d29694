//! Every operation against [`crate::reference`], on every instruction set this processor has.

use bytes::Bytes;
use half::f16;
use quant::{Dtype, QuantConfig, QuantType};

use super::kernels::{self, BLOCK, Int8Row, Int8Tile, PANEL_ROWS, PackedRow};
use super::matrix::int8_code;
use super::*;
use crate::{KV_BLOCK_SIZE, SequenceSpan, reference};

/// Numbers in [-1, 1) from a linear congruential generator.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn dense(values: &[f32], shape: &[usize]) -> Weight {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Weight::Dense { dtype: Dtype::F32, shape: shape.to_vec(), bytes: Bytes::from(bytes) }
}

fn packed(
    values: &[f32],
    shape: &[usize],
    quant_type: QuantType,
    blocksize: usize,
    double: bool,
) -> Weight {
    let config = QuantConfig { quant_type, blocksize, double_quant: double };
    let tensor = quant::quantize(values, shape, config).unwrap();
    Weight::Packed(tensor)
}

/// A matrix alone.
fn linear(weight: Weight, bias: Option<Weight>) -> Vec<LinearWeight> {
    vec![LinearWeight { weight, bias }]
}

fn filled(cpu: &Cpu, data: &[f32], cols: usize) -> Buffer {
    let mut buffer = cpu.buffer(data.len() / cols, cols).unwrap();
    buffer.set(data);
    buffer
}

/// All weight forms, n odd, k with and without a remainder: `(weight, k)`.
fn weights() -> Vec<(Weight, usize)> {
    let mut all = Vec::new();
    for (n, k) in [(1, 64), (37, 192), (33, 2240), (19, 100)] {
        let values = random(n as u64, n * k);
        all.push((dense(&values, &[n, k]), k));
        for (quant_type, blocksize, double) in [
            (QuantType::Nf4, 64, true),
            (QuantType::Nf4, 64, false),
            (QuantType::Nf4, 32, true),
            (QuantType::Fp4, 128, true),
            (QuantType::Fp4, 4096, false),
        ] {
            all.push((packed(&values, &[n, k], quant_type, blocksize, double), k));
        }
    }
    all
}

/// Largest `sum_k |w| |x|` over rows: what rounding errors of a product are measured by.
fn magnitude(weight: &[f64], x: &[f64], k: usize) -> f64 {
    let abs = |v: &[f64]| v.iter().map(|v| v.abs()).collect::<Vec<_>>();
    reference::linear(&abs(x), &abs(weight), k, None).into_iter().fold(0.0, f64::max)
}

fn check_linear(precision: Precision, tolerance: impl Fn(&Weight, usize) -> f64) {
    let mut cpu = Cpu::new(2, precision).unwrap();
    for (weight, k) in weights() {
        let n = weight.shape()[0];
        for m in [1, 2, 4, 5, 6, 13] {
            let x = random(m as u64 + 99, m * k);
            let bias = random(7, n);
            let matrix = cpu
                .load_linear(linear(weight.clone(), Some(dense(&bias, &[n]))), Role::Projection)
                .unwrap();
            let mut out = cpu.buffer(m, n).unwrap();
            let input = filled(&cpu, &x, k);
            cpu.linear(&input, None, &matrix, &mut out);
            let w = reference::values(&weight);
            let expected = reference::linear(&widen(&x), &w, k, Some(&widen(&bias)));
            let bound = tolerance(&weight, k) * magnitude(&w, &widen(&x), k);
            for (i, (&found, expected)) in out.data().iter().zip(expected).enumerate() {
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error <= bound,
                    "m {m} k {k} {:?}[{i}]: {error:e} > {bound:e}",
                    weight.shape()
                );
            }
        }
    }
}

#[test]
fn linear_f32_is_exact_but_for_rounding() {
    // A sum of k products in f32 in any order is off by at most k * 2^-24 of the sum of magnitudes.
    check_linear(Precision::F32, |_, k| k as f64 * 2f64.powi(-24));
}

#[test]
fn linear_int8_is_within_its_rounding() {
    // Each activation is off by at most 1/254 of its block's largest (here close to 1, the mean being 1/2); each code
    // by at most half a step of 1/112 of the block's absmax, and blocks of random numbers have a mean code of about a
    // half. The errors have random signs: with a factor of two the bound on a single product holds for the sums.
    check_linear(Precision::Int8, |weight, k| match weight {
        Weight::Packed(_) if k % BLOCK == 0 => 2.0 * (1.0 / 254.0 + 0.5 / 112.0),
        _ => k as f64 * 2f64.powi(-24),
    });
}

#[test]
fn lm_head_is_rounded_to_8_bits() {
    let (n, k) = (21, 256);
    let values = random(3, n * k);
    let mut cpu = Cpu::new(1, Precision::Int8).unwrap();
    let matrix = cpu.load_linear(linear(dense(&values, &[n, k]), None), Role::LmHead).unwrap();
    assert!(matches!(matrix[0].data, matrix::Data::Int8 { .. }));
    let x = random(4, 7 * k);
    let input = filled(&cpu, &x, k);
    for rows in [&[2u32][..], &[0, 1, 2, 3, 4, 5, 6][..]] {
        let mut logits = Vec::new();
        cpu.logits(&input, None, rows, &matrix, &mut logits);
        for (row, logits) in rows.iter().zip(logits.chunks_exact(n)) {
            let x = widen(&x[*row as usize * k..(*row as usize + 1) * k]);
            let expected = reference::linear(&x, &widen(&values), k, None);
            // Both factors are off by at most 1/254 of a largest value near 1.
            let bound = 2.0 * 2.0 / 254.0 * magnitude(&widen(&values), &x, k);
            for (found, expected) in logits.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() <= bound);
            }
        }
    }
}

#[test]
fn rows_of_any_size_keep_their_precision_in_int8() {
    // Rows a million times apart, and one that is not finite: each is as exact as if it were alone.
    let (n, k) = (6, 128);
    let mut values = random(3, n * k);
    for (n, row) in values.chunks_exact_mut(k).enumerate() {
        row.iter_mut().for_each(|v| *v *= 10f32.powi(3 - 6 * (n as i32 % 3)));
    }
    let x = random(4, 7 * k);
    let exact = reference::linear(&widen(&x), &widen(&values), k, None);
    values[5 * k + 17] = f32::NAN;
    let cpu = Cpu::new(1, Precision::Int8).unwrap();
    let lm_head = cpu.load_linear(linear(dense(&values, &[n, k]), None), Role::LmHead).unwrap();
    let packed = packed(&values[..5 * k], &[5, k], QuantType::Nf4, 64, false);
    let packed_values = reference::values(&packed);
    let packed_exact = reference::linear(&widen(&x), &packed_values, k, None);
    let packed = cpu.load_linear(linear(packed, None), Role::Projection).unwrap();
    for (matrix, exact, weights) in
        [(&lm_head, &exact, widen(&values)), (&packed, &packed_exact, packed_values)]
    {
        for rows in [&[3u32][..], &[0, 1, 2, 3, 4, 5, 6][..]] {
            let mut cpu = Cpu::new(1, Precision::Int8).unwrap();
            let mut logits = Vec::new();
            cpu.logits(&filled(&cpu, &x, k), None, rows, matrix, &mut logits);
            for (&row, logits) in rows.iter().zip(logits.chunks_exact(matrix[0].n)) {
                let x = &widen(&x[row as usize * k..(row as usize + 1) * k]);
                assert!(logits.get(5).is_none_or(|v| v.is_nan()), "a NaN weight is seen");
                for (n, found) in logits[..5].iter().enumerate() {
                    // As in `linear_int8_is_within_its_rounding`, with 1/254 for 8-bit weights below 0.5/112.
                    let bound = 2.0
                        * (1.0 / 254.0 + 0.5 / 112.0)
                        * magnitude(&weights[n * k..(n + 1) * k], x, k);
                    let expected = exact[row as usize * matrix[0].n + n];
                    assert!((f64::from(*found) - expected).abs() <= bound, "row {n}");
                }
            }
        }
    }
}

#[test]
fn the_same_row_gives_the_same_int8_product_alone_and_among_others() {
    // Integer sums are exact in both kernels; only the f32 sums over blocks differ in order.
    let (n, k) = (40, 512);
    let weight = packed(&random(1, n * k), &[n, k], QuantType::Nf4, 64, true);
    let mut cpu = Cpu::new(2, Precision::Int8).unwrap();
    let matrix = cpu.load_linear(linear(weight, None), Role::Projection).unwrap();
    let x = random(2, 9 * k);
    let mut many = cpu.buffer(9, n).unwrap();
    let input = filled(&cpu, &x, k);
    cpu.linear(&input, None, &matrix, &mut many);
    for row in 0..9 {
        let mut one = cpu.buffer(1, n).unwrap();
        let input = filled(&cpu, &x[row * k..(row + 1) * k], k);
        cpu.linear(&input, None, &matrix, &mut one);
        for (a, b) in one.data().iter().zip(&many.data()[row * n..]) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "row {row}: {a} and {b}");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_in_int8() {
    let (n, k) = (8, 128);
    let weight = packed(&random(1, n * k), &[n, k], QuantType::Nf4, 64, true);
    let mut cpu = Cpu::new(1, Precision::Int8).unwrap();
    let matrix = cpu.load_linear(linear(weight, None), Role::Projection).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for m in [1, 7] {
            let mut x = random(2, m * k);
            x[(m - 1) * k + 70] = bad;
            let input = filled(&cpu, &x, k);
            let mut out = cpu.buffer(m, n).unwrap();
            cpu.linear(&input, None, &matrix, &mut out);
            let (finite, last) = out.data().split_at((m - 1) * n);
            assert!(finite.iter().all(|v| v.is_finite()));
            assert!(last.iter().all(|v| !v.is_finite()), "{bad} became {last:?}");
        }
    }
}

#[test]
fn every_instruction_set_computes_the_same() {
    // More blocks than a group of eight, and not a multiple of it.
    let k = 12 * BLOCK;
    let codes: Vec<i8> = random(1, PANEL_ROWS * k).iter().map(|v| (v * 127.0) as i8).collect();
    let bytes: Vec<u8> = random(2, 2 * k).iter().map(|v| (v.abs() * 255.9) as u8).collect();
    let scales = random(3, 2 * k / BLOCK);
    let (table, _) = int8_code(QuantType::Nf4);
    let weight_scales: Vec<f16> = scales.iter().map(|&s| f16::from_f32(s)).collect();
    let x = Int8Row { codes: &codes[..k], scales: &scales[..k / BLOCK] };
    let tables = kernels::available();
    let plain = tables[tables.len() - 1];
    let close = |a: f32, b: f32| assert!((a - b).abs() <= 1e-3 * (1.0 + a.abs()), "{a} and {b}");
    for kernels in &tables {
        for scale_count in [k / BLOCK, 2 * k / BLOCK] {
            let row = |i: usize| PackedRow {
                packed: &bytes[i * k / 2..][..k / 2],
                scales: &weight_scales[..scale_count],
            };
            let rows = [row(0), row(1), row(2), row(3)];
            let found = (kernels.dot_packed)(&rows, &table, x);
            let expected = (plain.dot_packed)(&rows, &table, x);
            found.iter().zip(expected).for_each(|(a, b)| close(*a, b));
        }
        let dot = |t: &Kernels| (t.dot_int8)(&codes[k..2 * k], &weight_scales[..k / BLOCK], x);
        close(dot(kernels), dot(plain));
        let (a, b) = (random(5, 101), random(6, 101));
        close((kernels.dot_f32)(&a, &b), (plain.dot_f32)(&a, &b));

        let unpacked = |t: &Kernels| {
            let mut out = vec![0; k];
            (t.unpack)(&bytes[..k / 2], &table, &mut out);
            out
        };
        assert_eq!(unpacked(kernels), unpacked(plain), "{}", kernels.name);
        let panel = |t: &Kernels| {
            let mut panel = vec![[0; 2]; k / 2 * PANEL_ROWS / 2];
            (t.interleave)(&codes, k, k / 2..k, &mut panel);
            panel
        };
        assert_eq!(panel(kernels), panel(plain), "{}", kernels.name);
        check_tiles(kernels, plain, &panel(plain), &scales);
    }
}

fn check_tiles(kernels: &Kernels, plain: &Kernels, panel: &[[i16; 2]], scales: &[f32]) {
    let pairs = panel.len() / PANEL_ROWS;
    let tokens: Vec<Vec<[i16; 2]>> = (0..6)
        .map(|t| random(t, pairs).iter().map(|v| [(v * 127.0) as i16, (v * 63.0) as i16]).collect())
        .collect();
    let tokens: Vec<&[[i16; 2]]> = tokens.iter().map(Vec::as_slice).collect();
    let token_scales = [&scales[..pairs * 2 / BLOCK]; 6];
    for scale_blocks in [pairs * 2 / BLOCK, pairs * 4 / BLOCK] {
        let panel_scales: Vec<[f32; PANEL_ROWS]> =
            (0..scale_blocks).map(|b| std::array::from_fn(|r| 0.1 * (b + r) as f32)).collect();
        for count in 1..=6 {
            let tile = Int8Tile {
                panel,
                panel_scales: &panel_scales,
                tokens: &tokens[..count],
                token_scales: &token_scales[..count],
            };
            let run = |t: &Kernels| {
                let mut out = vec![[1.0; PANEL_ROWS]; count];
                (t.tile_int8)(&tile, &mut out);
                out.concat()
            };
            for (a, b) in run(kernels).into_iter().zip(run(plain)) {
                assert!((a - b).abs() <= 1e-5 * (1e4 + a.abs()), "{a} and {b}");
            }
        }
    }
}

/// Attention without norms, whose angles are all zero.
fn unrotated(params: AttentionParams) -> Attention<Vec<f32>> {
    let inv_freq = vec![0.0; params.head_dim / 2];
    Attention { params, q_norm: None, k_norm: None, inv_freq }
}

/// Rows of q, k and v in one buffer.
fn side_by_side(
    cpu: &Cpu,
    rows: std::ops::Range<usize>,
    parts: &[&[f32]; 3],
    params: &AttentionParams,
) -> Buffer {
    let kv = params.num_key_value_heads * params.head_dim;
    let widths = [params.num_attention_heads * params.head_dim, kv, kv];
    let row =
        |row| parts.iter().zip(widths).flat_map(move |(x, cols)| &x[row * cols..(row + 1) * cols]);
    filled(cpu, &rows.flat_map(row).copied().collect::<Vec<_>>(), widths.iter().sum())
}

fn check_attention(params: AttentionParams, context: usize, chunks: &[usize]) {
    let mut cpu = Cpu::new(2, Precision::F32).unwrap();
    let (d, heads, key_heads) =
        (params.head_dim, params.num_attention_heads, params.num_key_value_heads);
    let (q, k, v) = (
        random(1, context * heads * d),
        random(2, context * key_heads * d),
        random(3, context * key_heads * d),
    );
    let expected = reference::attention(&widen(&q), &widen(&k), &widen(&v), &params);
    // Blocks in reverse order, and one that belongs to nobody.
    let num_blocks = context.div_ceil(KV_BLOCK_SIZE) + 1;
    let block_table: Vec<u32> = (0..num_blocks as u32 - 1).rev().collect();
    let mut cache = cpu.kv_cache(2, num_blocks, &params).unwrap();
    let mut start = 0;
    for &len in chunks {
        let rows = start..start + len;
        let positions: Vec<u32> = rows.clone().map(|p| p as u32).collect();
        let spans = [SequenceSpan { start: 0, len, block_table: &block_table }];
        let batch = Batch { tokens: &positions, positions: &positions, sequences: &spans };
        let mut out = cpu.buffer(len, heads * d).unwrap();
        let mut qkv = side_by_side(&cpu, rows.clone(), &[&q, &k, &v], &params);
        cpu.attention(&mut qkv, &unrotated(params), &mut cache, 1, &batch, &mut out);
        // Sums of probabilities times values of magnitude 1, scores of at most d: a few f32 roundings of each.
        for (found, expected) in out.data().iter().zip(&expected[rows.start * heads * d..]) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} and {expected}");
        }
        start += len;
    }
    assert_eq!(start, context);
}

#[test]
fn attention_whole_and_in_chunks() {
    let params = |heads, key_heads, head_dim, sliding_window| AttentionParams {
        num_attention_heads: heads,
        num_key_value_heads: key_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        sliding_window,
    };
    check_attention(params(4, 2, 16, None), 70, &[70]);
    check_attention(params(4, 2, 24, None), 70, &[33, 1, 1, 35]);
    check_attention(params(8, 1, 32, Some(20)), 90, &[50, 1, 39]);
    check_attention(params(3, 3, 12, Some(1)), 20, &[19, 1]);
}

#[test]
fn attention_of_several_sequences_in_one_step() {
    let params = AttentionParams {
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        scale: 0.25,
        sliding_window: None,
    };
    let mut cpu = Cpu::new(2, Precision::F32).unwrap();
    let mut cache = cpu.kv_cache(1, 4, &params).unwrap();
    let lens = [20usize, 5];
    let (q, k, v) = (random(1, 25 * 32), random(2, 25 * 16), random(3, 25 * 16));
    let positions: Vec<u32> = lens.iter().flat_map(|&len| 0..len as u32).collect();
    let spans = [
        SequenceSpan { start: 0, len: 20, block_table: &[3, 0] },
        SequenceSpan { start: 20, len: 5, block_table: &[2] },
    ];
    let batch = Batch { tokens: &positions, positions: &positions, sequences: &spans };
    batch.assert_valid(100, 4);
    let mut out = cpu.buffer(25, 32).unwrap();
    let mut qkv = side_by_side(&cpu, 0..25, &[&q, &k, &v], &params);
    cpu.attention(&mut qkv, &unrotated(params), &mut cache, 0, &batch, &mut out);
    let mut start = 0;
    for len in lens {
        let part = |x: &[f32], cols: usize| widen(&x[start * cols..(start + len) * cols]);
        let expected = reference::attention(&part(&q, 32), &part(&k, 16), &part(&v, 16), &params);
        for (found, expected) in out.data()[start * 32..].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5);
        }
        start += len;
    }
}

#[test]
fn rope_and_head_norm() {
    let mut cpu = Cpu::new(1, Precision::F32).unwrap();
    let inv_freq: Vec<f32> = (0..8).map(|i| 10_000f32.powf(-(i as f32) / 8.0)).collect();
    let (x, weight) = (random(1, 3 * 64), random(2, 16));
    let positions = [0, 5, 4000];
    let attention = Attention {
        params: AttentionParams {
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 16,
            scale: 0.25,
            sliding_window: None,
        },
        q_norm: Some(Norm { weight: weight.clone(), eps: 1e-6 }),
        k_norm: None,
        inv_freq: inv_freq.clone(),
    };
    let mut qkv = filled(&cpu, &x, 64);
    cpu.rotate(&mut qkv, &attention, &positions);
    for ((found, x), position) in qkv.data().chunks(64).zip(x.chunks(64)).zip(positions) {
        let mut expected = reference::rms_norm(&widen(&x[..32]), &widen(&weight), 1e-6);
        expected.extend(widen(&x[32..48]));
        reference::rope(&mut expected, &[position], &inv_freq);
        expected.extend(widen(&x[48..]));
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn mixture_of_experts() {
    let (hidden, intermediate, num_experts) = (64, 128, 5);
    for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Int8, 0.03)] {
        let mut cpu = Cpu::new(2, precision).unwrap();
        let random_packed = |seed, n: usize, k: usize| {
            packed(&random(seed, n * k), &[n, k], QuantType::Nf4, 64, true)
        };
        let router = dense(&random(50, num_experts * hidden), &[num_experts, hidden]);
        let experts: Vec<[Weight; 3]> = (0..num_experts as u64)
            .map(|e| {
                let inner = |seed| random_packed(3 * e + seed, intermediate, hidden);
                [inner(1), inner(2), random_packed(3 * e + 3, hidden, intermediate)]
            })
            .collect();
        let plain = |w: &Weight| LinearWeight { weight: w.clone(), bias: None };
        let moe = Moe {
            gate: plain(&router),
            experts: experts
                .iter()
                .map(|[g, u, d]| GatedMlp {
                    gate_proj: plain(g),
                    up_proj: plain(u),
                    down_proj: plain(d),
                })
                .collect(),
            num_experts_per_tok: 2,
            norm_topk_prob: true,
        };
        let moe = cpu.load_moe(moe).unwrap();
        // Near one, so that the normed rows stay as even as the tolerance of int8 assumes.
        let weight = random(49, hidden).iter().map(|v| 1.0 + 0.1 * v).collect();
        let norm: Norm<Vec<f32>> = Norm { weight, eps: 1e-6 };
        for m in [1, 3, 20] {
            let start = random(61 + m as u64, m * hidden);
            let mut residual = filled(&cpu, &start, hidden);
            cpu.moe(&mut residual, &norm, &moe);
            for row in 0..m {
                let mut expected = widen(&start[row * hidden..(row + 1) * hidden]);
                let x = reference::rms_norm(&expected, &widen(&norm.weight), 1e-6);
                let scores = reference::linear(&x, &reference::values(&router), hidden, None);
                for (e, weight) in reference::route(&scores, 2, true) {
                    let [g, u, d] = experts[e].each_ref().map(reference::values);
                    let out = reference::gated_mlp(&x, &g, &u, &d);
                    expected.iter_mut().zip(out).for_each(|(sum, v)| *sum += weight * v);
                }
                // Relative to the largest output; int8 rounds the inputs of both products by up to 1/254 of a block's
                // largest, and the codes by up to 1/224 of absmax.
                let largest = expected.iter().fold(1.0f64, |max, v| max.max(v.abs()));
                for (found, expected) in residual.data()[row * hidden..].iter().zip(expected) {
                    let error = (f64::from(*found) - expected).abs() / largest;
                    assert!(error < tolerance, "m {m}, row {row}: {error}");
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (n, k) = (200, 320);
    let weight = packed(&random(1, n * k), &[n, k], QuantType::Nf4, 64, true);
    let x = random(2, 9 * k);
    for precision in [Precision::F32, Precision::Int8] {
        for m in [1, 9] {
            let outputs: Vec<Vec<f32>> = [1, 2, 5]
                .map(|threads| {
                    let mut cpu = Cpu::new(threads, precision).unwrap();
                    let matrix =
                        cpu.load_linear(linear(weight.clone(), None), Role::Projection).unwrap();
                    let input = filled(&cpu, &x[..m * k], k);
                    let mut out = cpu.buffer(m, n).unwrap();
                    cpu.linear(&input, None, &matrix, &mut out);
                    out.data().to_vec()
                })
                .to_vec();
            assert!(outputs.iter().all(|o| o == &outputs[0]));
        }
    }
}
