//! Compares with the ids that transformers gave, in `fixtures/models/*/expected_tokens.json`.

#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

use std::path::{Path, PathBuf};

use model::{ChatTemplate, Files, ModelError, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(&Files::Directory(directory().join(name))).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream(true);
    let mut pieces: Vec<String> =
        ids.iter().map(|&id| stream.step(tokenizer, id).unwrap()).collect();
    pieces.push(stream.finish(tokenizer).unwrap());
    pieces
}

const MODELS: [&str; 2] = ["mixtral-bf16", "qwen3-bf16"];

#[test]
fn ids_are_those_of_transformers() {
    for name in MODELS {
        let tokenizer = load(name);
        let json = std::fs::read(directory().join(name).join("expected_tokens.json")).unwrap();
        let expected: Value = serde_json::from_slice(&json).unwrap();
        for case in expected["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let mut expected = ids(&case["ids"]);
            // Where the text has a BOS of its own, transformers puts a second one before it; we do not.
            let bos = tokenizer.token_to_id("<s>");
            if expected.len() > 1 && bos == Some(expected[0]) && expected[0] == expected[1] {
                expected.remove(0);
            }
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
            let decoded = tokenizer.decode(&ids(&case["ids"]), true).unwrap();
            assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}");
            let pieces = stream(&tokenizer, &ids(&case["ids"]));
            assert_eq!(pieces.concat(), decoded, "{name}");
        }
    }
}

#[test]
fn bos_comes_exactly_once() {
    let tokenizer = load("mixtral-bf16");
    let bos = tokenizer.token_to_id("<s>").unwrap();
    let hello = tokenizer.encode("hello").unwrap();
    assert_eq!(hello[0], bos);
    for ids in [
        tokenizer.encode("<s>hello").unwrap(),
        tokenizer.encode_chat("<s>hello").unwrap(),
        tokenizer.encode_chat("hello").unwrap(),
    ] {
        assert_eq!(ids.iter().filter(|&&id| id == bos).count(), 1);
        assert_eq!(ids[0], bos);
    }
    // A tokenizer without BOS gets none from us.
    let tokenizer = load("qwen3-bf16");
    assert_eq!(tokenizer.encode("hello").unwrap(), tokenizer.encode_chat("hello").unwrap());
}

#[test]
fn the_stream_holds_back_a_character_until_it_is_whole() {
    let tokenizer = load("qwen3-bf16");
    let ids = tokenizer.encode_chat("a🦀b").unwrap();
    assert!(ids.len() > 3, "the crab must take several tokens for this test: {ids:?}");
    let pieces = stream(&tokenizer, &ids);
    assert_eq!(pieces.concat(), "a🦀b");
    assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{pieces:?}");
    // Cut within the crab: what cannot be completed comes out at the end, and only there.
    let pieces = stream(&tokenizer, &ids[..2]);
    assert_eq!(pieces[..2].concat(), "a");
    assert_eq!(pieces[2], "\u{FFFD}");
}

#[test]
fn a_model_without_tokenizer_says_so() {
    let files = Files::Directory(directory().join("mistral-bf16"));
    let error = Tokenizer::load(&files).unwrap_err();
    assert!(matches!(error, ModelError::MissingFile { file: "tokenizer.json", .. }), "{error}");
    assert!(ChatTemplate::load(&files).unwrap().is_none());
}

proptest! {
    #[test]
    fn any_text_survives(text in "\\PC{0,40}") {
        // The other one has a vocabulary of too few bytes for this.
        let tokenizer = load("qwen3-bf16");
        let ids = tokenizer.encode_chat(&text).unwrap();
        prop_assert_eq!(stream(&tokenizer, &ids).concat(), tokenizer.decode(&ids, true).unwrap());
    }

    #[test]
    fn any_ids_stream_to_what_they_decode_to(ids in prop::collection::vec(0_u32..400, 0..30)) {
        for name in MODELS {
            let tokenizer = load(name);
            // Never a panic, and a piece for every id; broken UTF-8 may be cut into other U+FFFD than at once.
            let pieces = stream(&tokenizer, &ids);
            prop_assert_eq!(pieces.len(), ids.len() + 1);
        }
    }

    #[test]
    fn mangled_json_never_panics(cut in 0_usize..4000, byte in any::<u8>()) {
        let path = directory().join("qwen3-bf16/tokenizer.json");
        let mut json = std::fs::read(&path).unwrap();
        let cut = cut % json.len();
        json[cut] = byte;
        json.truncate(json.len() - cut % 7);
        let _ = Tokenizer::from_json(&json, &path, Some("<s>"));
    }
}
