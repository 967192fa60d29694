//! Texts that end an answer.

/// Watches a growing text for stop strings, and holds back what may yet become one.
#[derive(Debug, Clone)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Watches for these texts; empty ones are ignored.
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopStrings { stops, held: String::new() }
    }

    /// Takes the next piece of text; returns what can be shown, and whether a stop string has come (it is not shown,
    /// nor is what follows it).
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = first {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, tail), false)
    }

    /// What was held back, at the end of the text.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

/// Length in bytes of the longest end of `text` with which `stop` begins.
fn overlap(text: &str, stop: &str) -> usize {
    let starts =
        stop.char_indices().map(|(at, _)| at).skip(1).filter(|&at| text.ends_with(&stop[..at]));
    starts.last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stops: &[&str], pieces: &[&str], shown: &[&str], stopped: bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut watch = StopStrings::new(&stops);
        let results: Vec<_> = pieces.iter().map(|piece| watch.push(piece)).collect();
        assert_eq!(results.iter().map(|r| r.0.as_str()).collect::<Vec<_>>(), shown);
        assert_eq!(results.last().is_some_and(|r| r.1), stopped);
    }

    #[test]
    fn holds_back_what_may_become_a_stop() {
        check(&["\n\n"], &["a\n", "b\n", "\nc"], &["a", "\nb", ""], true);
        check(&["END", "EXIT"], &["xE", "X", "AE", "ND!"], &["x", "", "EXA", ""], true);
        check(&["né"], &["un", "é"], &["u", ""], true);
        check(&["abc"], &["ab", "x"], &["", "abx"], false);
        check(&[], &["ab"], &["ab"], false);
        check(&[""], &["ab"], &["ab"], false);
    }

    #[test]
    fn the_earliest_stop_wins() {
        check(&["world", "lo w"], &["hello world"], &["hel"], true);
    }

    #[test]
    fn finish_gives_what_was_held() {
        let mut watch = StopStrings::new(&["abc".to_owned()]);
        assert_eq!(watch.push("xab"), ("x".to_owned(), false));
        assert_eq!(watch.finish(), "ab");
    }
}
