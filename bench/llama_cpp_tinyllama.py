"""Write a GGUF of TinyLlama-1.1B's shape with random weights in IQ4_NL, for llama.cpp's own llama-bench.

    python bench/llama_cpp_tinyllama.py OUT.gguf GGUF_PY

GGUF_PY is the folder `gguf-py` of llama.cpp's source; numpy is needed too. IQ4_NL is llama.cpp's nearest relative of
NF4: sixteen uneven levels, here with one half-precision scale per 32 weights (4.5 bits a weight). Every matrix is
IQ4_NL, the embeddings and the output included; the norms are f32. The values do not matter to the speed, but none may
turn into infinity or NaN on the way, so the scale is small and the same everywhere.
"""

import sys

import numpy as np

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCAB = 2048, 5632, 22, 32, 4, 32000
HEAD_DIM = HIDDEN // HEADS
# A block of IQ4_NL: a half-precision scale, then 16 bytes of codes for 32 weights. Levels reach 127 in size, so that
# a weight is below 127 * 2e-4 = 0.026, about a trained one's.
BLOCK_WEIGHTS, BLOCK_BYTES, SCALE = 32, 18, 2e-4


def random_blocks(rng, rows, columns):
    """IQ4_NL bytes of a [rows, columns] matrix, as gguf wants them: U8 [rows, columns / 32 * 18]."""
    blocks = rng.integers(0, 256, (rows * columns // BLOCK_WEIGHTS, BLOCK_BYTES), dtype=np.uint8)
    blocks[:, :2] = np.array([SCALE], dtype=np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def matrices():
    """Name and [rows, columns] of every matrix."""
    yield "token_embd", (VOCAB, HIDDEN)
    yield "output", (VOCAB, HIDDEN)
    for layer in range(LAYERS):
        for name, rows, columns in (
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", INTERMEDIATE, HIDDEN),
            ("ffn_up", INTERMEDIATE, HIDDEN),
            ("ffn_down", HIDDEN, INTERMEDIATE),
        ):
            yield f"blk.{layer}.{name}", (rows, columns)


def norms():
    """Name of every norm; all have HIDDEN elements."""
    yield "output_norm"
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm"
        yield f"blk.{layer}.ffn_norm"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    out, gguf_py = sys.argv[1:]
    sys.path.insert(0, gguf_py)
    import gguf

    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_IQ4_NL)
    rng = np.random.default_rng(0)
    for name, (rows, columns) in matrices():
        blocks = random_blocks(rng, rows, columns)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.IQ4_NL)
    for name in norms():
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
