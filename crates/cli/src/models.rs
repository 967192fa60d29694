//! From the name of a model to one that answers.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use backend::{Cpu, StepLimits};
use engine::{Engine, EngineConfig, ModelRunner, Runner};
use model::locate::Places;
use model::{
    Chat, ChatTemplate, Checkpoint, GenerationConfig, ModelWeights, QuantizePolicy, Tokenizer,
    Transformer,
};
use serde_json::Value;

use crate::args::{ContextArgs, LoadArgs, PlaceArgs};
use crate::device::Device;
use crate::gpu::{self, LoadOptions};
use crate::memory::{self, Needs};
use crate::output::{self, CliError};
use crate::pool::{self, Pool, PoolArgs};
use crate::{embedded, progress};

/// Longest context that is taken unasked, in tokens.
pub(crate) const DEFAULT_CONTEXT_MAX: usize = 32_768;

/// Opens a checkpoint by the name that a command was given.
pub(crate) fn open(model: &str, places: &PlaceArgs) -> Result<Checkpoint> {
    if model == embedded::NAME {
        return embedded::checkpoint();
    }
    let directory = Places::from_env(places.model_dir.clone()).find(model)?;
    Ok(Checkpoint::open(&directory)?)
}

/// The text side of a model: everything but the weights, cheap to load, so that mistakes come up early.
pub(crate) struct TextSide {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) generation: GenerationConfig,
    pub(crate) template: Option<ChatTemplate>,
}

impl TextSide {
    /// Reads tokenizer, template and generation config.
    pub(crate) fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let files = checkpoint.files();
        Ok(TextSide {
            tokenizer: Arc::new(Tokenizer::load(files)?),
            generation: GenerationConfig::load(files, checkpoint.config())?,
            template: ChatTemplate::load(files)?,
        })
    }

    /// The chat template.
    ///
    /// # Errors
    /// If the model has none.
    pub(crate) fn require_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            let message =
                "the model has no chat template; `halfbyte prompt --raw` continues a text as it is";
            CliError::bad_input("model", message).into()
        })
    }

    /// Token ids of a chat, up to where the answer begins.
    pub(crate) fn encode_chat(&self, messages: &[Value]) -> Result<Vec<u32>> {
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        Ok(self.tokenizer.encode_chat(&self.require_template()?.render(chat)?)?)
    }
}

/// The policy of `--quantize`, `--skip` and `--include`.
pub(crate) fn policy(args: &LoadArgs) -> QuantizePolicy {
    QuantizePolicy {
        quant: args.quantize.map(|choice| choice.config()),
        skip: args.rules.skip.clone(),
        include: args.rules.include.clone(),
    }
}

/// A model that is about to be loaded: its context is known, nothing large has been read.
pub(crate) struct Ready<'a> {
    checkpoint: &'a Checkpoint,
    load: &'a LoadArgs,
    device: Device,
    /// Tokens of context.
    pub(crate) context: usize,
    /// How much a step holds.
    limits: StepLimits,
    /// On a GPU, where they are mapped before the plan is made.
    weights: Option<ModelWeights>,
}

/// Decides on the context: as many tokens as asked for, if they fit; else what the model was made for, bounded, and what
/// fits. `rows`: how many rows of a step may be asked for their logits.
pub(crate) fn ready<'a>(
    checkpoint: &'a Checkpoint,
    load: &'a LoadArgs,
    asked: &ContextArgs,
    device: Device,
    rows: usize,
) -> Result<Ready<'a>> {
    let made_for = checkpoint.config().max_position_embeddings;
    let asked = asked.context.map(|asked| asked as usize);
    if let Some(asked) = asked.filter(|&asked| asked > made_for) {
        let message =
            format!("--context {asked} exceeds the {made_for} tokens that the model was made for");
        return Err(CliError::bad_input("context", message).into());
    }
    let wanted = asked.unwrap_or_else(|| made_for.min(DEFAULT_CONTEXT_MAX));
    let (context, limits, weights) = match &device {
        Device::Cpu(_) => {
            (cpu_context(checkpoint, load, wanted, asked.is_some())?, Cpu::LIMITS, None)
        }
        Device::Gpu(gpu) => {
            let config = checkpoint.config();
            let weights = ModelWeights::load(checkpoint, &policy(load), |_| {})?;
            let is_asked = asked.is_some();
            let context = gpu::context_that_fits(config, &weights, wanted, is_asked, rows, gpu)?;
            (context, gpu::limits(context, rows), Some(weights))
        }
    };
    Ok(Ready { checkpoint, load, device, context, limits, weights })
}

/// The same for many sequences at once, with a cache of as many tokens as there is room for.
pub(crate) fn ready_to_share<'a>(
    checkpoint: &'a Checkpoint,
    load: &'a LoadArgs,
    asked: &ContextArgs,
    args: &PoolArgs,
    device: Device,
) -> Result<(Ready<'a>, Pool)> {
    let (pool, weights) = match &device {
        Device::Cpu(_) => {
            let needs = Needs::of_checkpoint(checkpoint, policy(load).quant);
            (pool::on_cpu(checkpoint, needs, asked.context, args)?, None)
        }
        Device::Gpu(gpu) => {
            let weights = ModelWeights::load(checkpoint, &policy(load), |_| {})?;
            let config = checkpoint.config();
            (pool::on_gpu(config, &weights, asked.context, args, gpu)?, Some(weights))
        }
    };
    let Pool { tokens: context, limits, .. } = pool;
    Ok((Ready { checkpoint, load, device, context, limits, weights }, pool))
}

fn cpu_context(
    checkpoint: &Checkpoint,
    load: &LoadArgs,
    wanted: usize,
    asked: bool,
) -> Result<usize> {
    let needs = Needs::of_checkpoint(checkpoint, policy(load).quant);
    let available = memory::available().unwrap_or(u64::MAX);
    let fits = needs.context_that_fits(available);
    if asked || fits >= wanted {
        needs.check(wanted, available)?;
        return Ok(wanted);
    }
    // One block of the cache is the least that makes sense.
    needs.check(backend::KV_BLOCK_SIZE, available)?;
    let context = fits - fits % backend::KV_BLOCK_SIZE;
    output::note(&format!("context: {context} tokens, which is what fits into memory"));
    Ok(context)
}

/// A model in memory, and how long that took.
pub(crate) struct Loaded {
    pub(crate) runner: Box<dyn ModelRunner>,
    pub(crate) load_seconds: f64,
}

impl Loaded {
    /// An engine for one request at a time.
    pub(crate) fn engine(self, side: &TextSide) -> Engine {
        let config = EngineConfig::for_one(&*self.runner);
        Engine::new(self.runner, Arc::clone(&side.tokenizer), config)
    }
}

impl Ready<'_> {
    /// Loads the weights and makes room for the context.
    pub(crate) fn load(self) -> Result<Loaded> {
        let start = Instant::now();
        let runner = self.load_runner(|_, _| {})?;
        Ok(Loaded { runner, load_seconds: start.elapsed().as_secs_f64() })
    }

    /// The same; `on_layer` is told how many layers are done, of how many.
    pub(crate) fn load_runner(
        self,
        on_layer: impl Fn(usize, usize),
    ) -> Result<Box<dyn ModelRunner>> {
        let config = self.checkpoint.config();
        let layers = config.num_hidden_layers;
        Ok(match self.device {
            Device::Cpu(cpu) => {
                // Each layer counts twice: read (and quantized), then handed to the device.
                let bar = progress::count("loading", 2 * layers as u64);
                let weights =
                    ModelWeights::load(self.checkpoint, &policy(self.load), |_| bar.inc(1))?;
                let model = Transformer::load(config, weights, &cpu, |done| {
                    bar.inc(1);
                    on_layer(done, layers);
                })?;
                bar.finish_and_clear();
                Box::new(Runner::new(cpu, model, self.context, self.limits)?)
            }
            Device::Gpu(gpu) => {
                let weights = match self.weights {
                    Some(weights) => weights,
                    None => ModelWeights::load(self.checkpoint, &policy(self.load), |_| {})?,
                };
                let options = LoadOptions {
                    context: self.context,
                    limits: self.limits,
                    random_weights: None,
                };
                let on_layer = |done| on_layer(done, layers);
                Box::new(gpu::load(&gpu, config, weights, &options, on_layer)?)
            }
        })
    }
}
