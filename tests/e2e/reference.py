"""A Hugging Face checkpoint evaluated by itself, in numpy fp32: the second opinion on an export.

Shares no code with the exporter or with scripts/onnx_run.py, and takes another road where there is one: all positions at
once, no KV cache, heads one by one, weights as the checkpoint stores them ([out, in]), rotary embedding by complex
numbers.  Families: llama, mistral, qwen2 (2.5), qwen3.

    model = reference.Model(checkpoint)
    logits = model.logits([1, 2, 3])    # [3, vocab]

With `half`, weights are rounded to fp16 first, as an export stores them: then only the order of sums differs.
"""
import json
import math
from pathlib import Path

import numpy as np


def read_floats(file, begin, end, dtype, shape):
    raw = np.memmap(file, np.uint8, "r", begin, (end - begin,))
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return raw.view({"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32).reshape(shape)


def read_checkpoint(folder):
    """name -> fp32 array, from every safetensors file there is."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with open(file, "rb") as f:
            data = 8 + int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(data - 8))
        header.pop("__metadata__", None)
        for name, t in header.items():
            begin, end = t["data_offsets"]
            assert name not in tensors, f"{name} is there twice"
            tensors[name] = read_floats(file, data + begin, data + end, t["dtype"], t["shape"])
    return tensors


def inverse_frequencies(config, dim):
    """One for each pair of a head's dimensions, old and new spelling of the configuration."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta", 10000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    assert kind in ("default", "linear", "llama3"), kind
    out = []
    for i in range(dim // 2):
        f = 1.0 / theta ** (2 * i / dim)
        if kind == "linear":
            f /= rope["factor"]
        if kind == "llama3":
            f = llama3_frequency(f, rope)
        out.append(f)
    return np.array(out)


def llama3_frequency(f, rope):
    wavelength, old = 2 * math.pi / f, rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    if wavelength > old / low:
        return f / rope["factor"]
    if wavelength < old / high:
        return f
    smooth = (old / wavelength - low) / (high - low)
    return (1 - smooth) * f / rope["factor"] + smooth * f


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps)) * weight


def turn(x, turns):
    """Rotary embedding of one head [S, D]: dimensions i and i + D/2 are the real and imaginary part of a number."""
    h = x.shape[1] // 2
    z = (x[:, :h] + 1j * x[:, h:]) * turns
    return np.concatenate([z.real, z.imag], 1).astype(np.float32)


class Model:
    def __init__(self, folder, half=False):
        self.config = c = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        assert c["model_type"] in ("llama", "mistral", "qwen2", "qwen3"), c["model_type"]
        self.weights = read_checkpoint(folder)
        if half:
            self.weights = {name: w.astype(np.float16).astype(np.float32) for name, w in self.weights.items()}
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c["rms_norm_eps"]
        attention, mlp = bool(c.get("attention_bias")), bool(c.get("mlp_bias"))
        qwen2, bare = c["model_type"] == "qwen2", c["model_type"] == "mistral"
        self.biased = dict.fromkeys(["q_proj", "k_proj", "v_proj"], (attention or qwen2) and not bare)
        self.biased |= {"o_proj": attention and not qwen2 and not bare}
        self.biased |= dict.fromkeys(["gate_proj", "up_proj", "down_proj"], mlp and c["model_type"] == "llama")
        self.frequencies = inverse_frequencies(c, self.dim)

    def linear(self, x, name):
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights[name + ".bias"] if self.biased[name.rsplit(".", 1)[1]] else y

    def attention(self, x, layer):
        d, group = self.dim, self.heads // self.kv
        q, k, v = (self.linear(x, f"{layer}.{which}_proj") for which in "qkv")
        turns = np.exp(1j * np.arange(len(x))[:, None] * self.frequencies)
        hidden = np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
        out = []
        for h in range(self.heads):
            qh, kh, vh = (a[:, i * d:(i + 1) * d] for a, i in ((q, h), (k, h // group), (v, h // group)))
            if self.config["model_type"] == "qwen3":
                qh = norm(qh, self.weights[f"{layer}.q_norm.weight"], self.eps)
                kh = norm(kh, self.weights[f"{layer}.k_norm.weight"], self.eps)
            score = turn(qh, turns) @ turn(kh, turns).T / np.float32(math.sqrt(d)) + hidden
            score = np.exp(score - score.max(1, keepdims=True))
            out.append(score / score.sum(1, keepdims=True) @ vh)
        return self.linear(np.concatenate(out, 1), f"{layer}.o_proj")

    def mlp(self, x, layer):
        with np.errstate(over="ignore"):
            gate = self.linear(x, f"{layer}.gate_proj")
            gate /= 1 + np.exp(-gate)
        return self.linear(gate * self.linear(x, f"{layer}.up_proj"), f"{layer}.down_proj")

    def logits(self, ids):
        w = self.weights
        x = w["model.embed_tokens.weight"][ids]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + self.attention(norm(x, w[f"{layer}.input_layernorm.weight"], self.eps), f"{layer}.self_attn")
            x = x + self.mlp(norm(x, w[f"{layer}.post_attention_layernorm.weight"], self.eps), f"{layer}.mlp")
        x = norm(x, w["model.norm.weight"], self.eps)
        tied = self.config.get("tie_word_embeddings", False)
        return x @ w["model.embed_tokens.weight" if tied else "lm_head.weight"].T

    def follows(self, prompt, answer, stop):
        """Is `answer` what greedy decoding says after `prompt`?  One pass: every id must be the best after all before
        it, which by induction is the same as decoding one by one."""
        best = self.logits(prompt + answer[:-1])[len(prompt) - 1:].argmax(1).tolist()
        return best == answer and not set(answer[:-1]) & set(stop)
