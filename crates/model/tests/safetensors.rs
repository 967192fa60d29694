//! Headers that lie, and checkpoints whose files do not fit together.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::fs;
use std::path::Path;

use bytes::Bytes;
use model::safetensors::{Dtype, parse_header};
use model::{Checkpoint, ModelWeights, QuantizePolicy};
use proptest::prelude::*;
use serde_json::{Value, json};

const FILE: &str = "model.safetensors";

fn file(header: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<usize, String> {
    parse_header(bytes, bytes.len() as u64, Path::new(FILE))
        .map(|tensors| tensors.len())
        .map_err(|e| e.to_string())
}

fn check_error(header: &str, data_len: usize, expected: &str) {
    let error = parse(&file(header, data_len)).unwrap_err();
    assert!(error.starts_with(FILE) && error.contains(expected), "{error:?}, not {expected:?}");
    assert!(!error.contains('\n'), "{error:?}");
}

#[test]
fn a_sound_header_is_read() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "none":{"dtype":"U8","shape":[0,7],"data_offsets":[16,16]}}   "#;
    let bytes = file(header, 16);
    let tensors = parse_header(&bytes, bytes.len() as u64, Path::new(FILE)).unwrap();
    let start = 8 + header.len();
    assert_eq!(tensors["b"].dtype, Dtype::BF16);
    assert_eq!(tensors["b"].shape, [2, 3]);
    assert_eq!(tensors["b"].bytes, start + 4..start + 16);
    assert_eq!(tensors["a"].shape, [0; 0]);
    assert_eq!(parse(&file("{}", 0)), Ok(0));
}

#[test]
fn lengths_that_lie_are_named() {
    for short in [&b""[..], b"1234567"] {
        assert!(parse(short).unwrap_err().contains("too few for a safetensors file"));
    }
    let mut bytes = file("{}", 0);
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(parse(&bytes).unwrap_err().contains("no safetensors file"));
    bytes[..8].copy_from_slice(&3_u64.to_le_bytes());
    assert!(parse(&bytes).unwrap_err().contains("ends at byte 10 within its header of 3"));
    check_error("{}", 5, "5 bytes that belong to no tensor");
}

#[test]
fn tensors_that_lie_are_named() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    check_error(&one("F32", "[2]", "[0,8]"), 4, "tensor `t`: lies at bytes 0…8 of 4");
    check_error(&one("F32", "[2]", "[8,0]"), 8, "tensor `t`: lies at bytes 8…0");
    check_error(&one("F32", "[2]", "[0,4]"), 4, "tensor `t`: takes 4 bytes, but F32 [2] needs 8");
    check_error(&one("F32", "[4294967296,4294967296]", "[0,4]"), 4, "is too large");
    check_error(&one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "9 dimensions");
    check_error(&one("F32", "[1]", "[4,8]"), 8, "begins 4 bytes after the end of the header");
    check_error(&one("F7", "[1]", "[0,4]"), 4, "F7");
    check_error(&one("F32", "[-1]", "[0,4]"), 4, "header is broken");
    check_error(&one("F32", "[1.5]", "[0,4]"), 4, "header is broken");
    check_error("{", 0, "header is broken");
    check_error("[]", 0, "header is broken");
    let two = |a: &str, b: &str, offsets: &str| {
        format!(
            r#"{{"{a}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},
                "{b}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}}}"#
        )
    };
    check_error(&two("a", "b", "[2,6]"), 6, "tensor `b`: overlaps a");
    check_error(&two("a", "b", "[0,4]"), 4, "tensor `b`: overlaps a");
    check_error(&two("a", "b", "[5,9]"), 9, "tensor `b`: begins 1 bytes after the end of a");
    check_error(&two("a", "a", "[4,8]"), 8, "tensor `a` appears twice");
}

const CASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/");

/// A model of the fixtures in memory, with one file changed.
fn open_changed(
    case: &str,
    name: &str,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<Checkpoint, String> {
    let mut change = Some(change);
    let files = fs::read_dir(format!("{CASE}{case}")).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let mut bytes = fs::read(entry.path()).unwrap();
        let file = entry.file_name().into_string().unwrap();
        if let Some(change) = change.take_if(|_| file == name) {
            change(&mut bytes);
        }
        (file, Bytes::from(bytes))
    });
    Checkpoint::from_memory("test", files).map_err(|e| e.to_string())
}

fn load(checkpoint: &Checkpoint) -> Result<ModelWeights, String> {
    ModelWeights::load(checkpoint, &QuantizePolicy::keep(), |_| ()).map_err(|e| e.to_string())
}

/// Replaces text in a file without changing its length.
fn replace(from: &'static str, to: &'static str) -> impl FnOnce(&mut Vec<u8>) {
    assert_eq!(from.len(), to.len());
    move |bytes| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
}

#[test]
fn a_checkpoint_in_memory_loads() {
    let checkpoint = open_changed("mixtral-nf4-dq", "", |_| ()).unwrap();
    assert_eq!(load(&checkpoint).unwrap().layers.len(), 2);
}

#[test]
fn files_that_do_not_fit_together_are_named() {
    let index = "model.safetensors.index.json";
    let second = "model-00002-of-00002.safetensors";
    let edit = |edit: fn(&mut Value)| {
        move |bytes: &mut Vec<u8>| {
            let mut json: Value = serde_json::from_slice(bytes).unwrap();
            edit(&mut json);
            *bytes = json.to_string().into_bytes();
        }
    };
    let error = open_changed(
        "mixtral-bf16",
        index,
        edit(|json| {
            json["weight_map"]["lm_head.weight"] = "model-00003-of-00002.safetensors".into();
        }),
    );
    assert!(error.unwrap_err().contains("model-00003-of-00002.safetensors: is listed in"));
    let error = open_changed(
        "mixtral-bf16",
        index,
        edit(|json| {
            json["weight_map"]["lm_head.weight"] = "../../etc/model.safetensors".into();
        }),
    );
    assert!(error.unwrap_err().contains("is no name of a shard"));
    let error = open_changed(
        "mixtral-bf16",
        index,
        edit(|json| {
            json["weight_map"]["extra"] = json["weight_map"]["lm_head.weight"].clone();
        }),
    );
    assert!(error.unwrap_err().contains("tensor `extra`: is listed there"));
    let error = open_changed("mixtral-bf16", index, edit(|json| json["weight_map"] = json!({})));
    assert!(error.unwrap_err().contains("lists no tensor"));
    let error = open_changed("mixtral-bf16", second, |bytes| bytes.truncate(bytes.len() - 9));
    let error = error.unwrap_err();
    assert!(error.contains(second) && error.contains("cut short"), "{error}");
}

#[test]
fn a_missing_or_misshapen_tensor_is_named() {
    let name = "model.layers.1.self_attn.k_proj.weight";
    let checkpoint = open_changed(
        "llama-bf16",
        FILE,
        replace("model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.k_prox.weight"),
    );
    let error = load(&checkpoint.unwrap()).unwrap_err();
    assert!(error.contains(&format!("`{name}` is missing")), "{error}");
    assert!(error.contains("near it: model.layers.1.self_attn.k_prox.weight"), "{error}");
    let checkpoint = open_changed("llama-bf16", "config.json", |bytes| {
        let mut json: Value = serde_json::from_slice(bytes).unwrap();
        json["intermediate_size"] = 64.into();
        *bytes = json.to_string().into_bytes();
    });
    let error = load(&checkpoint.unwrap()).unwrap_err();
    assert!(error.contains("gate_proj.weight`: has shape"), "{error}");
    assert!(error.contains("config.json asks for [64, "), "{error}");
}

/// Changes one tensor's bytes in `mixtral-nf4-dq` or `mixtral-nf4`.
fn load_with(case: &str, name: &str, change: impl FnOnce(&mut [u8])) -> Result<(), String> {
    let checkpoint = open_changed(case, FILE, |bytes| {
        let tensors = parse_header(bytes, bytes.len() as u64, Path::new(FILE)).unwrap();
        change(&mut bytes[tensors[name].bytes.clone()]);
    });
    load(&checkpoint.unwrap()).map(|_| ())
}

#[test]
fn corrupt_4_bit_tensors_are_named() {
    let q_proj = "model.layers.0.self_attn.q_proj.weight";
    let check = |case: &str, companion: &str, change: &dyn Fn(&mut [u8]), expected: &str| {
        let error = load_with(case, &format!("{q_proj}.{companion}"), |bytes| change(bytes));
        let error = error.unwrap_err();
        assert!(error.contains(q_proj) && error.contains(expected), "{error:?}, not {expected:?}");
        assert!(!error.contains('\n'), "{error:?}");
    };
    let nan = |bytes: &mut [u8]| bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    let nan_first = |bytes: &mut [u8]| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    check("mixtral-nf4", "absmax", &nan, "absmax[1] is NaN");
    check("mixtral-nf4-dq", "nested_absmax", &nan_first, "nested_absmax[0] is NaN");
    check("mixtral-nf4-dq", "nested_quant_map", &nan, "nested_quant_map[1] is NaN");
    check("mixtral-nf4", "quant_map", &nan, "is not the code of nf4");
    let state = "quant_state.bitsandbytes__nf4";
    check("mixtral-nf4", state, &|bytes| bytes[0] = b'[', "is no quant_state");
    check("mixtral-nf4", state, &|bytes| bytes[3] = 0xff, "is no quant_state");
    let edit = |from: &'static str, to: &'static str| {
        move |bytes: &mut [u8]| {
            let mut text = bytes.to_vec();
            replace(from, to)(&mut text);
            bytes.copy_from_slice(&text);
        }
    };
    check("mixtral-nf4", state, &edit(": 64,", ": 60,"), "blocksize 60");
    check("mixtral-nf4", state, &edit(": 64,", ": 32,"), "absmax holds");
    check("mixtral-nf4", state, &edit("\"nf4\"", "\"fp4\""), "says quant_type fp4 inside");
    check("mixtral-nf4", state, &edit("\"nf4\"", "\"int\""), "neither nf4 nor fp4");
    check("mixtral-nf4", state, &edit("[72, 72]", "[73, 72]"), "bytes of codes");
    check("mixtral-nf4", state, &edit("[72, 72]", "[36,144]"), "has shape [36, 144]");
}

proptest! {
    #[test]
    fn no_header_panics(header in "[\\[\\]{}\",:a-z0-9 ]{0,80}", data_len in 0_usize..20) {
        let _ = parse(&file(&header, data_len));
    }

    /// A checkpoint with a few bytes of its header or of its small tensors changed loads or is refused, never more.
    #[test]
    fn no_mangled_checkpoint_panics(
        edits in prop::collection::vec((0.0_f64..1.0, any::<u8>()), 1..4),
        cut in prop::option::of(0.0_f64..1.0),
    ) {
        let checkpoint = open_changed("mixtral-nf4-dq", FILE, |bytes| {
            // The header and the F32 tensors behind it: the rest is codes, of which every byte is valid.
            let part = 60_000.min(bytes.len());
            for (at, byte) in edits {
                bytes[(at * part as f64) as usize] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate((cut * bytes.len() as f64) as usize);
            }
        });
        if let Ok(checkpoint) = checkpoint {
            let _ = load(&checkpoint);
        }
    }
}
