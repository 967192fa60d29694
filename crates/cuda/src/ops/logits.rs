//! The projection to the vocabulary, and the way of logits to the host.

use backend::{Drawn, Norm};
use bytemuck::cast_slice;

use super::launch::Shared;
use super::linear::{FewRows, norm_params};
use crate::CudaError;
use crate::backend::{Cuda, Vector};
use crate::buffer::{Buffer, row_len};
use crate::driver::Pinned;
use crate::matrix::Linear;
use crate::params;
use crate::params::{DrawOutputs, Routes};
use crate::scratch::SAMPLE_CHUNK;
use crate::step::Drawing;

impl Cuda {
    /// Logits of the step's rows, on their way to the host.
    pub(super) fn project_to_vocabulary(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vector>>,
        rows: usize,
        lm_head: &Linear,
    ) -> Result<(), CudaError> {
        if rows == 0 {
            return Ok(());
        }
        let scratch = self.scratch()?;
        let ld = row_len(lm_head.n) as u32;
        let row_index = self.step.logit_rows;
        if rows <= self.few() {
            let (norm_weight, eps) = norm_params(norm);
            let (k, ldx) = (lm_head.k as u32, x.ld());
            let (to, ldo) = (scratch.logit_rows, row_len(lm_head.k) as u32);
            self.rows_kernel(
                "norm_rows",
                rows as u32,
                params![&x.address, &ldx, &row_index, &norm_weight, &eps, &k, &to, &ldo],
            )?;
            let rows = FewRows { address: to, ld: ldo, tokens: rows };
            self.project_few(rows, None, lm_head, scratch.logits, ld, false)?;
        } else {
            let (x_groups, groups) =
                self.norm_to_groups(x, norm, lm_head.k, row_index, Routes::default(), 0)?;
            let routes = self.step.logits;
            for stack in &lm_head.stacks {
                let to = scratch.logits + 4 * stack.start as u64;
                self.multiply_groups(stack, routes, rows, x_groups, groups, to, ld, false)?;
            }
        }
        match self.step.shape.drawing {
            Drawing::None => self.fetch(scratch.logits, 4 * rows * ld as usize),
            drawing => {
                self.draw(rows, drawing, ld)?;
                self.fetch(scratch.drawn, 12 * rows)
            }
        }
    }

    /// Draws a token from each row of logits.
    fn draw(&mut self, rows: usize, drawing: Drawing, ld: u32) -> Result<(), CudaError> {
        let scratch = self.scratch()?;
        let (logits, vocab, workspace) = (scratch.logits, self.vocab() as u32, scratch.drawing);
        let column = 4 * rows as u64;
        let outputs = DrawOutputs {
            tokens: scratch.drawn,
            logprobs: scratch.drawn + column,
            flags: scratch.drawn + 2 * column,
        };
        let grid = [vocab.div_ceil(SAMPLE_CHUNK as u32), rows as u32, 1];
        if drawing == Drawing::Greedy {
            let parameters = params![&logits, &ld, &vocab, &workspace, &outputs];
            return self.launch("sample", "argmax", grid, Shared::NONE, parameters);
        }
        let parameters = params![&logits, &ld, &vocab, &workspace];
        self.launch("sample", "sample_chunks", grid, Shared::NONE, parameters)?;
        let draws = self.step.draws;
        let parameters = params![&logits, &ld, &vocab, &draws, &workspace, &outputs];
        self.launch("sample", "sample_draw", grid, Shared::NONE, parameters)
    }

    /// Starts the way of a step's results to the host.
    fn fetch(&mut self, from: u64, bytes: usize) -> Result<(), CudaError> {
        let Some(host) = &mut self.host_logits else {
            return Err(CudaError::argument("fetching logits", "there is no memory for them"));
        };
        // SAFETY: the page-locked memory is read after the step has been waited for.
        unsafe { self.stream.copy_to_host(&mut host[..bytes], from) }
    }

    /// Makes room on the host for the logits of the largest step: not while a step is recorded.
    pub(super) fn make_host_logits(&mut self) -> Result<(), CudaError> {
        if self.host_logits.is_none() {
            let bytes = 4 * self.options.limits.rows * row_len(self.vocab());
            self.host_logits = Some(Pinned::alloc(self.stream.context(), bytes)?);
        }
        Ok(())
    }

    /// What has arrived, `[rows][vocab]`.
    pub(super) fn take_logits(&self, logits: &mut Vec<f32>) {
        logits.clear();
        let Some(host) = &self.host_logits else { return };
        let floats: &[f32] = cast_slice(&host[..]);
        let vocab = self.vocab();
        for row in floats.chunks(row_len(vocab).max(1)).take(self.step.shape.rows) {
            logits.extend_from_slice(&row[..vocab]);
        }
    }

    /// The tokens that have arrived.
    pub(super) fn take_drawn(&self, drawn: &mut Vec<Drawn>) {
        drawn.clear();
        let Some(host) = &self.host_logits else { return };
        let rows = self.step.shape.rows;
        let words: &[u32] = &cast_slice(&host[..])[..3 * rows];
        drawn.extend((0..rows).map(|row| Drawn {
            token: words[row],
            logprob: f32::from_bits(words[rows + row]),
            is_finite: words[2 * rows + row] == 0,
            allowed: f32::from_bits(words[rows + row]) > f32::NEG_INFINITY,
        }));
    }
}
