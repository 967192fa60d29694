//! Examples of what is wanted, instead of a schema: `{"total": "number", "items": [{"name": "string"}]}`.
//!
//! - An object is an object with exactly these fields, all of them required; `{}` is any object.
//! - An array has one element, which all of its items are like; `[]` is any array.
//! - A text names a type: `string`, `number`, `integer`, `boolean`, `null`, `object`, `array`, `any`, or a format of strings
//!   (`date`, `email`, …); several with `|` between them: `string|null`.
//!
//! A document is an example if it has a key that JSON Schema does not know, and no sign of a schema: `type` with the name of a
//! type, `properties`, `$ref` and the like. Keys such as `items` are fields then. Nothing is guessed: where an object within an
//! example could be a schema, or a value names no type, that is an error.

use serde_json::{Map, Value, json};

use super::words::{FORMATS, MAX_DEPTH, is_annotation, is_keyword, pointer};
use crate::GrammarError;

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "null", "object", "array"];

/// The schema that an example stands for; `None` if it is a schema already.
pub fn to_schema(document: &Value) -> Result<Option<Value>, GrammarError> {
    match document {
        Value::Array(_) => convert(document, "#", 0).map(Some),
        Value::Object(fields) if is_example(fields)? => convert(document, "#", 0).map(Some),
        _ => Ok(None),
    }
}

fn is_example(fields: &Map<String, Value>) -> Result<bool, GrammarError> {
    if fields.keys().any(|key| is_unknown(key)) {
        return Ok(!has_sign_of_schema(fields));
    }
    // `{"title": "string"}` is a schema with a title, or a document with one.
    let annotations = !fields.is_empty() && fields.keys().all(|key| is_annotation(key));
    let names_types = fields.values().filter_map(Value::as_str).any(|text| type_of(text).is_some());
    if annotations && names_types {
        let reason = "this is a schema without a type, or an example with these fields: add \"type\" or write a JSON Schema";
        return Err(refuse("#", reason));
    }
    Ok(false)
}

fn is_unknown(key: &str) -> bool {
    !is_keyword(key) && !key.starts_with("x-")
}

/// Whether an object with other keys beside it says that it is a schema.
fn has_sign_of_schema(fields: &Map<String, Value>) -> bool {
    let signs =
        ["$schema", "$ref", "$defs", "definitions", "properties", "anyOf", "oneOf", "allOf"];
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    signs.iter().any(|sign| fields.contains_key(*sign))
        || fields.get("type").is_some_and(|value| match value {
            Value::Array(types) => types.iter().any(is_type),
            one => is_type(one),
        })
}

fn refuse(path: &str, reason: &str) -> GrammarError {
    GrammarError::Schema { path: path.into(), reason: reason.into() }
}

fn convert(example: &Value, path: &str, depth: usize) -> Result<Value, GrammarError> {
    if depth > MAX_DEPTH {
        return Err(refuse(path, "the example nests too deep"));
    }
    match example {
        Value::String(text) => type_of(text).ok_or_else(|| {
            refuse(
                path,
                &format!(
                    "{text:?} names no type: write \"string\", \"number\", \"date\" or the like"
                ),
            )
        }),
        Value::Array(items) => match &items[..] {
            [] => Ok(json!({"type": "array"})),
            [item] => {
                let item = convert(item, &pointer(path, "0"), depth + 1)?;
                Ok(json!({"type": "array", "items": item}))
            }
            _ => Err(refuse(
                path,
                "an array in an example has one element, which all items are like",
            )),
        },
        Value::Object(fields) if fields.is_empty() => Ok(json!({"type": "object"})),
        Value::Object(fields) => {
            let unknown = fields.keys().any(|key| is_unknown(key));
            let annotations = fields.keys().all(|key| is_annotation(key));
            if !unknown && !annotations || has_sign_of_schema(fields) {
                let reason = "inside of an example this may be a schema or fields: write a JSON Schema instead";
                return Err(refuse(path, reason));
            }
            let mut properties = Map::new();
            for (name, field) in fields {
                properties.insert(name.clone(), convert(field, &pointer(path, name), depth + 1)?);
            }
            let required: Vec<&String> = fields.keys().collect();
            Ok(json!({
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            }))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Err(refuse(
            path,
            "a value in an example is the name of a type: write \"number\" or the like",
        )),
    }
}

/// The schema of `string`, `date` or `string|null`.
fn type_of(text: &str) -> Option<Value> {
    let one = |name: &str| match name {
        "any" => Some(json!({})),
        name if TYPES.contains(&name) => Some(json!({"type": name})),
        name if FORMATS.contains(&name) => Some(json!({"type": "string", "format": name})),
        _ => None,
    };
    let mut options = text.split('|').map(|name| one(name.trim())).collect::<Option<Vec<_>>>()?;
    Some(if options.len() == 1 { options.remove(0) } else { json!({"anyOf": options}) })
}
