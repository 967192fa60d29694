//! The projection to the vocabulary.

use backend::Norm;

use super::linear::{FewRows, norm_params};
use crate::CudaError;
use crate::backend::{Cuda, Vector};
use crate::buffer::{Buffer, row_len};
use crate::matrix::Linear;
use crate::params;
use crate::params::Routes;

impl Cuda {
    /// Logits of the step's rows.
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
        Ok(())
    }
}
