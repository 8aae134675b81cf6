#!/usr/bin/env python3
"""Turns the GGUF of SmolLM2-135M-Instruct back into a Hugging Face checkpoint: bf16 safetensors in three shards, config.json,
tokenizer and chat template.

    gguf_to_checkpoint.py SmolLM2-135M-Instruct.Q4_1.gguf CHECKPOINT

The demo's source of real weights: a package registry carries this GGUF.  It reads what that file needs (architecture
llama, tensors F32, Q8_0 and Q4_1, tokenizer gpt2/smollm) and refuses others.  Values are those of the quantized model.
"""
import argparse
import struct
from pathlib import Path

import numpy as np

from checkpoint_files import tensor, write_json, write_shards

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
NAMES = {  # within a layer
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}

# ---------------------------------------------------------------------------------------------------- GGUF


def q8_0(blocks):
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return d * blocks[:, 2:].view(np.int8)


def q4_1(blocks):
    d, m = np.split(blocks[:, :4].copy().view(np.float16).astype(np.float32), 2, 1)
    q = blocks[:, 4:]
    return d * np.concatenate([q & 15, q >> 4], 1) + m


BLOCKS = {  # GGUF type: bytes of a block, values of it, how to read it
    0: (4, 1, lambda blocks: blocks.view(np.float32)),
    3: (20, 32, q4_1),
    8: (34, 32, q8_0),
}


class Gguf:
    """`values`: the metadata; `tensors`: name -> (shape, type, offset of the data)."""

    def __init__(self, path):
        self.bytes, self.at = np.memmap(path, np.uint8, "r"), 4
        if self.bytes[:4].tobytes() != b"GGUF" or self.scalar("I") != 3:
            raise SystemExit(f"{path} is not a GGUF file of version 3")
        tensors, values = self.scalar("Q"), self.scalar("Q")
        self.values = {self.string(): self.value(self.scalar("I")) for _ in range(values)}
        self.tensors = {}
        for _ in range(tensors):
            name = self.string()
            shape = [self.scalar("Q") for _ in range(self.scalar("I"))][::-1]
            self.tensors[name] = (shape, self.scalar("I"), self.scalar("Q"))
        align = self.values.get("general.alignment", 32)
        self.data = -(-self.at // align) * align

    def take(self, n):
        self.at += n
        return self.bytes[self.at - n:self.at].tobytes()

    def scalar(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def string(self):
        return self.take(self.scalar("Q")).decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            of, n = self.scalar("I"), self.scalar("Q")
            return [self.value(of) for _ in range(n)]
        return self.scalar(SCALARS[kind])

    def floats(self, name):
        shape, kind, offset = self.tensors[name]
        if kind not in BLOCKS:
            raise SystemExit(f"{name} has GGUF type {kind}; F32, Q4_1 and Q8_0 are known here")
        block_bytes, block_values, read = BLOCKS[kind]
        begin, n = self.data + offset, int(np.prod(shape)) // block_values
        return read(self.bytes[begin:begin + n * block_bytes].reshape(n, block_bytes)).reshape(shape)


# ---------------------------------------------------------------------------------------------------- checkpoint


def unpair(weight, heads):
    """GGUF interleaves the two halves of a head that rotate against each other; a checkpoint has one after the other."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def tensors(gguf, config):
    out = {"model.embed_tokens.weight": gguf.floats("token_embd.weight")}
    for i in range(config["num_hidden_layers"]):
        for old, new in NAMES.items():
            out[f"model.layers.{i}.{new}.weight"] = gguf.floats(f"blk.{i}.{old}.weight")
        for which, heads in (("q", "num_attention_heads"), ("k", "num_key_value_heads")):
            name = f"model.layers.{i}.self_attn.{which}_proj.weight"
            out[name] = unpair(out[name], config[heads])
    out["model.norm.weight"] = gguf.floats("output_norm.weight")
    if len(out) != len(gguf.tensors):
        raise SystemExit(f"{len(gguf.tensors)} tensors in the GGUF, {len(out)} are known here")
    return {name: tensor(value, "BF16") for name, value in out.items()}


def model_config(values):
    def of(key):
        return values["llama." + key]
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"], "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu", "hidden_size": of("embedding_length"), "initializer_range": 0.041666666666666664,
        "intermediate_size": of("feed_forward_length"), "max_position_embeddings": of("context_length"),
        "mlp_bias": False, "model_type": "llama", "num_attention_heads": of("attention.head_count"),
        "num_hidden_layers": of("block_count"), "num_key_value_heads": of("attention.head_count_kv"),
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        # stored as fp32: the shortest decimal that means the same
        "rms_norm_eps": float(str(np.float32(of("attention.layer_norm_rms_epsilon")))),
        "rope_scaling": None, "rope_theta": of("rope.freq_base"), "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": of("vocab_size"),
    }


def added_tokens(values):
    """The control tokens."""
    return {i: {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True}
            for i, (token, kind) in enumerate(zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]))
            if kind == 3}


def tokenizer(values):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **token} for i, token in added_tokens(values).items()], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(values["tokenizer.ggml.tokens"])},
                  "merges": values["tokenizer.ggml.merges"]},
    }


def special_tokens(values):
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    return {name: values["tokenizer.ggml.tokens"][values[f"tokenizer.ggml.{key}_token_id"]]
            for name, key in names.items()}


def write_side_files(folder, values, config):
    special = special_tokens(values)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    write_json(folder / "tokenizer.json", tokenizer(values))
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False, "added_tokens_decoder": {str(i): t for i, t in added_tokens(values).items()},
        **special, "chat_template": values["tokenizer.chat_template"], "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"], "tokenizer_class": "GPT2Tokenizer"})


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("gguf", metavar="GGUF", type=Path)
    ap.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="directory to write, created when missing")
    o = ap.parse_args()
    gguf = Gguf(o.gguf)
    kind = [gguf.values.get(key) for key in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre")]
    if kind != ["llama", "gpt2", "smollm"]:
        raise SystemExit(f"{o.gguf} is {'/'.join(map(str, kind))}; only llama/gpt2/smollm is known here")
    config = model_config(gguf.values)
    o.checkpoint.mkdir(parents=True, exist_ok=True)
    write_shards(o.checkpoint, tensors(gguf, config), 3)
    write_side_files(o.checkpoint, gguf.values, config)


if __name__ == "__main__":
    main()
