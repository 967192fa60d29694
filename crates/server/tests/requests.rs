//! Reads the requests of `fuzz/corpus`, and variations of them.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod targets;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use server::openai::{ChatRequest, CompletionRequest, ResponsesRequest};

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/openai_request");
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn what_clients_send_is_read() {
    let bodies = corpus();
    assert!(bodies.len() > 5);
    for bytes in &bodies {
        targets::openai_request(bytes);
        let is_read = ChatRequest::from_json(bytes).is_ok()
            || CompletionRequest::from_json(bytes).is_ok()
            || ResponsesRequest::from_json(bytes).is_ok();
        assert!(is_read, "{}", String::from_utf8_lossy(bytes));
    }
}

/// Values that parsers meet seldom.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!(1e300)),
        Just(json!(u64::MAX)),
        Just(json!("")),
        Just(json!("\u{0}é\u{10FFFF}")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[1, "a", {"type": "text"}]]])),
        Just(json!({"type": "function", "function": {"name": "f"}})),
        Just(json!({"type": "json_schema", "json_schema": {"schema": "x"}})),
        any::<i64>().prop_map(|n| json!(n)),
        ".{0,20}".prop_map(|text| json!(text)),
    ]
}

/// All places of a document, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), found));
        }
        Value::Object(map) => map.iter().for_each(|(key, item)| {
            places(item, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        _ => {}
    }
}

proptest! {
    #[test]
    fn values_in_wrong_places_are_refused_or_read(
        body in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), odd_value()), 1..4),
    ) {
        let bodies = corpus();
        let mut document: Value = serde_json::from_slice(&bodies[body.index(bodies.len())]).unwrap();
        for (place, value) in changes {
            let mut found = Vec::new();
            places(&document, "", &mut found);
            *document.pointer_mut(&found[place.index(found.len())]).unwrap() = value;
        }
        targets::openai_request(document.to_string().as_bytes());
    }

    #[test]
    fn bytes_in_wrong_places_are_refused_or_read(
        body in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..8),
        end in any::<Index>(),
    ) {
        let bodies = corpus();
        let mut bytes = bodies[body.index(bodies.len())].clone();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        targets::openai_request(&bytes);
        targets::openai_request(&bytes[..end.index(bytes.len())]);
    }
}
