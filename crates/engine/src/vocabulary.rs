//! A model's tokens, for grammars.

use grammar::{TokenText, Vocabulary};
use model::Tokenizer;

use crate::EngineError;

/// Prepares a tokenizer's tokens for grammars: some tens of milliseconds, once a model. `vocab_size` is the number of logits;
/// `eos` end an answer.
///
/// # Errors
/// If bytes of tokens cannot be told from the tokenizer, or if they cannot write JSON.
pub fn vocabulary(
    tokenizer: &Tokenizer,
    vocab_size: usize,
    eos: &[u32],
) -> Result<Vocabulary, EngineError> {
    let texts = tokenizer.token_texts()?.into_iter();
    let mut tokens: Vec<TokenText> = texts
        .map(|text| match text {
            model::TokenText::Bytes(bytes) => TokenText::Bytes(bytes),
            model::TokenText::Special(name) => TokenText::Special(name),
            model::TokenText::Unused => TokenText::Unused,
        })
        .collect();
    // A tokenizer may know tokens that the model has no logits for.
    tokens.truncate(vocab_size);
    let vocabulary = Vocabulary::new(tokens, vocab_size, eos)?;
    Ok(vocabulary.strip_leading_space(tokenizer.strips_leading_space()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use grammar::{Grammar, Spec};

    use super::*;

    /// What decoding shows of the shortest answers with and without the space that sentencepiece begins texts with.
    #[test]
    fn a_leading_space_is_let_through_where_decoding_drops_it() {
        let json = include_bytes!("../../../fixtures/models/mixtral-bf16/tokenizer.json");
        let tokenizer =
            Tokenizer::from_json(json, Path::new("tokenizer.json"), Some("<s>")).unwrap();
        let vocabulary = Arc::new(super::vocabulary(&tokenizer, 310, &[2]).unwrap());
        let choice = Spec::Choice(vec!["total".into(), " total".into(), "the total".into()]);
        let schema = serde_json::json!({"type": "integer"});
        let schema = Spec::JsonSchema { schema, open: false };
        for spec in [choice, schema, Spec::Regex(" ?(the )?total|3".into())] {
            let grammar = Grammar::compile(&vocabulary, &spec).unwrap();
            for text in ["total", " total", "the total", "3"] {
                let ids = tokenizer.encode(text).unwrap();
                let mut matcher = grammar.matcher();
                let mut mask = vec![0; vocabulary.mask_words()];
                // Without BOS; the first token has the space that decoding drops.
                let fits = ids[1..].iter().enumerate().all(|(at, &id)| {
                    matcher.mask(100 - at, &mut mask).unwrap();
                    let allowed = mask[id as usize / 32] >> (id % 32) & 1 == 1;
                    allowed && matcher.accept(id, 100 - at).unwrap()
                }) && matcher.is_complete();
                let expected = match &spec {
                    Spec::Choice(_) => text != "3",
                    Spec::Regex(_) => true,
                    _ => text == "3",
                };
                assert_eq!(fits, expected, "{text:?} by {spec:?}");
                assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
            }
        }
    }
}
