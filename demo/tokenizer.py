"""Trains the demo's byte-level BPE tokenizer on generator output and writes the files around it.

    python tokenizer.py OUT_FOLDER
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from generate import answer_text, example

VOCAB_SIZE = 4096
SPECIAL = ("<pad>", "<s>", "</s>", "[INST]", "[/INST]")
PAD, BOS, EOS, INST, INST_END = range(5)

# A word never takes the space before it and every digit stands alone, so a name or a number has
# the same tokens in the document as in the answer: the model copies, it does not respell. The
# joints of compact JSON are pieces of their own; runs of a ruling character are one piece.
PATTERN = (
    r'\{"|"\}|":"|","|":|,"|[\p{L}\p{M}]+|\p{N}|\n+| +|\t+'
    r"|-+|=+|_+|\.+|\*+|#+|\|+|\s|[^\s\p{L}\p{M}\p{N}]"
)

# System text goes before the user's, as Mistral's template does it.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% set ns = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% set ns.system = message['content'] + '\\n' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ '[INST]' + ns.system + message['content'] + '[/INST]' }}{% set ns.system = '' %}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}"
    "{% else %}"
    "{{ raise_exception('the demo model knows the roles system, user and assistant') }}"
    "{% endif %}{% endfor %}"
)


def _corpus(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        document = example(rng, "train")
        yield document["text"] + "\n" + answer_text(document["expected"])


def train(seed=1, count=30_000):
    """The tokenizer: digits single, words without their space, bytes for all else."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_corpus(seed, count), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    return tokenizer


def write(tokenizer, folder):
    """tokenizer.json and tokenizer_config.json as Hugging Face lays them out."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "<pad>", "model_max_length": 2048, "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def prompt_ids(tokenizer, message):
    """The ids of the chat template with one user message, up to where the answer starts."""
    ids = tokenizer.encode(message, add_special_tokens=False).ids
    return [BOS, INST, *ids, INST_END]


if __name__ == "__main__":
    write(train(), sys.argv[1])
