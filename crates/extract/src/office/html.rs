//! HTML: what a reader of the page would see, from the tokens of a browser's tokenizer. No tree is built, nothing is run and
//! nothing is fetched.

use std::cell::RefCell;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};

use super::{Parts, decode, warn_of_encoding};
use crate::{Block, Cell, Limits, Page, Table};

/// Elements whose content nobody sees.
const UNSEEN: [&str; 10] = [
    "script", "style", "head", "template", "noscript", "svg", "math", "iframe", "object", "select",
];

/// Elements of a head.
const OF_HEAD: [&str; 9] =
    ["head", "meta", "link", "title", "base", "script", "style", "noscript", "template"];

/// Elements that begin and end lines of their own.
const BLOCKS: &str = " address article aside blockquote body center dd details dialog div dl dt fieldset figcaption \
figure footer form header hr html legend main nav ol p pre section summary ul li table caption tr td th thead tbody \
tfoot h1 h2 h3 h4 h5 h6 title ";

/// Elements that have no end.
const VOID: &str = " area base br col embed hr img input link meta param source track wbr ";

/// Most columns or rows that a cell may cover.
const MAX_SPAN: usize = 1000;

pub(super) fn read(bytes: &[u8], limits: &Limits) -> Parts {
    let (text, encoding) = decode(bytes);
    let mut page = Page::without_size(1, None);
    let title = push(&mut page, &text, limits);
    let mut parts = Parts::of(vec![page]);
    parts.metadata.title = title;
    warn_of_encoding(&mut parts, encoding);
    parts
}

/// Adds what a text in HTML shows; returns its title. Of a page with more words than `limits` allow, one more is added than
/// that, so that the caller sees it.
pub(super) fn push(page: &mut Page, text: &str, limits: &Limits) -> Option<String> {
    let empty = Page::without_size(page.number, page.label.clone());
    let state = State {
        page: std::mem::replace(page, empty),
        words_max: limits.words_max,
        ..State::default()
    };
    let tokenizer = Tokenizer::new(Sink(RefCell::new(state)), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(text));
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    let mut state = tokenizer.sink.0.into_inner();
    state.flush();
    while !state.tables.is_empty() {
        state.end_table();
    }
    *page = state.page;
    let title = state.title.split_whitespace().collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}

struct Sink(RefCell<State>);

struct State {
    page: Page,
    words_max: usize,
    /// Text of the paragraph that has begun.
    text: String,
    kind: Kind,
    list_depth: u8,
    /// Numbers of the lists that have begun; none where they have bullets.
    lists: Vec<Option<u32>>,
    tables: Vec<Grid>,
    /// Name of the element whose content is unseen, and how often it has begun inside of itself.
    unseen: Option<(String, usize)>,
    in_title: bool,
    is_preformatted: bool,
    title: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Paragraph,
    Heading(u8),
    Item(Option<u32>),
}

/// A table that has begun.
#[derive(Default)]
struct Grid {
    rows: Vec<Vec<GridCell>>,
    /// Holds other tables: it arranges the page, and its cells are read as parts of it.
    is_layout: bool,
}

#[derive(Default)]
struct GridCell {
    text: String,
    col_span: usize,
    row_span: usize,
    is_head: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            page: Page::without_size(1, None),
            words_max: 0,
            text: String::new(),
            kind: Kind::Paragraph,
            list_depth: 0,
            lists: Vec::new(),
            tables: Vec::new(),
            unseen: None,
            in_title: false,
            is_preformatted: false,
            title: String::new(),
        }
    }
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut state = self.0.borrow_mut();
        match token {
            Token::TagToken(tag) => return state.tag(&tag),
            Token::CharacterTokens(text) => state.characters(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl State {
    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        let is_void = VOID.contains(&format!(" {name} "));
        let is_start = tag.kind == TagKind::StartTag;
        if name == "title" {
            self.in_title = is_start && self.title.is_empty();
        }
        // Whatever belongs into no head ends one that was not ended.
        let ends_head = is_start && !OF_HEAD.contains(&name);
        if ends_head && self.unseen.as_ref().is_some_and(|(unseen, _)| unseen == "head") {
            self.unseen = None;
        }
        let is_empty = is_void || tag.self_closing && ["svg", "math"].contains(&name);
        if let Some((unseen, depth)) = &mut self.unseen {
            if unseen.as_str() == name && !is_empty {
                *depth = if is_start { *depth + 1 } else { *depth - 1 };
            }
            if *depth == 0 {
                self.unseen = None;
            }
        } else if is_start && !is_empty && (UNSEEN.contains(&name) || is_hidden(tag)) {
            self.flush();
            self.unseen = Some((name.to_owned(), 1));
        } else if self.page.words.len() <= self.words_max {
            self.visible(tag, name, is_start);
        }
        if !is_start {
            return TokenSinkResult::Continue;
        }
        // Without a tree the tokenizer has to be told where tags are no tags.
        match name {
            "script" => TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "iframe" | "noembed" | "noframes" | "xmp" => {
                TokenSinkResult::RawData(RawKind::Rawtext)
            }
            "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
            _ => TokenSinkResult::Continue,
        }
    }

    fn characters(&mut self, text: &str) {
        if self.in_title {
            self.title.push_str(text);
        }
        if self.unseen.is_none() && self.page.words.len() <= self.words_max {
            if self.is_preformatted {
                self.text.push_str(text);
            } else {
                // White space is one space, new lines included.
                self.text.extend(text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }));
            }
        }
    }

    fn visible(&mut self, tag: &Tag, name: &str, is_start: bool) {
        if name == "br" {
            self.text.push('\n');
        }
        if !BLOCKS.contains(&format!(" {name} ")) {
            return;
        }
        self.flush();
        if is_start { self.start(tag, name) } else { self.end(name) }
    }

    fn start(&mut self, tag: &Tag, name: &str) {
        match name {
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.kind = Kind::Heading(name.as_bytes()[1] - b'0')
            }
            "ul" => self.lists.push(None),
            "ol" => self.lists.push(Some(0)),
            "li" => {
                let number = self.lists.last_mut().and_then(|number| {
                    *number = number.map(|number| number.saturating_add(1));
                    *number
                });
                self.list_depth =
                    u8::try_from(self.lists.len().saturating_sub(1)).unwrap_or(8).min(8);
                self.kind = Kind::Item(number);
            }
            "pre" => self.is_preformatted = true,
            "table" => self.start_table(),
            "tr" => {
                if let Some(grid) = self.tables.last_mut() {
                    grid.rows.push(Vec::new());
                }
            }
            "td" | "th" => {
                if let Some(grid) = self.tables.last_mut().filter(|grid| !grid.is_layout) {
                    let span = |name| attribute(tag, name).and_then(|n| n.trim().parse().ok());
                    let cell = GridCell {
                        text: String::new(),
                        col_span: span("colspan").unwrap_or(1).clamp(1, MAX_SPAN),
                        row_span: span("rowspan").unwrap_or(1).clamp(1, MAX_SPAN),
                        is_head: name == "th",
                    };
                    if grid.rows.is_empty() {
                        grid.rows.push(Vec::new());
                    }
                    if let Some(row) = grid.rows.last_mut() {
                        row.push(cell);
                    }
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "ul" | "ol" => drop(self.lists.pop()),
            "pre" => self.is_preformatted = false,
            "table" => self.end_table(),
            "li" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.kind = Kind::Paragraph,
            _ => {}
        }
    }

    /// A table within another: that one arranges the page.
    fn start_table(&mut self) {
        if let Some(outer) = self.tables.last_mut().filter(|outer| !outer.is_layout) {
            outer.is_layout = true;
            for cell in std::mem::take(&mut outer.rows).into_iter().flatten() {
                self.page.push_paragraph(&cell.text);
            }
        }
        self.tables.push(Grid::default());
    }

    fn end_table(&mut self) {
        let Some(grid) = self.tables.pop() else { return };
        if grid.is_layout {
            return;
        }
        let is_head = |row: &&Vec<GridCell>| !row.is_empty() && row.iter().all(|cell| cell.is_head);
        let header_rows = grid.rows.iter().take_while(is_head).count();
        // One column, or one row, is no table but a frame.
        let columns = grid.rows.iter().map(Vec::len).max().unwrap_or(0);
        if columns < 2 {
            for cell in grid.rows.into_iter().flatten() {
                self.page.push_paragraph(&cell.text);
            }
            return;
        }
        let start = self.page.words.len();
        let room = self.words_max;
        match laid_out(&mut self.page, grid.rows, room) {
            Some(rows) if self.page.words.len() > start => {
                let header_rows = header_rows.min(rows.len());
                self.page.blocks.push(Block::Table(Table { rows, header_rows, bbox: None }));
            }
            _ => {}
        }
    }

    /// Ends the paragraph that has begun.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() {
            return;
        }
        let cell = self.tables.last_mut().filter(|grid| !grid.is_layout);
        if let Some(cell) = cell.and_then(|grid| grid.rows.last_mut()?.last_mut()) {
            if !cell.text.is_empty() {
                cell.text.push('\n');
            }
            cell.text.push_str(text.trim());
            return;
        }
        match self.kind {
            Kind::Heading(level) => self.page.push_heading(level, &text),
            Kind::Paragraph => self.page.push_paragraph(&text),
            Kind::Item(number) => {
                let passage = self.page.passage(&text);
                let depth = self.list_depth;
                self.page.blocks.push(Block::ListItem { depth, number, passage });
                self.kind = Kind::Paragraph;
            }
        }
    }
}

/// The full grid of a table's cells; `None` where spans make it larger than `room`.
fn laid_out(page: &mut Page, rows: Vec<Vec<GridCell>>, room: usize) -> Option<Vec<Vec<Cell>>> {
    let mut laid: Vec<Vec<Cell>> = Vec::with_capacity(rows.len());
    // For each column, how many rows below are covered still.
    let mut covered: Vec<usize> = Vec::new();
    let mut area = 0;
    for row in rows {
        let mut line: Vec<Cell> = Vec::new();
        let mut cells = row.into_iter().peekable();
        while cells.peek().is_some() || covered.get(line.len()).is_some_and(|rows| *rows > 0) {
            if let Some(rows) = covered.get_mut(line.len()).filter(|rows| **rows > 0) {
                *rows -= 1;
                line.push(Cell::covered());
                continue;
            }
            let Some(cell) = cells.next() else { break };
            let passage = page.passage(&cell.text);
            let column = line.len();
            covered.resize(covered.len().max(column + cell.col_span), 0);
            for rows in &mut covered[column..column + cell.col_span] {
                *rows = (*rows).max(cell.row_span - 1);
            }
            line.push(Cell { passage, row_span: cell.row_span, col_span: cell.col_span });
            line.extend((1..cell.col_span).map(|_| Cell::covered()));
        }
        area += line.len().max(covered.len());
        if area > room {
            return None;
        }
        laid.push(line);
    }
    let columns = laid.iter().map(Vec::len).max().unwrap_or(0);
    let height = laid.len();
    for (at, line) in laid.iter_mut().enumerate() {
        line.resize_with(columns, Cell::default);
        for cell in line {
            cell.row_span = cell.row_span.min(height - at);
        }
    }
    Some(laid)
}

fn attribute(tag: &Tag, name: &str) -> Option<String> {
    let found = tag.attrs.iter().find(|attribute| &*attribute.name.local == name)?;
    Some(found.value.to_string())
}

/// Not shown: what hides there is meant for machines, not for those who read.
fn is_hidden(tag: &Tag) -> bool {
    attribute(tag, "hidden").is_some()
        || attribute(tag, "style").is_some_and(|style| {
            let style = style.to_ascii_lowercase().replace(' ', "");
            style.contains("display:none") || style.contains("visibility:hidden")
        })
}
