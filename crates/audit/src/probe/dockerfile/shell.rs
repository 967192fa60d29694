//! Shell text as simple commands: enough to find what is called with which words.

/// A simple command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// Where its first word stands in the text.
    pub(super) offset: usize,
    /// Without quotes.
    pub(super) words: Vec<String>,
}

/// Splits at what separates commands (`&&`, `;`, `|`, ends of lines), outside of quotes. Backslashes join lines.
pub(super) fn commands(text: &str) -> Vec<Words> {
    let mut found = Vec::new();
    let mut current = Words { offset: 0, words: Vec::new() };
    let mut word: Option<String> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if word.is_none() && current.words.is_empty() {
            current.offset = at;
        }
        match c {
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default()),
            '\\' => match chars.next() {
                Some((_, '\n')) => {}
                Some((_, '\r')) => {
                    chars.next_if(|(_, c)| *c == '\n');
                }
                Some((_, escaped)) => word.get_or_insert_default().push(escaped),
                None => {}
            },
            '#' if word.is_none() => while chars.next_if(|(_, c)| *c != '\n').is_some() {},
            '\n' | ';' | '&' | '|' | '(' | ')' => {
                current.words.extend(word.take());
                if !current.words.is_empty() {
                    found.push(std::mem::replace(
                        &mut current,
                        Words { offset: 0, words: Vec::new() },
                    ));
                }
            }
            c if c.is_whitespace() => current.words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    current.words.extend(word.take());
    if !current.words.is_empty() {
        found.push(current);
    }
    found
}

/// Takes the rest of a quoted part.
fn quoted(quote: char, chars: &mut impl Iterator<Item = (usize, char)>, word: &mut String) {
    while let Some((_, c)) = chars.next() {
        match c {
            c if c == quote => return,
            '\\' if quote == '"' => match chars.next() {
                Some((_, '\n')) | None => {}
                Some((_, c)) if "\"\\$`".contains(c) => word.push(c),
                Some((_, c)) => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_words() {
        let found = commands("a 'b; c' \"d\\\"e\" && f\\\n g # h\n(i|j)");
        let words: Vec<String> = found.iter().map(|command| command.words.join("/")).collect();
        assert_eq!(words, ["a/b; c/d\"e", "f/g", "i", "j"]);
        assert_eq!(found[1].offset, 19);
    }
}
