#!/usr/bin/env python3
"""End to end: weighbridge export against `cp` + sync of the same bytes, runs interleaved.

  bench/export_bench.py [--shape llama-1.1b] [--layers N] [--runs 5] [--dir DIR] [--program PATH] [--csv FILE] [-- OPTIONS...]

Makes a synthetic bf16 checkpoint of a named shape once (kept in DIR), then measures in turn, cold (page cache
dropped; needs root) and warm: cp of the checkpoint's weights followed by sync, and an export with fsync. Prints
medians, ranges and the ratio pair by pair; peak memory is ru_maxrss of the process. OPTIONS go to `weighbridge
export`. Needs Python only. Timings of one machine swing with its neighbours: quote ratios.
"""
import argparse
import csv
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import time

SHAPES = {  # hidden, layers, intermediate, heads, kv heads, head_dim, vocabulary, tied
    "llama-1.1b": (2048, 22, 5632, 32, 4, 64, 32000, False),
    "llama-1b": (2048, 16, 8192, 32, 8, 64, 128256, True),
    "qwen2.5-0.5b": (896, 24, 4864, 14, 2, 64, 151936, True),
    "llama-8b": (4096, 32, 14336, 32, 8, 128, 128256, False),
    "llama-405b": (16384, 126, 53248, 128, 8, 128, 128256, False),  # for huge_bench.py, which makes it of holes
    "tiny": (256, 4, 512, 8, 2, 32, 4096, False),
}


def tensors(shape):
    h, layers, ff, q, kv, d, vocab, tied = shape
    yield "model.embed_tokens.weight", (vocab, h)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        yield p + "self_attn.q_proj.weight", (q * d, h)
        yield p + "self_attn.k_proj.weight", (kv * d, h)
        yield p + "self_attn.v_proj.weight", (kv * d, h)
        yield p + "self_attn.o_proj.weight", (h, q * d)
        yield p + "post_attention_layernorm.weight", (h,)
        yield p + "mlp.gate_proj.weight", (ff, h)
        yield p + "mlp.up_proj.weight", (ff, h)
        yield p + "mlp.down_proj.weight", (h, ff)
    yield "model.norm.weight", (h,)
    if not tied:
        yield "lm_head.weight", (vocab, h)


def pattern():
    """32 MiB of bf16 between 2^-8 and 2^2, all different enough; repeated to fill tensors."""
    block = bytearray(random.Random(1).randbytes(32 << 20))
    table = bytes((b & 0x80) | 0x3B + (b & 3) for b in range(256))
    block[1::2] = bytes(block[1::2]).translate(table)
    return memoryview(bytes(block))


def make(path, shape, shards, sparse=False):
    """`sparse`: weights are holes, zeros that take no room."""
    h, layers, ff, q, kv, d, vocab, tied = shape
    os.makedirs(path)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": h, "intermediate_size": ff,
              "num_hidden_layers": layers, "num_attention_heads": q, "num_key_value_heads": kv, "head_dim": d,
              "vocab_size": vocab, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "tie_word_embeddings": tied, "torch_dtype": "bfloat16"}
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    everything = list(tensors(shape))
    size = sum(2 * s[0] * (s[1] if len(s) > 1 else 1) for _, s in everything)
    parts, room = [[]], size / shards
    for name, s in everything:
        n = 2 * s[0] * (s[1] if len(s) > 1 else 1)
        if parts[-1] and room < n / 2 and len(parts) < shards:
            parts.append([])
            room = size / shards
        parts[-1].append((name, s, n))
        room -= n
    source, index = None if sparse else pattern(), {}
    for i, part in enumerate(parts):
        file = "model.safetensors" if len(parts) == 1 else f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        header, at = {}, 0
        for name, s, n in part:
            header[name] = {"dtype": "BF16", "shape": s, "data_offsets": [at, at + n]}
            index[name] = file
            at += n
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(path, file), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            if sparse:
                f.truncate(f.tell() + at)
                continue
            for name, s, n in part:
                at = hash(name) % 1000 * 2
                while n:
                    k = min(n, len(source) - at)
                    f.write(source[at:at + k])
                    n, at = n - k, 0
            f.flush()
            os.fsync(f.fileno())
    if len(parts) > 1:
        with open(os.path.join(path, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {}, "weight_map": index}, f)
    return size


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")


def run(command):
    """-> wall, cpu seconds, peak RSS in bytes"""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit(f"{' '.join(command)}: exit status {status >> 8}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def line(name, values, unit="s", scale=1):
    v = [x / scale for x in values]
    return f"{name:<34} median {statistics.median(v):8.2f} {unit}  range {min(v):.2f} - {max(v):.2f}"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shape", choices=SHAPES, default="llama-1.1b")
    ap.add_argument("--layers", type=int, help="other number of layers")
    ap.add_argument("--shards", type=int, default=1)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--dir", default="/tmp/weighbridge-bench")
    ap.add_argument("--program", default="build/release/weighbridge")
    ap.add_argument("--state", choices=["cold", "warm", "both"], default="both")
    ap.add_argument("--csv")
    ap.add_argument("options", nargs="*", help="for weighbridge export, after --")
    o = ap.parse_args()
    shape = list(SHAPES[o.shape])
    if o.layers:
        shape[1] = o.layers
    model = os.path.join(o.dir, f"{o.shape}-{shape[1]}-{o.shards}")
    out, copy = os.path.join(o.dir, "out"), os.path.join(o.dir, "copy")
    if not os.path.isdir(model):
        shutil.rmtree(model + ".making", ignore_errors=True)
        make(model + ".making", shape, o.shards)
        os.rename(model + ".making", model)
    files = sorted(f for f in os.listdir(model) if f.endswith(".safetensors"))
    size = sum(os.path.getsize(os.path.join(model, f)) for f in files)
    print(f"{o.shape}: {shape[1]} layers, {size / 1e9:.2f} GB in {len(files)} file(s); {o.runs} pairs")
    export = [o.program, "export", model, out, "-q", *o.options]
    cp = ["sh", "-c", 'mkdir "$0" && cp "$@" "$0"/ && sync', copy] + [os.path.join(model, f) for f in files]
    rows = []
    for state in ["cold", "warm"] if o.state == "both" else [o.state]:
        walls, ratios, cpu, rss = {"cp": [], "weighbridge": []}, [], [], []
        for i in range(o.runs + (state == "warm")):
            for who, command in (("cp", cp), ("weighbridge", export)):
                shutil.rmtree(out, ignore_errors=True)
                shutil.rmtree(copy, ignore_errors=True)
                os.sync()
                if state == "cold":
                    drop_caches()
                elif who == "weighbridge" or i == 0:
                    for f in files:
                        subprocess.run(["cat", os.path.join(model, f)], stdout=subprocess.DEVNULL, check=True)
                wall, seconds, peak = run(command)
                if state == "warm" and i == 0:
                    continue
                walls[who].append(wall)
                rows.append([o.shape, state, who, f"{wall:.3f}", f"{seconds:.3f}", peak, size])
                if who == "weighbridge":
                    cpu.append(seconds / (size / 1e9))
                    rss.append(peak)
            if walls["weighbridge"]:
                ratios.append(walls["weighbridge"][-1] / walls["cp"][-1])
        print(f"-- {state}")
        print(line("cp + sync", walls["cp"]))
        print(line("weighbridge export", walls["weighbridge"]))
        print(line("weighbridge / cp, pair by pair", ratios, "x"))
        print(line("weighbridge CPU per GB", cpu))
        print(line("weighbridge peak RSS", rss, "MB", 1e6))
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([["shape", "state", "contender", "wall_s", "cpu_s", "peak_rss", "bytes"], *rows])
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(copy, ignore_errors=True)


if __name__ == "__main__":
    main()
