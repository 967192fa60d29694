//! Patterns of file names, as Hugging Face's tools have them: `*` takes `/` too.

use crate::HubError;

/// Longest pattern: matching takes its length times that of the name.
const LEN_MAX: usize = 256;

/// `*`, `?`, and letters; a pattern that ends with `/` takes all below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    pub(crate) fn new(text: &str) -> Result<Self, HubError> {
        if text.is_empty() || text.len() > LEN_MAX || text.contains(['[', ']', '{', '}']) {
            return Err(HubError::Name(format!(
                "`{text:.64}` is no pattern of file names: letters, `*` for any of them, `?` for one"
            )));
        }
        Ok(Glob(if text.ends_with('/') { format!("{text}*") } else { text.to_owned() }))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn takes(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) =
            (self.0.chars().collect(), name.chars().collect());
        let (mut p, mut n) = (0, 0);
        // The last star, and how far it reaches: going back to it alone is enough.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, reach)) => {
                        star = Some((at, reach + 1));
                        (p, n) = (at + 1, reach + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_what_they_should() {
        let takes = |pattern: &str, name: &str| Glob::new(pattern).unwrap().takes(name);
        for (pattern, name) in [
            ("*", ""),
            ("*", "a/b"),
            ("*.json", "a/config.json"),
            ("model-*-of-*.safetensors", "model-1-of-2.safetensors"),
            ("a?c", "abc"),
            ("a/", "a/b/c"),
            ("*a*b*", "xxabab"),
            ("a", "a"),
            ("**", "x"),
            ("?", "ü"),
        ] {
            assert!(takes(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.json", "a.jsonl"),
            ("a?c", "ac"),
            ("a", "ab"),
            ("ab*c", "abd"),
            ("a/", "b/a/c"),
            ("?", ""),
        ] {
            assert!(!takes(pattern, name), "{pattern} {name}");
        }
        assert!(Glob::new("").is_err() && Glob::new("[a]").is_err());
    }
}
