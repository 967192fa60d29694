//! One step: what is computed, how tokens are drawn, and what was found.

use backend::{BackendError, Batch, Draw, Drawn, Draws, SequenceSpan, mask_words};
use grammar::GrammarError;
use rayon::prelude::*;

use crate::answer::{Answer, Choice, Chosen};
use crate::sampler::top_logprobs;
use crate::scheduler::{Chunk, Scheduler};
use crate::voice::{Answers, Pending, Voice};
use crate::{EngineError, Event, GeneratedToken, ModelRunner, RequestId};

/// Masks that are worth being computed by several threads.
const MASKS_PARALLEL: usize = 4;
/// Logits that are worth being looked at by several threads.
const LOGITS_PARALLEL: usize = 1 << 17;

/// A row whose logits are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) id: RequestId,
    /// The sequence's place among those that run.
    pub(crate) index: usize,
    position: usize,
    /// Where its logits come to the host, if they do.
    kept: Option<usize>,
    /// Whether a token is drawn; else the prompt's next token is looked up.
    draws: bool,
    /// Its mask, if a grammar says which tokens may come.
    mask: Option<u32>,
}

/// What a row gave, or why its request fails.
type RowResult = Result<Found, EngineError>;

/// What a row gave.
pub(crate) enum Found {
    /// The answer's next token.
    Token(Chosen),
    /// What the model thought of the prompt's next token.
    OfPrompt(GeneratedToken),
}

/// A step's parts, kept for their memory.
#[derive(Default)]
pub(crate) struct Step {
    pub(crate) plan: Vec<Chunk>,
    /// Tokens of each sequence, as planned.
    computed: Vec<(RequestId, usize)>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<Row>,
    /// Rows of the batch whose logits are wanted, and which of those the host has to see.
    row_indices: Vec<u32>,
    kept: Vec<u32>,
    masks: Vec<u32>,
    drawn: Vec<Drawn>,
    logits: Vec<f32>,
    vocab_size: usize,
}

impl Step {
    /// Tokens that are computed.
    pub(crate) fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens that are computed, by request.
    pub(crate) fn computed(&self) -> &[(RequestId, usize)] {
        if self.plan.is_empty() { &[] } else { &self.computed }
    }

    /// Writes down what the plan computes, and which rows are wanted.
    pub(crate) fn lay_out(&mut self, scheduler: &Scheduler, answers: &Answers, vocab_size: usize) {
        let Step { plan, computed, tokens, positions, rows, row_indices, kept, .. } = self;
        computed.clear();
        tokens.clear();
        positions.clear();
        rows.clear();
        row_indices.clear();
        kept.clear();
        let mut num_masks = 0;
        for &Chunk { index, len } in &*plan {
            let sequence = &scheduler.running()[index];
            let (start, end) = (sequence.num_computed, sequence.num_computed + len);
            let first_token = tokens.len();
            computed.push((sequence.id, len));
            tokens.extend_from_slice(&sequence.tokens[start..end]);
            positions.extend(start as u32..end as u32);
            let choice = answers.get(&sequence.id).map(|answer| &answer.choice);
            for position in sequence.first_row().max(start)..end {
                let draws = sequence.draws_at(position);
                let is_kept = !draws || choice.is_some_and(Choice::needs_logits);
                let has_mask = draws && choice.is_some_and(Choice::has_grammar);
                let row = Row {
                    id: sequence.id,
                    index,
                    position,
                    kept: is_kept.then_some(kept.len()),
                    draws,
                    mask: has_mask.then_some(num_masks),
                };
                if is_kept {
                    kept.push(rows.len() as u32);
                }
                num_masks += u32::from(has_mask);
                row_indices.push((first_token + position - start) as u32);
                rows.push(row);
            }
        }
        self.vocab_size = vocab_size;
        self.masks.clear();
        self.masks.resize(num_masks as usize * mask_words(vocab_size), 0);
    }

    /// Runs the step; while the device works, computes masks and says what the last step gave. Returns the requests that
    /// ended with that.
    pub(crate) fn run(
        &mut self,
        runner: &mut dyn ModelRunner,
        scheduler: &Scheduler,
        answers: &mut Answers,
        voice: &mut Voice,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Result<Vec<RequestId>, BackendError> {
        let Step { plan, tokens, positions, rows, row_indices, kept, masks, .. } = self;
        let mut start = 0;
        let span = |chunk: &Chunk| {
            let block_table = &scheduler.running()[chunk.index].block_table;
            let span = SequenceSpan { start, len: chunk.len, block_table };
            start += chunk.len;
            span
        };
        let spans: Vec<SequenceSpan<'_>> = plan.iter().map(span).collect();
        let batch = Batch { tokens, positions, sequences: &spans };
        let words = mask_words(self.vocab_size);
        let mut ended = Vec::new();
        let mut choose = |draws: &mut Draws| {
            for (id, error) in fill_masks(rows, masks, words, answers) {
                voice.push(id, Pending::Failed(error.into()));
            }
            draws.masks.extend_from_slice(masks);
            draws.draws.extend(rows.iter().map(|row| match answers.get_mut(&row.id) {
                Some(answer) if row.kept.is_none() => answer.choice.draw(row.mask),
                _ => Draw::GREEDY,
            }));
            ended = voice.tell(answers, on_event);
        };
        let Step { drawn, logits, .. } = self;
        runner.step_and_draw(&batch, row_indices, kept, &mut choose, drawn, logits)?;
        Ok(ended)
    }

    /// What the rows gave, in their order; nothing for requests that are gone.
    ///
    /// # Errors
    /// Where the device fails.
    pub(crate) fn results(
        &mut self,
        runner: &mut dyn ModelRunner,
        answers: &mut Answers,
        scheduler: &Scheduler,
    ) -> Result<Vec<(Row, RowResult)>, BackendError> {
        let mut found: Vec<_> = self.rows.iter().zip(&self.drawn).map(check_finite).collect();
        self.sample(answers, &mut found);
        self.look_up(answers, scheduler, &mut found);
        let refused = self.take_drawn(answers, &mut found);
        if !refused.is_empty() {
            runner.last_logits(&refused, &mut self.logits)?;
            for (kept, &at) in refused.iter().enumerate() {
                self.rows[at as usize].kept = Some(kept);
            }
            self.sample(answers, &mut found);
        }
        let rows = self.rows.iter().zip(found).filter(|(row, _)| answers.contains_key(&row.id));
        Ok(rows.filter_map(|(row, found)| Some((*row, found?))).collect())
    }

    /// Takes the tokens that the device drew. Returns the rows, ascending, whose answers refuse theirs: it is out of their
    /// masks then.
    fn take_drawn(&mut self, answers: &mut Answers, found: &mut [Option<RowResult>]) -> Vec<u32> {
        let words = mask_words(self.vocab_size);
        let mut refused = Vec::new();
        for (at, (row, drawn)) in self.rows.iter().zip(&self.drawn).enumerate() {
            let (None, Some(answer)) = (&found[at], answers.get_mut(&row.id)) else { continue };
            match answer.choice.take_drawn(drawn) {
                Ok(Some(chosen)) => found[at] = Some(Ok(Found::Token(chosen))),
                Err(error) => found[at] = Some(Err(error)),
                Ok(None) => {
                    refused.push(at as u32);
                    if let Some(mask) = row.mask {
                        let word = mask as usize * words + (drawn.token / 32) as usize;
                        self.masks[word] &= !(1 << (drawn.token % 32));
                    }
                }
            }
        }
        refused
    }

    /// Logits of a row that came to the host.
    fn logits(&self, kept: usize) -> &[f32] {
        &self.logits[kept * self.vocab_size..][..self.vocab_size]
    }

    /// What turns those into log-probabilities: the device has found it, for the token that it drew.
    fn normalizer(&self, at: usize, kept: usize) -> f32 {
        let Drawn { token, logprob, .. } = self.drawn[at];
        self.logits(kept)[token as usize] - logprob
    }

    /// Chooses the tokens that the host has to choose.
    fn sample(&mut self, answers: &mut Answers, found: &mut [Option<RowResult>]) {
        let words = mask_words(self.vocab_size);
        let mut masks = std::mem::take(&mut self.masks);
        let mut chunks = masks.chunks_exact_mut(words);
        let mut jobs = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            // Masks are in the order of rows.
            let mask = row.mask.and_then(|_| chunks.next());
            if let (true, Some(kept), None) = (row.draws, row.kept, &found[at]) {
                jobs.push((row.id, (at, self.logits(kept), self.normalizer(at, kept), mask)));
            }
        }
        let is_parallel = jobs.len() > 1 && jobs.len() * self.vocab_size >= LOGITS_PARALLEL;
        let sample = |choice: &mut Choice, (at, logits, normalizer, mask)| {
            (at, choice.sample(logits, normalizer, mask))
        };
        let sampled = for_choices(answers, jobs, is_parallel, sample);
        for (at, chosen) in sampled {
            found[at] = Some(chosen.map(Found::Token));
        }
        self.masks = masks;
    }

    /// Looks up what the model thought of tokens of prompts.
    fn look_up(&self, answers: &Answers, scheduler: &Scheduler, found: &mut [Option<RowResult>]) {
        let look_up = |(at, found): (usize, &mut Option<RowResult>)| {
            let row = &self.rows[at];
            let (Some(answer), Some(kept)) = (answers.get(&row.id), row.kept) else { return };
            if row.draws || found.is_some() {
                return;
            }
            let token = scheduler.running()[row.index].tokens[row.position + 1];
            let (logits, normalizer) = (self.logits(kept), self.normalizer(at, kept));
            *found = Some(Ok(Found::OfPrompt(GeneratedToken {
                token,
                logprob: logits[token as usize] - normalizer,
                top_logprobs: top_logprobs(logits, normalizer, answer.choice.top_logprobs()),
                text: String::new(),
            })));
        };
        if self.logits.len() >= LOGITS_PARALLEL {
            found.par_iter_mut().enumerate().for_each(look_up);
        } else {
            found.iter_mut().enumerate().for_each(look_up);
        }
    }
}

fn check_finite((row, drawn): (&Row, &Drawn)) -> Option<RowResult> {
    (!drawn.is_finite).then_some(Err(EngineError::NotFinite { position: row.position }))
}

/// Computes the masks of the rows that have one. Returns the requests whose grammar failed.
fn fill_masks(
    rows: &[Row],
    masks: &mut [u32],
    words: usize,
    answers: &mut Answers,
) -> Vec<(RequestId, GrammarError)> {
    let masked = rows.iter().filter(|row| row.mask.is_some());
    let jobs: Vec<_> = masked
        .zip(masks.chunks_exact_mut(words))
        .map(|(row, mask)| (row.id, (row.id, mask)))
        .collect();
    let is_parallel = jobs.len() >= MASKS_PARALLEL;
    let done = for_choices(answers, jobs, is_parallel, |choice, (id, mask)| {
        Some((id, choice.mask(mask).err()?))
    });
    done.into_iter().flatten().collect()
}

/// Does a job for each of some answers, on several threads if that is worth it. Results come in the order of requests.
fn for_choices<'a, J: Send, R: Send>(
    answers: &'a mut Answers,
    mut jobs: Vec<(RequestId, J)>,
    is_parallel: bool,
    work: impl Fn(&mut Choice, J) -> R + Sync,
) -> Vec<R> {
    jobs.sort_by_key(|(id, _)| *id);
    jobs.retain(|(id, _)| answers.contains_key(id));
    let mut jobs = jobs.into_iter().peekable();
    let with_choice = |(id, answer): (&RequestId, &'a mut Answer)| {
        let (_, job) = jobs.next_if(|(of, _)| of == id)?;
        Some((&mut answer.choice, job))
    };
    let pairs: Vec<(&mut Choice, J)> = answers.iter_mut().filter_map(with_choice).collect();
    let work = |(choice, job)| work(choice, job);
    if is_parallel {
        pairs.into_par_iter().map(work).collect()
    } else {
        pairs.into_iter().map(work).collect()
    }
}
