//! Whatever is given as a constraint, the answer is a grammar or an error.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;

use grammar::{Grammar, Spec, Vocabulary};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{Chooser, Rng, demo, demo_tokens, walk};

/// Compiles, and walks a little.
fn try_out(vocabulary: &Arc<Vocabulary>, spec: &Spec, seed: u64) {
    let Ok(grammar) = Grammar::compile(vocabulary, spec) else { return };
    let Some(shortest) = grammar.shortest() else { return };
    if shortest < 300 {
        let tokens = demo_tokens();
        let walk =
            walk(&grammar, vocabulary, &tokens, shortest + 20, Chooser::Uniform, &mut Rng(seed));
        assert!(walk.complete);
        assert!(
            matches!(spec, Spec::Choice(_)) || serde_json::from_slice::<Value>(&walk.text).is_ok()
        );
    }
}

/// A case compiles a grammar, so a soak of a hundred thousand stops at fewer.
fn cases() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(60).min(20_000), ..ProptestConfig::default() }
}

/// Something like a schema: keywords with values of any kind.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!(false)),
        Just(json!(null)),
        (-5i64..40).prop_map(Value::from),
        (-3.0f64..3.0).prop_map(Value::from),
        "[a-z^$.*+()\\[\\]{}|\\\\0-9]{0,8}".prop_map(Value::from),
        prop::sample::select(vec![
            "string",
            "integer",
            "number",
            "object",
            "array",
            "null",
            "date",
            "#/$defs/a",
            "#"
        ])
        .prop_map(Value::from),
    ];
    let keys = prop::sample::select(vec![
        "type",
        "type",
        "properties",
        "required",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "enum",
        "const",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "multipleOf",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "nullable",
        "additionalProperties",
        "minProperties",
        "maxProperties",
        "patternProperties",
        "unevaluatedProperties",
        "title",
        "a",
        "b",
    ]);
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..5).prop_map(|fields| {
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_document_as_a_schema(schema in schema(), open: bool, seed: u64) {
        try_out(&demo(), &Spec::JsonSchema { schema, open }, seed);
    }

    #[test]
    fn any_text_as_a_regular_expression(text in "[a-c^$.*+?()\\[\\]{}|\\\\0-9,&~/\u{e9}-]{0,16}") {
        try_out(&demo(), &Spec::Regex(text), 0);
    }

    #[test]
    fn any_text_as_a_grammar(text in "(start: )?[a-zA-Z:|\"/%@<>\\[\\](){}*+?~&\n 0-9]{0,40}") {
        try_out(&demo(), &Spec::Lark(text), 0);
    }

    #[test]
    fn any_texts_as_choices(texts in prop::collection::vec(".{0,12}", 0..5), seed: u64) {
        try_out(&demo(), &Spec::Choice(texts), seed);
    }
}
