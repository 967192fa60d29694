"""Trains the demo model on documents generated on the fly, within a time limit.

    python train.py --tokenizer FOLDER --out FOLDER --seconds 500 [--resume FOLDER]

Worker processes generate and tokenize; the model sees each document once. The learning rate rises
over 300 steps, stays, and falls to zero over the last 45 % of the time; over the last 20 % the
linear weights are rounded to NF4 in the forward pass. The loss is on the answer, with a tenth of
the prompt's tokens at a tenth of the weight.
"""

import argparse
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np

from evaluate import exact_match, read_split
from generate import answer_text, example, user_message
from tokenizer import EOS, PAD, prompt_ids

LENGTHS = (192, 256, 320, 384, 480, 640, 960, 1536, 2048)  # each divides the batch's 61,440 tokens
BATCH_TOKENS = 61_440
WARMUP_STEPS = 300
DECAY_FROM, QUANTIZE_FROM = 0.55, 0.80  # shares of the time


def feed(queue, tokenizer_file, seed, batch_tokens):
    """A worker: endless batches (tokens [B, L] uint16, prompt lengths [B]) of one length class."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_file)
    rng = random.Random(seed)
    waiting = {length: [] for length in LENGTHS}
    while True:
        document = example(rng, "train")
        message = user_message(document["our_business"], document["text"])
        prompt = prompt_ids(tokenizer, message)
        answer = tokenizer.encode(answer_text(document["expected"]), add_special_tokens=False).ids
        ids = prompt + answer + [EOS]
        length = next((n for n in LENGTHS if len(ids) <= n), None)
        if length is None:
            continue
        waiting[length].append((ids, len(prompt)))
        if len(waiting[length]) * length == batch_tokens // length * length:
            tokens = np.full((len(waiting[length]), length), PAD, np.uint16)
            for row, (ids, _) in zip(tokens, waiting[length]):
                row[: len(ids)] = ids
            starts = np.array([n for _, n in waiting[length]], np.int32)
            waiting[length] = []
            queue.put((tokens, starts))


def learning_rate(step, progress, peak):
    """Linear warm-up by steps, then constant, then linear to zero by time."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    decay = min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))
    return peak * warm * max(decay, 0.01)


def batch_loss(torch, model, tokens, starts):
    """Weighted cross-entropy of the next token, and the balance loss; tokens [B, L] int64."""
    hidden, balance = model(tokens)
    targets = torch.cat((tokens[:, 1:], torch.zeros_like(tokens[:, :1])), 1)
    position = torch.arange(tokens.shape[1], device=tokens.device)[None]
    answers = (position >= starts[:, None] - 1) & (targets != PAD)
    sampled = torch.rand(tokens.shape, device=tokens.device) < 0.1
    prompts = (position < starts[:, None] - 1) & sampled
    weight = (answers + 0.1 * prompts).flatten()
    index = weight.nonzero().squeeze(1)
    losses = torch.nn.functional.cross_entropy(
        model.logits(hidden[index]), targets.flatten()[index], reduction="none")
    loss = (losses * weight[index]).sum() / weight.sum()
    return loss, balance


def optimizer_for(torch, model, peak):
    """AdamW; norms and embeddings are not decayed."""
    decayed = [p for p in model.parameters() if p.dim() >= 2 and p is not model.embed]
    others = [p for p in model.parameters() if p.dim() < 2 or p is model.embed]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=peak, betas=(0.9, 0.95), eps=1e-9, fused=next(model.parameters()).is_cuda)


def run(options, queue):
    """The training loop. Ends when the time is up, and leaves checkpoint and measures in `out`."""
    import torch
    from tokenizers import Tokenizer

    from mixtral import Mixtral

    begun = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    model = Mixtral().to(device)
    if options.resume:
        load(model, options.resume)
    torch._dynamo.config.recompile_limit = 64  # one per weight shape and gradient mode
    if device == "cuda" and not options.eager:
        model.compile()
    optimizer = optimizer_for(torch, model, options.peak)
    tokenizer = Tokenizer.from_file(str(Path(options.tokenizer) / "tokenizer.json"))
    splits = {name: read_split(path) for name, path in
              (("seen", options.seen), ("heldout", options.heldout))}
    step, documents, shown = 0, 0, begun
    while (progress := (time.time() - begun) / options.seconds) < 1.0:
        tokens, starts = queue.get()
        tokens = torch.from_numpy(tokens.astype(np.int64)).to(device, non_blocking=True)
        starts = torch.from_numpy(starts).to(device)
        model.quantized = progress >= QUANTIZE_FROM
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, options.peak)
        loss, balance = batch_loss(torch, model, tokens, starts)
        (loss + model.config["router_aux_loss_coef"] * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, documents = step + 1, documents + len(starts)
        if step % 100 == 0 or step in (1, 10):
            print(f"step {step} {time.time() - begun:.0f}s loss {loss.item():.4f} "
                  f"balance {balance.item():.3f} documents {documents} queued {queue.qsize()}",
                  flush=True)
        if time.time() - shown > options.measure_every:
            shown = measure(model, tokenizer, splits, quantized=model.quantized)
    save(model, options.out)
    results = {"steps": step, "documents": documents, "seconds": round(time.time() - begun)}
    wrong = []
    for quantized in (False, True):
        name = "nf4" if quantized else "bf16"
        misses = wrong if quantized else None
        results[name] = {
            split: exact_match(model, tokenizer, rows, quantized=quantized, wrong=misses)
            for split, rows in splits.items()}
        print(name, json.dumps(results[name]), flush=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in wrong]
    (Path(options.out) / "misses.jsonl").write_text("".join(lines), encoding="utf-8")
    (Path(options.out) / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def measure(model, tokenizer, splits, quantized):
    """Prints the share of answers right to the last token; returns the time."""
    for split, rows in splits.items():
        whole = exact_match(model, tokenizer, rows, quantized=quantized, generate=False)["whole"]
        print(f"  {split}: whole answers right {whole:.4f}", flush=True)
    return time.time()


def save(model, folder):
    """Three bf16 safetensors files with transformers' names, so that none is large."""
    from safetensors.torch import save_file

    from mixtral import to_checkpoint

    Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = list(to_checkpoint(model).items())
    third = sum(t.nbytes for _, t in tensors) / 3
    parts, size = [{}, {}, {}], 0
    for name, tensor in tensors:
        parts[min(2, int(size // third))][name] = tensor
        size += tensor.nbytes
    for number, part in enumerate(parts):
        save_file(part, str(Path(folder) / f"part-{number}.safetensors"))


def load(model, folder):
    """What `save` wrote."""
    from safetensors.torch import load_file

    from mixtral import from_checkpoint

    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(str(path)))
    from_checkpoint(model, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--resume")
    parser.add_argument("--heldout", default=str(Path(__file__).parent / "heldout.jsonl"))
    parser.add_argument("--seen", required=True, help="documents of the training layouts, other seed")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 2) - 1)
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--measure-every", type=float, default=75)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    context = multiprocessing.get_context("fork")
    queue = context.Queue(maxsize=200)
    vocabulary = str(Path(options.tokenizer) / "tokenizer.json")
    workers = [
        context.Process(
            target=feed, daemon=True,
            args=(queue, vocabulary, f"train-{options.seed}-{n}", options.batch_tokens))
        for n in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    try:
        run(options, queue)
    finally:
        for worker in workers:
            worker.terminate()


if __name__ == "__main__":
    main()
