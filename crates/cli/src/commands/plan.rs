//! `halfbyte plan MODEL`: the memory that a model takes, where it fits, and how fast it can be, from headers alone.

mod estimate;
mod report;
mod speed;

use anyhow::Result;
use clap::Args;
use model::{Checkpoint, Config, ModelError, ModelWeights, QuantizePolicy};
use quant::QuantConfig;

use crate::args::{ByteSize, ContextArgs, KvChoice, LoadArgs, PlaceArgs};
use crate::cards::{CARDS, Card};
use crate::gpu::Footprint;
use crate::memory::Needs;
use crate::models::{self, DEFAULT_CONTEXT_MAX};
use crate::output::{self, CliError};
use crate::random_weights::{self, LmHead};
use crate::shapes::Shape;
use crate::{embedded, headers};
use estimate::{Ask, Target};
use report::Report;

/// What was typed.
#[derive(Debug, Args)]
#[command(after_help = "\
No GPU, no driver and no weight is needed: sizes come from config.json and the headers of safetensors files. MODEL is also the \
name of a shape, as `mixtral-8x7b` (`halfbyte bench --help` lists them), and with --hub a repository of the Hugging Face hub, of \
which the headers alone are fetched; HF_ENDPOINT, HF_TOKEN and HF_TOKEN_PATH are respected.

Without --gpu and --vram there is a table over all cards that are known. Without --context, as many tokens are planned as \
the other commands would take: what the model was made for, at most 32768, and what fits.

Exit codes: 0 fits (one card at least, of several), 1 failed, 2 usage, 3 bad input or model, 4 does not fit.")]
pub(crate) struct PlanArgs {
    /// A directory, ORG/NAME, `demo`, the name of a shape, or the URL of a repository
    model: String,
    /// The card, as "RTX 4090" or "A100 80GB SXM"
    #[arg(long, value_name = "NAME", conflicts_with = "vram")]
    gpu: Option<String>,
    /// Memory of a card that is not in the table, as 24GiB: all that CUDA shows of it
    #[arg(long, value_name = "BYTES")]
    vram: Option<ByteSize>,
    #[command(flatten)]
    context: ContextArgs,
    /// Sequences at once, each as long as the context, as `serve` has them [default: one, as `prompt` has it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// Form of keys and values
    #[arg(long, value_enum, default_value_t = KvChoice::Bf16)]
    kv: KvChoice,
    /// Read the headers of the repository ORG/NAME from the Hugging Face hub
    #[arg(long)]
    hub: bool,
    /// Branch, tag or commit of the repository [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    places: PlaceArgs,
}

/// Plans, and reports.
pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let targets = targets(args)?;
    let model = Model::open(args)?;
    let ask = ask(args, &model.config)?;
    let report = Report::new(&model, &ask, &targets)?;
    if args.json {
        output::print_json(&report.json())?;
    } else {
        output::print(&report.text())?;
    }
    match report.refusal() {
        Some(message) => Err(CliError::Exceeds(message).into()),
        None => Ok(()),
    }
}

fn targets(args: &PlanArgs) -> Result<Vec<Target>> {
    if let Some(ByteSize(bytes)) = args.vram {
        return Ok(vec![Target::Bytes(bytes)]);
    }
    let Some(name) = &args.gpu else { return Ok(CARDS.iter().map(Target::Card).collect()) };
    let card = Card::find(name).map_err(CliError::usage)?;
    Ok(vec![Target::Card(card)])
}

fn ask(args: &PlanArgs, config: &Config) -> Result<Ask> {
    let made_for = config.max_position_embeddings;
    let typed = args.context.context.map(|context| context as usize);
    if let Some(asked) = typed.filter(|&asked| asked > made_for) {
        let message =
            format!("--context {asked} exceeds the {made_for} tokens that the model was made for");
        return Err(CliError::bad_input("context", message).into());
    }
    Ok(Ask {
        context: typed.unwrap_or_else(|| made_for.min(DEFAULT_CONTEXT_MAX)),
        is_typed: typed.is_some(),
        concurrency: args.concurrency,
        fp8_kv: args.kv == KvChoice::Fp8,
    })
}

/// A model of which the sizes are known.
struct Model {
    name: String,
    /// Where the sizes come from.
    origin: &'static str,
    config: Config,
    footprint: Footprint,
    /// The form of its linear layers.
    form: String,
    /// Bytes of all tensors as they are, or would be, stored.
    stored: u64,
    /// What `quantize` would make of it, if it is not quantized.
    quantized: Option<Quantized>,
}

/// A model as `quantize` would leave it.
struct Quantized {
    footprint: Footprint,
    stored: u64,
}

impl Model {
    fn open(args: &PlanArgs) -> Result<Self> {
        let is_url = args.model.starts_with("https://") || args.model.starts_with("http://");
        if args.hub || is_url {
            let checkpoint = headers::open(&args.model, args.revision.as_deref())?;
            let name = checkpoint.files().root().display().to_string();
            return Model::of_checkpoint(&checkpoint, name, "headers on the hub", &args.load);
        }
        if args.revision.is_some() {
            return Err(CliError::usage("--revision is of a repository: give --hub, too").into());
        }
        let name = args.model.clone();
        match models::open(&name, &args.places) {
            Ok(checkpoint) => {
                let origin = match name.as_str() {
                    embedded::NAME => "the model in this binary",
                    _ => "headers on disk",
                };
                Model::of_checkpoint(&checkpoint, name, origin, &args.load)
            }
            Err(error) if is_not_found(&error) => match Shape::find(&name) {
                Some(shape) => Model::of_shape(shape, &args.load),
                None if name.contains('/') => {
                    let message = format!("{error}; --hub plans it from its headers there");
                    Err(CliError::bad_input("model", message).into())
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    fn of_shape(shape: &Shape, load: &LoadArgs) -> Result<Self> {
        if load.quantize.is_some() || !load.rules.skip.is_empty() || !load.rules.include.is_empty()
        {
            let message =
                "a shape is NF4 already: --quantize, --skip and --include are for checkpoints";
            return Err(CliError::usage(message).into());
        }
        let config = shape.config()?;
        let weights = random_weights::outline(&config, LmHead::Bf16);
        Ok(Model {
            name: shape.name.to_owned(),
            origin: "a shape",
            footprint: Footprint::of(&config, &weights)?,
            form: "NF4 with double quantization".to_owned(),
            stored: random_weights::num_bytes(&config, LmHead::Bf16),
            quantized: None,
            config,
        })
    }

    fn of_checkpoint(
        checkpoint: &Checkpoint,
        name: String,
        origin: &'static str,
        load: &LoadArgs,
    ) -> Result<Self> {
        let config = checkpoint.config();
        let footprint = |policy: &QuantizePolicy| {
            Footprint::of(config, &ModelWeights::outline(checkpoint, policy)?)
        };
        let policy = models::policy(load);
        let form = match (&config.quantization_config, policy.quant) {
            (Some(quantized), _) => match quantized.use_double_quant {
                true => format!("{} with double quantization", upper(quantized.quant_type)),
                false => upper(quantized.quant_type),
            },
            (None, Some(QuantConfig { quant_type, .. })) => {
                format!("quantized to {} while they are loaded", upper(quant_type))
            }
            (None, None) => "not quantized".to_owned(),
        };
        let is_plain = config.quantization_config.is_none() && policy.quant.is_none();
        let nf4 = QuantizePolicy { quant: Some(QuantConfig::default()), ..policy.clone() };
        let quantized = || -> Result<Quantized> {
            let stored = Needs::of_checkpoint(checkpoint, nf4.quant).weights;
            Ok(Quantized { footprint: footprint(&nf4)?, stored })
        };
        Ok(Model {
            name,
            origin,
            footprint: footprint(&policy)?,
            form,
            stored: checkpoint.infos().map(|(_, info)| info.bytes.len() as u64).sum(),
            quantized: is_plain.then(quantized).transpose()?,
            config: config.clone(),
        })
    }
}

fn upper(quant_type: quant::QuantType) -> String {
    quant_type.name().to_uppercase()
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ModelError>(), Some(ModelError::NotFound { .. }))
}

#[cfg(test)]
mod tests;
