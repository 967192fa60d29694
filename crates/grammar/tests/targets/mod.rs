//! What is fuzzed: constraints of any kind, which must become grammars or errors, and answers by them. `fuzz/` runs these on
//! inputs that it makes up, `tests/corpus.rs` on those in `fuzz/corpus`.

use std::sync::{Arc, OnceLock};

use grammar::{Grammar, Spec, TokenText, Vocabulary};
use serde_json::Value;

/// EOS of the vocabulary of single bytes.
const EOS: u32 = 255;

fn vocabulary() -> Arc<Vocabulary> {
    static BYTES: OnceLock<Arc<Vocabulary>> = OnceLock::new();
    let make = || {
        let mut tokens: Vec<TokenText> =
            (0..=254).map(|byte| TokenText::Bytes(vec![byte])).collect();
        tokens.push(TokenText::Special("</s>".into()));
        match Vocabulary::new(tokens, 256, &[EOS]) {
            Ok(vocabulary) => Arc::new(vocabulary),
            Err(error) => panic!("{error}"),
        }
    };
    Arc::clone(BYTES.get_or_init(make))
}

/// A JSON document as a schema.
pub(crate) fn schema(bytes: &[u8]) {
    let Ok(schema) = serde_json::from_slice::<Value>(bytes) else { return };
    for open in [false, true] {
        let spec = Spec::JsonSchema { schema: schema.clone(), open };
        if let Ok(grammar) = Grammar::compile(&vocabulary(), &spec) {
            assert!(grammar.shortest().is_some());
        }
    }
}

/// The kind of a constraint, how an answer goes (eight bytes), and the constraint.
pub(crate) fn walk(bytes: &[u8]) {
    let [kind, way @ ..] = bytes else { return };
    let Some((way, text)) = way.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let spec = match kind % 4 {
        0 => match serde_json::from_str(text) {
            Ok(schema) => Spec::JsonSchema { schema, open: kind & 4 != 0 },
            Err(_) => return,
        },
        1 => Spec::Choice(text.split('\n').map(str::to_owned).collect()),
        2 => Spec::Regex(text.to_owned()),
        _ => Spec::Lark(text.to_owned()),
    };
    let Ok(grammar) = Grammar::compile(&vocabulary(), &spec) else { return };
    let shortest = grammar.shortest();
    if shortest.is_some_and(|shortest| shortest > 200) {
        return;
    }
    let budget = shortest.unwrap_or(0) + usize::from(way[0]) % 64;
    answer(&grammar, budget, u64::from_le_bytes(*way), shortest.is_some());
}

fn answer(grammar: &Grammar, budget: usize, mut seed: u64, ends_in_time: bool) {
    let mut matcher = grammar.matcher();
    let mut mask = vec![0u32; 8];
    for remaining in (0..=budget).rev() {
        if matcher.mask(remaining, &mut mask).is_err() {
            // A grammar of someone's own may lead nowhere; ours may not.
            assert!(!ends_in_time, "no mask with {remaining} tokens left");
            return;
        }
        let mut allowed: Vec<u32> =
            (0..256).filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1).collect();
        let mut took = false;
        for _ in 0..8 {
            if allowed.is_empty() {
                break;
            }
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let token = allowed.swap_remove((seed >> 33) as usize % allowed.len());
            if token == EOS {
                assert!(matcher.is_complete());
                return;
            }
            match matcher.accept(token, remaining) {
                Ok(true) => {
                    took = true;
                    break;
                }
                Ok(false) => assert!(ends_in_time, "only a budget refuses"),
                Err(error) => {
                    assert!(!ends_in_time, "{error}");
                    return;
                }
            }
        }
        if !took && ends_in_time {
            let token = match matcher.next_of_completion() {
                Ok(token) => token,
                Err(error) => panic!("{error}"),
            };
            if token == EOS {
                assert!(matcher.is_complete());
                return;
            }
            assert_eq!(matcher.accept(token, remaining), Ok(true));
        }
    }
    assert!(!ends_in_time || matcher.is_complete());
}
