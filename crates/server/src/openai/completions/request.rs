//! What is asked of `/v1/completions`.

use std::fmt;

use engine::SamplingFields;
use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::ApiError;
use crate::openai::body::{self, Body, Unsupported};
use crate::openai::chat::StreamOptions;
use crate::openai::generation::{MAX_CHOICES, Options};
use crate::openai::structured::{
    self, Constraint, Guided, ResponseFormat, StructuredOutputs, constraint,
};
use crate::openai::text::Texts;
use crate::openai::{harmless, logprobs};

/// Tokens of an answer where a request does not say: OpenAI's figure.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Texts to be continued.
///
/// Where a sampling parameter is absent, the model's `generation_config.json` decides, else the likeliest token is taken.
/// Fields that OpenAI has and this server has not are an error; unknown ones are listed in the header
/// `x-halfbyte-unknown-parameters`. Null is the same as nothing.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// Name of the model.
    pub model: String,
    /// The texts. `n` times their number is at most 128.
    pub prompt: Prompt,
    /// Most tokens of an answer; 16 if absent. 0 needs `echo`.
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
    /// Texts that end an answer; they are no part of it.
    pub stop: Option<Texts>,
    /// Tokens that end an answer, besides the model's own.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Goes on after the model's end of an answer, for measurements.
    pub ignore_eos: Option<bool>,
    /// Answers to each text.
    pub n: Option<u32>,
    /// Only as many as `n` can be had.
    pub best_of: Option<u32>,
    /// Reports log-probabilities, with this many alternatives of each token, at most 20.
    pub logprobs: Option<u32>,
    /// Whether answers begin with their prompt; with `logprobs`, those of its tokens as well.
    pub echo: Option<bool>,
    /// Whether the answer comes as server-sent events.
    pub stream: Option<bool>,
    /// With `stream`.
    pub stream_options: Option<StreamOptions>,
    /// The form of the answers.
    pub response_format: Option<ResponseFormat>,
    /// Other forms of the answers.
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
    /// Requests of a higher one go first; 0 if absent.
    pub priority: Option<i32>,
    /// Who asks: accepted, and means nothing here.
    pub user: Option<String>,
}

/// One text or several, as texts or as tokens. Tokens are taken as they are: nothing is put before them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// The tokens of a text.
    Tokens(Vec<u32>),
    /// The tokens of texts.
    TokenLists(Vec<Vec<u32>>),
}

impl Prompt {
    /// Number of texts.
    pub(super) fn count(&self) -> usize {
        match self {
            Prompt::Text(_) | Prompt::Tokens(_) => 1,
            Prompt::Texts(texts) => texts.len(),
            Prompt::TokenLists(lists) => lists.len(),
        }
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;

        impl<'de> Visitor<'de> for AnyForm {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list of texts, a list of tokens, or a list of such lists")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Prompt, A::Error> {
                let items: Vec<Item> = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                collect(items).ok_or_else(|| de::Error::invalid_type(de::Unexpected::Seq, &self))
            }
        }

        deserializer.deserialize_any(AnyForm)
    }
}

/// An item of a list of prompts.
enum Item {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

/// `None` for an empty list, and for one of several kinds.
fn collect(items: Vec<Item>) -> Option<Prompt> {
    match items.first()? {
        Item::Text(_) => {
            let text = |item| if let Item::Text(text) = item { Some(text) } else { None };
            items.into_iter().map(text).collect::<Option<_>>().map(Prompt::Texts)
        }
        Item::Token(_) => {
            let token = |item| if let Item::Token(token) = item { Some(token) } else { None };
            items.into_iter().map(token).collect::<Option<_>>().map(Prompt::Tokens)
        }
        Item::Tokens(_) => {
            let tokens = |item| if let Item::Tokens(tokens) = item { Some(tokens) } else { None };
            items.into_iter().map(tokens).collect::<Option<_>>().map(Prompt::TokenLists)
        }
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyItem;

        impl<'de> Visitor<'de> for AnyItem {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a token, or a list of tokens")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Text(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, token: u64) -> Result<Item, E> {
                let unexpected = de::Unexpected::Unsigned(token);
                let token = u32::try_from(token).map_err(|_| E::invalid_value(unexpected, &self));
                token.map(Item::Token)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Item, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Item::Tokens)
            }
        }

        deserializer.deserialize_any(AnyItem)
    }
}

impl Body for CompletionRequest {
    const UNSUPPORTED: &'static [Unsupported] = &[
        Unsupported::never("suffix", "the model continues texts, it fills no gaps"),
        Unsupported::never("logit_bias", "use `structured_outputs` to say what may be answered"),
        Unsupported::unless("store", harmless::no, "nothing is stored here"),
        Unsupported::unless("use_beam_search", harmless::no, "tokens are sampled; use `n`"),
        Unsupported::unless("length_penalty", harmless::one, "there is no beam search"),
        Unsupported::unless("min_tokens", harmless::zero, "an answer ends where the model ends it"),
        Unsupported::unless(
            "skip_special_tokens",
            harmless::yes,
            "special tokens are never part of a text",
        ),
        Unsupported::unless(
            "add_special_tokens",
            harmless::yes,
            "send tokens to decide about special ones",
        ),
        Unsupported::unless(
            "include_stop_str_in_output",
            harmless::no,
            "stop strings are never part of the answer",
        ),
        Unsupported::never("bad_words", "use `structured_outputs` to say what may be answered"),
        Unsupported::unless("prompt_logprobs", harmless::zero, "use `echo` and `logprobs`"),
        Unsupported::never("truncate_prompt_tokens", "the prompt is never cut"),
        Unsupported::never("prompt_embeds", "send texts or tokens"),
        Unsupported::never("guided_whitespace_pattern", "JSON is written with the usual spaces"),
        Unsupported::never("guided_decoding_backend", "there is one"),
    ];

    fn validate(&self) -> Result<(), ApiError> {
        self.options()?;
        self.constraint()?;
        self.choices().map(drop)
    }
}

impl CompletionRequest {
    /// Reads and checks a body; also gives the names of fields that mean nothing here.
    ///
    /// # Errors
    /// 400 that names the field at fault.
    pub fn from_json(bytes: &[u8]) -> Result<(Self, Vec<String>), ApiError> {
        body::parse(bytes)
    }

    /// Whether answers begin with their prompt.
    pub(super) fn echo(&self) -> bool {
        self.echo.unwrap_or(false)
    }

    /// How answers are generated.
    ///
    /// # Errors
    /// 400 for fields that contradict each other or are out of range.
    pub(super) fn options(&self) -> Result<Options, ApiError> {
        if self.max_tokens == Some(0) && !self.echo() {
            let message =
                "`max_tokens` is 0: nothing would be answered; only with `echo` it can be";
            return Err(ApiError::invalid("max_tokens".to_owned(), message));
        }
        let top_logprobs = self.logprobs.unwrap_or(0);
        logprobs::check_count("logprobs", top_logprobs)?;
        harmless::stream_options(self.stream.unwrap_or(false), self.stream_options.as_ref())?;
        Ok(Options {
            max_tokens: self.max_tokens.map(|tokens| tokens as usize),
            default_max_tokens: Some(DEFAULT_MAX_TOKENS as usize),
            max_tokens_param: "max_tokens",
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

    /// Answers to each prompt.
    ///
    /// # Errors
    /// 400 for none or too many.
    pub(super) fn choices(&self) -> Result<usize, ApiError> {
        let n = harmless::choices(self.n, MAX_CHOICES)?;
        if self.best_of.is_some_and(|best_of| best_of as usize != n) {
            let message =
                "`best_of` is not supported but for the value of `n`: choose among `n` yourself";
            let error = ApiError::invalid("best_of".to_owned(), message);
            return Err(error.with_code("unsupported_parameter"));
        }
        let total = self.prompt.count().saturating_mul(n);
        if total > MAX_CHOICES {
            let message =
                format!("{total} answers are more than {MAX_CHOICES}; send fewer prompts at once");
            return Err(ApiError::invalid("prompt".to_owned(), message));
        }
        Ok(n)
    }

    /// What answers have to fit.
    ///
    /// # Errors
    /// 400 for several constraints.
    pub(super) fn constraint(&self) -> Result<Option<Constraint>, ApiError> {
        let guided = Guided {
            json: self.guided_json.clone(),
            regex: self.guided_regex.clone(),
            choice: self.guided_choice.clone(),
            grammar: self.guided_grammar.clone(),
        };
        let format = self.response_format.as_ref();
        let found = constraint(format, self.structured_outputs.as_ref(), &guided)?;
        if let Some(Constraint { param, spec }) = &found {
            harmless::constraint_alone(param, false, self.ignore_eos)?;
            let (stop, ids) = (self.stop.as_ref(), self.stop_token_ids.as_deref());
            harmless::nothing_breaks_off(param, Some(spec), stop, ids)?;
        }
        Ok(found)
    }
}
