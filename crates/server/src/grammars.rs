//! Compiled constraints, kept because the same schemas come again and again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use grammar::{Grammar, GrammarError, Spec, Vocabulary};
use tokio::sync::Semaphore;

/// Most constraints that are kept.
const MAX_ENTRIES: usize = 256;

/// Most bytes of their texts, together.
const MAX_BYTES: usize = 16 << 20;

/// The constraints that were compiled last.
#[derive(Debug)]
pub(crate) struct Grammars {
    /// The last used at the end, each with its text.
    kept: Mutex<Vec<(String, Grammar)>>,
    /// Compiling takes a core: some are left to the rest of the server.
    slots: Semaphore,
}

impl Default for Grammars {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Grammars { kept: Mutex::default(), slots: Semaphore::new(cores.div_ceil(2)) }
    }
}

impl Grammars {
    /// The compiled form of a constraint. Compiling runs on a thread of its own.
    ///
    /// # Errors
    /// What in the constraint is not supported.
    pub(crate) async fn get(
        &self,
        vocabulary: &Arc<Vocabulary>,
        spec: Spec,
    ) -> Result<Grammar, GrammarError> {
        let text = format!("{spec:?}");
        if let Some(grammar) = self.find(&text) {
            return Ok(grammar);
        }
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        // Those who waited behind the first to ask for the same need not do it again.
        if let Some(grammar) = self.find(&text) {
            return Ok(grammar);
        }
        let vocabulary = Arc::clone(vocabulary);
        let compile = tokio::task::spawn_blocking(move || Grammar::compile(&vocabulary, &spec));
        let grammar = compile.await.map_err(|error| GrammarError::Failed(error.to_string()))??;
        self.keep(text, grammar.clone());
        Ok(grammar)
    }

    fn find(&self, text: &str) -> Option<Grammar> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().rposition(|(key, _)| key == text)?;
        let entry = kept.remove(at);
        let grammar = entry.1.clone();
        kept.push(entry);
        Some(grammar)
    }

    fn keep(&self, text: String, grammar: Grammar) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(key, _)| *key != text);
        kept.push((text, grammar));
        let mut bytes: usize = kept.iter().map(|(key, _)| key.len()).sum();
        let mut drop = 0;
        while kept.len() - drop > MAX_ENTRIES || bytes > MAX_BYTES {
            bytes -= kept[drop].0.len();
            drop += 1;
        }
        kept.drain(..drop);
    }
}
