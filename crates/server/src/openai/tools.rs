//! Tools: what may be called, what must be, and what was.

use std::fmt;

use grammar::{Spec, ToolFormat};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::ApiError;

/// Most tools of a request.
const MAX_TOOLS: usize = 128;

/// Longest name of a tool, in bytes.
const MAX_NAME: usize = 128;

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: Option<Function>,
}

/// A function that the model may call.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Function {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// When to call it, and what it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of its arguments; without one it takes none.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Accepted either way: arguments always fit the schema.
    #[serde(skip_serializing)]
    pub strict: Option<bool>,
}

/// A call of a tool, by the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolCall {
    /// Names the call; the answer to it repeats this.
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, as a JSON text.
    pub arguments: String,
}

fn function() -> String {
    "function".to_owned()
}

impl ToolCall {
    /// The call as chat templates take it; `at` names it in errors.
    ///
    /// # Errors
    /// 400 for arguments that are no JSON object.
    pub(super) fn for_template(&self, at: &str) -> Result<Value, ApiError> {
        if self.kind != "function" {
            let param = format!("{at}.type");
            let message = format!("`{param}` is `{}`; only `function` is supported", self.kind);
            return Err(ApiError::invalid(param, message));
        }
        let FunctionCall { name, arguments } = &self.function;
        // Some clients send nothing for a call without arguments.
        let text = if arguments.trim().is_empty() { "{}" } else { arguments };
        let arguments: Value = serde_json::from_str(text).unwrap_or_default();
        if !arguments.is_object() {
            let param = format!("{at}.function.arguments");
            let message = format!("`{param}` must be a JSON object, written as a text");
            return Err(ApiError::invalid(param, message));
        }
        let mut value = json!({ "type": "function" });
        if let Some(id) = &self.id {
            value["id"] = id.as_str().into();
        }
        value["function"] = json!({ "name": name, "arguments": arguments });
        Ok(value)
    }
}

/// Which tools are to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// This one.
    Named(NamedTool),
}

/// A tool, by its name: `{"type": "function", "function": {"name": …}}`, or flat, as the responses API writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// Its name, in the flat form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The name of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrTool;

        impl<'de> Visitor<'de> for WordOrTool {
            type Value = ToolChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `auto`, `required`, or an object that names a function")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<ToolChoice, E> {
                Ok(ToolChoice::Mode(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ToolChoice, A::Error> {
                NamedTool::deserialize(MapAccessDeserializer::new(map)).map(ToolChoice::Named)
            }
        }

        deserializer.deserialize_any(WordOrTool)
    }
}

/// The tools of a request, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Toolbox {
    /// What the model is told of.
    pub(super) functions: Vec<Function>,
    /// What it may call: all, or the one that was named.
    callable: Vec<usize>,
    required: bool,
    parallel: bool,
}

impl Toolbox {
    /// Checks tools and choice. Without tools, and with the choice `none`, the box is empty.
    ///
    /// # Errors
    /// 400 for tools that are no functions, bad or repeated names, and a choice that is not among them.
    pub(super) fn new(
        tools: &[Tool],
        choice: Option<&ToolChoice>,
        parallel: Option<bool>,
    ) -> Result<Self, ApiError> {
        if tools.len() > MAX_TOOLS {
            let message = format!("{} tools are more than {MAX_TOOLS}", tools.len());
            return Err(ApiError::invalid("tools".to_owned(), message));
        }
        let mut functions: Vec<Function> = Vec::new();
        for (i, tool) in tools.iter().enumerate() {
            let function = tool.function(i)?;
            if functions.iter().any(|other| other.name == function.name) {
                let param = format!("tools[{i}].function.name");
                let message = format!("`{param}`: `{}` is there already", function.name);
                return Err(ApiError::invalid(param, message));
            }
            functions.push(function);
        }
        let all = (0..functions.len()).collect();
        let parallel = parallel.unwrap_or(true);
        let (callable, required) = match choice {
            None => (all, false),
            Some(ToolChoice::Mode(word)) => match (word.as_str(), functions.is_empty()) {
                ("none", _) => return Ok(Self::default()),
                ("auto", _) => (all, false),
                ("required", false) => (all, true),
                ("required", true) => {
                    return Err(refuse_choice(
                        "`tool_choice` is `required`, but there are no `tools`",
                    ));
                }
                (word, _) => {
                    return Err(refuse_choice(&format!(
                        "`tool_choice` is `{word}`; it must be none, auto, required, or an object that names a function"
                    )));
                }
            },
            Some(ToolChoice::Named(tool)) => (vec![tool.find(&functions)?], true),
        };
        // A choice of one tool is one call.
        let parallel = parallel && !matches!(choice, Some(ToolChoice::Named(_)));
        Ok(Toolbox { functions, callable, required, parallel })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// What the answer has to fit.
    pub(super) fn spec(&self, format: ToolFormat) -> Spec {
        let tools = self.callable.iter().map(|&i| &self.functions[i]);
        let tools = tools.map(|function| grammar::Tool {
            name: function.name.clone(),
            parameters: function.parameters.clone().unwrap_or_else(no_parameters),
        });
        Spec::Tools {
            tools: tools.collect(),
            format,
            required: self.required,
            parallel: self.parallel,
        }
    }

    /// Names that may be called.
    pub(super) fn names(&self) -> Vec<String> {
        self.callable.iter().map(|&i| self.functions[i].name.clone()).collect()
    }

    /// The tools as chat templates take them.
    pub(super) fn for_template(&self) -> Vec<Value> {
        let value = |function: &Function| {
            let mut function = json!(function);
            if function["parameters"].is_null() {
                function["parameters"] = no_parameters();
            }
            json!({ "type": "function", "function": function })
        };
        self.functions.iter().map(value).collect()
    }
}

fn no_parameters() -> Value {
    json!({ "type": "object", "properties": {} })
}

fn refuse_choice(message: &str) -> ApiError {
    ApiError::invalid("tool_choice".to_owned(), message)
}

impl Tool {
    fn function(&self, index: usize) -> Result<Function, ApiError> {
        let at = format!("tools[{index}]");
        let refuse = |field: &str, message: String| {
            let param = format!("{at}.{field}");
            Err(ApiError::invalid(param.clone(), format!("`{param}`{message}")))
        };
        if self.kind != "function" {
            return refuse("type", format!(" is `{}`; only `function` is supported", self.kind));
        }
        let Some(function) = &self.function else {
            return refuse("function", " is missing".to_owned());
        };
        let name = &function.name;
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(letter) {
            return refuse(
                "function.name",
                format!(" must be 1 to {MAX_NAME} letters, digits, `_`, `-` and `.`"),
            );
        }
        match &function.parameters {
            // LangChain sends `{}` for a function without parameters.
            Some(Value::Object(schema)) if schema.is_empty() => {
                Ok(Function { parameters: None, ..function.clone() })
            }
            None | Some(Value::Object(_)) => Ok(function.clone()),
            Some(_) => {
                refuse("function.parameters", " must be a JSON Schema, an object".to_owned())
            }
        }
    }
}

impl NamedTool {
    fn find(&self, functions: &[Function]) -> Result<usize, ApiError> {
        if self.kind != "function" {
            return Err(refuse_choice(&format!(
                "`tool_choice.type` is `{}`; only `function` is supported",
                self.kind
            )));
        }
        let name = self.function.as_ref().map(|function| &function.name).or(self.name.as_ref());
        let name = name.ok_or_else(|| refuse_choice("`tool_choice` names no function"))?;
        functions.iter().position(|function| function.name == *name).ok_or_else(|| {
            refuse_choice(&format!("`tool_choice` names `{name}`, which is not among `tools`"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(tools: Value, choice: Value, expected: &Expect) {
        let tools: Vec<Tool> = serde_json::from_value(tools).unwrap();
        let choice: Option<ToolChoice> = serde_json::from_value(choice).unwrap();
        let text = match Toolbox::new(&tools, choice.as_ref(), None) {
            Ok(tools) => format!(
                "{:?} required {} parallel {}",
                tools.names(),
                tools.required,
                tools.parallel
            ),
            Err(error) => format!("{}: {}", error.param.unwrap_or_default(), error.message),
        };
        expected.assert_eq(&text);
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name}})
    }

    #[test]
    fn choices_are_checked_against_the_tools() {
        let two = json!([tool("a"), tool("b")]);
        check(two.clone(), Value::Null, &expect![[r#"["a", "b"] required false parallel true"#]]);
        check(two.clone(), json!("none"), &expect!["[] required false parallel false"]);
        check(
            two.clone(),
            json!("required"),
            &expect![[r#"["a", "b"] required true parallel true"#]],
        );
        check(two.clone(), tool("b"), &expect![[r#"["b"] required true parallel false"#]]);
        check(
            two.clone(),
            json!({"type": "function", "name": "a"}),
            &expect![[r#"["a"] required true parallel false"#]],
        );
        check(
            two.clone(),
            tool("c"),
            &expect!["tool_choice: `tool_choice` names `c`, which is not among `tools`"],
        );
        check(
            two.clone(),
            json!("any"),
            &expect![
                "tool_choice: `tool_choice` is `any`; it must be none, auto, required, or an object that names a function"
            ],
        );
        check(
            two,
            json!({"type": "allowed_tools"}),
            &expect![
                "tool_choice: `tool_choice.type` is `allowed_tools`; only `function` is supported"
            ],
        );
        check(json!([]), json!("auto"), &expect!["[] required false parallel true"]);
        check(
            json!([]),
            json!("required"),
            &expect!["tool_choice: `tool_choice` is `required`, but there are no `tools`"],
        );
    }

    #[test]
    fn tools_that_make_no_sense_are_named() {
        check(
            json!([tool("a"), tool("a")]),
            Value::Null,
            &expect!["tools[1].function.name: `tools[1].function.name`: `a` is there already"],
        );
        check(
            json!([tool("no spaces")]),
            Value::Null,
            &expect![
                "tools[0].function.name: `tools[0].function.name` must be 1 to 128 letters, digits, `_`, `-` and `.`"
            ],
        );
        check(
            json!([{"type": "web_search"}]),
            Value::Null,
            &expect![
                "tools[0].type: `tools[0].type` is `web_search`; only `function` is supported"
            ],
        );
        check(
            json!([{"type": "function"}]),
            Value::Null,
            &expect!["tools[0].function: `tools[0].function` is missing"],
        );
        check(
            json!([{"type": "function", "function": {"name": "a", "parameters": "x"}}]),
            Value::Null,
            &expect![
                "tools[0].function.parameters: `tools[0].function.parameters` must be a JSON Schema, an object"
            ],
        );
    }

    #[test]
    fn arguments_become_objects_for_the_template() {
        let call = |arguments: &str| ToolCall {
            id: Some("1".to_owned()),
            kind: function(),
            function: FunctionCall { name: "f".to_owned(), arguments: arguments.to_owned() },
        };
        let value = call(r#"{"a": 1}"#).for_template("x").unwrap();
        assert_eq!(
            value.to_string(),
            r#"{"type":"function","id":"1","function":{"name":"f","arguments":{"a":1}}}"#
        );
        assert_eq!(call("").for_template("x").unwrap()["function"]["arguments"], json!({}));
        let error = call("[1]").for_template("messages[1].tool_calls[0]").unwrap_err();
        assert_eq!(
            error.message,
            "`messages[1].tool_calls[0].function.arguments` must be a JSON object, written as a text"
        );
    }
}
