//! `POST /prompt`: what is asked for, and what the engine is asked for.

use engine::SamplingFields;
use grammar::{GrammarError, Spec};
use model::Chat;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::context::{Context, ContextField};
use super::schema;
use super::stage::{Stage, Stages};
use crate::openai::beyond_limit;
use crate::{ApiError, Served};

/// Most stop strings of a request, and the longest one in bytes.
const MAX_STOP: (usize, usize) = (16, 256);

/// A question to the model, as a text or within a stage.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromptRequest {
    /// What the model reads: a question, or with a stage the document. Never cut: what does not fit is an error.
    pub(crate) prompt: String,
    /// The stage, and what it should know.
    pub(crate) context: Option<Context>,
    /// What the answer fits: a JSON Schema, or an example of what is wanted such as `{"total": "number"}`. With a stage that
    /// has a place for it (`field_mapping`: `api_request_body`), it goes there.
    #[schema(value_type = Option<Object>)]
    pub(crate) schema: Option<Value>,
    /// Whether objects of `schema` that do not forbid further properties may have any (the standard's meaning). They may not
    /// unless this is true.
    pub(crate) schema_open: Option<bool>,
    /// Most tokens of the answer. Else the stage's default, else what the context leaves. With a schema the answer is
    /// whole nonetheless: a shorter one is found, and `finish_reason` is `length`.
    pub(crate) max_tokens: Option<usize>,
    /// 0 takes the most probable token each time. Else the stage's default, else the model's.
    pub(crate) temperature: Option<f32>,
    /// Keeps the most probable tokens whose probabilities first reach this; above 0, at most 1.
    pub(crate) top_p: Option<f32>,
    /// Keeps so many of the most probable tokens; 0 keeps all.
    pub(crate) top_k: Option<usize>,
    /// Drops tokens less probable than this times the most probable one; within 0 to 1.
    pub(crate) min_p: Option<f32>,
    /// Divides the logits of tokens that were generated; 1 does nothing.
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtracted for every time a token was generated.
    pub(crate) frequency_penalty: Option<f32>,
    /// Subtracted once from tokens that were generated.
    pub(crate) presence_penalty: Option<f32>,
    /// Whether the penalties count the prompt's tokens as well.
    pub(crate) penalize_prompt: Option<bool>,
    /// The same seed gives the same answer.
    pub(crate) seed: Option<u64>,
    /// Texts that end the answer. Not together with a schema: they would break it.
    pub(crate) stop: Option<Stop>,
    /// Whether the answer comes as server-sent events: `delta` with pieces of its text, then `result` with what comes
    /// otherwise, or `error`.
    pub(crate) stream: Option<bool>,
    /// Whether the text goes to the model without its chat template.
    pub(crate) raw: Option<bool>,
}

/// A text, or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
pub(crate) enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What the engine is asked for.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: engine::Request,
    /// What the answer has to fit, if it is JSON; to be compiled.
    pub(crate) spec: Option<Spec>,
    /// Where in it the request's schema stands.
    schema_at: Option<String>,
    /// The parameters in force.
    pub(crate) parameters: Value,
}

impl PromptRequest {
    /// Checks everything that can be checked before the engine has it. Takes time: templates, tokens, grammars.
    ///
    /// # Errors
    /// 400 that names the field.
    pub(crate) fn prepare(self, served: &Served, stages: &Stages) -> Result<Prepared, ApiError> {
        if self.prompt.is_empty() {
            return Err(invalid("prompt", "prompt is empty; say something"));
        }
        let context = self.context.as_ref().cloned().unwrap_or_default();
        check_count(&context)?;
        let stage = find(&context, stages)?;
        let schema = self.schema_in_force(stage)?;
        let stop = self.stop_strings(stage, schema.is_some())?;
        let text = match stage {
            Some(stage) => stage
                .render(&self.prompt, &context, schema.as_ref())
                .map_err(|reason| invalid("context", reason))?,
            None => self.prompt.clone(),
        };
        let raw = self.raw.unwrap_or(false);
        let too_long = |error| ApiError { param: Some("prompt".to_owned()), ..error };
        served.check_length(&text).map_err(too_long)?;
        let prompt = if raw { served.tokenizer.encode(&text) } else { encode_chat(served, &text) };
        let prompt = prompt.map_err(|error| invalid("prompt", error.to_string()))?;
        let max_tokens = self.max_tokens(stage, prompt.len(), served)?;
        let request = engine::Request {
            prompt,
            max_tokens,
            sampling: self.sampling(stage, served)?,
            stop,
            eos_token_id: served.generation.eos_token_id.clone(),
            ..engine::Request::default()
        };
        let open = self.schema_open.unwrap_or(false);
        let mut parameters = crate::effective(&request);
        parameters["stage"] = json!(stage.map(|stage| &stage.name));
        parameters["raw"] = raw.into();
        if schema.is_some() {
            parameters["schema_open"] = open.into();
        }
        let spec = schema.map(|schema| Spec::JsonSchema { schema, open });
        let schema_at = stage.and_then(|stage| stage.schema_at.clone());
        Ok(Prepared { request, spec, schema_at, parameters })
    }

    fn schema_in_force(&self, stage: Option<&Stage>) -> Result<Option<Value>, ApiError> {
        let Some(stage) = stage else { return Ok(self.schema.clone()) };
        match (&self.schema, &stage.schema, &stage.schema_at) {
            (None, whole, _) => Ok(whole.clone()),
            (Some(part), Some(whole), Some(at)) => {
                let refused = |error| schema_error(&error, None);
                let converted = grammar::example_to_schema(part).map_err(refused)?;
                Ok(Some(schema::place(whole, at, converted.as_ref().unwrap_or(part))))
            }
            (Some(_), ..) => {
                let message = format!(
                    "the stage `{}` has a schema of its own, without a place for another; leave `schema` out, or the stage",
                    stage.name
                );
                Err(invalid("schema", message))
            }
        }
    }

    fn stop_strings(&self, stage: Option<&Stage>, json: bool) -> Result<Vec<String>, ApiError> {
        let stop = match (&self.stop, stage) {
            (Some(Stop::One(text)), _) => vec![text.clone()],
            (Some(Stop::Many(texts)), _) => texts.clone(),
            (None, Some(stage)) => stage.stop.clone(),
            (None, None) => Vec::new(),
        };
        let (count, len) = MAX_STOP;
        if stop.len() > count {
            return Err(invalid(
                "stop",
                format!("stop has {} texts, more than {count}", stop.len()),
            ));
        }
        if stop.iter().any(|text| text.is_empty() || text.len() > len) {
            return Err(invalid(
                "stop",
                format!("a text of stop is empty or longer than {len} bytes"),
            ));
        }
        if json && !stop.is_empty() {
            let message = "stop would break an answer that has to fit a schema; leave it out";
            return Err(invalid("stop", message));
        }
        Ok(stop)
    }

    /// What was asked for, as far as the context goes.
    fn max_tokens(
        &self,
        stage: Option<&Stage>,
        prompt: usize,
        served: &Served,
    ) -> Result<usize, ApiError> {
        let context = served.context;
        if prompt >= context {
            let message = format!(
                "the prompt takes {prompt} tokens, but the context ends at {context}; shorten it: it is never cut"
            );
            let error = ApiError::invalid("prompt".to_owned(), message);
            return Err(error.with_code("context_length_exceeded"));
        }
        if self.max_tokens == Some(0) {
            let message = "max_tokens is 0, but must be at least 1";
            return Err(invalid("max_tokens", message));
        }
        let limit = served.max_tokens_limit.unwrap_or(usize::MAX);
        if let Some(asked) = self.max_tokens
            && asked > limit
        {
            return Err(beyond_limit("max_tokens", asked, limit));
        }
        let asked = self.max_tokens.or(stage.and_then(|stage| stage.max_tokens));
        Ok(asked.unwrap_or(usize::MAX).min(limit).min(context - prompt))
    }

    fn sampling(
        &self,
        stage: Option<&Stage>,
        served: &Served,
    ) -> Result<engine::SamplingParams, ApiError> {
        let default = stage.map(|stage| stage.sampling.clone()).unwrap_or_default();
        let fields = SamplingFields {
            temperature: self.temperature.or(default.temperature),
            top_k: self.top_k.or(default.top_k),
            top_p: self.top_p.or(default.top_p),
            min_p: self.min_p.or(default.min_p),
            repetition_penalty: self.repetition_penalty.or(default.repetition_penalty),
            frequency_penalty: self.frequency_penalty.or(default.frequency_penalty),
            presence_penalty: self.presence_penalty.or(default.presence_penalty),
            penalize_prompt: self.penalize_prompt.or(default.penalize_prompt),
            seed: self.seed.or(default.seed),
        };
        crate::sampling::resolve(&fields, &served.generation)
    }
}

/// A field whose value makes no sense.
fn invalid(param: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid(param.to_owned(), message).with_code("invalid_value")
}

/// The stage that a request names, with all that it needs.
fn find<'a>(context: &Context, stages: &'a Stages) -> Result<Option<&'a Stage>, ApiError> {
    let Some(name) = &context.stage else { return Ok(None) };
    let Some(stage) = stages.get(name) else {
        let names: Vec<&str> = stages.names().collect();
        let message = format!("there is no stage `{name}`; there are {}", names.join(", "));
        let error = ApiError::invalid("context.stage".to_owned(), message);
        return Err(error.with_code("unknown_stage"));
    };
    let missing: Vec<&ContextField> = stage.needs.iter().filter(|f| !context.has(**f)).collect();
    let Some(first) = missing.first() else { return Ok(Some(stage)) };
    let names: Vec<String> = missing.iter().map(|field| format!("context.{field}")).collect();
    let message = format!("the stage `{name}` needs {}", names.join(" and "));
    let error = ApiError::invalid(format!("context.{first}"), message);
    Err(error.with_code("missing_parameter"))
}

fn check_count(context: &Context) -> Result<(), ApiError> {
    match (context.action_count, &context.actions) {
        (Some(count), Some(actions)) if count != actions.len() => {
            let message = format!("action_count is {count}, but actions has {}", actions.len());
            Err(invalid("context.action_count", message))
        }
        _ => Ok(()),
    }
}

/// Tokens of a text as a user's message, or of the text alone where the model has no template.
pub(crate) fn encode_chat(served: &Served, text: &str) -> model::Result<Vec<u32>> {
    let Some(template) = &served.template else { return served.tokenizer.encode(text) };
    let messages = [json!({ "role": "user", "content": text })];
    let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
    served.tokenizer.encode_chat(&template.render(chat)?)
}

impl Prepared {
    /// What is wrong with the schema, in the words and places of the one who sent it.
    pub(crate) fn schema_error(&self, error: &GrammarError) -> ApiError {
        schema_error(error, self.schema_at.as_deref())
    }
}

fn schema_error(error: &GrammarError, at: Option<&str>) -> ApiError {
    let message = match (error, at) {
        (GrammarError::Failed(_), _) => return ApiError::internal(error.to_string()),
        (GrammarError::Schema { path, reason }, Some(at)) => {
            format!("schema: {}: {reason}", schema::place_in_part(path, at))
        }
        (error, _) => format!("schema: {error}"),
    };
    ApiError::invalid("schema".to_owned(), message).with_code("unsupported_schema")
}
