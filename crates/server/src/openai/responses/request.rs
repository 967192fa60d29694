//! What is asked of `/v1/responses`.

use std::fmt;

use engine::SamplingFields;
use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::ApiError;
use crate::openai::body::{self, Body, Unsupported};
use crate::openai::dialogue::Dialogue;
use crate::openai::generation::Options;
use crate::openai::harmless;
use crate::openai::message::{self, Content, Message, plain};
use crate::openai::structured::{Constraint, JsonSchemaFormat, format_spec};
use crate::openai::tools::{Function, FunctionCall, Tool, ToolCall, ToolChoice, Toolbox};

/// Why nothing of an earlier request can be referred to.
const STATELESS: &str =
    "this server keeps nothing between requests: send the whole conversation as `input`";

/// A conversation whose next turn is asked for. The server keeps nothing: each request holds the whole of it.
///
/// Where a sampling parameter is absent, the model's `generation_config.json` decides, else the likeliest token is taken.
/// Fields that OpenAI has and this server has not are an error; unknown ones are listed in the header
/// `x-halfbyte-unknown-parameters`. Null is the same as nothing.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// Name of the model.
    pub model: String,
    /// What the user says, or the conversation so far.
    pub input: Input,
    /// What the model is told before.
    pub instructions: Option<String>,
    /// Most tokens of the answer; without it, what the context leaves.
    pub max_output_tokens: Option<u32>,
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
    /// The same seed gives the same answer.
    pub seed: Option<i64>,
    /// The form of the answer.
    pub text: Option<TextOptions>,
    /// Functions that the model may call.
    pub tools: Option<Vec<FunctionTool>>,
    /// Whether it may, must, or must not; and which.
    pub tool_choice: Option<ToolChoice>,
    /// Whether several may be called in one answer; true if absent.
    pub parallel_tool_calls: Option<bool>,
    /// Whether the answer comes as server-sent events.
    pub stream: Option<bool>,
    /// Variables of the chat template, as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Requests of a higher one go first; 0 if absent.
    pub priority: Option<i32>,
    /// Comes back with the answer.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Who asks; comes back with the answer.
    pub user: Option<String>,
}

/// A text of the user's, or a conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Input {
    /// A text.
    Text(String),
    /// A conversation.
    Items(Vec<InputItem>),
}

/// An item of a conversation: a message, a call of a function, or the result of one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct InputItem {
    /// `message`, if absent; `function_call` or `function_call_output`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a message: `system`, `developer`, `user` or `assistant`.
    pub role: Option<String>,
    /// Of a message: what is said.
    pub content: Option<Content>,
    /// Names a call.
    pub call_id: Option<String>,
    /// Of a call: the function.
    pub name: Option<String>,
    /// Of a call: the arguments, as a JSON text.
    pub arguments: Option<String>,
    /// Of a result.
    pub output: Option<Content>,
    /// Comes with answers, and means nothing here.
    pub id: Option<String>,
    /// Comes with answers, and means nothing here.
    pub status: Option<String>,
}

/// The form of a text.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct TextOptions {
    /// The form.
    pub format: Option<TextFormat>,
    /// Only `medium`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// A form of a text.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A name; it means nothing here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the answer is for; it means nothing here: tell the model in a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema, or an example of what is wanted (`{"total": "number"}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Accepted either way: answers always fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// Whether objects may have properties that the schema does not name, as the standard has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
}

/// A function that the model may call.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Letters, digits, `_`, `-` and `.`.
    pub name: Option<String>,
    /// When to call it, and what it does.
    pub description: Option<String>,
    /// JSON Schema of its arguments; without one it takes none.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Accepted either way: arguments always fit the schema.
    pub strict: Option<bool>,
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrItems;

        impl<'de> Visitor<'de> for TextOrItems {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of items")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Input, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Input::Items)
            }
        }

        deserializer.deserialize_any(TextOrItems)
    }
}

impl Body for ResponsesRequest {
    const UNSUPPORTED: &'static [Unsupported] = &[
        Unsupported::unless("store", harmless::no, STATELESS),
        Unsupported::never("previous_response_id", STATELESS),
        Unsupported::never("conversation", STATELESS),
        Unsupported::unless("background", harmless::no, STATELESS),
        Unsupported::never("prompt", "send the text itself as `input`"),
        Unsupported::never("include", "there is nothing more to include"),
        Unsupported::never("reasoning", "pass what the template knows in `chat_template_kwargs`"),
        Unsupported::unless("truncation", |v| v == "disabled", "the input is never cut"),
        Unsupported::unless(
            "top_logprobs",
            harmless::zero,
            "use /v1/chat/completions with `logprobs`",
        ),
        Unsupported::never("max_tool_calls", "no tools are run here"),
        Unsupported::never("context_management", "the input is never cut"),
        Unsupported::unless("service_tier", harmless::default_tier, "there is one tier"),
        Unsupported::accepted("stream_options"),
        Unsupported::accepted("prompt_cache_key"),
        Unsupported::accepted("prompt_cache_retention"),
        Unsupported::accepted("safety_identifier"),
    ];

    fn validate(&self) -> Result<(), ApiError> {
        self.options()?;
        self.constraint()?;
        self.dialogue().map(drop)
    }
}

impl ResponsesRequest {
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
    /// 400 for fields out of range.
    pub(super) fn options(&self) -> Result<Options, ApiError> {
        if self.max_output_tokens == Some(0) {
            let message = "`max_output_tokens` must be at least 1";
            return Err(ApiError::invalid("max_output_tokens".to_owned(), message));
        }
        Ok(Options {
            max_tokens: self.max_output_tokens.map(|tokens| tokens as usize),
            default_max_tokens: None,
            max_tokens_param: "max_output_tokens",
            sampling: SamplingFields {
                temperature: self.temperature,
                top_k: self.top_k.map(harmless::top_k).transpose()?,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                // Negative seeds are seeds too.
                seed: self.seed.map(i64::cast_unsigned),
                ..SamplingFields::default()
            },
            priority: self.priority.unwrap_or(0),
            ..Options::default()
        })
    }

    /// What the answer has to fit, calls of tools aside.
    ///
    /// # Errors
    /// 400 for a format that does not exist, and for one beside tools that may be called.
    pub(super) fn constraint(&self) -> Result<Option<Constraint>, ApiError> {
        let Some(text) = &self.text else { return Ok(None) };
        if text.verbosity.as_deref().is_some_and(|verbosity| verbosity != "medium") {
            let message = "`text.verbosity` is not supported: tell the model in a message";
            let error = ApiError::invalid("text.verbosity".to_owned(), message);
            return Err(error.with_code("unsupported_parameter"));
        }
        let Some(format) = &text.format else { return Ok(None) };
        let schema = JsonSchemaFormat {
            schema: format.schema.clone(),
            open: format.open,
            ..JsonSchemaFormat::default()
        };
        let param = "text.format";
        let Some(spec) = format_spec(param, &format.kind, Some(&schema))? else { return Ok(None) };
        harmless::constraint_alone(param, !self.toolbox()?.is_empty(), None)?;
        Ok(Some(Constraint { param: param.to_owned(), spec }))
    }

    fn toolbox(&self) -> Result<Toolbox, ApiError> {
        let tool = |tool: &FunctionTool| Tool {
            kind: tool.kind.clone(),
            function: tool.name.clone().map(|name| Function {
                name,
                description: tool.description.clone(),
                parameters: tool.parameters.clone(),
                strict: tool.strict,
            }),
        };
        let tools: Vec<Tool> = self.tools.iter().flatten().map(tool).collect();
        Toolbox::new(&tools, self.tool_choice.as_ref(), self.parallel_tool_calls)
    }

    /// The conversation for the model's template.
    ///
    /// # Errors
    /// 400 for items and tools that make no sense.
    pub(super) fn dialogue(&self) -> Result<Dialogue, ApiError> {
        let messages = match &self.input {
            Input::Text(text) => vec![plain("user", text)],
            Input::Items(items) => {
                let (messages, origins) = messages(items)?;
                message::for_template(&messages).map_err(|error| in_input(error, &origins))?
            }
        };
        let instructions = self.instructions.iter().map(|text| plain("system", text));
        Ok(Dialogue {
            messages: instructions.chain(messages).collect(),
            tools: self.toolbox()?,
            variables: self.chat_template_kwargs.clone().unwrap_or_default(),
        })
    }
}

/// Items as messages of a chat, and the item that each message began with. Calls of one turn are one message.
fn messages(items: &[InputItem]) -> Result<(Vec<Message>, Vec<usize>), ApiError> {
    let mut messages: Vec<Message> = Vec::new();
    let mut origins = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let need = |field: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| {
                let param = format!("input[{i}].{field}");
                ApiError::invalid(param.clone(), format!("`{param}` is missing"))
            })
        };
        match item.kind.as_deref().unwrap_or("message") {
            "message" => messages.push(Message {
                role: need("role", &item.role)?,
                content: item.content.clone(),
                ..Message::default()
            }),
            "function_call" => {
                let call = ToolCall {
                    id: Some(need("call_id", &item.call_id)?),
                    kind: "function".to_owned(),
                    function: FunctionCall {
                        name: need("name", &item.name)?,
                        arguments: need("arguments", &item.arguments)?,
                    },
                };
                if let Some(last) = messages.last_mut().filter(|last| last.role == "assistant") {
                    last.tool_calls.get_or_insert_default().push(call);
                    continue;
                }
                messages.push(Message {
                    role: "assistant".to_owned(),
                    tool_calls: Some(vec![call]),
                    ..Message::default()
                });
            }
            "function_call_output" => messages.push(Message {
                role: "tool".to_owned(),
                content: item.output.clone(),
                tool_call_id: Some(need("call_id", &item.call_id)?),
                ..Message::default()
            }),
            kind => {
                let param = format!("input[{i}].type");
                let message = format!(
                    "`{param}` is `{kind}`; supported are message, function_call and function_call_output"
                );
                return Err(ApiError::invalid(param, message).with_code("unsupported_content"));
            }
        }
        origins.push(i);
    }
    Ok((messages, origins))
}

/// An error of a message, told of the item that the client sent.
fn in_input(error: ApiError, origins: &[usize]) -> ApiError {
    let Some(param) = error.param.clone() else { return error };
    let place = param.strip_prefix("messages[").and_then(|rest| rest.split_once(']'));
    let item = place.and_then(|(index, rest)| {
        let item = origins.get(index.parse::<usize>().ok()?)?;
        Some(format!("input[{item}]{rest}"))
    });
    let named = item.unwrap_or_else(|| "input".to_owned());
    // What the message names may be a part of the field, or around it.
    let message = match (place_of(&param), place_of(&named)) {
        (Some(found), Some(place)) => error.message.replace(found, place),
        _ => error.message.replace(&param, &named),
    };
    ApiError { message, param: Some(named), ..error }
}

/// `messages[1]` of `messages[1].content`.
fn place_of(param: &str) -> Option<&str> {
    param.find(']').map(|end| &param[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(body: &str, expected: &Expect) {
        let text = match ResponsesRequest::from_json(body.as_bytes()) {
            Ok((request, _)) => {
                serde_json::to_string(&request.dialogue().unwrap().messages).unwrap()
            }
            Err(e) => format!("{} {:?}: {}", e.param.unwrap_or_default(), e.code, e.message),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_conversation_becomes_messages() {
        check(
            r#"{"model": "m", "input": "Hi", "instructions": "Be brief."}"#,
            &expect![[
                r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]"#
            ]],
        );
        check(
            r#"{"model": "m", "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}]},
                {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": "I add.", "annotations": []}]},
                {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{\"a\": 1}"},
                {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "2"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "3"}]}
            ]}"#,
            &expect![[
                r#"[{"role":"user","content":"1+1?"},{"role":"assistant","content":"I add.","tool_calls":[{"type":"function","id":"c1","function":{"name":"add","arguments":{"a":1}}},{"type":"function","id":"c2","function":{"name":"add","arguments":{}}}]},{"role":"tool","content":"2","tool_call_id":"c1"},{"role":"tool","content":"3","tool_call_id":"c2"}]"#
            ]],
        );
    }

    #[test]
    fn what_cannot_be_answered_is_named() {
        check(
            r#"{"model": "m", "input": "Hi", "store": true}"#,
            &expect![[
                r#"store Some("unsupported_parameter"): `store` is not supported: this server keeps nothing between requests: send the whole conversation as `input`"#
            ]],
        );
        check(
            r#"{"model": "m", "input": "Hi", "previous_response_id": "resp_1"}"#,
            &expect![[
                r#"previous_response_id Some("unsupported_parameter"): `previous_response_id` is not supported: this server keeps nothing between requests: send the whole conversation as `input`"#
            ]],
        );
        check(
            r#"{"model": "m", "input": []}"#,
            &expect!["input None: `input` is empty; say something"],
        );
        check(
            r#"{"model": "m", "input": [{"type": "reasoning", "id": "rs_1"}]}"#,
            &expect![[
                r#"input[0].type Some("unsupported_content"): `input[0].type` is `reasoning`; supported are message, function_call and function_call_output"#
            ]],
        );
        check(
            r#"{"model": "m", "input": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}"#,
            &expect![[
                r#"input[1].content[0].type Some("unsupported_content"): `input[1].content[0]` is of type `input_image`; this model reads text alone: send parts of type `text`"#
            ]],
        );
        check(
            r#"{"model": "m", "input": [{"type": "function_call_output", "output": "x"}]}"#,
            &expect!["input[0].call_id None: `input[0].call_id` is missing"],
        );
        check(
            r#"{"model": "m", "input": "Hi", "tools": [{"type": "web_search"}]}"#,
            &expect![
                "tools[0].type None: `tools[0].type` is `web_search`; only `function` is supported"
            ],
        );
        check(
            r#"{"model": "m", "input": "Hi", "text": {"format": {"type": "json_schema", "name": "x"}}}"#,
            &expect!["text.format None: `text.format` of type json_schema lacks its `schema`"],
        );
        check(
            r#"{"model": "m", "input": 1}"#,
            &expect![
                "input None: `input`: invalid type: integer `1`, expected a text or a list of items"
            ],
        );
    }
}
