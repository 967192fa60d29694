//! What is refused: where, and why.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use expect_test::{Expect, expect};
use grammar::{Grammar, Spec};
use serde_json::{Value, json};
use support::demo;

fn check(schemas: &[Value], expected: Expect) {
    let vocabulary = demo();
    let lines = schemas.iter().map(|schema| {
        let spec = Spec::JsonSchema { schema: schema.clone(), open: false };
        match Grammar::compile(&vocabulary, &spec) {
            Ok(_) => format!("{schema}\n    is taken\n"),
            Err(error) => format!("{schema}\n    {error}\n"),
        }
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn keywords_that_are_not_enforced_are_named_wherever_they_stand() {
    check(
        &[
            json!({"type": "string", "not": {"const": "x"}}),
            json!({"type": "array", "uniqueItems": true}),
            json!({"properties": {"a": {"type": "array", "contains": {"type": "string"}}}}),
            json!({"$defs": {"unused": {"if": {"type": "string"}}}, "type": "string"}),
            json!({"anyOf": [{"type": "object", "dependentRequired": {"a": ["b"]}}, {"type": "null"}]}),
            json!({"type": "object", "properties": {"a/b": {"items": {"propertyNames": {"maxLength": 3}}}}}),
            json!({"allOf": [{"type": "object", "dependencies": {}}]}),
            json!({"type": "string", "format": "currency"}),
            json!({"type": "integer", "format": "date"}),
            json!({"type": "string", "minimum": 3}),
            json!({"type": "object", "colour": "red"}),
            json!({"type": "object", "x-guidance": {"lenient": true}}),
            json!({"type": "object", "x-order": 3}),
            json!({"type": "string", "pattern": "(?=lookahead)a"}),
            json!({"type": "string", "pattern": "("}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "#/$defs/absent"}),
            json!({"type": "array", "unevaluatedItems": false}),
            json!({"$id": "a", "$anchor": "b", "type": "string"}),
            json!({"type": "object", "required": ["a"], "properties": {"b": {}}, "unevaluatedProperties": {}}),
        ],
        expect![[r##"
            {"type":"string","not":{"const":"x"}}
                #/not: `not` is not supported: say what is allowed instead
            {"type":"array","uniqueItems":true}
                #/uniqueItems: `uniqueItems` is not supported: check it afterwards, and remove it
            {"properties":{"a":{"type":"array","contains":{"type":"string"}}}}
                #/properties/a/contains: `contains` is not supported: say what all items are with "items"
            {"$defs":{"unused":{"if":{"type":"string"}}},"type":"string"}
                #/$defs/unused/if: `if` is not supported: write the cases as "anyOf"
            {"anyOf":[{"type":"object","dependentRequired":{"a":["b"]}},{"type":"null"}]}
                #/anyOf/0/dependentRequired: `dependentRequired` is not supported: write the cases as "anyOf"
            {"type":"object","properties":{"a/b":{"items":{"propertyNames":{"maxLength":3}}}}}
                #/properties/a~1b/items/propertyNames: `propertyNames` is not supported: use "patternProperties" with "additionalProperties": false
            {"allOf":[{"type":"object","dependencies":{}}]}
                #/allOf/0/dependencies: `dependencies` is not supported: write the cases as "anyOf"
            {"type":"string","format":"currency"}
                #/format: "currency" is not enforced; these are: date-time, date, time, duration, email, hostname, ipv4, ipv6, uuid, uri
            {"type":"integer","format":"date"}
                #/format: "date" is no format of numbers that is known
            {"type":"string","minimum":3}
                #/minimum: `minimum` says nothing about the type string
            {"type":"object","colour":"red"}
                #/colour: `colour` is no keyword of JSON Schema
            {"type":"object","x-guidance":{"lenient":true}}
                #/x-guidance: `x-guidance` is not supported: remove it
            {"type":"object","x-order":3}
                is taken
            {"type":"string","pattern":"(?=lookahead)a"}
                #/pattern: the pattern: regex parse error: (?=lookahead)a ^^^ error: look-around, including look-ahead and look-behind, is not supported
            {"type":"string","pattern":"("}
                #/pattern: the pattern: regex parse error: ( ^ error: unclosed group
            {"$ref":"https://example.com/schema.json"}
                #/$ref: "https://example.com/schema.json" is not in this document: write "#/$defs/NAME"
            {"$ref":"#/$defs/absent"}
                #/$ref: there is no "#/$defs/absent"
            {"type":"array","unevaluatedItems":false}
                #/unevaluatedItems: `unevaluatedItems` is not supported: use "items": false
            {"$id":"a","$anchor":"b","type":"string"}
                #/$anchor: `$anchor` is not supported: name the definition by its path: "#/$defs/NAME"
            {"type":"object","required":["a"],"properties":{"b":{}},"unevaluatedProperties":{}}
                #/unevaluatedProperties: `unevaluatedProperties` has to be true or false
        "##]],
    );
}

#[test]
fn contradictions_are_refused() {
    check(
        &[
            json!(false),
            json!({"type": "integer", "minimum": 3, "maximum": 2}),
            json!({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}),
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            json!({"type": "array", "minItems": 3, "maxItems": 2}),
            json!({"type": "array", "prefixItems": [{}], "items": false, "minItems": 2}),
            json!({"type": "string", "enum": [1, 2]}),
            json!({"allOf": [{"type": "string"}, {"type": "number"}]}),
            json!({"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"type": "number"}}}]}),
            json!({"type": "object", "required": ["a"], "properties": {"b": {}}, "additionalProperties": false}),
            json!({"type": "object", "required": ["a", "b"], "maxProperties": 1}),
            json!({"type": "object", "properties": {"a": {}}, "required": [], "minProperties": 2}),
            json!({"type": "string", "pattern": "^a$", "minLength": 3}),
        ],
        expect![[r#"
            false
                #: `false` lets nothing through
            {"type":"integer","minimum":3,"maximum":2}
                #: no number lies between `minimum` and `maximum`
            {"type":"integer","exclusiveMinimum":3,"exclusiveMaximum":4}
                #: no number lies between `minimum` and `maximum`
            {"type":"string","minLength":3,"maxLength":2}
                #: `minLength` is greater than `maxLength`
            {"type":"array","minItems":3,"maxItems":2}
                #: `minItems` is greater than `maxItems`
            {"type":"array","prefixItems":[{}],"items":false,"minItems":2}
                #: `minItems` asks for an item 1 that nothing fits
            {"type":"string","enum":[1,2]}
                #: none of its values fits
            {"allOf":[{"type":"string"},{"type":"number"}]}
                #: no value has both types
            {"allOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"a":{"type":"number"}}}]}
                #: the property "a" can have no value: no value has both types
            {"type":"object","required":["a"],"properties":{"b":{}},"additionalProperties":false}
                #: the required property "a" can have no value
            {"type":"object","required":["a","b"],"maxProperties":1}
                #: at least 2 properties are asked for, and at most 1
            {"type":"object","properties":{"a":{}},"required":[],"minProperties":2}
                #/minProperties: the object does not name as many properties
            {"type":"string","pattern":"^a$","minLength":3}
                #: the constraint: Unsatisfiable schema: Regex is empty:  (And (SearchRegex /^a$/) (Regex /(?s:.{3,})/))
        "#]],
    );
}

#[test]
fn what_cannot_be_guaranteed_is_refused() {
    check(
        &[
            json!({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}),
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            json!({"oneOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}, "required": ["b"]}]}),
            json!({
                "properties": {"a": {}, "b": {}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            }),
            json!({"type": "object", "minProperties": 2}),
            json!({"type": "object", "minProperties": 1, "maxProperties": 2}),
            json!({"properties": {"a": {}, "b": {}, "c": {}}, "required": [], "minProperties": 2}),
            json!({"properties": {"a": {}, "b": {}, "c": {}}, "required": [], "minProperties": 1}),
            json!({"properties": {"a": {}, "b": {}}, "required": ["a"], "maxProperties": 1}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}),
            json!({"type": "string", "enum": ["a", "ab"], "pattern": "^a$"}),
            json!({"const": 1e300}),
            json!({"const": "bell\u{7}"}),
            json!({"type": "string", "maxLength": 1_000_000}),
            json!({"type": "number", "multipleOf": 1e-300}),
        ],
        expect![[r##"
            {"oneOf":[{"type":"string"},{"type":"string","maxLength":3}]}
                #/oneOf: a value may fit both 0 and 1: give them different types, or a required property with different constants, or write `anyOf`
            {"oneOf":[{"type":"integer"},{"type":"number"}]}
                #/oneOf: a value may fit both 0 and 1: give them different types, or a required property with different constants, or write `anyOf`
            {"oneOf":[{"properties":{"a":{}},"required":["a"]},{"properties":{"b":{}},"required":["b"]}]}
                is taken
            {"properties":{"a":{},"b":{}},"oneOf":[{"required":["a"]},{"required":["b"]}]}
                #/oneOf: a value may fit both 0 and 1: give them different types, or a required property with different constants, or write `anyOf`
            {"type":"object","minProperties":2}
                #/minProperties: more than one property without a name cannot be guaranteed to differ
            {"type":"object","minProperties":1,"maxProperties":2}
                is taken
            {"properties":{"a":{},"b":{},"c":{}},"required":[],"minProperties":2}
                #/minProperties: with optional properties it may ask for one of them, in an object that is closed: list them as `required`, or write the cases as `anyOf`
            {"properties":{"a":{},"b":{},"c":{}},"required":[],"minProperties":1}
                is taken
            {"properties":{"a":{},"b":{}},"required":["a"],"maxProperties":1}
                is taken
            {"$ref":"#/$defs/a","$defs":{"a":{"properties":{"a":{"$ref":"#/$defs/a"}},"required":["a"]}}}
                #/$defs/a: no finite document fits: it contains itself in any case
            {"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"}]}}}
                #/$defs/a: no finite document fits: it contains itself in any case
            {"type":"string","enum":["a","ab"],"pattern":"^a$"}
                #/enum: constants beside `pattern` or `format` are not supported
            {"const":1e+300}
                #/const: 1e+300 is beyond what is exact
            {"const":"bell\u0007"}
                #/const: "bell\u0007" has control characters
            {"type":"string","maxLength":1000000}
                #/maxLength: it may be 20000 at most
            {"type":"number","multipleOf":1e-300}
                #/multipleOf: it may have nine digits
        "##]],
    );
}

#[test]
fn examples_are_converted_or_refused() {
    check(
        &[
            json!({"total": "number", "items": [{"name": "string"}]}),
            json!({"title": "string", "total": "number|null", "due": "date"}),
            json!([{"name": "string"}]),
            json!({"a": "any", "b": {}, "c": [], "type": "whatever"}),
            json!({"total": "number", "type": "string"}),
            json!({"total": "nummer"}),
            json!({"total": 12.5}),
            json!({"rows": ["string", "number"]}),
            json!({"row": {"type": "string"}}),
            json!({"title": "string"}),
            json!("string"),
        ],
        expect![[r#"
            {"total":"number","items":[{"name":"string"}]}
                is taken
            {"title":"string","total":"number|null","due":"date"}
                is taken
            [{"name":"string"}]
                is taken
            {"a":"any","b":{},"c":[],"type":"whatever"}
                #/type: "whatever" names no type: write "string", "number", "date" or the like
            {"total":"number","type":"string"}
                #/total: `total` is no keyword of JSON Schema
            {"total":"nummer"}
                #/total: "nummer" names no type: write "string", "number", "date" or the like
            {"total":12.5}
                #/total: a value in an example is the name of a type: write "number" or the like
            {"rows":["string","number"]}
                #/rows: an array in an example has one element, which all items are like
            {"row":{"type":"string"}}
                #/row: inside of an example this may be a schema or fields: write a JSON Schema instead
            {"title":"string"}
                #: this is a schema without a type, or an example with these fields: add "type" or write a JSON Schema
            "string"
                #: a schema is an object, `true` or `false`
        "#]],
    );
}

#[test]
fn schemas_are_bounded() {
    let mut deep = json!({"type": "string"});
    for _ in 0..40 {
        deep = json!({"type": "array", "items": deep});
    }
    let wide: serde_json::Map<_, _> =
        (0..6000).map(|at| (format!("p{at}"), json!({"type": "null"}))).collect();
    let many: Vec<_> = (0..3000).collect();
    let lengths: Vec<_> =
        (0..10).map(|at| json!({"type": "string", "maxLength": 3000 + at})).collect();
    let vocabulary = demo();
    for schema in
        [deep, json!({"properties": wide}), json!({"enum": many}), json!({"anyOf": lengths})]
    {
        let spec = Spec::JsonSchema { schema, open: false };
        let error = Grammar::compile(&vocabulary, &spec).unwrap_err();
        assert!(matches!(error, grammar::GrammarError::TooLarge(_)), "{error}");
    }
}
