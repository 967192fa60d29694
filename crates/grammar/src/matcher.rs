//! An answer's way through a grammar.

use std::fmt;
use std::sync::Arc;

use crate::GrammarError;
use crate::closer::Chart;
use crate::compile::Opening;
use crate::failure::{one_line, quiet};
use crate::grammar::{Closer, Compiled, tokens, verify};
use crate::guard::Guard;

/// One answer's way through a grammar. `remaining` is always the number of tokens that may yet be generated, EOS not
/// counted: an answer that is complete needs none.
///
/// Where ends in time are guaranteed, a completion of the answer within `remaining` exists at every moment: far from the
/// limit because the bytes to the end are fewer than that, near it as tokens that llguidance has verified.
#[derive(Clone)]
pub struct Matcher {
    grammar: Arc<Compiled>,
    inner: llguidance::Matcher,
    /// Tokens that `inner` has yet to take: those of its mask, which it cannot refuse. So what decides about the next step of
    /// a device does not wait for it.
    behind: Vec<u32>,
    is_finished: bool,
    chart: Option<Chart>,
    guard: Guard,
    phase: Phase,
    /// Tokens that complete the answer from here, verified; `None` far from the limit.
    completion: Option<Vec<u32>>,
    /// Bytes from here to the end of the answer.
    least: usize,
    was_cut: bool,
}

/// Where calls of tools may come, but need not.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The grammar decides.
    Constrained,
    /// What has been written may yet become a call; its bytes.
    Undecided(Vec<u8>),
    /// It is a text.
    Free,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("phase", &self.phase)
            .field("least", &self.least)
            .field("was_cut", &self.was_cut)
            .finish_non_exhaustive()
    }
}

impl Matcher {
    pub(crate) fn new(grammar: Arc<Compiled>) -> Self {
        let undecided = grammar.opening.is_some();
        let closer = grammar.closer.as_ref();
        Matcher {
            inner: grammar.fresh.clone(),
            behind: Vec::new(),
            is_finished: false,
            chart: closer.map(Closer::chart),
            guard: Guard::default(),
            phase: if undecided { Phase::Undecided(Vec::new()) } else { Phase::Constrained },
            completion: closer.map(|closer| closer.shortest().to_vec()),
            least: closer
                .and_then(|closer| closer.least(&closer.chart(), &mut closer.lexemes()))
                .unwrap_or(0),
            was_cut: false,
            grammar,
        }
    }

    /// Writes which tokens may come next: bit `i` of word `w` is token `32 w + i`. EOS is among them where the answer may
    /// end. With no more tokens than the shortest completion has, its next one is all that may come.
    ///
    /// # Errors
    /// If the grammar fails; if `mask` has not [`Vocabulary::mask_words`](crate::Vocabulary::mask_words) words.
    pub fn mask(&mut self, remaining: usize, mask: &mut [u32]) -> Result<(), GrammarError> {
        let words = self.grammar.vocabulary.mask_words();
        if mask.len() != words {
            let message = format!("a mask of {} words where {words} are needed", mask.len());
            return Err(GrammarError::Failed(message));
        }
        if self.phase != Phase::Constrained {
            return self.mask_of_text(remaining, mask);
        }
        self.allowed(mask)?;
        if self.chart.is_none() {
            return Ok(());
        }
        if remaining == 0 {
            if !self.is_complete() {
                return Err(GrammarError::Failed("the budget has ended before the answer".into()));
            }
            let before = count(mask);
            self.only_eos(mask);
            self.was_cut |= count(mask) < before;
            return Ok(());
        }
        // The bytes to the end are as many as the tokens to it, or more.
        if self.least >= remaining {
            let completion = self.completion()?;
            if completion.len() >= remaining {
                let next = completion.first().copied();
                let before = count(mask);
                mask.fill(0);
                next.into_iter().for_each(|token| set(mask, token));
                self.was_cut |= before > 1;
            }
        }
        Ok(())
    }

    /// Takes a token of the mask (not EOS); `remaining` counts from before it. `false`: the answer could not be completed
    /// after it within the budget, or would go beyond the bounds of JSON; nothing has changed, and another token of the mask
    /// must be taken. That of [`Matcher::next_of_completion`] is never refused.
    ///
    /// # Errors
    /// If the grammar fails; if the token is EOS or not in the mask.
    pub fn accept(&mut self, token: u32, remaining: usize) -> Result<bool, GrammarError> {
        if self.grammar.vocabulary.eos().contains(&token) {
            return Err(GrammarError::Failed("EOS is no token of an answer".into()));
        }
        let taken = match &self.phase {
            Phase::Free => true,
            Phase::Undecided(written) => {
                let written = written.clone();
                self.accept_undecided(written, token, remaining)?
            }
            Phase::Constrained => self.accept_tokens(&[token], remaining)?,
        };
        self.was_cut |= !taken;
        Ok(taken)
    }

    /// The next token of a completion within the budget, for who is tired of tokens that are refused: [`Matcher::accept`]
    /// takes it. EOS if the answer is complete.
    ///
    /// # Errors
    /// If the grammar fails, or if ends in time are not guaranteed here.
    pub fn next_of_completion(&mut self) -> Result<u32, GrammarError> {
        let eos = self.grammar.vocabulary.eos()[0];
        self.was_cut = true;
        if self.phase != Phase::Constrained {
            return Ok(eos);
        }
        Ok(self.completion()?.first().copied().unwrap_or(eos))
    }

    /// Whether what has been taken fits as it is.
    pub fn is_complete(&self) -> bool {
        match (&self.phase, &self.chart) {
            (Phase::Constrained, Some(_)) => self.least == 0,
            (Phase::Constrained, None) => {
                let mut inner = self.inner.clone();
                inner.consume_tokens(&self.behind).is_ok() && inner.is_accepting().unwrap_or(false)
            }
            _ => true,
        }
    }

    /// Whether a token is EOS: none of an answer, but the end of one.
    pub fn is_eos(&self, token: u32) -> bool {
        self.grammar.vocabulary.eos().contains(&token)
    }

    /// Whether nothing but EOS may come.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Constrained && self.is_finished
    }

    /// Whether the budget has decided about a token: the answer is then shorter than the model would have had it.
    pub fn was_cut(&self) -> bool {
        self.was_cut
    }

    /// What the grammar allows.
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), GrammarError> {
        catch_up(&mut self.inner, &mut self.behind)?;
        let allowed = self.inner.compute_mask_or_eos();
        let allowed = allowed.map_err(|e| GrammarError::Failed(one_line(&e.to_string())))?;
        let words = allowed.as_slice();
        for (at, word) in mask.iter_mut().enumerate() {
            *word = words.get(at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn only_eos(&self, mask: &mut [u32]) {
        mask.fill(0);
        self.grammar.vocabulary.eos().iter().for_each(|&token| set(mask, token));
    }

    /// The mask where text may come: all tokens, but those that would begin a call wrongly.
    fn mask_of_text(&mut self, remaining: usize, mask: &mut [u32]) -> Result<(), GrammarError> {
        if remaining == 0 {
            self.only_eos(mask);
            self.was_cut = true;
            return Ok(());
        }
        let vocabulary = Arc::clone(&self.grammar.vocabulary);
        let everything = |mask: &mut [u32]| {
            mask.copy_from_slice(vocabulary.used());
            vocabulary.eos().iter().for_each(|&token| set(mask, token));
        };
        let (Phase::Undecided(written), Some(Opening::Text(opening))) =
            (&self.phase, &self.grammar.opening)
        else {
            everything(mask);
            return Ok(());
        };
        let (written, opening) = (written.clone(), opening.clone());
        let mut calls = vec![0; mask.len()];
        self.allowed(&mut calls)?;
        everything(mask);
        // Tokens that complete the opening, and go on: these are for the grammar to judge.
        let expected = opening.get(written.len()).copied();
        let trie = vocabulary.trie();
        for token in 0..trie.vocab_size() as u32 {
            if let Some(text) = vocabulary.text(token)
                && text.first().copied() == expected
                && opens(&written, text, &opening) == Opens::Yes
                && calls[token as usize / 32] >> (token % 32) & 1 == 0
            {
                mask[token as usize / 32] &= !(1 << (token % 32));
            }
        }
        Ok(())
    }

    fn accept_undecided(
        &mut self,
        written: Vec<u8>,
        token: u32,
        remaining: usize,
    ) -> Result<bool, GrammarError> {
        let vocabulary = Arc::clone(&self.grammar.vocabulary);
        let text = vocabulary.text(token);
        let opens = match &self.grammar.opening {
            Some(Opening::Special(id)) if *id == token => Opens::Yes,
            Some(Opening::Text(opening)) => text.map_or(Opens::No, |t| opens(&written, t, opening)),
            _ => Opens::No,
        };
        match opens {
            Opens::No => self.phase = Phase::Free,
            Opens::Perhaps => {
                // White space before a call is no part of it; what has been written of the call is.
                let taken = text.unwrap_or_default();
                let mut written = written;
                if written.is_empty() && taken.iter().all(u8::is_ascii_whitespace) {
                    return Ok(true);
                }
                if !self.accept_tokens(&[token], remaining)? {
                    self.phase = Phase::Free;
                    return Ok(true);
                }
                written.extend_from_slice(taken);
                self.phase = Phase::Undecided(written);
            }
            Opens::Yes => {
                if !self.accept_tokens(&[token], remaining)? {
                    return Ok(false);
                }
                self.phase = Phase::Constrained;
            }
        }
        Ok(true)
    }

    /// Takes tokens if an end within the budget is left after them.
    fn accept_tokens(&mut self, taken: &[u32], remaining: usize) -> Result<bool, GrammarError> {
        let grammar = Arc::clone(&self.grammar);
        let Some(closer) = &grammar.closer else {
            self.behind.extend_from_slice(taken);
            self.find_finished()?;
            return Ok(true);
        };
        let Some(left) = remaining.checked_sub(taken.len()) else { return Ok(false) };
        let Some(chart) = &mut self.chart else { return Ok(false) };
        let mark = chart.mark();
        let mut guard = self.guard;
        let mut within = true;
        // Bytes to the end after these tokens, and that end if it is needed.
        let (least, tail) = quiet("the way to the end", || {
            let mut lexemes = closer.lexemes();
            lexemes.refuel()?;
            for &token in taken {
                let fits = match grammar.vocabulary.text(token) {
                    Some(text) => {
                        within &= guard.read(text);
                        let table = &closer.table;
                        text.iter().all(|&byte| chart.push_byte(table, &mut lexemes, byte))
                    }
                    None => chart.push_special(&closer.table, &mut lexemes, token),
                };
                if !fits {
                    return Ok((None, None));
                }
            }
            let least = closer.least(chart, &mut lexemes);
            let near = least.is_some_and(|least| least > left);
            let tail = if near { chart.tail(&closer.table, &mut lexemes) } else { None };
            Ok((least, tail))
        })?;
        // The first tokens of a verified completion are within the budget, and their rest is verified.
        let rest = self.completion.as_ref().and_then(|tokens| tokens.strip_prefix(taken));
        let rest = rest.filter(|rest| rest.len() <= left).map(<[u32]>::to_vec);
        let refuse = |chart: &mut Chart| {
            chart.rewind(&mark);
            Ok(false)
        };
        let Some(least) = least else { return refuse(chart) };
        if !within && grammar.json && rest.is_none() {
            return refuse(chart);
        }
        let completion = match tail {
            None => None,
            Some(_) if rest.is_some() => rest,
            Some(tail) => {
                let tail = tokens(&grammar.vocabulary, &tail)?;
                let whole: Vec<u32> = taken.iter().chain(&tail).copied().collect();
                catch_up(&mut self.inner, &mut self.behind)?;
                if tail.len() > left || !verify(&grammar.vocabulary, &mut self.inner, &whole)? {
                    return refuse(chart);
                }
                Some(tail)
            }
        };
        let may_be_finished = chart.is_finished();
        (self.guard, self.least, self.completion) = (guard, least, completion);
        self.behind.extend_from_slice(taken);
        if may_be_finished {
            self.find_finished()?;
        }
        Ok(true)
    }

    fn find_finished(&mut self) -> Result<(), GrammarError> {
        catch_up(&mut self.inner, &mut self.behind)?;
        self.is_finished = self.inner.is_stopped() && !self.inner.is_error();
        Ok(())
    }

    /// Tokens that complete the answer, verified.
    fn completion(&mut self) -> Result<&[u32], GrammarError> {
        if self.completion.is_none() {
            let grammar = Arc::clone(&self.grammar);
            let (Some(closer), Some(chart)) = (&grammar.closer, &self.chart) else {
                let message = "the answer has no end that is known";
                return Err(GrammarError::Failed(message.into()));
            };
            let tail = quiet("the way to the end", || {
                let mut lexemes = closer.lexemes();
                lexemes.refuel()?;
                chart.tail(&closer.table, &mut lexemes).ok_or_else(|| "there is none".into())
            })?;
            let tail = tokens(&grammar.vocabulary, &tail)?;
            catch_up(&mut self.inner, &mut self.behind)?;
            if !verify(&grammar.vocabulary, &mut self.inner, &tail)? {
                return Err(GrammarError::Failed("the way to the end does not fit".into()));
            }
            self.completion = Some(tail);
        }
        Ok(self.completion.as_deref().unwrap_or_default())
    }
}

/// Lets llguidance's matcher take what has been taken.
fn catch_up(inner: &mut llguidance::Matcher, behind: &mut Vec<u32>) -> Result<(), GrammarError> {
    let taken = inner.consume_tokens(behind);
    behind.clear();
    taken.map_err(|e| GrammarError::Failed(one_line(&e.to_string())))
}

/// Whether a text begins a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opens {
    /// It cannot.
    No,
    /// It is the beginning of one, as far as it goes.
    Perhaps,
    Yes,
}

fn opens(written: &[u8], text: &[u8], opening: &[u8]) -> Opens {
    let mut so_far = written.to_vec();
    so_far.extend_from_slice(text);
    if written.is_empty() && so_far.iter().all(u8::is_ascii_whitespace) {
        return Opens::Perhaps;
    }
    if so_far.starts_with(opening) {
        Opens::Yes
    } else if opening.starts_with(&so_far) {
        Opens::Perhaps
    } else {
        Opens::No
    }
}

fn set(mask: &mut [u32], token: u32) {
    mask[token as usize / 32] |= 1 << (token % 32);
}

fn count(mask: &[u32]) -> u32 {
    mask.iter().map(|word| word.count_ones()).sum()
}
