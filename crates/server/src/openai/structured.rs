//! What an answer has to fit, as clients ask for it.
//!
//! The standard's way is `response_format`. For regular expressions, choices and grammars there is `structured_outputs`, as
//! vLLM names it (`{"regex": …}`, `{"choice": […]}`, `{"grammar": …}` in Lark's notation, `{"json": …}`), and its older
//! names `guided_regex`, `guided_choice`, `guided_grammar`, `guided_json`. One of them at most.
//!
//! An object that names its properties has no others, whatever `strict` says; `"open": true` beside `schema` asks for the
//! standard's meaning of an absent `additionalProperties`.

use grammar::Spec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::text::Texts;
use crate::ApiError;

/// The form of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// With `json_schema`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// A JSON Schema that the answer fits.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// A name; it means nothing here.
    pub name: Option<String>,
    /// What the answer is for; it means nothing here: tell the model in a message.
    pub description: Option<String>,
    /// The schema, or an example of what is wanted (`{"total": "number"}`).
    #[schema(value_type = Object)]
    pub schema: Option<Value>,
    /// Accepted either way: answers always fit.
    pub strict: Option<bool>,
    /// Whether objects may have properties that the schema does not name, as the standard has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
}

/// What the answer has to fit, as vLLM spells it. One of them.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct StructuredOutputs {
    /// A JSON Schema, as an object or as a text.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// `true`: any JSON object.
    pub json_object: Option<bool>,
    /// A regular expression that matches the whole answer.
    pub regex: Option<String>,
    /// The answer is one of these.
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark's notation.
    pub grammar: Option<String>,
}

/// The older names of [`StructuredOutputs`].
#[derive(Debug, Clone, Default)]
pub(super) struct Guided {
    pub(super) json: Option<Value>,
    pub(super) regex: Option<String>,
    pub(super) choice: Option<Vec<String>>,
    pub(super) grammar: Option<String>,
}

/// A constraint, and the field that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constraint {
    pub(super) param: String,
    pub(super) spec: Spec,
}

/// The one constraint of a request, if there is one.
///
/// # Errors
/// 400 for several, and for formats that do not exist.
pub(super) fn constraint(
    format: Option<&ResponseFormat>,
    structured: Option<&StructuredOutputs>,
    guided: &Guided,
) -> Result<Option<Constraint>, ApiError> {
    let mut found = Vec::new();
    if let Some(format) = format {
        let spec = format_spec("response_format", &format.kind, format.json_schema.as_ref())?;
        found.extend(spec.map(|spec| Constraint { param: "response_format".to_owned(), spec }));
    }
    let empty = StructuredOutputs::default();
    let s = structured.unwrap_or(&empty);
    let mut add =
        |param: &str, spec: Spec| found.push(Constraint { param: param.to_owned(), spec });
    for (param, json) in [("structured_outputs.json", &s.json), ("guided_json", &guided.json)] {
        if let Some(schema) = json {
            add(param, Spec::JsonSchema { schema: schema_value(param, schema)?, open: false });
        }
    }
    if s.json_object == Some(true) {
        add("structured_outputs.json_object", Spec::JsonObject);
    }
    for (param, regex) in [("structured_outputs.regex", &s.regex), ("guided_regex", &guided.regex)]
    {
        if let Some(regex) = regex {
            add(param, Spec::Regex(regex.clone()));
        }
    }
    for (param, choice) in
        [("structured_outputs.choice", &s.choice), ("guided_choice", &guided.choice)]
    {
        if let Some(choice) = choice {
            add(param, Spec::Choice(choice.clone()));
        }
    }
    for (param, grammar) in
        [("structured_outputs.grammar", &s.grammar), ("guided_grammar", &guided.grammar)]
    {
        if let Some(grammar) = grammar {
            add(param, Spec::Lark(grammar.clone()));
        }
    }
    match found.get(1) {
        Some(second) => Err(ApiError::invalid(
            second.param.clone(),
            format!("`{}` and `{}` cannot both be had; give one", found[0].param, second.param),
        )),
        None => Ok(found.pop()),
    }
}

/// What a format asks for; `param` names it in errors.
///
/// # Errors
/// 400 for formats that do not exist or lack their schema.
pub(super) fn format_spec(
    param: &str,
    kind: &str,
    json_schema: Option<&JsonSchemaFormat>,
) -> Result<Option<Spec>, ApiError> {
    let refuse = |field: &str, message: String| {
        let param = format!("{param}.{field}");
        Err(ApiError::invalid(param.clone(), format!("`{param}`{message}")))
    };
    match (kind, json_schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(Spec::JsonObject)),
        ("json_schema", Some(JsonSchemaFormat { schema: Some(schema), open, .. })) => {
            let schema = schema.clone();
            Ok(Some(Spec::JsonSchema { schema, open: open.unwrap_or(false) }))
        }
        ("json_schema", _) => Err(ApiError::invalid(
            param.to_owned(),
            format!("`{param}` of type json_schema lacks its `schema`"),
        )),
        (kind, _) => {
            refuse("type", format!(" is `{kind}`; it must be text, json_object or json_schema"))
        }
    }
}

/// vLLM also takes a schema that is written as a text.
fn schema_value(param: &str, schema: &Value) -> Result<Value, ApiError> {
    match schema {
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            ApiError::invalid(param.to_owned(), format!("`{param}` is not JSON: {error}"))
        }),
        schema => Ok(schema.clone()),
    }
}

/// Stop strings, checked.
///
/// # Errors
/// 400 for too many, too long or empty ones.
pub(super) fn stop(stop: Option<&Texts>) -> Result<Vec<String>, ApiError> {
    const MAX_STOPS: usize = 32;
    const MAX_BYTES: usize = 1024;
    let stops = stop.map(Texts::as_slice).unwrap_or_default();
    let refuse = |message: String| Err(ApiError::invalid("stop".to_owned(), message));
    if stops.len() > MAX_STOPS {
        return refuse(format!("{} stop strings are more than {MAX_STOPS}", stops.len()));
    }
    for (i, stop) in stops.iter().enumerate() {
        if stop.is_empty() || stop.len() > MAX_BYTES {
            return refuse(format!("`stop[{i}]` must be 1 to {MAX_BYTES} bytes long"));
        }
    }
    Ok(stops.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check(format: Value, structured: Value, guided: &Guided, expected: &Expect) {
        let format: Option<ResponseFormat> = serde_json::from_value(format).unwrap();
        let structured: Option<StructuredOutputs> = serde_json::from_value(structured).unwrap();
        let text = match constraint(format.as_ref(), structured.as_ref(), guided) {
            Ok(constraint) => format!("{constraint:?}"),
            Err(error) => format!("{}: {}", error.param.unwrap_or_default(), error.message),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn every_spelling_means_one_constraint() {
        let none = Guided::default();
        let null = Value::Null;
        check(json!({"type": "text"}), null.clone(), &none, &expect!["None"]);
        check(
            json!({"type": "json_object"}),
            null.clone(),
            &none,
            &expect![[r#"Some(Constraint { param: "response_format", spec: JsonObject })"#]],
        );
        check(
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": "number"}, "strict": true, "open": true}}),
            null.clone(),
            &none,
            &expect![[
                r#"Some(Constraint { param: "response_format", spec: JsonSchema { schema: Object {"a": String("number")}, open: true } })"#
            ]],
        );
        check(
            null.clone(),
            json!({"json": "{\"type\": \"null\"}"}),
            &none,
            &expect![[
                r#"Some(Constraint { param: "structured_outputs.json", spec: JsonSchema { schema: Object {"type": String("null")}, open: false } })"#
            ]],
        );
        check(
            null.clone(),
            json!({"choice": ["a"], "json_object": false}),
            &none,
            &expect![[
                r#"Some(Constraint { param: "structured_outputs.choice", spec: Choice(["a"]) })"#
            ]],
        );
        let regex = Guided { regex: Some("a+".to_owned()), ..Guided::default() };
        check(
            null.clone(),
            json!({}),
            &regex,
            &expect![[r#"Some(Constraint { param: "guided_regex", spec: Regex("a+") })"#]],
        );
        check(
            null,
            json!({"grammar": "start: \"a\""}),
            &regex,
            &expect![
                "structured_outputs.grammar: `guided_regex` and `structured_outputs.grammar` cannot both be had; give one"
            ],
        );
    }

    #[test]
    fn formats_that_do_not_exist_are_refused() {
        let none = Guided::default();
        check(
            json!({"type": "xml"}),
            Value::Null,
            &none,
            &expect![
                "response_format.type: `response_format.type` is `xml`; it must be text, json_object or json_schema"
            ],
        );
        check(
            json!({"type": "json_schema", "json_schema": {"name": "x"}}),
            Value::Null,
            &none,
            &expect!["response_format: `response_format` of type json_schema lacks its `schema`"],
        );
        check(
            Value::Null,
            json!({"json": "{"}),
            &none,
            &expect![
                "structured_outputs.json: `structured_outputs.json` is not JSON: EOF while parsing an object at line 1 column 1"
            ],
        );
    }

    #[test]
    fn stop_strings_are_bounded() {
        let many = |n: usize| Texts::Many(vec!["x".to_owned(); n]);
        assert_eq!(stop(None).unwrap().len(), 0);
        assert_eq!(stop(Some(&many(32))).unwrap().len(), 32);
        assert!(stop(Some(&many(33))).is_err());
        assert!(stop(Some(&Texts::Many(vec![String::new()]))).is_err());
        assert!(stop(Some(&Texts::Many(vec!["x".repeat(1025)]))).is_err());
    }
}
