//! The cases on the CPU against the CPU: itself, and itself gone wrong.

use backend::Weight;
use model::{LinearWeights, Mlp};

use super::greedy::Choice;
use super::weights::Part;
use super::*;

/// Runs a case on the CPU, with these weights in the place of the device's.
fn distances(case: &Case, weights: ModelWeights) -> Vec<Distance> {
    let reference = weights::make(&case.config, case.recipe, 1).unwrap();
    let [device, reference] = [weights, reference].map(|w| on_cpu(case.job(w), 2).unwrap());
    let mut comparison = Comparison::new(case, Box::new(device), Box::new(reference));
    case.classes.iter().map(|class| comparison.run(class).unwrap()).collect()
}

fn find(name: &str) -> Case {
    cases::all().unwrap().into_iter().find(|case| case.name == name).unwrap()
}

/// Gives sixteen rows of a matrix other signs, as if a tile of it had been read from elsewhere.
fn damage(linear: &mut LinearWeights) {
    let (Weight::Packed(quant::PackedTensor { shape, packed: bytes, .. })
    | Weight::Dense { shape, bytes, .. }) = &mut linear.weight;
    let rows = 16 * bytes.len() / shape[0];
    let mut damaged = bytes.to_vec();
    damaged[..rows].iter_mut().for_each(|byte| *byte ^= 0x88);
    *bytes = damaged.into();
}

fn check_damage(name: &str) {
    let case = find(name);
    let mut weights = weights::make(&case.config, case.recipe, 1).unwrap();
    let layer = &mut weights.layers[0];
    match (case.recipe.part, &mut layer.mlp) {
        (Part::Head, _) => {
            let weight = weights.lm_head.take().unwrap();
            let mut head = LinearWeights { weight, bias: None };
            damage(&mut head);
            weights.lm_head = Some(head.weight);
        }
        (Part::FeedForward, Mlp::Dense(mlp)) => damage(&mut mlp.up_proj),
        (Part::FeedForward, Mlp::Moe { experts, .. }) => {
            experts.iter_mut().for_each(|expert| damage(&mut expert.down_proj));
        }
        (Part::Attention | Part::All, _) => damage(&mut layer.k_proj),
    }
    for (class, distance) in case.classes.iter().zip(distances(&case, weights)) {
        // The first token of a sequence has but one key to look at, whatever that is.
        let alone = class.steps.iter().all(|step| step.len() == 1 && step[0] == (0, 1));
        assert!(!distance.holds(case.bound) || alone, "{name}: {}: {distance:?}", class.name);
    }
}

#[test]
fn cases_have_names_of_their_own_and_bounds_that_mean_something() {
    let cases = cases::all().unwrap();
    for (index, case) in cases.iter().enumerate() {
        assert!(cases[..index].iter().all(|other| other.name != case.name), "{}", case.name);
        assert!(case.bound <= if case.fp8_kv { 5e-2 } else { 1e-2 }, "{}", case.name);
    }
}

#[test]
fn a_device_agrees_with_itself() {
    let case = find("experts 72 wide, 3 of 5");
    let weights = weights::make(&case.config, case.recipe, 1).unwrap();
    let distances = distances(&case, weights);
    assert!(distances.iter().all(|d| *d == Distance { whole: 0.0, row: 0.0 }), "{distances:?}");
}

#[test]
fn sixteen_wrong_rows_of_a_matrix_are_noticed() {
    for name in [
        "lm_head nf4",
        "dense feed-forward fp4 nested",
        "dense feed-forward 72 wide",
        "experts nf4 nested",
        "attention 24, window of 50, 72 wide",
        "attention 24, fp8",
    ] {
        check_damage(name);
    }
}

#[test]
fn one_wrong_logit_is_noticed() {
    let reference = vec![1.0; 600 * 500];
    let mut logits = reference.clone();
    assert!(Distance::of(&logits, &reference, 500).holds(1e-9));
    logits[12_345] = -1.0;
    assert!(!Distance::of(&logits, &reference, 500).holds(1e-2));
    logits[12_345] = f32::NAN;
    assert!(!Distance::of(&logits, &reference, 500).holds(1e9));
    assert!(!Distance::of(&[], &reference, 500).holds(1e9));
}

/// A router on an exact input is off by 1e-6 at most: no token's choice of experts may hang on that.
#[test]
fn routes_are_no_ties() {
    for case in cases::all().unwrap() {
        let Some(moe) = &case.config.moe else { continue };
        let (hidden, choices) = (case.config.hidden_size, moe.num_experts_per_tok);
        if case.recipe.part != Part::FeedForward || choices == moe.num_experts {
            continue;
        }
        let weights = weights::make(&case.config, case.recipe, 1).unwrap();
        let layer = &weights.layers[0];
        let Mlp::Moe { gate, .. } = &layer.mlp else { panic!("no mixture") };
        let (gate, norm) = (gate.to_f32(), layer.post_attention_layernorm.to_f32());
        for row in weights.embed_tokens.to_f32().chunks_exact(hidden) {
            let rms = (row.iter().map(|x| x * x).sum::<f32>() / hidden as f32).sqrt();
            let score = |router: &[f32]| {
                let terms = row.iter().zip(router).zip(&norm);
                terms.map(|((x, w), norm)| x / rms * norm * w).sum::<f32>()
            };
            let mut scores: Vec<f32> = gate.chunks_exact(hidden).map(score).collect();
            scores.sort_by(|a, b| b.total_cmp(a));
            let gap = scores[choices - 1] - scores[choices];
            assert!(gap > 2e-6, "{}: {gap}", case.name);
        }
    }
}

#[test]
fn texts_may_part_where_tokens_tie() {
    let choices = |logits: [[f32; 4]; 3]| logits.map(|logits| Choice::of(&logits));
    let reference = choices([[9.0, 1.0, 0.0, 0.0], [4.0, 3.99, 0.0, 0.0], [9.0, 1.0, 0.0, 0.0]]);
    assert_eq!(Parting::find(0, &reference, &reference), None);
    let other = choices([[9.0, 1.0, 0.0, 0.0], [3.99, 4.0, 0.0, 0.0], [1.0, 9.0, 0.0, 0.0]]);
    let parting = Parting::find(0, &other, &reference).unwrap();
    assert_eq!((parting.step, parting.is_a_tie()), (1, true));
    let wrong = choices([[1.0, 9.0, 0.0, 0.0], [3.99, 4.0, 0.0, 0.0], [1.0, 9.0, 0.0, 0.0]]);
    let parting = Parting::find(0, &wrong, &reference).unwrap();
    assert_eq!((parting.step, parting.is_a_tie()), (0, false));
}
