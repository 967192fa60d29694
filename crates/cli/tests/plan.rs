//! `halfbyte plan` as a user runs it, on a machine without a GPU.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests too")]

mod support;

use expect_test::{Expect, expect};
use support::{halfbyte, model};

/// The whole output, and how it ended.
#[track_caller]
fn check(args: &[&str], expected: Expect) {
    expected.assert_eq(&halfbyte(&[&["plan"], args].concat()).text());
}

#[test]
fn mixtral_on_an_rtx_4090() {
    check(&["mixtral-8x7b", "--gpu", "RTX 4090"], expect![[""]]);
}

#[test]
fn mixtral_on_an_rtx_5090() {
    check(
        &["mixtral-8x7b", "--gpu", "NVIDIA GeForce RTX 5090", "--concurrency", "8"],
        expect![[""]],
    );
}

#[test]
fn mixtral_on_an_a40() {
    check(
        &["mixtral-8x7b", "--gpu", "A40", "--context", "12000", "--concurrency", "8"],
        expect![[""]],
    );
}

#[test]
fn mixtral_on_an_h200() {
    check(&["mixtral-8x7b", "--gpu", "H200", "--kv", "fp8"], expect![[""]]);
}

#[test]
fn mixtral_where_the_context_is_too_long() {
    check(&["mixtral-8x7b", "--vram", "24GiB", "--context", "32768"], expect![[""]]);
}

#[test]
fn mixtral_on_all_cards() {
    check(&["mixtral-8x7b"], expect![[""]]);
}

#[test]
fn a_checkpoint_in_16_bits_is_planned_as_it_is_and_quantized() {
    let run = halfbyte(&["plan", &model("mixtral-bf16"), "--gpu", "L4", "--json"]);
    let plan = run.json();
    let card = &plan["cards"][0];
    assert_eq!(plan["weights_form"], "not quantized");
    assert!(card["plan"]["weights"]["linear_16_bit"].as_u64().unwrap() > 0, "{card}");
    assert_eq!(card["plan"]["weights"]["codes"], 0);
    let quantized = card["quantized"]["weights"].as_u64().unwrap();
    assert!(quantized < card["plan"]["weights"]["total"].as_u64().unwrap());
    // The same, asked for at once.
    let asked =
        halfbyte(&["plan", &model("mixtral-bf16"), "--gpu", "L4", "--quantize", "nf4", "--json"]);
    let asked = asked.json();
    assert_eq!(asked["cards"][0]["plan"]["weights"]["total"], quantized);
    assert_eq!(asked["quantized_stored_bytes"], serde_json::Value::Null);
    assert!(
        plan["quantized_stored_bytes"].as_u64().unwrap() < plan["stored_bytes"].as_u64().unwrap()
    );
}

#[test]
fn every_figure_of_a_card_has_its_source() {
    let plan = halfbyte(&["plan", "demo", "--json"]).json();
    let cards = plan["cards"].as_array().unwrap();
    assert!(cards.len() >= 14);
    for card in cards {
        for field in ["card", "compute_capability", "total_source", "bandwidth_source"] {
            assert!(card[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {card}");
        }
        let plan = &card["plan"];
        let sum: u64 = ["keys_and_values", "workspace", "driver"]
            .iter()
            .map(|f| plan[*f].as_u64().unwrap())
            .sum();
        assert_eq!(plan["total"], sum + plan["weights"]["total"].as_u64().unwrap());
        assert_eq!(card["fits"], true);
    }
}

#[test]
fn mistakes() {
    check(&["mixtral-8x7b", "--gpu", "H100"], expect![[""]]);
    check(&["mixtral-8x7b", "--gpu", "RTX 9090"], expect![[""]]);
    check(&["mixtral-8x7b", "--context", "40000"], expect![[""]]);
    check(&["mixtral-8x7b", "--quantize", "nf4"], expect![[""]]);
    check(&["mixtral-9x7b"], expect![[""]]);
    check(&["acme/tiny"], expect![[""]]);
    check(&["demo", "--revision", "v2"], expect![[""]]);
}
