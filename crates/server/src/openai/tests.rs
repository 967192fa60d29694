//! The API on models that answer: the demo model, and a tiny random one that says anything.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::Stages;
use crate::small_models::{TestServer, text};

static DEMO: LazyLock<TestServer> = LazyLock::new(TestServer::demo);
static RANDOM: LazyLock<TestServer> =
    LazyLock::new(|| TestServer::random("mixtral-bf16", Stages::load(None).unwrap()));

const CHAT: &str = "/v1/chat/completions";

/// A chat with more fields.
fn chat(more: &Value) -> Value {
    let mut body = json!({
        "model": "test",
        "messages": [{ "role": "user", "content": "Rechnung 17, Muster GmbH, 119,00 EUR" }],
        "max_tokens": 24,
        "temperature": 0,
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

async fn answer(server: &TestServer, path: &str, body: &Value) -> Value {
    let (status, answer) = server.json(path, body).await;
    assert_eq!(status, 200, "{body} {answer}");
    answer
}

/// Events of a stream, without its end.
async fn events(response: Response) -> Vec<Value> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let text = text(response).await;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn a_stream_says_what_a_whole_answer_says() {
    let whole = answer(&DEMO, CHAT, &chat(&json!({}))).await;
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(content.len() > 5, "{whole}");
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    let more = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = events(DEMO.post(CHAT, chat(&more)).await).await;
    let pieces = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), content);
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn headers_tell_what_was_in_force_and_what_means_nothing() {
    let response = DEMO.post(CHAT, chat(&json!({ "seed": 5, "foo": 1, "bar": null }))).await;
    assert_eq!(response.headers()["x-halfbyte-unknown-parameters"], "foo");
    let parameters = response.headers()["x-halfbyte-parameters"].to_str().unwrap();
    let parameters: Value = serde_json::from_str(parameters).unwrap();
    assert_eq!((&parameters["seed"], &parameters["max_tokens"]), (&json!(5), &json!(24)));
}

#[tokio::test]
async fn answer_i_of_n_is_what_its_seed_alone_gives() {
    let asked =
        chat(&json!({ "temperature": 1, "seed": 5, "n": 3, "logprobs": true, "top_logprobs": 2 }));
    let several = answer(&RANDOM, CHAT, &asked).await;
    for (i, choice) in several["choices"].as_array().unwrap().iter().enumerate() {
        let alone =
            chat(&json!({ "temperature": 1, "seed": 5 + i, "logprobs": true, "top_logprobs": 2 }));
        let alone = answer(&RANDOM, CHAT, &alone).await;
        assert_eq!(choice["message"], alone["choices"][0]["message"]);
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        let bytes = tokens.iter().flat_map(|token| token["bytes"].as_array().into_iter().flatten());
        let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
        // A run of bytes that is no text as a whole becomes replacement characters, even where a part of it is text.
        let text = String::from_utf8_lossy(&bytes);
        let mut rest = text.chars();
        let content = choice["message"]["content"].as_str().unwrap();
        let mut shown = content.chars().filter(|&c| c != char::REPLACEMENT_CHARACTER);
        assert!(shown.all(|shown| rest.any(|c| c == shown)), "{text:?} and {content:?}");
    }
}

#[tokio::test]
async fn calls_fit_their_tools_whatever_the_model_says() {
    let schema = json!({
        "type": "object",
        "properties": {
            "city": { "type": "string", "maxLength": 8 },
            "days": { "type": "integer", "minimum": 1, "maximum": 9 },
        },
        "required": ["city", "days"],
    });
    let tools = json!([
        { "type": "function", "function": { "name": "get_weather", "parameters": schema } },
        { "type": "function", "function": { "name": "get_time" } },
    ]);
    for seed in 0..6 {
        let asked = json!({
            "tools": tools, "tool_choice": "required", "temperature": 1, "seed": seed, "max_tokens": 150,
        });
        let whole = answer(&RANDOM, CHAT, &chat(&asked)).await;
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null, "{whole}");
        let calls = message["tool_calls"].as_array().unwrap();
        let mut expected = Vec::new();
        for call in calls {
            let arguments = call["function"]["arguments"].as_str().unwrap();
            let read: Value = serde_json::from_str(arguments).unwrap();
            match call["function"]["name"].as_str().unwrap() {
                "get_weather" => {
                    assert!((1..=9).contains(&read["days"].as_i64().unwrap()), "{call}")
                }
                name => assert_eq!((name, &read), ("get_time", &json!({}))),
            }
            expected.push((call["function"]["name"].clone(), arguments.to_owned()));
        }
        let mut asked = chat(&asked);
        asked["stream"] = true.into();
        let mut found: BTreeMap<u64, (Value, String)> = BTreeMap::new();
        for event in events(RANDOM.post(CHAT, asked).await).await {
            let delta = &event["choices"][0]["delta"];
            assert!(delta["content"].as_str().unwrap_or_default().is_empty(), "{event}");
            for piece in delta["tool_calls"].as_array().into_iter().flatten() {
                let call = found.entry(piece["index"].as_u64().unwrap()).or_default();
                if piece["function"]["name"].is_string() {
                    call.0 = piece["function"]["name"].clone();
                }
                call.1.push_str(piece["function"]["arguments"].as_str().unwrap());
            }
        }
        assert_eq!(found.into_values().collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn a_schema_holds_at_any_budget_that_is_taken() {
    let schema = json!({ "type": "object", "properties": { "total": { "type": "number" } }, "required": ["total"] });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let mut refused = 0;
    for max_tokens in 1..20 {
        let asked = json!({
            "response_format": format, "temperature": 1, "seed": max_tokens, "max_tokens": max_tokens,
        });
        let (status, body) = RANDOM.json(CHAT, chat(&asked)).await;
        if status != 200 {
            assert_eq!(
                (status.as_u16(), &body["error"]["code"]),
                (400, &json!("budget_too_small"))
            );
            refused += 1;
            continue;
        }
        let content = body["choices"][0]["message"]["content"].as_str().unwrap();
        let read: Value = serde_json::from_str(content).unwrap();
        assert!(read["total"].is_number() && read.as_object().unwrap().len() == 1, "{content}");
    }
    assert!((1..15).contains(&refused), "{refused}");
}

#[tokio::test]
async fn other_constraints_hold() {
    for (more, fits) in [
        (
            json!({ "structured_outputs": { "choice": ["yes", "no"] } }),
            (|text| text == "yes" || text == "no") as fn(&str) -> bool,
        ),
        (json!({ "guided_regex": "[0-9]{4}" }), |text| {
            text.len() == 4 && text.parse::<u32>().is_ok()
        }),
        (json!({ "guided_grammar": "start: \"a\" \"b\"" }), |text| text == "ab"),
        (json!({ "response_format": { "type": "json_object" } }), |text| {
            text.starts_with('{') && text.ends_with('}')
        }),
    ] {
        let mut asked = chat(&more);
        asked["temperature"] = 1.into();
        let body = answer(&RANDOM, CHAT, &asked).await;
        let content = body["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(fits(content), "{more}: {content}");
    }
    let open = json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "object", "not": {} } } } });
    let (status, body) = RANDOM.json(CHAT, chat(&open)).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["param"]),
        (400, &json!("response_format")),
        "{body}"
    );
}

#[tokio::test]
async fn the_log_probabilities_of_a_prompt_are_those_it_was_generated_with() {
    let complete = |more: Value| {
        let mut body = json!({ "model": "test", "temperature": 0, "logprobs": 1, "max_tokens": 6 });
        more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        body
    };
    let path = "/v1/completions";
    let tokens = answer(&DEMO, "/tokenize", &json!({ "text": "Rechnung" })).await["tokens"].clone();
    let generated = answer(&DEMO, path, &complete(json!({ "prompt": "Rechnung" }))).await;
    let by_tokens = answer(&DEMO, path, &complete(json!({ "prompt": tokens }))).await;
    assert_eq!(generated["choices"], by_tokens["choices"]);
    let logprobs = &generated["choices"][0]["logprobs"];
    let asked = complete(json!({ "prompt": "Rechnung", "echo": true }));
    let echoed = &answer(&DEMO, path, &asked).await["choices"][0];
    let shown = generated["choices"][0]["text"].as_str().unwrap();
    assert_eq!(echoed["text"], format!("Rechnung{shown}"));
    let count = tokens.as_array().unwrap().len();
    let all = echoed["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(all[0], Value::Null);
    assert!(all[1..].iter().all(|logprob| logprob.as_f64().unwrap() <= 0.0));
    assert_eq!(all[count..], *logprobs["token_logprobs"].as_array().unwrap());
    let mut offset = 0;
    let offsets = echoed["logprobs"]["text_offset"].as_array().unwrap();
    for found in offsets {
        let found = found.as_u64().unwrap();
        assert!(
            found >= offset && found <= echoed["text"].as_str().unwrap().chars().count() as u64
        );
        offset = found;
    }
    assert_eq!(offsets[count], "Rechnung".len());
}

#[tokio::test]
async fn a_response_streams_what_it_is() {
    let asked = json!({ "model": "test", "input": "Rechnung 17", "max_output_tokens": 20, "temperature": 0 });
    let whole = answer(&DEMO, "/v1/responses", &asked).await;
    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    let events = events(DEMO.post("/v1/responses", streamed).await).await;
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["status"], whole["status"]);
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let text: String = deltas.filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, whole["output"][0]["content"][0]["text"]);
}

#[tokio::test]
async fn tokens_go_both_ways() {
    let plain = json!({ "text": "Rechnung 17 für Zoë", "add_special_tokens": false, "return_token_strs": true });
    let tokens = answer(&DEMO, "/tokenize", &plain).await;
    assert_eq!(tokens["count"], tokens["token_strs"].as_array().unwrap().len());
    let back = answer(&DEMO, "/detokenize", &json!({ "tokens": tokens["tokens"] })).await;
    assert_eq!(back["text"], "Rechnung 17 für Zoë");
    let with_bos = answer(&DEMO, "/tokenize", &json!({ "text": "Rechnung 17 für Zoë" })).await;
    assert_eq!(with_bos["count"].as_u64(), tokens["count"].as_u64().map(|count| count + 1));
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let chat = answer(&DEMO, "/tokenize", &json!({ "messages": messages })).await;
    assert!(chat["count"].as_u64().unwrap() > 2);
    for (body, param) in [
        (json!({ "text": "a", "foo": 1 }), "foo"),
        (json!({ "text": "a", "messages": messages }), "text"),
        (json!({ "text": "a", "tools": [] }), "tools"),
        (json!({ "messages": messages, "add_special_tokens": true }), "add_special_tokens"),
        (json!({}), "text"),
    ] {
        let (status, error) = DEMO.json("/tokenize", &body).await;
        assert_eq!(
            (status.as_u16(), &error["error"]["param"]),
            (400, &json!(param)),
            "{body} {error}"
        );
    }
    let (status, error) = DEMO.json("/detokenize", json!({ "tokens": [1, 1_000_000] })).await;
    assert_eq!((status.as_u16(), &error["error"]["param"]), (400, &json!("tokens[1]")));
}

#[tokio::test]
async fn what_is_not_served_is_not_found() {
    let (status, error) = DEMO.json(CHAT, chat(&json!({ "model": "gpt-5" }))).await;
    assert_eq!((status.as_u16(), &error["error"]["code"]), (404, &json!("model_not_found")));
    let list: Value = serde_json::from_str(&text(DEMO.get("/v1/models").await).await).unwrap();
    assert_eq!(list["data"][0]["id"], "test");
    assert_eq!(DEMO.get("/v1/models/test").await.status(), 200);
    assert_eq!(DEMO.get("/v1/models/org/other").await.status(), 404);
    let long = json!({ "messages": [{ "role": "user", "content": "word ".repeat(4000) }] });
    let (status, error) = DEMO.json(CHAT, chat(&long)).await;
    let found = (status.as_u16(), &error["error"]["code"], &error["error"]["param"]);
    assert_eq!(found, (400, &json!("context_length_exceeded"), &json!("messages")));
}

#[tokio::test]
async fn who_leaves_is_forgotten() {
    let asked = json!({ "stream": true, "max_tokens": 4000, "ignore_eos": true, "n": 3 });
    let mut body = RANDOM.post(CHAT, chat(&asked)).await.into_body();
    assert!(body.frame().await.is_some());
    drop(body);
    let engine = &RANDOM.app.served().unwrap().engine;
    for _ in 0..1000 {
        if engine.stats().running == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the engine still holds {:?}", engine.stats());
}
