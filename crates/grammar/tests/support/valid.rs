//! A plain validator of JSON Schema, for the keywords that this crate enforces. It shares nothing with the crate, and reads the
//! schema as the standard has it.

use grammar::{Grammar, Spec, TokenText, Vocabulary};
use serde_json::Value;
use std::sync::{Arc, OnceLock};

/// Why a value does not fit a schema; `None` if it does.
pub fn invalid(schema: &Value, value: &Value) -> Option<String> {
    check(schema, schema, value).err()
}

type Check = Result<(), String>;

fn check(root: &Value, schema: &Value, value: &Value) -> Check {
    let fail = |what: &str| Err(format!("{what}: {schema} against {value}"));
    let keys = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return fail("false"),
        Value::Object(keys) => keys,
        _ => return fail("no schema"),
    };
    if keys.get("nullable") == Some(&Value::Bool(true)) && value.is_null() {
        return Ok(());
    }
    for (key, rule) in keys {
        let fits = match key.as_str() {
            "$ref" => {
                let target = rule.as_str().unwrap().trim_start_matches('#');
                check(root, root.pointer(target).unwrap(), value)?;
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|t| has_type(t.as_str().unwrap(), value)),
                one => has_type(one.as_str().unwrap(), value),
            },
            "enum" => rule.as_array().unwrap().iter().any(|v| equal(v, value)),
            "const" => equal(rule, value),
            "allOf" => {
                for part in rule.as_array().unwrap() {
                    check(root, part, value)?;
                }
                true
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|s| check(root, s, value).is_ok()),
            "oneOf" => {
                rule.as_array().unwrap().iter().filter(|s| check(root, s, value).is_ok()).count()
                    == 1
            }
            _ => match value {
                Value::Number(number) => number_fits(key, rule, number.as_f64().unwrap()),
                Value::String(text) => text_fits(key, rule, text),
                Value::Array(items) => array_fits(root, keys, key, items)?,
                Value::Object(_) => object_fits(root, keys, key, value)?,
                _ => true,
            },
        };
        if !fits {
            return fail(key);
        }
    }
    Ok(())
}

fn has_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

fn number_fits(key: &str, rule: &Value, number: f64) -> bool {
    let limit = rule.as_f64();
    match key {
        "minimum" => number >= limit.unwrap(),
        "maximum" => number <= limit.unwrap(),
        "exclusiveMinimum" => limit.is_none_or(|limit| number > limit),
        "exclusiveMaximum" => limit.is_none_or(|limit| number < limit),
        "multipleOf" => {
            let times = number / limit.unwrap();
            (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
        }
        _ => true,
    }
}

fn text_fits(key: &str, rule: &Value, text: &str) -> bool {
    let length = || text.chars().count() as u64;
    match key {
        "minLength" => length() >= rule.as_u64().unwrap(),
        "maxLength" => length() <= rule.as_u64().unwrap(),
        "pattern" => matches(rule.as_str().unwrap(), text),
        "format" => has_format(rule.as_str().unwrap(), text),
        _ => true,
    }
}

fn array_fits(
    root: &Value,
    keys: &serde_json::Map<String, Value>,
    key: &str,
    items: &[Value],
) -> Result<bool, String> {
    let rule = &keys[key];
    match key {
        "minItems" => return Ok(items.len() as u64 >= rule.as_u64().unwrap()),
        "maxItems" => return Ok(items.len() as u64 <= rule.as_u64().unwrap()),
        "prefixItems" => {
            for (schema, item) in rule.as_array().unwrap().iter().zip(items) {
                check(root, schema, item)?;
            }
        }
        "items" => {
            let prefix = keys.get("prefixItems").map_or(0, |p| p.as_array().unwrap().len());
            match rule {
                Value::Array(schemas) => {
                    for (schema, item) in schemas.iter().zip(items) {
                        check(root, schema, item)?;
                    }
                }
                schema => {
                    for item in items.iter().skip(prefix) {
                        check(root, schema, item)?;
                    }
                }
            }
        }
        "additionalItems" => {
            let prefix = keys["items"].as_array().map_or(0, Vec::len);
            for item in items.iter().skip(prefix) {
                check(root, rule, item)?;
            }
        }
        _ => {}
    }
    Ok(true)
}

fn object_fits(
    root: &Value,
    keys: &serde_json::Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<bool, String> {
    let (rule, fields) = (&keys[key], value.as_object().unwrap());
    let named = |name: &str| keys.get("properties").is_some_and(|p| p.get(name).is_some());
    let by_pattern = |name: &str| {
        let patterns = keys.get("patternProperties").and_then(Value::as_object);
        patterns.is_some_and(|patterns| patterns.keys().any(|pattern| matches(pattern, name)))
    };
    match key {
        "required" => {
            let mut names = rule.as_array().unwrap().iter();
            return Ok(names.all(|name| fields.contains_key(name.as_str().unwrap())));
        }
        "minProperties" => return Ok(fields.len() as u64 >= rule.as_u64().unwrap()),
        "maxProperties" => return Ok(fields.len() as u64 <= rule.as_u64().unwrap()),
        "properties" => {
            for (name, schema) in rule.as_object().unwrap() {
                if let Some(field) = fields.get(name) {
                    check(root, schema, field)?;
                }
            }
        }
        "patternProperties" => {
            for (pattern, schema) in rule.as_object().unwrap() {
                for (_, field) in fields.iter().filter(|(name, _)| matches(pattern, name)) {
                    check(root, schema, field)?;
                }
            }
        }
        "additionalProperties" => {
            for (name, field) in fields {
                if !named(name) && !by_pattern(name) {
                    check(root, rule, field)?;
                }
            }
        }
        _ => {}
    }
    Ok(true)
}

/// Whether a pattern is found in a text, by a grammar of its own: a regular expression is what llguidance knows best, and
/// `check.py` looks at the same answers with Python's `re`.
pub fn matches(pattern: &str, text: &str) -> bool {
    static BYTES: OnceLock<Arc<Vocabulary>> = OnceLock::new();
    let vocabulary = BYTES.get_or_init(|| {
        let mut tokens: Vec<TokenText> = (0..=254).map(|b| TokenText::Bytes(vec![b])).collect();
        tokens.push(TokenText::Special("</s>".into()));
        Arc::new(Vocabulary::new(tokens, 256, &[255]).unwrap())
    });
    // Anchors stand at the ends alone in what is tested here.
    let start = if pattern.starts_with('^') { "" } else { "(?s:.*)" };
    let end = if pattern.ends_with('$') && !pattern.ends_with("\\$") { "" } else { "(?s:.*)" };
    let body = pattern.trim_start_matches('^');
    let body = if end.is_empty() { &body[..body.len() - 1] } else { body };
    let regex = format!("{start}({body}){end}");
    let grammar = Grammar::compile(vocabulary, &Spec::Regex(regex)).unwrap();
    let mut matcher = grammar.matcher();
    let mut mask = vec![0; vocabulary.mask_words()];
    for byte in text.bytes() {
        matcher.mask(1000, &mut mask).unwrap();
        if mask[usize::from(byte) / 32] >> (byte % 32) & 1 == 0 {
            return false;
        }
        matcher.accept(u32::from(byte), 1000).unwrap();
    }
    matcher.is_complete()
}

fn has_format(format: &str, text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    let date = |text: &str| {
        let parts: Vec<_> = text.split('-').map(number).collect();
        let [Some(year), Some(month), Some(day)] = parts[..] else { return false };
        let leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u32::from(leap),
            1..=12 => 31,
            _ => 0,
        };
        text.len() == 10 && year > 0 && (1..=days).contains(&day)
    };
    let time = |text: &str| {
        let parts: Vec<_> = text.get(..8).unwrap_or_default().split(':').map(number).collect();
        let [Some(hour), Some(minute), Some(second)] = parts[..] else { return false };
        hour < 24 && minute < 60 && second < 60 && text.len() > 8
    };
    match format {
        "date" => date(text),
        "time" => time(text),
        "date-time" => text.split_once('T').is_some_and(|(d, t)| date(d) && time(t)),
        "email" => text.split_once('@').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" => {
            text.len() == 36
                && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
                && text.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
        }
        "uri" => text.contains(':') && !text.contains(char::is_whitespace),
        "duration" => text.starts_with('P') && text.len() > 2,
        "hostname" => !text.is_empty() && !text.contains(char::is_whitespace),
        _ => true,
    }
}
