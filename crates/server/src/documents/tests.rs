//! `/extract` and `/process` on models that answer: the demo model, which reads documents, and tiny ones that say anything.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Stages;
use crate::small_models::{TestServer, text};

static DEMO: LazyLock<TestServer> = LazyLock::new(TestServer::demo);
static RANDOM: LazyLock<TestServer> =
    LazyLock::new(|| TestServer::random("mixtral-bf16", Stages::load(None).unwrap()));

const INVOICE: &str = include_str!("../../../../demo/samples/invoice.txt");

/// What the demo model knows.
const FIELDS: [&str; 7] =
    ["document_type", "direction", "party", "number", "date", "currency", "total"];

fn body(document: &str, more: Value) -> Value {
    let mut body = json!({ "document_base64": STANDARD.encode(document), "filename": "a.txt" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_document_comes_back_as_text_and_tables() {
    let csv = "Item;Sum\nPaper;1,50\n";
    let request = json!({
        "document_base64": STANDARD.encode(csv), "filename": "a.csv", "document_id": "d-1", "words": true,
    });
    let (status, answer) = DEMO.json("/extract", &request).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["document_id"], &answer["format"]), (&json!("d-1"), &json!("csv")));
    assert_eq!(answer["markdown"], "| Item | Sum |\n| --- | --- |\n| Paper | 1,50 |\n");
    assert_eq!(answer["tables"][0]["rows"], json!([["Item", "Sum"], ["Paper", "1,50"]]));
    assert_eq!(answer["pages"][0]["words"][3]["text"], "1,50");
    assert_eq!(answer["build"], "0.0.0+test");
    // Nothing was asked of the model.
    assert_eq!((answer.get("fields"), answer.get("checks")), (None, None));
}

#[tokio::test]
async fn fields_come_with_their_places() {
    let request = body(INVOICE, json!({ "fields": FIELDS, "max_tokens": 200 }));
    let (status, answer) = DEMO.json("/extract", &request).await;
    assert_eq!(status, 200, "{answer}");
    let fields = &answer["fields"];
    assert_eq!(fields["party"], "NORDHAFEN DRUCK GmbH");
    assert_eq!((&fields["number"], &fields["total"]), (&json!("RE-2026/0417"), &json!("1443.35")));
    assert_eq!((&fields["date"], &fields["currency"]), (&json!("2026-03-17"), &json!("EUR")));
    // Words of the model's own stand nowhere in a German invoice.
    assert_eq!((&fields["document_type"], &fields["direction"]), (&Value::Null, &Value::Null));
    let ungrounded = answer["ungrounded"].as_array().unwrap();
    assert_eq!(ungrounded[0], json!({ "path": "document_type", "said": "invoice" }));
    let found = |path: &str| {
        let all = answer["found"].as_array().unwrap();
        all.iter().find(|found| found["path"] == path).unwrap()["text"].clone()
    };
    assert_eq!((found("total"), found("date")), (json!("1.443,35"), json!("17. M\u{e4}rz 2026")));
    assert_eq!(answer["finish_reason"], "stop");
    let dates: Vec<&Value> = checks(&answer, "invoice.dates");
    assert_eq!(dates[0]["status"], "passed");
}

fn checks<'a>(answer: &'a Value, rule: &str) -> Vec<&'a Value> {
    answer["checks"].as_array().unwrap().iter().filter(|check| check["rule"] == rule).collect()
}

#[tokio::test]
async fn a_form_says_the_same() {
    let form = |parts: &[(&str, &str)], file: &str| {
        let mut body = String::new();
        for (name, value) in parts {
            body += &format!(
                "--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        body += &format!(
            "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\ncontent-type: text/plain\r\n\r\n{file}\r\n--x--\r\n"
        );
        Request::post("/extract")
            .header("content-type", "multipart/form-data; boundary=x")
            .body(Body::from(body))
            .unwrap()
    };
    let names = FIELDS.join(",");
    let parts = [("fields", names.as_str()), ("max_tokens", "200"), ("document_id", "7")];
    let response = DEMO.send(form(&parts, INVOICE)).await;
    assert_eq!(response.status(), 200);
    let answer: Value = serde_json::from_str(&text(response).await).unwrap();
    let (_, json) =
        DEMO.json("/extract", &body(INVOICE, json!({ "fields": FIELDS, "max_tokens": 200 }))).await;
    assert_eq!((&answer["fields"], &answer["document_id"]), (&json["fields"], &json!("7")));
    let response = DEMO.send(form(&[("pages", "1")], INVOICE)).await;
    assert_eq!(response.status(), 400);
    let error: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(error["error"]["code"], "unknown_parameter");
}

#[tokio::test]
async fn a_stream_tells_how_far_it_is() {
    let request = body(INVOICE, json!({ "fields": FIELDS, "max_tokens": 200, "stream": true }));
    let response = DEMO.post("/extract", &request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let stream = text(response).await;
    let events: Vec<&str> =
        stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events.last(), Some(&"result"));
    assert!(events.len() > 1 && events[..events.len() - 1].iter().all(|name| *name == "progress"));
    assert!(stream.contains(r#"{"stage":"fields","parts_done":1,"parts":1}"#), "{stream}");
    let failed = body("", json!({ "document_base64": "\u{20ac}", "stream": true }));
    let stream = text(DEMO.post("/extract", &failed).await).await;
    assert!(stream.contains("event: error") && stream.contains("no base64"), "{stream}");
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let check = async |path: &str, body: Value, status: u16, code: &str| {
        let (found, answer) = DEMO.json(path, &body).await;
        let error = &answer["error"];
        assert_eq!((found.as_u16(), error["code"].as_str()), (status, Some(code)), "{answer}");
    };
    let of = |bytes: &[u8]| json!({ "document_base64": STANDARD.encode(bytes) });
    check("/extract", of(b""), 415, "unsupported_document").await;
    check("/extract", of(b"\x7fELF\0\0"), 415, "unsupported_document").await;
    check("/extract", of(b"PK\x03\x04word/document.xml"), 422, "damaged_document").await;
    check("/extract", json!({}), 400, "missing_parameter").await;
    check("/extract", json!({ "documents": [] }), 400, "unknown_parameter").await;
    check("/process", body("x", json!({ "documents": [] })), 400, "unknown_parameter").await;
    check("/process", body("x", json!({ "prompt": { "text": 1 } })), 400, "unknown_parameter")
        .await;
    let schema =
        json!({ "type": "object", "properties": { "a": { "type": "string", "format": "x" } } });
    check("/extract", body("x", json!({ "schema": schema })), 400, "unsupported_schema").await;
    check("/extract", body("x", json!({ "fields": ["a:money"] })), 400, "unsupported_schema").await;
}

#[tokio::test]
async fn pages_come_as_pictures_if_they_are_asked_for() {
    let pdf = include_bytes!("../../../../fixtures/documents/samples/invoice-plain-typst.pdf");
    let request = json!({ "document_base64": STANDARD.encode(pdf), "pictures": 3, "words": true });
    let (status, answer) = DEMO.json("/extract", &request).await;
    assert_eq!(status, 200, "{answer}");
    let pictures = answer["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), answer["pages"].as_array().unwrap().len().min(3));
    let (picture, page) = (&pictures[0], &answer["pages"][0]);
    assert_eq!(picture["page"], 1);
    // Boxes of words lie on the picture.
    assert_eq!(
        (&picture["page_width"], &picture["page_height"]),
        (&page["width"], &page["height"])
    );
    let png = STANDARD.decode(picture["png_base64"].as_str().unwrap()).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!(json!([side(16), side(20)]), json!([picture["width"], picture["height"]]));
    // What has no pages has no pictures; who asks for none gets none.
    let (status, answer) = DEMO.json("/extract", &body("a;b", json!({ "pictures": 3 }))).await;
    assert_eq!((status.as_u16(), answer.get("pictures")), (200, None));
    let (status, answer) = DEMO.json("/extract", &body("a;b", json!({ "pictures": 21 }))).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("pictures")));
}

#[tokio::test]
async fn urls_are_for_servers_that_were_told_so() {
    let ask = json!({ "document_url": "https://127.0.0.1/a.pdf" });
    let (status, answer) = DEMO.json("/extract", &ask).await;
    let refused = (status.as_u16(), &answer["error"]["code"], &answer["error"]["param"]);
    assert_eq!(refused, (400, &json!("urls_not_allowed"), &json!("document_url")));
    let server = TestServer::demo_with(|config| config.documents.allow_urls = true);
    let (status, answer) = server.json("/process", &ask).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &json!("forbidden_url")));
    let both = body("a;b", ask);
    let (status, answer) = server.json("/extract", &both).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("document_url")));
}

#[tokio::test]
async fn a_document_over_the_limit_is_413() {
    let server = TestServer::demo_with(|config| config.documents.limits.bytes_max = 1000);
    let (status, answer) = server.json("/extract", &body(&"x ".repeat(501), json!({}))).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("document_too_large"))
    );
    // The body of another path has its own limit.
    let large = "x".repeat(6 << 20);
    let (status, _) = server.json("/extract", &body(&large, json!({}))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let server = TestServer::demo_with(|config| config.documents.limits.bytes_max = 25_000_000);
    let (status, answer) = server.json("/extract", &body(&large, json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    let (status, _) = server.json("/prompt", &json!({ "prompt": large })).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_page_that_does_not_fit_is_refused_with_figures() {
    let request = body(&"words ".repeat(4000), json!({ "fields": ["a"] }));
    let (status, answer) = DEMO.json("/extract", &request).await;
    assert_eq!(
        (status.as_u16(), &answer["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("tokens") && message.contains("never cut"), "{message}");
}

#[tokio::test]
async fn a_prompt_is_answered_over_a_document() {
    let prompt = json!({
        "prompt": "Read this accounting document and answer with one JSON object.\nOur business: Brightwater Studio Ltd",
        "schema": FIELDS.iter().map(|name| (name.to_string(), json!("string"))).collect::<Value>(),
        "max_tokens": 200,
    });
    let (status, answer) = DEMO.json("/process", &body(INVOICE, json!({ "prompt": prompt }))).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        (&answer["success"], &answer["output"]["number"]),
        (&json!(true), &json!("RE-2026/0417"))
    );
    assert_eq!(answer["extract"]["format"], "text");
    assert!(answer["metadata"]["prompt_tokens"].as_u64().unwrap() > 100);
}

/// Whether words of a document bear a value out: the same letters and digits, or the digits of an amount, or the day and
/// year of a date.
fn bears_out(text: &str, value: &str) -> bool {
    let plain = |text: &str| -> String {
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
    };
    let digits = |text: &str| -> String {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    let is_date = value.len() == 10 && value.as_bytes()[4] == b'-';
    plain(text).contains(&plain(value))
        || value.bytes().any(|b| b.is_ascii_digit()) && digits(text) == digits(value)
        || is_date
            && text.contains(&value[..4])
            && text.contains(value[8..].trim_start_matches('0'))
        || value == "EUR" && text.contains('\u{20ac}')
}

/// Documents in which a field was left out. Whatever a model says, nothing comes through that the document does not hold.
#[tokio::test]
async fn what_a_document_lacks_is_never_made_up() {
    let gaps: [(&str, &str, &[&str]); 4] = [
        ("number", "RE-2026/0417", &["RE-2026"]),
        ("date", "2026-03-17", &["17. M\u{e4}rz 2026"]),
        ("total", "1443.35", &["1.443,35"]),
        ("party", "NORDHAFEN DRUCK GmbH", &["NORDHAFEN"]),
    ];
    let mut refused = 0;
    // The random model says something else about every text.
    for (server, texts) in [(&*DEMO, 1), (&*RANDOM, 4)] {
        for (field, original, without) in gaps {
            let kept =
                INVOICE.lines().filter(|line| !without.iter().any(|part| line.contains(part)));
            let kept = kept.collect::<Vec<_>>().join("\n");
            for number in 0..texts {
                let document = format!("{kept}\nSeite {number}");
                let request = body(&document, json!({ "fields": FIELDS, "max_tokens": 100 }));
                let (status, answer) = server.json("/extract", &request).await;
                assert_eq!(status, 200, "{answer}");
                refused += answer["ungrounded"].as_array().unwrap().len();
                assert_ne!(answer["fields"][field], original, "{answer}");
                let words = document.split_whitespace().collect::<Vec<_>>().join(" ");
                for (path, value) in answer["fields"].as_object().unwrap() {
                    let Some(value) = value.as_str() else { continue };
                    let found =
                        answer["found"].as_array().unwrap().iter().find(|f| f["path"] == **path);
                    let text = found.unwrap()["text"].as_str().unwrap();
                    assert!(words.contains(text) && bears_out(text, value), "{value} in {text}");
                }
            }
        }
    }
    // Things were made up, and held back.
    assert!(refused > 0);
}
