//! Writes artefacts from `fixtures/models` and compares them with those that transformers and bitsandbytes wrote.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use model::quantize::{Progress, QuantizeOptions, QuantizeReport, partial_path, quantize};
use model::{Checkpoint, ModelError, ModelWeights, QuantizePolicy, safetensors};
use quant::{QuantConfig, QuantType};
use sha2::{Digest, Sha256};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

fn options(quant_type: QuantType, double_quant: bool) -> QuantizeOptions {
    let quant = QuantConfig { quant_type, blocksize: 64, double_quant };
    QuantizeOptions { quant, ..QuantizeOptions::default() }
}

fn run(src: &Path, dst: &Path, options: &QuantizeOptions) -> Result<QuantizeReport, ModelError> {
    quantize(src, dst, options, |_| ())
}

fn copy(src: &Path, dst: &Path) {
    fs::create_dir_all(dst).unwrap();
    for entry in fs::read_dir(src).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dst.join(entry.file_name())).unwrap();
    }
}

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// Every tensor that bitsandbytes wrote is here, with the same type, shape and bytes; nested scales may differ by one step.
fn check_same_tensors(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (Checkpoint::open(ours).unwrap(), Checkpoint::open(theirs).unwrap());
    assert_eq!(ours.infos().count(), theirs.infos().count());
    for (name, info) in theirs.infos() {
        let (a, b) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
        assert_eq!((a.dtype, &a.shape), (info.dtype, &info.shape), "{name}");
        if name.ends_with(".absmax") && a.dtype == safetensors::Dtype::U8 {
            let close = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= 1;
            assert!(a.bytes.iter().zip(b.bytes.iter()).all(close), "{name}");
        } else if name.ends_with(".nested_absmax") {
            for (a, b) in floats(&a.bytes).into_iter().zip(floats(&b.bytes)) {
                // The mean that was taken off may differ in its last bit.
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{name}: {a} is not {b}");
            }
        } else if name.contains("quant_state") {
            check_same_state(&a.bytes, &b.bytes);
        } else {
            assert_eq!(a.bytes, b.bytes, "{name}");
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// The same text, but for the last digits of the mean that double quantization takes off.
fn check_same_state(ours: &[u8], theirs: &[u8]) {
    let split = |bytes: &[u8]| -> (String, Option<f32>) {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        match text.split_once("\"nested_offset\": ") {
            Some((start, offset)) => {
                (start.to_owned(), Some(offset.trim_end_matches('}').parse().unwrap()))
            }
            None => (text, None),
        }
    };
    let ((ours, offset), (theirs, expected)) = (split(ours), split(theirs));
    assert_eq!(ours, theirs);
    assert_eq!(offset.is_some(), expected.is_some());
    let (offset, expected) = (offset.unwrap_or(0.0), expected.unwrap_or(0.0));
    assert!((offset - expected).abs() <= 1e-6, "{offset} is not {expected}");
}

#[test]
fn the_artefact_is_what_bitsandbytes_writes() {
    let root = tempfile::tempdir().unwrap();
    for (source, expected, quant_type, double_quant) in [
        ("mixtral-bf16", "mixtral-nf4", QuantType::Nf4, false),
        ("mixtral-bf16", "mixtral-nf4-dq", QuantType::Nf4, true),
        ("qwen2-bf16", "qwen2-nf4-dq", QuantType::Nf4, true),
        ("qwen3-bf16", "qwen3-nf4", QuantType::Nf4, false),
        ("llama-tied-bf16", "llama-tied-nf4-dq", QuantType::Nf4, true),
        ("qwen3-moe-sparse-bf16", "qwen3-moe-sparse-nf4-dq", QuantType::Nf4, true),
    ] {
        let dst = root.path().join(expected);
        let report = run(&fixture(source), &dst, &options(quant_type, double_quant)).unwrap();
        assert!(report.tensors_quantized > 0 && report.tensors_dropped.is_empty());
        check_same_tensors(&dst, &fixture(expected));
        let theirs = Checkpoint::open(&fixture(expected)).unwrap();
        assert_eq!(Checkpoint::open(&dst).unwrap().config(), theirs.config(), "{expected}");
    }
}

#[test]
fn a_skipped_router_stays_and_is_named_in_the_config() {
    let root = tempfile::tempdir().unwrap();
    let dst = root.path().join("out");
    let mut options = options(QuantType::Nf4, true);
    options.skip = vec!["block_sparse_moe.gate".to_owned()];
    run(&fixture("mixtral-bf16"), &dst, &options).unwrap();
    check_same_tensors(&dst, &fixture("mixtral-nf4-dq-plain-router"));
    let config = Checkpoint::open(&dst).unwrap().config().clone();
    let skipped = config.quantization_config.unwrap().skip_modules;
    let expected =
        ["model.layers.0.block_sparse_moe.gate", "model.layers.1.block_sparse_moe.gate", "lm_head"];
    assert_eq!(skipped, expected);
}

#[test]
fn fused_experts_come_out_one_by_one() {
    let root = tempfile::tempdir().unwrap();
    let options = options(QuantType::Nf4, false);
    for (fused, plain) in
        [("mixtral-fused-bf16", "mixtral-bf16"), ("qwen3-moe-fused-bf16", "qwen3-moe-bf16")]
    {
        let (a, b) = (root.path().join(fused), root.path().join(plain));
        run(&fixture(fused), &a, &options).unwrap();
        run(&fixture(plain), &b, &options).unwrap();
        check_same_tensors(&a, &b);
        let (a, b) = (Checkpoint::open(&a).unwrap(), Checkpoint::open(&b).unwrap());
        assert_eq!(a.config(), b.config());
    }
}

#[test]
fn everything_is_listed_with_its_checksum_and_nothing_else_is_left() {
    let root = tempfile::tempdir().unwrap();
    let src = root.path().join("src");
    copy(&fixture("mixtral-bf16"), &src);
    let before = contents(&src);
    let dst = root.path().join("out");
    let mut last = None;
    let report = quantize(&src, &dst, &options(QuantType::Nf4, true), |progress| {
        let Progress { bytes_done, bytes_total, .. } = progress;
        assert!(last.unwrap_or(0) < bytes_done && bytes_done <= bytes_total);
        last = Some(bytes_done);
    })
    .unwrap();
    assert_eq!(last, Some(report.source_bytes));
    assert_eq!(contents(&src), before, "the source is untouched");
    assert!(!partial_path(&dst).exists());

    let files = contents(&dst);
    let sums = String::from_utf8(files["SHA256SUMS"].clone()).unwrap();
    let listed: BTreeMap<&str, &str> =
        sums.lines().map(|line| line.split_once("  ").unwrap()).map(|(a, b)| (b, a)).collect();
    for (name, bytes) in files.iter().filter(|(name, _)| *name != "SHA256SUMS") {
        let sum: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(listed.get(name.as_str()), Some(&sum.as_str()), "{name}");
    }
    assert_eq!(listed.len(), files.len() - 1);
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(files[name], before[name], "{name}");
    }
}

/// Stops after `tensors` tensors, as a kill would: whatever was written stays.
fn run_and_die(src: &Path, dst: &Path, options: &QuantizeOptions, tensors: usize) {
    let mut count = 0;
    let died = catch_unwind(AssertUnwindSafe(|| {
        let _ = quantize(src, dst, options, |_| {
            count += 1;
            assert!(count <= tensors, "killed, as the test wants it");
        });
    }));
    assert!(died.is_err());
    assert!(!dst.exists() && partial_path(dst).exists());
}

#[test]
fn a_killed_run_continues_after_its_finished_shards() {
    let root = tempfile::tempdir().unwrap();
    let src = root.path().join("src");
    copy(&fixture("mixtral-bf16"), &src);
    let mut options = options(QuantType::Nf4, true);
    options.max_shard_bytes = 40_000;
    let whole = root.path().join("whole");
    let report = run(&src, &whole, &options).unwrap();
    assert!(report.shards > 3 && report.shards_resumed == 0, "{report:?}");

    let dst = root.path().join("out");
    run_and_die(&src, &dst, &options, 30);
    let resumed = run(&src, &dst, &options).unwrap();
    assert!(resumed.shards_resumed > 0 && resumed.shards_resumed < resumed.shards, "{resumed:?}");
    assert_eq!(contents(&dst), contents(&whole));

    // A finished shard that was damaged is written again.
    let dst = root.path().join("damaged");
    run_and_die(&src, &dst, &options, 30);
    let shard = partial_path(&dst).join(format!("model-00001-of-{:05}.safetensors", report.shards));
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let again = run(&src, &dst, &options).unwrap();
    assert_eq!(again.shards_resumed, resumed.shards_resumed - 1);
    assert_eq!(contents(&dst), contents(&whole));

    // Other options, or another source, start afresh.
    let dst = root.path().join("changed");
    run_and_die(&src, &dst, &options, 30);
    let single = QuantizeOptions {
        quant: QuantConfig { double_quant: false, ..options.quant },
        ..options.clone()
    };
    assert_eq!(run(&src, &dst, &single).unwrap().shards_resumed, 0);
    let dst = root.path().join("touched");
    run_and_die(&src, &dst, &options, 30);
    let file = fs::File::options().write(true).open(src.join("model-00001-of-00002.safetensors"));
    file.unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(run(&src, &dst, &options).unwrap().shards_resumed, 0);
    assert_eq!(contents(&dst), contents(&whole));
}

#[test]
fn what_is_there_is_never_replaced() {
    let root = tempfile::tempdir().unwrap();
    let options = options(QuantType::Nf4, true);
    let dst = root.path().join("out");
    fs::write(&dst, "mine").unwrap();
    let error = run(&fixture("llama-bf16"), &dst, &options).unwrap_err();
    assert!(matches!(&error, ModelError::Exists(path) if *path == dst), "{error}");
    assert_eq!(fs::read(&dst).unwrap(), b"mine");

    let dst = root.path().join("other");
    fs::create_dir(partial_path(&dst)).unwrap();
    fs::write(partial_path(&dst).join("thesis.txt"), "mine").unwrap();
    let error = run(&fixture("llama-bf16"), &dst, &options).unwrap_err();
    assert!(matches!(&error, ModelError::Exists(_)), "{error}");
    assert!(partial_path(&dst).join("thesis.txt").exists());
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    let root = tempfile::tempdir().unwrap();
    let src = root.path().join("src");
    copy(&fixture("llama-bf16"), &src);
    let name = "model.layers.1.mlp.down_proj.weight";
    let file = src.join("model.safetensors");
    let info = safetensors::read_header(&file).unwrap()[name].clone();
    let mut bytes = fs::read(&file).unwrap();
    let at = info.bytes.start + 2 * 77;
    bytes[at..at + 2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let dst = root.path().join("out");
    let error = run(&src, &dst, &options(QuantType::Nf4, true)).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("[77]") && error.contains("NaN"), "{error}");
    assert!(!dst.exists() && !partial_path(&dst).exists());
}

#[test]
fn a_quantized_source_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dst = root.path().join("out");
    let error = run(&fixture("mixtral-nf4"), &dst, &options(QuantType::Nf4, true)).unwrap_err();
    assert!(error.to_string().contains("quantized already"), "{error}");
    assert!(!partial_path(&dst).exists());
}

#[test]
fn a_destination_within_the_source_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let src = root.path().join("src");
    copy(&fixture("llama-bf16"), &src);
    fs::create_dir(src.join("deeper")).unwrap();
    for dst in [src.join("out"), src.join("deeper/out"), src.join("deeper/../out")] {
        let error = run(&src, &dst, &options(QuantType::Nf4, true)).unwrap_err().to_string();
        assert!(error.contains("lies within the source"), "{error}");
        assert!(!partial_path(&dst).exists());
    }
    run(&src, &root.path().join("src-nf4"), &options(QuantType::Nf4, true)).unwrap();
}

#[test]
fn a_name_of_no_module_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let (src, dst) = (fixture("mixtral-bf16"), root.path().join("out"));
    let load = |options: &QuantizeOptions| {
        let (skip, include) = (options.skip.clone(), options.include.clone());
        let policy = QuantizePolicy { quant: Some(options.quant), skip, include };
        ModelWeights::load(&Checkpoint::open(&src).unwrap(), &policy, |_| ())
    };
    // The end of a module, but not its last whole names; a norm, which is no linear layer.
    for name in ["sparse_moe.gate", "model.norm", "block_sparse_moe.gates", ""] {
        for skipped in [true, false] {
            let mut options = options(QuantType::Nf4, true);
            let list = if skipped { &mut options.skip } else { &mut options.include };
            *list = vec!["q_proj".to_owned(), name.to_owned()];
            let message = format!("has no linear layer `{name}`");
            let error = run(&src, &dst, &options).unwrap_err().to_string();
            assert!(error.contains(&message), "{error}");
            let error = load(&options).unwrap_err().to_string();
            assert!(error.contains(&message), "{error}");
        }
    }
    assert!(!partial_path(&dst).exists());
}

#[test]
fn a_destination_that_cannot_be_made_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let dst = root.path().join("no/such/place");
    let error = run(&fixture("llama-bf16"), &dst, &options(QuantType::Nf4, true)).unwrap_err();
    assert!(error.to_string().starts_with("cannot create"), "{error}");
    assert_eq!(error.kind(), model::ErrorKind::Failed);
}
