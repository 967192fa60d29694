//! What schemas become.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::prepare;

/// The prepared schema without what is the same in all.
fn check(schema: Value, open: bool, expected: Expect) {
    let Value::Object(mut prepared) = prepare(&schema, open).unwrap().into_schema() else {
        panic!("a schema is an object")
    };
    prepared.shift_remove("x-guidance");
    if let Some(Value::Object(definitions)) = prepared.get_mut("$defs") {
        definitions.shift_remove("any");
        if definitions.is_empty() {
            prepared.shift_remove("$defs");
        }
    }
    expected.assert_eq(&Value::Object(prepared).to_string());
}

#[test]
fn types_are_told_from_keywords_and_objects_are_closed() {
    check(
        json!({"properties": {"a": {"maxLength": 3}}}),
        false,
        expect![[
            r#"{"type":"object","properties":{"a":{"type":"string","maxLength":3}},"required":[],"additionalProperties":false}"#
        ]],
    );
    check(
        json!({"properties": {"a": {}}}),
        true,
        expect![[
            r##"{"type":"object","properties":{"a":{"$ref":"#/$defs/any"}},"required":[],"additionalProperties":{"$ref":"#/$defs/any"}}"##
        ]],
    );
    check(
        json!({"type": "object"}),
        false,
        expect![[
            r##"{"type":"object","properties":{},"required":[],"additionalProperties":{"$ref":"#/$defs/any"}}"##
        ]],
    );
    check(
        json!({"type": ["string", "null"], "maxLength": 2}),
        false,
        expect![[r#"{"anyOf":[{"type":"string","maxLength":2},{"type":"null"}]}"#]],
    );
    check(
        json!({"type": "integer", "nullable": true, "minimum": 1}),
        false,
        expect![[
            r#"{"anyOf":[{"type":"integer","minimum":1,"maximum":1000000000000000000},{"type":"null"}]}"#
        ]],
    );
    check(json!({"enum": ["a", 1, "a"]}), false, expect![[r#"{"enum":["a",1]}"#]]);
}

#[test]
fn all_of_is_merged() {
    check(
        json!({
            "allOf": [
                {"properties": {"a": {"type": "integer", "minimum": 2}}, "required": ["a"]},
                {"properties": {"a": {"maximum": 5}, "b": {"type": "string"}}},
            ],
        }),
        false,
        expect![[
            r#"{"type":"object","properties":{"a":{"type":"integer","minimum":2,"maximum":5},"b":{"type":"string"}},"required":["a"],"additionalProperties":false}"#
        ]],
    );
    check(
        json!({"allOf": [{"enum": [1, 2, "x"]}, {"type": "integer", "minimum": 2}]}),
        false,
        expect![[r#"{"enum":[2]}"#]],
    );
    check(
        json!({"type": "object", "properties": {"k": {}}, "anyOf": [{"properties": {"a": {"type": "null"}}}, {"required": ["k"]}]}),
        false,
        expect![[
            r##"{"anyOf":[{"type":"object","properties":{"k":{"$ref":"#/$defs/any"},"a":{"type":"null"}},"required":[],"additionalProperties":false},{"type":"object","properties":{"k":{"$ref":"#/$defs/any"}},"required":["k"],"additionalProperties":false}]}"##
        ]],
    );
}

#[test]
fn references_stand_alone_or_are_merged() {
    check(
        json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}}),
        false,
        expect![[
            r##"{"$ref":"#/$defs/0","$defs":{"0":{"type":"object","properties":{"next":{"$ref":"#/$defs/0"}},"required":[],"additionalProperties":false}}}"##
        ]],
    );
    check(
        json!({"$ref": "#/definitions/n", "minimum": 3, "definitions": {"n": {"type": "integer", "maximum": 9}}}),
        false,
        expect![[
            r#"{"type":"integer","minimum":3,"maximum":9,"$defs":{"0":{"type":"integer","minimum":-1000000000000000000,"maximum":9}}}"#
        ]],
    );
}

#[test]
fn examples_become_schemas() {
    check(
        json!({"total": "number", "items": [{"name": "string"}], "due": "date|null", "more": {}}),
        true,
        expect![[
            r##"{"type":"object","properties":{"total":{"type":"number","minimum":-1000000000000000,"maximum":1000000000000000},"items":{"type":"array","items":{"type":"object","properties":{"name":{"type":"string"}},"required":["name"],"additionalProperties":false}},"due":{"anyOf":[{"type":"string","allOf":[{"type":"string","pattern":"^(?:[12][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[12][0-9](?:0[48]|[2468][048]|[13579][26])|(?:1[26]|2[048])00)-02-29)$"}]},{"type":"null"}]},"more":{"type":"object","properties":{},"required":[],"additionalProperties":{"$ref":"#/$defs/any"}}},"required":["total","items","due","more"],"additionalProperties":false}"##
        ]],
    );
}
