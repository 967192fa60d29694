"""A Mixtral in plain PyTorch for training: every expert runs on every token, the router's two
weights mask the rest. At this size that is three large matrix products a layer, and faster than
gathering. The arithmetic and the tensor names of its checkpoints are transformers' Mixtral's.
"""

import torch
from torch import nn
from torch.nn import functional as F

CONFIG = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 4096,
    "hidden_size": 384, "intermediate_size": 320, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": True,
    "sliding_window": None, "attention_dropout": 0.0, "router_aux_loss_coef": 0.02,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "bfloat16",
}

# bitsandbytes' NF4 code and its thresholds, the midpoints of neighbours.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0])
BLOCKSIZE = 64


def nf4_round_trip(weight, code, thresholds):
    """The weight after NF4 in blocks of 64 along its flat order, without double quantization.

    The gradient passes straight through, so that training can go on against the rounded weight.
    """
    blocks = weight.detach().bfloat16().float().reshape(-1, BLOCKSIZE)
    absmax = blocks.abs().amax(1, keepdim=True).clamp_min(1e-38)
    rounded = code[torch.bucketize((blocks / absmax).clamp(-1, 1), thresholds)] * absmax
    return weight + (rounded.reshape(weight.shape) - weight).detach()


def rms_norm(x, weight, eps):
    """[T, H] float32 -> [T, H] float32."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotate(x, cos, sin):
    """Rotary embedding, halves paired as transformers pairs them. x: [T, heads, head_dim]."""
    a, b = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-b, a), -1) * sin[:, None]


def attention_inputs(x, norm, q_proj, k_proj, v_proj, cos, sin, eps):
    """[T, H] -> q [T, heads, D], k and v [T, kv_heads, D], in the compute dtype."""
    dtype = torch.bfloat16 if x.is_cuda else torch.float32
    h = rms_norm(x, norm, eps).to(dtype)
    size = cos.shape[1]
    q, k, v = (F.linear(h, w.to(dtype)).unflatten(1, (-1, size)) for w in (q_proj, k_proj, v_proj))
    return _rotate(q.float(), cos, sin).to(dtype), _rotate(k.float(), cos, sin).to(dtype), v


def after_attention(x, mixed, o_proj, norm, gate, w1, w3, w2, valid, top, eps):
    """Output projection and the expert block. Returns the stream and the load-balancing loss."""
    dtype = mixed.dtype
    experts, inner, hidden = w1.shape
    x = x + F.linear(mixed, o_proj.to(dtype)).float()
    h = rms_norm(x, norm, eps)
    probabilities = F.linear(h, gate).softmax(-1)  # [T, experts]
    best, chosen = probabilities.topk(top, -1)
    best = best / best.sum(-1, keepdim=True)
    mask = torch.zeros_like(probabilities).scatter(1, chosen, 1.0)
    share = torch.zeros_like(probabilities).scatter(1, chosen, best)

    h = h.to(dtype)
    inner_1 = F.linear(h, w1.to(dtype).reshape(experts * inner, hidden))
    inner_3 = F.linear(h, w3.to(dtype).reshape(experts * inner, hidden))
    act = (F.silu(inner_1) * inner_3).unflatten(1, (experts, inner)) * share.to(dtype)[:, :, None]
    down = w2.to(dtype).permute(1, 0, 2).reshape(hidden, experts * inner)
    x = x + F.linear(act.flatten(1), down).float()

    count = valid.sum().clamp_min(1.0)
    load = (mask * valid[:, None]).sum(0) / count
    weight = (probabilities * valid[:, None]).sum(0) / count
    return x, experts * (load * weight).sum() / top


class Mixtral(nn.Module):
    """Weights in float32; expert weights are stacked per layer: w1, w3 [E, I, H], w2 [E, H, I]."""

    def __init__(self, config=None):
        super().__init__()
        self.config = c = config or CONFIG
        h, i, e = c["hidden_size"], c["intermediate_size"], c["num_local_experts"]
        kv = c["num_key_value_heads"] * c["head_dim"]
        depth = (2 * c["num_hidden_layers"]) ** -0.5

        def weight(*shape, scale=1.0):
            return nn.Parameter(torch.randn(*shape) * 0.02 * scale)

        self.embed = weight(c["vocab_size"], h)
        self.norm = nn.Parameter(torch.ones(h))
        self.layers = nn.ModuleList()
        for _ in range(c["num_hidden_layers"]):
            layer = nn.ParameterDict({
                "input_layernorm": nn.Parameter(torch.ones(h)),
                "q_proj": weight(h, h), "k_proj": weight(kv, h), "v_proj": weight(kv, h),
                "o_proj": weight(h, h, scale=depth),
                "post_attention_layernorm": nn.Parameter(torch.ones(h)),
                "gate": weight(e, h), "w1": weight(e, i, h), "w3": weight(e, i, h),
                "w2": weight(e, h, i, scale=depth),
            })
            self.layers.append(layer)
        self.register_buffer("code", NF4.clone(), persistent=False)
        self.register_buffer("thresholds", (NF4[1:] + NF4[:-1]) / 2, persistent=False)
        self.attention_inputs, self.after_attention = attention_inputs, after_attention
        self.round_trip = nf4_round_trip
        self.quantized = False  # run on the NF4 round trip of every linear weight

    def compile(self):
        """Fuses the parts around attention; their shapes never change when training."""
        self.attention_inputs = torch.compile(attention_inputs, dynamic=False)
        self.after_attention = torch.compile(after_attention, dynamic=False)
        self.round_trip = torch.compile(nf4_round_trip, dynamic=False)

    def plain(self):
        """Back to the functions as they are, for batches of other shapes."""
        self.attention_inputs, self.after_attention = attention_inputs, after_attention

    def _rotary(self, batch, length, device):
        size = self.config["head_dim"]
        steps = torch.arange(0, size, 2, device=device, dtype=torch.float32) / size
        angles = torch.outer(
            torch.arange(length, device=device, dtype=torch.float32),
            self.config["rope_theta"] ** -steps)
        angles = torch.cat((angles, angles), -1).repeat(batch, 1)
        return angles.cos(), angles.sin()

    def forward(self, tokens):
        """tokens [B, L], padded at the end -> final hidden [B * L, H] float32, balance loss."""
        c = self.config
        batch, length = tokens.shape
        cos, sin = self._rotary(batch, length, tokens.device)
        valid = (tokens.flatten() != c["pad_token_id"]).float()
        repeat = c["num_attention_heads"] // c["num_key_value_heads"]
        eps = c["rms_norm_eps"]
        x, balance = F.embedding(tokens.flatten(), self.embed), 0.0
        for layer in self.layers:
            def w(name, layer=layer):
                if self.quantized:
                    return self.round_trip(layer[name], self.code, self.thresholds)
                return layer[name]

            q, k, v = self.attention_inputs(
                x, layer["input_layernorm"], w("q_proj"), w("k_proj"), w("v_proj"), cos, sin, eps)
            q, k, v = (t.unflatten(0, (batch, length)).transpose(1, 2) for t in (q, k, v))
            k, v = (t.repeat_interleave(repeat, 1) for t in (k, v))
            # Padding stands after every real token, so the causal mask alone hides it.
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(batch * length, -1)
            x, layer_balance = self.after_attention(
                x, mixed, w("o_proj"), layer["post_attention_layernorm"], w("gate"), w("w1"),
                w("w3"), w("w2"), valid, c["num_experts_per_tok"], eps)
            balance = balance + layer_balance / c["num_hidden_layers"]
        return rms_norm(x, self.norm, eps), balance

    def logits(self, hidden):
        """[N, H] -> [N, V] float32, through the tied embedding."""
        dtype = torch.bfloat16 if hidden.is_cuda else torch.float32
        return F.linear(hidden.to(dtype), self.embed.to(dtype)).float()


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_NORMS = ("input_layernorm", "post_attention_layernorm")


def _tensor_views(model):
    """(transformers' name, the tensor or the expert's slice of it), in checkpoint order."""
    yield "model.embed_tokens.weight", model.embed
    for index, layer in enumerate(model.layers):
        prefix = f"model.layers.{index}"
        for name in _ATTENTION:
            yield f"{prefix}.self_attn.{name}.weight", layer[name]
        yield f"{prefix}.block_sparse_moe.gate.weight", layer["gate"]
        for expert in range(model.config["num_local_experts"]):
            for name in ("w1", "w2", "w3"):
                yield (f"{prefix}.block_sparse_moe.experts.{expert}.{name}.weight",
                       layer[name][expert])
        for name in _NORMS:
            yield f"{prefix}.{name}.weight", layer[name]
    yield "model.norm.weight", model.norm


def to_checkpoint(model):
    """{transformers' name: bf16 tensor}."""
    return {name: t.detach().bfloat16().cpu().contiguous() for name, t in _tensor_views(model)}


def from_checkpoint(model, tensors):
    """Copies the tensors of `to_checkpoint` into the model."""
    with torch.no_grad():
        for name, view in _tensor_views(model):
            view.copy_(tensors[name].to(view.dtype))
