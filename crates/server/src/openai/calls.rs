//! Finds calls of tools in an answer while it forms, so that neither their wrapping nor half a call is shown as text.
//!
//! A grammar makes calls that stand at the beginning of an answer right. After free text nothing is constrained: what looks
//! like a call there is taken for one only if it is whole and names a tool of the request, and is text otherwise.

use grammar::ToolFormat;
use serde_json::Value;

/// Longest text that may wait to become a call, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// What a piece of an answer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text.
    Text(String),
    /// A call begins; the calls of an answer are counted from 0.
    Begin {
        /// Its number.
        index: usize,
        /// The tool.
        name: String,
    },
    /// A part of the arguments' JSON of the call that began last.
    Arguments {
        /// The number of the call.
        index: usize,
        /// The next part.
        text: String,
    },
}

/// Splits an answer into text and calls.
#[derive(Debug)]
pub(super) struct CallParser {
    format: ToolFormat,
    /// Tools that may be called.
    names: Vec<String>,
    state: State,
    /// What is not decided yet.
    held: String,
    /// Calls so far.
    count: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In text; `start`: nothing but space has come.
    Text { start: bool },
    /// After the beginning of a call, until its tool and the beginning of its arguments are known.
    Head,
    /// In the arguments.
    Arguments(Json),
    /// After the arguments, within the call.
    Tail(Json),
    /// After a call.
    Between,
}

/// How far a JSON value has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Json {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Json {
    /// Takes a character; whether it closes what is open.
    fn closes(&mut self, c: char) -> bool {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// What the beginning of a call is, as far as it has come.
enum Head {
    /// More must come.
    Unfinished,
    /// The name, and the length of what stands before the arguments.
    Call(String, usize),
    /// A call in another order, whole: name, arguments, length.
    Whole(String, String, usize),
    /// Something else.
    Other,
}

impl CallParser {
    /// A parser at the beginning of an answer.
    pub(super) fn new(format: ToolFormat, names: Vec<String>) -> Self {
        let state = State::Text { start: true };
        CallParser { format, names, state, held: String::new(), count: 0 }
    }

    /// Calls so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes the mark before calls, where it is a special token, which the text does not show.
    pub(super) fn push_mark(&mut self, pieces: &mut Vec<Piece>) {
        if let State::Text { .. } | State::Between = self.state {
            text(std::mem::take(&mut self.held), pieces);
            self.state = State::Head;
        }
    }

    /// Takes the next text.
    pub(super) fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        self.held.push_str(text);
        while self.advance(pieces) {}
    }

    /// Ends the answer: what was held back is text, unless it is the rest of a call.
    pub(super) fn finish(&mut self, pieces: &mut Vec<Piece>) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Text { .. } => text(held, pieces),
            State::Head => {
                text(self.format.begin.trim().to_owned() + &held, pieces);
            }
            State::Between if !held.trim().is_empty() => text(held, pieces),
            State::Arguments(_) | State::Tail(_) | State::Between => {}
        }
    }

    /// Decides about some of what is held; `false`: more must come.
    fn advance(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Text { start } => self.in_text(start, pieces),
            State::Head => self.in_head(pieces),
            State::Arguments(json) => self.in_arguments(json, pieces),
            State::Tail(json) => self.in_tail(json),
            State::Between => self.between(),
        }
    }

    fn in_text(&mut self, start: bool, pieces: &mut Vec<Piece>) -> bool {
        let begin = self.format.begin.trim();
        if begin.is_empty() {
            return self.in_bare_text(start, pieces);
        }
        if let Some(at) = self.held.find(begin) {
            let rest = self.held.split_off(at + begin.len());
            self.held.truncate(at);
            let before = std::mem::replace(&mut self.held, rest);
            // Space before a first call is no text.
            if !(start && before.trim().is_empty()) {
                text(before, pieces);
            }
            self.state = State::Head;
            return true;
        }
        let keep = overlap(&self.held, begin);
        if !(start && self.held.trim().is_empty()) {
            let tail = self.held.split_off(self.held.len() - keep);
            self.emit(tail, pieces);
        }
        false
    }

    /// Without a mark, a call is an answer that begins with a brace.
    fn in_bare_text(&mut self, start: bool, pieces: &mut Vec<Piece>) -> bool {
        let first = self.held.trim_start().chars().next();
        let opens = if self.format.list { '[' } else { '{' };
        match first {
            None if start => false,
            Some(c) if start && c == opens => {
                self.state = State::Head;
                true
            }
            _ => {
                self.emit(String::new(), pieces);
                false
            }
        }
    }

    /// Gives out what is held but for `keep`.
    fn emit(&mut self, keep: String, pieces: &mut Vec<Piece>) {
        let shown = std::mem::replace(&mut self.held, keep);
        if !shown.is_empty() {
            self.state = State::Text { start: false };
        }
        text(shown, pieces);
    }

    fn in_head(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.head() {
            Head::Unfinished if self.held.len() < MAX_HEAD => false,
            Head::Call(name, length) => {
                self.held.drain(..length);
                pieces.push(Piece::Begin { index: self.count, name });
                self.count += 1;
                self.state = State::Arguments(Json::default());
                true
            }
            Head::Whole(name, arguments, length) => {
                self.held.drain(..length);
                let index = self.count;
                pieces.push(Piece::Begin { index, name });
                pieces.push(Piece::Arguments { index, text: arguments });
                self.count += 1;
                self.state = State::Between;
                true
            }
            Head::Other | Head::Unfinished => {
                let held = std::mem::take(&mut self.held);
                text(self.format.begin.trim().to_owned() + &held, pieces);
                self.state = State::Text { start: false };
                true
            }
        }
    }

    /// Reads `{"name": "…", "arguments": `, after the bracket of a list.
    fn head(&self) -> Head {
        let mut scan = Scan { text: &self.held, at: 0 };
        scan.space();
        if self.format.list && self.count == 0 && scan.rest().starts_with('[') {
            scan.at += 1;
            scan.space();
        }
        let start = scan.at;
        match scan.head(&self.format.arguments_key) {
            Some(Some(name)) if self.names.contains(&name) => Head::Call(name, scan.at),
            None => Head::Unfinished,
            Some(_) => self.other_order(start),
        }
    }

    /// An object whose keys come in another order is read when it is whole.
    fn other_order(&self, start: usize) -> Head {
        let text = &self.held[start..];
        if !text.starts_with('{') {
            return Head::Other;
        }
        let mut json = Json::default();
        let Some(end) = text.char_indices().find_map(|(i, c)| json.closes(c).then_some(i + 1))
        else {
            return Head::Unfinished;
        };
        let Ok(value) = serde_json::from_str::<Value>(&text[..end]) else { return Head::Other };
        let name = value["name"].as_str().unwrap_or_default();
        let arguments = &value[self.format.arguments_key.as_str()];
        if arguments.is_object() && self.names.iter().any(|known| known == name) {
            Head::Whole(name.to_owned(), arguments.to_string(), start + end)
        } else {
            Head::Other
        }
    }

    fn in_arguments(&mut self, mut json: Json, pieces: &mut Vec<Piece>) -> bool {
        let end = self.held.char_indices().find_map(|(i, c)| json.closes(c).then_some(i + 1));
        let rest = self.held.split_off(end.unwrap_or(self.held.len()));
        let text = std::mem::replace(&mut self.held, rest);
        if !text.is_empty() {
            pieces.push(Piece::Arguments { index: self.count - 1, text });
        }
        match end {
            None => {
                self.state = State::Arguments(json);
                false
            }
            Some(_) => {
                // The brace of the call itself is still open.
                self.state = State::Tail(Json { depth: 1, ..Json::default() });
                true
            }
        }
    }

    /// Passes over what stands behind the arguments, as Mistral's `id`.
    fn in_tail(&mut self, mut json: Json) -> bool {
        let end = self.held.char_indices().find_map(|(i, c)| json.closes(c).then_some(i + 1));
        self.held.drain(..end.unwrap_or(self.held.len()));
        self.state = if end.is_some() { State::Between } else { State::Tail(json) };
        end.is_some()
    }

    /// After a call comes the end of its wrapping, another call, or text.
    fn between(&mut self) -> bool {
        let (begin, end) = (self.format.begin.trim(), self.format.end.trim());
        let held = self.held.trim_start();
        if held.is_empty() {
            return false;
        }
        let space = self.held.len() - held.len();
        let separators: &[&str] = if self.format.list { &[",", "]"] } else { &[";", ","] };
        for mark in separators.iter().chain([&end]).filter(|mark| !mark.is_empty()) {
            if held.starts_with(*mark) {
                self.held.drain(..space + mark.len());
                if *mark == "," || *mark == ";" {
                    self.state = State::Head;
                }
                return true;
            }
        }
        if !begin.is_empty() && held.starts_with(begin) {
            self.held.drain(..space + begin.len());
            self.state = State::Head;
            return true;
        }
        if begin.is_empty() && held.starts_with('{') {
            self.state = State::Head;
            return true;
        }
        // More may make it the one or the other.
        if begin.starts_with(held) || end.starts_with(held) {
            return false;
        }
        self.held.drain(..space);
        self.state = State::Text { start: false };
        true
    }
}

fn text(text: String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

/// Length in bytes of the longest end of `text` with which `mark` begins.
fn overlap(text: &str, mark: &str) -> usize {
    let lengths = mark.char_indices().map(|(at, _)| at).skip(1);
    lengths.filter(|&at| text.ends_with(&mark[..at])).last().unwrap_or(0)
}

/// Reads the beginning of a call.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// `None`: more must come. `Some(None)`: something else stands here.
    fn head(&mut self, arguments_key: &str) -> Option<Option<String>> {
        for mark in ["{", "\"name\"", ":"] {
            if !self.mark(mark)? {
                return Some(None);
            }
        }
        let Some(name) = self.string()? else { return Some(None) };
        for mark in [",", &format!("\"{arguments_key}\""), ":"] {
            if !self.mark(mark)? {
                return Some(None);
            }
        }
        self.space();
        match self.rest().chars().next()? {
            '{' => Some(Some(name)),
            _ => Some(None),
        }
    }

    /// Passes a mark and space before it.
    fn mark(&mut self, mark: &str) -> Option<bool> {
        self.space();
        if self.rest().starts_with(mark) {
            self.at += mark.len();
            return Some(true);
        }
        if mark.starts_with(self.rest()) { None } else { Some(false) }
    }

    /// Passes a JSON string.
    fn string(&mut self) -> Option<Option<String>> {
        self.space();
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        if !rest.starts_with('"') {
            return Some(None);
        }
        let mut escaped = false;
        for (i, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    let name = serde_json::from_str(&rest[..=i]).ok();
                    self.at += i + 1;
                    return Some(name);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};

    /// What comes of an answer in pieces of `size` characters: texts and arguments joined.
    fn pieces(format: &ToolFormat, answer: &str, size: usize) -> String {
        let names = vec!["add".to_owned(), "now".to_owned()];
        let mut parser = CallParser::new(format.clone(), names);
        let mut pieces = Vec::new();
        let chars: Vec<char> = answer.chars().collect();
        for piece in chars.chunks(size) {
            parser.push(&piece.iter().collect::<String>(), &mut pieces);
        }
        parser.finish(&mut pieces);
        let mut shown = String::new();
        let mut before = None;
        for piece in &pieces {
            let kind = std::mem::discriminant(piece);
            let begins = before.replace(kind) != Some(kind);
            let _ = match piece {
                Piece::Text(text) if begins => write!(shown, "|text {text}"),
                Piece::Begin { index, name } => write!(shown, "|call {index} {name}"),
                Piece::Arguments { text, .. } if begins => write!(shown, " {text}"),
                Piece::Text(text) | Piece::Arguments { text, .. } => write!(shown, "{text}"),
            };
        }
        shown
    }

    fn check(format: &ToolFormat, answer: &str, expected: &Expect) {
        let shown = pieces(format, answer, usize::MAX >> 1);
        expected.assert_eq(&shown);
        for size in 1..8 {
            assert_eq!(pieces(format, answer, size), shown, "in pieces of {size}");
        }
    }

    #[test]
    fn hermes_calls() {
        check(
            &ToolFormat::hermes(),
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": [1, {\"b\": \"}\\\"\"}]}}\n</tool_call>",
            &expect![[r#"|call 0 add {"a": [1, {"b": "}\""}]}"#]],
        );
        check(
            &ToolFormat::hermes(),
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\":\"now\",\"arguments\":{\"z\":1}}\n</tool_call>",
            &expect![[r#"|call 0 add {}|call 1 now {"z":1}"#]],
        );
        check(&ToolFormat::hermes(), "Just text, a < b.", &expect!["|text Just text, a < b."]);
        check(
            &ToolFormat::hermes(),
            "I look.\n<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"add\"}</tool_call> Done.",
            &expect![[r#"|text I look.
|call 0 add {"a":1}|text Done."#]],
        );
    }

    #[test]
    fn what_only_looks_like_a_call_is_text() {
        check(&ToolFormat::hermes(), "a <tool_call", &expect!["|text a <tool_call"]);
        check(
            &ToolFormat::hermes(),
            "<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}\n</tool_call>",
            &expect![[r#"
                |text <tool_call>
                {"name": "rm", "arguments": {}}
                </tool_call>"#]],
        );
        check(
            &ToolFormat::hermes(),
            "<tool_call>\n{\"name\": \"ad",
            &expect![[r#"
            |text <tool_call>
            {"name": "ad"#]],
        );
        check(
            &ToolFormat::llama3(),
            "{\"name\": \"Zoe\", \"age\": 3}",
            &expect![[r#"|text {"name": "Zoe", "age": 3}"#]],
        );
    }

    #[test]
    fn an_answer_that_is_cut_ends_its_arguments_where_it_ends() {
        check(
            &ToolFormat::hermes(),
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1",
            &expect![[r#"|call 0 add {"a": 1"#]],
        );
    }

    #[test]
    fn mistral_lists() {
        check(
            &ToolFormat::mistral(),
            "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"abcdefghi\"}, {\"name\": \"now\", \"arguments\": {}}]",
            &expect![[r#"|call 0 add {"a": 1}|call 1 now {}"#]],
        );
    }

    #[test]
    fn llama_writes_bare_json() {
        check(
            &ToolFormat::llama3(),
            "{\"name\": \"add\", \"parameters\": {\"a\": 1}}",
            &expect![[r#"|call 0 add {"a": 1}"#]],
        );
        check(&ToolFormat::llama3(), " Hello {x}", &expect!["|text  Hello {x}"]);
    }

    #[test]
    fn a_mark_that_is_a_special_token_shows_no_text() {
        let mut parser = CallParser::new(ToolFormat::mistral(), vec!["add".to_owned()]);
        let mut pieces = Vec::new();
        parser.push_mark(&mut pieces);
        parser.push(" [{\"name\": \"add\", \"arguments\": {\"a\": 1}}]", &mut pieces);
        parser.finish(&mut pieces);
        let call = Piece::Begin { index: 0, name: "add".to_owned() };
        let arguments = Piece::Arguments { index: 0, text: "{\"a\": 1}".to_owned() };
        assert_eq!(pieces, [call, arguments]);
        assert_eq!(parser.count(), 1);
    }
}
