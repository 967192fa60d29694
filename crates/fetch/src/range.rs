//! `Content-Range`: which bytes an answer holds, and how long the file is.

use std::ops::Range;

/// `bytes 0-99/1234`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes, at least one, all of them within the file.
    pub bytes: Range<u64>,
    /// Bytes of the file.
    pub file_len: u64,
}

impl ContentRange {
    /// Reads the header; `None` if it is no range of bytes of a file of known length.
    pub fn parse(text: &str) -> Option<Self> {
        let (bytes, file_len) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = bytes.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let file_len = number(file_len)?;
        (first <= last && last < file_len)
            .then(|| ContentRange { bytes: first..last + 1, file_len })
    }
}

/// Digits alone: no sign, no space.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_whole_ranges_within_a_known_length() {
        let range = ContentRange::parse("bytes 0-99/1234").unwrap();
        assert_eq!(range, ContentRange { bytes: 0..100, file_len: 1234 });
        for bad in [
            "",
            "bytes 0-99/*",
            "bytes */1234",
            "bytes 5-4/10",
            "bytes 0-10/10",
            "bytes -1-5/10",
            "bytes +0-5/10",
            "bytes 0 - 5/10",
            "items 0-5/10",
            "bytes 0-99999999999999999999/99999999999999999999",
            "bytes 18446744073709551615-18446744073709551615/18446744073709551615",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_within_the_file(text in "(bytes )?[0-9*+-]{0,22}[-/ ][0-9*]{0,22}(/[0-9*]{0,22})?") {
            if let Some(ContentRange { bytes, file_len }) = ContentRange::parse(&text) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= file_len);
                let again = format!("bytes {}-{}/{file_len}", bytes.start, bytes.end - 1);
                prop_assert_eq!(ContentRange::parse(&again), Some(ContentRange { bytes, file_len }));
            }
        }

        #[test]
        fn every_range_is_read_back(start in 0..u64::MAX / 4, len in 1..u64::MAX / 4, more in 0..u64::MAX / 4) {
            let (bytes, file_len) = (start..start + len, start + len + more);
            let text = format!("bytes {start}-{}/{file_len}", bytes.end - 1);
            prop_assert_eq!(ContentRange::parse(&text), Some(ContentRange { bytes, file_len }));
        }
    }
}
