//! Streams and whole answers of scripted engines.

use std::sync::Arc;

use engine::{EngineError, Event, FinishReason};
use expect_test::{Expect, expect};
use grammar::ToolFormat;

use super::stream::{Header, collect, messages};
use super::{ChatCompletion, ChatRequest};
use crate::ApiError;
use crate::openai::choice::Choice;
use crate::openai::logprobs::TokenTexts;
use crate::openai::testing::{answer, finished, lines, script, token, tokenizer};

fn header(logprobs: bool) -> Header {
    Header {
        id: "chatcmpl-1".to_owned(),
        created: 5,
        model: "demo".to_owned(),
        build: "b".to_owned(),
        texts: logprobs.then(|| Arc::new(TokenTexts::new(&tokenizer()).unwrap())),
        call_id: || "callid123".to_owned(),
    }
}

/// What all pieces of a stream have in common.
const COMMON: &str = r#""id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"demo","system_fingerprint":"b","#;

async fn stream(choice: Choice, logprobs: bool, usage: bool, events: Vec<Event>) -> String {
    let text = lines(messages(header(logprobs), vec![choice], usage, script(events))).await;
    let pieces = text.lines().filter(|line| line.contains("chat.completion.chunk")).count();
    assert_eq!(pieces, text.matches(COMMON).count());
    text.replace(COMMON, "")
}

async fn whole(choice: Choice, events: Vec<Event>) -> Result<ChatCompletion, ApiError> {
    collect(header(false), vec![choice], script(events)).await
}

fn plain() -> Choice {
    Choice::new(vec![2], false)
}

fn with_tools() -> Choice {
    let format = ToolFormat::hermes();
    plain().with_calls(format, vec!["add".to_owned()], &tokenizer())
}

const CALL: [&str; 8] = [
    "<tool",
    "_call>\n",
    "{\"name\"",
    ": \"add\", \"arg",
    "uments\": {\"a\":",
    " 1}",
    "}\n</tool_c",
    "all>",
];

#[tokio::test]
async fn text_streams_piece_by_piece() {
    let mut events = answer(&["Hello", " you"], FinishReason::Stop);
    // The token that ends the answer shows nothing.
    events.insert(3, token(2, ""));
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":" you"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}
        {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}
        [DONE]
    "#]].assert_eq(&stream(plain(), false, true, events).await);
}

#[tokio::test]
async fn what_was_held_back_comes_with_the_end() {
    let events = vec![token(300, "Hel"), finished("Hello", FinishReason::Length)];
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"lo"},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}
        [DONE]
    "#]].assert_eq(&stream(plain(), false, false, events).await);
}

#[tokio::test]
async fn log_probabilities_come_with_their_text_or_alone() {
    let mut events = answer(&["Hello", ""], FinishReason::Stop);
    events.insert(3, token(2, ""));
    let choice = Choice::new(vec![2], true);
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":{"content":[{"token":"====","logprob":-0.5,"bytes":[61,61,61,61],"top_logprobs":[{"token":"====","logprob":-0.5,"bytes":[61,61,61,61]},{"token":"----","logprob":-9999.0,"bytes":[45,45,45,45]}]}],"refusal":null},"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":""},"logprobs":{"content":[{"token":"----","logprob":-0.5,"bytes":[45,45,45,45],"top_logprobs":[{"token":"----","logprob":-0.5,"bytes":[45,45,45,45]},{"token":"num","logprob":-9999.0,"bytes":[110,117,109]}]}],"refusal":null},"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
        [DONE]
    "#]].assert_eq(&stream(choice, true, false, events).await);
}

#[tokio::test]
async fn calls_stream_without_their_wrapping() {
    let events = answer(&CALL, FinishReason::Stop);
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"callid123","type":"function","function":{"name":"add","arguments":""}}]},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" 1}"}}]},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}
        [DONE]
    "#]].assert_eq(&stream(with_tools(), false, false, events).await);
}

#[tokio::test]
async fn calls_are_collected() {
    let completion = whole(with_tools(), answer(&CALL, FinishReason::Stop)).await.unwrap();
    expect![[r#"
        {
          "id": "chatcmpl-1",
          "object": "chat.completion",
          "created": 5,
          "model": "demo",
          "system_fingerprint": "b",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": null,
                "refusal": null,
                "tool_calls": [
                  {
                    "id": "callid123",
                    "type": "function",
                    "function": {
                      "name": "add",
                      "arguments": "{\"a\": 1}"
                    }
                  }
                ]
              },
              "logprobs": null,
              "finish_reason": "tool_calls"
            }
          ],
          "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {
              "cached_tokens": 4
            }
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&completion).unwrap());
    let cut = whole(with_tools(), answer(&CALL, FinishReason::Length)).await.unwrap();
    assert_eq!(cut.choices[0].finish_reason, "length");
}

#[tokio::test]
async fn an_error_in_mid_stream_is_an_event() {
    let events = vec![token(300, "Hel"), Event::Failed(EngineError::Deadline)];
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}
        {"choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}],"usage":null}
        {"error":{"message":"the answer was not whole when the time for a request was over (--request-timeout of the server); ask for a shorter one, or again when fewer others ask","type":"server_error","param":null,"code":"deadline_exceeded"}}
        [DONE]
    "#]].assert_eq(&stream(plain(), false, true, events).await);
    expect![[r#"
        {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":null,"finish_reason":null}]}
        {"error":{"message":"the answer ended before it was whole; see the server's log","type":"server_error","param":null,"code":"internal_error"}}
        [DONE]
    "#]].assert_eq(&stream(plain(), false, false, vec![token(300, "Hel")]).await);
    let events = vec![token(300, "Hel"), Event::Failed(EngineError::Deadline)];
    assert_eq!(whole(plain(), events).await.unwrap_err().status, 504);
}

#[tokio::test]
async fn choices_keep_their_numbers() {
    let events = [
        (1, token(300, "one")),
        (0, token(300, "null")),
        (1, finished("one", FinishReason::Stop)),
        (0, finished("null", FinishReason::Stop)),
    ];
    let events = futures_util::stream::iter(events);
    let completion = collect(header(false), vec![plain(), plain()], events).await.unwrap();
    let texts: Vec<_> =
        completion.choices.iter().map(|c| (c.index, c.message.content.as_deref())).collect();
    assert_eq!(texts, [(0, Some("null")), (1, Some("one"))]);
    let usage = completion.usage;
    let counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens);
    assert_eq!((counts, usage.prompt_tokens_details.cached_tokens), ((7, 6, 13), 4));
}

fn check(more: &str, expected: &Expect) {
    let body =
        format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "Hi"}}], {more}}}"#);
    check_body(&body, expected);
}

fn check_body(body: &str, expected: &Expect) {
    let text = match ChatRequest::from_json(body.as_bytes()) {
        Ok((request, unknown)) => {
            let options = request.options().unwrap();
            let messages = request.dialogue().unwrap().messages;
            format!(
                "{:?} {unknown:?} {}",
                options.max_tokens,
                serde_json::to_string(&messages).unwrap()
            )
        }
        Err(e) => format!("{} {:?}: {}", e.param.unwrap_or_default(), e.code, e.message),
    };
    expected.assert_eq(&text);
}

#[test]
fn what_clients_send_is_understood() {
    check(
        r#""tools": [], "stop": null, "max_tokens": null, "tool_choice": "auto", "logit_bias": {}"#,
        &expect![[r#"None [] [{"role":"user","content":"Hi"}]"#]],
    );
    check(
        r#""max_completion_tokens": 5, "max_tokens": 5, "store": false, "service_tier": "auto", "user": "x", "metadata": {"a": "b"}"#,
        &expect![[r#"Some(5) [] [{"role":"user","content":"Hi"}]"#]],
    );
    check(
        r#""extra_body": {}, "lc_kwargs": 1, "parallel_tool_calls": false"#,
        &expect![[r#"None ["extra_body", "lc_kwargs"] [{"role":"user","content":"Hi"}]"#]],
    );
    check_body(
        r#"{"model": "m", "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", "cache_control": {}}]},
            {"role": "user", "content": "1+1?", "name": "Zoe"},
            {"role": "assistant", "content": null, "refusal": null, "audio": null, "tool_calls": [{"id": "c", "type": "function", "index": 0, "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "2"}
        ]}"#,
        &expect![[
            r#"None ["messages[0].content[1].cache_control", "messages[2].audio", "messages[2].tool_calls[0].index"] [{"role":"developer","content":"Be brief.\nBe kind."},{"role":"user","content":"1+1?","name":"Zoe"},{"role":"assistant","content":"","tool_calls":[{"type":"function","id":"c","function":{"name":"add","arguments":{"a":1}}}]},{"role":"tool","content":"2","tool_call_id":"c"}]"#
        ]],
    );
}

#[test]
fn what_cannot_be_done_is_named() {
    check(r#""max_tokens": 0"#, &expect!["max_tokens None: `max_tokens` must be at least 1"]);
    check(
        r#""max_tokens": 5, "max_completion_tokens": 6"#,
        &expect!["max_tokens None: `max_tokens` and `max_completion_tokens` differ; give one"],
    );
    check(
        r#""max_tokens": -1"#,
        &expect![
            "max_tokens None: `max_tokens`: invalid value: integer `-1`, expected a whole number that is not negative"
        ],
    );
    check(
        r#""response_format": {"type": "json_object"}, "stop": "x""#,
        &expect![
            "stop None: `stop` could break off an answer that has to fit `response_format`; leave it out"
        ],
    );
    check(
        r#""tools": [{"type": "function", "function": {"name": "f"}}], "stop_token_ids": [5]"#,
        &expect![
            "stop_token_ids None: `stop_token_ids` could break off an answer that has to fit `tools`; leave it out"
        ],
    );
    check(r#""n": 0"#, &expect!["n None: `n` is 0; it must be 1 to 128"]);
    check(r#""n": 129"#, &expect!["n None: `n` is 129; it must be 1 to 128"]);
    check(
        r#""top_logprobs": 2"#,
        &expect![[r#"top_logprobs None: `top_logprobs` needs `"logprobs": true`"#]],
    );
    check(
        r#""logprobs": true, "top_logprobs": 21"#,
        &expect!["top_logprobs None: `top_logprobs` is 21; at most 20 can be had"],
    );
    check(r#""stop": ["a", ""]"#, &expect!["stop None: `stop[1]` must be 1 to 1024 bytes long"]);
    check(
        r#""stop": 1"#,
        &expect![
            "stop None: `stop`: invalid type: integer `1`, expected a text or a list of texts"
        ],
    );
    check(
        r#""top_k": -2"#,
        &expect!["top_k None: `top_k` is -2; it must be at least 1, or 0 or -1 for all"],
    );
    check(
        r#""stream_options": {"include_usage": true}"#,
        &expect![[r#"stream_options None: `stream_options` needs `"stream": true`"#]],
    );
    check(
        r#""logit_bias": {"50256": -100}"#,
        &expect![[
            r#"logit_bias Some("unsupported_parameter"): `logit_bias` is not supported: use `structured_outputs` to say what may be answered"#
        ]],
    );
    check(
        r#""modalities": ["text", "audio"]"#,
        &expect![[
            r#"modalities Some("unsupported_parameter"): `modalities` is not supported: the model writes text alone"#
        ]],
    );
    check(
        r#""service_tier": "flex""#,
        &expect![[
            r#"service_tier Some("unsupported_parameter"): `service_tier` is not supported: there is one tier"#
        ]],
    );
    check(
        r#""functions": [{"name": "f"}]"#,
        &expect![[
            r#"functions Some("unsupported_parameter"): `functions` is not supported: it is deprecated; send `tools`"#
        ]],
    );
    check(
        r#""function_call": {"name": "f"}"#,
        &expect![[
            r#"function_call Some("unsupported_parameter"): `function_call` is not supported: it is deprecated; send `tool_choice`"#
        ]],
    );
    check(
        r#""web_search_options": {"user_location": null}"#,
        &expect![[
            r#"web_search_options Some("unsupported_parameter"): `web_search_options` is not supported: this server asks nobody else"#
        ]],
    );
    check(
        r#""response_format": "json""#,
        &expect![[
            r#"response_format None: `response_format`: invalid type: string "json", expected an object"#
        ]],
    );
    check(
        r#""response_format": {"type": "json_object"}, "tools": [{"type": "function", "function": {"name": "f"}}]"#,
        &expect![[
            r#"response_format None: `response_format` and `tools` cannot both decide the form of an answer; send one, or `"tool_choice": "none"`"#
        ]],
    );
    check(
        r#""response_format": {"type": "json_object"}, "ignore_eos": true"#,
        &expect![
            "response_format None: `response_format` ends the answer where it fits; `ignore_eos` cannot be had with it"
        ],
    );
    check(
        r#""tool_choice": {"name": "f"}"#,
        &expect!["tool_choice None: `tool_choice`: missing field `type`"],
    );
    check_body(
        r#"{"model": "m", "messages": []}"#,
        &expect!["messages None: `messages` is empty; say something"],
    );
    check_body(r#"{"model": "m"}"#, &expect!["messages None: missing field `messages`"]);
    check_body(
        r#"{"model": "m", "messages": "Hi"}"#,
        &expect![[r#"messages None: `messages`: invalid type: string "Hi", expected a list"#]],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "user"}]}"#,
        &expect!["messages[0].content None: `messages[0].content` is missing"],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "function", "content": "x"}]}"#,
        &expect![
            "messages[0].role None: `messages[0].role` is `function`; roles are system, developer, user, assistant and tool"
        ],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#,
        &expect![[
            r#"messages[0].content[0].type Some("unsupported_content"): `messages[0].content[0]` is of type `image_url`; this model reads text alone: send parts of type `text`"#
        ]],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
        &expect!["messages[0].content[0].text None: `messages[0].content[0].text` is missing"],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "user", "content": {"text": "x"}}]}"#,
        &expect![
            "messages[0].content None: `messages[0].content`: invalid type: map, expected a text or a list of parts"
        ],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]}"#,
        &expect![
            "messages[0].tool_calls None: `messages[0].tool_calls`: a message of role user calls no tools"
        ],
    );
    check_body(
        r#"{"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}"#,
        &expect![
            "messages[0].tool_calls[0].function.arguments None: `messages[0].tool_calls[0].function.arguments` must be a JSON object, written as a text"
        ],
    );
}
