//! `POST /classify`: which of some labels fits a text, by the model's own probabilities of the labels.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use engine::{Event, GeneratedToken, Request};
use futures_util::{StreamExt, TryStreamExt, stream};
use model::{Chat, ChatTemplate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::extract::{JsonBody, parse};
use crate::{ApiError, App, EngineHandle, Served};

/// Least and most labels, and the longest one in bytes.
const LABELS: (usize, usize, usize) = (2, 64, 1024);

/// Labels of one request that the engine has at once. They share their prompt's blocks, but not the queue's places.
const AT_ONCE: usize = 16;

/// What the model is told unless the request says it.
const INSTRUCTIONS: &str = "Choose the label that fits the text best. Answer with the label alone.";

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(classify))
}

/// Checks the form of a body.
///
/// # Errors
/// 400, with the field at fault.
pub(crate) fn check(bytes: &[u8]) -> Result<(), ApiError> {
    parse::<ClassifyRequest>(bytes).map(drop)
}

/// A text, and the labels to choose from.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassifyRequest {
    /// The text. Never cut: what does not fit is an error.
    text: String,
    /// 2 to 64 different labels.
    #[schema(min_items = 2, max_items = 64)]
    labels: Vec<String>,
    /// What the model is told before the labels and the text. By default: to choose the label that fits best.
    instructions: Option<String>,
    /// Divides the scores before they become probabilities; above 0. 1 by default.
    temperature: Option<f64>,
}

/// The label, and how probable each one is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassifyResponse {
    /// The most probable label; of equal ones the first.
    label: String,
    /// The probability of each label, in the order of the request. They add up to 1.
    #[schema(value_type = Object)]
    probabilities: Map<String, Value>,
    /// What it took.
    metadata: ClassifyMetadata,
}

/// What an answer of `/classify` took.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassifyMetadata {
    /// Name of the model.
    model: String,
    /// The build of the server.
    build: String,
    /// For each label: `logprob`, the sum over its tokens, and `tokens`, their number.
    #[schema(value_type = Object)]
    scores: Map<String, Value>,
    /// Tokens of all prompts, each with its label.
    prompt_tokens: usize,
    /// Those of them that were in the cache already.
    cached_tokens: usize,
    /// Seconds from the request's arrival to the answer.
    processing_time_seconds: f64,
    /// The parameters in force.
    #[schema(value_type = Object)]
    parameters: Value,
}

/// What the model thinks of a label.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Score {
    /// Sum of the log-probabilities of its tokens.
    logprob: f64,
    /// How many those are.
    tokens: usize,
}

impl Score {
    fn mean(self) -> f64 {
        self.logprob / self.tokens as f64
    }
}

/// Says which of some labels fits a text.
///
/// The model reads the instructions, the labels and the text as a user's message, and each label as the answer that it might
/// give. A label's score `s` is the mean log-probability of its tokens, `s = (1/n) · Σ ln p(token | all before)`, so that long
/// labels are not worse for being long. The probabilities are `exp(s / temperature)`, divided by their sum.
///
/// A label counts from the first token in which the conversation with it, encoded as a whole, may differ from the
/// conversation without, the same for all labels: where a label's first characters share a token with what stands
/// before, that token counts.
#[utoipa::path(
    post,
    path = "/classify",
    tag = "prompt",
    request_body = ClassifyRequest,
    responses(
        (status = 200, body = ClassifyResponse, description = "The label"),
        (status = 400, body = crate::error::ErrorBody, description = "A field that is unknown, missing or out of range"),
        (status = 429, body = crate::error::ErrorBody, description = "The queue is full; `Retry-After` says when to try again"),
        (status = 503, body = crate::error::ErrorBody, description = "The model is not ready, or the server is about to end"),
        (status = 504, body = crate::error::ErrorBody, description = "The time for a request is over (`--request-timeout`)"),
    )
)]
async fn classify(
    State(app): State<App>,
    JsonBody(request): JsonBody<ClassifyRequest>,
) -> Result<Json<ClassifyResponse>, ApiError> {
    let start = Instant::now();
    let temperature = request.check()?;
    let served = Arc::clone(app.served()?);
    let (model, labels) = (Arc::clone(&served), request.labels.clone());
    let prompts = app.blocking(move || request.encode(&model)).await?;
    let prompt_tokens = prompts.labels.iter().map(Vec::len).sum();
    let (scores, cached) = score(&served.engine, prompts).await?;
    let probabilities = softmax(&scores, temperature);
    let best = (0..labels.len())
        .fold(0, |best, i| if probabilities[i] > probabilities[best] { i } else { best });
    let of_score = |score: &Score| json!({ "logprob": score.logprob, "tokens": score.tokens });
    Ok(Json(ClassifyResponse {
        label: labels[best].clone(),
        probabilities: labels
            .iter()
            .cloned()
            .zip(probabilities.iter().map(|&p| p.into()))
            .collect(),
        metadata: ClassifyMetadata {
            model: served.name.clone(),
            build: app.build().to_owned(),
            scores: labels.iter().cloned().zip(scores.iter().map(of_score)).collect(),
            prompt_tokens,
            cached_tokens: cached,
            processing_time_seconds: start.elapsed().as_secs_f64(),
            parameters: json!({ "temperature": temperature }),
        },
    }))
}

/// Tokens of each label behind the same prompt.
#[derive(Debug, PartialEq)]
struct Prompts {
    labels: Vec<Vec<u32>>,
    /// The first token that counts.
    from: usize,
}

impl ClassifyRequest {
    /// Checks the fields and gives the temperature.
    fn check(&self) -> Result<f64, ApiError> {
        let invalid = |param: &str, message: String| {
            Err(ApiError::invalid(param.to_owned(), message).with_code("invalid_value"))
        };
        let (least, most, len) = LABELS;
        if self.text.is_empty() {
            return invalid("text", "text is empty; there is nothing to classify".into());
        }
        let count = self.labels.len();
        if !(least..=most).contains(&count) {
            return invalid("labels", format!("labels has {count}; give {least} to {most}"));
        }
        for (i, label) in self.labels.iter().enumerate() {
            if label.trim().is_empty() || label.trim() != label || label.len() > len {
                let why = format!("empty, longer than {len} bytes, or begins or ends with a space");
                return invalid(&format!("labels[{i}]"), format!("labels[{i}] is {why}"));
            }
            if self.labels[..i].contains(label) {
                let message = format!("labels[{i}] is `{label}`, which comes twice");
                return invalid(&format!("labels[{i}]"), message);
            }
        }
        let temperature = self.temperature.unwrap_or(1.0);
        if !(temperature > 0.0 && temperature <= 100.0) {
            let message = format!("temperature is {temperature}, but must be above 0, at most 100");
            return invalid("temperature", message);
        }
        Ok(temperature)
    }

    /// What the model reads. The labels stand before the text: they are what requests have in common.
    fn message(&self) -> String {
        let instructions = self.instructions.as_deref().unwrap_or(INSTRUCTIONS);
        let labels: Vec<String> = self.labels.iter().map(|label| format!("- {label}")).collect();
        format!("{instructions}\n\nLabels:\n{}\n\nText:\n{}", labels.join("\n"), self.text)
    }

    fn encode(&self, served: &Served) -> Result<Prompts, ApiError> {
        let failed = |e: model::ModelError| ApiError::invalid("text".to_owned(), e.to_string());
        let head = self.head(served.template.as_ref()).map_err(failed)?;
        let encode = |text: &str| match &served.template {
            Some(_) => served.tokenizer.encode_chat(text),
            None => served.tokenizer.encode(text),
        };
        let in_text = |error| ApiError { param: Some("text".to_owned()), ..error };
        served.check_length(&head).map_err(in_text)?;
        let fits = |longest: usize| {
            if longest <= served.context {
                return Ok(());
            }
            let message = format!(
                "the text takes {longest} tokens with its longest label, but the context ends at {}; shorten it: it is \
                 never cut",
                served.context
            );
            let error = ApiError::invalid("text".to_owned(), message);
            Err(error.with_code("context_length_exceeded"))
        };
        let alone = encode(&head).map_err(failed)?;
        fits(alone.len())?;
        let labels = self.labels.iter().map(|label| encode(&format!("{head}{label}")));
        let labels: Vec<Vec<u32>> = labels.collect::<model::Result<_>>().map_err(failed)?;
        fits(labels.iter().map(Vec::len).max().unwrap_or(0))?;
        Ok(aligned(&alone, labels))
    }

    /// The conversation up to where the answer begins. Templates may write something between the question and an answer that
    /// is there already, which the beginning of an answer to come has not: a space, an empty thought.
    fn head(&self, template: Option<&ChatTemplate>) -> model::Result<String> {
        let message = self.message();
        let Some(template) = template else { return Ok(format!("{message}\n\nLabel: ")) };
        let question = json!({ "role": "user", "content": message });
        let answered = |label: &str| {
            let answer = json!({ "role": "assistant", "content": label });
            let messages = [question.clone(), answer];
            template.render(Chat { messages: &messages, ..Chat::default() })
        };
        if let Ok(text) = answered(&self.labels[0])
            && let Some(at) = text.rfind(&self.labels[0])
            && let Ok(other) = answered(&self.labels[1])
            && other.get(at..).is_some_and(|rest| rest.starts_with(&self.labels[1]))
            && other.get(..at) == text.get(..at)
        {
            return Ok(text[..at].to_owned());
        }
        let messages = [question];
        template.render(Chat {
            messages: &messages,
            add_generation_prompt: true,
            ..Chat::default()
        })
    }
}

/// The first token in which a conversation with a label differs from the one without, over all labels.
fn aligned(alone: &[u32], labels: Vec<Vec<u32>>) -> Prompts {
    let common = |label: &Vec<u32>| label.iter().zip(alone).take_while(|(a, b)| a == b).count();
    let from = labels.iter().map(common).min().unwrap_or(0);
    // Nothing stands before the first token by which it could be predicted.
    Prompts { labels, from: from.max(1) }
}

/// Scores all labels, and counts the tokens that came from the cache.
async fn score(engine: &EngineHandle, prompts: Prompts) -> Result<(Vec<Score>, usize), ApiError> {
    let Prompts { labels, from } = prompts;
    let scores = stream::iter(labels).map(|prompt| score_label(engine, prompt, from));
    let scores: Vec<(Score, usize)> = scores.buffered(AT_ONCE).try_collect().await?;
    let cached = scores.iter().map(|(_, cached)| cached).sum();
    Ok((scores.into_iter().map(|(score, _)| score).collect(), cached))
}

async fn score_label(
    engine: &EngineHandle,
    prompt: Vec<u32>,
    from: usize,
) -> Result<(Score, usize), ApiError> {
    let expected = prompt.len() - from;
    let request =
        Request { prompt, max_tokens: 0, prompt_logprobs_from: Some(from), ..Request::default() };
    let mut answer = engine.submit(request).await?;
    let mut score = Score { logprob: 0.0, tokens: 0 };
    while let Some(event) = answer.next().await {
        match event {
            Event::PromptLogprobs(tokens) => {
                let sum = |tokens: &[GeneratedToken]| -> f64 {
                    tokens.iter().map(|token| f64::from(token.logprob)).sum()
                };
                score.logprob += sum(&tokens);
                score.tokens += tokens.len();
            }
            Event::Finished(completion) if score.tokens == expected => {
                return Ok((score, completion.cached_tokens));
            }
            Event::Finished(_) => {
                let counts = format!("{} of {expected} tokens", score.tokens);
                return Err(ApiError::internal(format!("a label was scored in {counts}")));
            }
            Event::Failed(error) => return Err(ApiError::of_engine(&error)),
            Event::Prefill { .. } | Event::Token(_) => {}
        }
    }
    Err(ApiError::engine_gone())
}

/// Probabilities of the labels by their mean log-probabilities.
fn softmax(scores: &[Score], temperature: f64) -> Vec<f64> {
    let most = scores.iter().map(|score| score.mean()).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> =
        scores.iter().map(|score| ((score.mean() - most) / temperature).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small_models::{self, TestServer};

    fn request(text: &str, labels: &[&str]) -> ClassifyRequest {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        ClassifyRequest { text: text.into(), labels, instructions: None, temperature: None }
    }

    #[test]
    fn labels_are_scored_by_the_mean_of_their_tokens() {
        let score = |logprob: f64, tokens| Score { logprob, tokens };
        // Two tokens of ln 0.5 are as probable as one.
        let even = softmax(&[score(2.0 * 0.5_f64.ln(), 2), score(0.5_f64.ln(), 1)], 1.0);
        assert_eq!(even, [0.5, 0.5]);
        let p = softmax(&[score(0.6_f64.ln(), 1), score(0.2_f64.ln(), 1)], 1.0);
        assert!((p[0] - 0.75).abs() < 1e-12, "{p:?}");
        // Half the temperature squares what is exponentiated.
        let p = softmax(&[score(0.6_f64.ln(), 1), score(0.2_f64.ln(), 1)], 0.5);
        assert!((p[0] - 0.9).abs() < 1e-12, "{p:?}");
        // What is as good as impossible is no NaN.
        assert_eq!(softmax(&[score(-1e9, 1), score(-2e9, 1)], 1.0), [1.0, 0.0]);
    }

    #[test]
    fn a_token_that_a_label_shares_with_the_prompt_counts_for_all() {
        let labels = vec![vec![1, 2, 3, 9], vec![1, 2, 8, 9]];
        assert_eq!(aligned(&[1, 2, 3], labels.clone()).from, 2);
        assert_eq!(aligned(&[1, 2], labels).from, 2);
        assert_eq!(aligned(&[7], vec![vec![5], vec![6]]).from, 1);
    }

    #[test]
    fn what_cannot_be_classified_is_named() {
        let check = |request: ClassifyRequest, param: &str| {
            let error = request.check().unwrap_err();
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)));
        };
        check(request("", &["a", "b"]), "text");
        check(request("x", &["a"]), "labels");
        check(request("x", &["a"; 65]), "labels");
        check(request("x", &["a", ""]), "labels[1]");
        check(request("x", &["a", "b "]), "labels[1]");
        check(request("x", &["a", "b", "a"]), "labels[2]");
        check(
            ClassifyRequest { temperature: Some(0.0), ..request("x", &["a", "b"]) },
            "temperature",
        );
    }

    /// Sums over the label's tokens, computed by one sequence alone, without cache and engine.
    fn computed_directly(prompts: &Prompts) -> Vec<f64> {
        let checkpoint = model::Checkpoint::open(&small_models::demo()).unwrap();
        let mut runner = small_models::load(&checkpoint, 2048);
        let mut sum = |tokens: &Vec<u32>| -> f64 {
            let score = engine::score(&mut *runner, tokens, usize::MAX, |_| {
                Ok::<(), engine::EngineError>(())
            });
            // The first token has no probability.
            score.unwrap().logprobs[prompts.from - 1..].iter().map(|&l| f64::from(l)).sum()
        };
        prompts.labels.iter().map(&mut sum).collect()
    }

    #[tokio::test]
    async fn the_engine_scores_labels_as_they_are_scored_alone() {
        let server = TestServer::demo();
        let labels = ["invoice", "credit_note", "bank statement", "\u{e9}t\u{e9}"];
        let text = "Invoice 12 of 3 May 2026\nTotal 1,200.00 EUR";
        let body = json!({ "text": text, "labels": labels });
        let (status, answer) = server.json("/classify", &body).await;
        assert_eq!(status, 200, "{answer}");
        let prompts = request(text, &labels).encode(server.app.served().unwrap()).unwrap();
        let direct = computed_directly(&prompts);
        let scores = &answer["metadata"]["scores"];
        let mut means = Vec::new();
        for ((label, direct), tokens) in labels.iter().zip(direct).zip(&prompts.labels) {
            let logprob = scores[label]["logprob"].as_f64().unwrap();
            assert!((logprob - direct).abs() < 1e-3, "{label}: {logprob} {direct}");
            let count = tokens.len() - prompts.from;
            assert_eq!(scores[label]["tokens"], count);
            means.push(direct / count as f64);
        }
        let sum: f64 = means.iter().map(|mean| mean.exp()).sum();
        let probability = |label: &str| answer["probabilities"][label].as_f64().unwrap();
        for (label, mean) in labels.iter().zip(&means) {
            assert!((probability(label) - mean.exp() / sum).abs() < 1e-3, "{answer}");
        }
        let all: f64 = labels.iter().map(|label| probability(label)).sum();
        assert!((all - 1.0).abs() < 1e-12, "{all}");
        let best = labels.iter().max_by(|a, b| probability(a).total_cmp(&probability(b)));
        assert_eq!(answer["label"], *best.unwrap());
    }

    #[tokio::test]
    async fn many_labels_share_their_prompt() {
        let server = TestServer::demo();
        let labels: Vec<String> = (0..64).map(|i| format!("label {i}")).collect();
        let body = json!({ "text": "words ".repeat(100), "labels": labels, "temperature": 0.5 });
        let (status, answer) = server.json("/classify", &body).await;
        assert_eq!(status, 200, "{answer}");
        let figure = |name: &str| answer["metadata"][name].as_u64().unwrap();
        let (all, cached) = (figure("prompt_tokens"), figure("cached_tokens"));
        assert!(cached * 10 > all * 7, "{cached} of {all} tokens were cached");
        assert_eq!(server.app.served().unwrap().engine.stats().used_blocks, 0);
    }

    #[tokio::test]
    async fn a_text_that_does_not_fit_is_not_cut() {
        let server = TestServer::demo();
        let body = json!({ "text": "words ".repeat(2000), "labels": ["a", "b"] });
        let (status, answer) = server.json("/classify", &body).await;
        assert_eq!((status.as_u16(), &answer["error"]["param"]), (400, &json!("text")));
        assert_eq!(answer["error"]["code"], "context_length_exceeded");
    }

    /// What stands between question and answer is the template's, and belongs to no label.
    #[test]
    fn an_answer_begins_where_the_template_lets_it_begin() {
        let turn = "<|im_start|>assistant\n";
        for (model, end) in [("mixtral-bf16", "[/INST] "), ("qwen3-bf16", turn)] {
            let checkpoint = model::Checkpoint::open(&small_models::random(model)).unwrap();
            let template = ChatTemplate::load(checkpoint.files()).unwrap();
            let head = request("A text", &["yes", "no"]).head(template.as_ref()).unwrap();
            assert!(head.ends_with(end), "{head:?}");
        }
        let head = request("A text", &["yes", "no"]).head(None).unwrap();
        assert!(head.ends_with("A text\n\nLabel: "), "{head:?}");
    }

    /// Qwen3's own template writes an empty thought before the last answer, as the model would when it does not think.
    #[test]
    fn an_empty_thought_before_the_answer_is_the_templates() {
        let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n\
                      {% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}\
                      {{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let template = ChatTemplate::parse(&[("default", source)], Map::new()).unwrap();
        let head = request("A text", &["yes", "no"]).head(Some(&template)).unwrap();
        assert!(head.ends_with("<|im_start|>assistant\n<think>\n\n</think>\n\n"), "{head:?}");
    }

    #[tokio::test]
    async fn the_tokens_that_count_are_the_labels() {
        let server = TestServer::random("mixtral-bf16", crate::Stages::load(None).unwrap());
        let served = server.app.served().unwrap();
        let labels = ["yes", "no", "\u{e9}t\u{e9}"];
        let prompts = request("A text", &labels).encode(served).unwrap();
        for (tokens, label) in prompts.labels.iter().zip(labels) {
            let text = served.tokenizer.decode(&tokens[prompts.from..], false).unwrap();
            assert_eq!(text.trim(), label);
        }
    }
}
