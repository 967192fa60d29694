//! What goes wrong is told in one line: what, where, and what to do; and in the exit code.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};
use model::safetensors::parse_header;
use serde_json::{Value, json};
use support::{copy, halfbyte, halfbyte_with};

fn check(args: &[&str], expected: Expect) {
    expected.assert_eq(&halfbyte(&[args, &["--device", "cpu"]].concat()).text());
}

fn check_quantize(args: &[&str], expected: Expect) {
    let run = halfbyte(&[&["quantize"], args].concat());
    expected.assert_eq(&run.text().replace(&std::process::id().to_string(), "PID"));
}

/// A directory with the same name in every run.
fn directory(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("halfbyte-test-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    directory
}

fn set(directory: &str, key: &str, value: Value) {
    let file = Path::new(directory).join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config[key] = value;
    fs::write(file, config.to_string()).unwrap();
}

fn spoil(directory: &str, spoil: impl FnOnce(&mut Vec<u8>)) {
    let file = Path::new(directory).join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    spoil(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_model_that_is_not_here() {
    check(
        &["prompt", "acme/tiny", "Hi"],
        expect![[r#"
        exit 3
        --- stderr
        error: model `acme/tiny` is not here (looked in acme/tiny, /nonexistent/hub/models--acme--tiny/snapshots); fetch it with `halfbyte pull acme/tiny`, or give a path or --model-dir
    "#]],
    );
    check(
        &["prompt", "acme/tiny", "Hi", "--model-dir", "/nonexistent/models", "--json"],
        expect![[r#"
        exit 3
        --- stdout
        {"error":{"message":"model `acme/tiny` is not here (looked in acme/tiny, /nonexistent/models/acme/tiny, /nonexistent/hub/models--acme--tiny/snapshots); fetch it with `halfbyte pull acme/tiny`, or give a path or --model-dir","type":"invalid_request_error","param":"model","code":"model_not_found"}}
        --- stderr
        error: model `acme/tiny` is not here (looked in acme/tiny, /nonexistent/models/acme/tiny, /nonexistent/hub/models--acme--tiny/snapshots); fetch it with `halfbyte pull acme/tiny`, or give a path or --model-dir
    "#]],
    );
    check(
        &["score", "/nonexistent/model", "--tokens", "/dev/null"],
        expect![[r#"
        exit 3
        --- stderr
        error: model `/nonexistent/model` is not here (looked in /nonexistent/model); give the directory of a model, or its name as ORG/NAME
    "#]],
    );
    check(
        &["bench", "/dev/null"],
        expect![[r#"
        exit 3
        --- stderr
        error: /dev/null: is a file; name the directory it lies in
    "#]],
    );
}

#[test]
fn a_directory_without_a_model() {
    let empty = directory("empty");
    check(
        &["bench", empty.to_str().unwrap()],
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-empty: has no config.json; name a directory that transformers' save_pretrained wrote
    "#]],
    );
    let copied = copy("llama-bf16", &empty);
    fs::remove_file(Path::new(&copied).join("model.safetensors")).unwrap();
    check(
        &["bench", &copied],
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-empty/llama-bf16: has no model.safetensors; only safetensors checkpoints are read (model.safetensors, or shards with model.safetensors.index.json)
    "#]],
    );
}

#[test]
fn broken_weights() {
    let root = directory("broken-weights");
    let tokens = root.join("ids.json");
    fs::write(&tokens, "[1,2,3]").unwrap();
    let score = |name: &str, expected: Expect| {
        check(&["score", name, "--tokens", tokens.to_str().unwrap()], expected);
    };
    let truncated = copy("llama-bf16", &root);
    spoil(&truncated, |bytes| bytes.truncate(bytes.len() - 100));
    score(
        &truncated,
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-broken-weights/llama-bf16/model.safetensors: tensor `model.norm.weight`: lies at bytes 188928…189056 of 188956; the file is cut short or its header lies, fetch it again
    "#]],
    );
    let lying = copy("qwen2-bf16", &root);
    spoil(&lying, |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    score(
        &lying,
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-broken-weights/qwen2-bf16/model.safetensors: claims a header of 18446744073709551615 bytes, so it is no safetensors file
    "#]],
    );
    let narrow = copy("mistral-bf16", &root);
    set(&narrow, "intermediate_size", json!(17));
    score(
        &narrow,
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-broken-weights/mistral-bf16/model.safetensors: tensor `model.layers.0.mlp.gate_proj.weight`: has shape [84, 68], but config.json asks for [17, 68]
    "#]],
    );
    let deeper = copy("llama-nf4-bs128", &root);
    set(&deeper, "num_hidden_layers", json!(9));
    score(
        &deeper,
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-broken-weights/llama-nf4-bs128: tensor `model.layers.2.input_layernorm.weight` is missing (near it: model.layers.0.input_layernorm.weight, model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.down_proj.weight.absmax); fetch the checkpoint again or correct config.json
    "#]],
    );
}

#[test]
fn models_of_another_kind() {
    let root = directory("other-kind");
    let gpt = copy("llama-bf16", &root);
    set(&gpt, "architectures", json!(["GPT2LMHeadModel"]));
    check(
        &["bench", &gpt],
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-other-kind/llama-bf16/config.json: architecture `GPT2LMHeadModel` is not supported; supported: MixtralForCausalLM, MistralForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM
    "#]],
    );
    let yarn = copy("qwen2-bf16", &root);
    set(&yarn, "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}));
    check(
        &["bench", &yarn],
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-other-kind/qwen2-bf16/config.json: rope type `yarn` is not supported; supported: default, linear, llama3
    "#]],
    );
}

#[test]
fn a_model_that_cannot_read_or_talk() {
    check(
        &["prompt", &support::model("llama-bf16"), "Hi"],
        expect![[r#"
        exit 3
        --- stderr
        error: MODELS/llama-bf16: has no tokenizer.json; fetch it with the model, or give token ids where they are taken
    "#]],
    );
    let root = directory("no-template");
    let qwen3 = copy("qwen3-bf16", &root);
    fs::remove_file(Path::new(&qwen3).join("chat_template.jinja")).unwrap();
    check(
        &["prompt", &qwen3, "Hi"],
        expect![[r#"
        exit 3
        --- stderr
        error: the model has no chat template; `halfbyte prompt --raw` continues a text as it is
    "#]],
    );
    check(
        &["chat", &qwen3],
        expect![[r#"
        exit 3
        --- stderr
        error: the model has no chat template; `halfbyte prompt --raw` continues a text as it is
    "#]],
    );
}

#[test]
fn prompts_that_cannot_be_answered() {
    let qwen3 = support::model("qwen3-bf16");
    check(
        &["prompt", &qwen3, &"x ".repeat(300)],
        expect![[r#"
            exit 3
            --- stderr
            error: the prompt holds 617 tokens, but the context ends at 256; shorten it, or raise --context as far as the model goes
        "#]],
    );
    check(
        &["prompt", &qwen3, &"x ".repeat(300), "--json"],
        expect![[r#"
            exit 3
            --- stdout
            {"error":{"message":"the prompt holds 617 tokens, but the context ends at 256; shorten it, or raise --context as far as the model goes","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}}
            --- stderr
            error: the prompt holds 617 tokens, but the context ends at 256; shorten it, or raise --context as far as the model goes
        "#]],
    );
    check(
        &["prompt", &qwen3, ""],
        expect![[r#"
        exit 3
        --- stderr
        error: the text is empty; say something
    "#]],
    );
    check(
        &["prompt", &qwen3, "--raw", ""],
        expect![[r#"
        exit 3
        --- stderr
        error: the prompt holds no token
    "#]],
    );
    check(
        &["prompt", &qwen3, "Hi", "--context", "100000"],
        expect![[r#"
        exit 3
        --- stderr
        error: --context 100000 exceeds the 256 tokens that the model was made for
    "#]],
    );
    check(
        &["prompt", &qwen3, "--file", "/nonexistent/text"],
        expect![[r#"
        exit 3
        --- stderr
        error: cannot read /nonexistent/text: No such file or directory (os error 2)
    "#]],
    );
    let run = halfbyte_with(&["prompt", &qwen3, "-"], b"\xff");
    expect![[r#"
        exit 3
        --- stderr
        error: cannot read the text from stdin: stream did not contain valid UTF-8
    "#]]
    .assert_eq(&run.text());
}

#[test]
fn tokens_that_cannot_be_scored() {
    let root = directory("tokens");
    let file = root.join("ids.json");
    let score = |ids: &str, expected: Expect| {
        fs::write(&file, ids).unwrap();
        check(
            &["score", &support::model("llama-bf16"), "--tokens", file.to_str().unwrap()],
            expected,
        );
    };
    score(
        "[]",
        expect![[r#"
        exit 3
        --- stderr
        error: the prompt holds no token
    "#]],
    );
    score(
        "[1, 2, 100000]",
        expect![[r#"
        exit 3
        --- stderr
        error: token [2] is 100000, but the vocabulary ends at 160
    "#]],
    );
    score(
        "[1, -2]",
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-tokens/ids.json: is no JSON array of token ids: invalid value: integer `-2`, expected u32 at line 1 column 6
    "#]],
    );
    score(
        "{\"ids\": [1]}",
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-tokens/ids.json: is no JSON array of token ids: invalid type: map, expected a sequence at line 1 column 0
    "#]],
    );
    score(
        "[1, 2",
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-tokens/ids.json: is no JSON array of token ids: EOF while parsing a list at line 1 column 5
    "#]],
    );
    score(
        &json!(vec![1; 1000]).to_string(),
        expect![[r#"
            exit 3
            --- stderr
            error: the prompt holds 1000 tokens, but the context ends at 256; shorten it, or raise --context as far as the model goes
        "#]],
    );
}

#[test]
fn places_that_cannot_be_written() {
    let root = directory("unwritable");
    let tokens = root.join("ids.json");
    fs::write(&tokens, "[1,2,3]").unwrap();
    let llama = support::model("llama-bf16");
    let score = ["score", &llama, "--tokens", tokens.to_str().unwrap()];
    check(
        &[&score[..], &["--logits", "/nonexistent/out.safetensors"]].concat(),
        expect![[r#"
        exit 1
        --- stderr
        error: cannot write /nonexistent/out.safetensors: No such file or directory (os error 2)
    "#]],
    );
    check(
        &[&score[..], &["--logits", root.to_str().unwrap()]].concat(),
        expect![[r#"
        exit 1
        --- stderr
        error: cannot write TMP/halfbyte-test-unwritable: is a directory
    "#]],
    );
    // A link to a device: what it points to must stay what it is, and so must the link.
    let device = root.join("device");
    std::os::unix::fs::symlink("/dev/null", &device).unwrap();
    check(
        &[&score[..], &["--logits", device.to_str().unwrap()]].concat(),
        expect![[r#"
        exit 1
        --- stderr
        error: cannot write TMP/halfbyte-test-unwritable/device: it is no regular file; name a new one
    "#]],
    );
    assert!(fs::symlink_metadata(&device).unwrap().is_symlink());
    fs::remove_file(&device).unwrap();
    check_quantize(
        &[&llama, "/nonexistent/dst"],
        expect![[r#"
        exit 1
        --- stderr
        error: cannot create /nonexistent/dst.partial: No such file or directory (os error 2)
    "#]],
    );
    check_quantize(
        &[&llama, tokens.join("dst").to_str().unwrap()],
        expect![[r#"
        exit 1
        --- stderr
        error: cannot create TMP/halfbyte-test-unwritable/ids.json/dst.partial: Not a directory (os error 20)
    "#]],
    );
    check_quantize(
        &[&llama, root.to_str().unwrap()],
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-unwritable exists already; remove it or name another destination
    "#]],
    );
    check_quantize(
        &[&support::model("llama-nf4-bs128"), root.join("dst").to_str().unwrap()],
        expect![[r#"
        exit 3
        --- stderr
        error: MODELS/llama-nf4-bs128: is quantized already; give the 16-bit checkpoint it was made from
    "#]],
    );
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1, "something was left behind");
}

#[test]
fn values_that_cannot_be_quantized_leave_nothing() {
    let root = directory("not-finite");
    let src = copy("llama-bf16", &root);
    let file = Path::new(&src).join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let header = parse_header(&bytes, bytes.len() as u64, &file).unwrap();
    let end = header["model.layers.1.mlp.down_proj.weight"].bytes.end;
    // The last element of the last matrix becomes NaN.
    spoil(&src, |bytes| bytes[end - 2..end].copy_from_slice(&[0xc0, 0x7f]));
    check_quantize(
        &[&src, root.join("dst").to_str().unwrap()],
        expect![[r#"
        exit 3
        --- stderr
        error: TMP/halfbyte-test-not-finite/llama-bf16/model.safetensors: tensor `model.layers.1.mlp.down_proj.weight`: value [8191] is NaN; only finite values can be quantized
    "#]],
    );
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1, "something was left behind");
}

#[test]
fn demo_tells_a_bad_file_from_a_bad_answer() {
    check(
        &["demo", "--file", "/nonexistent/doc"],
        expect![[r#"
        exit 3
        --- stderr
        error: cannot read /nonexistent/doc: No such file or directory (os error 2)
    "#]],
    );
    check(
        &["demo", "--evaluate", "/dev/null"],
        expect![[r#"
        exit 3
        --- stderr
        error: /dev/null: holds no document
    "#]],
    );
    // A model that was never trained answers, but not with the JSON object.
    let run =
        halfbyte(&["demo", "--model", &support::model("qwen3-bf16"), "--device", "cpu", "--json"]);
    assert!(matches!(run.code, 1 | 3), "{}", run.text());
    assert!(run.stderr.starts_with("error: "), "{}", run.text());
    let error: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(error["error"]["message"].is_string());
}

#[test]
fn an_empty_document_is_not_read() {
    check(
        &["demo", "--file", "/dev/null"],
        expect![[r#"
            exit 3
            --- stderr
            error: the document is empty; there is nothing to read
        "#]],
    );
}
