//! Fields: what the model is asked, and what of its answers the document bears out.

use std::ops::Range;
use std::sync::Arc;

use engine::{Event, FinishReason, Request, SamplingParams};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use grammar::{Grammar, Spec};
use serde_json::Value;

use ::extract::Document;
use ::extract::fields::{Fields, Part};

use super::response::Filled;
use super::{Progress, Told};
use crate::openai::beyond_limit;
use crate::prompt::encode_chat;
use crate::{ApiError, App, Served};

/// Most tokens of an answer, unasked.
const MAX_TOKENS: usize = 2048;

/// Parts of a document that are asked about at once.
const AT_ONCE: usize = 4;

/// Compiles what answers have to fit.
pub(super) async fn grammar(
    app: &App,
    served: &Served,
    fields: &Fields,
) -> Result<Grammar, ApiError> {
    let spec = Spec::JsonSchema { schema: fields.schema().clone(), open: false };
    let compiled = app.grammars().get(&served.vocabulary, spec).await;
    compiled.map_err(|error| {
        ApiError::invalid("schema".to_owned(), format!("schema: {error}"))
            .with_code("unsupported_schema")
    })
}

/// What goes for all parts of a document.
pub(super) struct Asking<'a> {
    pub(super) app: &'a App,
    pub(super) served: &'a Arc<Served>,
    pub(super) fields: Arc<Fields>,
    pub(super) grammar: Grammar,
}

/// What the model said of a part.
struct Said {
    pages: Range<usize>,
    value: Value,
    is_short: bool,
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl Asking<'_> {
    /// Fills in the fields of a document.
    pub(super) async fn fill(
        &self,
        document: &Arc<Document>,
        max_tokens: Option<usize>,
        progress: &Progress,
    ) -> Result<Filled, ApiError> {
        let context = self.served.context;
        let limit = self.served.max_tokens_limit.unwrap_or(usize::MAX);
        if let Some(asked) = max_tokens
            && asked > limit
        {
            return Err(beyond_limit("max_tokens", asked, limit));
        }
        let max_tokens = max_tokens.unwrap_or((context / 3).min(MAX_TOKENS).min(limit));
        if max_tokens == 0 || max_tokens >= context {
            let message = format!(
                "max_tokens is {max_tokens}, but must be at least 1 and below the context of {context}"
            );
            return Err(ApiError::invalid("max_tokens".to_owned(), message));
        }
        let parts = self.parts(document, context - max_tokens).await?;
        let count = parts.len();
        progress.tell(Told::Fields { parts_done: 0, parts: count });
        let answers = stream::iter(parts).map(|(part, prompt)| self.ask(part, prompt, max_tokens));
        let mut answers = answers.buffered(AT_ONCE);
        let mut said = Vec::new();
        while let Some(one) = answers.try_next().await? {
            said.push(one);
            progress.tell(Told::Fields { parts_done: said.len(), parts: count });
        }
        let (prompt_tokens, completion_tokens) =
            said.iter().fold((0, 0), |(prompt, completion), one| {
                (prompt + one.prompt_tokens, completion + one.completion_tokens)
            });
        let is_short = said.iter().any(|one| one.is_short);
        let (fields, document) = (Arc::clone(&self.fields), Arc::clone(document));
        let rules = Arc::clone(&self.app.config().documents.rules);
        let grounded = tokio::task::spawn_blocking(move || {
            let said = said.into_iter().map(|one| (one.pages, one.value)).collect();
            let grounded = fields.ground_parts(&document, said);
            let checks = rules.check(&grounded.fields, grounded.written);
            (grounded, checks)
        });
        let (grounded, checks) =
            grounded.await.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Filled {
            grounded,
            checks,
            parts: count,
            finish_reason: if is_short { "length" } else { "stop" },
            prompt_tokens,
            completion_tokens,
        })
    }

    /// The parts that fit the context, with their tokens.
    async fn parts(
        &self,
        document: &Arc<Document>,
        room: usize,
    ) -> Result<Vec<(Part, Vec<u32>)>, ApiError> {
        let (served, fields) = (Arc::clone(self.served), Arc::clone(&self.fields));
        let document = Arc::clone(document);
        // Tokens of a long document take milliseconds, in which others want to be heard.
        let parts = self.app.blocking(move || {
            let wrong = |error: model::ModelError| ApiError::of_engine(&error.into());
            let (mut failed, mut far_too_long) = (None, None);
            let mut tokens = |message: &str| {
                if let Err(error) = served.check_length(message) {
                    far_too_long = Some(ApiError { param: Some("file".to_owned()), ..error });
                    return usize::MAX;
                }
                encode_chat(&served, message).map(|tokens| tokens.len()).unwrap_or_else(|error| {
                    failed.get_or_insert(error);
                    0
                })
            };
            let parts = Fields::parts(&document, room, &|text| fields.message(text), &mut tokens);
            if let Some(error) = failed {
                return Err(wrong(error));
            }
            let parts = parts.map_err(|error| match far_too_long {
                Some(far) if error.tokens == usize::MAX => far,
                _ => ApiError::invalid("file".to_owned(), error.to_string())
                    .with_code("context_length_exceeded"),
            })?;
            let with_tokens = |part: Part| -> Result<(Part, Vec<u32>), ApiError> {
                let tokens = encode_chat(&served, &part.message).map_err(wrong)?;
                Ok((part, tokens))
            };
            parts.into_iter().map(with_tokens).collect()
        });
        parts.await
    }

    async fn ask(&self, part: Part, prompt: Vec<u32>, max_tokens: usize) -> Result<Said, ApiError> {
        let request = Request {
            prompt,
            max_tokens,
            sampling: SamplingParams::default(),
            eos_token_id: self.served.generation.eos_token_id.clone(),
            grammar: Some(self.grammar.clone()),
            ..Request::default()
        };
        let mut answer = self.served.engine.submit(request).await?;
        loop {
            match answer.next().await {
                Some(Event::Finished(completion)) => {
                    let value = serde_json::from_str(&completion.text).map_err(|error| {
                        ApiError::internal(format!("the model's answer is not JSON: {error}"))
                    })?;
                    return Ok(Said {
                        pages: part.pages,
                        value,
                        is_short: completion.finish_reason == FinishReason::Length,
                        prompt_tokens: completion.prompt_tokens,
                        completion_tokens: completion.completion_tokens,
                    });
                }
                Some(Event::Failed(error)) => return Err(ApiError::of_engine(&error)),
                Some(Event::Prefill { .. } | Event::PromptLogprobs(_) | Event::Token(_)) => {}
                None => return Err(ApiError::engine_gone()),
            }
        }
    }
}
