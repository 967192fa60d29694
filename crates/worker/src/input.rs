//! What a job asks for: the inputs of the service that this replaces, of the widely used vLLM worker, and plain ones.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::service::Refusal;

/// A request to the service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) path: String,
    /// What is posted; without it the path is only asked for.
    pub(crate) body: Option<Value>,
    /// An API key that the caller gave.
    pub(crate) key: Option<String>,
    pub(crate) pieces: Pieces,
    /// Whether the body says which model is meant, where one has to: a worker has but one.
    pub(crate) names_model: bool,
    pub(crate) callback: Option<Callback>,
}

/// How the pieces of a streamed answer go to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pieces {
    /// As the events' data.
    Data,
    /// As text, a server-sent event each: the platform passes it on to clients of OpenAI's API.
    Text,
}

/// Whom to tell besides the platform.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Callback {
    pub(crate) url: String,
    pub(crate) key: Option<String>,
}

/// The key is a secret.
impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callback").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why an input is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InputError {
    /// What is wrong, and what to send.
    pub message: String,
    /// The field at fault.
    pub param: String,
}

impl From<InputError> for Refusal {
    fn from(InputError { message, param }: InputError) -> Self {
        let error = json!({ "message": message, "type": "invalid_request_error", "param": param, "code": "bad_input" });
        Refusal { status: 400, error }
    }
}

/// The input of the service that this replaces.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    endpoint: String,
    data: Option<Value>,
    api_key: Option<String>,
    callback_url: Option<String>,
    callback_api_key: Option<String>,
}

/// The vLLM worker's, for OpenAI's API.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAi {
    openai_route: String,
    openai_input: Option<Value>,
}

/// The vLLM worker's, for any route.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Route {
    route: String,
    body: Option<Value>,
    method: Option<String>,
}

impl Call {
    /// Tells the kinds of input apart by the field that only one of them has.
    ///
    /// # Errors
    /// [`InputError`]: no field is ignored.
    pub(crate) fn of(input: Value) -> Result<Call, InputError> {
        let Value::Object(fields) = input else {
            return Err(error(
                "input",
                "`input` is an object with `endpoint`, `openai_route`, `route`, `prompt` or `messages`",
            ));
        };
        let has = |name: &str| fields.contains_key(name);
        if has("endpoint") {
            return parse(fields).and_then(Call::of_endpoint);
        }
        if has("openai_route") {
            return parse(fields).and_then(Call::of_openai);
        }
        if has("route") {
            return parse(fields).and_then(Call::of_route);
        }
        if has("messages") {
            return Ok(Call {
                names_model: has("model"),
                ..Call::of_fields("/v1/chat/completions", fields)?
            });
        }
        if has("prompt") {
            return Call::of_fields("/prompt", fields);
        }
        Err(error(
            "input",
            "`input` has none of `endpoint`, `openai_route`, `route`, `prompt` and `messages`, one of which says what is wanted",
        ))
    }

    fn of_endpoint(input: Endpoint) -> Result<Call, InputError> {
        let Endpoint { endpoint, data, api_key, callback_url, callback_api_key } = input;
        if callback_url.is_none() && callback_api_key.is_some() {
            return Err(error(
                "callback_api_key",
                "`callback_api_key` is for `callback_url`, which is missing",
            ));
        }
        let callback = callback_url.map(|url| Callback { url, key: callback_api_key });
        let call = Call::new("endpoint", &endpoint, data)?;
        Ok(Call { key: api_key, callback, ..call })
    }

    fn of_openai(input: OpenAi) -> Result<Call, InputError> {
        let call = Call::new("openai_route", &input.openai_route, input.openai_input)?;
        Ok(Call { pieces: Pieces::Text, ..call })
    }

    fn of_route(input: Route) -> Result<Call, InputError> {
        let Route { route, body, method } = input;
        let method = method.map(|method| method.to_ascii_uppercase());
        match (method.as_deref(), &body) {
            (None, _) | (Some("POST"), Some(_)) | (Some("GET"), None) => {
                Call::new("route", &route, body)
            }
            (Some("POST"), None) => Err(error("body", "POST needs a `body`")),
            (Some("GET"), Some(_)) => Err(error("body", "GET takes no `body`")),
            (Some(other), _) => Err(error("method", &format!("`{other}` is neither GET nor POST"))),
        }
    }

    /// The fields are the request's own; those of `sampling_params`, too.
    fn of_fields(path: &str, mut fields: Map<String, Value>) -> Result<Call, InputError> {
        match fields.remove("sampling_params") {
            None | Some(Value::Null) => {}
            Some(Value::Object(sampling)) => {
                for (name, value) in sampling {
                    if fields.contains_key(&name) {
                        let message = format!(
                            "`{name}` stands in `input` and in `sampling_params`; give it once"
                        );
                        return Err(error(&name, &message));
                    }
                    fields.insert(name, value);
                }
            }
            Some(_) => return Err(error("sampling_params", "`sampling_params` is an object")),
        }
        Call::new("input", path, Some(Value::Object(fields)))
    }

    fn new(param: &str, path: &str, body: Option<Value>) -> Result<Call, InputError> {
        let is_path = path.starts_with('/')
            && path.len() <= 256
            && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.".contains(&b));
        if !is_path {
            return Err(error(param, &format!("`{path}` is no path, as `/prompt` is")));
        }
        let body = body.filter(|body| !body.is_null());
        Ok(Call {
            path: path.to_owned(),
            body,
            key: None,
            pieces: Pieces::Data,
            names_model: true,
            callback: None,
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(fields: Map<String, Value>) -> Result<T, InputError> {
    serde_json::from_value(Value::Object(fields))
        .map_err(|why| error("input", &format!("`input`: {why}")))
}

fn error(param: &str, message: &str) -> InputError {
    InputError { message: message.to_owned(), param: param.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(input: Value) -> Call {
        Call::of(input).unwrap()
    }

    #[track_caller]
    fn check(input: Value, path: &str, body: Value, pieces: Pieces) {
        let call = call(input);
        let body = Some(body).filter(|body| !body.is_null());
        assert_eq!((call.path.as_str(), call.body, call.pieces), (path, body, pieces));
    }

    #[test]
    fn all_kinds_of_input_are_told_apart() {
        let ask = json!({"prompt": "x"});
        check(json!({"endpoint": "/prompt", "data": ask}), "/prompt", ask.clone(), Pieces::Data);
        check(json!({"endpoint": "/health"}), "/health", Value::Null, Pieces::Data);
        check(json!({"endpoint": "/health", "data": null}), "/health", Value::Null, Pieces::Data);
        let chat = "/v1/chat/completions";
        check(json!({"openai_route": chat, "openai_input": ask}), chat, ask.clone(), Pieces::Text);
        check(json!({"openai_route": "/v1/models"}), "/v1/models", Value::Null, Pieces::Text);
        check(
            json!({"route": "/classify", "body": ask, "method": "post"}),
            "/classify",
            ask.clone(),
            Pieces::Data,
        );
        let sampling = json!({"prompt": "x", "sampling_params": {"max_tokens": 3}, "stream": true});
        check(
            sampling,
            "/prompt",
            json!({"prompt": "x", "stream": true, "max_tokens": 3}),
            Pieces::Data,
        );
        let messages = json!({"messages": [{"role": "user", "content": "x"}], "temperature": 0});
        assert!(!call(messages.clone()).names_model && call(json!({"route": "/x"})).names_model);
        check(messages.clone(), chat, messages, Pieces::Data);
    }

    #[test]
    fn callbacks_and_keys_come_along() {
        let input = json!({
            "endpoint": "/prompt", "data": {}, "api_key": "k", "callback_url": "https://c", "callback_api_key": "s",
        });
        let call = call(input);
        assert_eq!(call.key.as_deref(), Some("k"));
        let callback = call.callback.unwrap();
        assert_eq!((callback.url.as_str(), callback.key.as_deref()), ("https://c", Some("s")));
        assert!(
            !format!("{callback:?}").contains('s') || !format!("{callback:?}").contains("\"s\"")
        );
    }

    #[test]
    fn nothing_is_ignored() {
        let check = |input: Value, param: &str, part: &str| {
            let error = Call::of(input).unwrap_err();
            assert_eq!(error.param, param, "{error}");
            assert!(error.message.contains(part), "{error}");
        };
        check(json!(null), "input", "is an object");
        check(json!({}), "input", "none of `endpoint`");
        check(json!({"endpoint": "/prompt", "dat": {}}), "input", "unknown field `dat`");
        check(json!({"endpoint": "prompt"}), "endpoint", "no path");
        check(json!({"endpoint": "/prompt?x=1"}), "endpoint", "no path");
        check(
            json!({"endpoint": "/health", "callback_api_key": "k"}),
            "callback_api_key",
            "callback_url",
        );
        check(json!({"route": "/x", "method": "DELETE"}), "method", "neither GET nor POST");
        check(json!({"route": "/x", "method": "POST"}), "body", "needs a `body`");
        check(json!({"route": "/x", "method": "GET", "body": {}}), "body", "takes no `body`");
        check(json!({"prompt": "x", "sampling_params": 1}), "sampling_params", "an object");
        let twice = json!({"prompt": "x", "seed": 1, "sampling_params": {"seed": 2}});
        check(twice, "seed", "give it once");
    }
}
