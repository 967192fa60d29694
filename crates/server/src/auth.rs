//! API keys.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// API keys, by their hashes: they are compared in constant time whatever their length, and never shown.
#[derive(Clone, Default)]
pub struct Keys {
    hashes: Vec<[u8; 32]>,
}

/// Keys that are kept at most.
const KEYS_MAX: usize = 1000;

/// What is wrong with a list of keys. Keys themselves are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A line is no key.
    #[error("line {line} is no key: a key has 8 to 512 printable ASCII characters and no space")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
    },
    /// Too many.
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
    /// A list without any key would let nobody in, or everybody.
    #[error("there is no key in it; put one on each line")]
    Empty,
}

impl Keys {
    /// Keys, one on each line; empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// If a line is no key, or there is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys = Keys::default();
        for (line, key) in (1..).zip(text.lines().map(str::trim)) {
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            let is_key =
                (8..=512).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
            if !is_key {
                return Err(KeyError::Malformed { line });
            }
            if keys.hashes.len() == KEYS_MAX {
                return Err(KeyError::TooMany);
            }
            keys.hashes.push(Sha256::digest(key).into());
        }
        if keys.hashes.is_empty() { Err(KeyError::Empty) } else { Ok(keys) }
    }

    /// Both lists.
    #[must_use]
    pub fn and(mut self, other: Keys) -> Self {
        self.hashes.extend(other.hashes);
        self
    }

    /// Whether anybody may ask.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether `key` is one of these. Takes as long whichever it is, and if it is none.
    pub(crate) fn contains(&self, key: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let found = |found: Choice, known: &[u8; 32]| found | known.ct_eq(&hash);
        self.hashes.iter().fold(Choice::from(0), found).into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} redacted)", self.hashes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_keys_will_do() {
        let keys = Keys::parse("# ours\nfirst-key-1\n\n  second-key-2  \n").unwrap();
        assert!(keys.contains("first-key-1") && keys.contains("second-key-2"));
        for wrong in ["", "first-key", "first-key-12", "# ours", "first-key-1\n"] {
            assert!(!keys.contains(wrong), "{wrong}");
        }
        let more = keys.and(Keys::parse("third-key-3").unwrap());
        assert!(more.contains("third-key-3") && more.contains("first-key-1"));
    }

    #[test]
    fn keys_are_never_shown() {
        let keys = Keys::parse("very-secret-key").unwrap();
        assert_eq!(format!("{keys:?}"), "Keys(1 redacted)");
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line() {
        assert_eq!(Keys::parse("good-key-1\nshort"), Err(KeyError::Malformed { line: 2 }));
        assert_eq!(Keys::parse("two words here"), Err(KeyError::Malformed { line: 1 }));
        assert_eq!(Keys::parse("# nothing\n\n"), Err(KeyError::Empty));
    }

    impl PartialEq for Keys {
        fn eq(&self, other: &Self) -> bool {
            self.hashes == other.hashes
        }
    }
}
