#!/bin/sh
# Holds `halfbyte plan` against nvidia-smi: what is planned, what a server or a benchmark then takes of the card, and the ratio.
#
#   bench/plan_vs_smi.sh HALFBYTE CARD MODEL [CONTEXT] [SEQUENCES] [bf16|fp8]
#
# CARD is what `plan --gpu` takes, as "H200". MODEL is a directory, ORG/NAME or `demo`, which `serve` loads; or the name of a
# shape, as mixtral-8x7b, whose cache in `bench --shape` is planned as 128 sequences of 208 tokens (CONTEXT and SEQUENCES are
# left out then). GPU 0 alone, and nothing else may run on it. Exit code 0 if both differ by less than 1 %.
set -eu

if [ $# -lt 3 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
halfbyte=$1 card=$2 model=$3 context=${4:-4096} sequences=${5:-8} kv=${6:-bf16}
work=$(mktemp -d)
child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null || true; rm -rf "$work"' EXIT

smi() { nvidia-smi --id=0 --query-gpu=memory.used --format=csv,noheader,nounits; }
# The first number after a name in one line of JSON.
field() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" "$2"; }

case $model in
*/* | demo) kind=serve ;;
*) kind=bench context=208 sequences=128 ;;
esac
"$halfbyte" plan "$model" --gpu "$card" --context "$context" --concurrency "$sequences" --kv "$kv" --json >"$work/plan.json"
# The one card's total: arena, driver and their sum stand in this order.
planned=$(sed -n 's/.*"driver":[0-9]*,"total":\([0-9]*\).*/\1/p' "$work/plan.json")
arena=$(field arena "$work/plan.json")

idle=$(smi)
if [ $kind = serve ]; then
    "$halfbyte" serve "$model" --device cuda:0 --port 8791 --context "$context" --max-num-seqs "$sequences" --kv "$kv" \
        --gpu-memory-utilization 1 2>"$work/log" &
else
    "$halfbyte" bench --shape "$model" --device cuda:0 --repeat 1 --decode-tokens 64 --kv "$kv" --json \
        >"$work/bench.json" 2>"$work/log" &
fi
child=$!

# What is used grows while kernels are loaded and steps recorded: the most counts.
most=$idle
note() { now=$(smi); if [ "$now" -gt "$most" ]; then most=$now; fi; }
if [ $kind = serve ]; then
    until curl -sf http://127.0.0.1:8791/ready >/dev/null; do
        kill -0 "$child" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        note
        sleep 0.5
    done
    # Prompts and answers of all lengths up to the context, as many at once as are planned.
    "$halfbyte" bench --url http://127.0.0.1:8791 --streams "1,$sequences" --prompt-tokens $((context / 2)) \
        --decode-tokens 64 --json >"$work/bench.json" 2>>"$work/log" &
    load=$!
    while kill -0 "$load" 2>/dev/null; do note; sleep 0.2; done
    wait "$load"
else
    while kill -0 "$child" 2>/dev/null; do note; sleep 0.2; done
    wait "$child" || { cat "$work/log" >&2; exit 1; }
fi

awk -v planned="$planned" -v arena="$arena" -v idle="$idle" -v most="$most" 'BEGIN {
    taken = (most - idle) * 1048576
    ratio = planned / taken
    printf "planned  %14d bytes, %d of them in the arena\n", planned, arena
    printf "taken    %14d bytes: nvidia-smi shows %d MiB, idle %d MiB\n", taken, most, idle
    printf "planned / taken = %.4f\n", ratio
    exit ratio > 0.99 && ratio < 1.01 ? 0 : 1
}'
