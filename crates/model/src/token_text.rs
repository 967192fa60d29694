//! What each token stands for, in bytes.

use serde_json::Value;

use crate::{ModelError, Result, Tokenizer};

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenText {
    /// Bytes of text; a character may be spread over several tokens.
    Bytes(Vec<u8>),
    /// A special token, by name: it stands for no text.
    Special(String),
    /// An id without a token.
    Unused,
}

/// How `tokenizer.json` writes bytes in its tokens: by what its decoder undoes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Spelling {
    /// Bytes stand as characters of byte-level BPE.
    byte_level: bool,
    /// `<0x0A>` is a byte.
    byte_fallback: bool,
    /// Texts in tokens, and what they stand for: U+2581 for a space.
    replaced: Vec<(String, String)>,
    /// Spaces that are dropped at the beginning of a text.
    strips: usize,
}

impl Tokenizer {
    /// What every id stands for, in the middle of a text: added tokens that are not special are text too.
    ///
    /// # Errors
    /// If the tokenizer's decoder does what bytes of single tokens cannot show.
    pub fn token_texts(&self) -> Result<Vec<TokenText>> {
        let spelling = self.spelling()?;
        let added = self.added_tokens();
        let ids = self.vocab_size().max(added.keys().max().map_or(0, |&id| id as usize + 1));
        let texts = (0..ids as u32).map(|id| match added.get(&id) {
            Some((name, true)) => TokenText::Special(name.clone()),
            Some((text, false)) => TokenText::Bytes(text.clone().into_bytes()),
            None => match self.id_to_token(id) {
                Some(token) => spelling.bytes(&token),
                None => TokenText::Unused,
            },
        });
        Ok(texts.collect())
    }

    /// Whether the first space of a text is dropped where it is decoded from its beginning.
    ///
    /// # Errors
    /// As [`Tokenizer::token_texts`].
    pub fn strips_leading_space(&self) -> Result<bool> {
        Ok(self.spelling()?.strips > 0)
    }

    fn spelling(&self) -> Result<Spelling> {
        let mut spelling = Spelling::default();
        if let Some(decoder) = self.decoder_json() {
            spelling.read(&decoder)?;
        }
        Ok(spelling)
    }
}

impl Spelling {
    fn read(&mut self, decoder: &Value) -> Result<()> {
        let unknown = || {
            ModelError::Tokenizer(format!(
                "the bytes of its tokens cannot be told: decoder {decoder}"
            ))
        };
        let text = |key: &str| decoder[key].as_str().map(str::to_owned);
        match decoder["type"].as_str() {
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Fuse") => {}
            Some("Metaspace") => {
                let replacement = text("replacement").ok_or_else(unknown)?;
                self.replaced.push((replacement, " ".into()));
                // `never` adds no space, so none is dropped; older files say it with `add_prefix_space`.
                let scheme = decoder["prepend_scheme"].as_str().unwrap_or("always");
                if scheme != "never" && decoder["add_prefix_space"] != Value::Bool(false) {
                    self.strips = 1;
                }
            }
            Some("Replace") => {
                let pattern = decoder["pattern"]["String"].as_str().ok_or_else(unknown)?;
                self.replaced.push((pattern.into(), text("content").ok_or_else(unknown)?));
            }
            Some("Strip") if text("content").as_deref() == Some(" ") && decoder["stop"] == 0 => {
                self.strips = decoder["start"].as_u64().ok_or_else(unknown)? as usize;
            }
            Some("Sequence") => {
                for part in decoder["decoders"].as_array().ok_or_else(unknown)? {
                    self.read(part)?;
                }
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    fn bytes(&self, token: &str) -> TokenText {
        if self.byte_fallback
            && let Some(hex) = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
            && hex.len() == 2
            && let Ok(byte) = u8::from_str_radix(hex, 16)
        {
            return TokenText::Bytes(vec![byte]);
        }
        if self.byte_level {
            // A token with other characters was never made by byte-level BPE: it is shown as it is.
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return TokenText::Bytes(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
        }
        let replaced = self.replaced.iter();
        let text = replaced.fold(token.to_owned(), |text, (from, to)| text.replace(from, to));
        TokenText::Bytes(text.into_bytes())
    }
}

/// The byte that a character stands for in byte-level BPE: itself where it can be seen, else the next free one from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let seen = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if seen(code) {
        return u8::try_from(code).ok();
    }
    let at = code.checked_sub(0x100)?;
    (0..=255).filter(|&byte| !seen(byte)).nth(at as usize).and_then(|byte| u8::try_from(byte).ok())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Files;

    fn tokenizer(folder: &str) -> Tokenizer {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        Tokenizer::load(&Files::Directory(root)).unwrap()
    }

    const TEXTS: [&str; 6] = [
        "The total is 12.40 EUR.",
        "{\"name\": \"Zürich\", \"items\": [1, null]}\n",
        "  two leading spaces, a\ttab and\n\na blank line  ",
        "東京, 🦀 and \u{200b} nothing",
        "",
        " one",
    ];

    /// The bytes of a text's tokens, and what decoding gives.
    fn check(folder: &str, strips: bool) {
        let tokenizer = tokenizer(folder);
        let texts = tokenizer.token_texts().unwrap();
        assert_eq!(tokenizer.strips_leading_space().unwrap(), strips, "{folder}");
        for text in TEXTS {
            let ids = tokenizer.encode(text).unwrap();
            let mut bytes = Vec::new();
            for &id in &ids {
                match &texts[id as usize] {
                    TokenText::Bytes(text) => bytes.extend_from_slice(text),
                    TokenText::Special(_) => {}
                    TokenText::Unused => panic!("{id} is in use"),
                }
            }
            let decoded = tokenizer.decode(&ids, true).unwrap();
            let shown = if strips && bytes.starts_with(b" ") { &bytes[1..] } else { &bytes[..] };
            assert_eq!(String::from_utf8_lossy(shown), decoded, "{folder}: {text:?}");
        }
    }

    #[test]
    fn bytes_of_tokens_are_what_they_decode_to() {
        check("demo/model", false);
        check("fixtures/models/qwen3-bf16", false);
        check("fixtures/models/mixtral-bf16", true);
    }

    #[test]
    fn every_byte_has_its_character() {
        let bytes: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        let mut sorted = bytes.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('é')),
            (Some(b' '), Some(b'\n'), Some(0xe9))
        );
        assert_eq!(byte_of('€'), None);
    }

    #[test]
    fn special_tokens_are_no_text() {
        let texts = tokenizer("demo/model").token_texts().unwrap();
        assert_eq!(texts[2], TokenText::Special("</s>".into()));
        assert_eq!(texts.len(), 4096);
    }

    #[test]
    fn a_decoder_that_is_not_known_is_an_error() {
        let mut spelling = Spelling::default();
        let wordpiece = serde_json::json!({"type": "WordPiece", "prefix": "##"});
        assert!(spelling.read(&wordpiece).unwrap_err().to_string().contains("WordPiece"));
        let old =
            serde_json::json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true});
        spelling.read(&old).unwrap();
        assert_eq!(spelling.strips, 1);
        assert_eq!(spelling.bytes("▁a"), TokenText::Bytes(b" a".to_vec()));
    }
}
