"""What a server on this machine reaches of the engine's own rate, in turn.

    python3 bench/server_vs_engine.py --binary target/release/halfbyte --model demo --streams 32,128 --rounds 3

For each number of streams, `halfbyte bench MODEL --batch N` decodes so many sequences without a server, and `halfbyte bench
--url` so many streams of a server, one after the other, round after round. Compared is what `/metrics` counts from when the
last answer has begun until the first ends; beside it stands the rate from the first request to the last answer, prompts
included. The client runs on the same machine, and what it
takes counts against the server. `--realtime` runs all of it in the real-time class (chrt), for machines on which others work.
Prints a JSON line for each round, and the ratios at the end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "fixtures"))
from serving import Server


class Watch:
    """Reads how many tokens a server has generated, while a number of streams lasts."""

    def __init__(self, server, streams):
        self.server, self.streams, self.samples = server, streams, []
        self.before, self.stopped = self.read(), threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def read(self):
        figures = dict.fromkeys(("begun", "ended", "tokens"), 0)
        names = {
            "halfbyte_time_to_first_token_seconds_count": "begun", "halfbyte_answers_total": "ended",
            "halfbyte_generated_tokens_total": "tokens",
        }
        text = self.server.ask("GET", "/metrics").body.decode()
        figures["at"] = time.monotonic()
        for line in text.splitlines():
            name = names.get(line.split(" ")[0].split("{")[0])
            if name:
                figures[name] += float(line.split()[-1])
        return figures

    def watch(self):
        while not self.stopped.is_set():
            self.samples.append(self.read())
            time.sleep(0.05)

    def rate(self):
        """Tokens per second while all streams came. The client's first request, which does not count, is one more."""
        self.stopped.set()
        self.thread.join()
        all_came = [
            sample for sample in self.samples
            if sample["begun"] - self.before["begun"] == self.streams + 1 and sample["ended"] - self.before["ended"] == 1
        ]
        first, last = all_came[0], all_came[-1]
        assert last["at"] - first["at"] > 0.2, "too short to measure: ask for more --decode-tokens"
        return (last["tokens"] - first["tokens"]) / (last["at"] - first["at"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/halfbyte")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--quantize", help="as the command line has it, for a 16-bit model")
    parser.add_argument("--streams", default="32,128")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--realtime", action="store_true")
    arguments = parser.parse_args()
    prefix = ["chrt", "--rr", "1"] if arguments.realtime else []
    options = ["--quantize", arguments.quantize] if arguments.quantize else []
    common = ["--device", "cpu", "--json", "--decode-tokens", str(arguments.decode_tokens)]

    def bench(*more):
        command = [*prefix, arguments.binary, "bench", *more, *common]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)

    ratios, rates = {}, {}
    with Server(arguments.binary, arguments.model, *options, prefix=prefix) as server:
        for round in range(arguments.rounds):
            for streams in arguments.streams.split(","):
                depth = ["--depth", str(arguments.prompt_tokens), "--prompt-tokens", "16", "--repeat", "1"]
                engine = bench(arguments.model, *options, "--batch", streams, *depth)["batches"][0]["tokens_per_second"][0]
                asked = ["--url", server.url, "--streams", streams, "--prompt-tokens", str(arguments.prompt_tokens)]
                watch = Watch(server, int(streams))
                (level,) = bench(*asked)["levels"]
                rate = watch.rate()
                ratio = rate / engine
                ratios.setdefault(streams, []).append(ratio)
                rates.setdefault(streams, []).append((engine, rate))
                figures = {
                    name: {p: ms and round_to(ms) for p, ms in level[name].items()}
                    for name in ("time_to_first_token_ms", "inter_token_ms")
                }
                print(json.dumps({
                    "round": round, "streams": int(streams), "engine": round_to(engine),
                    "server": round_to(rate),
                    "with_prompts": round_to(level["tokens_per_second"]), "tokens": level["completion_tokens"], "ratio": round_to(ratio, 3), **figures,
                }), flush=True)
    for streams, found in ratios.items():
        engine, server = zip(*rates[streams])
        print(json.dumps({
            "streams": int(streams), "engine": round_to(statistics.median(engine)), "server": round_to(statistics.median(server)),
            "ratio": round_to(statistics.median(found), 3), "least": round_to(min(found), 3), "most": round_to(max(found), 3),
        }))


def round_to(value, digits=1):
    return round(value, digits)


if __name__ == "__main__":
    main()
