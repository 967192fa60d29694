//! Renders `fixtures/templates`, which transformers rendered.

use std::path::Path;

use model::{Chat, ChatTemplate};
use serde_json::{Map, Value};

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
