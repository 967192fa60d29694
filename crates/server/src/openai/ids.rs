//! Names and times of answers.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// `chatcmpl-` and 24 random hexadecimal digits, for the prefix `chatcmpl`.
pub(super) fn id(prefix: &str) -> String {
    format!("{prefix}-{:016x}{:08x}", random(), random() >> 32)
}

/// The name of a call of a tool: nine letters and digits, which is what Mistral's templates insist on.
pub(super) fn call_id() -> String {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = random();
    let mut letter = || {
        let letter = LETTERS[(rest % 36) as usize];
        rest /= 36;
        char::from(letter)
    };
    (0..9).map(|_| letter()).collect()
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The standard library's hasher is keyed by the system's random numbers, and differs from one to the next.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_their_form() {
        assert_ne!(id("cmpl"), id("cmpl"));
        assert_eq!(id("cmpl").len(), "cmpl-".len() + 24);
        assert_ne!(call_id(), call_id());
        assert!(call_id().bytes().all(|b| b.is_ascii_alphanumeric()) && call_id().len() == 9);
    }
}
