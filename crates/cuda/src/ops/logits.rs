//! The projection to the vocabulary, and the way of logits to the host.

use backend::Norm;
use bytemuck::cast_slice;

use super::FEW;
use super::linear::{FewRows, norm_params};
use crate::CudaError;
use crate::backend::{Cuda, Vector};
use crate::buffer::{Buffer, row_len};
use crate::driver::Pinned;
use crate::matrix::Linear;
use crate::params;
use crate::params::Routes;

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
        if rows <= FEW {
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
        self.fetch_logits(rows, ld as usize)
    }

    fn fetch_logits(&mut self, rows: usize, ld: usize) -> Result<(), CudaError> {
        let from = self.scratch()?.logits;
        let bytes = 4 * rows * ld;
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
}
