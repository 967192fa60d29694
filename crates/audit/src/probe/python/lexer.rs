//! Logical lines: strings emptied, comments dropped, what brackets and backslashes join on one line.

/// A logical line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    /// Columns before it.
    pub(super) indent: usize,
    /// Without the indentation.
    pub(super) text: String,
}

/// Strings within strings, as f-strings may hold; deeper ones are not told apart.
const NESTING_MAX: usize = 32;

/// Splits a file.
pub(super) fn lines(source: &str) -> Vec<Line> {
    let mut lexer = Lexer { rest: source, line: 1 };
    let mut lines = Vec::new();
    while !lexer.rest.is_empty() {
        let number = lexer.line;
        let (indent, text) = lexer.logical_line();
        if !text.is_empty() {
            lines.push(Line { number, indent, text });
        }
    }
    lines
}

struct Lexer<'s> {
    rest: &'s str,
    line: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn logical_line(&mut self) -> (usize, String) {
        let mut indent = 0;
        while let Some(c) =
            self.rest.chars().next().filter(|c| [' ', '\t', '\u{c}', '\u{feff}'].contains(c))
        {
            indent = match c {
                ' ' => indent + 1,
                '\t' => (indent / 8 + 1) * 8,
                _ => 0,
            };
            self.next();
        }
        let (mut text, mut depth) = (String::new(), 0usize);
        while let Some(c) = self.next() {
            match c {
                '\n' if depth == 0 => break,
                '\n' | '\r' => text.push(' '),
                '#' => self.skip_comment(),
                '\\' if self.rest.starts_with('\n') || self.rest.starts_with("\r\n") => {
                    text.push(' ');
                    while self.next().is_some_and(|c| c != '\n') {}
                }
                '"' | '\'' => {
                    let formatted = take_prefix(&mut text);
                    self.string(c, formatted, 0);
                    text.push_str("\"\"");
                }
                _ => {
                    match c {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    text.push(c);
                }
            }
        }
        (indent, text.trim().to_owned())
    }

    fn skip_comment(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }

    /// Goes to the end of a string whose first quote was taken.
    fn string(&mut self, quote: char, formatted: bool, nesting: usize) {
        let pair: String = [quote; 2].iter().collect();
        let triple = self.rest.starts_with(&pair);
        if triple {
            self.rest = &self.rest[2..];
        } else if self.rest.starts_with(quote) {
            self.next();
            return;
        }
        while let Some(c) = self.next() {
            match c {
                '\\' => {
                    self.next();
                }
                // An unfinished string ends with its line.
                '\n' if !triple => return,
                c if c == quote && !triple => return,
                c if c == quote && self.rest.starts_with(&pair) => {
                    self.rest = &self.rest[2..];
                    return;
                }
                '{' if formatted && self.rest.starts_with('{') => {
                    self.next();
                }
                '{' if formatted && nesting < NESTING_MAX => self.replacement(triple, nesting),
                _ => {}
            }
        }
    }

    /// Goes to the brace that ends a replacement field of an f-string.
    fn replacement(&mut self, triple: bool, nesting: usize) {
        let (mut depth, mut before) = (1usize, String::new());
        while depth > 0 {
            // What is not closed on its line is no field.
            let end = self.rest.starts_with('\n') && !triple;
            let Some(c) = (if end { None } else { self.next() }) else { return };
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                '"' | '\'' => {
                    let formatted = take_prefix(&mut before);
                    self.string(c, formatted, nesting + 1);
                }
                _ => before.push(c),
            }
        }
    }
}

/// Takes the letters before a quote off, and says whether one of them makes it an f-string (or a t-string).
fn take_prefix(text: &mut String) -> bool {
    let start = text
        .rfind(|c: char| !c.is_alphanumeric() && c != '_')
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let prefix = text[start..].to_lowercase();
    let is_prefix = prefix.len() <= 2 && prefix.chars().all(|c| "rbuft".contains(c));
    if is_prefix {
        text.truncate(start);
    }
    is_prefix && prefix.contains(['f', 't'])
}
