"""Makes tiny checkpoints with random weights, in numpy only: what the tests convert.

    ckpt = checkpoints.make(tmp_path / "model", "qwen3")            # written and ready
    ckpt = checkpoints.make(tmp_path / "model", "llama", dtype="F32", shards=3, config={"vocab_size": 64})

    ckpt = checkpoints.build("llama")                               # or: build, spoil, write
    del ckpt.tensors["model.layers.1.mlp.up_proj.weight"]
    ckpt.config["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}
    ckpt.files["tokenizer.json"] = None                             # None: not written
    ckpt.write(tmp_path / "model")

A tensor is a `Tensor(dtype, shape, data)` with safetensors' name of the dtype and the raw bytes, so that a test can
write anything, wrong things included.  Same arguments, same bytes.
"""
import copy
import json
import os
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from checkpoint_files import Tensor, tensor, write_json, write_safetensors, write_shards  # noqa: E402,F401


def write_raw_safetensors(path, header, data, align=1):
    """Any text as header, any bytes as data: for files that are wrong on purpose."""
    text = header.encode()
    text += b" " * (-len(text) % align)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


def read_safetensors(path):
    """-> {name: Tensor}"""
    raw = Path(path).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    return {name: Tensor(t["dtype"], tuple(t["shape"]), raw[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in json.loads(raw[8:start]).items() if name != "__metadata__"}


# ---------------------------------------------------------------------------------------------------- families

BASE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 272, "max_position_embeddings": 256, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 256,
    "eos_token_id": 257, "torch_dtype": "bfloat16",
}
LLAMA3_ROPE = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
               "rope_type": "llama3"}
FAMILIES = {  # what each adds to BASE
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
              "mlp_bias": False, "rope_scaling": None},
    "llama3": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
               "mlp_bias": False, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE, "tie_word_embeddings": True},
    "llama_bias": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": True,
                   "mlp_bias": True},
    "mistral": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None,
                "num_key_value_heads": 1},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False,
              "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
    "qwen2_5": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False,
                "rms_norm_eps": 1e-6, "rope_theta": 1000000.0},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 32,
              "rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": None},
}
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
          " + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def linears(config):
    """(name within a layer, out, in, has a bias), in the order of a checkpoint."""
    h, m = config["hidden_size"], config["intermediate_size"]
    d = config.get("head_dim") or h // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    attention, mlp = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    qkv = attention or config["model_type"] == "qwen2"
    return [("self_attn.q_proj", q, h, qkv), ("self_attn.k_proj", kv, h, qkv), ("self_attn.v_proj", kv, h, qkv),
            ("self_attn.o_proj", h, q, attention), ("mlp.gate_proj", m, h, mlp), ("mlp.up_proj", m, h, mlp),
            ("mlp.down_proj", h, m, mlp)]


def weights(config, dtype, seed):
    """Every tensor that the configuration asks for.  Values are scaled so that attention and logits are lively."""
    out = {}

    def add(name, *shape, scale=1.0, mean=0.0):
        r = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
        out[name] = tensor(mean + scale * r.standard_normal(shape), dtype)

    h, vocab = config["hidden_size"], config["vocab_size"]
    d = config.get("head_dim") or h // config["num_attention_heads"]
    add("model.embed_tokens.weight", vocab, h)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        add(layer + "input_layernorm.weight", h, mean=1, scale=0.2)
        for name, rows, cols, bias in linears(config):
            add(layer + name + ".weight", rows, cols, scale=cols ** -0.5)
            if bias:
                add(layer + name + ".bias", rows, scale=0.3)
        if config["model_type"] == "qwen3":
            add(layer + "self_attn.q_norm.weight", d, mean=1, scale=0.2)
            add(layer + "self_attn.k_norm.weight", d, mean=1, scale=0.2)
        add(layer + "post_attention_layernorm.weight", h, mean=1, scale=0.2)
    add("model.norm.weight", h, mean=1, scale=0.2)
    if not config.get("tie_word_embeddings"):
        add("lm_head.weight", vocab, h, scale=h ** -0.5)
    return out


# ---------------------------------------------------------------------------------------------------- side files

SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]  # ids 256, 257, 258


def byte_letters():
    """The letter that stands for each byte in a byte-level BPE vocabulary."""
    plain = [b for b in range(256) if chr(b).isprintable() and b not in (0x20, 0xA0, 0xAD)]
    letters, extra = {b: chr(b) for b in plain}, 256
    for b in range(256):
        if b not in letters:
            letters[b] = chr(extra)
            extra += 1
    return letters


def tokenizer_json():
    """Byte-level BPE with the 256 bytes, no merges, and three special tokens."""
    vocab = {letter: b for b, letter in byte_letters().items()}
    added = [{"id": 256 + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, s in enumerate(SPECIAL)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])), "merges": []}}


def side_files(template):
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
              "model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast"}
    if template:
        config["chat_template"] = template
    return {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": config,
            "special_tokens_map.json": {key: config[key] for key in ("bos_token", "eos_token", "pad_token")}}


# ---------------------------------------------------------------------------------------------------- checkpoints


@dataclass
class Checkpoint:
    config: dict
    tensors: dict
    files: dict = field(default_factory=dict)  # name -> JSON value, text, bytes, or None for "not written"
    path: Path = None

    def write(self, path, shards=1):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        write_shards(self.path, self.tensors, shards)
        for name, value in {"config.json": self.config, **self.files}.items():
            if isinstance(value, bytes):
                (self.path / name).write_bytes(value)
            elif isinstance(value, str):
                (self.path / name).write_text(value, encoding="utf-8")
            elif value is not None:
                write_json(self.path / name, value)
        return self


def build(family="llama", dtype="BF16", config=None, template=CHATML, seed=0):
    """In memory only.  `config` overrides single keys; a key set to `...` is left out."""
    full = copy.deepcopy({**BASE, **FAMILIES[family]})
    full["torch_dtype"] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    full.update(copy.deepcopy(config or {}))
    full = {key: value for key, value in full.items() if value is not ...}
    return Checkpoint(full, weights(full, dtype, seed), side_files(template))


def make(path, family="llama", dtype="BF16", shards=1, config=None, template=CHATML, seed=0):
    return build(family, dtype, config, template, seed).write(path, shards)


def shapes(config):
    """name -> shape of every tensor that the configuration asks for"""
    h, vocab = config["hidden_size"], config["vocab_size"]
    out = {"model.embed_tokens.weight": (vocab, h), "model.norm.weight": (h,)}
    if not config.get("tie_word_embeddings"):
        out["lm_head.weight"] = (vocab, h)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        out |= {layer + name + ".weight": (rows, cols) for name, rows, cols, _ in linears(config)}
        out |= {layer + name + ".weight": (h,) for name in ("input_layernorm", "post_attention_layernorm")}
    return out


def write_sparse(path, config, first=()):
    """A llama of zeros that takes no room on disk, however large; `first`: bytes of U8 tensors before all others."""
    small = build("llama", config={"num_hidden_layers": 1})
    full = {**small.config, **config}
    header, at = {}, 0
    for i, n in enumerate(first):
        header[f"a.{i}"] = {"dtype": "U8", "shape": [n], "data_offsets": [at, at + n]}
        at += n
    for name, shape in shapes(full).items():
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    Checkpoint(full, {}, small.files).write(path)
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path / "model.safetensors", 8 + len(text) + at)
    return path


def transformers5(config):
    """The same configuration in transformers 5's spelling: `dtype`, and `rope_parameters` for all of rope."""
    new = {key: value for key, value in config.items() if not re.match(r"torch_dtype|rope_theta|rope_scaling", key)}
    new["dtype"] = config["torch_dtype"]
    new["rope_parameters"] = {"rope_type": "default", **(config.get("rope_scaling") or {}),
                              "rope_theta": config["rope_theta"]}
    return new
