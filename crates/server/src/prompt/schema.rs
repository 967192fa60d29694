//! A request's schema in its place within a stage's.

use serde_json::{Map, Value};

/// Values that are data, whatever keys they hold.
const DATA: [&str; 4] = ["const", "default", "enum", "examples"];

/// `whole` with `part` at a JSON pointer that is in it. References within `part` go on meaning what they meant.
pub(super) fn place(whole: &Value, at: &str, part: &Value) -> Value {
    let mut placed = whole.clone();
    if let Some(place) = placed.pointer_mut(at) {
        *place = part.clone();
        if !at.is_empty() {
            move_references(place, at);
        }
    }
    placed
}

/// Every `$ref` that starts at the root now starts at `at`.
fn move_references(schema: &mut Value, at: &str) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(rest) = reference.strip_prefix('#')
            {
                *reference = format!("#{at}{rest}");
            }
            for (_, value) in children(object) {
                move_references(value, at);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| move_references(value, at)),
        _ => {}
    }
}

fn children(object: &mut Map<String, Value>) -> impl Iterator<Item = (&String, &mut Value)> {
    object.iter_mut().filter(|(key, _)| !DATA.contains(&key.as_str()))
}

/// A place in the whole, as the one who sent the part knows it.
pub(super) fn place_in_part(path: &str, at: &str) -> String {
    match path.strip_prefix('#').and_then(|path| path.strip_prefix(at)) {
        Some(rest) => format!("#{rest}"),
        None => path.to_owned(),
    }
}
