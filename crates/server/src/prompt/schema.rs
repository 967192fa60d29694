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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_of_a_placed_schema_still_find_what_they_name() {
        let whole =
            json!({ "properties": { "body": { "type": "object" }, "n": { "type": "null" } } });
        let part = json!({
            "$defs": { "line": { "type": "object", "properties": { "$ref": { "$ref": "#" } } } },
            "properties": { "lines": { "items": { "$ref": "#/$defs/line" } } },
            "const": { "$ref": "#/stays" }
        });
        let placed = place(&whole, "/properties/body", &part);
        assert_eq!(placed["properties"]["n"], json!({ "type": "null" }));
        let body = &placed["properties"]["body"];
        let reference = |pointer: &str| body.pointer(pointer).and_then(Value::as_str);
        assert_eq!(reference("/properties/lines/items/$ref"), Some("#/properties/body/$defs/line"));
        // The inner key is a property's name, what it holds a reference.
        assert_eq!(reference("/$defs/line/properties/$ref/$ref"), Some("#/properties/body"));
        assert_eq!(reference("/const/$ref"), Some("#/stays"));
        assert_eq!(place(&whole, "", &part), part);
    }

    #[test]
    fn places_are_named_as_the_sender_knows_them() {
        assert_eq!(place_in_part("#/properties/body/items/x", "/properties/body"), "#/items/x");
        assert_eq!(place_in_part("#/properties/n", "/properties/body"), "#/properties/n");
        assert_eq!(place_in_part("#/a", ""), "#/a");
    }
}
