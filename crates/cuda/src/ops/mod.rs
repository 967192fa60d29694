//! The operations. Each is a few launches on one stream; nothing waits for the device before the step has ended.
//!
//! Up to [`FEW`](crate::scratch::FEW) rows go to kernels that read activations as rows of f32 and are bound by reading the weights. More rows go
//! to kernels for tensor cores, whose activations lie in groups.
#![allow(unsafe_code)] // launches: addresses are of the arena, shapes those that it was planned for

mod launch;
mod linear;
mod attention;
mod experts;
mod logits;
mod draw;

use backend::{Attention, Backend, BackendError, Batch, Drawn, Draws, Norm};

use crate::CudaError;
use crate::backend::{Cuda, KvCache, Table, Vector};
use crate::buffer::{Buffer, Form};
use crate::driver::Pinned;
use crate::matrix::{Experts, Linear, MoeLayer};
use crate::params;
use crate::step::Step;

/// Most sequences whose steps are recorded: beyond, launches cost little beside the work.
const RECORDED_MAX: usize = 256;
/// Most recordings that are kept: the driver holds some device memory for each.
const RECORDINGS_MAX: usize = 256;

impl Cuda {
    /// Runs an operation unless one before it failed.
    fn attempt(&mut self, operation: impl FnOnce(&mut Self) -> Result<(), CudaError>) {
        if self.failure.is_none() {
            self.failure = operation(self).err();
        }
    }

    /// Writes what the step is about into page-locked memory.
    fn describe(&mut self, batch: &Batch<'_>, rows: &[u32]) -> Result<(), CudaError> {
        let scratch = *self
            .attention
            .get()
            .ok_or_else(|| CudaError::argument("running a step", "no cache has been made"))?;
        if self.host_step.is_none() {
            let bytes = scratch.layout.step_bytes(&self.options.limits);
            self.host_step = Some(Pinned::alloc(self.stream.context(), bytes)?);
        }
        if let Some(host) = &mut self.host_step {
            self.step = Step::describe(batch, rows, &scratch.layout, host, scratch.step);
        }
        Ok(())
    }

    /// Hands all of a step's work to the stream.
    fn enqueue(&mut self, step: impl FnOnce(&mut Self, &mut Vec<f32>)) -> Result<(), CudaError> {
        if let (Some(host), Some(scratch)) = (&self.host_step, self.attention.get()) {
            // SAFETY: the page-locked memory is next written after this step has been waited for.
            unsafe { self.stream.copy_to_device(scratch.step, &host[..self.step.len])? };
        }
        // What follows a copy cannot overlap it.
        self.overlap = false;
        // Logits stay on the device until they are fetched.
        step(self, &mut Vec::new());
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Hands over a step that may come again: the first of its shape as it is, which loads the kernels; the second is
    /// recorded, and the recording repeated from then on.
    fn replay(&mut self, step: impl FnOnce(&mut Self, &mut Vec<f32>)) -> Result<(), CudaError> {
        let shape = self.step.shape;
        match self.graphs.get(&shape) {
            None => {
                if self.graphs.len() >= RECORDINGS_MAX {
                    self.graphs.clear();
                }
                self.graphs.insert(shape, None);
                return self.enqueue(step);
            }
            Some(Some(graph)) => return graph.launch(&self.stream),
            Some(None) => {}
        }
        self.stream.begin_capture()?;
        let enqueued = self.enqueue(step);
        let graph = self.stream.end_capture();
        enqueued?;
        let graph = graph?.instantiate()?;
        graph.launch(&self.stream)?;
        self.graphs.insert(shape, Some(graph));
        Ok(())
    }

    /// Hands over the forward pass of a step.
    fn forward(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        step: impl FnOnce(&mut Self, &mut Vec<f32>),
    ) -> Result<(), CudaError> {
        if self.in_flight {
            if let Some(drawing) = &self.drawing {
                drawing.stream.synchronize()?;
            }
            self.finish()?;
        }
        self.describe(batch, rows)?;
        self.make_host_logits()?;
        self.in_flight = true;
        let shape = self.step.shape;
        let record = shape.is_decode() && shape.sequences <= RECORDED_MAX && self.watched.is_none();
        if record { self.replay(step) } else { self.enqueue(step) }
    }

    /// Waits for what was handed over.
    fn finish(&mut self) -> Result<(), CudaError> {
        self.stream.synchronize()?;
        self.in_flight = false;
        Ok(())
    }
}

impl Backend for Cuda {
    fn run(
        &mut self,
        batch: &Batch<'_>,
        rows: &[u32],
        logits: &mut Vec<f32>,
        step: impl FnOnce(&mut Self, &mut Vec<f32>) + Send,
    ) -> Result<(), BackendError> {
        self.forward(batch, rows, step)?;
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        self.fetch_logits(&all)?;
        self.finish()?;
        self.take_logits(rows.len(), logits);
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
        self.drawing()?;
        self.forward(batch, rows, step)?;
        self.draw(choose)?;
        self.fetch_logits(kept)?;
        self.finish()?;
        self.take_drawn(drawn);
        self.take_logits(kept.len(), logits);
        Ok(())
    }

    fn last_logits(&mut self, rows: &[u32], logits: &mut Vec<f32>) -> Result<(), BackendError> {
        self.fetch_logits(rows)?;
        self.finish()?;
        self.take_logits(rows.len(), logits);
        Ok(())
    }

    fn embed(&mut self, table: &Table, tokens: &[u32], out: &mut Buffer) {
        out.rows = tokens.len();
        out.form = Form::Rows;
        let (cols, ld) = (table.cols as u32, out.ld());
        let (rows, to, ids) = (tokens.len() as u32, out.address, self.step.tokens);
        self.attempt(|cuda| {
            cuda.rows_kernel("embed", rows, params![&table.address, &ids, &to, &cols, &ld])
        });
    }

    fn linear(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vector>>,
        linear: &Linear,
        out: &mut Buffer,
    ) {
        self.attempt(|cuda| cuda.project(x, norm, linear, out, false));
    }

    fn linear_add(&mut self, x: &Buffer, linear: &Linear, residual: &mut Buffer) {
        self.attempt(|cuda| cuda.project(x, None, linear, residual, true));
    }

    fn attention(
        &mut self,
        qkv: &mut Buffer,
        attention: &Attention<Vector>,
        cache: &mut KvCache,
        layer: usize,
        _batch: &Batch<'_>,
        out: &mut Buffer,
    ) {
        self.attempt(|cuda| cuda.attend(qkv, attention, cache, layer, out));
    }

    fn gated_mlp(&mut self, residual: &mut Buffer, norm: &Norm<Vector>, mlp: &Experts) {
        self.attempt(|cuda| cuda.dense_mlp(residual, norm, mlp));
    }

    fn moe(&mut self, residual: &mut Buffer, norm: &Norm<Vector>, moe: &MoeLayer) {
        self.attempt(|cuda| cuda.mixture(residual, norm, moe));
    }

    fn logits(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vector>>,
        rows: &[u32],
        lm_head: &Linear,
        _logits: &mut Vec<f32>,
    ) {
        self.attempt(|cuda| cuda.project_to_vocabulary(x, norm, rows.len(), lm_head));
    }
}
