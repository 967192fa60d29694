//! Many answers at once on one model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backend::{Batch, Drawn, Draws, KV_BLOCK_SIZE, SequenceSpan, mask_words};
use model::Tokenizer;

use crate::answer::{Choice, Chosen, Text};
use crate::block_manager::BlockManager;
use crate::scheduler::{Chunk, Limits, Scheduler};
use crate::sequence::Sequence;
use crate::{
    Completion, EngineError, FinishReason, GeneratedToken, ModelRunner, Request, log_sum_exp,
    top_logprobs,
};

/// Names a request for as long as the engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Bounds of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most tokens of a request, prompt and answer together.
    pub context: usize,
    /// Most sequences that share a step.
    pub max_num_seqs: usize,
    /// Most tokens of a step.
    pub max_num_batched_tokens: usize,
    /// Most requests that wait for their first step.
    pub max_waiting: usize,
    /// Whether blocks of finished requests are kept for those that begin alike.
    pub prefix_cache: bool,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// So many tokens of the prompt are computed.
    Prefill {
        /// Computed or cached.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Of those done, how many were in the cache.
        cached: usize,
    },
    /// Log-probabilities of the prompt's tokens from [`Request::prompt_logprobs_from`] on.
    PromptLogprobs(Vec<GeneratedToken>),
    /// A token was generated.
    Token(GeneratedToken),
    /// The answer is whole; nothing follows.
    Finished(Completion),
    /// The answer broke off; nothing follows.
    Failed(EngineError),
}

/// What the engine holds at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that have not begun.
    pub waiting: usize,
    /// Requests that share steps.
    pub running: usize,
    /// Blocks of the cache in use by requests.
    pub used_blocks: usize,
    /// Blocks that hold finished requests' tokens and can be taken at any time.
    pub cached_blocks: usize,
    /// All blocks.
    pub total_blocks: usize,
    /// Prompt tokens asked for, and those of them found in the cache, since the start.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub cached_tokens: u64,
    /// Tokens generated since the start.
    pub generated_tokens: u64,
    /// How often a request lost its blocks and was computed again.
    pub preemptions: u64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Tokens that were computed.
    pub tokens: usize,
    /// Sequences that shared the step.
    pub sequences: usize,
    /// Tokens that were generated.
    pub generated: usize,
}

/// Many requests on one model. It is told the time, and does nothing but in [`Engine::step`].
///
/// What an answer says lags a step behind what is computed: while the device works on the next tokens, the last ones become
/// text and events. So between two steps the device waits only for what decides about the next.
pub struct Engine {
    runner: Box<dyn ModelRunner>,
    scheduler: Scheduler,
    answers: BTreeMap<RequestId, Answer>,
    voice: Voice,
    step: Step,
    context: usize,
    max_waiting: usize,
    last_id: u64,
    generated_tokens: u64,
    /// Why the engine is dead, if it is.
    dead: Option<String>,
}

/// What an answer keeps from step to step, whatever becomes of its blocks.
struct Answer {
    choice: Choice,
    text: Text,
    top_logprobs: usize,
    /// Of the prompt's tokens, as far as they are known.
    prompt_logprobs: Vec<GeneratedToken>,
}

/// A step's parts, kept for their memory.
#[derive(Default)]
struct Step {
    plan: Vec<Chunk>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<Row>,
    /// Rows of the batch whose logits are wanted, and which of those the host has to see.
    row_indices: Vec<u32>,
    kept: Vec<u32>,
    masks: Vec<u32>,
    drawn: Vec<Drawn>,
    logits: Vec<f32>,
}

/// A row whose logits are wanted.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: RequestId,
    /// The sequence's place among those that run.
    index: usize,
    position: usize,
    /// Where its logits come to the host, if they do.
    kept: Option<usize>,
    /// Whether a token is drawn; else the prompt's next token is looked up.
    draws: bool,
    /// Its mask, if a grammar says which tokens may come.
    mask: Option<u32>,
}

impl Engine {
    /// An engine with nothing to do.
    ///
    /// # Panics
    /// If the runner has no block, or its steps hold nothing.
    pub fn new(
        runner: Box<dyn ModelRunner>,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Self {
        let num_blocks = runner.context() / KV_BLOCK_SIZE;
        assert!(num_blocks > 0, "the cache holds something");
        let limits = runner.limits();
        let limits = Limits {
            tokens: limits.tokens.min(config.max_num_batched_tokens),
            sequences: limits.sequences.min(config.max_num_seqs),
            rows: limits.rows,
        };
        Engine {
            context: config.context.min(num_blocks * KV_BLOCK_SIZE),
            max_waiting: config.max_waiting,
            runner,
            scheduler: Scheduler::new(limits, BlockManager::new(num_blocks, config.prefix_cache)),
            answers: BTreeMap::new(),
            voice: Voice { tokenizer, pending: Vec::new() },
            step: Step::default(),
            last_id: 0,
            generated_tokens: 0,
            dead: None,
        }
    }

    /// Tokens that a request may have, prompt and answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Takes a request into the queue.
    ///
    /// # Errors
    /// [`EngineError`] for one that makes no sense, can never fit, or finds the queue full.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        self.check(&request)?;
        let budget = request.max_tokens.min(self.context - request.prompt.len());
        if let Some(needed) = request.grammar.as_ref().and_then(grammar::Grammar::shortest)
            && needed > budget
        {
            return Err(EngineError::Budget { needed, budget });
        }
        let waiting = self.scheduler.num_new() + self.voice.num_ends();
        if waiting >= self.max_waiting {
            return Err(EngineError::QueueFull { waiting });
        }
        self.last_id += 1;
        let id = RequestId(self.last_id);
        let answer = Answer {
            choice: Choice::new(&request, budget),
            text: Text::new(&request, &self.voice.tokenizer),
            top_logprobs: request.top_logprobs,
            prompt_logprobs: Vec::new(),
        };
        self.answers.insert(id, answer);
        let generates = budget > 0;
        let mut sequence =
            Sequence::new(id, request.prompt, generates, request.prompt_logprobs_from);
        sequence.priority = request.priority;
        sequence.deadline = request.deadline;
        if generates || sequence.wants_logprobs() {
            self.scheduler.add(sequence);
        } else {
            if request.prompt_logprobs_from.is_some() {
                self.voice.push(id, Pending::PromptLogprobs { context: vec![], tokens: vec![] });
            }
            self.voice.push(id, Pending::End(FinishReason::Length));
        }
        Ok(id)
    }

    fn check(&self, request: &Request) -> Result<(), EngineError> {
        self.check_alive()?;
        request.sampling.validate()?;
        let Request { prompt, max_tokens, .. } = request;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() + usize::from(*max_tokens > 0) > self.context {
            return Err(EngineError::TooLong { tokens: prompt.len(), context: self.context });
        }
        let vocab_size = self.runner.config().vocab_size;
        match prompt.iter().position(|&token| token as usize >= vocab_size) {
            Some(index) => Err(EngineError::Token { index, token: prompt[index], vocab_size }),
            None => Ok(()),
        }
    }

    fn check_alive(&self) -> Result<(), EngineError> {
        let dead = |reason: &String| Err(EngineError::Stopped(reason.clone()));
        self.dead.as_ref().map_or(Ok(()), dead)
    }

    /// Forgets a request; its blocks are free at once. No event follows. Unknown ones are ignored: they have finished.
    pub fn cancel(&mut self, id: RequestId) {
        self.scheduler.remove(id);
        self.answers.remove(&id);
    }

    /// Whether a step would do something.
    pub fn has_work(&self) -> bool {
        !self.answers.is_empty()
    }

    /// What the engine holds.
    pub fn stats(&self) -> Stats {
        let blocks = self.scheduler.blocks();
        Stats {
            waiting: self.scheduler.num_waiting(),
            running: self.scheduler.running().len(),
            used_blocks: blocks.total() - blocks.available(),
            cached_blocks: blocks.idle(),
            total_blocks: blocks.total(),
            prompt_tokens: self.scheduler.prompt_tokens,
            cached_tokens: self.scheduler.cached_tokens,
            generated_tokens: self.generated_tokens,
            preemptions: self.scheduler.preemptions,
        }
    }

    /// Checks all that must be true between two steps.
    #[cfg(test)]
    pub(crate) fn assert_consistent(&self) {
        self.scheduler.assert_consistent();
        for sequence in self.scheduler.sequences() {
            assert!(self.answers.contains_key(&sequence.id), "a sequence without an answer");
        }
    }

    /// Runs one step; `now` is the time since some beginning, for deadlines. Events come in the order in which things
    /// happened, those of tokens with the next step or when nothing is left to compute.
    ///
    /// # Errors
    /// Where the device fails: the engine is then dead, and every request with it.
    pub fn step(
        &mut self,
        now: Duration,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Result<StepReport, EngineError> {
        self.check_alive()?;
        self.expire(now);
        self.scheduler.schedule(&mut self.step.plan);
        let mut report = StepReport::default();
        if !self.step.plan.is_empty() {
            self.lay_out();
            report.tokens = self.step.tokens.len();
            report.sequences = self.step.plan.len();
            let mut ended = match self.run(on_event) {
                Ok(ended) => ended,
                Err(error) => return Err(self.die(error, on_event)),
            };
            report.generated = self.take_results(&mut ended);
            for id in ended {
                self.scheduler.remove(id);
            }
        }
        if !self.scheduler.has_work() {
            self.voice.tell(&mut self.answers, on_event);
        }
        Ok(report)
    }

    /// Ends those whose deadline has passed.
    fn expire(&mut self, now: Duration) {
        let late = |sequence: &&Sequence| sequence.deadline.is_some_and(|deadline| deadline <= now);
        let expired: Vec<RequestId> =
            self.scheduler.sequences().filter(late).map(|sequence| sequence.id).collect();
        for id in expired {
            self.scheduler.remove(id);
            self.voice.push(id, Pending::Failed(EngineError::Deadline));
        }
    }

    /// Writes down what the next step computes, and which rows are wanted.
    fn lay_out(&mut self) {
        let Step { plan, tokens, positions, rows, row_indices, kept, masks, .. } = &mut self.step;
        tokens.clear();
        positions.clear();
        rows.clear();
        row_indices.clear();
        kept.clear();
        let mut num_masks = 0;
        for &Chunk { index, len } in &*plan {
            let sequence = &self.scheduler.running()[index];
            let (start, end) = (sequence.num_computed, sequence.num_computed + len);
            let first_token = tokens.len();
            tokens.extend_from_slice(&sequence.tokens[start..end]);
            positions.extend(start as u32..end as u32);
            for position in sequence.first_row().max(start)..end {
                let draws = sequence.draws_at(position);
                let choice = self.answers.get(&sequence.id).map(|answer| &answer.choice);
                let keep = !draws || choice.is_some_and(Choice::needs_logits);
                let has_mask = draws && choice.is_some_and(Choice::has_grammar);
                if keep {
                    kept.push(rows.len() as u32);
                }
                row_indices.push((first_token + position - start) as u32);
                rows.push(Row {
                    id: sequence.id,
                    index,
                    position,
                    kept: keep.then(|| kept.len() - 1),
                    draws,
                    mask: has_mask.then_some(num_masks),
                });
                num_masks += u32::from(has_mask);
            }
        }
        masks.clear();
        masks.resize(num_masks as usize * mask_words(self.runner.config().vocab_size), 0);
    }

    /// Runs the step; while the device works, says what the last one gave. Returns the requests that ended with that.
    fn run(
        &mut self,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Result<Vec<RequestId>, EngineError> {
        let Engine { runner, scheduler, answers, voice, step, .. } = self;
        let Step { plan, tokens, positions, rows, row_indices, kept, masks, drawn, logits } = step;
        let mut start = 0;
        let spans: Vec<SequenceSpan<'_>> = plan
            .iter()
            .map(|chunk| {
                let block_table = &scheduler.running()[chunk.index].block_table;
                let span = SequenceSpan { start, len: chunk.len, block_table };
                start += chunk.len;
                span
            })
            .collect();
        let batch = Batch { tokens, positions, sequences: &spans };
        let words = mask_words(runner.config().vocab_size);
        let mut ended = Vec::new();
        let mut choose = |draws: &mut Draws| {
            for row in &*rows {
                let Some(answer) = answers.get_mut(&row.id) else { continue };
                if let Some(mask) = row.mask
                    && let Err(error) =
                        answer.choice.mask(&mut masks[mask as usize * words..][..words])
                {
                    voice.push(row.id, Pending::Failed(error.into()));
                }
            }
            draws.masks.extend_from_slice(masks);
            draws.draws.extend(rows.iter().map(|row| match answers.get_mut(&row.id) {
                Some(answer) if row.kept.is_none() => answer.choice.draw(row.mask),
                _ => backend::Draw::GREEDY,
            }));
            ended = voice.tell(answers, on_event);
        };
        runner.step_and_draw(&batch, row_indices, kept, &mut choose, drawn, logits)?;
        Ok(ended)
    }

    /// Enters what the step gave; adds the requests that end with it to `ended`. Returns how many tokens were generated.
    fn take_results(&mut self, ended: &mut Vec<RequestId>) -> usize {
        self.scheduler.computed(&self.step.plan);
        for chunk in &self.step.plan {
            let sequence = self.scheduler.running_mut(chunk.index);
            if let Some(done) = sequence.newly_done() {
                let (total, cached) = (sequence.prompt_len, sequence.num_cached.unwrap_or(0));
                self.voice.push(sequence.id, Pending::Prefill { done, total, cached });
            }
        }
        let mut generated = 0;
        let rows = std::mem::take(&mut self.step.rows);
        for (row, drawn) in rows.iter().zip(std::mem::take(&mut self.step.drawn)) {
            // One that ended while the step ran, or with an earlier row of it, has no use for the rest.
            if !self.answers.contains_key(&row.id) || ended.contains(&row.id) {
                continue;
            }
            match self.take_row(row, drawn) {
                Ok(ends) => {
                    generated += usize::from(row.draws);
                    if ends {
                        ended.push(row.id);
                    }
                }
                Err(error) => {
                    if matches!(error, EngineError::NotFinite { .. }) {
                        self.scheduler.distrust(row.index);
                    }
                    self.voice.push(row.id, Pending::Failed(error));
                    ended.push(row.id);
                }
            }
        }
        self.step.rows = rows;
        self.generated_tokens += generated as u64;
        generated
    }

    /// Takes a row's token into its answer, or looks up the prompt's next token. Says whether that ends the answer.
    fn take_row(&mut self, row: &Row, drawn: Drawn) -> Result<bool, EngineError> {
        if !drawn.is_finite {
            return Err(EngineError::NotFinite { position: row.position });
        }
        let vocab_size = self.runner.config().vocab_size;
        let logits = row.kept.map(|kept| &self.step.logits[kept * vocab_size..][..vocab_size]);
        let words = mask_words(vocab_size);
        let mask = row.mask.map(|mask| &mut self.step.masks[mask as usize * words..][..words]);
        let sequence = self.scheduler.running_mut(row.index);
        let Some(answer) = self.answers.get_mut(&row.id) else { return Ok(true) };
        if !row.draws {
            let token = sequence.tokens[row.position + 1];
            let logprobs = logits.map(|logits| prompt_token(token, logits, answer.top_logprobs));
            answer.prompt_logprobs.extend(logprobs);
            sequence.next_logprob += 1;
            if sequence.wants_logprobs() {
                return Ok(false);
            }
            let tokens = std::mem::take(&mut answer.prompt_logprobs);
            let from = sequence.prompt_len - tokens.len();
            let context = sequence.tokens[from.saturating_sub(PROMPT_CONTEXT)..from].to_vec();
            self.voice.push(row.id, Pending::PromptLogprobs { context, tokens });
            if !sequence.generates() {
                self.voice.push(row.id, Pending::End(FinishReason::Length));
            }
            return Ok(!sequence.generates());
        }
        let chosen = match logits {
            Some(logits) => answer.choice.sample(logits, mask)?,
            None => {
                answer.choice.take_drawn(drawn.allowed.then_some((drawn.token, drawn.logprob)))?
            }
        };
        sequence.tokens.push(chosen.token.token);
        let ends = chosen.ends.is_some();
        self.voice.push(row.id, Pending::Token(chosen));
        Ok(ends)
    }

    /// The device failed: nothing that it holds can be relied on.
    fn die(
        &mut self,
        error: EngineError,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> EngineError {
        let reason = error.to_string();
        for &id in self.answers.keys() {
            self.voice.push(id, Pending::Failed(EngineError::Stopped(reason.clone())));
        }
        for id in self.voice.tell(&mut self.answers, on_event) {
            self.scheduler.remove(id);
        }
        self.dead = Some(reason);
        error
    }
}

/// Tokens before the first of a part of a prompt that its text depends on.
const PROMPT_CONTEXT: usize = 8;

/// What the model thought of a token of the prompt.
fn prompt_token(token: u32, logits: &[f32], top: usize) -> GeneratedToken {
    GeneratedToken {
        token,
        logprob: logits[token as usize] - log_sum_exp(logits),
        top_logprobs: if top > 0 { top_logprobs(logits, top) } else { Vec::new() },
        text: String::new(),
    }
}

/// What has happened, and has yet to be said.
struct Voice {
    tokenizer: Arc<Tokenizer>,
    pending: Vec<(RequestId, Pending)>,
}

enum Pending {
    Prefill {
        done: usize,
        total: usize,
        cached: usize,
    },
    /// Tokens of the prompt, and some before them.
    PromptLogprobs {
        context: Vec<u32>,
        tokens: Vec<GeneratedToken>,
    },
    Token(Chosen),
    End(FinishReason),
    Failed(EngineError),
}

impl Voice {
    fn push(&mut self, id: RequestId, pending: Pending) {
        self.pending.push((id, pending));
    }

    fn num_ends(&self) -> usize {
        self.pending.iter().filter(|(_, pending)| matches!(pending, Pending::End(_))).count()
    }

    /// Says all of it, but nothing of requests that are gone. Returns those that ended.
    fn tell(
        &mut self,
        answers: &mut BTreeMap<RequestId, Answer>,
        on_event: &mut (dyn FnMut(RequestId, Event) + Send),
    ) -> Vec<RequestId> {
        let mut ended = Vec::new();
        for (id, pending) in self.pending.drain(..) {
            let Some(answer) = answers.get_mut(&id) else { continue };
            let told = match pending {
                Pending::Prefill { done, total, cached } => {
                    answer.text.set_cached(cached);
                    on_event(id, Event::Prefill { done, total, cached });
                    Ok(None)
                }
                Pending::PromptLogprobs { context, tokens } => {
                    with_texts(&self.tokenizer, &context, tokens).map(|tokens| {
                        on_event(id, Event::PromptLogprobs(tokens));
                        None
                    })
                }
                Pending::Token(mut chosen) => {
                    answer.text.push(&self.tokenizer, &mut chosen).map(|ends| {
                        on_event(id, Event::Token(chosen.token));
                        ends
                    })
                }
                Pending::End(reason) => Ok(Some(reason)),
                Pending::Failed(error) => Err(error),
            };
            let last = match told {
                Ok(None) => continue,
                Ok(Some(reason)) => {
                    answers.remove(&id).map(|answer| answer.text.finish(&self.tokenizer, reason))
                }
                Err(error) => answers.remove(&id).map(|_| Err(error)),
            };
            let Some(last) = last else { continue };
            on_event(id, last.map_or_else(Event::Failed, Event::Finished));
            ended.push(id);
        }
        ended
    }
}

/// Adds to each token of a part of a prompt the text that it completes.
fn with_texts(
    tokenizer: &Tokenizer,
    context: &[u32],
    mut tokens: Vec<GeneratedToken>,
) -> Result<Vec<GeneratedToken>, EngineError> {
    let mut stream = tokenizer.stream(true);
    for &token in context {
        stream.step(tokenizer, token)?;
    }
    for token in &mut tokens {
        token.text = stream.step(tokenizer, token.token)?;
    }
    if let Some(last) = tokens.last_mut() {
        last.text.push_str(&stream.finish(tokenizer)?);
    }
    Ok(tokens)
}
