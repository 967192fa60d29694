//! Command lines that make no sense, devices that are not there, and output that nobody takes.

mod support;

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use expect_test::{Expect, expect};
use support::{command, halfbyte, model};

fn check(args: &[&str], expected: Expect) {
    expected.assert_eq(&halfbyte(args).text());
}

#[test]
fn flags_that_make_no_sense() {
    let qwen3 = model("qwen3-bf16");
    let prompt = |args: &[&str], expected: Expect| {
        let run = halfbyte(&[&["prompt", &qwen3, "Hi"], args].concat());
        expected.assert_eq(&run.text());
    };
    prompt(
        &["--temprature", "1"],
        expect![[r#"
        exit 2
        --- stderr
        error: unexpected argument '--temprature' found

          tip: a similar argument exists: '--temperature'

        Usage: halfbyte prompt --temperature <T> <MODEL> <TEXT>

        For more information, try '--help'.
    "#]],
    );
    prompt(
        &["--temperature", "nan"],
        expect![[r#"
        exit 2
        --- stderr
        error: temperature is NaN, but must be within 0 to 100
    "#]],
    );
    prompt(
        &["--temperature", "-1", "--json"],
        expect![[r#"
        exit 2
        --- stdout
        {"error":{"message":"temperature is -1, but must be within 0 to 100","type":"invalid_request_error","param":"temperature","code":"usage"}}
        --- stderr
        error: temperature is -1, but must be within 0 to 100
    "#]],
    );
    prompt(
        &["--top-p", "0"],
        expect![[r#"
        exit 2
        --- stderr
        error: top_p is 0, but must be above 0, at most 1
    "#]],
    );
    prompt(
        &["--threads", "0"],
        expect![[r#"
        exit 2
        --- stderr
        error: invalid value '0' for '--threads <N>': 0 is not in 1..=65535

        For more information, try '--help'.
    "#]],
    );
    prompt(
        &["--device", "tpu"],
        expect![[r#"
            exit 2
            --- stderr
            error: invalid value 'tpu' for '--device <auto|cpu|cuda[:N]>': `tpu` is not auto, cpu, cuda or cuda:N

            For more information, try '--help'.
        "#]],
    );
    prompt(
        &["--logprobs", "2"],
        expect![[r#"
        exit 2
        --- stderr
        error: the following required arguments were not provided:
          --json

        Usage: halfbyte prompt --json --logprobs <N> <MODEL> <TEXT>

        For more information, try '--help'.
    "#]],
    );
    prompt(
        &["--max-tokens", "many", "--json"],
        expect![[r#"
        exit 2
        --- stdout
        {"error":{"message":"invalid value 'many' for '--max-tokens <N>': invalid digit found in string","type":"invalid_request_error","param":null,"code":"usage"}}
        --- stderr
        error: invalid value 'many' for '--max-tokens <N>': invalid digit found in string

        For more information, try '--help'.
    "#]],
    );
    check(
        &["quantize", &qwen3, "/nonexistent/dst", "--blocksize", "48"],
        expect![[r#"
        exit 2
        --- stderr
        error: --blocksize: blocksize 48 is not one of 32, 64, 128, 256, 512, 1024, 2048, 4096
    "#]],
    );
    expect![[r#"
        exit 2
        --- stderr
        error: invalid value 'gpt-4' for '--shape <NAME>'
          [possible values: qwen2.5-0.5b, tinyllama-1.1b, llama-3.2-1b, llama-3.2-3b, mistral-7b, qwen2.5-7b, llama-3.1-8b, qwen3-8b, qwen3-30b-a3b, mixtral-8x7b]

        For more information, try '--help'.
    "#]].assert_eq(&halfbyte(&["bench", "--shape", "gpt-4"]).text());
    expect![[r#"
        exit 2
        --- stderr
        error: unrecognized subcommand 'fly'

        Usage: halfbyte <COMMAND>

        For more information, try '--help'.
    "#]]
    .assert_eq(&halfbyte(&["fly"]).text());
    assert_eq!(halfbyte(&[]).code, 2);
}

#[test]
fn a_gpu_is_never_replaced_by_the_cpu() {
    // Why it cannot be used is the machine's: no driver, no kernels in this binary, or fewer GPUs.
    let run = halfbyte(&["prompt", &model("qwen3-bf16"), "Hi", "--device", "cuda:4000", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let Some(message) = report["error"]["message"].as_str() else { panic!("{}", run.text()) };
    assert!(message.starts_with("cuda:4000 cannot be used: "), "{message}");
    assert_eq!(run.stderr, format!("error: {message}\n"));
    assert_eq!((run.code, &report["error"]["code"]), (4, &"device_unusable".into()));
}

#[test]
fn the_cpu_has_no_8_bit_keys() {
    check(
        &["prompt", &model("qwen3-bf16"), "Hi", "--raw", "--device", "cpu", "--kv", "fp8"],
        expect![[r#"
            exit 2
            --- stderr
            error: --kv fp8 needs a GPU: on the CPU, keys and values have 32 bits
        "#]],
    );
}

#[test]
fn a_selftest_needs_a_gpu() {
    // On a machine with several GPUs the last number is still none of them.
    let run = halfbyte(&["selftest", "--device", "cuda:4000"]);
    assert_eq!((run.code, run.stdout.as_str()), (4, ""), "{}", run.text());
    assert!(run.stderr.starts_with("error: cuda:4000 cannot be used: "), "{}", run.stderr);
    check(
        &["selftest", "--device", "cpu"],
        expect![[r#"
            exit 2
            --- stderr
            error: --device: the CPU is what a GPU is compared with
        "#]],
    );
}

#[test]
fn a_full_disk_is_told() {
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    let output = command(&["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    expect![[r#"
        error: cannot write the output: No space left on device (os error 28)
    "#]]
    .assert_eq(&String::from_utf8(output.stderr).unwrap());
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut command = command(&["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let argument = std::ffi::OsStr::from_bytes(b"\xff");
    let output = command(&["demo", "--json", "--our-business"]).arg(argument).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["error"]["code"], "usage");
    assert!(report["error"]["message"].as_str().unwrap().contains("UTF-8"), "{report}");
}
