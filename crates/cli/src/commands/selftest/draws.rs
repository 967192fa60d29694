//! What a device draws from its own logits, compared with what should be drawn from them.
//!
//! Chance is given with every draw, so there is one right token for it: comparing that says more than frequencies would.

use anyhow::{Result, ensure};
use backend::{Batch, Draw, Drawn, Draws, KV_BLOCK_SIZE, SequenceSpan, mask_words, reference};
use engine::ModelRunner;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::compare::Distance;

/// A device rounds weights to 2^-39 of the largest and takes their exponentials in f32, off by 3e-6 where they are small
/// (28 of temperature below the largest, where 2^-23 of the exponent counts); so no sum is off by more, and neither is the
/// place where a token begins or ends. Log-probabilities are off by roundings of numbers up to 16. Three times that.
pub(super) const BOUND: f64 = 1e-5;

/// How the rows of a step are drawn: each takes one of each list, at random.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) name: &'static str,
    temperatures: &'static [f32],
    top_k: &'static [u32],
    top_p: &'static [f32],
    min_p: &'static [f32],
    masks: bool,
}

const GREEDY: Manner = Manner {
    name: "greedy",
    temperatures: &[0.0],
    top_k: &[0],
    top_p: &[1.0],
    min_p: &[0.0],
    masks: false,
};
const WARM: Manner = Manner { temperatures: &[0.05, 0.7, 2.0], ..GREEDY };

pub(super) const MANNERS: &[Manner] = &[
    GREEDY,
    Manner { name: "greedy under masks", masks: true, ..GREEDY },
    Manner { name: "at random", ..WARM },
    Manner { name: "at random under masks", masks: true, ..WARM },
    Manner { name: "top_k", top_k: &[1, 2, 40, 2000], ..WARM },
    Manner { name: "top_k under masks", top_k: &[1, 2, 40, 2000], masks: true, ..WARM },
    Manner { name: "top_p under masks", top_p: &[0.1, 0.5, 0.95], masks: true, ..WARM },
    Manner { name: "min_p under masks", min_p: &[0.5, 0.05, 0.001], masks: true, ..WARM },
    Manner {
        name: "everything at once",
        temperatures: &[0.0, 0.05, 0.7, 2.0],
        top_k: &[0, 5, 100],
        top_p: &[1.0, 0.9, 0.3],
        min_p: &[0.0, 0.05],
        masks: true,
    },
];

/// Steps as (sequences, rows of each): launched, recorded, repeated; more than one block can have; not recorded.
const STEPS: [(usize, usize); 6] = [(1, 1), (8, 1), (8, 1), (8, 1), (9, 1), (1, 600)];

/// Draws on a device, again and again.
pub(super) struct Drawing {
    device: Box<dyn ModelRunner>,
    rng: ChaCha8Rng,
    drawn: Vec<Drawn>,
    logits: Vec<f32>,
}

impl Drawing {
    pub(super) fn new(device: Box<dyn ModelRunner>) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(1);
        Drawing { device, rng, drawn: Vec::new(), logits: Vec::new() }
    }

    /// The worst draw of all steps: how far chance lies from where the token is drawn, or how far its log-probability is
    /// off. What is wrong by itself, as a token that a mask forbids, is infinitely far away.
    ///
    /// # Errors
    /// Where the device fails.
    pub(super) fn run(&mut self, manner: &Manner) -> Result<Distance> {
        let mut worst = 0.0_f64;
        for (sequences, len) in STEPS {
            let draws = self.draws(manner, sequences * len);
            let kept: Vec<u32> = (0..draws.draws.len() as u32).collect();
            self.step(sequences, len, &kept, &draws)?;
            let vocab_size = self.device.config().vocab_size;
            ensure!(self.logits.len() == kept.len() * vocab_size, "logits are missing");
            ensure!(self.drawn.len() == draws.draws.len(), "tokens are missing");
            let rows = self.logits.chunks_exact(vocab_size);
            for ((row, how), drawn) in rows.zip(&draws.draws).zip(&self.drawn) {
                worst = worst.max(deviation(row, how, &draws.masks, drawn));
            }
        }
        Ok(Distance { whole: worst, row: worst })
    }

    /// Whether rows that are kept, or asked for afterwards, have the logits that the same step gives when it draws nothing.
    ///
    /// # Errors
    /// Where the device fails.
    pub(super) fn keep(&mut self) -> Result<Distance> {
        let mut worst = Distance { whole: 0.0, row: 0.0 };
        for (sequences, len) in STEPS {
            let draws = self.draws(&MANNERS[MANNERS.len() - 1], sequences * len);
            let rows = draws.draws.len() as u32;
            let kept: Vec<u32> = (0..rows).filter(|row| row % 5 < 2 || row + 1 == rows).collect();
            let before = self.rng.clone();
            self.step(sequences, len, &kept, &draws)?;
            // What is asked for afterwards: as often rows that were kept as not.
            let asked: Vec<u32> = (0..rows).filter(|row| row % 3 == 0).collect();
            let mut later = Vec::new();
            self.device.last_logits(&asked, &mut later)?;
            self.rng = before;
            let mut all = Vec::new();
            self.on_batch(sequences, len, |device, batch, rows| {
                Ok(device.step(batch, rows, &mut all)?)
            })?;
            let vocab_size = self.device.config().vocab_size;
            let of_all = |rows: &[u32]| {
                let row = |&row: &u32| &all[row as usize * vocab_size..][..vocab_size];
                rows.iter().map(row).collect::<Vec<_>>().concat()
            };
            worst = worst.max(Distance::of(&self.logits, &of_all(&kept), vocab_size));
            worst = worst.max(Distance::of(&later, &of_all(&asked), vocab_size));
        }
        Ok(worst)
    }

    fn step(&mut self, sequences: usize, len: usize, kept: &[u32], draws: &Draws) -> Result<()> {
        let (mut drawn, mut logits) = (Vec::new(), Vec::new());
        let mut calls = 0;
        let mut choose = |to: &mut Draws| {
            calls += 1;
            to.clone_from(draws);
        };
        self.on_batch(sequences, len, |device, batch, rows| {
            Ok(device.step_and_draw(batch, rows, kept, &mut choose, &mut drawn, &mut logits)?)
        })?;
        ensure!(calls == 1, "the device asked {calls} times how to draw");
        (self.drawn, self.logits) = (drawn, logits);
        Ok(())
    }

    /// Random tokens at the beginning of sequences, and all their rows.
    fn on_batch(
        &mut self,
        sequences: usize,
        len: usize,
        step: impl FnOnce(&mut dyn ModelRunner, &Batch<'_>, &[u32]) -> Result<()>,
    ) -> Result<()> {
        let vocab_size = self.device.config().vocab_size as u32;
        let blocks = len.div_ceil(KV_BLOCK_SIZE) as u32;
        let tables: Vec<Vec<u32>> = (0..sequences as u32)
            .map(|sequence| (sequence * blocks..(sequence + 1) * blocks).collect())
            .collect();
        let spans: Vec<SequenceSpan<'_>> = tables
            .iter()
            .enumerate()
            .map(|(i, table)| SequenceSpan { start: i * len, len, block_table: table })
            .collect();
        let positions: Vec<u32> = (0..sequences).flat_map(|_| 0..len as u32).collect();
        let tokens: Vec<u32> = positions.iter().map(|_| self.rng.next_u32() % vocab_size).collect();
        let rows: Vec<u32> = (0..positions.len() as u32).collect();
        let batch = Batch { tokens: &tokens, positions: &positions, sequences: &spans };
        step(&mut *self.device, &batch, &rows)
    }

    fn draws(&mut self, manner: &Manner, rows: usize) -> Draws {
        let vocab_size = self.device.config().vocab_size;
        let rng = &mut self.rng;
        // Every second row shares its mask with another.
        let count = if manner.masks { rows.div_ceil(2) } else { 0 };
        let masks = (0..count).flat_map(|kind| mask(kind, vocab_size, rng)).collect();
        let draws = (0..rows).map(|_| Draw {
            // 53 random bits: uniform in [0, 1).
            uniform: (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64,
            temperature: pick(manner.temperatures, rng),
            top_k: pick(manner.top_k, rng),
            top_p: pick(manner.top_p, rng),
            min_p: pick(manner.min_p, rng),
            // One row in four has none.
            mask: (count > 0 && pick(&[true, true, true, false], rng))
                .then(|| rng.next_u32() % count as u32),
        });
        Draws { draws: draws.collect(), masks }
    }
}

fn pick<T: Copy>(list: &[T], rng: &mut ChaCha8Rng) -> T {
    list[rng.next_u32() as usize % list.len()]
}

/// By turns half of the tokens, one in 64, one, all, none; bits beyond the vocabulary as they come.
fn mask(kind: usize, vocab_size: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let words = mask_words(vocab_size);
    let mut random = |and: usize| (0..and).fold(u32::MAX, |bits, _| bits & rng.next_u32());
    match kind % 5 {
        0 => (0..words).map(|_| random(1)).collect(),
        1 => (0..words).map(|_| random(6)).collect(),
        2 => {
            let token = random(1) as usize % vocab_size;
            let bit = |word| if word == token / 32 { 1 << (token % 32) } else { 0 };
            (0..words).map(bit).collect()
        }
        3 => vec![u32::MAX; words],
        _ => {
            let mut bits = vec![0; words];
            if !vocab_size.is_multiple_of(32) {
                bits[words - 1] = u32::MAX << (vocab_size % 32);
            }
            bits
        }
    }
}

/// How far a draw is from the one it should be.
fn deviation(logits: &[f32], how: &Draw, masks: &[u32], drawn: &Drawn) -> f64 {
    let possible = !reference::distribution(logits, how, masks).is_empty();
    if !drawn.is_finite || drawn.allowed != possible || drawn.token as usize >= logits.len() {
        return f64::INFINITY;
    }
    if !drawn.allowed {
        let as_agreed = drawn.token == 0 && drawn.logprob == f32::NEG_INFINITY;
        return if as_agreed { 0.0 } else { f64::INFINITY };
    }
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let logprob = f64::from(logits[drawn.token as usize]) - f64::from(max) - sum.ln();
    let off = (f64::from(drawn.logprob) - logprob).abs();
    off.max(reference::draw_distance(logits, how, masks, drawn.token))
}

#[cfg(test)]
mod tests {
    use backend::{BackendError, StepLimits};
    use model::Config;

    use super::super::{cases, on_cpu, weights};
    use super::*;

    /// A device that does as it is told after a change to the draws, and then changes what comes out.
    struct Damaged {
        device: Box<dyn ModelRunner>,
        draws: fn(&mut Draws),
        results: fn(&mut Vec<Drawn>, &mut Vec<f32>),
    }

    impl ModelRunner for Damaged {
        fn config(&self) -> &Config {
            self.device.config()
        }

        fn context(&self) -> usize {
            self.device.context()
        }

        fn limits(&self) -> StepLimits {
            self.device.limits()
        }

        fn step(
            &mut self,
            batch: &Batch<'_>,
            rows: &[u32],
            logits: &mut Vec<f32>,
        ) -> Result<(), BackendError> {
            self.device.step(batch, rows, logits)
        }

        fn step_and_draw(
            &mut self,
            batch: &Batch<'_>,
            rows: &[u32],
            kept: &[u32],
            choose: &mut (dyn FnMut(&mut Draws) + Send),
            drawn: &mut Vec<Drawn>,
            logits: &mut Vec<f32>,
        ) -> Result<(), BackendError> {
            let damage = self.draws;
            let mut choose = |draws: &mut Draws| {
                choose(draws);
                damage(draws);
            };
            self.device.step_and_draw(batch, rows, kept, &mut choose, drawn, logits)?;
            (self.results)(drawn, logits);
            Ok(())
        }

        fn last_logits(
            &mut self,
            which: &[u32],
            logits: &mut Vec<f32>,
        ) -> Result<(), BackendError> {
            self.device.last_logits(which, logits)
        }
    }

    fn drawing(draws: fn(&mut Draws), results: fn(&mut Vec<Drawn>, &mut Vec<f32>)) -> Drawing {
        let case = &cases::draws().unwrap()[0];
        let weights = weights::make(&case.config, case.recipe, 1).unwrap();
        let device = Box::new(on_cpu(case.job(weights), 2).unwrap());
        Drawing::new(Box::new(Damaged { device, draws, results }))
    }

    fn manner(name: &str) -> &'static Manner {
        MANNERS.iter().find(|manner| manner.name == name).unwrap()
    }

    #[test]
    fn the_cpu_draws_what_it_should() {
        let mut drawing = drawing(|_| {}, |_, _| {});
        for manner in MANNERS {
            let distance = drawing.run(manner).unwrap();
            assert!(distance.holds(BOUND), "{}: {distance:?}", manner.name);
        }
        assert!(drawing.keep().unwrap().holds(0.0));
    }

    /// Each by itself: what a kernel could get wrong.
    #[test]
    fn wrong_draws_are_noticed() {
        let check = |name: &str, damage: fn(&mut Draws)| {
            let distance = drawing(damage, |_, _| {}).run(manner(name)).unwrap();
            assert!(!distance.holds(BOUND), "{name}: {distance:?}");
        };
        check("greedy under masks", |all| all.draws.iter_mut().for_each(|how| how.mask = None));
        check("greedy under masks", |all| all.masks.iter_mut().for_each(|word| *word &= !0xff));
        check("at random under masks", |all| all.masks.rotate_left(1));
        check("at random", |all| all.draws.rotate_left(1));
        check("at random", |all| all.draws.iter_mut().for_each(|how| how.temperature *= 1.01));
        check("top_k", |all| all.draws.iter_mut().for_each(|how| how.top_k += 1));
        check("top_p under masks", |all| all.draws.iter_mut().for_each(|how| how.top_p *= 0.99));
        check("min_p under masks", |all| all.draws.iter_mut().for_each(|how| how.min_p *= 1.1));
    }

    #[test]
    fn wrong_results_are_noticed() {
        let check = |damage: fn(&mut Vec<Drawn>, &mut Vec<f32>)| {
            let distance = drawing(|_| {}, damage).run(manner("everything at once")).unwrap();
            assert!(!distance.holds(BOUND), "{distance:?}");
        };
        check(|drawn, _| drawn[0].logprob += 1e-4);
        check(|drawn, _| drawn[0].allowed ^= true);
        check(|drawn, _| drawn[0].is_finite = false);
        check(|drawn, _| drawn[0].token ^= 1);
        let mut kept = drawing(|_| {}, |_, logits| logits.rotate_left(1));
        assert!(!kept.keep().unwrap().holds(0.0));
    }
}
