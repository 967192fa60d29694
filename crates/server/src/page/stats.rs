//! `GET /stats`: what the engine does at the moment, for the page's gauges.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::{Extension, Json};
use engine::Stats;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::app::MemoryPlan;
use crate::health::Phase;

/// Rates are over the last so many seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// Samples that lie closer than this are not worth keeping.
const APART: Duration = Duration::from_millis(200);

/// What the engine held at some times, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples {
    samples: VecDeque<(Instant, Stats)>,
}

/// The samples, shared by all who ask.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Samples>>);

/// Gives `stats` its memory.
pub(super) fn layer() -> Extension<Shared> {
    Extension(Shared::default())
}

/// The server at the moment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatsResponse {
    /// Whether it answers.
    state: Phase,
    /// The build of the server.
    build: String,
    /// The model, once it is loaded.
    model: Option<ModelStats>,
    /// What the engine holds, once there is one.
    engine: Option<EngineStats>,
    /// What follows from it.
    rates: Option<Rates>,
}

/// The model that is served.
#[derive(Debug, Serialize, ToSchema)]
struct ModelStats {
    /// Its name.
    name: String,
    /// The device in words.
    device: String,
    /// Most tokens of a request, prompt and answer together.
    context: usize,
    /// What lies in memory.
    plan: MemoryPlan,
}

/// What the engine holds.
#[derive(Debug, Serialize, ToSchema)]
struct EngineStats {
    /// Requests that have not begun.
    waiting: usize,
    /// Requests that share steps.
    running: usize,
    /// Blocks of keys and values in use by requests.
    used_blocks: usize,
    /// Blocks that hold finished requests' tokens and can be taken at any time.
    cached_blocks: usize,
    /// All blocks.
    total_blocks: usize,
    /// Prompt tokens since the start.
    prompt_tokens: u64,
    /// Those of them that were found in the cache.
    cached_tokens: u64,
    /// Tokens generated since the start.
    generated_tokens: u64,
    /// How often a request lost its blocks and was computed again.
    preemptions: u64,
}

/// Rates over the last five seconds, or since somebody asked first. `null` where nothing can be said yet.
#[derive(Debug, Serialize, ToSchema, PartialEq, Clone, Copy)]
struct Rates {
    /// Seconds that the rates are over.
    seconds: f64,
    /// Tokens generated in a second, over all requests.
    generated_tokens_per_second: Option<f64>,
    /// Prompt tokens taken in a second.
    prompt_tokens_per_second: Option<f64>,
    /// Share of the prompt tokens since the start that were found in the cache.
    prefix_hit_share: Option<f64>,
    /// Share of the blocks that requests use.
    kv_use: f64,
}

/// What the engine does at the moment, with rates over the last seconds.
#[utoipa::path(
    get,
    path = "/stats",
    tag = "operations",
    responses((status = 200, body = StatsResponse, description = "The server at the moment"))
)]
pub(super) async fn stats(
    State(app): State<App>,
    Extension(shared): Extension<Shared>,
) -> Json<StatsResponse> {
    let served = app.loaded();
    let now = served.map(|served| served.engine.stats());
    let rates = now.map(|now| {
        let mut samples = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.rates(Instant::now(), now)
    });
    Json(StatsResponse {
        state: app.health().phase(),
        build: app.build().to_owned(),
        model: served.map(|served| ModelStats {
            name: served.name.clone(),
            device: served.device.clone(),
            context: served.context,
            plan: served.plan,
        }),
        engine: now.map(EngineStats::from),
        rates,
    })
}

impl From<Stats> for EngineStats {
    fn from(stats: Stats) -> Self {
        EngineStats {
            waiting: stats.waiting,
            running: stats.running,
            used_blocks: stats.used_blocks,
            cached_blocks: stats.cached_blocks,
            total_blocks: stats.total_blocks,
            prompt_tokens: stats.prompt_tokens,
            cached_tokens: stats.cached_tokens,
            generated_tokens: stats.generated_tokens,
            preemptions: stats.preemptions,
        }
    }
}

impl Samples {
    /// Rates since the oldest sample within the window, and takes the new one. Bounded: samples lie apart.
    fn rates(&mut self, at: Instant, now: Stats) -> Rates {
        // One that is a little older than the window stays: rates need a beginning.
        while self.samples.get(1).is_some_and(|(then, _)| at.duration_since(*then) >= WINDOW) {
            self.samples.pop_front();
        }
        // After a pause the last sample says nothing about the present.
        if self.samples.front().is_some_and(|(then, _)| at.duration_since(*then) > 2 * WINDOW) {
            self.samples.clear();
        }
        let first = self.samples.front().copied();
        if self.samples.back().is_none_or(|(last, _)| at.duration_since(*last) >= APART) {
            self.samples.push_back((at, now));
        }
        let seconds = first.map_or(0.0, |(then, _)| at.duration_since(then).as_secs_f64());
        let per_second = |count: fn(&Stats) -> u64| {
            let (_, then) = first.filter(|_| seconds > 0.0)?;
            Some(count(&now).saturating_sub(count(&then)) as f64 / seconds)
        };
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        Rates {
            seconds,
            generated_tokens_per_second: per_second(|stats| stats.generated_tokens),
            prompt_tokens_per_second: per_second(|stats| stats.prompt_tokens),
            prefix_hit_share: share(now.cached_tokens as f64, now.prompt_tokens as f64),
            kv_use: share(now.used_blocks as f64, now.total_blocks as f64).unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(generated_tokens: u64) -> Stats {
        Stats { generated_tokens, prompt_tokens: 40, cached_tokens: 10, ..Stats::default() }
    }

    #[test]
    fn rates_are_over_the_last_seconds() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut samples = Samples::default();
        let rates = samples.rates(at(0), after(100));
        assert_eq!((rates.generated_tokens_per_second, rates.seconds), (None, 0.0));
        assert_eq!(rates.prefix_hit_share, Some(0.25));
        assert_eq!(samples.rates(at(1), after(150)).generated_tokens_per_second, Some(50.0));
        for second in 2..=20 {
            samples.rates(at(second), after(150));
        }
        assert!(samples.samples.len() <= 7, "{}", samples.samples.len());
        assert_eq!(samples.rates(at(21), after(200)).generated_tokens_per_second, Some(10.0));
        // Nobody asked for a minute.
        assert_eq!(samples.rates(at(81), after(900)).generated_tokens_per_second, None);
        assert_eq!(samples.rates(at(82), after(901)).generated_tokens_per_second, Some(1.0));
    }

    #[test]
    fn asking_often_keeps_no_more() {
        let start = Instant::now();
        let mut samples = Samples::default();
        for i in 0..1000 {
            samples.rates(start + Duration::from_millis(i), after(i));
        }
        assert!(samples.samples.len() <= 6);
    }
}
