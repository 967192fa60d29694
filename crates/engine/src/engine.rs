//! Many answers at once on one model.

use std::sync::Arc;
use std::time::Duration;

use backend::{BackendError, KV_BLOCK_SIZE};
use model::Tokenizer;

use crate::answer::{Answer, Chosen};
use crate::block_manager::BlockManager;
use crate::scheduler::{Limits, Scheduler};
use crate::sequence::Sequence;
use crate::step::{Found, Row, Step};
use crate::voice::{Answers, Pending, Voice};
use crate::{
    Completion, EngineError, FinishReason, GeneratedToken, ModelRunner, Request, check_tokens,
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

impl EngineConfig {
    /// For one request at a time, as long as the runner's cache.
    pub fn for_one(runner: &dyn ModelRunner) -> Self {
        EngineConfig {
            context: runner.context(),
            max_num_seqs: 1,
            max_num_batched_tokens: runner.limits().tokens,
            max_waiting: 1,
            prefix_cache: true,
        }
    }
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

/// Tokens before the first of a part of a prompt that its text depends on.
const PROMPT_CONTEXT: usize = 8;

/// Many requests on one model. It is told the time, and does nothing but in [`Engine::step`].
///
/// What an answer says lags a step behind what is computed: while the device works on the next tokens, the last ones become
/// text and events. So between two steps the device waits only for what decides about the next.
pub struct Engine {
    runner: Box<dyn ModelRunner>,
    scheduler: Scheduler,
    answers: Answers,
    voice: Voice,
    step: Step,
    context: usize,
    max_waiting: usize,
    last_id: u64,
    generated_tokens: u64,
    /// Why the engine is dead, if it is.
    dead: Option<String>,
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
            answers: Answers::new(),
            voice: Voice::new(tokenizer),
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
        let answer = Answer::new(&request, budget, &self.voice.tokenizer);
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
        check_tokens(&request.prompt, self.runner.config().vocab_size)?;
        let (tokens, context) = (request.prompt.len(), self.context);
        match tokens + usize::from(request.max_tokens > 0) > context {
            true => Err(EngineError::TooLong { tokens, context }),
            false => Ok(()),
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

    /// Ends a request and gives the answer as far as it has come.
    pub(crate) fn break_off(&mut self, id: RequestId) -> Result<Completion, EngineError> {
        self.scheduler.remove(id);
        match self.answers.remove(&id) {
            Some(answer) => answer.text.finish(&self.voice.tokenizer, FinishReason::Cancelled),
            None => Err(EngineError::Stopped("the request has ended".to_owned())),
        }
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

    /// Tokens that the last step computed, by request: what each of them took of the device. Those that have ended with it
    /// are among them.
    pub fn computed(&self) -> &[(RequestId, usize)] {
        self.step.computed()
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
            self.step.lay_out(&self.scheduler, &self.answers, self.runner.config().vocab_size);
            report.tokens = self.step.num_tokens();
            report.sequences = self.step.plan.len();
            let Engine { runner, scheduler, answers, voice, step, .. } = self;
            let mut ended = match step.run(&mut **runner, scheduler, answers, voice, on_event) {
                Ok(ended) => ended,
                Err(error) => return Err(self.die(error.into(), on_event)),
            };
            report.generated = match self.take_results(&mut ended) {
                Ok(generated) => generated,
                Err(error) => return Err(self.die(error.into(), on_event)),
            };
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

    /// Enters what the step gave; adds the requests that end with it to `ended`. Returns how many tokens were generated.
    fn take_results(&mut self, ended: &mut Vec<RequestId>) -> Result<usize, BackendError> {
        self.scheduler.computed(&self.step.plan);
        for chunk in &self.step.plan {
            let sequence = self.scheduler.running_mut(chunk.index);
            if let Some(done) = sequence.newly_done() {
                let (total, cached) = (sequence.prompt_len, sequence.num_cached.unwrap_or(0));
                self.voice.push(sequence.id, Pending::Prefill { done, total, cached });
            }
        }
        let mut generated = 0;
        let Engine { runner, scheduler, answers, step, .. } = self;
        for (row, found) in step.results(&mut **runner, answers, scheduler)? {
            // One that failed with an earlier row has no use for the rest.
            if ended.contains(&row.id) {
                continue;
            }
            let ends = match found {
                Ok(Found::Token(chosen)) => {
                    generated += 1;
                    self.take_token(&row, chosen)
                }
                Ok(Found::OfPrompt(token)) => self.take_prompt_token(&row, token),
                Err(error) => {
                    if matches!(error, EngineError::NotFinite { .. }) {
                        self.scheduler.distrust(row.index);
                    }
                    self.voice.push(row.id, Pending::Failed(error));
                    true
                }
            };
            if ends {
                ended.push(row.id);
            }
        }
        self.generated_tokens += generated as u64;
        Ok(generated)
    }

    /// Takes a token that was generated. Says whether it ends the answer.
    fn take_token(&mut self, row: &Row, chosen: Chosen) -> bool {
        let ends = chosen.ends.is_some();
        self.scheduler.running_mut(row.index).tokens.push(chosen.token.token);
        self.voice.push(row.id, Pending::Token(chosen));
        ends
    }

    /// Takes what the model thought of the prompt's next token. Says whether that is all that was asked for.
    fn take_prompt_token(&mut self, row: &Row, token: GeneratedToken) -> bool {
        let sequence = self.scheduler.running_mut(row.index);
        let Some(answer) = self.answers.get_mut(&row.id) else { return true };
        answer.prompt_logprobs.push(token);
        sequence.next_logprob += 1;
        if sequence.wants_logprobs() {
            return false;
        }
        let tokens = std::mem::take(&mut answer.prompt_logprobs);
        let from = sequence.prompt_len - tokens.len();
        let context = sequence.tokens[from.saturating_sub(PROMPT_CONTEXT)..from].to_vec();
        self.voice.push(row.id, Pending::PromptLogprobs { context, tokens });
        if !sequence.generates() {
            self.voice.push(row.id, Pending::End(FinishReason::Length));
        }
        !sequence.generates()
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
        self.voice.tell(&mut self.answers, on_event);
        let ids: Vec<RequestId> = self.scheduler.sequences().map(|sequence| sequence.id).collect();
        for id in ids {
            self.scheduler.remove(id);
        }
        self.dead = Some(reason);
        error
    }
}
