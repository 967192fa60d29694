//! Which bytes of a file are there, and the record of it.

use std::iter;
use std::ops::Range;

/// First line of a record; another layout gets another number.
const HEAD: &str = "halfbyte ranges 1";
/// Last line: a record without it was cut off.
const TAIL: &str = "end";

/// Ranges of bytes: in order, none empty, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Coverage(Vec<Range<u64>>);

impl Coverage {
    /// Adds a range, which may overlap others.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|have| have.end < range.start);
        let last = self.0.partition_point(|have| have.start <= range.end);
        let touched = &self.0[first..last];
        let start = touched.first().map_or(range.start, |have| have.start.min(range.start));
        let end = touched.last().map_or(range.end, |have| have.end.max(range.end));
        self.0.splice(first..last, iter::once(start..end));
    }

    /// What is missing within `range`.
    pub(crate) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        let first = self.0.partition_point(|have| have.end <= range.start);
        for have in self.0[first..].iter().take_while(|have| have.start < range.end) {
            if have.start > at {
                missing.push(at..have.start);
            }
            at = have.end;
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    /// How far everything from `at` on is there.
    pub(crate) fn reach(&self, at: u64) -> u64 {
        let next = self.0.partition_point(|have| have.end <= at);
        self.0.get(next).filter(|have| have.start <= at).map_or(at, |have| have.end)
    }

    /// Bytes.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The record of a file with this digest and length.
    pub(crate) fn record(&self, id: &str, file_len: u64) -> String {
        let ranges: String =
            self.0.iter().map(|range| format!("{}-{}\n", range.start, range.end)).collect();
        format!("{HEAD}\n{id} {file_len}\n{ranges}{TAIL}\n")
    }

    /// What a record says; `None` if it is of another file, or not whole.
    pub(crate) fn parse(text: &str, id: &str, file_len: u64) -> Option<Self> {
        let body = text.strip_prefix(&format!("{HEAD}\n{id} {file_len}\n"))?;
        let body = body.strip_suffix(&format!("{TAIL}\n"))?;
        let mut coverage = Coverage::default();
        for line in body.lines() {
            let (start, end) = line.split_once('-')?;
            let range: Range<u64> = start.parse().ok()?..end.parse().ok()?;
            let is_next = coverage.0.last().is_none_or(|last| last.end < range.start);
            if !is_next || range.is_empty() || range.end > file_len {
                return None;
            }
            coverage.0.push(range);
        }
        Some(coverage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 64;

    proptest! {
        #[test]
        fn coverage_is_a_set_of_bytes(ranges in prop::collection::vec((0..LEN, 0..LEN), 0..12), ask in (0..LEN, 0..=LEN)) {
            let mut coverage = Coverage::default();
            let mut bytes = [false; LEN as usize];
            for (start, end) in ranges {
                coverage.add(start..end);
                (start..end).for_each(|i| bytes[i as usize] = true);
            }
            prop_assert_eq!(coverage.len(), bytes.iter().filter(|b| **b).count() as u64);
            let reach = (ask.0..LEN).find(|i| !bytes[*i as usize]).unwrap_or(LEN);
            prop_assert_eq!(coverage.reach(ask.0), reach);
            let missing: Vec<u64> = coverage.missing(ask.0..ask.1).into_iter().flatten().collect();
            let expected: Vec<u64> = (ask.0..ask.1).filter(|i| !bytes[*i as usize]).collect();
            prop_assert_eq!(missing, expected);
            let record = coverage.record("c0ffee", LEN);
            prop_assert_eq!(Coverage::parse(&record, "c0ffee", LEN), Some(coverage));
            prop_assert_eq!(Coverage::parse(&record, "c0ffee", LEN + 1), None);
            for cut in 0..record.len() {
                prop_assert_eq!(Coverage::parse(&record[..cut], "c0ffee", LEN), None);
            }
        }

        #[test]
        fn no_record_is_believed_beyond_the_file(text in "halfbyte ranges 1\na 9\n([0-9]{1,2}-[0-9]{1,2}\n){0,4}end\n") {
            if let Some(coverage) = Coverage::parse(&text, "a", 9) {
                prop_assert!(coverage.len() <= 9);
            }
        }
    }
}
