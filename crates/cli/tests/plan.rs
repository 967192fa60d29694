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
    check(
        &["mixtral-8x7b", "--gpu", "RTX 4090"],
        expect![[r#"
        exit 0
        --- stdout
        mixtral-8x7b (a shape): MixtralForCausalLM, 32 layers, made for 32768 tokens
        weights: NF4 with double quantization; 24.48 GB = 22.80 GiB stored
        planned: one sequence, as `prompt` has it; keys and values in bf16, 131072 bytes a token

        RTX 4090: compute capability 8.9, 24 GB as NVIDIA counts, 1008 GB/s
                                        GB       GiB
          4-bit codes               23.220    21.625
          their scales               0.754     0.703
          lm_head                    0.262     0.244
          router                     0.004     0.004
          norms, biases, tables      0.001     0.001
        weights                     24.241    22.577
        keys and values              0.191     0.178  1456 tokens
        workspace                    0.268     0.250
        driver                       0.650     0.605  measured on an H200, assumed here
        together                    25.351    23.610
        the card has                25.351    23.610
        left                         0.000     0.000
        (on the host, page-locked: embeddings, 262.1 MB)

        It fits on RTX 4090, with up to 1456 tokens.
        With --kv fp8: up to 1840 tokens.
        `serve` has room for no sequence of 32768 tokens.

        Decoding is bound by what a step reads: weights that all tokens share, 0.96 GB + 2.0 of 8 experts in each layer, 5.82 GB; keys and values.
          tokens/s <= 1 x 1008 GB/s / 6.78 GB = 149 at first, 145 where all have 1456 tokens
          56 % of that was measured with mixtral-8x7b on an H200; the same share here would be 84 tokens/s
    "#]],
    );
}

#[test]
fn mixtral_on_an_rtx_5090() {
    check(
        &["mixtral-8x7b", "--gpu", "NVIDIA GeForce RTX 5090", "--concurrency", "8"],
        expect![[r#"
            exit 0
            --- stdout
            mixtral-8x7b (a shape): MixtralForCausalLM, 32 layers, made for 32768 tokens
            weights: NF4 with double quantization; 24.48 GB = 22.80 GiB stored
            planned: 8 sequences at once, as `serve` has them; keys and values in bf16, 131072 bytes a token

            RTX 5090: compute capability 12.0, 32 GB as NVIDIA counts, 1792 GB/s
                                            GB       GiB
              4-bit codes               23.220    21.625
              their scales               0.754     0.703
              lm_head                    0.262     0.244
              router                     0.004     0.004
              norms, biases, tables      0.001     0.001
            weights                     24.241    22.577
            keys and values              8.389     7.812  8 x 8000 tokens
            workspace                    0.392     0.365
            driver                       0.650     0.605  measured on an H200, assumed here
            together                    33.672    31.359
            the card has                33.673    31.360
            left                         0.001     0.001
            (on the host, page-locked: embeddings, 262.1 MB)

            It fits on RTX 5090, with up to 8000 tokens.
            With --kv fp8: up to 15504 tokens.
            `serve` has room for 1 sequences of 32768 tokens at once.
            This takes more than `serve` does unless told: give --gpu-memory-utilization 1.00.

            Decoding is bound by what a step reads: weights that all tokens share, 0.96 GB + 7.2 of 8 experts in each layer, 20.95 GB; keys and values.
              tokens/s together <= 8 x 1792 GB/s / 21.91 GB = 654 at first, 473 where all have 8000 tokens
              55 % of that was measured with mixtral-8x7b on an H200; the same share here would be 359 tokens/s
        "#]],
    );
}

#[test]
fn mixtral_on_an_a40() {
    check(
        &["mixtral-8x7b", "--gpu", "A40", "--context", "12000", "--concurrency", "8"],
        expect![[r#"
            exit 0
            --- stdout
            mixtral-8x7b (a shape): MixtralForCausalLM, 32 layers, made for 32768 tokens
            weights: NF4 with double quantization; 24.48 GB = 22.80 GiB stored
            planned: 8 sequences at once, as `serve` has them; keys and values in bf16, 131072 bytes a token

            A40: compute capability 8.6, 48 GB as NVIDIA counts, 696 GB/s
                                            GB       GiB
              4-bit codes               23.220    21.625
              their scales               0.754     0.703
              lm_head                    0.262     0.244
              router                     0.004     0.004
              norms, biases, tables      0.001     0.001
            weights                     24.241    22.577
            keys and values             12.583    11.719  8 x 12000 tokens
            workspace                    0.392     0.365
            driver                       0.650     0.605  measured on an H200, assumed here
            together                    37.866    35.266
            the card has                47.674    44.400
            left                         9.808     9.134
            (on the host, page-locked: embeddings, 262.1 MB)

            It fits on A40, with up to 21344 tokens.
            With --kv fp8: up to 32768 tokens.
            `serve` has room for 14 sequences of 12000 tokens at once.

            Decoding is bound by what a step reads: weights that all tokens share, 0.96 GB + 7.2 of 8 experts in each layer, 20.95 GB; keys and values.
              tokens/s together <= 8 x 696 GB/s / 21.91 GB = 254 at first, 161 where all have 12000 tokens
              55 % of that was measured with mixtral-8x7b on an H200; the same share here would be 140 tokens/s
        "#]],
    );
}

#[test]
fn mixtral_on_an_h200() {
    check(
        &["mixtral-8x7b", "--gpu", "H200", "--kv", "fp8"],
        expect![[r#"
        exit 0
        --- stdout
        mixtral-8x7b (a shape): MixtralForCausalLM, 32 layers, made for 32768 tokens
        weights: NF4 with double quantization; 24.48 GB = 22.80 GiB stored
        planned: one sequence, as `prompt` has it; keys and values in FP8, 67584 bytes a token

        H200: compute capability 9.0, 141 GB as NVIDIA counts, 4800 GB/s
                                        GB       GiB
          4-bit codes               23.220    21.625
          their scales               0.754     0.703
          lm_head                    0.262     0.244
          router                     0.004     0.004
          norms, biases, tables      0.001     0.001
        weights                     24.241    22.577
        keys and values              2.215     2.062  32768 tokens
        workspace                    0.370     0.345
        driver                       0.650     0.605  measured on an H200, assumed here
        together                    27.476    25.589
        the card has               150.110   139.801
        left                       122.634   114.212
        (on the host, page-locked: embeddings, 262.1 MB)

        It fits on H200, with all the tokens that the model was made for.
        `serve` has room for 56 sequences of 32768 tokens at once.

        Decoding is bound by what a step reads: weights that all tokens share, 0.96 GB + 2.0 of 8 experts in each layer, 5.82 GB; keys and values.
          tokens/s <= 1 x 4800 GB/s / 6.78 GB = 708 at first, 534 where all have 32768 tokens
          56 % of that was measured with mixtral-8x7b on an H200; the same share here would be 399 tokens/s
    "#]],
    );
}

#[test]
fn mixtral_where_the_context_is_too_long() {
    check(
        &["mixtral-8x7b", "--vram", "24GiB", "--context", "32768"],
        expect![[r#"
        exit 4
        --- stdout
        mixtral-8x7b (a shape): MixtralForCausalLM, 32 layers, made for 32768 tokens
        weights: NF4 with double quantization; 24.48 GB = 22.80 GiB stored
        planned: one sequence, as `prompt` has it; keys and values in bf16, 131072 bytes a token

        a card of 25.77 GB, as CUDA shows it
                                        GB       GiB
          4-bit codes               23.220    21.625
          their scales               0.754     0.703
          lm_head                    0.262     0.244
          router                     0.004     0.004
          norms, biases, tables      0.001     0.001
        weights                     24.241    22.577
        keys and values              4.295     4.000  32768 tokens
        workspace                    0.370     0.345
        driver                       0.650     0.605  measured on an H200, assumed here
        together                    29.557    27.527
        the card has                25.770    24.000
        missing                      3.787     3.527
        (on the host, page-locked: embeddings, 262.1 MB)

        It does not fit on a card of 25.77 GB with 32768 tokens; --context 3872 would.
        With --kv fp8: up to 7504 tokens.
        `serve` has room for no sequence of 32768 tokens.
        --- stderr
        does not fit on a card of 25.77 GB
    "#]],
    );
}

#[test]
fn mixtral_on_all_cards() {
    check(
        &["mixtral-8x7b"],
        expect![[r#"
        exit 0
        --- stdout
        mixtral-8x7b (a shape): MixtralForCausalLM, 32 layers, made for 32768 tokens
        weights: NF4 with double quantization; 24.48 GB = 22.80 GiB stored
        planned: one sequence, as `prompt` has it; keys and values in bf16, 131072 bytes a token

        on the card: 24.24 GB = 22.58 GiB of weights, beside keys and values, workspace and 650.0 MB for the driver

                             memory              tokens   of these  tokens/s
        card            GB      GiB  fits  a sequence    at once   at most  expected
        A10             23.61  21.99  no             0          0         -         -
        L4              23.61  21.99  no             0          0         -         -
        RTX 3090        25.45  23.70  yes         1776          0       138        78
        RTX 4090        25.35  23.61  yes         1456          0       149        84
        RTX 5090        33.67  31.36  yes        32768          1       264       149
        A100 40GB       42.41  39.50  yes        32768          3       229       129
        A40             47.67  44.40  yes        32768          5       103        58
        L40S            47.70  44.42  yes        32768          5       127        72
        A100 80GB SXM   85.09  79.25  yes        32768         13       301       170
        A100 80GB PCIe  85.09  79.25  yes        32768         13       285       161
        H100 SXM        84.94  79.11  yes        32768         13       494       279
        H100 PCIe       84.94  79.11  yes        32768         13       295       166
        RTX PRO 6000   101.97  94.97  yes        32768         17       264       149
        H200           150.11 139.80  yes        32768         29       708       399
        B200           191.50 178.35  yes        32768         38      1131       638

        memory: all that CUDA shows of it, as seen on real cards; --json has the sources. tokens a sequence: the most for one sequence. of these at once: sequences of 32768 tokens under `serve`. tokens/s: decoding one sequence, at most by the memory's bandwidth, and at the share of it that was measured with mixtral-8x7b on an H200; `plan --gpu NAME` shows the formula.
        It fits on: RTX 3090, RTX 4090, RTX 5090, A100 40GB, A40, L40S, A100 80GB SXM, A100 80GB PCIe, H100 SXM, H100 PCIe, RTX PRO 6000, H200, B200.
    "#]],
    );
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
    // The same, asked for at once.
    let asked =
        halfbyte(&["plan", &model("mixtral-bf16"), "--gpu", "L4", "--quantize", "nf4", "--json"]);
    let asked = asked.json();
    // No less than before: rows that short lie in no whole blocks, and stay in 16 bits on a card.
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
    check(
        &["mixtral-8x7b", "--gpu", "H100"],
        expect![[r#"
        exit 2
        --- stderr
        error: `H100` may be any of: H100 SXM, H100 PCIe; say which
    "#]],
    );
    check(
        &["mixtral-8x7b", "--gpu", "RTX 9090"],
        expect![[r#"
        exit 2
        --- stderr
        error: the card `RTX 9090` is not in the table; give its memory as --vram 24GiB, or one of: A10, L4, RTX 3090, RTX 4090, RTX 5090, A100 40GB, A40, L40S, A100 80GB SXM, A100 80GB PCIe, H100 SXM, H100 PCIe, RTX PRO 6000, H200, B200
    "#]],
    );
    check(
        &["mixtral-8x7b", "--context", "40000"],
        expect![[r#"
        exit 3
        --- stderr
        error: --context 40000 exceeds the 32768 tokens that the model was made for
    "#]],
    );
    check(
        &["mixtral-8x7b", "--quantize", "nf4"],
        expect![[r#"
        exit 2
        --- stderr
        error: a shape is NF4 already: --quantize, --skip and --include are for checkpoints
    "#]],
    );
    check(
        &["mixtral-9x7b"],
        expect![[r#"
        exit 3
        --- stderr
        error: model `mixtral-9x7b` is not here (looked in mixtral-9x7b); give the directory of a model, or its name as ORG/NAME
    "#]],
    );
    check(
        &["acme/tiny"],
        expect![[r#"
        exit 3
        --- stderr
        error: model `acme/tiny` is not here (looked in acme/tiny, /nonexistent/hub/models--acme--tiny/snapshots); fetch it with `halfbyte pull acme/tiny`, or give a path or --model-dir; --hub plans it from its headers there
    "#]],
    );
    check(
        &["demo", "--revision", "v2"],
        expect![[r#"
        exit 2
        --- stderr
        error: --revision is of a repository: give --hub, too
    "#]],
    );
}
