//! The plan beside what the engine allocates.

use super::*;
use crate::gpu::{self, DRIVER_BYTES};
use crate::pool::{self, CardMemory, PoolArgs};
use headers::{MIXTRAL, Shard};
use std::path::Path;

#[path = "../../../tests/support/headers.rs"]
mod headers;

fn fixtures() -> Vec<Checkpoint> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let directories = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    directories.filter(|path| path.is_dir()).map(|path| Checkpoint::open(&path).unwrap()).collect()
}

/// Mixtral 8x7B, of which nothing but headers exists.
fn mixtral() -> Checkpoint {
    let headers = headers::mixtral().into_iter().enumerate();
    let headers: Vec<_> =
        headers.map(|(index, header)| (format!("{index}.safetensors"), header)).collect();
    let files = [
        ("config.json".to_owned(), MIXTRAL.into()),
        ("model.safetensors.index.json".to_owned(), headers::index(&headers).into()),
    ];
    let shards = headers.into_iter().map(|(name, header)| {
        let Shard { start, len } = header.shard();
        (name, start.into(), len)
    });
    Checkpoint::from_headers("mixtral", files, shards).unwrap()
}

fn ask(context: usize, concurrency: Option<u16>, fp8_kv: bool) -> Ask {
    Ask { context, is_typed: true, concurrency, fp8_kv }
}

/// The two ways to the weights, one that reads them and one that does not, lead to the same bytes on the device.
#[test]
fn headers_tell_what_loading_would_take() {
    let cases = fixtures();
    assert!(cases.len() >= 30, "{} fixtures", cases.len());
    for checkpoint in cases {
        for policy in [QuantizePolicy::keep(), QuantizePolicy::quantize(QuantConfig::default())] {
            let config = checkpoint.config();
            let loaded = ModelWeights::load(&checkpoint, &policy, |_| {}).unwrap();
            let outlined = ModelWeights::outline(&checkpoint, &policy).unwrap();
            let outlined = Footprint::of(config, &outlined).unwrap();
            for (context, concurrency, fp8_kv) in [(16, None, false), (48, Some(3), true)] {
                let ask = ask(context, concurrency, fp8_kv);
                let plan = ask.plan(&outlined, context, concurrency, fp8_kv).unwrap();
                let (tokens, limits) = match concurrency {
                    None => (context, gpu::limits(context, 1)),
                    Some(n) => (context * usize::from(n), PoolArgs::of(n).limits()),
                };
                let engine = gpu::plan(config, &loaded, tokens, limits, fp8_kv).unwrap();
                assert_eq!(plan, engine, "{}", checkpoint.files().root().display());
                assert_eq!(
                    engine.weights.total() + engine.keys_and_values + engine.workspace,
                    engine.total()
                );
            }
        }
    }
}

/// What `bench --shape mixtral-8x7b` allocates on a card, and what a checkpoint of that model would.
#[test]
fn headers_of_mixtral_are_planned_as_its_shape_is_allocated() {
    let checkpoint = mixtral();
    let outline = ModelWeights::outline(&checkpoint, &QuantizePolicy::keep()).unwrap();
    let planned = Footprint::of(checkpoint.config(), &outline).unwrap();
    let config = Shape::find("mixtral-8x7b").unwrap().config().unwrap();
    let weights = random_weights::outline(&config, LmHead::Bf16);
    for context in [16, 4096, 32_768] {
        let ask = ask(context, None, false);
        let plan = ask.plan(&planned, context, None, false).unwrap();
        let engine = gpu::plan(&config, &weights, context, gpu::limits(context, 1), false).unwrap();
        assert_eq!(plan, engine);
    }
    // LOG.md: weights 24.24, keys and values 0.54, workspace 0.37 GB were planned and allocated for 4,096 tokens.
    let plan = ask(4096, None, false).plan(&planned, 4096, None, false).unwrap();
    let near = |bytes: usize, gb: f64| (bytes as f64 / 1e9 - gb).abs() < 0.006;
    assert!(near(plan.weights.total(), 24.24) && near(plan.keys_and_values, 0.54), "{plan:?}");
    assert!(near(plan.workspace, 0.37) && near(plan.total(), 25.15), "{plan:?}");
}

/// `serve` on a card that has exactly what `plan` says it needs, and on one that has a byte less.
#[test]
fn serve_takes_what_was_planned() {
    let checkpoint = embedded::checkpoint().unwrap();
    let config = checkpoint.config();
    let loaded = ModelWeights::load(&checkpoint, &QuantizePolicy::keep(), |_| {}).unwrap();
    let outline = ModelWeights::outline(&checkpoint, &QuantizePolicy::keep()).unwrap();
    let (engine, planned) =
        (Footprint::of(config, &loaded).unwrap(), Footprint::of(config, &outline).unwrap());
    let mut args = PoolArgs::of(8);
    args.gpu_memory_utilization = 1.0;
    let plan = ask(1024, Some(8), false).plan(&planned, 1024, Some(8), false).unwrap();
    let serve = |free: u64| {
        let card = CardMemory { ordinal: 0, free, total: free + DRIVER_BYTES };
        pool::gpu_pool(config, &engine, Some(1024), &args, card, false)
    };
    let pool = serve(plan.total() as u64).unwrap();
    assert_eq!((pool.tokens, pool.context), (8 * 1024, 1024));
    assert_eq!(pool.plan.weights_bytes, plan.weights.total() as u64);
    assert_eq!(pool.plan.kv_bytes, plan.keys_and_values as u64);
    assert_eq!(pool.plan.workspace_bytes, plan.workspace as u64);
    // Fewer tokens, or none at all.
    assert!(serve(plan.total() as u64 - 1).map_or(true, |pool| pool.tokens < 8 * 1024));
}

/// The most is the most: one more does not fit.
#[test]
fn what_is_said_to_fit_fits_and_no_more() {
    let config = Shape::find("mixtral-8x7b").unwrap().config().unwrap();
    let footprint =
        Footprint::of(&config, &random_weights::outline(&config, LmHead::Bf16)).unwrap();
    for card in &CARDS {
        let budget = card.total_bytes - DRIVER_BYTES;
        for concurrency in [None, Some(4)] {
            let ask = Ask { context: 32_768, is_typed: false, concurrency, fp8_kv: false };
            let estimate = ask.estimate(&footprint, 32_768, card.total_bytes).unwrap();
            let total = |context, concurrency| {
                ask.plan(&footprint, context, concurrency, false).unwrap().total() as u64
            };
            let most = estimate.context_max;
            assert_eq!(estimate.fits, most > 0, "{}", card.name);
            assert!(most == 0 || total(most, concurrency) <= budget, "{}", card.name);
            assert!(most == 32_768 || total(most + 16, concurrency) > budget, "{}", card.name);
            let most = estimate.concurrency_max;
            assert!(most == 0 || total(32_768, Some(most)) <= budget, "{}", card.name);
            assert!(most == 1024 || total(32_768, Some(most + 1)) > budget, "{}", card.name);
            assert!(estimate.context_max_fp8 >= estimate.context_max);
        }
    }
}

#[test]
fn sizes_beyond_all_memory_are_refused() {
    let config = Shape::find("mixtral-8x7b").unwrap().config().unwrap();
    let footprint =
        Footprint::of(&config, &random_weights::outline(&config, LmHead::Bf16)).unwrap();
    let error = footprint.plan(1 << 50, gpu::limits(16, 1), false).unwrap_err().to_string();
    assert!(error.ends_with("exceed every memory"), "{error}");
    let huge = ask(32_768, Some(1024), false).estimate(&footprint, 32_768, u64::MAX).unwrap();
    assert!(huge.fits && huge.concurrency_max == 1024);
}
