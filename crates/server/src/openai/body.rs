//! Bodies of requests: read so that no field is passed over in silence.
//!
//! A field is taken, or refused by its name with the reason (it is part of OpenAI's API, but not of this server), or it is
//! unknown: then it is listed in `x-halfbyte-unknown-parameters` of the answer. `null` is the same as nothing.

use std::fmt::Write as _;

use axum::http::HeaderValue;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::{Map, Value};

use crate::ApiError;

/// Header that lists fields of the request that mean nothing here.
const UNKNOWN_HEADER: &str = "x-halfbyte-unknown-parameters";

/// Longest list of unknown fields, in bytes; what is beyond is counted.
const MAX_UNKNOWN: usize = 1024;

/// A field of OpenAI's API, or of a server that speaks it, which this one does not have.
pub(super) struct Unsupported {
    /// Its name.
    pub(super) name: &'static str,
    /// Values that ask for nothing.
    pub(super) harmless: fn(&Value) -> bool,
    /// Why, and what to do.
    pub(super) why: &'static str,
}

impl Unsupported {
    /// A field that is refused whatever it holds.
    pub(super) const fn never(name: &'static str, why: &'static str) -> Self {
        Unsupported { name, harmless: is_empty, why }
    }

    /// A field that is about nothing this server does, and changes no answer.
    pub(super) const fn accepted(name: &'static str) -> Self {
        Unsupported { name, harmless: |_| true, why: "" }
    }

    /// A field that is refused unless it holds what is the case anyway.
    pub(super) const fn unless(
        name: &'static str,
        harmless: fn(&Value) -> bool,
        why: &'static str,
    ) -> Self {
        Unsupported { name, harmless, why }
    }
}

/// `[]`, `{}` and `""` ask for nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// A body that a handler takes.
pub(super) trait Body: DeserializeOwned {
    /// Fields that are known and refused.
    const UNSUPPORTED: &'static [Unsupported];

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// 400, with the field at fault.
    fn validate(&self) -> Result<(), ApiError>;
}

/// Reads a body; also gives the fields that are unknown.
///
/// # Errors
/// 400 for what is no JSON object, holds a field that is not supported, or one of another type or range.
pub(super) fn parse<T: Body>(bytes: &[u8]) -> Result<(T, Vec<String>), ApiError> {
    let mut map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| {
        let what = if error.is_data() { "is no JSON object" } else { "is not JSON" };
        ApiError::invalid(None, format!("the body {what}: {error}"))
    })?;
    map.retain(|_, value| !value.is_null());
    for field in T::UNSUPPORTED {
        let Some(value) = map.shift_remove(field.name) else { continue };
        if !(field.harmless)(&value) {
            let message = format!("`{}` is not supported: {}", field.name, field.why);
            let error = ApiError::invalid(field.name.to_owned(), message);
            return Err(error.with_code("unsupported_parameter"));
        }
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(Value::Object(map), &mut track);
    let body = serde_ignored::deserialize(deserializer, |path| unknown.push(path_name(&path)));
    let body: T = body.map_err(|error| type_error(&track.path().to_string(), &error))?;
    body.validate()?;
    Ok((body, unknown))
}

fn type_error(path: &str, error: &serde_json::Error) -> ApiError {
    let text = readable(&error.to_string());
    match path {
        "." => ApiError::invalid(missing_field(&text), text),
        path => ApiError::invalid(path.to_owned(), format!("`{path}`: {text}")),
    }
}

/// The field that ``missing field `model` `` speaks of.
fn missing_field(text: &str) -> Option<String> {
    let rest = text.strip_prefix("missing field `")?;
    rest.split('`').next().map(str::to_owned)
}

/// serde's message without the names of Rust's types.
fn readable(text: &str) -> String {
    let Some((found, expected)) = text.rsplit_once(", expected ") else { return text.to_owned() };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i32" | "i64" => "a whole number",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// `messages[0].cache_control`.
fn path_name(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_name(parent)),
        Path::Map { parent, key } => match path_name(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => path_name(parent),
    }
}

/// Lists the fields of a request that mean nothing here in its answer.
pub(super) fn note_unknown(unknown: &[String], mut response: Response) -> Response {
    if let Some(value) = unknown_header(unknown) {
        response.headers_mut().insert(UNKNOWN_HEADER, value);
    }
    response
}

/// The names, with bytes that headers cannot hold as `%XX`.
fn unknown_header(unknown: &[String]) -> Option<HeaderValue> {
    let mut list = String::new();
    for (i, name) in unknown.iter().enumerate() {
        let name = escape(name);
        if list.len() + name.len() > MAX_UNKNOWN {
            let _ = write!(list, "{}and {} more", separator(i), unknown.len() - i);
            break;
        }
        list.push_str(separator(i));
        list.push_str(&name);
    }
    if list.is_empty() { None } else { HeaderValue::from_str(&list).ok() }
}

fn separator(index: usize) -> &'static str {
    if index == 0 { "" } else { ", " }
}

fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b',' | b'%') => escaped.push(byte.into()),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only printed")]
    struct Order {
        model: String,
        amount: Option<f32>,
        parts: Option<Vec<Part>>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only printed")]
    struct Part {
        count: u32,
    }

    impl Body for Order {
        const UNSUPPORTED: &'static [Unsupported] = &[
            Unsupported::never("audio", "the model only writes"),
            Unsupported::unless("store", |v| v == false, "nothing is stored"),
        ];

        fn validate(&self) -> Result<(), ApiError> {
            Ok(())
        }
    }

    fn check(body: &str, expected: &Expect) {
        let text = match parse::<Order>(body.as_bytes()) {
            Ok((order, unknown)) => format!("{order:?} {:?}", unknown_header(&unknown)),
            Err(e) => format!("{} {:?} {:?}: {}", e.status.as_u16(), e.param, e.code, e.message),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn bodies_are_read_or_refused_by_name() {
        for (body, expected) in [
            (
                r#"{"model": "m", "amount": null, "audio": null}"#,
                expect![[r#"Order { model: "m", amount: None, parts: None } None"#]],
            ),
            (
                r#"{"model": "m", "parts": [{"count": 1, "ü,x": 2}], "foo": 1}"#,
                expect![[
                    r#"Order { model: "m", amount: None, parts: Some([Part { count: 1 }]) } Some("parts[0].%C3%BC%2Cx, foo")"#
                ]],
            ),
            (
                r#"{"model": "m", "store": false, "audio": {}}"#,
                expect![[r#"Order { model: "m", amount: None, parts: None } None"#]],
            ),
            (
                r#"{"model": "m", "store": true}"#,
                expect![[
                    r#"400 Some("store") Some("unsupported_parameter"): `store` is not supported: nothing is stored"#
                ]],
            ),
            (
                r#"{"model": "m", "audio": {"voice": "x"}}"#,
                expect![[
                    r#"400 Some("audio") Some("unsupported_parameter"): `audio` is not supported: the model only writes"#
                ]],
            ),
            (r#"{"amount": 1}"#, expect![[r#"400 Some("model") None: missing field `model`"#]]),
            (
                r#"{"model": 1}"#,
                expect![[
                    r#"400 Some("model") None: `model`: invalid type: integer `1`, expected a string"#
                ]],
            ),
            (
                r#"{"model": "m", "amount": "1"}"#,
                expect![[
                    r#"400 Some("amount") None: `amount`: invalid type: string "1", expected a number"#
                ]],
            ),
            (
                r#"{"model": "m", "parts": [{"count": -1}]}"#,
                expect![[
                    r#"400 Some("parts[0].count") None: `parts[0].count`: invalid value: integer `-1`, expected a whole number that is not negative"#
                ]],
            ),
            (
                "[]",
                expect![
                    "400 None None: the body is no JSON object: invalid type: sequence, expected a map at line 1 column 0"
                ],
            ),
            (
                "{",
                expect![
                    "400 None None: the body is not JSON: EOF while parsing an object at line 1 column 1"
                ],
            ),
            (
                "",
                expect![
                    "400 None None: the body is not JSON: EOF while parsing a value at line 1 column 0"
                ],
            ),
        ] {
            check(body, &expected);
        }
    }

    #[test]
    fn a_long_list_of_unknown_fields_is_cut_with_their_number() {
        let names: Vec<String> = (0..300).map(|i| format!("field_{i}")).collect();
        let header = unknown_header(&names).unwrap();
        let text = header.to_str().unwrap();
        assert!(text.len() < MAX_UNKNOWN + 32 && text.ends_with(" more"), "{text}");
    }
}
