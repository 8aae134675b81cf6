#!/usr/bin/env python3
"""Answers a prompt with an export, to see that it is a working model: evaluates its model.onnx in numpy.

    onnx_run.py EXPORT "What is the capital of France?"

Everything comes from the export: the graph and its weights, the embedding, the tokenizer, the chat template's pieces, the
rope of config.json.  Arithmetic is fp32 throughout (an fp16 value is widened when it is loaded, a Cast between float
types does nothing), decoding is greedy with a KV cache.  The graph is interpreted: one numpy function for each
operator that an export of a text model uses, the runtime's attention plugin among them.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

# One token is a series of small products: on a busy machine, threads that wait for each other make it ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

# ---------------------------------------------------------------------------------------------------- operators


def rotate(x, cos, sin):
    """Rotary embedding of x [B, S, heads, D]: halves of its first 2 * cos.shape[-1] values rotate against each other."""
    h = cos.shape[-1]
    a, b = x[..., :h], x[..., h:2 * h]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * h:]], -1)


def first_position(context_lengths, start, tokens):
    """Where this call's tokens begin: no start index is a prefill, one token a decode, anything else a chunk."""
    if start.size == 0:
        return 0
    first = context_lengths - 1 if tokens == 1 else start
    if np.ptp(first):
        raise ValueError("rows that begin at different positions are not supported here")
    return int(first[0])


def attention(qkv, past, context_lengths, rope, start, num_q_heads, num_kv_heads, head_size, enable_tree_attention,
              enable_fp8_kv_cache):
    """trt::AttentionPlugin: rotary embedding, the KV cache grown by this call's tokens, causal attention."""
    if enable_tree_attention or enable_fp8_kv_cache:
        raise ValueError("tree attention and FP8 KV caches are not supported here")
    batch, tokens = qkv.shape[:2]
    first = first_position(context_lengths, start, tokens)
    heads = qkv.reshape(batch, tokens, num_q_heads + 2 * num_kv_heads, head_size)
    q, k, v = np.split(heads, [num_q_heads, num_q_heads + num_kv_heads], 2)
    cos, sin = np.split(rope[:, first:first + tokens, None], 2, -1)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)

    new = np.stack([k, v], 1).transpose(0, 1, 3, 2, 4)  # [B, 2, KV, S, D]
    present = np.concatenate([past[:, :, :, :first], new], 3)
    keys, values = present[:, 0], present[:, 1]
    q = q.transpose(0, 2, 1, 3).reshape(batch, num_kv_heads, -1, tokens, head_size)
    scores = q @ keys[:, :, None].swapaxes(-1, -2) * np.float32(head_size ** -0.5)
    future = np.arange(first + tokens) > first + np.arange(tokens)[:, None]
    scores[..., future] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    out = (p @ values[:, :, None]).reshape(batch, num_q_heads, tokens, head_size)
    return out.transpose(0, 2, 1, 3), present


def cast(x, to):
    kind = onnx.helper.tensor_dtype_to_np_dtype(to)
    return x.astype(np.float32 if kind.kind == "f" else kind, copy=False)


def gather_nd(x, indices, batch_dims):
    if batch_dims != 1 or indices.shape[-1] != 1:
        raise ValueError("GatherND other than rows of a batch is not supported here")
    return x[np.arange(x.shape[0])[:, None], indices[..., 0]]


def matmul(x, w):
    """A matrix on the right is one call of BLAS, not one for each row of the batch."""
    if w.ndim != 2:
        return x @ w
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])


def reshape(x, shape, allowzero=0):
    shape = [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape.tolist())]
    return x.reshape(shape)


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


OPERATORS = {  # inputs, then attributes by name
    "Add": np.add, "Mul": np.multiply, "Div": np.divide, "Sqrt": np.sqrt, "MatMul": matmul, "Sigmoid": sigmoid,
    "Pow": lambda x, e: x * x if e == 2 else np.power(x, e),
    "Cast": cast, "Reshape": reshape, "GatherND": gather_nd, "AttentionPlugin": attention,
    "ReduceMean": lambda x, axes, keepdims=1: x.mean(tuple(axes), keepdims=bool(keepdims)),
    "Concat": lambda *x, axis: np.concatenate(x, axis),
    "Gather": lambda x, i, axis=0: np.take(x, i, axis),
    "Shape": lambda x: np.array(x.shape, np.int64),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
}

# ---------------------------------------------------------------------------------------------------- graph


def widen(a):
    return a.astype(np.float32) if a.dtype == np.float16 else a


class Graph:
    """model.onnx, its weights in fp32; run() evaluates it."""

    def __init__(self, path):
        folder = Path(path).parent
        graph = onnx.load(path, load_external_data=False).graph
        self.inputs = {v.name: v.type.tensor_type for v in graph.input}
        self.outputs = [v.name for v in graph.output]
        self.constants = {t.name: widen(read_tensor(t, folder)) for t in graph.initializer}
        self.nodes = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self.constants[node.output[0]] = widen(read_tensor(attributes["value"], folder))
            elif node.op_type in OPERATORS:
                self.nodes.append((OPERATORS[node.op_type], list(node.input), list(node.output), attributes))
            else:
                raise ValueError(f"{path}: operator {node.op_type} is not supported here")

    def run(self, feeds):
        values = {**self.constants, **feeds}
        for operator, inputs, outputs, attributes in self.nodes:
            result = operator(*[values[name] for name in inputs], **attributes)
            values.update(zip(outputs, result if isinstance(result, tuple) else (result,)))
        return {name: values[name] for name in self.outputs}


def read_tensor(t, folder):
    if t.data_location != onnx.TensorProto.EXTERNAL:
        return numpy_helper.to_array(t)
    where = {entry.key: entry.value for entry in t.external_data}
    kind = onnx.helper.tensor_dtype_to_np_dtype(t.data_type)
    return np.memmap(folder / where["location"], kind, "r", int(where.get("offset", 0)), tuple(t.dims))


def read_safetensors(path, name):
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        t = json.loads(f.read(size))[name]
    if t["dtype"] != "F16":
        raise ValueError(f"{path}: {name} is {t['dtype']}, not F16")
    return np.memmap(path, np.float16, "r", 8 + size + t["data_offsets"][0], tuple(t["shape"]))


def rope_table(config, positions):
    """[1, positions, rotary dimensions]: cosines, then sines; what the runtime works out from config.json."""
    dim = int(config["head_dim"] * config["partial_rotary_factor"])
    f = config["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
    scaling = config["rope_scaling"] or {}
    kind = scaling.get("rope_type", "default")
    if kind == "linear":
        f = f / scaling["factor"]
    elif kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * f / (2 * np.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)  # 0: slow, all of it scaled; 1: fast, left alone
        f = (1 - smooth) * f / scaling["factor"] + smooth * f
    elif kind != "default":
        raise ValueError(f"rope_scaling {kind} is not supported here")
    angles = np.arange(positions)[:, None] * f
    return np.concatenate([np.cos(angles), np.sin(angles)], -1).astype(np.float32)[None]


# ---------------------------------------------------------------------------------------------------- model


class Model:
    """An export as a language model: token ids in, logits or token ids out."""

    def __init__(self, export):
        self.export = Path(export)
        self.config = self.read_json("config.json")
        self.embedding = read_safetensors(self.export / "embedding.safetensors", "embedding")
        self.graph = Graph(self.export / "model.onnx")

    def read_json(self, name):
        return json.loads((self.export / name).read_text(encoding="utf-8"))

    def start(self):
        """An empty KV cache."""
        shapes = {name: [d.dim_value for d in t.shape.dim] for name, t in self.graph.inputs.items()
                  if name.startswith("past_key_values_")}
        return {name: np.zeros((1, 2, s[2], 0, s[4]), np.float32) for name, s in shapes.items()}

    def step(self, ids, cache):
        """-> the logits after the last of `ids`, and the cache that holds them too"""
        past = next(iter(cache.values())).shape[3]
        end = past + len(ids)
        feeds = {"inputs_embeds": widen(self.embedding[ids])[None], "rope_rotary_cos_sin": rope_table(self.config, end),
                 # a chunk counts its own tokens, a decode all of them
                 "context_lengths": np.array([end if len(ids) == 1 else len(ids)], np.int32),
                 "kvcache_start_index": np.array([past] if past else [], np.int32),
                 "last_token_ids": np.array([[len(ids) - 1]], np.int64), **cache}
        out = self.graph.run(feeds)
        return out["logits"][0, 0], {name: out[name.replace("past", "present")] for name in cache}

    def generate(self, ids, limit, stop=()):
        """Greedy: the ids that follow, at most `limit`, the stopping one included."""
        out, cache = [], self.start()
        logits, cache = self.step(ids, cache)
        while True:
            out.append(int(logits.argmax()))
            if out[-1] in stop or len(out) == limit:
                return out
            logits, cache = self.step(out[-1:], cache)

    def chat(self, text):
        """The text that the runtime makes of a user's message."""
        template = self.read_json("processed_chat_template.json")

        def turn(role, content):
            return template["roles"][role]["prefix"] + content + template["roles"][role]["suffix"]
        system = template["default_system_prompt"]
        return (turn("system", system) if system else "") + turn("user", text) + template["generation_prompt"]

    def tokenizer(self):
        """-> the tokenizer, and the id that ends an answer"""
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(self.export / "tokenizer.json"))
        eos = self.read_json("tokenizer_config.json")["eos_token"]
        return tokenizer, tokenizer.token_to_id(eos["content"] if isinstance(eos, dict) else eos)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("export", metavar="EXPORT", help="directory that weighbridge wrote")
    ap.add_argument("prompt", metavar="PROMPT")
    ap.add_argument("--max-tokens", type=int, default=100, metavar="N", help="length of the answer (default 100)")
    o = ap.parse_args()
    begin = time.monotonic()
    model = Model(o.export)
    tokenizer, eos = model.tokenizer()
    loaded = time.monotonic()
    ids = tokenizer.encode(model.chat(o.prompt), add_special_tokens=False).ids
    answer = model.generate(ids, o.max_tokens, {eos})
    done = time.monotonic()
    print(f"loaded in {loaded - begin:.1f} s; {len(ids)} tokens of prompt and {len(answer)} of answer in "
          f"{done - loaded:.1f} s ({len(answer) / (done - loaded):.1f} tokens/s)", file=sys.stderr)
    print(tokenizer.decode(answer).strip())


if __name__ == "__main__":
    main()
