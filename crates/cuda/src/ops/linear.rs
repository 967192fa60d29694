//! Projections.

use backend::Norm;

use super::launch::Shared;
use crate::CudaError;
use crate::backend::{Cuda, Vector};
use crate::buffer::{Buffer, Form};
use crate::matrix::{Linear, LinearStack, Matrix};
use crate::params;
use crate::params::Routes;

/// The weight of a norm, 0 for none, and its epsilon.
pub(super) fn norm_params(norm: Option<&Norm<Vector>>) -> (u64, f32) {
    norm.map_or((0, 0.0), |norm| (norm.weight.address, norm.eps))
}

/// Rows of few tokens: where they begin and how they lie.
#[derive(Clone, Copy)]
pub(super) struct FewRows {
    pub(super) address: u64,
    pub(super) ld: u32,
    pub(super) tokens: usize,
}

impl Cuda {
    /// `out = linear(norm(x))`, or with `add` `out += linear(norm(x))`.
    pub(super) fn project(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vector>>,
        linear: &Linear,
        out: &mut Buffer,
        add: bool,
    ) -> Result<(), CudaError> {
        let (ld, to) = (out.ld(), out.address);
        out.rows = x.rows;
        out.form = Form::Rows;
        if x.rows <= self.few() {
            let rows = FewRows { address: x.address, ld: x.ld(), tokens: x.rows };
            return self.project_few(rows, norm, linear, to, ld, add);
        }
        let (x_groups, groups) = match x.form {
            Form::Groups => (x.address, x.groups()),
            Form::Rows => self.norm_to_groups(x, norm, linear.k, 0, Routes::default(), 0)?,
        };
        let routes = self.step.dense;
        for stack in &linear.stacks {
            let to = to + 4 * stack.start as u64;
            let tokens = x.rows;
            self.multiply_groups(stack, routes, tokens, x_groups, groups, to, ld, add)?;
        }
        Ok(())
    }

    /// The same for few rows of f32.
    pub(super) fn project_few(
        &mut self,
        x: FewRows,
        norm: Option<&Norm<Vector>>,
        linear: &Linear,
        to: u64,
        ld: u32,
        add: bool,
    ) -> Result<(), CudaError> {
        let scratch = self.scratch()?;
        let (norm_weight, eps) = norm_params(norm);
        let k = linear.k as u32;
        for LinearStack { matrix, start, n, bias } in &linear.stacks {
            let name = few_name("linear", matrix, x.tokens);
            let (to, n) = (to + 4 * *start as u64, *n as u32);
            let (tokens, add) = (x.tokens as u32, i32::from(add));
            let (partial, arrivals) = (scratch.partial, scratch.arrivals);
            let matrix = matrix_param(matrix);
            self.launch_few(
                &name,
                &mut [
                    matrix,
                    param(&x.address),
                    param(&x.ld),
                    param(&norm_weight),
                    param(&eps),
                    param(&k),
                    param(bias),
                    param(&to),
                    param(&ld),
                    param(&n),
                    param(&tokens),
                    param(&add),
                    param(&partial),
                    param(&arrivals),
                ],
            )?;
        }
        Ok(())
    }

    /// Whether all activations of gate and up have room beside what the kernel for few rows needs: the contract at the top
    /// of `gemv.cu`.
    pub(super) fn gate_up_fits(&self, matrix: &Matrix, tokens: usize, experts: usize) -> bool {
        let (stage, unit, unit_columns) = match matrix {
            Matrix::W4(_) => (2304, 512, 256),
            Matrix::W16(_) => (2048, 256, 64),
        };
        let tokens = tokens.next_power_of_two();
        let units = matrix.k_padded() as usize / unit_columns;
        let fixed = 32 * stage + 1152 + unit + 2048 * tokens + (44 * experts).next_multiple_of(128);
        fixed + units * tokens * (unit + 8) <= self.device().max_shared_per_block_optin as usize
    }

    /// Launches a kernel for few rows: a block for each multiprocessor, with all shared memory there is.
    pub(super) fn launch_few(
        &mut self,
        name: &str,
        params: &mut [*mut std::ffi::c_void],
    ) -> Result<(), CudaError> {
        self.launch("gemv", name, [self.multiprocessors(), 1, 1], Shared::All, params)
    }

    /// Norms rows of `x` (all, or those that the addresses `row_index` name) into groups: row by row, or with `choices`
    /// into the slots of each token's experts. Returns where they are.
    pub(super) fn norm_to_groups(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vector>>,
        k: usize,
        row_index: u64,
        routes: Routes,
        choices: usize,
    ) -> Result<(u64, u32), CudaError> {
        let rows = if row_index == 0 { x.rows } else { self.step.shape.rows };
        self.norm_rows_to_groups(x, norm, k, row_index, rows, routes, choices, 0)
    }

    #[allow(clippy::too_many_arguments)] // the kernel's own
    pub(super) fn norm_rows_to_groups(
        &mut self,
        x: &Buffer,
        norm: Option<&Norm<Vector>>,
        k: usize,
        row_index: u64,
        rows: usize,
        routes: Routes,
        choices: usize,
        experts: usize,
    ) -> Result<(u64, u32), CudaError> {
        let scratch = self.scratch()?;
        let (norm_weight, eps) = norm_params(norm);
        let blocks = if choices == 0 { rows.next_multiple_of(8) } else { rows + experts } as u32;
        let (ld, rows, choices) = (x.ld(), rows as u32, choices as u32);
        let (k, k_padded) = (k as u32, k.next_multiple_of(crate::params::SLICE) as u32);
        let (to, groups) = (scratch.x_groups, scratch.groups);
        self.rows_kernel(
            "norm_groups",
            blocks,
            params![
                &x.address,
                &ld,
                &row_index,
                &rows,
                &norm_weight,
                &eps,
                &k,
                &k_padded,
                &routes,
                &choices,
                &to,
                &groups
            ],
        )?;
        Ok((to, groups))
    }

    /// `out[slot] (+)= matrix x[slot] + bias` for all slots of `routes`, in groups; about `tokens` for each expert.
    #[allow(clippy::too_many_arguments)] // the kernel's own
    pub(super) fn multiply_groups(
        &mut self,
        stack: &LinearStack,
        routes: Routes,
        tokens: usize,
        x_groups: u64,
        groups: u32,
        to: u64,
        ld: u32,
        add: bool,
    ) -> Result<(), CudaError> {
        let tiles = stack.matrix.row_tiles();
        let (n, add) = (stack.n as u32, i32::from(add));
        let matrix = matrix_param(&stack.matrix);
        self.launch_groups(
            "store",
            &stack.matrix,
            tokens,
            &mut [
                matrix,
                param(&tiles),
                param(&routes),
                param(&x_groups),
                param(&groups),
                param(&stack.bias),
                param(&to),
                param(&ld),
                param(&n),
                param(&add),
            ],
        )
    }

    /// Launches a product in groups, by the kernel that suits its size.
    pub(super) fn launch_groups(
        &mut self,
        what: &str,
        matrix: &Matrix,
        tokens_per_expert: usize,
        params: &mut [*mut std::ffi::c_void],
    ) -> Result<(), CudaError> {
        let grid = self.multiprocessors();
        // A block takes 16 row tiles of up to 64 tokens, or one row tile where that would leave multiprocessors without
        // work; for prompts, wide tiles of tokens.
        let splits = matrix.row_tiles().div_ceil(16) < grid / 2;
        let shape = match tokens_per_expert {
            193.. => "large",
            49.. if !splits => "large",
            _ if splits => "split",
            _ => "small",
        };
        let (file, suffix) = match self.kernels.has("gemm_wgmma") {
            true => ("gemm_wgmma", "wgmma"),
            false => ("gemm_mma", "mma"),
        };
        let name = format!("gemm_{what}_{}_{shape}_{suffix}", matrix.name());
        // Clusters of two need an even grid.
        self.launch(file, &name, [grid - grid % 2, 1, 1], Shared::All, params)
    }
}

/// The kernel of a kind for so many rows.
pub(super) fn few_name(kind: &str, matrix: &Matrix, tokens: usize) -> String {
    format!("{kind}_{}_t{}", matrix.name(), tokens.next_power_of_two())
}

/// The address of a kernel's parameter.
pub(super) fn param<T>(value: &T) -> *mut std::ffi::c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// The address of a matrix as its kernels take it.
pub(super) fn matrix_param(matrix: &Matrix) -> *mut std::ffi::c_void {
    match matrix {
        Matrix::W4(matrix) => param(matrix),
        Matrix::W16(matrix) => param(matrix),
    }
}
