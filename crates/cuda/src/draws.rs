//! How a step's tokens are drawn, on its way to the kernels, and what they drew, on its way back.

use backend::{Draw, Drawn, Draws, mask_words};
use bytemuck::{bytes_of, cast_slice};

use crate::CudaError;
use crate::driver::{Context, Event, Pinned, Stream};
use crate::params::{DrawInputs, NO_MASK, SampleParams};

/// Most bytes that say how `rows` rows are drawn: their parameters, and a mask for each.
pub(crate) fn num_bytes(rows: usize, vocab: usize) -> usize {
    rows * (size_of::<SampleParams>() + 4 * mask_words(vocab))
}

/// Bytes of what is drawn: tokens, log-probabilities and flags, `[rows]` each, one behind the other.
pub(crate) fn drawn_bytes(rows: usize) -> usize {
    12 * rows
}

/// The host's part of drawing.
#[derive(Debug)]
pub(crate) struct Drawing {
    /// A stream of its own, so that what `described` holds is there when the forward pass ends.
    pub(crate) stream: Stream,
    /// The end of that copy.
    pub(crate) copied: Event,
    /// What the caller chose.
    pub(crate) draws: Draws,
    /// The same as kernels read it.
    pub(crate) described: Pinned,
    pub(crate) drawn: Pinned,
}

impl Drawing {
    /// Takes page-locked memory for steps of up to `rows` rows.
    pub(crate) fn new(context: &Context, rows: usize, vocab: usize) -> Result<Self, CudaError> {
        Ok(Drawing {
            stream: Stream::new(context)?,
            copied: Event::new(context)?,
            draws: Draws::default(),
            described: Pinned::alloc(context, num_bytes(rows, vocab))?,
            drawn: Pinned::alloc(context, drawn_bytes(rows))?,
        })
    }

    /// The tokens of `rows` rows, when they have arrived.
    pub(crate) fn take(&self, rows: usize, drawn: &mut Vec<Drawn>) {
        let words: &[u32] = cast_slice(&self.drawn[..drawn_bytes(rows)]);
        drawn.clear();
        drawn.extend((0..rows).map(|row| Drawn {
            token: words[row],
            logprob: f32::from_bits(words[rows + row]),
            is_finite: words[2 * rows + row] & NOT_FINITE == 0,
            allowed: words[2 * rows + row] & NONE_ALLOWED == 0,
        }));
    }
}

/// `SampleFlags`.
const NOT_FINITE: u32 = 0b0111;
const NONE_ALLOWED: u32 = 0b1000;

/// Draws as kernels read them.
#[derive(Debug, PartialEq)]
pub(crate) struct Described {
    pub(crate) inputs: DrawInputs,
    /// Whether every row takes the most probable token that it may.
    pub(crate) is_greedy: bool,
    /// Bytes; 0 where there is nothing to say but that.
    pub(crate) len: usize,
}

impl Described {
    /// Writes draws to `host`, for the device to read at `address`.
    pub(crate) fn write(draws: &Draws, vocab: usize, host: &mut [u8], address: u64) -> Described {
        let Draws { draws, masks } = draws;
        let is_greedy = draws.iter().all(|draw| draw.temperature == 0.0);
        let mask_bytes = 4 * mask_words(vocab) as u32;
        if is_greedy && draws.iter().all(|draw| draw.mask.is_none()) {
            let inputs = DrawInputs { params: 0, masks: 0, mask_bytes };
            return Described { inputs, is_greedy, len: 0 };
        }
        let (params, rest) = host.split_at_mut(draws.len() * size_of::<SampleParams>());
        for (to, draw) in params.chunks_exact_mut(size_of::<SampleParams>()).zip(draws) {
            to.copy_from_slice(bytes_of(&sample_params(draw)));
        }
        let masks: &[u8] = cast_slice(masks);
        rest[..masks.len()].copy_from_slice(masks);
        let (params_len, len) = (params.len(), params.len() + masks.len());
        let inputs = DrawInputs { params: address, masks: address + params_len as u64, mask_bytes };
        Described { inputs, is_greedy, len }
    }
}

fn sample_params(draw: &Draw) -> SampleParams {
    let Draw { uniform, temperature, top_k, top_p, min_p, mask } = *draw;
    let mask = mask.unwrap_or(NO_MASK);
    SampleParams { uniform, temperature, top_k, top_p, min_p, mask, unused: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_draws_of_all_tokens_need_no_words() {
        let draws = Draws { draws: vec![Draw::GREEDY; 3], masks: vec![7; 2] };
        let described = Described::write(&draws, 40, &mut [], 256);
        assert_eq!((described.is_greedy, described.len, described.inputs.params), (true, 0, 0));
    }

    #[test]
    fn masks_lie_behind_the_parameters() {
        let random = Draw { uniform: 0.5, temperature: 0.25, top_k: 3, ..Draw::GREEDY };
        let draws = vec![Draw { mask: Some(1), ..random }, Draw::GREEDY];
        let draws = Draws { draws, masks: vec![1, 2, 3, 4] };
        let mut host = vec![0; num_bytes(2, 40)];
        let Described { inputs, is_greedy, len } = Described::write(&draws, 40, &mut host, 256);
        assert_eq!((is_greedy, len), (false, host.len()));
        assert_eq!(inputs, DrawInputs { params: 256, masks: 256 + 64, mask_bytes: 8 });
        let params: &[SampleParams] = cast_slice(&host[..64]);
        assert_eq!((params[0].uniform, params[0].temperature), (0.5, 0.25));
        assert_eq!((params[0].top_k, params[0].mask, params[1].mask), (3, 1, NO_MASK));
        assert_eq!(cast_slice::<u8, u32>(&host[64..]), [1, 2, 3, 4]);
    }
}
