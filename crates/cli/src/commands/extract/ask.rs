//! A model that fills in the fields of documents.

use std::sync::Arc;

use ::extract::Document;
use ::extract::checks::Rules;
use ::extract::fields::Fields;
use anyhow::Result;
use engine::{Engine, FinishReason, Request, SamplingParams};
use grammar::{Grammar, Spec};
use serde_json::{Value, json};

use super::ExtractArgs;
use crate::device;
use crate::generation;
use crate::models::{self, TextSide};
use crate::output::CliError;

/// Ctrl-C was pressed while the model answered.
#[derive(Debug, thiserror::Error)]
#[error("ended by Ctrl-C")]
pub(super) struct Ended;

/// A model, and what it is asked.
pub(super) struct Asker {
    fields: Fields,
    side: TextSide,
    engine: Engine,
    grammar: Grammar,
    max_tokens: usize,
    model: String,
    device: String,
}

impl Asker {
    pub(super) fn open(args: &ExtractArgs, fields: &Fields) -> Result<Self> {
        let checkpoint = models::open(&args.model, &args.places)?;
        let side = TextSide::load(&checkpoint)?;
        side.require_template()?;
        let vocab_size = checkpoint.config().vocab_size;
        let vocabulary =
            engine::vocabulary(&side.tokenizer, vocab_size, &side.generation.eos_token_id)?;
        let spec = Spec::JsonSchema { schema: fields.schema().clone(), open: false };
        // Before the weights are read.
        let grammar = Grammar::compile(&Arc::new(vocabulary), &spec)
            .map_err(|error| CliError::bad_input("schema", error.to_string()))?;
        let opened = device::open(&args.device, args.precision.precision)?;
        let device = opened.describe();
        let ready = models::ready(&checkpoint, &args.load, &args.context, opened, 1)?;
        let max_tokens = args.max_tokens as usize;
        if max_tokens >= ready.context {
            let message = format!(
                "--max-tokens {max_tokens} leaves no room for a document in a context of {} tokens",
                ready.context
            );
            return Err(CliError::bad_input("max_tokens", message).into());
        }
        let engine = ready.load()?.engine(&side);
        let (fields, model) = (fields.clone(), args.model.clone());
        Ok(Asker { fields, side, engine, grammar, max_tokens, model, device })
    }

    /// Fills in the fields of a document: what stands in it, where, and how it passes the rules.
    pub(super) fn ask(&mut self, document: &Document, rules: &Rules) -> Result<Value> {
        let room = self.engine.context() - self.max_tokens;
        let mut wrong = None;
        let parts = {
            let (fields, side) = (&self.fields, &self.side);
            let mut tokens = |message: &str| {
                side.encode_chat(&[user(message)]).map(|tokens| tokens.len()).unwrap_or_else(
                    |error| {
                        wrong.get_or_insert(error);
                        0
                    },
                )
            };
            Fields::parts(document, room, &|text| fields.message(text), &mut tokens)
        };
        if let Some(error) = wrong {
            return Err(error);
        }
        let parts = parts.map_err(|error| CliError::bad_input("file", error.to_string()))?;
        let (mut said, mut prompt_tokens, mut completion_tokens) = (Vec::new(), 0, 0);
        let mut is_short = false;
        for part in &parts {
            let request = Request {
                prompt: self.side.encode_chat(&[user(&part.message)])?,
                max_tokens: self.max_tokens,
                sampling: SamplingParams::default(),
                eos_token_id: self.side.generation.eos_token_id.clone(),
                grammar: Some(self.grammar.clone()),
                ..Request::default()
            };
            let completion = generation::answer(&mut self.engine, request, |_| Ok(()))?.completion;
            if completion.finish_reason == FinishReason::Cancelled {
                return Err(Ended.into());
            }
            is_short |= completion.finish_reason == FinishReason::Length;
            prompt_tokens += completion.prompt_tokens;
            completion_tokens += completion.completion_tokens;
            let value: Value = serde_json::from_str(&completion.text).map_err(|error| {
                CliError::Failed(format!("the model's answer is not JSON: {error}"))
            })?;
            said.push((part.pages.clone(), value));
        }
        let grounded = self.fields.ground_parts(document, said);
        let checks = rules.check(&grounded.fields, grounded.written);
        let mut report = json!(grounded);
        report["checks"] = json!(checks);
        report["parts"] = parts.len().into();
        // A budget that ran out closed the answer early: lists may lack items.
        report["finish_reason"] = if is_short { "length" } else { "stop" }.into();
        report["usage"] =
            json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens });
        report["model"] = self.model.as_str().into();
        report["device"] = self.device.as_str().into();
        Ok(report)
    }
}

fn user(message: &str) -> Value {
    json!({ "role": "user", "content": message })
}
