//! Counts the memory that a model takes on the device, without a device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use backend::{
    AttentionParams, BackendError, GatedMlp, LinearWeight, Moe, Role, StepLimits, Storage, Weight,
};

use crate::arena::{Kind, MemoryPlan, Purpose};
use crate::kv::KvLayout;
use crate::layout::{Format, Stack, check_routes, expert_stacks, linear_stacks};
use crate::loader::STAGING_BYTES;
use crate::matrix::Codes;
use crate::scratch::Wants;

/// Takes a model as [`Cuda`](crate::Cuda) does, and only counts.
#[derive(Debug)]
pub struct Planner {
    limits: StepLimits,
    fp8_kv: bool,
    counted: Mutex<Counted>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    plan: MemoryPlan,
    wants: Wants,
}

impl Planner {
    /// A planner for steps within `limits`, and keys and values in 8 bits or 16.
    pub fn new(limits: StepLimits, fp8_kv: bool) -> Self {
        let planner = Planner { limits, fp8_kv, counted: Mutex::default() };
        planner.count(Codes::PIECES, Purpose::Weights(Kind::Small));
        planner
    }

    /// A planner that has counted the same, for other steps and another form of keys and values: once the weights are counted
    /// and nothing else is, for as many tries as one likes.
    pub fn with(&self, limits: StepLimits, fp8_kv: bool) -> Self {
        Planner { limits, fp8_kv, counted: Mutex::new(*self.counted()) }
    }

    /// What was counted so far.
    pub fn plan(&self) -> MemoryPlan {
        let counted = self.counted();
        let mut plan = counted.plan;
        for bytes in counted.wants.pieces(&self.limits) {
            plan.add(bytes, Purpose::Workspace);
        }
        // While weights are loaded, what comes in passes through the memory that is later the cache and the workspace.
        let later = plan.keys_and_values + plan.workspace;
        plan.workspace += STAGING_BYTES.saturating_sub(later);
        plan
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, pieces: impl IntoIterator<Item = usize>, purpose: Purpose) {
        let mut counted = self.counted();
        pieces.into_iter().for_each(|bytes| counted.plan.add(bytes, purpose));
    }

    fn want(&self, f: impl FnOnce(&mut Wants)) {
        f(&mut self.counted().wants);
    }

    /// Counts a stack by the kinds of its arrays, or all of it as `kind`.
    fn count_stack(&self, stack: &Stack, kind: Option<Kind>) {
        let tiles = if stack.format == Format::F16 { Kind::Dense } else { Kind::Codes };
        let kinds = [tiles, Kind::Scales, Kind::Scales, Kind::Scales];
        for (bytes, own) in stack.pieces().zip(kinds) {
            self.count([bytes], Purpose::Weights(kind.unwrap_or(own)));
        }
    }

    fn experts(
        &self,
        experts: &[GatedMlp<LinearWeight>],
        choices: usize,
    ) -> Result<(), BackendError> {
        let (gate_up, down) = expert_stacks(experts)?;
        let before = self.counted().plan.weights.total();
        self.count_stack(&gate_up, None);
        self.count_stack(&down, None);
        if choices > 0 {
            let mut counted = self.counted();
            counted.plan.weights.in_experts += counted.plan.weights.total() - before;
        }
        self.want(|wants| wants.experts(&gate_up, &down, experts.len(), choices));
        Ok(())
    }
}

impl Storage for Planner {
    type Buffer = ();
    type Linear = ();
    type Mlp = ();
    type Moe = ();
    type Vector = ();
    type Table = ();
    type KvCache = ();

    fn load_linear(&self, linears: Vec<LinearWeight>, role: Role) -> Result<(), BackendError> {
        for (run, stack) in linear_stacks(&linears)? {
            self.count_stack(&stack, (role == Role::LmHead).then_some(Kind::LmHead));
            let n: usize = linears[run.clone()].iter().map(|l| l.weight.shape()[0]).sum();
            if linears[run].iter().any(|l| l.bias.is_some()) {
                self.count([4 * n], Purpose::Weights(Kind::Small));
            }
            self.want(|wants| wants.linear(&stack, n, role));
        }
        Ok(())
    }

    fn load_mlp(&self, mlp: GatedMlp<LinearWeight>) -> Result<(), BackendError> {
        self.experts(&[mlp], 0)
    }

    fn load_moe(&self, moe: Moe<LinearWeight>) -> Result<(), BackendError> {
        check_routes(moe.experts.len(), moe.num_experts_per_tok)?;
        let router: usize = moe.gate.weight.shape().iter().product();
        self.count([4 * router], Purpose::Weights(Kind::Router));
        self.experts(&moe.experts, moe.num_experts_per_tok)
    }

    fn load_vector(&self, weight: Weight) -> Result<(), BackendError> {
        let bytes = 4 * weight.shape().iter().product::<usize>();
        self.count([bytes], Purpose::Weights(Kind::Small));
        Ok(())
    }

    /// The table stays in the host's memory: a token reads one row of it.
    fn load_table(&self, weight: Weight) -> Result<(), BackendError> {
        self.counted().plan.host += 2 * weight.shape().iter().product::<usize>();
        Ok(())
    }

    fn buffer(&self, rows_max: usize, cols: usize) -> Result<(), BackendError> {
        self.count([crate::buffer::num_bytes(rows_max, cols)], Purpose::Workspace);
        Ok(())
    }

    fn kv_cache(
        &self,
        num_layers: usize,
        num_blocks: usize,
        params: &AttentionParams,
    ) -> Result<(), BackendError> {
        let layout = KvLayout::new(num_layers, num_blocks, params, self.fp8_kv);
        self.count(layout.pieces(), Purpose::KeysAndValues);
        self.count(layout.workspace(&self.limits), Purpose::Workspace);
        Ok(())
    }
}
