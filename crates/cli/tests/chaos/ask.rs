//! Requests with random parameters, and whether an answer to one is as it should be.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::random::Random;
use super::reply::Reply;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// `null` for none.
    pub(crate) body: Value,
    /// Whether it is to be answered, not refused.
    pub(crate) is_valid: bool,
    /// Where in the answer a text stands that has to be JSON, and how that is to be read.
    pub(crate) json_at: Option<&'static str>,
}

/// Few, so that the constraints that a server keeps are soon those it keeps for good.
fn schemas() -> [Value; 6] {
    [
        json!({"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}),
        json!({"number": "string", "total": "number", "paid": "boolean"}),
        json!({"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 3}),
        json!({"type": "object", "required": ["lines"], "properties": {"lines": {"type": "array", "maxItems": 2,
            "items": {"type": "object", "required": ["net"], "properties": {"net": {"type": "integer"},
            "text": {"type": ["string", "null"], "maxLength": 12}}}}}}),
        json!({"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 5}]}),
        json!({"type": "string", "pattern": "^[A-Z]{2}[0-9]{2,4}$"}),
    ]
}

const WORDS: [&str; 12] = [
    "Invoice",
    "total",
    "19.00",
    "EUR",
    "Müller",
    "GmbH",
    "3 May 2026",
    "due",
    "\n",
    "日本",
    "🙂",
    "amount:",
];

fn text(random: &mut Random, most: usize) -> String {
    (0..=random.below(most)).map(|_| random.pick(&WORDS)).collect::<Vec<_>>().join(" ")
}

/// Parameters of sampling, each there or not.
fn sampling(random: &mut Random, body: &mut Map<String, Value>) {
    let values = [
        ("temperature", json!(random.number(0.0, 2.0))),
        ("top_p", json!(random.number(0.1, 1.0))),
        ("top_k", json!(random.below(50))),
        ("min_p", json!(random.number(0.0, 0.4))),
        ("repetition_penalty", json!(random.number(0.8, 1.5))),
        ("seed", json!(random.below(1 << 40))),
    ];
    for (name, value) in values {
        if random.percent(40) {
            body.insert(name.to_owned(), value);
        }
    }
}

/// Parameters that chats and completions share.
fn openai(random: &mut Random, body: &mut Map<String, Value>) {
    sampling(random, body);
    body.insert("model".to_owned(), "demo".into());
    let stream = random.percent(60);
    body.insert("stream".to_owned(), stream.into());
    if stream && random.percent(50) {
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    let values = [
        ("n", json!(1 + random.below(3))),
        ("frequency_penalty", json!(random.number(-2.0, 2.0))),
        ("presence_penalty", json!(random.number(-2.0, 2.0))),
        ("priority", json!(random.below(5) as i64 - 2)),
        ("ignore_eos", json!(random.percent(50))),
        ("stop_token_ids", json!([random.below(4000)])),
        ("user", json!(text(random, 3))),
    ];
    for (name, value) in values {
        if random.percent(25) {
            body.insert(name.to_owned(), value);
        }
    }
}

/// What an answer has to fit. Whether that is JSON.
fn constraint(random: &mut Random, body: &mut Map<String, Value>) -> bool {
    let schema = random.pick(&schemas());
    let (name, value, is_json) = match random.below(6) {
        0 | 1 => {
            let format =
                json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
            ("response_format", format, true)
        }
        2 => ("response_format", json!({"type": "json_object"}), true),
        3 => ("structured_outputs", json!({"choice": ["paid", "open", "due since May"]}), false),
        4 => ("guided_regex", json!("[0-9]{2,6}(\\.[0-9]{2})?"), false),
        _ => (
            "structured_outputs",
            json!({"grammar": "start: /[a-z]{1,8}/ (\" \" /[0-9]{1,3}/)?"}),
            false,
        ),
    };
    body.insert(name.to_owned(), value);
    // Such an answer ends where it fits.
    body.shift_remove("ignore_eos");
    body.shift_remove("stop_token_ids");
    is_json
}

impl Ask {
    /// One of any kind. Most are valid.
    pub(crate) fn any(random: &mut Random) -> Self {
        let mut ask = match random.below(20) {
            0..=5 => Self::chat(random),
            6..=9 => Self::completion(random),
            10..=12 => Self::prompt(random),
            13 | 14 => Self::response(random),
            15 | 16 => Self::classify(random),
            17 => Self::tokens(random),
            _ => Self::get(random),
        };
        if random.percent(20) && ask.body.is_object() {
            ask.spoil(random);
        }
        ask
    }

    /// A stream, valid, of so many tokens at most.
    pub(crate) fn stream(random: &mut Random, tokens: usize) -> Self {
        let (prompt, tokens) = (text(random, 8), 1 + random.below(tokens));
        let messages = json!([{"role": "user", "content": prompt}]);
        let (path, body) = match random.below(4) {
            0 => (
                "/v1/chat/completions",
                json!({"messages": messages, "max_tokens": tokens, "ignore_eos": true}),
            ),
            1 => (
                "/v1/completions",
                json!({"prompt": prompt, "max_tokens": tokens, "n": 2, "ignore_eos": true}),
            ),
            2 => ("/v1/responses", json!({"input": prompt, "max_output_tokens": tokens})),
            _ => (
                "/prompt",
                json!({"prompt": prompt, "raw": true, "max_tokens": tokens, "temperature": 1.0}),
            ),
        };
        let mut body = body;
        body["stream"] = true.into();
        if path != "/prompt" {
            body["model"] = "demo".into();
        }
        Ask { method: "POST", path, body, is_valid: true, json_at: None }
    }

    fn chat(random: &mut Random) -> Self {
        let mut body = Map::new();
        openai(random, &mut body);
        let mut messages = vec![json!({"role": "user", "content": text(random, 20)})];
        if random.percent(30) {
            messages.insert(0, json!({"role": "system", "content": text(random, 5)}));
        }
        if random.percent(20) {
            messages.push(json!({"role": "assistant", "content": text(random, 5)}));
            messages.push(
                json!({"role": "user", "content": [{"type": "text", "text": text(random, 5)}]}),
            );
        }
        body.insert("messages".to_owned(), messages.into());
        if random.percent(30) {
            body.insert("logprobs".to_owned(), true.into());
            body.insert("top_logprobs".to_owned(), random.below(6).into());
        }
        let mut json_at = None;
        let mut max_tokens = 1 + random.below(40);
        match random.below(6) {
            0 | 1 => {
                max_tokens += 40;
                if constraint(random, &mut body) {
                    json_at = Some("message.content");
                }
            }
            2 => {
                max_tokens += 60;
                tools(random, &mut body);
            }
            3 => drop(body.insert("stop".to_owned(), json!(["EUR", "\n"]))),
            _ => {}
        }
        body.insert("max_completion_tokens".to_owned(), max_tokens.into());
        Ask {
            method: "POST",
            path: "/v1/chat/completions",
            body: body.into(),
            is_valid: true,
            json_at,
        }
    }

    fn completion(random: &mut Random) -> Self {
        let mut body = Map::new();
        openai(random, &mut body);
        let tokens =
            |random: &mut Random| (0..5).map(|_| 5 + random.below(4000)).collect::<Vec<_>>();
        let prompt = match random.below(4) {
            0 | 1 => json!(text(random, 20)),
            2 => json!([text(random, 5), text(random, 5)]),
            _ => json!(tokens(random)),
        };
        body.insert("prompt".to_owned(), prompt);
        let mut max_tokens = 1 + random.below(40);
        let mut json_at = None;
        match random.below(5) {
            0 => {
                max_tokens += 40;
                if constraint(random, &mut body) {
                    json_at = Some("text");
                }
            }
            1 => drop(body.insert("logprobs".to_owned(), random.below(4).into())),
            2 => {
                body.insert("echo".to_owned(), true.into());
                body.insert("logprobs".to_owned(), random.below(4).into());
            }
            _ => {}
        }
        body.insert("max_tokens".to_owned(), max_tokens.into());
        Ask { method: "POST", path: "/v1/completions", body: body.into(), is_valid: true, json_at }
    }

    fn response(random: &mut Random) -> Self {
        let mut body = Map::new();
        sampling(random, &mut body);
        body.insert("model".to_owned(), "demo".into());
        body.insert("input".to_owned(), text(random, 10).into());
        body.insert("max_output_tokens".to_owned(), (16 + random.below(40)).into());
        body.insert("stream".to_owned(), random.percent(60).into());
        if random.percent(30) {
            body.insert("metadata".to_owned(), json!({"order": "17"}));
        }
        Ask {
            method: "POST",
            path: "/v1/responses",
            body: body.into(),
            is_valid: true,
            json_at: None,
        }
    }

    fn prompt(random: &mut Random) -> Self {
        let mut body = Map::new();
        sampling(random, &mut body);
        body.insert("prompt".to_owned(), text(random, 20).into());
        body.insert("stream".to_owned(), random.percent(60).into());
        let has_schema = random.percent(40);
        if has_schema {
            body.insert("schema".to_owned(), random.pick(&schemas()));
            body.insert("max_tokens".to_owned(), (60 + random.below(40)).into());
        } else {
            body.insert("max_tokens".to_owned(), (1 + random.below(40)).into());
            body.insert("raw".to_owned(), random.percent(50).into());
        }
        // A stage whose schema asks for much may not fit into the budget.
        let staged = random.percent(10) && !has_schema;
        if staged {
            body.insert("context".to_owned(), json!({"stage": "math_validation"}));
        }
        let json_at = has_schema.then_some("output");
        Ask { method: "POST", path: "/prompt", body: body.into(), is_valid: !staged, json_at }
    }

    fn classify(random: &mut Random) -> Self {
        let labels: Vec<String> = (0..2 + random.below(6)).map(|i| format!("label {i}")).collect();
        let body = json!({"text": text(random, 15), "labels": labels, "temperature": random.number(0.1, 2.0)});
        Ask { method: "POST", path: "/classify", body, is_valid: true, json_at: None }
    }

    fn tokens(random: &mut Random) -> Self {
        let (path, body) = if random.percent(50) {
            ("/tokenize", json!({"text": text(random, 30), "return_token_strs": true}))
        } else {
            ("/detokenize", json!({"tokens": [random.below(4000), random.below(4000)]}))
        };
        Ask { method: "POST", path, body, is_valid: true, json_at: None }
    }

    fn get(random: &mut Random) -> Self {
        let paths = [
            "/health",
            "/ready",
            "/metrics",
            "/stats",
            "/v1/models",
            "/openapi.json",
            "/prompt/stages",
            "/",
        ];
        Ask {
            method: "GET",
            path: random.pick(&paths),
            body: Value::Null,
            is_valid: true,
            json_at: None,
        }
    }

    /// Puts something wrong into the body, or takes something out.
    fn spoil(&mut self, random: &mut Random) {
        self.is_valid = false;
        self.json_at = None;
        let odd = [
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!([]),
            json!({}),
            json!("\u{0}\u{10FFFF}"),
            json!([[[[1, "a", {"type": "text"}]]]]),
            json!(true),
            json!({"type": "function"}),
            json!(0),
            json!(null),
            json!("x".repeat(20_000)),
            json!(vec!["x"; 300]),
            json!({"type": "json_schema", "json_schema": {"schema":
            {"$ref": "#"}}}),
        ];
        let Some(body) = self.body.as_object_mut() else { return };
        let names: Vec<String> = body.keys().cloned().collect();
        let name = random.pick(&names);
        match random.below(6) {
            0 => drop(body.shift_remove(&name)),
            1 => drop(body.insert(format!("{name}_x"), random.pick(&odd))),
            2 => drop(body.insert("model".to_owned(), "another".into())),
            3 => drop(body.insert("logit_bias".to_owned(), json!({"5": 100}))),
            _ => drop(body.insert(name, random.pick(&odd))),
        }
    }

    /// The request as it is sent.
    pub(crate) fn bytes(&self, keep_alive: bool) -> Vec<u8> {
        let body = if self.body.is_null() { String::new() } else { self.body.to_string() };
        let mut request = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.path);
        if !keep_alive {
            request.push_str("connection: close\r\n");
        }
        if !self.body.is_null() {
            let length = body.len();
            request.push_str(&format!(
                "content-type: application/json\r\ncontent-length: {length}\r\n"
            ));
        }
        [request.as_bytes(), b"\r\n", body.as_bytes()].concat()
    }

    /// Whether an answer is what this asks for, or a refusal that this may get.
    pub(crate) fn check(&self, reply: &Reply) -> Result<()> {
        let wrong = || {
            format!("{} {} {}\n{}\n{}", self.method, self.path, self.body, reply.head, reply.body)
        };
        self.check_inner(reply).with_context(wrong)
    }

    fn check_inner(&self, reply: &Reply) -> Result<()> {
        ensure!(reply.is_whole, "cut off");
        for header in ["x-request-id", "x-halfbyte-build"] {
            ensure!(reply.header(header).is_some(), "no {header}");
        }
        match reply.status {
            200 if reply.is_stream() => match stream_end(self.path, reply)? {
                End::Whole => Ok(()),
                End::Error(error) => bail!("broke off: {error}"),
            },
            200 => self.check_json(reply),
            400 | 404 | 413 | 429 => {
                let code = reply.error_code()?;
                ensure!(
                    (reply.status == 429) == reply.header("retry-after").is_some(),
                    "retry-after"
                );
                let may = !self.is_valid || reply.status == 429 || code == "budget_too_small";
                ensure!(may, "refused: {code}");
                Ok(())
            }
            status => bail!("status {status}"),
        }
    }

    /// A whole answer: JSON, and JSON within where that was asked for.
    fn check_json(&self, reply: &Reply) -> Result<()> {
        if ["/metrics", "/"].contains(&self.path) {
            return Ok(());
        }
        let body = reply.json()?;
        let Some(at) = self.json_at else { return Ok(()) };
        if at == "output" {
            ensure!(!body["output"].is_null() && body["success"] == true, "no output");
            return Ok(());
        }
        let choices = body["choices"].as_array().context("no choices")?;
        for choice in choices {
            let found = at.split('.').fold(choice, |value, name| &value[name]);
            let found = found.as_str().context("no text")?;
            serde_json::from_str::<Value>(found).with_context(|| format!("no JSON: {found}"))?;
        }
        Ok(())
    }
}

fn tools(random: &mut Random, body: &mut Map<String, Value>) {
    let function = |name: &str, parameters: Value| {
        let function = json!({"name": name, "description": "x", "parameters": parameters});
        json!({"type": "function", "function": function})
    };
    let schemas = schemas();
    let all = [function("book", schemas[0].clone()), function("ask", schemas[3].clone())];
    body.insert("tools".to_owned(), json!(all));
    let choices = [
        json!("auto"),
        json!("none"),
        json!("required"),
        json!({"type": "function", "function": {"name": "book"}}),
    ];
    body.insert("tool_choice".to_owned(), random.pick(&choices));
    body.shift_remove("stop_token_ids");
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Whole,
    /// With an event that says why.
    Error(String),
}

/// How a stream ended; one that just stops is wrong.
pub(crate) fn stream_end(path: &str, reply: &Reply) -> Result<End> {
    let events = reply.events();
    let error = |data: &str| -> Option<String> {
        let data: Value = serde_json::from_str(data).ok()?;
        let error = data.get("error").or_else(|| data.pointer("/response/error"))?;
        error.get("message")?.as_str().map(str::to_owned)
    };
    if let Some(why) = events.iter().find_map(|event| error(event.data)) {
        return Ok(End::Error(why));
    }
    let last = events.last().context("no events")?;
    let ends = match path {
        "/prompt" => last.name == "result",
        "/v1/responses" => {
            ["response.completed", "response.incomplete"].contains(&last.name.as_str())
        }
        _ => last.data == "[DONE]",
    };
    ensure!(ends, "the stream just stops");
    Ok(End::Whole)
}
