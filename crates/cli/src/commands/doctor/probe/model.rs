//! A model, from the headers of its tensors: what it takes, and whether that is there.

use anyhow::Result;
use model::{ModelWeights, QuantizePolicy};

use super::super::DoctorArgs;
use super::super::facts::{Fit, Model, Plan};
use crate::gpu::{self, Footprint};
use crate::memory::Needs;
use crate::models::{self, DEFAULT_CONTEXT_MAX};
use crate::{embedded, output::CliError};

pub(super) fn probe(args: &DoctorArgs) -> Result<Model> {
    let name =
        args.model.as_deref().ok_or_else(|| CliError::usage("--probe model needs a model"))?;
    let checkpoint = models::open(name, &args.places)?;
    let config = checkpoint.config();
    let weights = ModelWeights::load(&checkpoint, &QuantizePolicy::default(), |_| {})?;
    let wanted = config.max_position_embeddings.min(DEFAULT_CONTEXT_MAX);
    let footprint = Footprint::of(config, &weights)?;
    let fit = |(ordinal, free): &(u32, u64)| {
        let context = footprint.context_that_fits(wanted, 1, false, *free)?;
        Ok::<_, anyhow::Error>(Fit { ordinal: *ordinal, free: *free, context })
    };
    let whole = footprint.plan(wanted, gpu::limits(wanted, 1), false)?;
    let directory = checkpoint.files().root().display().to_string();
    let in_this_binary = name == embedded::NAME;
    Ok(Model {
        name: name.to_owned(),
        directory: if in_this_binary { "this binary".to_owned() } else { directory },
        quantized: config.quantization_config.as_ref().map(|it| it.quant_type.to_string()),
        context: wanted,
        gpu_plan: Plan {
            weights: whole.weights.total() as u64,
            keys_and_values: whole.keys_and_values as u64,
            workspace: whole.workspace as u64,
        },
        cpu_bytes: Needs::of_checkpoint(&checkpoint, None).total(wanted),
        fits: args.free.iter().map(fit).collect::<Result<_>>()?,
    })
}
