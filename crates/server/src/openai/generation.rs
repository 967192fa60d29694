//! What chat, completions and responses have in common: from checked fields to requests of the engine.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use engine::{Request, SamplingFields};
use grammar::{Grammar, GrammarError};
use serde::Serialize;
use utoipa::ToSchema;

use super::structured::Constraint;
use crate::{Answer, ApiError, App, Served, sampling};

/// Most answers of a request.
pub(super) const MAX_CHOICES: usize = 128;

/// Header with the sampling parameters in force, the seed among them.
const PARAMETERS_HEADER: &str = "x-halfbyte-parameters";

/// How an answer is generated.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// Most tokens; `None`: what the context leaves.
    pub(super) max_tokens: Option<usize>,
    /// What is meant where a request does not say, if that is not what the context leaves.
    pub(super) default_max_tokens: Option<usize>,
    /// The field that says so.
    pub(super) max_tokens_param: &'static str,
    pub(super) sampling: SamplingFields,
    pub(super) stop: Vec<String>,
    pub(super) stop_token_ids: Vec<u32>,
    pub(super) ignore_eos: bool,
    pub(super) top_logprobs: usize,
    pub(super) prompt_logprobs_from: Option<usize>,
    pub(super) priority: i32,
}

/// The model that is served, if it is the one that is asked for.
///
/// # Errors
/// 404 for another model, 503 while none is served.
pub(crate) fn served<'a>(app: &'a App, model: &str) -> Result<&'a Arc<Served>, ApiError> {
    let served = app.served()?;
    if served.answers_to(model) {
        return Ok(served);
    }
    Err(ApiError {
        status: StatusCode::NOT_FOUND,
        ..ApiError::invalid(
            "model".to_owned(),
            format!("the model `{model}` is not served here; `{}` is", served.name),
        )
        .with_code("model_not_found")
    })
}

/// Requests of one prompt, `n` of them, with seeds that follow each other: answer `i` is what `seed + i` alone gives.
///
/// # Errors
/// 400 where prompt and answer do not fit into the context, and for parameters out of range.
pub(super) fn requests(
    served: &Served,
    prompt: &[u32],
    n: usize,
    options: &Options,
    grammar: Option<&Grammar>,
) -> Result<Vec<Request>, ApiError> {
    let max_tokens = max_tokens(prompt.len(), options, served.context, served.max_tokens_limit)?;
    let mut eos_token_id = options.stop_token_ids.clone();
    if !options.ignore_eos {
        eos_token_id.extend(&served.generation.eos_token_id);
    }
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: sampling::resolve(&options.sampling, &served.generation)?,
        stop: options.stop.clone(),
        eos_token_id,
        top_logprobs: options.top_logprobs,
        grammar: grammar.cloned(),
        prompt_logprobs_from: options.prompt_logprobs_from,
        priority: options.priority,
        deadline: None,
    };
    let with_seed = |i: usize| {
        let mut request = request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(i as u64);
        request
    };
    Ok((0..n).map(with_seed).collect())
}

/// Most tokens of the answer. Nothing is cut: what cannot fit is refused.
fn max_tokens(
    prompt: usize,
    options: &Options,
    context: usize,
    limit: Option<usize>,
) -> Result<usize, ApiError> {
    if let (Some(asked), Some(limit)) = (options.max_tokens, limit)
        && asked > limit
    {
        return Err(beyond_limit(options.max_tokens_param, asked, limit));
    }
    let limit = limit.unwrap_or(usize::MAX);
    let asked = options.max_tokens.or(options.default_max_tokens.map(|tokens| tokens.min(limit)));
    let room = context.saturating_sub(prompt);
    let too_long = |message: String| {
        Err(ApiError::invalid(None, message).with_code("context_length_exceeded"))
    };
    match asked {
        _ if room == 0 => too_long(format!(
            "the prompt takes {prompt} tokens, but the context ends at {context}, and the answer has to fit as well; shorten the prompt"
        )),
        None => Ok(room.min(limit)),
        Some(asked) if asked > room => too_long(format!(
            "the prompt takes {prompt} tokens and the answer may take {asked}, together {}, but the context ends at \
             {context}; shorten the prompt, or lower `{}`",
            prompt.saturating_add(asked),
            options.max_tokens_param
        )),
        Some(asked) => Ok(asked),
    }
}

/// A request asks for more tokens than the server gives anybody.
pub(crate) fn beyond_limit(param: &str, asked: usize, limit: usize) -> ApiError {
    let message = format!(
        "`{param}` is {asked}, but answers of this server have {limit} tokens at most (--max-tokens-limit); lower it"
    );
    ApiError::invalid(param.to_owned(), message).with_code("max_tokens_too_large")
}

/// The compiled form of a constraint.
///
/// # Errors
/// 400 with what in it is not supported.
pub(super) async fn grammar(
    app: &App,
    served: &Served,
    constraint: Option<Constraint>,
) -> Result<Option<Grammar>, ApiError> {
    let Some(Constraint { param, spec }) = constraint else { return Ok(None) };
    match app.grammars().get(&served.vocabulary, spec).await {
        Ok(grammar) => Ok(Some(grammar)),
        Err(error @ GrammarError::Failed(_)) => Err(ApiError::internal(error.to_string())),
        Err(error) => {
            let message = format!("`{param}`: {error}");
            Err(ApiError::invalid(param, message).with_code("unsupported_constraint"))
        }
    }
}

/// Hands requests to the engine. Should one be refused, those before it are cancelled.
///
/// # Errors
/// What the engine refuses; `budget` and lengths are 400, a full queue is 429.
pub(super) async fn submit(
    served: &Served,
    requests: Vec<Request>,
) -> Result<Vec<Answer>, ApiError> {
    // All at once: each is taken between two steps, and n steps are long.
    let taken = requests.into_iter().map(|request| served.engine.submit(request));
    futures_util::future::try_join_all(taken).await
}

/// Adds the sampling parameters in force to an answer.
pub(super) fn note_parameters(mut response: Response, request: &Request) -> Response {
    let mut parameters = sampling::effective(request);
    if let Some(map) = parameters.as_object_mut() {
        // Texts of the client's do not belong into headers.
        map.shift_remove("stop");
    }
    if let Ok(value) = HeaderValue::from_str(&parameters.to_string()) {
        response.headers_mut().insert(PARAMETERS_HEADER, value);
    }
    response
}

/// An error of tokenizer or template that is no fault of the client's.
pub(super) fn of_model(error: &model::ModelError) -> ApiError {
    ApiError::internal(error.to_string())
}

/// Tokens that a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, once, whatever the number of answers.
    pub prompt_tokens: usize,
    /// Tokens that were generated, of all answers together.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// More about the prompt's.
    pub prompt_tokens_details: PromptTokens,
}

/// More about the tokens of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokens {
    /// Tokens that were in the cache already.
    pub cached_tokens: usize,
}

impl Usage {
    /// Adds an answer. `first`: it is the first of its prompt.
    pub(super) fn add(&mut self, completion: &engine::Completion, first: bool) {
        let cached = &mut self.prompt_tokens_details.cached_tokens;
        if first {
            self.prompt_tokens += completion.prompt_tokens;
            *cached += completion.cached_tokens;
        }
        self.completion_tokens += completion.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(prompt: usize, asked: Option<usize>, expected: &Expect) {
        check_limited(prompt, asked, None, expected);
    }

    fn check_limited(prompt: usize, asked: Option<usize>, limit: Option<usize>, expected: &Expect) {
        let options = Options {
            max_tokens: asked,
            max_tokens_param: "max_completion_tokens",
            ..Options::default()
        };
        let text = match max_tokens(prompt, &options, 100, limit) {
            Ok(tokens) => tokens.to_string(),
            Err(error) => format!("{:?}: {}", error.code, error.message),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn nothing_is_cut() {
        check(10, None, &expect!["90"]);
        check(10, Some(90), &expect!["90"]);
        check(99, None, &expect!["1"]);
        check(
            10,
            Some(91),
            &expect![[
                r#"Some("context_length_exceeded"): the prompt takes 10 tokens and the answer may take 91, together 101, but the context ends at 100; shorten the prompt, or lower `max_completion_tokens`"#
            ]],
        );
        check(
            100,
            Some(1),
            &expect![[
                r#"Some("context_length_exceeded"): the prompt takes 100 tokens, but the context ends at 100, and the answer has to fit as well; shorten the prompt"#
            ]],
        );
        check(
            100,
            None,
            &expect![[
                r#"Some("context_length_exceeded"): the prompt takes 100 tokens, but the context ends at 100, and the answer has to fit as well; shorten the prompt"#
            ]],
        );
    }

    #[test]
    fn a_limit_refuses_what_is_asked_for_and_bounds_what_is_not() {
        check_limited(10, None, Some(20), &expect!["20"]);
        check_limited(90, None, Some(20), &expect!["10"]);
        check_limited(10, Some(20), Some(20), &expect!["20"]);
        check_limited(
            10,
            Some(21),
            Some(20),
            &expect![[
                r#"Some("max_tokens_too_large"): `max_completion_tokens` is 21, but answers of this server have 20 tokens at most (--max-tokens-limit); lower it"#
            ]],
        );
        let options = Options { default_max_tokens: Some(16), ..Options::default() };
        assert_eq!(max_tokens(10, &options, 100, Some(5)), Ok(5));
        assert_eq!(max_tokens(10, &options, 100, None), Ok(16));
    }
}
