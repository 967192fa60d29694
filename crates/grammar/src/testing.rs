//! What tests of this crate share.

use std::sync::Arc;

use crate::{TokenText, Vocabulary};

/// A vocabulary of all single bytes, then `texts`; EOS is the last id.
pub(crate) fn bytes_and(texts: &[&str]) -> Arc<Vocabulary> {
    let mut tokens: Vec<TokenText> = (0..=254).map(|byte| TokenText::Bytes(vec![byte])).collect();
    tokens.extend(texts.iter().map(|text| TokenText::Bytes(text.as_bytes().to_vec())));
    tokens.push(TokenText::Special("[TOOL_CALLS]".into()));
    tokens.push(TokenText::Special("</s>".into()));
    let eos = tokens.len() as u32 - 1;
    let vocab_size = tokens.len();
    Arc::new(Vocabulary::new(tokens, vocab_size, &[eos]).unwrap())
}
