//! The words of a page as one text in which texts are found, whatever their case, quotes, dashes and line breaks.

use std::ops::Range;

use crate::{Block, Page, Rect};

/// A page's text, prepared.
pub(super) struct Words<'a> {
    pub(super) page: &'a Page,
    /// Words with a space between them.
    plain: Text,
    /// The same with words put together that a hyphen parts; none where no hyphen does.
    joined: Option<Text>,
    /// Letters and digits alone: identifiers are written in groups.
    dense: Text,
    /// For each word, the paragraph or cell that it belongs to.
    pub(super) passages: Vec<usize>,
}

/// A text, and where each word begins in it.
#[derive(Default)]
struct Text {
    text: String,
    /// Byte at which each word begins; of words that were left out, that of the next.
    starts: Vec<usize>,
}

impl<'a> Words<'a> {
    pub(super) fn new(page: &'a Page) -> Self {
        let words: Vec<String> = page.words.iter().map(|word| normal(&word.text)).collect();
        let mut plain = Text::default();
        let mut dense = Text::default();
        for word in &words {
            if !plain.text.is_empty() {
                plain.text.push(' ');
            }
            plain.starts.push(plain.text.len());
            plain.text.push_str(word);
            dense.starts.push(dense.text.len());
            dense.text.extend(word.chars().filter(|c| c.is_alphanumeric()));
        }
        let is_parted = |pair: &[String]| {
            pair[0].len() > 1
                && pair[0].ends_with('-')
                && pair[1].starts_with(|c: char| c.is_alphabetic())
        };
        let has_parted = words.windows(2).any(is_parted);
        let joined = has_parted.then(|| {
            let mut joined = Text::default();
            let mut is_open = false;
            for (at, word) in words.iter().enumerate() {
                if !joined.text.is_empty() && !is_open {
                    joined.text.push(' ');
                }
                joined.starts.push(joined.text.len());
                is_open = words.get(at..at + 2).is_some_and(is_parted);
                joined.text.push_str(if is_open { word.trim_end_matches('-') } else { word });
            }
            joined
        });
        Words { page, plain, joined, dense, passages: passages(page) }
    }

    /// The words of every place in which a text stands.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let parts: Vec<String> =
            text.split_whitespace().map(normal).filter(|part| !part.is_empty()).collect();
        let wanted = parts.join(" ");
        // Punctuation alone says nothing.
        if !wanted.contains(char::is_alphanumeric) {
            return Vec::new();
        }
        let mut found = self.plain.find(&wanted);
        if found.is_empty()
            && let Some(joined) = &self.joined
        {
            found = joined.find(&wanted);
        }
        if found.is_empty() && is_identifier(&wanted) {
            let dense: String = wanted.chars().filter(|c| c.is_alphanumeric()).collect();
            found = self.dense.find_whole_words(&dense);
            // Groups of one identifier stand in one place.
            found.retain(|words| self.is_one_passage(words));
        }
        found
    }

    /// Whether words belong to one paragraph or cell.
    pub(super) fn is_one_passage(&self, words: &Range<usize>) -> bool {
        let passages = &self.passages[words.clone()];
        passages.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Words with the white space between them.
    pub(super) fn text(&self, words: &Range<usize>) -> String {
        let texts: Vec<&str> =
            self.page.words[words.clone()].iter().map(|w| w.text.as_str()).collect();
        texts.join(" ")
    }

    /// Boxes around words, one for each line.
    pub(super) fn boxes(&self, words: &Range<usize>) -> Vec<Rect> {
        let mut boxes: Vec<Rect> = Vec::new();
        for bbox in self.page.words[words.clone()].iter().filter_map(|word| word.bbox) {
            match boxes.last_mut() {
                Some(line) if is_one_line(line, &bbox) && bbox.x0 >= line.x0 => {
                    *line = line.union(bbox)
                }
                _ => boxes.push(bbox),
            }
        }
        boxes
    }

    /// How many of these words stand shortly before a place, or in its line.
    pub(super) fn nearness(&self, words: &Range<usize>, names: &[String]) -> usize {
        const BEFORE: usize = 6;
        let first = self.page.words.get(words.start).and_then(|word| word.bbox);
        let is_near = |at: usize| {
            at < words.start && words.start - at <= BEFORE
                || match (first, self.page.words[at].bbox) {
                    (Some(first), Some(bbox)) => is_one_line(&first, &bbox) && bbox.x1 <= first.x0,
                    _ => false,
                }
        };
        let near = (0..words.start).filter(|at| is_near(*at));
        let near: Vec<String> = near.map(|at| normal(&self.page.words[at].text)).collect();
        let is_said = |name: &&String| {
            near.iter().any(|word| word.trim_matches(|c: char| !c.is_alphanumeric()) == **name)
        };
        names.iter().filter(is_said).count()
    }
}

/// Whether two boxes stand in one line: they share more than half of the lower one's height.
pub(super) fn is_one_line(a: &Rect, b: &Rect) -> bool {
    let shared = a.y1.min(b.y1) - a.y0.max(b.y0);
    shared * 2.0 > a.height().min(b.height())
}

/// Names of paragraphs and cells by word.
fn passages(page: &Page) -> Vec<usize> {
    let mut passages = vec![0; page.words.len()];
    let mut next = 0;
    let mut name = |words: &Range<usize>| {
        next += 1;
        for passage in passages.get_mut(words.clone()).into_iter().flatten() {
            *passage = next;
        }
    };
    for block in &page.blocks {
        match block {
            Block::Heading { passage, .. }
            | Block::Paragraph { passage }
            | Block::ListItem { passage, .. } => name(&passage.words),
            Block::Table(table) => {
                table.rows.iter().flatten().for_each(|cell| name(&cell.passage.words));
            }
        }
    }
    passages
}

/// Letters and digits together, eight at least: an IBAN, a VAT id, an order number.
fn is_identifier(text: &str) -> bool {
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let digits = text.chars().filter(char::is_ascii_digit).count();
    letters > 0 && digits > 3 && letters + digits >= 8
}

/// Small letters, plain quotes and dashes, no soft hyphens, no ligatures.
pub(super) fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' => {}
            '‘' | '’' | '‚' | '`' | '´' | '′' => normal.push('\''),
            '“' | '”' | '„' | '«' | '»' | '″' => normal.push('"'),
            '‐' | '\u{2011}' | '‒' | '–' | '—' | '\u{2212}' => normal.push('-'),
            'ﬀ' => normal.push_str("ff"),
            'ﬁ' => normal.push_str("fi"),
            'ﬂ' => normal.push_str("fl"),
            'ﬃ' => normal.push_str("ffi"),
            'ﬄ' => normal.push_str("ffl"),
            '…' => normal.push_str("..."),
            c => normal.extend(c.to_lowercase()),
        }
    }
    normal
}

impl Text {
    /// Places of a text that begin and end where words do.
    fn find(&self, wanted: &str) -> Vec<Range<usize>> {
        let places = self.text.match_indices(wanted);
        let whole = places
            .filter(|(at, _)| is_edge(&self.text, *at) && is_edge(&self.text, at + wanted.len()));
        whole.map(|(at, _)| self.words(at, at + wanted.len())).collect()
    }

    /// Places of a text that is made of whole words.
    fn find_whole_words(&self, wanted: &str) -> Vec<Range<usize>> {
        let is_start = |at: usize| at == self.text.len() || self.starts.binary_search(&at).is_ok();
        let places = self.text.match_indices(wanted);
        let whole = places.filter(|(at, _)| is_start(*at) && is_start(at + wanted.len()));
        whole.map(|(at, _)| self.words(at, at + wanted.len())).collect()
    }

    /// The words that bytes belong to.
    fn words(&self, start: usize, end: usize) -> Range<usize> {
        let first = self.starts.partition_point(|at| *at <= start) - 1;
        let behind = self.starts.partition_point(|at| *at < end);
        first..behind
    }
}

/// Whether a word may begin or end at a byte: between two that belong together, none does.
fn is_edge(text: &str, at: usize) -> bool {
    let mut before = text[..at].chars().rev();
    let mut behind = text[at..].chars();
    let (Some(a), Some(b)) = (before.next(), behind.next()) else { return true };
    let joins = |mark: char, left: Option<char>, right: Option<char>| {
        let is = |c: Option<char>, kind: fn(char) -> bool| c.is_some_and(kind);
        let digits = is(left, |c| c.is_ascii_digit()) && is(right, |c| c.is_ascii_digit());
        let words = is(left, char::is_alphanumeric) && is(right, char::is_alphanumeric);
        match mark {
            '-' | '_' | '/' | '@' | '&' | '+' | '\'' | '.' => words,
            ',' | ':' => digits,
            _ => false,
        }
    };
    if a.is_alphanumeric() && b.is_alphanumeric() {
        return false;
    }
    if a.is_alphanumeric() {
        !joins(b, Some(a), behind.next())
    } else {
        !joins(a, before.next(), Some(b))
    }
}
