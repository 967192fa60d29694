//! Continuations by scripted engines.

use std::sync::Arc;

use engine::{Event, FinishReason};
use expect_test::{Expect, expect};

use super::CompletionRequest;
use super::stream::{Echo, Header, collect, messages};
use crate::openai::choice::Choice;
use crate::openai::logprobs::TokenTexts;
use crate::openai::testing::{answer, finished, generated, lines, script, token, tokenizer};

fn header(logprobs: bool, echo: Vec<Echo>) -> Header {
    Header {
        id: "cmpl-1".to_owned(),
        created: 5,
        model: "demo".to_owned(),
        build: "b".to_owned(),
        texts: logprobs.then(|| Arc::new(TokenTexts::new(&tokenizer()).unwrap())),
        n: 1,
        echo,
    }
}

fn echo() -> Vec<Echo> {
    vec![Echo { text: "añb".to_owned(), tokens: vec![1, 310, 311], offsets: vec![0, 0, 2] }]
}

#[tokio::test]
async fn an_echo_comes_before_the_answer() {
    let prompt = Event::PromptLogprobs(vec![generated(310, ""), generated(311, "")]);
    let events = [Event::Prefill { done: 3, total: 3, cached: 0 }, prompt];
    let events = events.into_iter().chain(answer(&["x", "y"], FinishReason::Stop)).collect();
    let choice = Choice::new(vec![2], true);
    let body = collect(header(true, echo()), vec![choice], script(events)).await.unwrap();
    expect![[r#"{"id":"cmpl-1","object":"text_completion","created":5,"model":"demo","system_fingerprint":"b","choices":[{"index":0,"text":"añbxy","logprobs":{"tokens":["<s>","pe","UR","====","----"],"token_logprobs":[null,-0.5,-0.5,-0.5,-0.5],"top_logprobs":[null,{"pe":-0.5,"UR":-9999.0},{"UR":-0.5,"date":-9999.0},{"====":-0.5,"----":-9999.0},{"----":-0.5,"num":-9999.0}],"text_offset":[0,0,2,3,4]},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}"#]].assert_eq(&serde_json::to_string(&body).unwrap());
}

#[tokio::test]
async fn a_prompt_is_echoed_without_an_answer() {
    let events = vec![finished("", FinishReason::Length)];
    let choice = Choice::new(vec![2], false);
    let body = collect(header(false, echo()), vec![choice], script(events)).await.unwrap();
    assert_eq!(
        (body.choices[0].text.as_str(), body.choices[0].finish_reason),
        ("añb", Some("length"))
    );
}

#[tokio::test]
async fn text_streams_piece_by_piece() {
    let events = answer(&["x", "y"], FinishReason::Stop);
    let choice = Choice::new(vec![2], false);
    let text = lines(messages(header(false, echo()), vec![choice], true, script(events))).await;
    expect![[r#"
        {"id":"cmpl-1","object":"text_completion","created":5,"model":"demo","system_fingerprint":"b","choices":[{"index":0,"text":"añbx","logprobs":null,"finish_reason":null}],"usage":null}
        {"id":"cmpl-1","object":"text_completion","created":5,"model":"demo","system_fingerprint":"b","choices":[{"index":0,"text":"y","logprobs":null,"finish_reason":null}],"usage":null}
        {"id":"cmpl-1","object":"text_completion","created":5,"model":"demo","system_fingerprint":"b","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}
        {"id":"cmpl-1","object":"text_completion","created":5,"model":"demo","system_fingerprint":"b","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}
        [DONE]
    "#]].assert_eq(&text);
    let events = vec![token(300, "x")];
    let choice = Choice::new(vec![2], false);
    let text =
        lines(messages(header(false, Vec::new()), vec![choice], false, script(events))).await;
    assert!(text.contains(r#"{"error":{"message""#) && text.ends_with("[DONE]\n"), "{text}");
}

fn check(body: &str, expected: &Expect) {
    let text = match CompletionRequest::from_json(body.as_bytes()) {
        Ok((request, unknown)) => format!("{:?} {unknown:?}", request.prompt),
        Err(e) => format!("{} {:?}: {}", e.param.unwrap_or_default(), e.code, e.message),
    };
    expected.assert_eq(&text);
}

#[test]
fn prompts_have_four_forms() {
    check(
        r#"{"model": "m", "prompt": "a", "best_of": 1, "suffix": null}"#,
        &expect![[r#"Text("a") []"#]],
    );
    check(
        r#"{"model": "m", "prompt": ["a", "b"], "n": 64}"#,
        &expect![[r#"Texts(["a", "b"]) []"#]],
    );
    check(r#"{"model": "m", "prompt": [1, 2]}"#, &expect!["Tokens([1, 2]) []"]);
    check(r#"{"model": "m", "prompt": [[1], [2, 3]]}"#, &expect!["TokenLists([[1], [2, 3]]) []"]);
    check(
        r#"{"model": "m", "prompt": []}"#,
        &expect![
            "prompt None: `prompt`: invalid type: sequence, expected a text, a list of texts, a list of tokens, or a list of such lists"
        ],
    );
    check(
        r#"{"model": "m", "prompt": ["a", 1]}"#,
        &expect![
            "prompt None: `prompt`: invalid type: sequence, expected a text, a list of texts, a list of tokens, or a list of such lists"
        ],
    );
    check(
        r#"{"model": "m", "prompt": [-1]}"#,
        &expect![
            "prompt[0] None: `prompt[0]`: invalid type: integer `-1`, expected a text, a token, or a list of tokens"
        ],
    );
    check(
        r#"{"model": "m", "prompt": [4294967296]}"#,
        &expect![
            "prompt[0] None: `prompt[0]`: invalid value: integer `4294967296`, expected a text, a token, or a list of tokens"
        ],
    );
    check(
        r#"{"model": "m", "prompt": {"a": 1}}"#,
        &expect![
            "prompt None: `prompt`: invalid type: map, expected a text, a list of texts, a list of tokens, or a list of such lists"
        ],
    );
}

#[test]
fn what_cannot_be_done_is_named() {
    check(
        r#"{"model": "m", "prompt": "a", "suffix": "b"}"#,
        &expect![[
            r#"suffix Some("unsupported_parameter"): `suffix` is not supported: the model continues texts, it fills no gaps"#
        ]],
    );
    check(
        r#"{"model": "m", "prompt": "a", "best_of": 2}"#,
        &expect![[
            r#"best_of Some("unsupported_parameter"): `best_of` is not supported but for the value of `n`: choose among `n` yourself"#
        ]],
    );
    check(
        r#"{"model": "m", "prompt": ["a", "b"], "n": 65}"#,
        &expect!["prompt None: 130 answers are more than 128; send fewer prompts at once"],
    );
    check(
        r#"{"model": "m", "prompt": "a", "max_tokens": 0}"#,
        &expect![
            "max_tokens None: `max_tokens` is 0: nothing would be answered; only with `echo` it can be"
        ],
    );
    check(
        r#"{"model": "m", "prompt": "a", "max_tokens": 0, "echo": true}"#,
        &expect![[r#"Text("a") []"#]],
    );
    check(
        r#"{"model": "m", "prompt": "a", "logprobs": 21}"#,
        &expect!["logprobs None: `logprobs` is 21; at most 20 can be had"],
    );
    check(
        r#"{"model": "m", "prompt": "a", "logprobs": true}"#,
        &expect![
            "logprobs None: `logprobs`: invalid type: boolean `true`, expected a whole number that is not negative"
        ],
    );
}
