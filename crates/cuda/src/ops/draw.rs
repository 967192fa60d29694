//! Drawing, behind the forward pass, and the way of tokens and logits to the host.

use backend::{Drawn, Draws};
use bytemuck::cast_slice;

use super::launch::Shared;
use crate::CudaError;
use crate::backend::Cuda;
use crate::buffer::row_len;
use crate::draws::{Described, Drawing, drawn_bytes};
use crate::driver::Pinned;
use crate::params;
use crate::params::DrawOutputs;
use crate::scratch::SAMPLE_CHUNK;

impl Cuda {
    /// The host's part of drawing; made at the first call, which is better not while the device waits for it.
    pub(super) fn drawing(&mut self) -> Result<&mut Drawing, CudaError> {
        if self.drawing.is_none() {
            let (rows, vocab) = (self.options.limits.rows, self.vocab());
            self.drawing = Some(Drawing::new(self.stream.context(), rows, vocab)?);
        }
        let drawing = self.drawing.as_mut();
        drawing.ok_or_else(|| CudaError::argument("drawing", "there is no memory for it"))
    }

    /// Asks how to draw, and draws a token from each of the step's rows of logits, behind what the stream does now.
    pub(super) fn draw(
        &mut self,
        choose: &mut (dyn FnMut(&mut Draws) + Send),
    ) -> Result<(), CudaError> {
        let (rows, vocab, scratch) = (self.step.shape.rows, self.vocab(), self.scratch()?);
        let drawing = self.drawing()?;
        drawing.draws.clear();
        choose(&mut drawing.draws);
        if rows == 0 {
            return Ok(());
        }
        let Drawing { stream, copied, draws, described: host, .. } = drawing;
        let described = Described::write(draws, vocab, host, scratch.draws);
        if described.len > 0 {
            // SAFETY: the page-locked memory is next written after this step has been waited for, and so was the last
            // step, which read what is written here.
            unsafe { stream.copy_to_device(scratch.draws, &host[..described.len])? };
            copied.record(stream)?;
        }
        self.launch_draws(rows, &described)?;
        if let Some(drawing) = &mut self.drawing {
            let to = &mut drawing.drawn[..drawn_bytes(rows)];
            // SAFETY: the page-locked memory is read after the step has been waited for.
            unsafe { self.stream.copy_to_host(to, scratch.drawn)? };
        }
        Ok(())
    }

    fn launch_draws(&mut self, rows: usize, described: &Described) -> Result<(), CudaError> {
        if let (Some(drawing), true) = (&self.drawing, described.len > 0) {
            self.stream.wait_event(&drawing.copied)?;
        }
        // What follows a recording, or another stream, cannot overlap it.
        self.overlap = false;
        let scratch = self.scratch()?;
        let (logits, workspace, inputs) = (scratch.logits, scratch.drawing, described.inputs);
        let (vocab, ld) = (self.vocab() as u32, row_len(self.vocab()) as u32);
        let column = 4 * rows as u64;
        let outputs = DrawOutputs {
            tokens: scratch.drawn,
            logprobs: scratch.drawn + column,
            flags: scratch.drawn + 2 * column,
        };
        let grid = [vocab.div_ceil(SAMPLE_CHUNK as u32), rows as u32, 1];
        let all = params![&logits, &ld, &vocab, &inputs, &workspace, &outputs];
        if described.is_greedy {
            return self.launch("sample", "argmax", grid, Shared::NONE, all);
        }
        let first = params![&logits, &ld, &vocab, &inputs, &workspace];
        self.launch("sample", "sample_chunks", grid, Shared::NONE, first)?;
        self.launch("sample", "sample_draw", grid, Shared::NONE, all)
    }

    /// The tokens that have arrived.
    pub(super) fn take_drawn(&self, drawn: &mut Vec<Drawn>) {
        drawn.clear();
        if let Some(drawing) = &self.drawing {
            drawing.take(self.step.shape.rows, drawn);
        }
    }

    /// Starts the way of logits to the host: of these rows of the step's, ascending, one behind the other.
    pub(super) fn fetch_logits(&mut self, rows: &[u32]) -> Result<(), CudaError> {
        let (logits, row_bytes) = (self.scratch()?.logits, 4 * row_len(self.vocab()));
        let Some(host) = &mut self.host_logits else {
            return Err(CudaError::argument("fetching logits", "there is no memory for them"));
        };
        let mut rest = &mut host[..];
        for run in rows.chunk_by(|row, next| row + 1 == *next) {
            let (to, behind) = rest.split_at_mut(run.len() * row_bytes);
            let from = logits + u64::from(run[0]) * row_bytes as u64;
            // SAFETY: the page-locked memory is read after the step has been waited for.
            unsafe { self.stream.copy_to_host(to, from)? };
            rest = behind;
        }
        Ok(())
    }

    /// Makes room on the host for the logits of the largest step: not while a step is recorded.
    pub(super) fn make_host_logits(&mut self) -> Result<(), CudaError> {
        if self.host_logits.is_none() {
            let bytes = 4 * self.options.limits.rows * row_len(self.vocab());
            self.host_logits = Some(Pinned::alloc(self.stream.context(), bytes)?);
        }
        Ok(())
    }

    /// The rows of logits that have arrived, `[rows][vocab]`.
    pub(super) fn take_logits(&self, rows: usize, logits: &mut Vec<f32>) {
        logits.clear();
        let Some(host) = &self.host_logits else { return };
        let floats: &[f32] = cast_slice(&host[..]);
        let vocab = self.vocab();
        for row in floats.chunks(row_len(vocab).max(1)).take(rows) {
            logits.extend_from_slice(&row[..vocab]);
        }
    }
}
