//! Choices, calls of tools, regular expressions, grammars: their answers, and how they end.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use grammar::{Grammar, Matcher, Spec, Tool, ToolFormat, Vocabulary};
use serde_json::{Value, json};
use support::valid::invalid;
use support::{Chooser, EOS, Rng, demo, demo_tokens, repository, walk};

fn tools() -> Vec<Tool> {
    let weather = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1}},
        "required": ["city"],
    });
    vec![
        Tool { name: "get_weather".into(), parameters: weather },
        Tool { name: "get_time".into(), parameters: json!({"type": "object", "properties": {}}) },
    ]
}

fn calls(format: ToolFormat, required: bool, parallel: bool) -> Grammar {
    let spec = Spec::Tools { tools: tools(), format, required, parallel };
    Grammar::compile(&demo(), &spec).unwrap()
}

/// The calls in a text of a format.
fn parse(text: &str, format: &ToolFormat) -> Vec<Value> {
    let read =
        |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    if format.list {
        let list =
            text.strip_prefix(format.begin.as_str()).unwrap().strip_suffix(format.end.as_str());
        return read(list.unwrap()).as_array().unwrap().clone();
    }
    if format.begin.is_empty() {
        return vec![read(text)];
    }
    let parts = text.split(format.begin.as_str()).skip(1);
    parts.map(|part| read(part.trim_end().strip_suffix(format.end.trim()).unwrap())).collect()
}

fn fits(call: &Value, format: &ToolFormat) -> bool {
    let tools = tools();
    let Some(tool) = tools.iter().find(|tool| call["name"] == tool.name.as_str()) else {
        return false;
    };
    call.as_object().unwrap().len() == 2
        && invalid(&tool.parameters, &call[&format.arguments_key]).is_none()
}

#[test]
fn every_call_fits_its_tool_at_any_budget() {
    let (vocabulary, tokens) = (demo(), demo_tokens());
    for format in [ToolFormat::hermes(), ToolFormat::mistral(), ToolFormat::llama3()] {
        for parallel in [false, true] {
            let grammar = calls(format.clone(), true, parallel);
            let shortest = grammar.shortest().unwrap();
            let mut most = 0;
            for seed in 0..60 {
                let budget = shortest + [0, 1, 2, 5, 20, 100][seed % 6];
                let chooser = [Chooser::Uniform, Chooser::Logits, Chooser::Greedy][seed / 6 % 3];
                let mut rng = Rng(seed as u64);
                let walk = walk(&grammar, &vocabulary, &tokens, budget, chooser, &mut rng);
                let text = String::from_utf8(walk.text).unwrap();
                assert!(walk.complete && walk.tokens <= budget, "{text}");
                let found = parse(&text, &format);
                assert!(found.iter().all(|call| fits(call, &format)), "{text}");
                assert!(!found.is_empty() && (parallel || found.len() == 1), "{text}");
                most = most.max(found.len());
            }
            assert_eq!(most > 1, parallel && format != ToolFormat::llama3(), "{format:?}");
        }
    }
}

/// Feeds a text, token by token; where it stops.
fn feed(matcher: &mut Matcher, vocabulary: &Vocabulary, text: &str, budget: usize) -> usize {
    let mut mask = vec![0; vocabulary.mask_words()];
    for (at, byte) in text.bytes().enumerate() {
        let token = demo_tokens().iter().position(
            |token| matches!(token, grammar::TokenText::Bytes(bytes) if bytes[..] == [byte]),
        );
        let token = token.unwrap() as u32;
        matcher.mask(budget - at, &mut mask).unwrap();
        let allowed = mask[token as usize / 32] >> (token % 32) & 1 == 1;
        if !allowed || !matcher.accept(token, budget - at).unwrap() {
            return at;
        }
    }
    text.len()
}

#[test]
fn text_may_come_instead_of_a_call_until_a_call_has_begun() {
    let vocabulary = demo();
    let mut mask = vec![0; vocabulary.mask_words()];
    let grammar = calls(ToolFormat::hermes(), false, true);
    assert_eq!(grammar.shortest(), Some(0));

    let mut text = grammar.matcher();
    let free = "It is {\"name\": warm <tool_call>\n{";
    assert_eq!(feed(&mut text, &vocabulary, free, 200), free.len());
    assert!(text.is_complete() && !text.was_cut());

    let mut almost = grammar.matcher();
    let free = "<tool> is no call";
    assert_eq!(feed(&mut almost, &vocabulary, free, 200), free.len());

    let mut call = grammar.matcher();
    let begun = "<tool_call>\n{\"name\": \"get_";
    assert_eq!(feed(&mut call, &vocabulary, begun, 200), begun.len());
    assert!(!call.is_complete());
    call.mask(150, &mut mask).unwrap();
    assert_eq!(mask[EOS as usize / 32] >> EOS & 1, 0, "a call that has begun has to end");
    assert_eq!(feed(&mut call, &vocabulary, "stock", 150), 0);
    let rest = "time\", \"arguments\": {}}\n</tool_call>";
    assert_eq!(feed(&mut call, &vocabulary, rest, 150), rest.len());
    assert!(call.is_complete());

    let mut wrong = grammar.matcher();
    let text = "<tool_call>\nno";
    assert_eq!(feed(&mut wrong, &vocabulary, text, 200), "<tool_call>\n".len());

    // No call begins that could not end.
    let mut late = grammar.matcher();
    assert!(
        feed(&mut late, &vocabulary, "<tool_call>\n", 14) < "<tool_call>\n".len()
            || late.is_complete()
    );
}

#[test]
fn choices_end_in_time() {
    let (vocabulary, tokens) = (demo(), demo_tokens());
    let choices: Vec<String> =
        ["invoice", "invoices of March", "été", "\"quoted\" \\ text", "a\nb", "invoice "]
            .map(str::to_owned)
            .to_vec();
    let grammar = Grammar::compile(&vocabulary, &Spec::Choice(choices.clone())).unwrap();
    let shortest = grammar.shortest().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let budget = shortest + seed % 12;
        let mut rng = Rng(seed as u64);
        let walk = walk(&grammar, &vocabulary, &tokens, budget, Chooser::Uniform, &mut rng);
        let text = String::from_utf8(walk.text).unwrap();
        assert!(walk.complete && choices.contains(&text), "{text:?}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), choices.len(), "{seen:?}");
    for choices in [vec![], vec![String::new()], vec!["a".to_owned(); 5000]] {
        assert!(Grammar::compile(&vocabulary, &Spec::Choice(choices)).is_err());
    }
}

#[test]
fn any_json_object_ends_in_time_and_stays_shallow() {
    let (vocabulary, tokens) = (demo(), demo_tokens());
    let grammar = Grammar::compile(&vocabulary, &Spec::JsonObject).unwrap();
    assert!(grammar.shortest().unwrap() <= 2);
    for seed in 0..40 {
        let chooser = if seed % 2 == 0 { Chooser::Greedy } else { Chooser::Uniform };
        let budget = 2 + 20 * seed as usize;
        let walk = walk(&grammar, &vocabulary, &tokens, budget, chooser, &mut Rng(seed));
        let text = String::from_utf8(walk.text).unwrap();
        // serde_json itself refuses what nests more than 128 deep.
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
    }
}

#[test]
fn regular_expressions_and_grammars_have_no_shortest() {
    let (vocabulary, tokens) = (demo(), demo_tokens());
    let lark = "start: \"SELECT \" NAME (\", \" NAME)*\nNAME: /[a-z]{1,8}/\n";
    for spec in [Spec::Regex("(foo|ba+r)[0-9]{2}".into()), Spec::Lark(lark.into())] {
        let grammar = Grammar::compile(&vocabulary, &spec).unwrap();
        assert_eq!(grammar.shortest(), None);
        let mut ended = 0;
        for seed in 0..50 {
            let mut matcher = grammar.matcher();
            assert!(matcher.next_of_completion().is_err());
            let walk =
                walk(&grammar, &vocabulary, &tokens, 100_000, Chooser::Uniform, &mut Rng(seed));
            ended += usize::from(walk.complete);
        }
        assert_eq!(ended, 50);
    }
    for spec in [
        Spec::Regex("(".into()),
        Spec::Regex("(?<=a)b".into()),
        Spec::Lark("start: absent".into()),
        Spec::Lark(String::new()),
        Spec::Lark("start: %json {\"not\": {}}".into()),
    ] {
        let Err(error) = Grammar::compile(&vocabulary, &spec) else { panic!("{spec:?} is taken") };
        let error = error.to_string();
        assert!(error.len() < 500 && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_number_at_the_root_may_end_but_need_not() {
    let vocabulary = demo();
    let spec = Spec::JsonSchema { schema: json!({"type": "integer"}), open: false };
    let mut matcher = Grammar::compile(&vocabulary, &spec).unwrap().matcher();
    let mut mask = vec![0; vocabulary.mask_words()];
    assert!(!matcher.is_complete());
    assert_eq!(feed(&mut matcher, &vocabulary, "12", 3), 2);
    assert!(matcher.is_complete() && !matcher.is_finished() && !matcher.was_cut());
    matcher.mask(1, &mut mask).unwrap();
    assert_eq!(mask[EOS as usize / 32] >> EOS & 1, 1);
    assert!(mask.iter().map(|word| word.count_ones()).sum::<u32>() > 1);
    matcher.mask(0, &mut mask).unwrap();
    assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 1, "EOS alone");
    assert!(matcher.was_cut());

    let spec = Spec::JsonSchema { schema: json!({"const": null}), open: false };
    let mut matcher = Grammar::compile(&vocabulary, &spec).unwrap().matcher();
    assert_eq!(feed(&mut matcher, &vocabulary, "null", 4), 4);
    assert!(matcher.is_complete() && matcher.is_finished());
}

#[test]
fn objects_are_closed_unless_they_are_to_be_open() {
    let vocabulary = demo();
    let takes = |schema: Value, open: bool, text: &str| {
        let grammar = Grammar::compile(&vocabulary, &Spec::JsonSchema { schema, open }).unwrap();
        let mut matcher = grammar.matcher();
        feed(&mut matcher, &vocabulary, text, 200) == text.len() && matcher.is_complete()
    };
    let named = json!({"properties": {"a": {"type": "integer"}}});
    assert!(takes(named.clone(), false, r#"{"a": 1}"#));
    assert!(!takes(named.clone(), false, r#"{"a": 1, "b": 2}"#));
    assert!(takes(named.clone(), true, r#"{"a": 1, "b": 2}"#));
    assert!(!takes(named.clone(), true, r#"{"b": 2, "a": "x"}"#), "no second `a` of another type");
    assert!(takes(json!({"type": "object"}), false, r#"{"b": [2, {"c": null}]}"#));
    // Closed after the merge.
    let merged =
        json!({"allOf": [named, {"properties": {"b": {"type": "integer"}}, "required": ["c"]}]});
    assert!(takes(merged.clone(), false, r#"{"a": 1, "b": 2, "c": true}"#));
    assert!(!takes(merged.clone(), false, r#"{"a": 1, "b": 2, "c": true, "d": 1}"#));
    assert!(takes(merged, true, r#"{"a": 1, "b": 2, "c": true, "d": 1}"#));
}

#[test]
fn formats_are_told_from_the_templates_of_real_families() {
    for (fixture, format) in [
        ("mistral-tools", ToolFormat::mistral()),
        ("mistral-tools-id", ToolFormat::mistral()),
        ("llama3-tools", ToolFormat::llama3()),
        ("llama3-tools-system", ToolFormat::llama3()),
        ("llama3-two-calls", ToolFormat::llama3()),
        ("qwen2-tools", ToolFormat::hermes()),
        ("qwen3-tools", ToolFormat::hermes()),
        // No format of its own.
        ("chatml", ToolFormat::hermes()),
    ] {
        let path = repository(&format!("fixtures/templates/{fixture}.json"));
        let case: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(ToolFormat::detect(case["template"].as_str().unwrap()), format, "{fixture}");
    }
}

#[test]
fn long_texts_end_in_time() {
    let (vocabulary, tokens) = (demo(), demo_tokens());
    for schema in [
        json!({"type": "string", "minLength": 4_000}),
        json!({"type": "array", "items": {"type": "string", "minLength": 300}, "minItems": 40}),
        json!({"type": "string", "pattern": "^(a|b{150})+$"}),
        json!({"enum": ["a", "abcdefghijklmnopqrstuvwxyz".repeat(20)]}),
    ] {
        let spec = Spec::JsonSchema { schema: schema.clone(), open: false };
        let grammar = Grammar::compile(&vocabulary, &spec).unwrap();
        let shortest = grammar.shortest().unwrap();
        for seed in 0..4 {
            let budget = shortest + 40 * seed as usize;
            let walk =
                walk(&grammar, &vocabulary, &tokens, budget, Chooser::Uniform, &mut Rng(seed));
            assert!(walk.complete);
            assert_eq!(invalid(&schema, &serde_json::from_slice(&walk.text).unwrap()), None);
        }
    }
}
