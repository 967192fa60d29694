//! Renders `fixtures/templates`, which transformers rendered.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::Path;

use model::{Chat, ChatTemplate, Files};
use serde_json::{Map, Value, json};

#[test]
fn every_template_renders_as_transformers_renders_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/templates");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            check(&path);
            count += 1;
        }
    }
    assert!(count >= 15, "only {count} templates");
}

fn check(path: &Path) {
    let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens: Map<String, Value> = ["bos_token", "eos_token"]
        .map(|name| (name.to_owned(), case[name].clone()))
        .into_iter()
        .collect();
    let source = case["template"].as_str().unwrap();
    let template = ChatTemplate::parse(&[("default", source)], tokens).unwrap();
    let rendered = template.render(Chat {
        messages: case["messages"].as_array().unwrap(),
        tools: case["tools"].as_array().map(Vec::as_slice),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        variables: case["variables"].as_object().unwrap().clone(),
    });
    match (rendered, case["expected"].as_str(), case["error"].as_str()) {
        (Ok(text), Some(expected), None) => assert_eq!(text, expected, "{}", path.display()),
        (Err(error), None, Some(expected)) => {
            assert!(error.to_string().contains(expected), "{}: {error}", path.display());
        }
        (rendered, ..) => panic!("{}: {rendered:?}", path.display()),
    }
}

fn files(list: &[(&str, Value)]) -> Files {
    let bytes = |value: &Value| match value {
        Value::String(text) => text.clone().into_bytes(),
        value => value.to_string().into_bytes(),
    };
    Files::Memory {
        name: "test".to_owned(),
        files: list.iter().map(|(name, value)| ((*name).to_owned(), bytes(value).into())).collect(),
    }
}

fn render(files: &Files, tools: Option<&[Value]>) -> String {
    let template = ChatTemplate::load(files).unwrap().unwrap();
    template.render(Chat { tools, ..Chat::default() }).unwrap()
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let config = |template: Value| ("tokenizer_config.json", json!({ "chat_template": template }));
    let plain = config(json!("from config"));
    let jinja = ("chat_template.jinja", json!("from jinja"));
    let processor = ("chat_template.json", json!({ "chat_template": "from processor" }));
    assert_eq!(render(&files(&[plain.clone(), jinja, processor.clone()]), None), "from jinja");
    assert_eq!(render(&files(&[plain, processor.clone()]), None), "from config");
    assert_eq!(render(&files(&[processor]), None), "from processor");
    assert!(ChatTemplate::load(&files(&[])).unwrap().is_none());
    let named = files(&[config(json!([
        { "name": "default", "template": "plain" },
        { "name": "tool_use", "template": "{{ tools | length }} tools" },
    ]))]);
    assert_eq!(render(&named, None), "plain");
    assert_eq!(render(&named, Some(&[json!({})])), "1 tools");
    let error = ChatTemplate::load(&files(&[("tokenizer_config.json", json!("{"))])).unwrap_err();
    assert!(error.to_string().starts_with("test/tokenizer_config.json: "), "{error}");
}

#[test]
fn special_tokens_are_texts_or_objects() {
    let found = files(&[
        (
            "tokenizer_config.json",
            json!({
                "chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}",
                "bos_token": { "content": "<s>", "lstrip": false },
            }),
        ),
        ("special_tokens_map.json", json!({ "bos_token": "no", "eos_token": "</s>" })),
    ]);
    assert_eq!(render(&found, None), "<s>|</s>|");
}

fn render_source(source: &str) -> Result<String, String> {
    let template = ChatTemplate::parse(&[("default", source)], Map::new());
    template.and_then(|template| template.render(Chat::default())).map_err(|e| e.to_string())
}

#[test]
fn values_print_as_python_prints_them() {
    let check = |source: &str, expected: &str| assert_eq!(render_source(source).unwrap(), expected);
    check("{{ none }} {{ true }} {{ false }}", "None True False");
    check(
        "{{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 0.00001 }} {{ 7 / 2 }}",
        "1.0 0.30000000000000004 1e+16 1e-05 3.5",
    );
    check(r#"{{ ["a", 'it"s', "it's", 1, none] }}"#, r#"['a', 'it"s', "it's", 1, None]"#);
    check(r#"{{ {"a": [true], "b": {}} }}"#, "{'a': [True], 'b': {}}");
    check("{{ [1, {'a': 2}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": 2\n  }\n]");
    check(
        "{{ {'b': 1, 'a': []} | tojson(sort_keys=true, separators=(',', ':')) }}",
        r#"{"a":[],"b":1}"#,
    );
    check(
        r#"{{ "é\u0001\n<" | tojson }} {{ "é🦀" | tojson(ensure_ascii=true) }}"#,
        r#""é\u0001\n<" "\u00e9\ud83e\udd80""#,
    );
}

#[test]
fn templates_that_go_wrong_are_errors_of_one_line() {
    let check = |source: &str, expected: &str| {
        let error = render_source(source).unwrap_err();
        assert!(error.starts_with("chat template: ") && error.contains(expected), "{error:?}");
        assert!(!error.contains('\n'), "{error:?}");
    };
    check("{% if %}", "default:1");
    check("{{ raise_exception('only\nthis') }}", "only this");
    check("{{ missing.field }}", "undefined");
    check("{{ nothing | tojson }}", "undefined");
    check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit");
    let loops = "{% for a in range(9999) %}".repeat(3) + &"{% endfor %}".repeat(3);
    check(&loops, "fuel");
    check("{{ 'x' * 100000000000 }}", "too large");
}
