//! What is asked of `/v1/chat/completions`.

use engine::SamplingFields;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::ApiError;
use crate::openai::body::{self, Body, Unsupported};
use crate::openai::dialogue::Dialogue;
use crate::openai::generation::{MAX_CHOICES, Options};
use crate::openai::message::{self, Message};
use crate::openai::structured::{
    self, Constraint, Guided, ResponseFormat, StructuredOutputs, constraint,
};
use crate::openai::text::Texts;
use crate::openai::tools::{Tool, ToolChoice, Toolbox};
use crate::openai::{harmless, logprobs};

/// A chat whose next message is asked for.
///
/// Where a sampling parameter is absent, the model's `generation_config.json` decides, else the likeliest token is taken.
/// Fields that OpenAI has and this server has not are an error; unknown ones are listed in the header
/// `x-halfbyte-unknown-parameters`. Null is the same as nothing.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// Name of the model.
    pub model: String,
    /// The chat so far.
    pub messages: Vec<Message>,
    /// Most tokens of the answer; without it, what the context leaves.
    pub max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    pub max_tokens: Option<u32>,
    /// Divides the logits; 0 takes the likeliest token each time.
    pub temperature: Option<f32>,
    /// Keeps the likeliest tokens whose probabilities first reach this.
    pub top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 or -1 keeps all.
    pub top_k: Option<i64>,
    /// Drops tokens less likely than this times the likeliest.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of generated tokens; 1 does nothing.
    pub repetition_penalty: Option<f32>,
    /// Subtracted for every time that a token was generated.
    pub frequency_penalty: Option<f32>,
    /// Subtracted once from tokens that were generated.
    pub presence_penalty: Option<f32>,
    /// The same seed gives the same answer. Answer `i` of `n` has the seed `seed + i`.
    pub seed: Option<i64>,
    /// Texts that end the answer; they are no part of it.
    pub stop: Option<Texts>,
    /// Tokens that end the answer, besides the model's own.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Goes on after the model's end of an answer, for measurements.
    pub ignore_eos: Option<bool>,
    /// Number of answers.
    pub n: Option<u32>,
    /// Whether each token's log-probability is reported.
    pub logprobs: Option<bool>,
    /// How many alternatives are reported with each token, at most 20; needs `logprobs`.
    pub top_logprobs: Option<u32>,
    /// Whether the answer comes as server-sent events.
    pub stream: Option<bool>,
    /// With `stream`.
    pub stream_options: Option<StreamOptions>,
    /// The form of the answer.
    pub response_format: Option<ResponseFormat>,
    /// Other forms of the answer.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Older name of `structured_outputs.json`.
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Value>,
    /// Older name of `structured_outputs.regex`.
    pub guided_regex: Option<String>,
    /// Older name of `structured_outputs.choice`.
    pub guided_choice: Option<Vec<String>>,
    /// Older name of `structured_outputs.grammar`.
    pub guided_grammar: Option<String>,
    /// Functions that the model may call.
    pub tools: Option<Vec<Tool>>,
    /// Whether it may, must, or must not; and which.
    pub tool_choice: Option<ToolChoice>,
    /// Whether several may be called in one answer; true if absent.
    pub parallel_tool_calls: Option<bool>,
    /// Variables of the chat template, as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Requests of a higher one go first; 0 if absent.
    pub priority: Option<i32>,
    /// Who asks: accepted, and means nothing here.
    pub user: Option<String>,
    /// Accepted, and means nothing here: nothing is stored.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
}

/// Options of a stream.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Whether the last event says how many tokens the request took.
    pub include_usage: Option<bool>,
    /// Whether events are padded against onlookers; they are not.
    pub include_obfuscation: Option<bool>,
}

impl Body for ChatRequest {
    const UNSUPPORTED: &'static [Unsupported] = &[
        Unsupported::never("audio", "the model writes text alone"),
        Unsupported::unless("modalities", harmless::text_alone, "the model writes text alone"),
        Unsupported::never("prediction", "answers are generated token by token"),
        Unsupported::never("web_search_options", "this server asks nobody else"),
        Unsupported::never("functions", "it is deprecated; send `tools`"),
        Unsupported::unless(
            "function_call",
            harmless::none_or_auto,
            "it is deprecated; send `tool_choice`",
        ),
        Unsupported::never("logit_bias", "use `structured_outputs` to say what may be answered"),
        Unsupported::unless("service_tier", harmless::default_tier, "there is one tier"),
        Unsupported::unless("store", harmless::no, "nothing is stored here"),
        Unsupported::never(
            "reasoning_effort",
            "pass what the template knows in `chat_template_kwargs`",
        ),
        Unsupported::unless("verbosity", harmless::medium, "tell the model in a message"),
        Unsupported::unless("use_beam_search", harmless::no, "tokens are sampled; use `n`"),
        Unsupported::unless("best_of", harmless::one, "use `n`"),
        Unsupported::unless("length_penalty", harmless::one, "there is no beam search"),
        Unsupported::unless("min_tokens", harmless::zero, "an answer ends where the model ends it"),
        Unsupported::unless("echo", harmless::no, "only /v1/completions repeats the prompt"),
        Unsupported::unless(
            "add_generation_prompt",
            harmless::yes,
            "the answer is always a new message",
        ),
        Unsupported::unless(
            "continue_final_message",
            harmless::no,
            "the answer is always a new message",
        ),
        Unsupported::never("chat_template", "the model's own template is used"),
        Unsupported::never("documents", "put them into a message"),
        Unsupported::unless(
            "skip_special_tokens",
            harmless::yes,
            "special tokens are never part of a text",
        ),
        Unsupported::unless(
            "include_stop_str_in_output",
            harmless::no,
            "stop strings are never part of the answer",
        ),
        Unsupported::never("bad_words", "use `structured_outputs` to say what may be answered"),
        Unsupported::unless(
            "prompt_logprobs",
            harmless::zero,
            "use /v1/completions with `echo` and `logprobs`",
        ),
        Unsupported::never("truncate_prompt_tokens", "the prompt is never cut"),
        Unsupported::never("guided_whitespace_pattern", "JSON is written with the usual spaces"),
        Unsupported::never("guided_decoding_backend", "there is one"),
        Unsupported::accepted("prompt_cache_key"),
        Unsupported::accepted("prompt_cache_retention"),
        Unsupported::accepted("safety_identifier"),
    ];

    fn validate(&self) -> Result<(), ApiError> {
        self.options()?;
        self.constraint()?;
        self.choices()?;
        self.dialogue().map(drop)
    }
}

impl ChatRequest {
    /// Reads and checks a body; also gives the names of fields that mean nothing here.
    ///
    /// # Errors
    /// 400 that names the field at fault.
    pub fn from_json(bytes: &[u8]) -> Result<(Self, Vec<String>), ApiError> {
        body::parse(bytes)
    }

    /// How the answer is generated.
    ///
    /// # Errors
    /// 400 for fields that contradict each other or are out of range.
    pub(in crate::openai) fn options(&self) -> Result<Options, ApiError> {
        let (max_tokens, max_tokens_param) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(a), Some(b)) if a != b => {
                let message = "`max_tokens` and `max_completion_tokens` differ; give one";
                return Err(ApiError::invalid("max_tokens".to_owned(), message));
            }
            (Some(tokens), _) => (Some(tokens), "max_completion_tokens"),
            (None, tokens) => (tokens, "max_tokens"),
        };
        if max_tokens == Some(0) {
            let message = format!("`{max_tokens_param}` must be at least 1");
            return Err(ApiError::invalid(max_tokens_param.to_owned(), message));
        }
        let top_logprobs = self.top_logprobs.unwrap_or(0);
        logprobs::check_count("top_logprobs", top_logprobs)?;
        if top_logprobs > 0 && self.logprobs != Some(true) {
            let message = "`top_logprobs` needs `\"logprobs\": true`";
            return Err(ApiError::invalid("top_logprobs".to_owned(), message));
        }
        let stream = self.stream.unwrap_or(false);
        harmless::stream_options(stream, self.stream_options.as_ref())?;
        Ok(Options {
            max_tokens: max_tokens.map(|tokens| tokens as usize),
            default_max_tokens: None,
            max_tokens_param,
            sampling: SamplingFields {
                temperature: self.temperature,
                top_k: self.top_k.map(harmless::top_k).transpose()?,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                penalize_prompt: None,
                // Negative seeds are seeds too.
                seed: self.seed.map(i64::cast_unsigned),
            },
            stop: structured::stop(self.stop.as_ref())?,
            stop_token_ids: harmless::stop_token_ids(self.stop_token_ids.as_deref())?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            top_logprobs: top_logprobs as usize,
            prompt_logprobs_from: None,
            priority: self.priority.unwrap_or(0),
        })
    }

    /// Number of answers.
    ///
    /// # Errors
    /// 400 for none or too many.
    pub(in crate::openai) fn choices(&self) -> Result<usize, ApiError> {
        harmless::choices(self.n, MAX_CHOICES)
    }

    /// What the answer has to fit, calls of tools aside.
    ///
    /// # Errors
    /// 400 for several constraints, and for one beside tools that may be called.
    pub(in crate::openai) fn constraint(&self) -> Result<Option<Constraint>, ApiError> {
        let guided = Guided {
            json: self.guided_json.clone(),
            regex: self.guided_regex.clone(),
            choice: self.guided_choice.clone(),
            grammar: self.guided_grammar.clone(),
        };
        let format = self.response_format.as_ref();
        let found = constraint(format, self.structured_outputs.as_ref(), &guided)?;
        let has_tools = !self.toolbox()?.is_empty();
        let (stop, ids) = (self.stop.as_ref(), self.stop_token_ids.as_deref());
        match &found {
            Some(Constraint { param, spec }) => {
                harmless::constraint_alone(param, has_tools, self.ignore_eos)?;
                harmless::nothing_breaks_off(param, Some(spec), stop, ids)?;
            }
            None if has_tools => harmless::nothing_breaks_off("tools", None, stop, ids)?,
            None => {}
        }
        Ok(found)
    }

    fn toolbox(&self) -> Result<Toolbox, ApiError> {
        let tools = self.tools.as_deref().unwrap_or_default();
        Toolbox::new(tools, self.tool_choice.as_ref(), self.parallel_tool_calls)
    }

    /// The chat for the model's template.
    ///
    /// # Errors
    /// 400 for messages and tools that make no sense.
    pub(in crate::openai) fn dialogue(&self) -> Result<Dialogue, ApiError> {
        Ok(Dialogue {
            messages: message::for_template(&self.messages)?,
            tools: self.toolbox()?,
            variables: self.chat_template_kwargs.clone().unwrap_or_default(),
        })
    }
}
