//! Matrices on the device, and the tasks that bring them there.

use backend::{GatedMlp, LinearWeight, Weight};
use bytemuck::bytes_of;
use quant::{Absmax, NESTED_BLOCKSIZE, PackedTensor, QuantType, dynamic_map};

use crate::CudaError;
use crate::arena::Arena;
use crate::codes::Nibbles;
use crate::layout::{Format, Part, Place, Stack};
use crate::loader::{Loader, Numbers, Step, Task, Tiles};
use crate::params::{HalfTile, Matrix4, Matrix16, SCALE_NESTED, SCALE_PLAIN, TILE_ROWS};

/// A stack of matrices as kernels take it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Matrix {
    W4(Matrix4),
    W16(Matrix16),
}

impl Matrix {
    /// What names of kernels call its form.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Matrix::W4(_) => "w4",
            Matrix::W16(_) => "w16",
        }
    }

    /// Columns in memory.
    pub(crate) fn k_padded(&self) -> u32 {
        match self {
            Matrix::W4(matrix) => matrix.k,
            Matrix::W16(matrix) => matrix.k,
        }
    }

    /// Tiles of all its rows.
    pub(crate) fn row_tiles(&self) -> u32 {
        match self {
            Matrix::W4(matrix) => matrix.row_tiles,
            Matrix::W16(matrix) => matrix.row_tiles,
        }
    }
}

/// Projections of the same input.
#[derive(Debug)]
pub struct Linear {
    pub(crate) stacks: Vec<LinearStack>,
    /// Columns of the input.
    pub(crate) k: usize,
    /// Columns of all outputs.
    pub(crate) n: usize,
}

/// Some of them, one above the other.
#[derive(Debug)]
pub(crate) struct LinearStack {
    pub(crate) matrix: Matrix,
    /// Its first column in the output, and how many.
    pub(crate) start: usize,
    pub(crate) n: usize,
    /// Address of f32 `[n]`, 0 for none.
    pub(crate) bias: u64,
}

/// The experts of a layer; a dense feed-forward block is one.
#[derive(Debug)]
pub struct Experts {
    pub(crate) gate_up: Matrix,
    pub(crate) down: Matrix,
    pub(crate) count: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
}

/// A mixture of experts.
#[derive(Debug)]
pub struct MoeLayer {
    /// Address of the router, f32 `[experts][hidden]`.
    pub(crate) router: u64,
    pub(crate) experts: Experts,
    pub(crate) choices: usize,
    pub(crate) norm_topk_prob: bool,
}

/// What all 4-bit matrices share, on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codes {
    /// Values of 8-bit scale codes.
    map: u64,
    /// Values of nibbles.
    nf4: u64,
    fp4: u64,
}

impl Codes {
    /// Bytes of the pieces that [`Codes::load`] takes.
    pub(crate) const PIECES: [usize; 3] = [4 * 256, 4 * 16, 4 * 16];

    pub(crate) fn load(arena: &Arena, loader: &Loader) -> Result<Self, CudaError> {
        let floats = |values: &[f32]| floats(arena, loader, values);
        let nibbles = |quant_type| floats(&Nibbles::of(quant_type).values(quant_type.code()));
        Ok(Codes {
            map: floats(&dynamic_map()[..])?,
            nf4: nibbles(QuantType::Nf4)?,
            fp4: nibbles(QuantType::Fp4)?,
        })
    }
}

/// Puts floats on the device.
pub(crate) fn floats(arena: &Arena, loader: &Loader, values: &[f32]) -> Result<u64, CudaError> {
    let to = arena.take(4 * values.len())?;
    let from = bytemuck::cast_slice::<f32, u8>(values).to_vec().into();
    loader.submit(vec![Step::Copy { from, to }])?;
    Ok(to)
}

/// Everything that matrices are loaded with.
pub(crate) struct Matrices<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) loader: &'a Loader,
    pub(crate) codes: Codes,
    /// Where set, weights without bytes are filled with random ones.
    pub(crate) seed: Option<u64>,
}

impl Matrices<'_> {
    /// Takes memory for a stack and starts its loading.
    pub(crate) fn load(&self, stack: &Stack, weights: &[&Weight]) -> Result<Matrix, CudaError> {
        let pieces: Vec<u64> =
            stack.pieces().map(|bytes| self.arena.take(bytes)).collect::<Result<_, _>>()?;
        let &[tiles, scales, halves, nested] = &pieces[..] else {
            return Err(CudaError::argument("laying out a matrix", "a piece is missing"));
        };
        if self.seed.is_some() && is_empty(weights[0]) {
            self.loader.submit(self.random(stack, tiles, scales))?;
        } else {
            // An interleaved pair shares tiles, so one worker takes both.
            let pair = if stack.places[0].part == Part::Whole { 1 } else { 2 };
            for (weights, places) in weights.chunks(pair).zip(stack.places.chunks(pair)) {
                let steps = weights.iter().zip(places);
                let task: Task = steps
                    .flat_map(|(weight, place)| steps_of(stack, weight, *place, tiles, scales))
                    .collect();
                self.loader.submit(task)?;
            }
        }
        self.load_nested(stack, weights, halves, nested)?;
        Ok(self.matrix(stack, [tiles, scales, halves]))
    }

    fn matrix(&self, stack: &Stack, [tiles, scales, halves]: [u64; 3]) -> Matrix {
        let (row_tiles, k) = (stack.row_tiles as u32, stack.k_padded as u32);
        let (quant_type, format) = match stack.format {
            Format::Nested(quant_type) => (quant_type, SCALE_NESTED),
            Format::Plain(quant_type) => (quant_type, SCALE_PLAIN),
            Format::F16 => return Matrix::W16(Matrix16 { tiles, row_tiles, k }),
        };
        let nibbles = Nibbles::of(quant_type);
        let ([low_table, high_table], [low_step, high_step]) = (nibbles.tables(), nibbles.steps());
        Matrix::W4(Matrix4 {
            codes: tiles,
            scales,
            halves,
            map: self.codes.map,
            code: if quant_type == QuantType::Nf4 { self.codes.nf4 } else { self.codes.fp4 },
            low_table,
            high_table,
            low_step,
            high_step,
            row_tiles,
            k,
            blocks_per_row: (stack.k / 64) as u32,
            format,
        })
    }

    /// Nested scales, and for every half tile where its own begin.
    fn load_nested(
        &self,
        stack: &Stack,
        weights: &[&Weight],
        halves: u64,
        nested: u64,
    ) -> Result<(), CudaError> {
        if stack.nested_len.is_empty() {
            return Ok(());
        }
        let mut tiles = vec![HalfTile::default(); 2 * stack.row_tiles];
        let mut scales: Vec<f32> = Vec::with_capacity(stack.nested_len.iter().sum());
        let blocks_per_row = stack.k / 64;
        for ((weight, place), &len) in weights.iter().zip(&stack.places).zip(&stack.nested_len) {
            let Weight::Packed(PackedTensor { absmax, .. }) = weight else { continue };
            let Absmax::Nested { nested_absmax, offset, first, .. } = absmax else { continue };
            let address = nested + 4 * scales.len() as u64;
            let own = &nested_absmax[first / NESTED_BLOCKSIZE..];
            let last = own.last().copied().unwrap_or(0.0);
            // What lies behind belongs to padding, where codes are zero: any finite scale serves.
            scales.extend(own.iter().copied().chain(std::iter::repeat(last)).take(len));
            let rows = weight.shape()[0];
            for row in (0..rows).step_by(TILE_ROWS / 2) {
                let half = match place.part {
                    Part::Upper => 2 * (row / 8),
                    Part::Lower => 2 * (row / 8) + 1,
                    Part::Whole => row / 8,
                };
                tiles[2 * place.first_tile + half] = HalfTile {
                    nested: address,
                    first: (first % NESTED_BLOCKSIZE + row * blocks_per_row) as u32,
                    offset: *offset,
                };
            }
        }
        // Halves of rows that are not there read the first scales.
        let any = nested;
        tiles.iter_mut().filter(|half| half.nested == 0).for_each(|half| half.nested = any);
        let tiles: Vec<u8> = tiles.iter().flat_map(bytes_of).copied().collect();
        let scales = bytemuck::cast_slice::<f32, u8>(&scales).to_vec();
        self.loader.submit(vec![
            Step::Copy { from: tiles.into(), to: halves },
            Step::Copy { from: scales.into(), to: nested },
        ])
    }

    /// Random tiles, with codes and scales of all values; numbers of about `1 / sqrt(k)`.
    fn random(&self, stack: &Stack, tiles: u64, scales: u64) -> Task {
        // Every piece of the arena gets numbers of its own.
        let seed = self.seed.unwrap_or(0) ^ tiles;
        match stack.format {
            Format::F16 => {
                let (len, std) = (stack.tile_bytes / 2, 1.0 / (stack.k as f32).sqrt());
                vec![Step::RandomF16 { to: tiles, len, std, seed }]
            }
            Format::Nested(_) | Format::Plain(_) => vec![
                Step::RandomBytes { to: tiles, len: stack.tile_bytes, seed },
                Step::RandomBytes { to: scales, len: stack.scale_bytes, seed: seed + 1 },
            ],
        }
    }

    /// A stack of projections.
    pub(crate) fn bias(&self, linears: &[LinearWeight], n: usize) -> Result<u64, CudaError> {
        if linears.iter().all(|linear| linear.bias.is_none()) {
            return Ok(0);
        }
        let mut values = Vec::with_capacity(n);
        for linear in linears {
            let rows = linear.weight.shape()[0];
            match &linear.bias {
                Some(bias) => values.extend(bias.to_f32()),
                None => values.resize(values.len() + rows, 0.0),
            }
        }
        floats(self.arena, self.loader, &values)
    }
}

/// Whether a weight is only a shape.
pub(crate) fn is_empty(weight: &Weight) -> bool {
    match weight {
        Weight::Packed(tensor) => tensor.packed.is_empty(),
        Weight::Dense { bytes, .. } => bytes.is_empty(),
    }
}

/// What brings a matrix into its tiles.
fn steps_of(stack: &Stack, weight: &Weight, place: Place, tiles: u64, scales: u64) -> Vec<Step> {
    let (n, k, k_padded) = (weight.shape()[0], stack.k, stack.k_padded);
    let at = |to| Tiles { to, n, k, k_padded, place };
    match (stack.format, weight) {
        (Format::Nested(_), Weight::Packed(tensor)) => {
            let mut steps = vec![Step::Codes { tensor: tensor.clone(), tiles: at(tiles) }];
            if let Absmax::Nested { codes, .. } = &tensor.absmax {
                steps.push(Step::NestedScales { codes: codes.clone(), tiles: at(scales) });
            }
            steps
        }
        (Format::Plain(_), Weight::Packed(tensor)) => vec![
            Step::Codes { tensor: tensor.clone(), tiles: at(tiles) },
            Step::PlainScales { tensor: tensor.clone(), tiles: at(scales) },
        ],
        (_, Weight::Packed(tensor)) => {
            vec![Step::Dense { source: Numbers::Packed(tensor.clone()), tiles: at(tiles) }]
        }
        (_, Weight::Dense { dtype, bytes, .. }) => {
            let source = Numbers::Dense(*dtype, bytes.clone());
            vec![Step::Dense { source, tiles: at(tiles) }]
        }
    }
}

/// The weights of experts in the order of [`expert_stacks`](crate::layout::expert_stacks).
pub(crate) fn expert_weights(experts: &[GatedMlp<LinearWeight>]) -> (Vec<&Weight>, Vec<&Weight>) {
    let gate_up = experts.iter().flat_map(|e| [&e.gate_proj.weight, &e.up_proj.weight]).collect();
    (gate_up, experts.iter().map(|e| &e.down_proj.weight).collect())
}
