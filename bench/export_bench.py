#!/usr/bin/env python3
"""End to end: weighbridge export against `cp` + sync of the same bytes and what the disk gives, runs interleaved.

  bench/export_bench.py [--shape llama-1.1b] [--layers N] [--runs 5] [--state cold|warm|limited|all] [--dir DIR]
                        [--program PATH] [--peers PYTHON] [--csv FILE] [-- OPTIONS...]

Makes a synthetic checkpoint of a named shape once (kept in DIR), then measures in turn, in each state:
  cold     page cache dropped before each run (needs root)
  warm     the checkpoint in the page cache
  limited  cold, in a memory cgroup of 512 MiB (skipped, and said, where cgroups are refused)
the contenders:
  raw      raw_io.c: all bytes are read past the page cache while as many as the export writes are written and flushed, no
           work between: the ceiling. Warm: written only
  cp       cp of the weights, then sync
  export   with fsync; OPTIONS go to it
  torch    with --peers PYTHON that has torch and safetensors: every tensor loaded, cast, transposed, saved
  edgellm  the Python exporter of TensorRT Edge-LLM beside that PYTHON, if there is one (the PyPI package tensorrt-edgellm[export];
           0.11 writes another graph, from the same weights and as many of them)
Prints medians, ranges and the ratios pair by pair, CPU per GB, the peaks of RssAnon and of the cgroup and how often
its limit was hit, and what is left in the page cache. Timings of one machine swing with its neighbours: quote ratios.
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
import threading
import time
from array import array

SHAPES = {  # hidden, layers, intermediate, heads, kv heads, head_dim, vocabulary, tied
    "llama-1.1b": (2048, 22, 5632, 32, 4, 64, 32000, False),
    "llama-1b": (2048, 16, 8192, 32, 8, 64, 128256, True),
    "qwen2.5-0.5b": (896, 24, 4864, 14, 2, 64, 151936, True),
    "qwen3-4b": (2560, 36, 9728, 32, 8, 128, 151936, True),  # of that size; by the names and graph of Llama
    "head-128256x8192": (8192, 1, 512, 4, 1, 128, 128256, True),  # next to nothing beside the head, tied to the embedding
    "gptq-1b": (2048, 22, 5632, 32, 4, 64, 32000, False),
    "llama-8b": (4096, 32, 14336, 32, 8, 128, 128256, False),
    "llama-405b": (16384, 126, 53248, 128, 8, 128, 128256, False),  # for huge_bench.py, which makes it of holes
    "tiny": (256, 4, 512, 8, 2, 32, 4096, False),
}


FOUR_BITS = {"gptq-1b": 128}  # inputs that share a scale


def tensors(shape):
    """-> name, shape of each"""
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


def stored(shape, group):
    """-> name, dtype, shape, bytes of each as the file has it; linears of layers in GPTQ where `group` is given."""
    for name, dims in tensors(shape):
        n = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        if not group or not name.endswith("_proj.weight"):
            yield name, "BF16", dims, n
            continue
        (out, into), module = dims, name[:-len("weight")]
        yield module + "g_idx", "I32", (into,), 4 * into
        yield module + "qweight", "I32", (into // 8, out), into * out // 2
        yield module + "qzeros", "I32", (into // group, out // 8), into // group * out // 2
        yield module + "scales", "F16", (into // group, out), into // group * out * 2


def pattern():
    """32 MiB of bf16 between 2^-8 and 2^2, all different enough; repeated to fill tensors."""
    block = bytearray(random.Random(1).randbytes(32 << 20))
    table = bytes((b & 0x80) | 0x3B + (b & 3) for b in range(256))
    block[1::2] = bytes(block[1::2]).translate(table)
    return memoryview(bytes(block))


def exact_bytes(name, n, group):
    """Of tensors whose values mean something: None for weights."""
    if name.endswith(".qzeros"):
        return b"\x77" * n  # symmetric
    if name.endswith(".g_idx"):
        return array("i", [k // group for k in range(n // 4)]).tobytes()
    return None


def make(path, shape, shards, sparse=False, group=0, by_name=False):
    """`sparse`: weights are holes, zeros that take no room. `by_name`: tensors stand in the order of their names (layer 10 behind
    layer 1), as the safetensors library writes them."""
    h, layers, ff, q, kv, d, vocab, tied = shape
    os.makedirs(path)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": h, "intermediate_size": ff,
              "num_hidden_layers": layers, "num_attention_heads": q, "num_key_value_heads": kv, "head_dim": d,
              "vocab_size": vocab, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "tie_word_embeddings": tied, "torch_dtype": "bfloat16"}
    if group:
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": True, "desc_act": False}
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    everything = sorted(stored(shape, group)) if by_name else list(stored(shape, group))
    size = sum(n for _, _, _, n in everything)
    parts, room = [[]], size / shards
    for name, dtype, s, n in everything:
        if parts[-1] and room < n / 2 and len(parts) < shards:
            parts.append([])
            room = size / shards
        parts[-1].append((name, dtype, s, n))
        room -= n
    source, index = None if sparse else pattern(), {}
    for i, part in enumerate(parts):
        file = "model.safetensors" if len(parts) == 1 else f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        header, at = {}, 0
        for name, dtype, s, n in part:
            header[name] = {"dtype": dtype, "shape": s, "data_offsets": [at, at + n]}
            index[name] = file
            at += n
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(path, file), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            if sparse:
                f.truncate(f.tell() + at)
                continue
            for name, _, _, n in part:
                exact = exact_bytes(name, n, group)
                if exact is not None:
                    f.write(exact)
                    continue
                at = len(name) * 2
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


def line(name, values, unit="s", scale=1):
    v = [x / scale for x in values]
    return f"{name:<34} median {statistics.median(v):8.2f} {unit}  range {min(v):.2f} - {max(v):.2f}"


class Cgroup:
    """A memory cgroup of its own for one run, of version 1 or 2; None where it is refused."""

    @staticmethod
    def parent():
        for row in open("/proc/self/cgroup").read().split():
            _, controllers, path = row.split(":", 2)
            if controllers == "memory":
                return "/sys/fs/cgroup/memory" + path, 1
            if not controllers and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
                return "/sys/fs/cgroup" + path, 2
        return None, 0

    @classmethod
    def make(cls, limit):
        parent, version = cls.parent()
        group = cls()
        try:
            group.path, group.version = os.path.join(parent, "weighbridge-bench"), version
            os.mkdir(group.path)
            group.write("memory.limit_in_bytes" if version == 1 else "memory.max", limit)
            return group
        except (OSError, TypeError):
            return None

    def write(self, name, value):
        with open(os.path.join(self.path, name), "w") as f:
            f.write(str(value))

    def read(self, name):
        return open(os.path.join(self.path, name)).read()

    def enter(self):
        self.write("cgroup.procs", os.getpid())

    def end(self):
        """-> peak in bytes, how often the limit was hit"""
        if self.version == 1:
            result = int(self.read("memory.max_usage_in_bytes")), int(self.read("memory.failcnt"))
        else:
            result = int(self.read("memory.peak")), int(dict(r.split() for r in self.read("memory.events").splitlines())["max"])
        os.rmdir(self.path)
        return result


def watch_anon(child, most):
    """The greatest RssAnon of a process, looked at every 10 ms."""
    while child.returncode is None:
        try:
            for row in open(f"/proc/{child.pid}/status"):
                if row.startswith("RssAnon:"):
                    most[0] = max(most[0], int(row.split()[1]) * 1024)
        except OSError:
            return
        time.sleep(0.01)


def measured(command, limit=None):
    """-> what a run took; None: no cgroup."""
    group = Cgroup.make(limit) if limit else None
    if limit and not group:
        return None
    most = [0]
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=group.enter if group else None)
    watcher = threading.Thread(target=watch_anon, args=(child, most), daemon=True)
    watcher.start()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    result = {"wall": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024}
    watcher.join()
    result["anon"] = most[0]
    result["cgroup"], result["hits"] = group.end() if group else (0, 0)
    if status:
        sys.exit(f"{' '.join(command)}: exit status {status >> 8}, signal {status & 127}")
    return result


def run(command):
    """-> wall, cpu seconds, peak RSS in bytes"""
    r = measured(command)
    return r["wall"], r["cpu"], r["rss"]


def cached(paths):
    """Bytes of files that are in the page cache."""
    paths = [p for p in paths if os.path.isfile(p)]
    if not paths or not shutil.which("fincore"):
        return 0
    rows = subprocess.run(["fincore", "-b", "-n", "-o", "RES", *paths], capture_output=True, text=True).stdout.split()
    return sum(map(int, rows))


PEER = """
import sys, glob, os
from safetensors import safe_open
from safetensors.torch import save_file
import torch
os.makedirs(sys.argv[2])
done = {}
for path in sorted(glob.glob(sys.argv[1] + "/*.safetensors")):
    with safe_open(path, "pt") as f:
        for name in f.keys():
            t = f.get_tensor(name)
            t = t.to(torch.float16) if t.is_floating_point() else t
            done[name] = t.t().contiguous() if t.dim() == 2 and "embed" not in name else t
save_file(done, sys.argv[2] + "/model.safetensors")
os.sync()
"""


def checkpoint(directory, name, layers=None, shards=1):
    """Makes it where it is not there. -> its path, those of its shards, their bytes"""
    shape = list(SHAPES[name])
    shape[1] = layers or shape[1]
    model = os.path.join(directory, f"{name}-{shape[1]}-{shards}")
    if not os.path.isdir(model):
        shutil.rmtree(model + ".making", ignore_errors=True)
        make(model + ".making", shape, shards, group=FOUR_BITS.get(name, 0))
        os.rename(model + ".making", model)
    paths = [os.path.join(model, f) for f in sorted(os.listdir(model)) if f.endswith(".safetensors")]
    return model, paths, sum(map(os.path.getsize, paths))


def plan(program, model, options):
    return json.loads(subprocess.run([program, "plan", model, "--json", *options], capture_output=True, text=True, check=True).stdout)


def output_bytes(program, model, options):
    """What an export of it writes."""
    return plan(program, model, options)["bytes"]["write"]


def with_template(model, directory):
    """-> the same checkpoint, by links, with a chat template, without which edgellm exports nothing."""
    path = os.path.join(directory, "with-template")
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    for name in os.listdir(model):
        os.symlink(os.path.abspath(os.path.join(model, name)), os.path.join(path, name))
    with open(os.path.join(path, "tokenizer_config.json"), "w") as f:
        json.dump({"chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"}, f)
    return path


def contenders(o, state, model, paths, written):
    out, copy = os.path.join(o.dir, "out"), os.path.join(o.dir, "copy")
    raw = [os.path.join(os.path.dirname(o.program), "bench", "raw_io"), os.path.join(copy, "raw"), str(written)]
    all_ = {"raw": ["sh", "-c", 'mkdir "$0" && exec "$@"', copy, *raw] + ([] if state == "warm" else paths),
            "cp": ["sh", "-c", 'mkdir "$0" && cp "$@" "$0"/ && sync', copy] + paths,
            "export": [o.program, "export", model, out, "-q", *o.options]}
    if o.peers:
        all_["torch"] = [o.peers, "-c", PEER, model, copy]
        edgellm = os.path.join(os.path.dirname(o.peers), "tensorrt-edgellm-export")
        if os.path.exists(edgellm):
            all_["edgellm"] = ["sh", "-c", '"$0" "$@" > /dev/null 2>&1 && sync', edgellm, with_template(model, o.dir), copy]
    return all_, [out, copy]


def round_(o, state, names, commands, places, paths, keep):
    """Every contender once; `keep` of its figures."""
    for who in names:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        os.sync()
        if state != "warm":
            drop_caches()
        else:
            subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)
        r = measured(commands[who], 512 << 20 if state == "limited" else None)
        if r is None:
            return False
        r["left_in"] = cached(paths)
        r["left_out"] = cached([os.path.join(d, f) for d in places if os.path.isdir(d) for f in os.listdir(d)])
        keep.setdefault(who, []).append(r)
    return True


def show(state, results, size, written):
    print(f"-- {state}")
    for who, runs in results.items():
        of = lambda key: [r[key] for r in runs]
        print(line(who, of("wall")) + f"  CPU {statistics.median(of('cpu')) / (size / 1e9):.2f} s/GB  RssAnon {max(of('anon')) / 1e6:.0f} MB"
              f"  left in the cache {statistics.median(of('left_in')) / 1e6:.0f} + {statistics.median(of('left_out')) / 1e6:.0f} MB"
              + (f"  cgroup peak {max(of('cgroup')) / 1e6:.0f} MB, limit hit {max(of('hits'))} times" if any(of("cgroup")) else ""))
    for base in ("cp", "raw", "torch", "edgellm"):
        if base in results and "export" in results:
            print(line(f"export / {base}, pair by pair",
                       [a["wall"] / b["wall"] for a, b in zip(results["export"], results[base])], "x"))
    if "cp" in results and written > size * 1.01:  # a tied head is written twice; cp copies it once
        moved = written / size if state == "warm" else (size + written) / (2 * size)
        print(line("export / cp, of a byte that is moved",
                   [a["wall"] / b["wall"] / moved for a, b in zip(results["export"], results["cp"])], "x"))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shape", choices=SHAPES, default="llama-1.1b")
    ap.add_argument("--layers", type=int, help="other number of layers")
    ap.add_argument("--shards", type=int, default=1)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--dir", default="/tmp/weighbridge-bench")
    ap.add_argument("--program", default="build/release/weighbridge")
    ap.add_argument("--state", choices=["cold", "warm", "limited", "both", "all"], default="both")
    ap.add_argument("--peers", metavar="PYTHON", help="a Python that has torch and safetensors")
    ap.add_argument("--csv")
    ap.add_argument("options", nargs="*", help="for weighbridge export, after --")
    o = ap.parse_args()
    model, paths, size = checkpoint(o.dir, o.shape, o.layers, o.shards)
    written = output_bytes(o.program, model, o.options)
    print(f"{o.shape}: {size / 1e9:.2f} GB in {len(paths)} file(s), {written / 1e9:.2f} GB written; {o.runs} rounds, "
          f"load {os.getloadavg()[0]:.1f}")
    rows = []
    for state in {"both": ["cold", "warm"], "all": ["cold", "warm", "limited"]}.get(o.state, [o.state]):
        results = {}
        commands, places = contenders(o, state, model, paths, written)
        names = list(commands)
        for i in range(o.runs):
            if not round_(o, state, names[i % len(names):] + names[:i % len(names)], commands, places, paths, results):
                print(f"-- {state}: skipped, no memory cgroup can be made here")
                break
        if results:
            show(state, results, size, written)
        rows += [[o.shape, state, who, i, *(f"{v:.3f}" if isinstance(v, float) else v for v in r.values()), size]
                 for who, runs in results.items() for i, r in enumerate(runs)]
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([["shape", "state", "contender", "round", "wall_s", "cpu_s", "peak_rss", "rss_anon", "cgroup_peak",
                                      "limit_hits", "cache_left_in", "cache_left_out", "bytes"], *rows])
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
