"""Race halfbyte against llama.cpp on the CPU: TinyLlama-1.1B's shape, the same threads, round by round in turn.

    python bench/cpu_vs_llama_cpp.py --halfbyte target/release/halfbyte --llama-bench BUILD/bin/llama-bench \\
        --gguf tinyllama-iq4nl.gguf [--threads 2] [--rounds 5] [--realtime] [-- ARGUMENTS OF halfbyte bench]

`bench/README.md` says how to build llama-bench and write the GGUF. A round runs llama.cpp, halfbyte with int8
activations and halfbyte with f32 activations, starting with another one each time, so that a machine that slows down
or is shared slows all. A ratio is halfbyte's rate over llama.cpp's in the same round; the result names their median,
least and greatest. JSON on standard output, a line a round on standard error. Exit code 1 when the median ratio of
prefill or decode is below 1 with int8 activations; f32 is reported beside and has no floor.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

PHASES = ("prefill", "decode")
PRECISIONS = ("int8", "f32")
# Of the GGUF's bytes a decoded token does not read these: the embeddings, 32 weights of IQ4_NL in 18 bytes.
EMBEDDING_BYTES = 32000 * 2048 // 32 * 18


def main():
    given = arguments()
    load_before = os.getloadavg()[0]
    runners = {"llama_cpp": lambda: run_llama_cpp(given)}
    runners |= {precision: lambda p=precision: run_halfbyte(given, p) for precision in PRECISIONS}
    rounds = []
    for number in range(given.rounds):
        names = list(runners)
        first = number % len(names)
        rounds.append({name: runners[name]() for name in names[first:] + names[:first]})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)

    result = summary(rounds)
    print(json.dumps({
        "shape": "tinyllama-1.1b",
        "threads": given.threads,
        "prompt_tokens": given.prompt_tokens,
        "decode_tokens": given.decode_tokens,
        "halfbyte_arguments": given.extra,
        "realtime": given.realtime,
        "load_average_before": load_before,
        **result,
        "rounds": rounds,
    }, indent=1))
    return 0 if all(result["ratio"]["int8"][phase]["median"] >= 1.0 for phase in PHASES) else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--halfbyte", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument(
        "--realtime", action="store_true",
        help="run all of them in Linux' round-robin class (chrt, root only), ahead of whatever else the machine does",
    )
    parser.add_argument("extra", nargs="*", help="after --: passed on to halfbyte bench")
    return parser.parse_args()


def run_halfbyte(given, precision):
    """One `halfbyte bench`: tokens per second, and its share of the memory bandwidth that it measured."""
    report = run_json(given, [
        given.halfbyte, "bench", "--shape", "tinyllama-1.1b", "--device", "cpu", "--precision", precision,
        "--threads", str(given.threads), "--prompt-tokens", str(given.prompt_tokens),
        "--decode-tokens", str(given.decode_tokens), "--repeat", "1", "--json", *given.extra,
    ])
    rates = {phase: report[f"{phase}_tokens_per_second_median"] for phase in PHASES}
    return rates | {"weight_bytes_per_second": rates["decode"] * report["bytes_per_token"]} | {
        key: report[key] for key in ("memory_bandwidth_bytes_per_second", "bandwidth_share")
    }


def run_llama_cpp(given):
    """One `llama-bench`, one repetition after its own warm-up."""
    tests = run_json(given, [
        given.llama_bench, "-m", given.gguf, "-t", str(given.threads), "-p", str(given.prompt_tokens),
        "-n", str(given.decode_tokens), "-r", "1", "-o", "json",
    ])
    prefill = next(test for test in tests if test["n_prompt"] and not test["n_gen"])
    decode = next(test for test in tests if test["n_gen"] and not test["n_prompt"])
    return {
        "prefill": prefill["avg_ts"],
        "decode": decode["avg_ts"],
        "weight_bytes_per_second": decode["avg_ts"] * (decode["model_size"] - EMBEDDING_BYTES),
    }


def run_json(given, command):
    """The JSON that `command` prints; its standard error is shown only when it fails."""
    if given.realtime:
        command = ["chrt", "--rr", "1", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def summary(rounds):
    """Ratios and rates over all rounds."""
    def of(name, key):
        return [one[name][key] for one in rounds]

    def ratios(precision, phase):
        return [ours / theirs for ours, theirs in zip(of(precision, phase), of("llama_cpp", phase))]

    shares = {precision: of(precision, "bandwidth_share") for precision in PRECISIONS}
    return {
        "ratio": {p: {phase: spread(ratios(p, phase)) for phase in PHASES} for p in PRECISIONS},
        "tokens_per_second": {name: {phase: spread(of(name, phase)) for phase in PHASES} for name in rounds[0]},
        "bandwidth_share": {p: spread(shares[p]) for p in PRECISIONS if None not in shares[p]},
        "weight_bytes_per_second": {name: spread(of(name, "weight_bytes_per_second")) for name in rounds[0]},
    }


def spread(values):
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    sys.exit(main())
