//! Bounds of JSON that no schema states: how deep a document nests, how long a number is.
//!
//! Without them a model that repeats itself writes what parsers refuse: brackets beyond their recursion limit (128 in
//! serde_json), numbers beyond a double. Whoever reaches a bound has other tokens to go on with.

/// Brackets that may be open at once.
const MAX_OPEN: usize = 96;

/// Characters of a number.
const MAX_NUMBER: usize = 40;

/// Where in a JSON text we are, as far as the bounds need it. Text around the document (a call's `<tool_call>`) does not
/// disturb it: brackets are counted, not matched.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Guard {
    open: usize,
    number: usize,
    in_string: bool,
    after_backslash: bool,
}

impl Guard {
    /// Reads on; `false` if the text goes beyond a bound.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> bool {
        let mut within = true;
        for &byte in bytes {
            if self.in_string {
                let escaped = std::mem::take(&mut self.after_backslash);
                match byte {
                    b'"' if !escaped => self.in_string = false,
                    b'\\' if !escaped => self.after_backslash = true,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E' => self.number += 1,
                _ => self.number = 0,
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.open += 1,
                b'}' | b']' => self.open = self.open.saturating_sub(1),
                _ => {}
            }
            within &= self.open <= MAX_OPEN && self.number <= MAX_NUMBER;
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_digits_count_outside_of_strings_alone() {
        let mut guard = Guard::default();
        assert!(guard.read(br#"{"a\"[[[[": ["#));
        assert_eq!((guard.open, guard.in_string), (2, false));
        assert!(guard.read(b"1234567890123456789012345678901234567890"));
        assert!(!guard.read(b"1"));
        let mut guard = Guard::default();
        assert!(guard.read(&[b'['; MAX_OPEN]));
        assert!(!guard.read(b"["));
        assert!(Guard::default().read(br#""[[[[1234567890123456789012345678901234567890123""#));
    }
}
