//! Plain text, and Markdown as far as blocks go.

use super::{Parts, decode, warn_of_encoding};
use crate::{Block, Page};

/// Text: paragraphs between empty lines.
pub(super) fn text(bytes: &[u8]) -> Parts {
    let (text, encoding) = decode(bytes);
    let mut page = Page::without_size(1, None);
    push_paragraphs(&mut page, &text);
    let mut parts = Parts::of(vec![page]);
    warn_of_encoding(&mut parts, encoding);
    parts
}

/// Adds paragraphs that empty lines divide.
pub(super) fn push_paragraphs(page: &mut Page, text: &str) {
    let mut paragraph = String::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            page.push_paragraph(&paragraph);
            paragraph.clear();
        } else {
            paragraph.push_str(line);
            paragraph.push('\n');
        }
    }
}

/// Markdown: headings, lists, tables, and paragraphs with whatever marks are in them.
pub(super) fn markdown(bytes: &[u8]) -> Parts {
    let (text, encoding) = decode(bytes);
    let mut page = Page::without_size(1, None);
    let lines: Vec<&str> = text.lines().collect();
    let mut paragraph = String::new();
    let mut in_code = false;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        let trimmed = line.trim();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            in_code = !in_code;
            flush(&mut page, &mut paragraph);
            continue;
        }
        if in_code {
            paragraph.push_str(line);
            paragraph.push('\n');
            continue;
        }
        let is_table = |line: &&str| line.trim().starts_with('|');
        if is_table(line) && lines.get(at).is_some_and(|next| is_rule_of_table(next)) {
            flush(&mut page, &mut paragraph);
            let body: Vec<&str> =
                lines[at + 1..].iter().copied().take_while(|l| is_table(l)).collect();
            at += 1 + body.len();
            let rows: Vec<Vec<String>> = [*line].into_iter().chain(body).map(cells).collect();
            page.push_table(&rows, 1);
        } else if let Some((level, heading)) = heading(trimmed) {
            flush(&mut page, &mut paragraph);
            page.push_heading(level, heading);
        } else if let Some((number, item)) = list_item(trimmed) {
            flush(&mut page, &mut paragraph);
            let indent = line.len() - line.trim_start().len();
            let passage = page.passage(item);
            let depth = u8::try_from(indent / 2).unwrap_or(8).min(8);
            if !passage.words.is_empty() {
                page.blocks.push(Block::ListItem { depth, number, passage });
            }
        } else if trimmed.is_empty() {
            flush(&mut page, &mut paragraph);
        } else {
            paragraph.push_str(trimmed);
            paragraph.push('\n');
        }
    }
    flush(&mut page, &mut paragraph);
    let mut parts = Parts::of(vec![page]);
    warn_of_encoding(&mut parts, encoding);
    parts
}

fn flush(page: &mut Page, paragraph: &mut String) {
    page.push_paragraph(paragraph);
    paragraph.clear();
}

fn heading(line: &str) -> Option<(u8, &str)> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    let is_heading = (1..=6).contains(&level) && text.starts_with(' ');
    is_heading.then(|| (level as u8, text.trim().trim_end_matches('#')))
}

fn list_item(line: &str) -> Option<(Option<u32>, &str)> {
    if let Some(item) = ["- ", "* ", "+ "].iter().find_map(|mark| line.strip_prefix(mark)) {
        return Some((None, item));
    }
    let (number, item) = line.split_once(". ")?;
    let number = (number.len() <= 9).then(|| number.parse().ok()).flatten()?;
    Some((Some(number), item))
}

/// `| --- | :--: |`
fn is_rule_of_table(line: &str) -> bool {
    let line = line.trim();
    line.contains("--") && line.bytes().all(|byte| b"|-: ".contains(&byte))
}

/// Cells of a row; `\|` is a bar.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|');
    let row = row.strip_suffix('|').unwrap_or(row);
    let mut cells = vec![String::new()];
    let mut characters = row.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, cells.last_mut()) {
            ('\\', Some(cell)) if characters.peek() == Some(&'|') => {
                characters.next();
                cell.push('|');
            }
            ('|', _) => cells.push(String::new()),
            (character, Some(cell)) => cell.push(character),
            (_, None) => {}
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}
