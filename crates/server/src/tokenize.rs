//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::ErrorBody;
use crate::extract::JsonBody;
use crate::openai::{Message, Tool, chat_text};
use crate::{ApiError, App, Served};

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(tokenize)).routes(routes!(detokenize))
}

/// A text or a chat whose tokens are asked for.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// Name of the model; it may be absent.
    pub(crate) model: Option<String>,
    /// The text. `prompt` is the same.
    #[serde(alias = "prompt")]
    pub(crate) text: Option<String>,
    /// A chat, instead of a text: the chat template is applied.
    pub(crate) messages: Option<Vec<Message>>,
    /// Tools of the chat.
    pub(crate) tools: Option<Vec<Tool>>,
    /// Whether the tokens come that begin, and maybe end, a text; true if absent. Chat templates write their own.
    pub(crate) add_special_tokens: Option<bool>,
    /// Whether the chat ends with the beginning of an answer; true if absent.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Variables of the chat template.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether the text of each token is answered as well.
    pub(crate) return_token_strs: Option<bool>,
}

/// The tokens of a text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    /// Their ids.
    pub(crate) tokens: Vec<u32>,
    /// How many they are.
    pub(crate) count: usize,
    /// Most tokens of a request, prompt and answer together.
    pub(crate) max_model_len: usize,
    /// Their texts as the vocabulary has them, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_strs: Option<Vec<String>>,
}

/// Tokens whose text is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// Name of the model; it may be absent.
    pub(crate) model: Option<String>,
    /// Ids of the tokens.
    pub(crate) tokens: Vec<u32>,
    /// Whether special tokens are left out; false if absent.
    pub(crate) skip_special_tokens: Option<bool>,
}

/// The text of tokens.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    /// The text.
    pub(crate) text: String,
}

/// The tokens of a text or a chat
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "tokens",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = Tokenized),
        (status = 400, description = "A request that makes no sense", body = ErrorBody),
        (status = 404, description = "Another model", body = ErrorBody),
        (status = 503, description = "The model is not ready", body = ErrorBody),
    )
)]
async fn tokenize(
    State(app): State<App>,
    JsonBody(request): JsonBody<TokenizeRequest>,
) -> Result<Json<Tokenized>, ApiError> {
    let served = served(&app, request.model.as_deref())?;
    app.blocking(move || tokens(&served, request)).await.map(Json)
}

/// The text of tokens
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = Detokenized),
        (status = 400, description = "A request that makes no sense", body = ErrorBody),
        (status = 404, description = "Another model", body = ErrorBody),
        (status = 503, description = "The model is not ready", body = ErrorBody),
    )
)]
async fn detokenize(
    State(app): State<App>,
    JsonBody(request): JsonBody<DetokenizeRequest>,
) -> Result<Json<Detokenized>, ApiError> {
    let served = served(&app, request.model.as_deref())?;
    app.blocking(move || text(&served, &request)).await.map(Json)
}

fn served(app: &App, model: Option<&str>) -> Result<Arc<Served>, ApiError> {
    match model {
        Some(model) => crate::openai::served(app, model).cloned(),
        None => app.served().cloned(),
    }
}

fn tokens(served: &Served, request: TokenizeRequest) -> Result<Tokenized, ApiError> {
    let tokenizer = &served.tokenizer;
    let TokenizeRequest { add_special_tokens, add_generation_prompt, .. } = request;
    let only_chat = |param: &str| {
        Err(ApiError::invalid(param.to_owned(), format!("`{param}` needs `messages`")))
    };
    let tokens = match (request.text, request.messages) {
        (Some(_), None) if add_generation_prompt.is_some() => {
            return only_chat("add_generation_prompt");
        }
        (Some(_), None) if request.tools.is_some() => return only_chat("tools"),
        (Some(_), None) if request.chat_template_kwargs.is_some() => {
            return only_chat("chat_template_kwargs");
        }
        (Some(text), None) if add_special_tokens.unwrap_or(true) => tokenizer.encode(&text),
        (Some(text), None) => tokenizer.encode_plain(&text),
        (None, Some(_)) if add_special_tokens == Some(true) => {
            let message =
                "`add_special_tokens` cannot be had with `messages`: the chat template writes them";
            return Err(ApiError::invalid("add_special_tokens".to_owned(), message));
        }
        (None, Some(messages)) => {
            let tools = request.tools.unwrap_or_default();
            let variables = request.chat_template_kwargs.unwrap_or_default();
            let generation_prompt = add_generation_prompt.unwrap_or(true);
            let text = chat_text(served, &messages, &tools, variables, generation_prompt)?;
            tokenizer.encode_chat(&text)
        }
        _ => {
            let message = "give `text` or `messages`, one of them";
            return Err(ApiError::invalid("text".to_owned(), message));
        }
    };
    let tokens = tokens.map_err(|error| ApiError::internal(error.to_string()))?;
    let name = |&id: &u32| tokenizer.id_to_token(id).unwrap_or_default();
    let token_strs = request.return_token_strs.unwrap_or(false);
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: served.context,
        token_strs: token_strs.then(|| tokens.iter().map(name).collect()),
        tokens,
    })
}

fn text(served: &Served, request: &DetokenizeRequest) -> Result<Detokenized, ApiError> {
    let tokenizer = &served.tokenizer;
    let unknown = request.tokens.iter().position(|&id| tokenizer.id_to_token(id).is_none());
    if let Some(index) = unknown {
        let param = format!("tokens[{index}]");
        let message =
            format!("`{param}` is {}, which is no token of this model", request.tokens[index]);
        return Err(ApiError::invalid(param, message));
    }
    let skip = request.skip_special_tokens.unwrap_or(false);
    let text = tokenizer.decode(&request.tokens, skip);
    Ok(Detokenized { text: text.map_err(|error| ApiError::internal(error.to_string()))? })
}
