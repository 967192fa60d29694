//! Responses of scripted engines.

use engine::{EngineError, Event, FinishReason};
use expect_test::expect;
use grammar::ToolFormat;

use super::stream::{Names, Writer, collect, messages};
use super::{ResponsesRequest, start};
use crate::openai::choice::Choice;
use crate::openai::testing::{answer, lines, script, token, tokenizer};

fn writer() -> Writer {
    let body = br#"{"model": "demo", "input": "Hi", "metadata": {"a": "b"}, "store": false}"#;
    let (request, _) = ResponsesRequest::from_json(body).unwrap();
    let mut response = start(request, &engine::Request::default());
    response.id = "resp-1".to_owned();
    response.created_at = 5;
    let format = ToolFormat::hermes();
    let names = vec!["add".to_owned()];
    let choice = Choice::new(vec![2], false).with_calls(format, names, &tokenizer());
    let names = Names { item: |kind| format!("{kind}-1"), call: || "callid123".to_owned() };
    Writer::new(response, choice, names)
}

/// The stream; responses stand in full in the first event alone.
async fn stream(events: Vec<Event>) -> String {
    let text = lines(messages(writer(), script(events))).await;
    let shorten = |(i, line): (usize, &str)| match line.find("\"instructions\"") {
        Some(at) if i > 0 => {
            let output = line.find("\"output\"").unwrap();
            let rest = line.find("\"parallel_tool_calls\"").unwrap();
            let usage = line.find("\"usage\"").unwrap();
            format!("{}…{}…{}\n", &line[..at], &line[output..rest], &line[usage..])
        }
        _ => format!("{line}\n"),
    };
    text.lines().enumerate().map(shorten).collect()
}

#[tokio::test]
async fn a_text_has_its_events() {
    expect![[r#"
        response.created: {"sequence_number":0,"type":"response.created","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"model":"demo","output":[],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":0.0,"top_p":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"truncation":"disabled","usage":null,"metadata":{"a":"b"},"user":null}}
        response.in_progress: {"sequence_number":1,"type":"response.in_progress","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,…"output":[],…"usage":null,"metadata":{"a":"b"},"user":null}}
        response.output_item.added: {"sequence_number":2,"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg-1","status":"in_progress","role":"assistant","content":[]}}
        response.content_part.added: {"sequence_number":3,"type":"response.content_part.added","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}
        response.output_text.delta: {"sequence_number":4,"type":"response.output_text.delta","item_id":"msg-1","output_index":0,"content_index":0,"delta":"Hello","logprobs":[]}
        response.output_text.delta: {"sequence_number":5,"type":"response.output_text.delta","item_id":"msg-1","output_index":0,"content_index":0,"delta":" you","logprobs":[]}
        response.output_text.done: {"sequence_number":6,"type":"response.output_text.done","item_id":"msg-1","output_index":0,"content_index":0,"text":"Hello you","logprobs":[]}
        response.content_part.done: {"sequence_number":7,"type":"response.content_part.done","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"Hello you","annotations":[],"logprobs":[]}}
        response.output_item.done: {"sequence_number":8,"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg-1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello you","annotations":[],"logprobs":[]}]}}
        response.completed: {"sequence_number":9,"type":"response.completed","response":{"id":"resp-1","object":"response","created_at":5,"status":"completed","error":null,"incomplete_details":null,…"output":[{"type":"message","id":"msg-1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello you","annotations":[],"logprobs":[]}]}],…"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":4},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":10},"metadata":{"a":"b"},"user":null}}
    "#]].assert_eq(&stream(answer(&["Hello", " you"], FinishReason::Stop)).await);
}

#[tokio::test]
async fn a_call_has_its_events() {
    let texts = [
        "I add.",
        "<tool_call>\n{\"name\": \"add\", ",
        "\"arguments\": {\"a\"",
        ": 1}}\n</tool_call>",
    ];
    expect![[r#"
        response.created: {"sequence_number":0,"type":"response.created","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"model":"demo","output":[],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":0.0,"top_p":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"truncation":"disabled","usage":null,"metadata":{"a":"b"},"user":null}}
        response.in_progress: {"sequence_number":1,"type":"response.in_progress","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,…"output":[],…"usage":null,"metadata":{"a":"b"},"user":null}}
        response.output_item.added: {"sequence_number":2,"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg-1","status":"in_progress","role":"assistant","content":[]}}
        response.content_part.added: {"sequence_number":3,"type":"response.content_part.added","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}
        response.output_text.delta: {"sequence_number":4,"type":"response.output_text.delta","item_id":"msg-1","output_index":0,"content_index":0,"delta":"I add.","logprobs":[]}
        response.output_text.done: {"sequence_number":5,"type":"response.output_text.done","item_id":"msg-1","output_index":0,"content_index":0,"text":"I add.","logprobs":[]}
        response.content_part.done: {"sequence_number":6,"type":"response.content_part.done","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"I add.","annotations":[],"logprobs":[]}}
        response.output_item.done: {"sequence_number":7,"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg-1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"I add.","annotations":[],"logprobs":[]}]}}
        response.output_item.added: {"sequence_number":8,"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","id":"fc-1","status":"in_progress","call_id":"callid123","name":"add","arguments":""}}
        response.function_call_arguments.delta: {"sequence_number":9,"type":"response.function_call_arguments.delta","item_id":"fc-1","output_index":1,"delta":"{\"a\""}
        response.function_call_arguments.delta: {"sequence_number":10,"type":"response.function_call_arguments.delta","item_id":"fc-1","output_index":1,"delta":": 1}"}
        response.function_call_arguments.done: {"sequence_number":11,"type":"response.function_call_arguments.done","item_id":"fc-1","output_index":1,"name":"add","arguments":"{\"a\": 1}"}
        response.output_item.done: {"sequence_number":12,"type":"response.output_item.done","output_index":1,"item":{"type":"function_call","id":"fc-1","status":"completed","call_id":"callid123","name":"add","arguments":"{\"a\": 1}"}}
        response.completed: {"sequence_number":13,"type":"response.completed","response":{"id":"resp-1","object":"response","created_at":5,"status":"completed","error":null,"incomplete_details":null,…"output":[{"type":"message","id":"msg-1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"I add.","annotations":[],"logprobs":[]}]},{"type":"function_call","id":"fc-1","status":"completed","call_id":"callid123","name":"add","arguments":"{\"a\": 1}"}],…"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":4},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":10},"metadata":{"a":"b"},"user":null}}
    "#]].assert_eq(&stream(answer(&texts, FinishReason::Stop)).await);
}

#[tokio::test]
async fn what_is_cut_is_incomplete_and_what_broke_has_failed() {
    expect![[r#"
        response.created: {"sequence_number":0,"type":"response.created","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"model":"demo","output":[],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":0.0,"top_p":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"truncation":"disabled","usage":null,"metadata":{"a":"b"},"user":null}}
        response.in_progress: {"sequence_number":1,"type":"response.in_progress","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,…"output":[],…"usage":null,"metadata":{"a":"b"},"user":null}}
        response.output_item.added: {"sequence_number":2,"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg-1","status":"in_progress","role":"assistant","content":[]}}
        response.content_part.added: {"sequence_number":3,"type":"response.content_part.added","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}
        response.output_text.delta: {"sequence_number":4,"type":"response.output_text.delta","item_id":"msg-1","output_index":0,"content_index":0,"delta":"Hel","logprobs":[]}
        response.output_text.done: {"sequence_number":5,"type":"response.output_text.done","item_id":"msg-1","output_index":0,"content_index":0,"text":"Hel","logprobs":[]}
        response.content_part.done: {"sequence_number":6,"type":"response.content_part.done","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"Hel","annotations":[],"logprobs":[]}}
        response.output_item.done: {"sequence_number":7,"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg-1","status":"incomplete","role":"assistant","content":[{"type":"output_text","text":"Hel","annotations":[],"logprobs":[]}]}}
        response.incomplete: {"sequence_number":8,"type":"response.incomplete","response":{"id":"resp-1","object":"response","created_at":5,"status":"incomplete","error":null,"incomplete_details":{"reason":"max_output_tokens"},…"output":[{"type":"message","id":"msg-1","status":"incomplete","role":"assistant","content":[{"type":"output_text","text":"Hel","annotations":[],"logprobs":[]}]}],…"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":4},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":10},"metadata":{"a":"b"},"user":null}}
    "#]].assert_eq(&stream(answer(&["Hel"], FinishReason::Length)).await);
    let events = vec![token(300, "Hel"), Event::Failed(EngineError::Deadline)];
    expect![[r#"
        response.created: {"sequence_number":0,"type":"response.created","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"model":"demo","output":[],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":0.0,"top_p":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"truncation":"disabled","usage":null,"metadata":{"a":"b"},"user":null}}
        response.in_progress: {"sequence_number":1,"type":"response.in_progress","response":{"id":"resp-1","object":"response","created_at":5,"status":"in_progress","error":null,"incomplete_details":null,…"output":[],…"usage":null,"metadata":{"a":"b"},"user":null}}
        response.output_item.added: {"sequence_number":2,"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg-1","status":"in_progress","role":"assistant","content":[]}}
        response.content_part.added: {"sequence_number":3,"type":"response.content_part.added","item_id":"msg-1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}
        response.output_text.delta: {"sequence_number":4,"type":"response.output_text.delta","item_id":"msg-1","output_index":0,"content_index":0,"delta":"Hel","logprobs":[]}
        response.failed: {"sequence_number":5,"type":"response.failed","response":{"id":"resp-1","object":"response","created_at":5,"status":"failed","error":{"code":"deadline_exceeded","message":"the answer was not whole when the time for a request was over (--request-timeout of the server); ask for a shorter one, or again when fewer others ask"},"incomplete_details":null,…"output":[{"type":"message","id":"msg-1","status":"incomplete","role":"assistant","content":[{"type":"output_text","text":"Hel","annotations":[],"logprobs":[]}]}],…"usage":null,"metadata":{"a":"b"},"user":null}}
    "#]].assert_eq(&stream(events).await);
    let events = vec![token(300, "Hel"), Event::Failed(EngineError::Deadline)];
    assert_eq!(collect(writer(), script(events)).await.unwrap_err().status, 504);
}

#[tokio::test]
async fn an_empty_answer_is_an_empty_message() {
    let body = collect(writer(), script(answer(&[], FinishReason::Stop))).await.unwrap();
    expect![[r#"
        {
          "id": "resp-1",
          "object": "response",
          "created_at": 5,
          "status": "completed",
          "error": null,
          "incomplete_details": null,
          "instructions": null,
          "max_output_tokens": null,
          "model": "demo",
          "output": [
            {
              "type": "message",
              "id": "msg-1",
              "status": "completed",
              "role": "assistant",
              "content": [
                {
                  "type": "output_text",
                  "text": "",
                  "annotations": [],
                  "logprobs": []
                }
              ]
            }
          ],
          "parallel_tool_calls": true,
          "previous_response_id": null,
          "store": false,
          "temperature": 0.0,
          "top_p": 1.0,
          "text": {
            "format": {
              "type": "text"
            }
          },
          "tool_choice": "auto",
          "tools": [],
          "truncation": "disabled",
          "usage": {
            "input_tokens": 7,
            "input_tokens_details": {
              "cached_tokens": 4
            },
            "output_tokens": 3,
            "output_tokens_details": {
              "reasoning_tokens": 0
            },
            "total_tokens": 10
          },
          "metadata": {
            "a": "b"
          },
          "user": null
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&body).unwrap());
}
