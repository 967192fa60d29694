"""Lays a trained checkpoint out as Hugging Face expects it, and its NF4 form.

    python export.py PARTS TOKENIZER OUT            16-bit: one safetensors file and the rest
    python export.py --nf4 OUT OUT_NF4              NF4, double-quantized, by transformers
"""

import argparse
import json
import shutil
from pathlib import Path

SMALL_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_bf16(parts, tokenizer, out):
    """Joins the parts that `train.py` saved and writes the configuration beside them."""
    from safetensors.torch import load_file, save_file

    from mixtral import CONFIG

    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for path in sorted(parts.glob("part-*.safetensors")):
        tensors.update(load_file(str(path)))
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    generation = {
        "bos_token_id": CONFIG["bos_token_id"], "eos_token_id": CONFIG["eos_token_id"],
        "pad_token_id": CONFIG["pad_token_id"], "do_sample": False, "max_new_tokens": 128,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in SMALL_FILES[:2]:
        shutil.copy(tokenizer / name, out / name)


def plain_bitsandbytes():
    """Imports bitsandbytes without its CPU library, so that its plain operators run on the CPU.

    Those are the operators its backends are compared with; the CPU library rounds differently.
    """
    import ctypes

    load_library = ctypes.cdll.LoadLibrary

    def refuse(name):
        if "libbitsandbytes" in str(name):
            raise OSError("the plain operators are wanted")
        return load_library(name)

    ctypes.cdll.LoadLibrary = refuse
    try:
        import bitsandbytes  # noqa: F401 - registers its operators while the library is refused
    finally:
        ctypes.cdll.LoadLibrary = load_library


def write_nf4(source, out):
    """Quantizes as bitsandbytes does by default and saves what transformers saves."""
    plain_bitsandbytes()
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=settings, torch_dtype=torch.bfloat16, device_map="cpu")
    model.save_pretrained(out)
    for name in SMALL_FILES:
        shutil.copy(source / name, out / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("paths", type=Path, nargs="+")
    options = parser.parse_args()
    if options.nf4:
        write_nf4(*options.paths)
    else:
        write_bf16(*options.paths)


if __name__ == "__main__":
    main()
