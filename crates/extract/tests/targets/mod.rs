//! What is fuzzed: readers that are our own, which must return whatever they are given. `fuzz/` runs them on inputs that it makes
//! up, `tests/corpus.rs` on those in `fuzz/corpus`. Those of libraries (PDF, pictures, spreadsheets) may panic, for which
//! there are worker processes.

use halfbyte_extract::{Format, Input, Limits, read};

/// Names that decide where the content does not.
const NAMES: [&str; 5] = ["x.csv", "x.html", "x.eml", "x.md", "x.txt"];

/// A document whose first byte says what it is called.
pub(crate) fn extract_office(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let name = NAMES[usize::from(*first) % NAMES.len()];
    let limits = Limits {
        bytes_max: 1 << 20,
        pages_max: 50,
        words_max: 100_000,
        unpacked_bytes_max: 4 << 20,
        ..Limits::default()
    };
    let input = Input { bytes, name, mime: None };
    let is_ours = matches!(
        Format::detect(&input),
        Ok(Format::Docx
            | Format::Pptx
            | Format::Csv
            | Format::Html
            | Format::Eml
            | Format::Markdown
            | Format::Text)
    );
    if !is_ours {
        return;
    }
    if let Ok(document) = read(input, &limits, &mut |_| {}) {
        assert!(document.pages.len() <= limits.pages_max);
        let words: usize = document.pages.iter().map(|page| page.words.len()).sum();
        assert!(words <= limits.words_max, "{words} words");
        let _ = (document.markdown(), document.text());
        document.tables().for_each(|(_, table)| drop((table.csv(), table.json())));
    }
}
