//! `/prompt` on models that answer: the demo model, which reads documents, and tiny ones that say anything.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::Stages;
use crate::small_models::{TestServer, text};

static DEMO: LazyLock<TestServer> = LazyLock::new(TestServer::demo);
static RANDOM: LazyLock<TestServer> =
    LazyLock::new(|| TestServer::random("mixtral-bf16", Stages::load(None).unwrap()));

const INVOICE: &str = include_str!("../../../../demo/samples/invoice.txt");

fn question() -> String {
    let task = "Read this accounting document and answer with one JSON object.";
    format!("{task}\nOur business: Brightwater Studio Ltd\n\n{}", INVOICE.trim())
}

fn demo_schema() -> Value {
    let names = ["document_type", "direction", "party", "number", "date", "currency", "total"];
    names.iter().map(|name| (name.to_string(), json!("string"))).collect()
}

/// Without the figures that differ from run to run.
fn steady(mut answer: Value) -> Value {
    let seconds = answer["metadata"]["processing_time_seconds"].take();
    assert!(seconds.as_f64().is_some_and(|seconds| seconds > 0.0));
    answer["metadata"].as_object_mut().unwrap().remove("processing_time_seconds");
    answer["metadata"].as_object_mut().unwrap().remove("cached_tokens");
    answer
}

#[tokio::test]
async fn a_document_is_read() {
    let body =
        json!({ "prompt": question(), "schema": demo_schema(), "max_tokens": 200, "seed": 7 });
    let (status, answer) = DEMO.json("/prompt", &body).await;
    assert_eq!(status, 200, "{answer}");
    expect![[r#"
        {
          "success": true,
          "output": {
            "document_type": "invoice",
            "direction": "outgoing",
            "party": "NORDHAFEN DRUCK GmbH",
            "number": "RE-2026/0417",
            "date": "2026-03-17",
            "currency": "EUR",
            "total": "1443.35"
          },
          "metadata": {
            "model": "test",
            "build": "0.0.0+test",
            "prompt_tokens": 463,
            "parameters": {
              "max_tokens": 200,
              "temperature": 0.0,
              "top_k": 0,
              "top_p": 1.0,
              "min_p": 0.0,
              "repetition_penalty": 1.0,
              "frequency_penalty": 0.0,
              "presence_penalty": 0.0,
              "penalize_prompt": false,
              "seed": 7,
              "stop": [],
              "stage": null,
              "raw": false,
              "schema_open": false
            },
            "completion_tokens": 67,
            "finish_reason": "stop"
          }
        }"#]]
    .assert_eq(&format!("{:#}", steady(answer)));
}

#[tokio::test]
async fn a_stream_says_the_same_as_one_answer() {
    for schema in [Value::Null, demo_schema()] {
        let mut body = json!({ "prompt": question(), "schema": schema, "max_tokens": 60 });
        let (status, whole) = DEMO.json("/prompt", &body).await;
        assert_eq!(status, 200, "{whole}");
        body["stream"] = true.into();
        let response = DEMO.post("/prompt", &body).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let events = events(&text(response).await);
        let (last, deltas) = events.split_last().unwrap();
        assert!(deltas.len() > 3 && deltas.iter().all(|(name, _)| name == "delta"), "{deltas:?}");
        let said: String = deltas.iter().map(|(_, data)| data["text"].as_str().unwrap()).collect();
        assert_eq!(last.0, "result");
        assert_eq!(last.1["output"], whole["output"]);
        let meant = match &whole["output"] {
            Value::String(output) => output.clone(),
            // The text is what was said, white space and all.
            output => {
                assert_eq!(&serde_json::from_str::<Value>(&said).unwrap(), output);
                said.clone()
            }
        };
        assert_eq!(said, meant);
    }
}

/// Names and data of server-sent events.
fn events(stream: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let data = serde_json::from_str(field("data: ").unwrap()).unwrap();
        (field("event: ").unwrap().to_owned(), data)
    };
    stream.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn raw_text_goes_without_the_template() {
    let tokens = async |raw: bool| {
        let body = json!({ "prompt": "Hello", "raw": raw, "max_tokens": 1 });
        let (status, answer) = DEMO.json("/prompt", &body).await;
        assert_eq!((status.as_u16(), &answer["metadata"]["parameters"]["raw"]), (200, &json!(raw)));
        answer["metadata"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens(true).await < tokens(false).await);
}

/// A schema's meaning, as far as the stages' schemas go.
fn fits(value: &Value, schema: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    let names = match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        names => names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect(),
    };
    let within = |bound: &str, ok: fn(f64, f64) -> bool| {
        schema[bound].as_f64().is_none_or(|bound| value.as_f64().is_none_or(|v| ok(v, bound)))
    };
    names.iter().any(|name| is(name))
        && schema["enum"].as_array().is_none_or(|allowed| allowed.contains(value))
        && within("minimum", |v, bound| v >= bound)
        && within("maximum", |v, bound| v <= bound)
        && value.as_array().is_none_or(|items| {
            schema.get("items").is_none_or(|schema| items.iter().all(|item| fits(item, schema)))
        })
        && value.as_object().is_none_or(|object| object_fits(object, schema))
}

fn object_fits(object: &serde_json::Map<String, Value>, schema: &Value) -> bool {
    let Some(properties) = schema["properties"].as_object() else {
        let others = schema.get("additionalProperties");
        return others.is_none_or(|schema| object.values().all(|value| fits(value, schema)));
    };
    let required = schema["required"].as_array().unwrap();
    required.iter().all(|name| object.contains_key(name.as_str().unwrap()))
        && object
            .iter()
            .all(|(name, value)| properties.get(name).is_some_and(|schema| fits(value, schema)))
}

fn full_context(stage: &str) -> Value {
    json!({
        "stage": stage,
        "business": { "name": "Brightwater Studio Ltd", "vat": "GB123" },
        "software": "LedgerWorks",
        "document_id": 12,
        "entity_types": ["supplier", "account"],
        "action": "create_bill",
        "action_count": 2,
        "actions": ["create_bill", { "name": "create_payment", "fields": ["amount"] }]
    })
}

/// Every stage, with a model that knows nothing and would say anything, at temperature 1, with budgets ample and scarce.
#[tokio::test]
async fn every_stage_answers_with_what_it_promises() {
    let stages = RANDOM.app.stages().clone();
    let mut ends = [0, 0];
    for stage in stages.iter() {
        let schema = stage.schema.as_ref().unwrap();
        for (seed, max_tokens) in [(1, 300), (2, 400), (3, 700), (4, 1500)] {
            let body = json!({
                "prompt": "Invoice 7, total 12.00",
                "context": full_context(&stage.name),
                "temperature": 1, "seed": seed, "max_tokens": max_tokens
            });
            let (status, answer) = RANDOM.json("/prompt", &body).await;
            assert_eq!(status, 200, "{}: {answer}", stage.name);
            assert!(fits(&answer["output"], schema), "{}: {answer:#}", stage.name);
            assert_eq!(answer["metadata"]["parameters"]["stage"], stage.name.as_str());
            let cut = answer["metadata"]["finish_reason"] == "length";
            ends[usize::from(cut)] += 1;
        }
    }
    assert!(ends[1] > 0, "no answer met its budget: {ends:?}");
}

#[tokio::test]
async fn a_schema_takes_its_place_in_the_stage() {
    let schema = json!({
        "$defs": { "line": { "type": "object", "properties": { "sku": { "type": "string", "maxLength": 4 } }, "required": ["sku"] } },
        "type": "object",
        "properties": { "lines": { "type": "array", "items": { "$ref": "#/$defs/line" }, "minItems": 2, "maxItems": 2 } },
        "required": ["lines"]
    });
    let ask = async |stage: &str, schema: &Value| {
        let body = json!({
            "prompt": "x", "context": full_context(stage), "schema": schema, "temperature": 1, "seed": 1, "max_tokens": 900
        });
        RANDOM.json("/prompt", &body).await
    };
    let (status, answer) = ask("field_mapping", &schema).await;
    assert_eq!(status, 200, "{answer}");
    let lines = answer["output"]["api_request_body"]["lines"].as_array().unwrap();
    assert!(lines.len() == 2 && lines.iter().all(|line| line["sku"].is_string()), "{lines:?}");
    // An example of what is wanted does as well.
    let (status, answer) = ask("field_mapping", &json!({ "total": "number" })).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["output"]["api_request_body"]["total"].is_number(), "{answer}");
    // What is refused is named as the sender knows it.
    let (status, answer) =
        ask("field_mapping_batch", &json!({ "properties": { "a": { "not": {} } } })).await;
    assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("schema")));
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("schema: #/properties/a/not: "), "{message}");
}

/// What cannot be answered: status, field, word and message, and never a result.
#[tokio::test]
async fn what_makes_no_sense_is_said() {
    let prompt = |more: Value| {
        let mut body = json!({ "prompt": "x" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let stage = |name: &str| prompt(json!({ "context": { "stage": name } }));
    let cases = [
        "nonsense".to_owned(),
        "{}".to_owned(),
        json!({ "prompt": "" }).to_string(),
        json!({ "prompt": 5 }).to_string(),
        json!({ "prompt": "long ".repeat(3000) }).to_string(),
        prompt(json!({ "promt": "x" })),
        prompt(json!({ "context": { "sage": "x" } })),
        prompt(json!({ "context": { "business": 5 } })),
        prompt(json!({ "context": { "action_count": 3, "actions": ["a"] } })),
        stage("invoice_magic"),
        stage("action_selection"),
        prompt(json!({ "context": { "stage": "entity_extraction", "entity_types": [] } })),
        prompt(json!({ "context": { "stage": "math_validation" }, "schema": {} })),
        prompt(json!({ "temperature": -1 })),
        prompt(json!({ "temperature": "hot" })),
        prompt(json!({ "top_p": 0 })),
        prompt(json!({ "max_tokens": 0 })),
        prompt(json!({ "max_tokens": -1 })),
        prompt(json!({ "stop": [""] })),
        prompt(json!({ "stop": ["x"], "schema": { "type": "object" } })),
        prompt(json!({ "schema": { "type": "strnig" } })),
        prompt(
            json!({ "schema": { "type": "object", "required": ["a", "b"], "properties": { "a": { "type": "string" }, "b": { "type": "string" } } }, "max_tokens": 2 }),
        ),
    ];
    let mut table = String::new();
    for body in cases {
        let (status, answer) = DEMO.json("/prompt", &body).await;
        assert_eq!((answer.get("output"), &answer["success"]), (None, &json!(false)), "{body}");
        let error = &answer["error"];
        let word = |name: &str| error[name].as_str().unwrap_or("-").to_owned();
        let shown: String = body.chars().take(70).collect();
        table += &format!(
            "{shown}\n  {status} {} {}: {}\n",
            word("param"),
            word("code"),
            word("message")
        );
    }
    expect![[r#"
        nonsense
          400 Bad Request - invalid_json: cannot read the body: expected ident at line 1 column 2
        {}
          400 Bad Request prompt missing_parameter: missing field `prompt`
        {"prompt":""}
          400 Bad Request prompt invalid_value: prompt is empty; say something
        {"prompt":5}
          400 Bad Request prompt invalid_value: prompt: invalid type: integer `5`, expected a string
        {"prompt":"long long long long long long long long long long long long
          400 Bad Request prompt context_length_exceeded: the prompt takes 12003 tokens, but the context ends at 2048; shorten it: it is never cut
        {"prompt":"x","promt":"x"}
          400 Bad Request promt unknown_parameter: unknown field `promt`, expected one of `prompt`, `context`, `schema`, `schema_open`, `max_tokens`, `temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`, `frequency_penalty`, `presence_penalty`, `penalize_prompt`, `seed`, `stop`, `stream`, `raw`
        {"prompt":"x","context":{"sage":"x"}}
          400 Bad Request context.sage unknown_parameter: unknown field `sage`, expected one of `stage`, `business`, `software`, `document_id`, `entity_types`, `action`, `action_count`, `actions`
        {"prompt":"x","context":{"business":5}}
          400 Bad Request context.business invalid_value: context.business: must be a text or an object
        {"prompt":"x","context":{"action_count":3,"actions":["a"]}}
          400 Bad Request context.action_count invalid_value: action_count is 3, but actions has 1
        {"prompt":"x","context":{"stage":"invoice_magic"}}
          400 Bad Request context.stage unknown_stage: there is no stage `invoice_magic`; there are action_selection, entity_extraction, field_mapping, field_mapping_batch, math_validation
        {"prompt":"x","context":{"stage":"action_selection"}}
          400 Bad Request context.actions missing_parameter: the stage `action_selection` needs context.actions
        {"prompt":"x","context":{"stage":"entity_extraction","entity_types":[]
          400 Bad Request context.entity_types missing_parameter: the stage `entity_extraction` needs context.entity_types
        {"prompt":"x","context":{"stage":"math_validation"},"schema":{}}
          400 Bad Request schema invalid_value: the stage `math_validation` has a schema of its own, without a place for another; leave `schema` out, or the stage
        {"prompt":"x","temperature":-1}
          400 Bad Request temperature invalid_value: temperature is -1, but must be within 0 to 100
        {"prompt":"x","temperature":"hot"}
          400 Bad Request temperature invalid_value: temperature: invalid type: string "hot", expected a number
        {"prompt":"x","top_p":0}
          400 Bad Request top_p invalid_value: top_p is 0, but must be above 0, at most 1
        {"prompt":"x","max_tokens":0}
          400 Bad Request max_tokens invalid_value: max_tokens is 0, but must be at least 1
        {"prompt":"x","max_tokens":-1}
          400 Bad Request max_tokens invalid_value: max_tokens: invalid value: integer `-1`, expected a whole number from 0 on
        {"prompt":"x","stop":[""]}
          400 Bad Request stop invalid_value: a text of stop is empty or longer than 256 bytes
        {"prompt":"x","stop":["x"],"schema":{"type":"object"}}
          400 Bad Request stop invalid_value: stop would break an answer that has to fit a schema; leave it out
        {"prompt":"x","schema":{"type":"strnig"}}
          400 Bad Request schema unsupported_schema: schema: #/type: "strnig" is no type: null, boolean, integer, number, string, array, object
        {"prompt":"x","schema":{"type":"object","required":["a","b"],"properti
          400 Bad Request max_tokens budget_too_small: the shortest answer that fits takes 7 tokens, but only 2 may be generated; raise max_tokens
    "#]].assert_eq(&table);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused() {
    use axum::body::Body;
    use axum::http::Request;
    let request = Request::post("/prompt").header("content-type", "text/plain");
    let answer = DEMO.send(request.body(Body::from("hello")).unwrap()).await;
    assert_eq!(answer.status(), 415);
    let answer: Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(answer["success"], json!(false));
}

fn write(root: &Path, stage: &str, files: &[(&str, &str)]) {
    let folder = root.join(stage);
    fs::create_dir_all(&folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

const TOML: (&str, &str) = ("stage.toml", "description = \"Says something.\"\n");
const JINJA: (&str, &str) = ("prompt.jinja", "Say: {{ prompt }}");

#[test]
fn stages_of_a_folder_join_the_built_in_ones() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "say", &[TOML, JINJA, ("README.md", "notes")]);
    write(folder.path(), "math_validation", &[TOML, JINJA]);
    write(folder.path(), ".git", &[("x", "")]);
    fs::write(folder.path().join("README.md"), "notes").unwrap();
    let stages = Stages::load(Some(folder.path())).unwrap();
    let names: Vec<&str> = stages.names().collect();
    let built_in =
        ["action_selection", "entity_extraction", "field_mapping", "field_mapping_batch"];
    assert_eq!(names, [&built_in[..], &["math_validation", "say"]].concat());
    assert_eq!(stages.replaced(), ["math_validation"]);
    assert_eq!(stages.get("math_validation").unwrap().description, "Says something.");
}

#[tokio::test]
async fn a_stage_without_a_schema_answers_with_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let manifest =
        "description = \"Says.\"\n[defaults]\nmax_tokens = 5\ntemperature = 0.5\nseed = 3\n";
    write(folder.path(), "say", &[("stage.toml", manifest), JINJA]);
    let server = TestServer::random("mixtral-bf16", Stages::load(Some(folder.path())).unwrap());
    let body = json!({ "prompt": "x", "context": { "stage": "say" }, "seed": 4 });
    let (status, answer) = server.json("/prompt", &body).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["output"].is_string());
    let parameters = &answer["metadata"]["parameters"];
    // The request wins over the stage, the stage over the model.
    let wanted = (json!(5), json!(0.5), json!(4));
    let found = ["max_tokens", "temperature", "seed"].map(|name| parameters[name].clone());
    assert_eq!(found, [wanted.0, wanted.1, wanted.2]);
    let listed: Value =
        serde_json::from_str(&text(server.get("/prompt/stages").await).await).unwrap();
    let say = listed["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "say");
    assert_eq!(say.unwrap()["schema"], Value::Null);
}

/// What is wrong with a stage is said at the start, with its file and line.
#[test]
fn a_stage_that_cannot_work_is_refused() {
    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Expect) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "mine", files);
        let error = Stages::load(Some(folder.path())).unwrap_err().to_string();
        expected.assert_eq(&error.replace(&folder.path().display().to_string(), "STAGES"));
    }
    check(
        &[TOML],
        expect!["STAGES/mine/prompt.jinja: cannot be read: No such file or directory (os error 2)"],
    );
    check(
        &[TOML, JINJA, ("shema.json", "{}")],
        expect![
            "STAGES/mine/shema.json: no file of a stage; those are stage.toml, prompt.jinja and schema.json"
        ],
    );
    check(
        &[("stage.toml", "description = \"x\"\n\nmax_tokens = 5\n"), JINJA],
        expect![
            "STAGES/mine/stage.toml:3: unknown field `max_tokens`, expected one of `description`, `context`, `schema_at`, `defaults`"
        ],
    );
    check(
        &[("stage.toml", "description = \"x\"\ncontext = [\"busines\"]\n"), JINJA],
        expect![
            "STAGES/mine/stage.toml:2: unknown variant `busines`, expected one of `business`, `software`, `document_id`, `entity_types`, `action`, `action_count`, `actions`"
        ],
    );
    check(
        &[("stage.toml", "description = \"x\"\n[defaults]\ntemperature = -1\n"), JINJA],
        expect!["STAGES/mine/stage.toml: temperature is -1, but must be within 0 to 100"],
    );
    check(
        &[("stage.toml", "description = \"x\n"), JINJA],
        expect![[r#"STAGES/mine/stage.toml:1: invalid basic string, expected `"`"#]],
    );
    check(
        &[
            ("stage.toml", "description = \"x\"\nschema_at = \"/properties/a\"\n"),
            JINJA,
            ("schema.json", "{\"properties\": {\"b\": {}}}"),
        ],
        expect!["STAGES/mine/stage.toml: schema_at: schema.json has nothing at `/properties/a`"],
    );
    check(
        &[TOML, JINJA, ("schema.json", "{\n  \"type\": \"object\",\n}")],
        expect!["STAGES/mine/schema.json:3: not JSON: trailing comma at line 3 column 1"],
    );
    check(
        &[TOML, JINJA, ("schema.json", "{\"properties\": {\"a\": {\"not\": {}}}}")],
        expect![
            "STAGES/mine/schema.json: #/properties/a/not: `not` is not supported: say what is allowed instead"
        ],
    );
    check(
        &[TOML, ("prompt.jinja", "Say\n{{ prompt }\n")],
        expect![
            "STAGES/mine/prompt.jinja:2: syntax error: unexpected `}`, expected end of variable block"
        ],
    );
    check(
        &[TOML, ("prompt.jinja", "Say\n{{ context.documents }}\n")],
        expect![
            "STAGES/mine/prompt.jinja:2: `context.documents` never comes; a template sees prompt, schema, context.business, context.software, context.document_id, context.entity_types, context.action, context.action_count, context.actions"
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "Not A Name", &[TOML, JINJA]);
    assert!(Stages::load(Some(folder.path())).unwrap_err().reason.contains("lower-case"));
    let missing = folder.path().join("nowhere");
    assert!(Stages::load(Some(&missing)).unwrap_err().reason.starts_with("cannot be read"));
}
