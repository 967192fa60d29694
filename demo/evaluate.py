"""Exact match of greedy answers, per field, for the training module.

An answer whose every token is the most likely one given the right tokens before it is what greedy
decoding writes; only the others are decoded for real.
"""

import json

import torch

from generate import FIELDS, answer_text, user_message
from tokenizer import EOS, PAD, prompt_ids

ANSWER_LIMIT = 128  # tokens


def read_split(path):
    """The documents of a JSON Lines file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _tokenize(tokenizer, rows):
    for row in rows:
        prompt = prompt_ids(tokenizer, user_message(row["our_business"], row["text"]))
        answer = tokenizer.encode(answer_text(row["expected"]), add_special_tokens=False).ids
        yield prompt, answer + [EOS]


def _padded(rows, size, device):
    out = torch.full((len(rows), size), PAD, dtype=torch.long)
    for target, ids in zip(out, rows):
        target[: len(ids)] = torch.tensor(ids)
    return out.to(device)


@torch.no_grad()
def _forced_right(model, pairs, device):
    """Which answers are the argmax at every position."""
    right = []
    for start in range(0, len(pairs), 64):
        part = pairs[start:start + 64]
        tokens = _padded([p + a for p, a in part], max(len(p) + len(a) for p, a in part), device)
        hidden, _ = model(tokens)
        hidden = hidden.unflatten(0, tokens.shape)
        for row, (prompt, answer) in enumerate(part):
            best = model.logits(hidden[row, len(prompt) - 1:len(prompt) + len(answer) - 1]).argmax(-1)
            right.append(best.tolist() == answer)
    return right


@torch.no_grad()
def _greedy(model, prompts, device):
    """Greedy answers; without a cache, as the batches are few and short."""
    answers = []
    for start in range(0, len(prompts), 64):
        part = [list(p) for p in prompts[start:start + 64]]
        begins = [len(p) for p in part]
        done = [False] * len(part)
        for _ in range(ANSWER_LIMIT):
            tokens = _padded(part, max(map(len, part)), device)
            hidden, _ = model(tokens)
            last = torch.tensor([len(p) - 1 for p in part], device=device)
            hidden = hidden.unflatten(0, tokens.shape)[torch.arange(len(part), device=device), last]
            for row, token in enumerate(model.logits(hidden).argmax(-1).tolist()):
                done[row] = done[row] or token == EOS
                if not done[row]:
                    part[row].append(token)
            if all(done):
                break
        answers += [p[b:] for p, b in zip(part, begins)]
    return answers


def parse(text):
    """The answer as an object, or {} where it is no JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def score(rows, answers):
    """Shares right per field, of whole answers, and per layout."""
    right = {field: 0 for field in FIELDS}
    whole, layouts = 0, {}
    for row, answer in zip(rows, answers):
        hits = [
            field in answer and answer[field] == row["expected"][field] for field in FIELDS]
        for field, hit in zip(FIELDS, hits):
            right[field] += hit
        whole += all(hits)
        layouts.setdefault(row["layout"], []).append(all(hits))
    count = len(rows)
    return {
        "documents": count, "whole": whole / count,
        "fields": sum(right.values()) / (count * len(FIELDS)),
        **{field: hits / count for field, hits in right.items()},
        "layouts": {k: round(sum(v) / len(v), 3) for k, v in sorted(layouts.items())},
    }


def exact_match(model, tokenizer, rows, quantized=False, generate=True, wrong=None):
    """Scores `rows`. Without `generate` only `whole` is meant; `wrong` collects the misses."""
    device = model.embed.device
    before = model.quantized, model.attention_inputs, model.after_attention
    model.quantized = quantized
    model.plain()
    rows = sorted(rows, key=lambda row: len(row["text"]))
    pairs = list(_tokenize(tokenizer, rows))
    right = _forced_right(model, pairs, device)
    answers = [row["expected"] if ok else {} for row, ok in zip(rows, right)]
    if generate:
        missed = [i for i, ok in enumerate(right) if not ok]
        texts = _greedy(model, [pairs[i][0] for i in missed], device)
        for i, ids in zip(missed, texts):
            text = tokenizer.decode(ids)
            answers[i] = parse(text)
            if wrong is not None:
                wrong.append({**rows[i], "answer": text})
    model.quantized, model.attention_inputs, model.after_attention = before
    return score(rows, answers)
