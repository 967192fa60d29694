//! The documents of `fixtures/documents/samples`, made by several producers, against what they are known to say.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::path::PathBuf;

use halfbyte_extract::{Block, Document, Format, Input, Limits, PageSource, picture, read};
use serde::Deserialize;

/// What a document says.
#[derive(Deserialize)]
struct Truth {
    kind: String,
    words: Vec<String>,
    tables: Vec<Vec<Vec<String>>>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/documents/samples")
}

fn load(name: &str) -> (Vec<u8>, Truth) {
    let truth = std::fs::read(folder().join(format!("{name}.json"))).unwrap();
    (std::fs::read(folder().join(name)).unwrap(), serde_json::from_slice(&truth).unwrap())
}

fn document(name: &str, bytes: &[u8]) -> Document {
    read(Input { bytes, name, mime: None }, &Limits::default(), &mut |_| ()).unwrap()
}

/// Names of the samples with text.
fn texts() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    names.retain(|name| load(name).1.kind == "text");
    names.sort();
    names
}

/// Words without the marks of lists, which are drawn but not in the truth.
fn words(document: &Document) -> Vec<&str> {
    let mut words = Vec::new();
    for page in &document.pages {
        let mut mark = vec![false; page.words.len()];
        for block in &page.blocks {
            if let Block::ListItem { passage, .. } = block {
                let drawn = passage.words.len() - passage.text.split_whitespace().count();
                mark[passage.words.start..][..drawn].fill(true);
            }
        }
        let kept = page.words.iter().zip(mark).filter(|(_, mark)| !mark);
        words.extend(kept.map(|(word, _)| word.text.as_str()));
    }
    words
}

fn counts<T: std::hash::Hash + Eq>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for item in items {
        *counts.entry(item).or_insert(0) += 1;
    }
    counts
}

#[test]
fn every_word_is_found_and_none_invented() {
    let names = texts();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let (bytes, truth) = load(&name);
        let document = document(&name, &bytes);
        let found = counts(words(&document).into_iter());
        let expected = counts(truth.words.iter().map(String::as_str));
        let missing: Vec<_> =
            expected.iter().filter(|(word, count)| found.get(*word) < Some(*count)).collect();
        let invented: Vec<_> =
            found.iter().filter(|(word, count)| expected.get(*word) < Some(*count)).collect();
        assert!(missing.is_empty() && invented.is_empty(), "{name}: {missing:?} {invented:?}");
        assert!(document.warnings.is_empty(), "{name}: {:?}", document.warnings);
    }
}

/// Runs of three words of the truth that come out as such; an order of drawing that is random changes nothing.
#[test]
fn words_come_in_reading_order() {
    for name in texts() {
        let (bytes, truth) = load(&name);
        let document = document(&name, &bytes);
        let words = words(&document);
        let found = counts(words.windows(3).map(|three| three.to_vec()));
        let truth: Vec<&str> = truth.words.iter().map(String::as_str).collect();
        let wanted = counts(truth.windows(3).map(|three| three.to_vec()));
        let all: usize = wanted.values().sum();
        let kept: usize =
            wanted.iter().map(|(three, n)| (*n).min(found.get(three).copied().unwrap_or(0))).sum();
        assert!(kept * 100 >= all * 95, "{name}: {kept} of {all}\n{}", document.text());
    }
}

#[test]
fn tables_come_out_as_tables() {
    for name in texts() {
        let (bytes, truth) = load(&name);
        let document = document(&name, &bytes);
        for wanted in &truth.tables {
            let cells: usize = wanted.iter().map(Vec::len).sum();
            // A table that goes on over the page is two: what counts is the rows, each as a whole, cell by cell.
            let rows: Vec<Vec<String>> = document
                .tables()
                .flat_map(|(_, table)| &table.rows)
                .map(|row| row.iter().map(|cell| cell.passage.text.replace('\n', " ")).collect())
                .collect();
            let found = wanted.iter().filter(|row| {
                let filled: Vec<&String> = row.iter().filter(|cell| !cell.is_empty()).collect();
                rows.iter().any(|other| {
                    other.iter().filter(|cell| !cell.is_empty()).eq(filled.iter().copied())
                })
            });
            let found: usize = found.map(Vec::len).sum();
            assert!(
                found * 100 >= cells * 95,
                "{name}: {found} of {cells}\n{}",
                document.markdown()
            );
        }
    }
}

#[test]
fn an_old_workbook_is_a_table() {
    // The other spreadsheets are made by tests of their reader; this format is too old to be written by hand.
    let (bytes, truth) = load("statement.xls");
    let document = document("statement.xls", &bytes);
    let table = document.tables().next().unwrap().1;
    let rows: Vec<Vec<&str>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.passage.text.as_str()).collect())
        .collect();
    assert_eq!(rows, truth.tables[0]);
}

#[test]
fn every_word_stands_on_its_page() {
    for name in texts() {
        for page in document(&name, &load(&name).0).pages {
            let (width, height) = (page.width.unwrap(), page.height.unwrap());
            let mut next = 0;
            for block in &page.blocks {
                assert_eq!(block.words().start, next, "{name}: words outside of blocks");
                next = block.words().end;
            }
            assert_eq!(next, page.words.len(), "{name}");
            for word in &page.words {
                let bbox = word.bbox.unwrap();
                let inside = bbox.x0 >= -1.0 && bbox.x1 <= width + 1.0 && bbox.y1 <= height + 1.0;
                assert!(inside && bbox.x0 < bbox.x1 && bbox.y0 < bbox.y1, "{name}: {word:?}");
            }
        }
    }
}

/// With an engine a scan is read; without one it says that it was not, and is never an empty text.
#[test]
fn a_scan_is_read_or_says_that_it_needs_ocr() {
    for (name, format) in [("receipt-100.png", Format::Png), ("receipt-100.pdf", Format::Pdf)] {
        let document = document(name, &load(name).0);
        assert_eq!(document.format, format);
        let page = &document.pages[0];
        match page.source {
            PageSource::Text => panic!("{name}: a picture has no text"),
            PageSource::NeedsOcr => {
                assert!(page.words.is_empty());
                assert!(document.warnings[0].message.contains("needs OCR"));
                assert!(document.markdown().contains("needs OCR"));
            }
            PageSource::Ocr => {
                assert!(
                    page.words.iter().all(|word| word.bbox.is_some() && word.confidence.is_some())
                );
                assert!(document.warnings.is_empty() && !page.words.is_empty());
            }
        }
    }
}

#[test]
fn a_page_can_be_looked_at() {
    for name in ["invoice-ruled-typst.pdf", "receipt-100.png"] {
        let (bytes, _) = load(name);
        let input = Input { bytes: &bytes, name, mime: None };
        let seen = picture(input, 1, 72.0, &Limits::default()).unwrap();
        assert!(seen.png.starts_with(b"\x89PNG"));
        assert!((seen.width as f32 - seen.page_width).abs() < 2.0, "{name}: {}", seen.width);
        let missing = picture(input, 9, 72.0, &Limits::default()).unwrap_err();
        assert_eq!(
            missing.to_string().split(';').next().unwrap(),
            format!("{name}: there is no page 9")
        );
    }
}

#[test]
fn limits_are_errors_that_say_which() {
    let (bytes, _) = load("report-typst.pdf");
    let input = Input { bytes: &bytes, name: "a.pdf", mime: None };
    let check = |limits: Limits, expected: &str| {
        let error = read(input, &limits, &mut |_| ()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    let all = Limits::default;
    check(Limits { bytes_max: 10, ..all() }, "a.pdf: bytes: ");
    check(Limits { pages_max: 0, ..all() }, "a.pdf: pages: ");
    check(Limits { words_max: 300, ..all() }, "a.pdf: words: ");
    let (png, _) = load("receipt-100.png");
    let input = Input { bytes: &png, name: "a.png", mime: None };
    let limits = Limits { pixels_max: 100, ..all() };
    let error = read(input, &limits, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("pixels: ") && error.contains("over the limit of 100"), "{error}");
}
