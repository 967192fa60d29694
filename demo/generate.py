"""Writes accounting documents with their expected answers, one JSON object a line.

    python generate.py --split heldout --count 400 --seed 7 > heldout.jsonl

Split `train` uses the layouts and names training shows, `heldout` those it never shows. The same
split, seed and count always give the same lines.
"""

import argparse
import json
import random
import sys

from generator import compose, heldout, layouts, noise, record, small

TYPES = ("invoice", "credit_note", "bill", "reminder", "purchase_order", "quote", "delivery_note",
         "payment_advice", "receipt", "bank_transaction")
COMPOSED_SHARE = 0.55  # of the training documents; the rest have a layout of a fixed kind
_WEIGHTS = (6, 2, 2, 2, 1.5, 1.5, 1, 2, 3, 4)
FIELDS = ("document_type", "direction", "party", "number", "date", "currency", "total")
# Longer documents are not written to files: with their answer they could pass the context's end.
CHARACTERS_MAX = 3_000
INSTRUCTION = "Read this accounting document and answer with one JSON object."


def user_message(our_business, text):
    """The message of the user's turn: instruction, our name, an empty line, the document."""
    return f"{INSTRUCTION}\nOur business: {our_business}\n\n{text}"


def answer_text(expected):
    """The assistant's turn: compact JSON in the fixed key order, text not escaped to ASCII."""
    return json.dumps(expected, ensure_ascii=False, separators=(",", ":"))


def example(rng, split):
    """One document: {text, our_business, expected, layout}."""
    held = split == "heldout"
    vocabulary = "held" if held else "train"
    kind = rng.choices(TYPES, _WEIGHTS)[0]
    if kind == "receipt":
        rec = small.receipt(rng, vocabulary)
        choices = heldout.HELD_RECEIPTS if held else small.SEEN_RECEIPTS
        free = compose.composed_receipt
    elif kind == "bank_transaction":
        rec = small.bank_line(rng, vocabulary)
        choices = heldout.HELD_BANK if held else small.SEEN_BANK
        free = compose.composed_bank
    else:
        rec = record.commercial(rng, kind, vocabulary)
        choices = heldout.HELD if held else layouts.SEEN
        free = compose.composed
    layout = free if not held and rng.random() < COMPOSED_SHARE else rng.choice(choices)
    text = noise.apply(rng, layout(rec, rng), rec.locale)
    return {"text": text, "our_business": rec.ours, "expected": rec.expected,
            "layout": layout.__name__}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng = random.Random(f"{options.split}-{options.seed}")
    written = 0
    while written < options.count:
        document = example(rng, options.split)
        if len(document["text"]) <= CHARACTERS_MAX:
            sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
            written += 1


if __name__ == "__main__":
    main()
