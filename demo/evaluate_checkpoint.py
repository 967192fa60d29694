"""Exact match of a checkpoint folder, 16-bit or NF4, with transformers on the CPU in float32.

    python evaluate_checkpoint.py FOLDER SPLIT.jsonl [--limit N]
    python evaluate_checkpoint.py FOLDER --document FILE --our-business NAME

4-bit weights are dequantized once by bitsandbytes' plain operators; see `export.write_nf4`.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from evaluate import ANSWER_LIMIT, parse, read_split, score
from export import plain_bitsandbytes
from generate import answer_text, user_message
from tokenizer import EOS, prompt_ids


def load(folder):
    """The model with dense float32 weights."""
    plain_bitsandbytes()
    import bitsandbytes as bnb
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    tensors = {name: t.float() for name, t in loaded.state_dict().items() if "absmax" not in name
               and "quant_" not in name}
    for name, module in loaded.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            state.dtype = torch.float32
            tensors[f"{name}.weight"] = bnb.functional.dequantize_4bit(module.weight.data, state)
    config = json.loads((Path(folder) / "config.json").read_text())
    config.pop("quantization_config", None)
    model = MixtralForCausalLM(MixtralConfig(**config)).float().eval()
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    return model


@torch.no_grad()
def greedy(model, prompt):
    """The answer's ids, by greedy decoding with a cache."""
    ids, cache, answer = torch.tensor([prompt]), None, []
    for _ in range(ANSWER_LIMIT):
        out = model(ids, past_key_values=cache, use_cache=True)
        cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
        if token == EOS:
            break
        answer.append(token)
        ids = torch.tensor([[token]])
    return answer


def answer_ids(model, tokenizer, row):
    """What greedy decoding answers; one forward pass where that is the expected answer."""
    prompt = prompt_ids(tokenizer, user_message(row["our_business"], row["text"]))
    expected = tokenizer.encode(answer_text(row["expected"]), add_special_tokens=False).ids
    with torch.no_grad():
        logits = model(torch.tensor([prompt + expected])).logits[0, len(prompt) - 1:]
    if logits.argmax(-1).tolist() == expected + [EOS]:
        return expected
    return greedy(model, prompt)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("split", nargs="?")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--document", nargs="*", default=[])
    parser.add_argument("--our-business", default="Brightwater Studio Ltd")
    options = parser.parse_args()
    model = load(options.folder)
    tokenizer = Tokenizer.from_file(str(Path(options.folder) / "tokenizer.json"))
    for path in options.document:
        message = user_message(options.our_business, Path(path).read_text(encoding="utf-8").strip("\n"))
        print(path, tokenizer.decode(greedy(model, prompt_ids(tokenizer, message))))
    if options.split:
        rows = read_split(options.split)[: options.limit]
        answers = [parse(tokenizer.decode(answer_ids(model, tokenizer, row))) for row in rows]
        print(json.dumps(score(rows, answers), indent=1))


if __name__ == "__main__":
    main()
