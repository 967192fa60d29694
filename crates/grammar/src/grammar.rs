//! A compiled constraint.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::closer::{Chart, Cost, Lexemes, NEVER, Piece, Table, Tail};
use crate::compile::{Opening, Source};
use crate::failure::{one_line, quiet};
use crate::{GrammarError, Matcher, Spec, Vocabulary};

/// A compiled constraint, shared by all answers that must fit it.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

/// What a [`Grammar`] and its matchers share.
pub(crate) struct Compiled {
    pub(crate) vocabulary: Arc<Vocabulary>,
    /// A matcher that has read nothing.
    pub(crate) fresh: llguidance::Matcher,
    /// What ends answers in time.
    pub(crate) closer: Option<Closer>,
    pub(crate) json: bool,
    pub(crate) opening: Option<Opening>,
}

/// The way to the end of answers.
pub(crate) struct Closer {
    pub(crate) table: Table,
    lexemes: Mutex<Lexemes>,
    fresh: Chart,
    /// Tokens of the shortest answer, which llguidance has verified.
    shortest: Vec<u32>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("shortest", &self.shortest()).finish_non_exhaustive()
    }
}

impl Grammar {
    /// Compiles a constraint: some milliseconds for a schema of a hundred properties.
    ///
    /// # Errors
    /// Names what in it is not supported, what contradicts itself, or which bound it exceeds.
    pub fn compile(vocabulary: &Arc<Vocabulary>, spec: &Spec) -> Result<Self, GrammarError> {
        let source = Source::new(vocabulary, spec)?;
        let blame = |error| match (error, spec) {
            (GrammarError::Failed(why), Spec::Regex(_) | Spec::Lark(_)) => {
                GrammarError::Syntax(why)
            }
            (GrammarError::Failed(why), Spec::JsonSchema { .. }) => {
                GrammarError::Schema { path: "#".into(), reason: why }
            }
            (error, _) => error,
        };
        Self::build(vocabulary, source).map_err(blame)
    }

    fn build(vocabulary: &Arc<Vocabulary>, source: Source) -> Result<Self, GrammarError> {
        let factory = vocabulary.factory();
        let (fresh, closer) = quiet("the constraint", || {
            let parser = factory.create_parser(source.grammar).map_err(|e| e.to_string())?;
            let closer = if source.ends_in_time {
                let grammar = parser.parser.grammar();
                let mut lexemes = Lexemes::new(grammar, factory.limits())?;
                lexemes.refuel()?;
                let table = Table::new(grammar, &mut lexemes, &source.specials)
                    .ok_or("it has rules whose end cannot be told")?;
                Some((table, lexemes))
            } else {
                None
            };
            Ok((llguidance::Matcher::new(Ok(parser)), closer))
        })?;
        if let Some(error) = fresh.get_error() {
            return Err(GrammarError::Failed(one_line(&error)));
        }
        let closer = match closer {
            Some((table, lexemes)) => Some(Closer::new(vocabulary, &fresh, table, lexemes)?),
            None => None,
        };
        Ok(Grammar(Arc::new(Compiled {
            vocabulary: Arc::clone(vocabulary),
            fresh,
            closer,
            json: source.json,
            opening: source.opening,
        })))
    }

    /// Tokens of a short text that fits, which a budget must allow at least; `None` where ends in time are not
    /// guaranteed (regular expressions and grammars). It has the fewest bytes; of the tokens that write it, these are the fewest.
    pub fn shortest(&self) -> Option<usize> {
        let closer = self.0.closer.as_ref()?;
        Some(if self.0.opening.is_some() { 0 } else { closer.shortest.len() })
    }

    /// The way of one answer.
    pub fn matcher(&self) -> Matcher {
        Matcher::new(Arc::clone(&self.0))
    }
}

impl Closer {
    fn new(
        vocabulary: &Vocabulary,
        fresh: &llguidance::Matcher,
        table: Table,
        mut lexemes: Lexemes,
    ) -> Result<Self, GrammarError> {
        let endless =
            || GrammarError::Schema { path: "#".into(), reason: "no finite document fits".into() };
        let (chart, tail) = quiet("the constraint", || {
            let chart = Chart::new(&table, &mut lexemes);
            let tail = chart.tail(&table, &mut lexemes);
            lexemes.refuel()?;
            Ok((chart, tail))
        })?;
        let shortest = tokens(vocabulary, &tail.ok_or_else(endless)?)?;
        if !verify(vocabulary, &mut fresh.clone(), &shortest)? {
            return Err(GrammarError::Failed("its shortest answer does not fit".into()));
        }
        let lexemes = Mutex::new(lexemes);
        Ok(Closer { table, lexemes, fresh: chart, shortest })
    }

    pub(crate) fn chart(&self) -> Chart {
        self.fresh.clone()
    }

    pub(crate) fn shortest(&self) -> &[u32] {
        &self.shortest
    }

    /// The automaton. A panic elsewhere leaves at most a state unmade, which is made again.
    pub(crate) fn lexemes(&self) -> MutexGuard<'_, Lexemes> {
        self.lexemes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes from a point of an answer to its end.
    pub(crate) fn least(&self, chart: &Chart, lexemes: &mut Lexemes) -> Option<usize> {
        let cost: Cost = chart.least(&self.table, lexemes);
        (cost != NEVER).then_some(cost as usize)
    }
}

/// The fewest tokens that write a tail.
pub(crate) fn tokens(vocabulary: &Vocabulary, tail: &Tail) -> Result<Vec<u32>, GrammarError> {
    let mut tokens = Vec::new();
    for piece in &tail.0 {
        match piece {
            Piece::Special(id) => tokens.push(*id),
            Piece::Bytes(bytes) => match vocabulary.fewest_tokens(bytes) {
                Some(more) => tokens.extend(more),
                None => {
                    let text = String::from_utf8_lossy(bytes);
                    let message = format!("the vocabulary cannot write {text:?}");
                    return Err(GrammarError::Vocabulary(message));
                }
            },
        }
    }
    Ok(tokens)
}

/// Whether llguidance takes these tokens, and then lets the answer end.
pub(crate) fn verify(
    vocabulary: &Vocabulary,
    matcher: &mut llguidance::Matcher,
    tokens: &[u32],
) -> Result<bool, GrammarError> {
    let failed = |e: String| GrammarError::Failed(one_line(&e));
    if tokens.is_empty() {
        return matcher.is_accepting().map_err(|e| failed(e.to_string()));
    }
    let mut tokens = tokens.to_vec();
    tokens.push(vocabulary.eos()[0]);
    let taken = matcher.validate_tokens(&tokens).map_err(|e| failed(e.to_string()))?;
    Ok(taken == tokens.len())
}
