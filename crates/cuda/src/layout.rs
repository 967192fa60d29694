//! How stacks of matrices lie in tiles, and how many bytes that takes: the same arithmetic for the plan and for loading.

use std::ops::Range;

use backend::{BackendError, GatedMlp, LinearWeight, Weight};
use half::bf16;
use quant::{Absmax, Dtype, NESTED_BLOCKSIZE, QuantType, dynamic_map};

use crate::params::{HalfTile, SLICE, TILE_ROWS};

/// Weights that share a scale in a 4-bit tile.
const BLOCK: usize = 64;

/// How a matrix is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// 4-bit codes, 8-bit scales.
    Nested(QuantType),
    /// 4-bit codes, scales in f32.
    Plain(QuantType),
    /// f16: what was not quantized, and 4-bit tensors whose blocks do not lie within rows in multiples of 64.
    F16,
}

impl Format {
    /// The form that a weight is kept in.
    pub(crate) fn of(weight: &Weight) -> Format {
        let Weight::Packed(tensor) = weight else { return Format::F16 };
        let k = tensor.shape.last().copied().unwrap_or(0);
        if k == 0 || !k.is_multiple_of(BLOCK) || !tensor.blocksize.is_multiple_of(BLOCK) {
            return Format::F16;
        }
        match &tensor.absmax {
            // All of bitsandbytes' tensors have the one map, which the kernels keep once.
            Absmax::Nested { blocksize: NESTED_BLOCKSIZE, map, .. }
                if tensor.blocksize == BLOCK && **map == *dynamic_map() =>
            {
                Format::Nested(tensor.quant_type)
            }
            _ => Format::Plain(tensor.quant_type),
        }
    }

    /// The form in which all of `weights` can be kept together.
    pub(crate) fn common<'a>(weights: impl IntoIterator<Item = &'a Weight>) -> Format {
        let mut formats = weights.into_iter().map(Format::of);
        let first = formats.next().unwrap_or(Format::F16);
        if formats.all(|format| format == first) { first } else { Format::F16 }
    }
}

/// Rows and columns of a weight.
///
/// # Errors
/// If it is no matrix.
pub(crate) fn matrix_shape(weight: &Weight) -> Result<(usize, usize), BackendError> {
    match *weight.shape() {
        [n, k] if n > 0 && k > 0 => Ok((n, k)),
        _ => Err(BackendError::Shape {
            found: weight.shape().to_vec(),
            expected: "a matrix with rows and columns",
        }),
    }
}

/// Writes a matrix as bf16, rows one after the other; a weight without bytes leaves `out` as it is.
pub(crate) fn write_bf16(weight: &Weight, out: &mut [u8]) {
    match weight {
        Weight::Dense { dtype: Dtype::Bf16, bytes, .. } => {
            out[..bytes.len()].copy_from_slice(bytes)
        }
        weight if weight.num_bytes() == 0 => {}
        weight => {
            for (out, value) in out.chunks_exact_mut(2).zip(weight.to_f32()) {
                out.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
            }
        }
    }
}

/// Where a matrix of a stack lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its first tile.
    pub(crate) first_tile: usize,
    /// Which rows of its tiles it fills.
    pub(crate) part: Part,
}

/// Which rows of a tile a matrix fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The first eight: the gate of an interleaved pair.
    Upper,
    /// The last eight.
    Lower,
    /// All.
    Whole,
}

impl Part {
    /// Rows of a tile that belong to it.
    pub(crate) fn rows(self) -> usize {
        if self == Part::Whole { TILE_ROWS } else { TILE_ROWS / 2 }
    }

    /// The number that kernels take for it.
    pub(crate) fn code(self) -> u32 {
        match self {
            Part::Upper => 0,
            Part::Lower => 1,
            Part::Whole => 2,
        }
    }
}

/// A stack of matrices of one form, and what each of its arrays takes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) format: Format,
    /// Columns of every matrix.
    pub(crate) k: usize,
    /// Columns in memory.
    pub(crate) k_padded: usize,
    pub(crate) row_tiles: usize,
    /// Where each matrix lies, in the order given.
    pub(crate) places: Vec<Place>,
    /// 4-bit codes, or numbers.
    pub(crate) tile_bytes: usize,
    pub(crate) scale_bytes: usize,
    pub(crate) half_bytes: usize,
    /// Floats of each matrix's nested scales, padding included; one entry a matrix.
    pub(crate) nested_len: Vec<usize>,
}

impl Stack {
    /// Matrices `(n, k)` of the same `k`, one above the other.
    pub(crate) fn plain(format: Format, weights: &[&Weight]) -> Result<Stack, BackendError> {
        let mut first_tile = 0;
        let mut places = Vec::with_capacity(weights.len());
        for weight in weights {
            places.push(Place { first_tile, part: Part::Whole });
            first_tile += matrix_shape(weight)?.0.div_ceil(TILE_ROWS);
        }
        Stack::new(format, weights, places, first_tile)
    }

    /// Pairs of matrices of the same shape, each pair interleaved in eights of rows.
    pub(crate) fn interleaved(format: Format, weights: &[&Weight]) -> Result<Stack, BackendError> {
        let mut first_tile = 0;
        let mut places = Vec::with_capacity(weights.len());
        for pair in weights.chunks_exact(2) {
            let (gate, up) = (matrix_shape(pair[0])?, matrix_shape(pair[1])?);
            if gate != up {
                let found = pair[1].shape().to_vec();
                return Err(BackendError::Shape { found, expected: "that of gate_proj" });
            }
            places.push(Place { first_tile, part: Part::Upper });
            places.push(Place { first_tile, part: Part::Lower });
            first_tile += gate.0.div_ceil(TILE_ROWS / 2);
        }
        Stack::new(format, weights, places, first_tile)
    }

    fn new(
        format: Format,
        weights: &[&Weight],
        places: Vec<Place>,
        row_tiles: usize,
    ) -> Result<Stack, BackendError> {
        let (_, k) = matrix_shape(weights[0])?;
        if let Some(other) = weights.iter().find(|w| w.shape()[1..] != [k]) {
            return Err(BackendError::Shape {
                found: other.shape().to_vec(),
                expected: "as many columns as the matrices it is stacked with",
            });
        }
        let k_padded = k.next_multiple_of(SLICE);
        let elements = row_tiles * TILE_ROWS * k_padded;
        let scales = elements / BLOCK;
        let (tile_bytes, scale_bytes) = match format {
            Format::Nested(_) => (elements / 2, scales),
            Format::Plain(_) => (elements / 2, 4 * scales),
            Format::F16 => (2 * elements, 0),
        };
        let nested = matches!(format, Format::Nested(_));
        Ok(Stack {
            format,
            k,
            k_padded,
            row_tiles,
            places,
            tile_bytes,
            scale_bytes,
            half_bytes: if nested { 2 * row_tiles * size_of::<HalfTile>() } else { 0 },
            nested_len: if nested {
                weights.iter().map(|w| nested_len(w.shape()[0], k)).collect()
            } else {
                Vec::new()
            },
        })
    }

    /// Sizes of the pieces of memory that the stack takes, in order: tiles, scales, halves, nested scales.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = usize> {
        let nested = 4 * self.nested_len.iter().sum::<usize>();
        [self.tile_bytes, self.scale_bytes, self.half_bytes, nested].into_iter()
    }
}

/// Floats of nested scales that the kernels may read for a matrix: those of rows and columns of padding lie behind the
/// last, and the tensor may begin anywhere within the blocks of the first.
fn nested_len(n: usize, k: usize) -> usize {
    let blocks_per_row = k / BLOCK;
    let rows = n.next_multiple_of(TILE_ROWS);
    (rows * blocks_per_row + SLICE / BLOCK + NESTED_BLOCKSIZE - 1).div_ceil(NESTED_BLOCKSIZE) + 1
}

/// The stacks of matrices with the same input, and which matrices each holds: neighbours that can be stacked without a gap
/// in the rows of their outputs. Each stack is of one form, and every matrix but its last has whole tiles.
pub(crate) fn linear_stacks(
    linears: &[LinearWeight],
) -> Result<Vec<(Range<usize>, Stack)>, BackendError> {
    let stack = |run: Range<usize>| {
        let weights: Vec<&Weight> = linears[run.clone()].iter().map(|l| &l.weight).collect();
        Ok((run, Stack::plain(Format::of(weights[0]), &weights)?))
    };
    runs(linears).into_iter().map(stack).collect()
}

/// Most experts of a layer, and most of them that a token visits: what the kernels of routing keep in shared memory.
const EXPERTS_MAX: usize = 256;
const CHOICES_MAX: usize = 16;

/// Refuses what routing has no room for.
pub(crate) fn check_routes(experts: usize, choices: usize) -> Result<(), BackendError> {
    if experts <= EXPERTS_MAX && (1..=CHOICES_MAX.min(experts)).contains(&choices) {
        return Ok(());
    }
    let expected = "at most 256 experts, of which a token visits 1 to 16 (experts, visited)";
    Err(BackendError::Shape { found: vec![experts, choices], expected })
}

/// The stacks of a layer's experts: gate and up interleaved, and down.
pub(crate) fn expert_stacks(
    experts: &[GatedMlp<LinearWeight>],
) -> Result<(Stack, Stack), BackendError> {
    for linear in experts.iter().flat_map(|e| [&e.gate_proj, &e.up_proj, &e.down_proj]) {
        if let Some(bias) = &linear.bias {
            let expected = "no bias in a feed-forward block";
            return Err(BackendError::Shape { found: bias.shape().to_vec(), expected });
        }
    }
    let gate_up: Vec<&Weight> =
        experts.iter().flat_map(|e| [&e.gate_proj.weight, &e.up_proj.weight]).collect();
    let down: Vec<&Weight> = experts.iter().map(|e| &e.down_proj.weight).collect();
    let same = |weights: &[&Weight]| weights.iter().all(|w| w.shape() == weights[0].shape());
    if experts.is_empty() || !same(&gate_up) || !same(&down) {
        let found = vec![experts.len()];
        return Err(BackendError::Shape { found, expected: "experts of one shape" });
    }
    let gate_up = Stack::interleaved(Format::common(gate_up.iter().copied()), &gate_up)?;
    let down = Stack::plain(Format::common(down.iter().copied()), &down)?;
    Ok((gate_up, down))
}

fn runs(linears: &[LinearWeight]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, linear) in linears.iter().enumerate() {
        let joins = runs.last().is_some_and(|run| {
            let last = &linears[run.end - 1].weight;
            Format::of(last) == Format::of(&linear.weight)
                && last.shape().first().is_some_and(|n| n.is_multiple_of(TILE_ROWS))
        });
        match runs.last_mut() {
            Some(run) if joins => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use quant::{QuantConfig, quantize};

    fn packed(n: usize, k: usize, blocksize: usize, double_quant: bool) -> Weight {
        let config = QuantConfig { quant_type: QuantType::Nf4, blocksize, double_quant };
        Weight::Packed(quantize(&vec![0.5; n * k], &[n, k], config).unwrap())
    }

    fn dense(n: usize, k: usize) -> Weight {
        Weight::Dense { dtype: Dtype::Bf16, shape: vec![n, k], bytes: vec![0; 2 * n * k].into() }
    }

    #[test]
    fn only_blocks_within_rows_stay_in_4_bits() {
        assert_eq!(Format::of(&packed(3, 128, 64, true)), Format::Nested(QuantType::Nf4));
        assert_eq!(Format::of(&packed(3, 128, 64, false)), Format::Plain(QuantType::Nf4));
        assert_eq!(Format::of(&packed(3, 128, 128, true)), Format::Plain(QuantType::Nf4));
        assert_eq!(Format::of(&packed(3, 72, 64, true)), Format::F16);
        assert_eq!(Format::of(&packed(3, 128, 32, true)), Format::F16);
        assert_eq!(Format::of(&dense(3, 128)), Format::F16);
    }

    #[test]
    fn a_stack_takes_little_more_than_its_weights() {
        let (q, k) = (packed(256, 512, 64, true), packed(64, 512, 64, true));
        let stack = Stack::plain(Format::of(&q), &[&q, &k, &k]).unwrap();
        assert_eq!(stack.row_tiles, 24);
        assert_eq!(stack.places[2], Place { first_tile: 20, part: Part::Whole });
        assert_eq!((stack.tile_bytes, stack.scale_bytes), (384 * 256, 384 * 8));
        // 2,048 blocks of the first have 8 nested scales.
        assert!((9..=12).contains(&stack.nested_len[0]), "{:?}", stack.nested_len);
    }

    #[test]
    fn gate_and_up_share_tiles() {
        let (gate, up) = (packed(20, 64, 64, false), packed(20, 64, 64, false));
        let stack = Stack::interleaved(Format::of(&gate), &[&gate, &up, &gate, &up]).unwrap();
        assert_eq!(stack.row_tiles, 6);
        assert_eq!(stack.places[3], Place { first_tile: 3, part: Part::Lower });
        assert_eq!(stack.k_padded, 256);
        let other = packed(21, 64, 64, false);
        let error = Stack::interleaved(Format::of(&gate), &[&gate, &other]).unwrap_err();
        assert_eq!(error.to_string(), "weight has shape [21, 64], expected that of gate_proj");
    }

    #[test]
    fn more_experts_than_routing_has_room_for_are_refused() {
        assert!(check_routes(256, 16).is_ok() && check_routes(8, 8).is_ok());
        for (experts, choices) in [(257, 2), (64, 17), (4, 5), (8, 0)] {
            let error = check_routes(experts, choices).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("weight has shape [{experts}, {choices}]")),
                "{error}"
            );
        }
    }

    #[test]
    fn neighbours_of_one_form_are_stacked_unless_rows_would_have_a_gap() {
        let linears = |weights: Vec<Weight>| -> Vec<LinearWeight> {
            weights.into_iter().map(|weight| LinearWeight { weight, bias: None }).collect()
        };
        let of = |n| packed(n, 64, 64, true);
        let all = runs(&linears(vec![of(32), of(16), of(8)]));
        assert!(all.len() == 1 && all[0] == (0..3), "{all:?}");
        assert_eq!(runs(&linears(vec![of(32), of(8), of(16)])), [0..2, 2..3]);
        assert_eq!(runs(&linears(vec![of(32), dense(16, 64), of(16)])), [0..1, 1..2, 2..3]);
    }
}
