//! The commands as a user runs them, on tiny models and the demo model.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{copy, halfbyte, halfbyte_with, ids, model, models, tensor};

/// Writes the tokens of a case to a file that `--tokens` takes.
fn write_tokens(case: &str, to: &Path) -> String {
    let tokens = ids(&models().join(case).join("expected.safetensors"), "tokens");
    let file = to.join(format!("{case}.json"));
    fs::write(&file, json!(tokens).to_string()).unwrap();
    file.display().to_string()
}

/// Largest difference of two tensors over the largest value of the second.
#[track_caller]
fn distance(found: &(Vec<usize>, Vec<f32>), expected: &(Vec<usize>, Vec<f32>)) -> f32 {
    assert_eq!(found.0, expected.0);
    let max = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0f32, f32::max);
    let difference = max(&mut found.1.iter().zip(&expected.1).map(|(a, b)| (a - b).abs()));
    difference / max(&mut expected.1.iter().map(|v| v.abs()))
}

#[test]
fn score_gives_the_logits_of_transformers_for_every_case() {
    let cases = fs::read_to_string(models().join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("logits.safetensors");
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let tokens = write_tokens(name, directory.path());
        let run = halfbyte(&[
            "score",
            &model(name),
            "--tokens",
            &tokens,
            "--logits",
            out.to_str().unwrap(),
            "--json",
            "--device",
            "cpu",
        ]);
        let report = run.json();
        let expected = tensor(&models().join(name).join("expected.safetensors"), "logits");
        assert_eq!(report["num_tokens"], expected.0[0]);
        assert_eq!(report["logprobs"].as_array().unwrap().len(), expected.0[0] - 1);
        // The tolerance that the project holds itself to: a ten-thousandth of the largest logit.
        let distance = distance(&tensor(&out, "logits"), &expected);
        assert!(distance <= 1e-4, "{name}: {distance}");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn score_reads_a_text_with_its_bos() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.txt");
    fs::write(&text, "Hello there").unwrap();
    let text = text.to_str().unwrap();
    let report =
        halfbyte(&["score", &model("mixtral-bf16"), "--text", text, "--json", "--device", "cpu"])
            .json();
    assert_eq!(report["tokens"][0], 1);
    let logprobs: Vec<f64> =
        report["logprobs"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    let perplexity = report["perplexity"].as_f64().unwrap();
    assert!((perplexity.ln() + mean).abs() < 1e-9);
    let run = halfbyte(&["score", &model("mixtral-bf16"), "--text", text, "--device", "cpu"]);
    let tokens = report["num_tokens"].as_u64().unwrap();
    assert_eq!(run.stdout, format!("perplexity {perplexity:.4} over {tokens} tokens\n"));
}

#[test]
fn prompt_streams_what_it_reports() {
    let qwen3 = model("qwen3-bf16");
    let base = ["prompt", &qwen3, "Hello there", "--max-tokens", "12", "--device", "cpu"];
    let report = halfbyte(&[&base[..], &["--json"]].concat()).json();
    let run = halfbyte(&base);
    assert_eq!(
        run.stdout.trim_end_matches('\n'),
        report["text"].as_str().unwrap().trim_end_matches('\n')
    );
    assert_eq!(report["finish_reason"], "length");
    assert_eq!(
        report["usage"],
        json!({"prompt_tokens": 25, "completion_tokens": 12, "cached_tokens": 0})
    );
    let summary = run.stderr.lines().last().unwrap();
    assert!(summary.starts_with("25 prompt tokens, 12 completion tokens; prefill "), "{summary}");
    assert!(summary.ends_with("tok/s; finish_reason: length"), "{summary}");
    // The text may come from stdin or a file as well.
    let base = ["prompt", &qwen3, "--max-tokens", "12", "--device", "cpu"];
    assert_eq!(halfbyte_with(&base, b"Hello there").stdout, run.stdout);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("text.txt");
    fs::write(&file, "Hello there").unwrap();
    let from_file = halfbyte(&[&base[..], &["--file", file.to_str().unwrap()]].concat());
    assert_eq!(from_file.stdout, run.stdout);
}

#[test]
fn prompt_reports_the_parameters_in_force_and_logprobs() {
    let report = halfbyte(&[
        "prompt",
        &model("qwen3-bf16"),
        "Hi",
        "--json",
        "--device",
        "cpu",
        "--max-tokens",
        "2",
        "--temperature",
        "0.1",
        "--top-k",
        "5",
        "--min-p",
        "0.05",
        "--stop",
        "END",
        "--seed",
        "7",
        "--logprobs",
        "3",
        "--presence-penalty",
        "-0.5",
        "--penalize-prompt",
    ])
    .json();
    assert_eq!(
        report["parameters"],
        json!({
            "max_tokens": 2, "temperature": 0.1, "top_k": 5, "top_p": 1.0, "min_p": 0.05, "repetition_penalty": 1.0,
            "frequency_penalty": 0.0, "presence_penalty": -0.5, "penalize_prompt": true, "seed": 7, "stop": ["END"],
        })
    );
    let content = report["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 2);
    let top = content[0]["top_logprobs"].as_array().unwrap();
    assert_eq!(top.len(), 3);
    assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
}

#[test]
fn a_seed_gives_the_same_text_on_any_number_of_threads() {
    let text = |seed, threads| {
        let report = halfbyte(&[
            "prompt",
            &model("mixtral-bf16"),
            "Hello",
            "--json",
            "--device",
            "cpu",
            "--max-tokens",
            "30",
            "--temperature",
            "1.5",
            "--seed",
            seed,
            "--threads",
            threads,
        ])
        .json();
        report["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text("3", "1"), text("3", "2"));
    assert_ne!(text("3", "1"), text("4", "1"));
}

#[test]
fn raw_text_is_not_a_chat() {
    let tokens = |args: &[&str]| {
        let base = [
            "prompt",
            &model("qwen3-bf16"),
            "Hello",
            "--json",
            "--device",
            "cpu",
            "--max-tokens",
            "0",
        ];
        let report = halfbyte(&[&base, args].concat()).json();
        assert_eq!((&report["text"], &report["finish_reason"]), (&json!(""), &json!("length")));
        report["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let (raw, chat, with_system) =
        (tokens(&["--raw"]), tokens(&[]), tokens(&["--system", "Be brief."]));
    assert!(raw < chat && chat < with_system, "{raw} {chat} {with_system}");
}

#[test]
fn quantize_writes_what_loading_would_quantize_to() {
    let directory = tempfile::tempdir().unwrap();
    let (dst, src) = (directory.path().join("nf4"), model("mixtral-bf16"));
    let dst = dst.to_str().unwrap();
    let report = halfbyte(&["quantize", &src, dst, "--json"]).json();
    assert_eq!(report["tensors_quantized"], 2 * (4 + 1 + 4 * 3));
    assert_eq!(report["shards_resumed"], 0);
    assert!(Path::new(dst).join("SHA256SUMS").exists());

    let tokens = write_tokens("mixtral-bf16", directory.path());
    let logits = |model: &str, more: &[&str]| {
        let out = directory.path().join("out.safetensors");
        let base = [
            "score",
            model,
            "--tokens",
            &tokens,
            "--logits",
            out.to_str().unwrap(),
            "--device",
            "cpu",
        ];
        let run = halfbyte(&[&base, more].concat());
        assert_eq!(run.code, 0, "{}", run.text());
        tensor(&out, "logits")
    };
    let artefact = logits(dst, &[]);
    assert_eq!(artefact, logits(&src, &["--quantize", "nf4"]));
    assert_ne!(artefact, logits(&src, &[]));
    let partly = logits(&src, &["--quantize", "nf4", "--skip", "block_sparse_moe.gate"]);
    assert_ne!(artefact, partly);
}

#[test]
fn quantize_says_what_it_did() {
    let directory = tempfile::tempdir().unwrap();
    let src = copy("llama-bf16", directory.path());
    let run = halfbyte(&[
        "quantize",
        &src,
        &format!("{src}-fp4"),
        "--type",
        "fp4",
        "--double-quant",
        "false",
    ]);
    let end = run.stdout.split_once(": ").unwrap().1;
    let (counts, sizes) = end.split_once("; ").unwrap();
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(counts, "14 tensors quantized, 7 kept");
    assert!(sizes.contains(" kB -> ") && sizes.ends_with(" s\n"), "{sizes}");
}

#[test]
fn chat_takes_lines_from_a_pipe() {
    let args =
        ["chat", &model("qwen3-bf16"), "--max-tokens", "3", "--device", "cpu", "--context", "128"];
    let run = halfbyte_with(
        &args,
        b"Hello\\\nthere\n\n/help\n/what\n/reset\nHello\\\nthere\n/exit\nnever said\n",
    );
    assert_eq!(run.code, 0, "{}", run.text());
    // The same turn twice, for the talk was reset between.
    let lines: Vec<&str> = run.stdout.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 2, "{}", run.text());
    assert_eq!(lines[0], lines[1]);
    assert!(run.stderr.contains("/reset  forget the talk so far"), "{}", run.stderr);
    assert!(run.stderr.contains("/what is unknown; /help lists what there is"), "{}", run.stderr);
}

#[test]
fn chat_survives_what_does_not_fit() {
    let args =
        ["chat", &model("qwen3-bf16"), "--max-tokens", "3", "--device", "cpu", "--context", "48"];
    let long = "x".repeat(200);
    let run = halfbyte_with(&args, format!("{long}\nHi\n").as_bytes());
    assert_eq!(run.code, 0, "{}", run.text());
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.text());
    assert!(run.stderr.contains("the context ends at 48; shorten it, or raise --context"));
}

#[test]
fn bench_measures_a_model() {
    let report = halfbyte(&[
        "bench",
        &model("mixtral-nf4-dq"),
        "--prompt-tokens",
        "32",
        "--decode-tokens",
        "4",
        "--batch",
        "3,40",
        "--depth",
        "20",
        "--repeat",
        "2",
        "--json",
        "--device",
        "cpu",
        "--threads",
        "1",
    ])
    .json();
    let batches = report["batches"].as_array().unwrap();
    assert_eq!(batches.iter().map(|b| b["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 40]);
    for batch in batches {
        assert_eq!(batch["tokens_per_second"].as_array().unwrap().len(), 2);
        assert!(batch["tokens_per_second_median"].as_f64().unwrap() > 0.0);
    }
    for rates in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
        let rates = report[rates].as_array().unwrap();
        assert_eq!(rates.len(), 2);
        assert!(rates.iter().all(|rate| rate.as_f64().unwrap() > 0.0));
    }
    for key in
        ["bytes_per_token", "memory_bandwidth_bytes_per_second", "bandwidth_share", "load_seconds"]
    {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert_eq!((&report["logits_finite"], &report["threads"]), (&json!(true), &json!(1)));
}

#[test]
fn demo_reads_its_sample() {
    let run = halfbyte(&["demo", "--device", "cpu"]);
    assert_eq!(run.code, 0, "{}", run.text());
    assert!(run.stdout.starts_with(
        "the sample, for the books of Brightwater Studio Ltd:\n\n  | NORDHAFEN DRUCK GmbH\n"
    ));
    let json = &run.stdout[run.stdout.find('{').unwrap()..];
    let shown: Value = serde_json::from_str(json).unwrap();
    let report = halfbyte(&["demo", "--json", "--device", "cpu"]).json();
    assert_eq!(shown, report["fields"]);
    for (field, value) in
        [("document_type", "invoice"), ("number", "RE-2026/0417"), ("total", "1443.35")]
    {
        assert_eq!(report["fields"][field], value);
    }
}

#[test]
fn demo_reads_a_pdf_as_it_reads_its_text() {
    let sample = |name: &str| models().join("../../demo/samples").join(name).display().to_string();
    let fields = |name: &str| {
        halfbyte(&["demo", "--file", &sample(name), "--json", "--device", "cpu"]).json()["fields"]
            .take()
    };
    let pdf = fields("invoice.pdf");
    assert_eq!((&pdf["number"], &pdf["total"]), (&json!("RE-2026/0417"), &json!("1443.35")));
    assert_eq!(pdf, fields("invoice.txt"));
}

#[test]
fn demo_counts_what_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let split = directory.path().join("split.jsonl");
    let sample = fs::read_to_string(models().join("../../demo/samples/invoice.txt")).unwrap();
    let answer = halfbyte(&["demo", "--json", "--device", "cpu"]).json();
    let right = json!({"text": sample, "our_business": "Brightwater Studio Ltd", "expected": answer["fields"]});
    let mut wrong = right.clone();
    wrong["expected"]["total"] = json!("1.00");
    fs::write(&split, format!("{right}\n{wrong}\n")).unwrap();
    let report =
        halfbyte(&["demo", "--evaluate", split.to_str().unwrap(), "--json", "--device", "cpu"])
            .json();
    assert_eq!((&report["documents"], &report["invalid"]), (&json!(2), &json!(0)));
    assert_eq!(report["exact_match"]["document"], 0.5);
    assert_eq!(report["exact_match"]["fields"]["total"], 0.5);
    assert_eq!(report["exact_match"]["fields"]["number"], 1.0);
}

#[test]
fn the_demo_model_has_a_name_in_every_command() {
    let report =
        halfbyte(&["prompt", "demo", "Hello", "--json", "--max-tokens", "1", "--device", "cpu"])
            .json();
    assert_eq!(report["model"], "demo");
}

#[test]
fn help_needs_nothing() {
    for command in [
        "demo",
        "prompt",
        "chat",
        "quantize",
        "score",
        "bench",
        "plan",
        "doctor",
        "selftest",
        "completions",
    ] {
        let run = halfbyte(&[command, "--help"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        assert!(run.stdout.contains("Usage: halfbyte"), "{}", run.stdout);
        assert!(command == "completions" || run.stdout.contains("Exit codes:"), "{}", run.stdout);
    }
    let run = halfbyte(&["--version"]);
    let lines: Vec<&str> = run.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["halfbyte", "build:", "target:", "cpu", "cuda"]);
    let kernels = run.stdout.lines().last().unwrap();
    assert!(kernels.contains("none (") || kernels.contains("(NVRTC "), "{kernels}");
    let version = concat!("halfbyte ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(halfbyte(&["-V"]).stdout, version);
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let run = halfbyte(&["completions", shell]);
        assert_eq!(run.code, 0);
        assert!(
            run.stdout.contains("quantize") && run.stdout.contains("--double-quant")
                || shell != "bash"
        );
    }
    let page = halfbyte(&["completions", "man"]);
    assert_eq!(page.code, 0);
    for part in [".TH halfbyte 1", ".SH \"HALFBYTE SERVE\"", "\\-\\-drain\\-seconds"] {
        assert!(page.stdout.contains(part), "{part}");
    }
}

#[test]
fn extract_writes_a_file_for_each_document_and_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).display().to_string();
    fs::write(place("a.csv"), "Item;Sum\nPaper;1,50\n").unwrap();
    fs::write(place("b.html"), "<h1>Order 7</h1><p>Thank you").unwrap();
    fs::write(place("c.docx"), "PK\u{3}\u{4}word/document.xml").unwrap();
    let files = [place("a.csv"), place("b.html"), place("c.docx")];
    let out = place("out");
    let extract = || {
        let typed = ["extract", &files[0], &files[1], &files[2], "-o", &out, "--json"];
        let run = halfbyte(&typed);
        let lines = run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut lines: Vec<Value> = lines.collect();
        // The last is the run's own.
        lines.pop();
        lines.sort_by_key(|line| line["file"].to_string());
        (run, lines)
    };
    let (run, lines) = extract();
    assert_eq!(run.code, 3, "{}", run.text());
    assert!(run.stderr.contains("failed:") && run.stderr.contains("c.docx"), "{}", run.text());
    assert!(run.stderr.contains("1 of 3 documents"), "{}", run.text());
    let states: Vec<&Value> = lines.iter().map(|line| &line["status"]).collect();
    assert_eq!(states, ["done", "done", "failed"]);
    assert_eq!(lines[0]["words"], 4);
    let written = |name: &str| fs::read_to_string(Path::new(&out).join(name)).unwrap();
    assert_eq!(written("a.csv.md"), "| Item | Sum |\n| --- | --- |\n| Paper | 1,50 |\n");
    assert_eq!(written("b.html.md"), "# Order 7\n\nThank you\n");
    fs::write(&files[1], "<p>Changed").unwrap();
    let (run, lines) = extract();
    let names: Vec<&str> = lines.iter().map(|line| line["file"].as_str().unwrap()).collect();
    let is_named = |name: &&str, end: &str| name.ends_with(end);
    assert!(is_named(&names[0], "b.html") && is_named(&names[1], "c.docx"), "{}", run.text());
    assert_eq!(names.len(), 2, "{}", run.text());
    assert!(run.stderr.contains("1 of 3 were done already"), "{}", run.text());
    assert_eq!(written("b.html.md"), "Changed\n");
}

#[test]
fn extract_fills_in_fields_and_checks_them() {
    let directory = tempfile::tempdir().unwrap();
    let invoice = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/samples/invoice.txt");
    let rules = directory.path().join("rules.toml");
    let own = "name = \"own\"\n[[rule]]\nname = \"sum\"\ncheck = \"sum\"\nleft = [\"total\"]\nright = [\"total\"]\n";
    fs::write(&rules, own).unwrap();
    let typed = [
        "extract",
        invoice.to_str().unwrap(),
        "--fields",
        "document_type,direction,party,number,date,currency,total",
        "--rules",
        rules.to_str().unwrap(),
        "--device",
        "cpu",
        "--json",
    ];
    let report = halfbyte(&typed).json();
    let fields = &report["fields"];
    assert_eq!((&fields["number"], &fields["total"]), (&json!("RE-2026/0417"), &json!("1443.35")));
    // The model's own word for it stands nowhere in the document.
    assert_eq!(fields["document_type"], Value::Null);
    assert_eq!(report["ungrounded"][0]["said"], "invoice");
    let found = report["found"].as_array().unwrap();
    let total = found.iter().find(|found| found["path"] == "total").unwrap();
    assert_eq!((&total["page"], &total["text"]), (&json!(1), &json!("1.443,35")));
    let checks = report["checks"].as_array().unwrap();
    let own = checks.iter().find(|check| check["rule"] == "own.sum").unwrap();
    assert_eq!(own["status"], "passed");
}

#[test]
fn bench_takes_the_time_of_a_start() {
    let start = |more: &[&str]| {
        let typed = [&["bench", "demo", "--start", "--repeat", "2", "--json", "--"], more].concat();
        halfbyte(&typed)
    };
    let report = start(&["--device", "cpu", "--context", "256"]).json();
    let starts = report["starts"].as_array().unwrap();
    assert_eq!(starts.len(), 2);
    for start in starts {
        let stages = ["listening", "reading", "loaded", "ready", "first_token"];
        let at = stages.map(|stage| start["milliseconds"][stage].as_f64().unwrap());
        assert!(at[0] > 0.0 && at.is_sorted(), "{start}");
    }
    // A server that cannot start says why.
    let failed = start(&["--context", "99999999"]);
    assert_eq!(failed.code, 1, "{}", failed.text());
    assert!(failed.text().contains("99999999"), "{}", failed.text());
}
