//! Lines from a terminal, edited and remembered, or from a pipe.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::Result;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::unreadable;

/// Where lines come from.
pub(super) struct Input {
    /// The editor of a terminal.
    editor: Option<DefaultEditor>,
    history: Option<PathBuf>,
}

impl Input {
    /// An editor with its history if stdin is a terminal.
    pub(super) fn open(history: Option<PathBuf>) -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Input { editor: None, history: None });
        }
        let mut editor = DefaultEditor::new().map_err(unreadable)?;
        if let Some(history) = &history {
            // There is none the first time.
            let _ = editor.load_history(history);
        }
        Ok(Input { editor: Some(editor), history })
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.editor.is_some()
    }

    /// The next line, joined with those that it continues in; `None` at the end.
    pub(super) fn read(&mut self) -> Result<Option<String>> {
        let mut whole = String::new();
        let mut prompt = "> ";
        loop {
            let Some(line) = self.read_line(prompt)? else {
                return Ok(Some(whole).filter(|whole| !whole.is_empty()));
            };
            match line.strip_suffix('\\') {
                Some(start) => {
                    whole.push_str(start);
                    whole.push('\n');
                    prompt = "… ";
                }
                None => {
                    whole.push_str(&line);
                    self.remember(&whole);
                    return Ok(Some(whole));
                }
            }
        }
    }

    /// Keeps the history. That it cannot be kept is no reason to fail.
    pub(super) fn save(&mut self) {
        if let (Some(editor), Some(history)) = (&mut self.editor, &self.history) {
            if let Some(directory) = history.parent() {
                let _ = fs::create_dir_all(directory);
            }
            let _ = editor.save_history(history);
        }
    }

    fn read_line(&mut self, prompt: &str) -> Result<Option<String>> {
        let Some(editor) = &mut self.editor else {
            let mut line = String::new();
            let read = io::stdin().read_line(&mut line).map_err(unreadable)?;
            return Ok((read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()));
        };
        match editor.readline(prompt) {
            Ok(line) => Ok(Some(line)),
            // Ctrl-C drops the line, as in a shell.
            Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
            Err(ReadlineError::Eof) => Ok(None),
            Err(error) => Err(unreadable(error).into()),
        }
    }

    fn remember(&mut self, line: &str) {
        if let Some(editor) = &mut self.editor
            && !line.trim().is_empty()
        {
            // A line that cannot be remembered is still said.
            let _ = editor.add_history_entry(line);
        }
    }
}
