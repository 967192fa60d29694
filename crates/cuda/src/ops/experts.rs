//! Feed-forward blocks, dense and of experts.

use backend::Norm;

use super::launch::Shared;
use super::linear::{few_name, matrix_param, norm_params, param};
use crate::CudaError;
use crate::backend::{Cuda, Vector};
use crate::buffer::{Buffer, row_len};
use crate::matrix::{Experts, LinearStack, MoeLayer};
use crate::params;
use crate::params::{Router, Routes};

impl Cuda {
    /// `residual += mlp(norm(residual))`.
    pub(super) fn dense_mlp(
        &mut self,
        residual: &mut Buffer,
        norm: &Norm<Vector>,
        mlp: &Experts,
    ) -> Result<(), CudaError> {
        if self.takes_few(residual.rows, mlp) {
            return self.experts_few(residual, norm, mlp, self.step.dense);
        }
        let routes = self.step.dense;
        let (x, groups) =
            self.norm_to_groups(residual, Some(norm), mlp.hidden, 0, Routes::default(), 0)?;
        let h = self.gate_up_groups(mlp, routes, residual.rows, x, groups)?;
        let (tokens, ld) = (residual.rows, residual.ld());
        let down = LinearStack { matrix: mlp.down, start: 0, n: mlp.hidden, bias: 0 };
        self.multiply_groups(&down, routes, tokens, h.0, h.1, residual.address, ld, true)
    }

    /// `residual += sum of experts(norm(residual))`.
    pub(super) fn mixture(
        &mut self,
        residual: &mut Buffer,
        norm: &Norm<Vector>,
        moe: &MoeLayer,
    ) -> Result<(), CudaError> {
        let scratch = self.scratch()?;
        let routes = scratch.routes;
        self.route(residual, norm, moe, routes)?;
        self.watch(routes)?;
        let experts = &moe.experts;
        if self.takes_few(residual.rows, experts) {
            return self.experts_few(residual, norm, experts, routes);
        }
        let rows = residual.rows;
        let (x, groups) = self.norm_rows_to_groups(
            residual,
            Some(norm),
            experts.hidden,
            0,
            rows,
            routes,
            moe.choices,
            experts.count,
        )?;
        let tokens = (rows * moe.choices).div_ceil(experts.count);
        let (h, h_groups) = self.gate_up_groups(experts, routes, tokens, x, groups)?;
        let (y, ldy) = (scratch.y, row_len(experts.hidden) as u32);
        let tiles = experts.down.row_tiles() / experts.count as u32;
        let (n, no_bias, add) = (experts.hidden as u32, 0_u64, 0_i32);
        self.launch_groups(
            "store",
            &experts.down,
            tokens,
            &mut [
                matrix_param(&experts.down),
                param(&tiles),
                param(&routes),
                param(&h),
                param(&h_groups),
                param(&no_bias),
                param(&y),
                param(&ldy),
                param(&n),
                param(&add),
            ],
        )?;
        let (rows, choices, ld) = (rows as u32, moe.choices as u32, residual.ld());
        let (none, eps, k_padded, no_groups) = (0_u64, 0.0_f32, n, 0_u32);
        self.rows_kernel(
            "combine_f32",
            rows,
            params![
                &residual.address,
                &ld,
                &y,
                &ldy,
                &n,
                &rows,
                &routes,
                &choices,
                &none,
                &eps,
                &k_padded,
                &none,
                &no_groups
            ],
        )
    }

    /// Whether so many rows go to the kernels for few.
    fn takes_few(&self, rows: usize, experts: &Experts) -> bool {
        rows <= self.few() && self.gate_up_fits(&experts.gate_up, rows, experts.count)
    }

    /// Notes how many experts have tokens, if somebody wants to know.
    fn watch(&mut self, routes: Routes) -> Result<(), CudaError> {
        let Some(watched) = &mut self.watched else { return Ok(()) };
        let mut count = [0_u8; 4];
        // SAFETY: the word is waited for before it is read.
        unsafe { self.stream.copy_to_host(&mut count, routes.num_active)? };
        self.stream.synchronize()?;
        watched.push(u32::from_le_bytes(count));
        Ok(())
    }

    /// Chooses the experts of every row.
    fn route(
        &mut self,
        x: &Buffer,
        norm: &Norm<Vector>,
        moe: &MoeLayer,
        routes: Routes,
    ) -> Result<(), CudaError> {
        let scratch = self.scratch()?;
        let (norm_weight, eps) = norm_params(Some(norm));
        let (experts, choices) = (moe.experts.count as u32, moe.choices as u32);
        let router = Router {
            norm_weight,
            eps,
            weight: moe.router,
            k: moe.experts.hidden as u32,
            experts,
            choices,
            norm_topk_prob: i32::from(moe.norm_topk_prob),
        };
        let (ld, rows) = (x.ld(), x.rows as u32);
        if x.rows <= self.few() {
            let tokens = x.rows.next_power_of_two();
            // Through a cluster's shared memory, where there are clusters and few experts; else through a counter.
            if self.kernels.are_dependent() && experts <= 16 {
                let blocks = [experts.min(8), 1, 1];
                let parameters = params![&x.address, &ld, &rows, &router, &routes];
                let name = format!("route_cluster_t{tokens}");
                let cluster = Some(blocks);
                return self.launch_clusters(
                    "route",
                    &name,
                    blocks,
                    cluster,
                    Shared::NONE,
                    parameters,
                );
            }
            let (scores, finished) = (scratch.scores, scratch.finished);
            let parameters = params![&x.address, &ld, &rows, &router, &routes, &scores, &finished];
            let name = format!("route_t{tokens}");
            return self.launch("route", &name, [experts, 1, 1], Shared::NONE, parameters);
        }
        let (pair_expert, pair_weight) = (scratch.pair_expert, scratch.pair_weight);
        // Eight tokens to a block share each read of the router; with few rows more blocks are worth more.
        let (name, tokens) =
            if x.rows > 256 { ("route_scores_8", 8) } else { ("route_scores_1", 1) };
        self.launch(
            "route",
            name,
            [rows.div_ceil(tokens), 1, 1],
            Shared::NONE,
            params![&x.address, &ld, &rows, &router, &pair_expert, &pair_weight],
        )?;
        self.launch(
            "route",
            "route_slots",
            [experts, 1, 1],
            Shared::NONE,
            params![&pair_expert, &pair_weight, &rows, &experts, &choices, &routes],
        )
    }

    /// `h = silu(gate(x)) * up(x)` in groups; about `tokens` rows for each expert. Returns where it is.
    fn gate_up_groups(
        &mut self,
        experts: &Experts,
        routes: Routes,
        tokens: usize,
        x: u64,
        groups: u32,
    ) -> Result<(u64, u32), CudaError> {
        let scratch = self.scratch()?;
        let tiles = experts.gate_up.row_tiles() / experts.count as u32;
        let (h, h_groups) = (scratch.h_groups, scratch.groups);
        self.launch_groups(
            "swiglu",
            &experts.gate_up,
            tokens,
            &mut [
                matrix_param(&experts.gate_up),
                param(&tiles),
                param(&routes),
                param(&x),
                param(&groups),
                param(&h),
                param(&h_groups),
            ],
        )?;
        Ok((h, h_groups))
    }

    /// Both products of the experts for few rows.
    fn experts_few(
        &mut self,
        residual: &mut Buffer,
        norm: &Norm<Vector>,
        experts: &Experts,
        routes: Routes,
    ) -> Result<(), CudaError> {
        let scratch = self.scratch()?;
        let rows = residual.rows;
        let (norm_weight, eps) = norm_params(Some(norm));
        let (count, ld, tokens) = (experts.count as u32, residual.ld(), rows as u32);
        let (k, intermediate) = (experts.hidden as u32, experts.intermediate as u32);
        let (h, ldh) = (scratch.h_rows, row_len(experts.intermediate) as u32);
        let tiles = experts.gate_up.row_tiles() / count;
        self.launch_few(
            &few_name("gate_up", &experts.gate_up, rows),
            &mut [
                matrix_param(&experts.gate_up),
                param(&tiles),
                param(&count),
                param(&routes),
                param(&residual.address),
                param(&ld),
                param(&norm_weight),
                param(&eps),
                param(&k),
                param(&tokens),
                param(&h),
                param(&ldh),
                param(&intermediate),
            ],
        )?;
        let tiles = experts.down.row_tiles() / count;
        let (partial, arrivals) = (scratch.partial, scratch.arrivals);
        self.launch_few(
            &few_name("down", &experts.down, rows),
            &mut [
                matrix_param(&experts.down),
                param(&tiles),
                param(&count),
                param(&routes),
                param(&h),
                param(&ldh),
                param(&intermediate),
                param(&residual.address),
                param(&ld),
                param(&k),
                param(&tokens),
                param(&partial),
                param(&arrivals),
            ],
        )
    }
}
