#!/usr/bin/env python3
"""Archives: weighbridge pack and unpack against `tar | zstd -T0` and back, runs interleaved.

  bench/pack_bench.py [--export DIR | --shape llama-1.1b --layers 5] [--runs 5] [--dir DIR] [--program PATH] [--csv FILE]
  bench/pack_bench.py --at-once [--shape llama-1.1b --layers 12] [...]     # export --pack against export, then pack

Without --export: makes a synthetic bf16 checkpoint of a named shape with normally distributed weights, exports it, and
packs that. The files are in the page cache; every contender flushes what it wrote to disk, and what comes back is
compared with what went in. Prints sizes, medians, ranges and the ratio pair by pair. Needs Python, tar and zstd.

--at-once: one command that packs while it exports against two, one behind the other, from a checkpoint in the page cache whose
tensors stand by name, as in real ones. `after` is what packing took when the files were complete, as the report has it; the two
archives must be the same. The same command twice in a row says how much the machine swings.
"""
import argparse
import array
import csv
import filecmp
import hashlib
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys

import export_bench


def normal_weights():
    """32 MiB of bf16 from a normal distribution of deviation 0.02."""
    quantile = statistics.NormalDist(0, 0.02).inv_cdf
    table = array.array("H", (struct.unpack("<I", struct.pack("<f", quantile((i + 0.5) / 65536)))[0] + 0x8000 >> 16
                              for i in range(65536)))
    drawn = array.array("H", random.Random(1).randbytes(32 << 20))
    return memoryview(array.array("H", map(table.__getitem__, drawn)).tobytes())


def refill(path, source):
    """The data of a safetensors file anew: pieces of the source from anywhere in it, so that no two tensors begin alike."""
    draw = random.Random(2)
    with open(path, "r+b") as f:
        f.seek(8 + struct.unpack("<Q", f.read(8))[0])
        left = os.path.getsize(path) - f.tell()
        while left:
            n = min(left, 1 << 20)
            at = draw.randrange((len(source) - n) // 2) * 2
            f.write(source[at:at + n])
            left -= n


def make_model(o, model):
    shape = list(export_bench.SHAPES[o.shape])
    shape[1] = o.layers or shape[1]
    shutil.rmtree(model, ignore_errors=True)
    export_bench.make(model, shape, 1, by_name=o.at_once)
    refill(os.path.join(model, "model.safetensors"), normal_weights())


def make_export(o):
    shape = list(export_bench.SHAPES[o.shape])
    shape[1] = o.layers or shape[1]
    model, out = os.path.join(o.dir, f"pack-{o.shape}-{shape[1]}"), os.path.join(o.dir, f"pack-{o.shape}-{shape[1]}-export")
    if not os.path.isdir(out):
        make_model(o, model)
        subprocess.run([o.program, "export", model, out, "-q"], check=True)
        shutil.rmtree(model)
    return out


def size_of(directory):
    return sum(os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(directory) for f in files)


def same(a, b):
    """Every byte of every file."""
    names = sorted(os.listdir(a))
    _, differ, failed = filecmp.cmpfiles(a, b, names, shallow=False)
    return names == sorted(os.listdir(b)) and not differ and not failed


def remove(path):
    shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)


def at_once(o):
    """export --pack against export, then pack; and the latter against itself."""
    model, out, wbz, report = (os.path.join(o.dir, f"at-once-{o.shape}-{o.layers}{end}") for end in ("", ".out", ".wbz", ".json"))
    if not os.path.isdir(model):
        make_model(o, model)
    two = ["sh", "-c", '"$1" export "$2" "$3" -q && "$1" pack "$3" "$4" -q', "sh", o.program, model, out, wbz]
    contenders = {"export, then pack": two, "the same again": two,
                  "export --pack": [o.program, "export", model, out, "--pack", wbz, "--report", report, "-q"]}
    walls, rows, after, archives = {w: [] for w in contenders}, [], [], set()
    for i in range(o.runs + 1):
        for who, command in contenders.items():
            remove(out), remove(wbz)
            with open(os.path.join(model, "model.safetensors"), "rb") as f:
                while f.read(16 << 20):  # into the page cache
                    pass
            os.sync()
            wall, cpu, peak = export_bench.run(command)
            with open(wbz, "rb") as f:
                archives.add(hashlib.file_digest(f, "sha256").hexdigest())
            if i:
                walls[who].append(wall)
                rows.append([os.path.basename(model), who, f"{wall:.3f}", f"{cpu:.3f}", peak])
        with open(report) as f:
            seen = json.load(f)["archive"]
        if i:
            after.append(seen["after"])
            rows[-1] += [f"{seen['wall']:.3f}", f"{seen['after']:.3f}"]
            print(f"round {i}: packed for {seen['wall']:.2f} s, {seen['after']:.2f} s of them after the files were complete", flush=True)
    if len(archives) != 1:
        sys.exit("the archives differ")
    print(f"{out}: {size_of(out) / 1e6:.1f} MB, packed into {os.path.getsize(wbz) / 1e6:.1f} MB; {o.runs} rounds")
    for who in contenders:
        print(export_bench.line(who, walls[who]))
    print(export_bench.line("packing after the files", after))
    for ours in ("export --pack", "the same again"):
        print(export_bench.line(f"{ours} / two", [a / b for a, b in zip(walls[ours], walls["export, then pack"])], "x"))
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([["model", "contender", "wall_s", "cpu_s", "peak_rss", "packing_s", "after_s"], *rows])
    remove(out), remove(wbz), remove(report)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--export", help="a directory to pack instead of a synthetic one")
    ap.add_argument("--shape", choices=export_bench.SHAPES, default="llama-1.1b")
    ap.add_argument("--at-once", action="store_true", help="export --pack against export, then pack")
    ap.add_argument("--layers", type=int, help="default: 5; 12 with --at-once")
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--dir", default="/tmp/weighbridge-bench")
    ap.add_argument("--program", default="build/release/weighbridge")
    ap.add_argument("--csv")
    o = ap.parse_args()
    os.makedirs(o.dir, exist_ok=True)
    o.layers = o.layers or (12 if o.at_once else 5)
    if o.at_once:
        at_once(o)
        return
    source = os.path.abspath(o.export or make_export(o))
    wbz, tar, out = (os.path.join(o.dir, "packed" + end) for end in (".wbz", ".tar.zst", ".out"))
    bytes_ = size_of(source)
    contenders = {
        "tar | zstd -T0": (tar, ["sh", "-c", 'tar -C "$1" -cf - . | zstd -T0 -q -o "$2" && sync "$2"', "sh", source, tar]),
        "weighbridge pack": (wbz, [o.program, "pack", source, wbz, "-q"]),
        "zstd -dc | tar x": (out, ["sh", "-c", 'mkdir "$2" && zstd -dcq "$1" | tar -C "$2" -xf - && sync "$2"/*', "sh", tar, out]),
        "weighbridge unpack": (out, [o.program, "unpack", wbz, out, "-q"]),
    }
    walls, cpus, rows = {w: [] for w in contenders}, {w: [] for w in contenders}, []
    for i in range(o.runs + 1):
        for who, (result, command) in contenders.items():
            remove(result)
            os.sync()
            wall, cpu, peak = export_bench.run(command)
            if result == out and not same(source, out):
                sys.exit(f"{who}: what came back is not what went in")
            if i:  # the first round fills the page cache
                walls[who].append(wall)
                cpus[who].append(cpu / (bytes_ / 1e9))
                rows.append([os.path.basename(source), who, f"{wall:.3f}", f"{cpu:.3f}", peak, bytes_,
                             os.path.getsize(result) if result != out else bytes_])
    print(f"{source}: {bytes_ / 1e6:.1f} MB; {o.runs} rounds")
    for who, file in (("tar | zstd -T0", tar), ("weighbridge pack", wbz)):
        print(f"{who:<34} {os.path.getsize(file) / 1e6:8.1f} MB  {100 * os.path.getsize(file) / bytes_:.1f} %")
    for who in contenders:
        print(export_bench.line(who, walls[who]) + f"  {bytes_ / 1e9 / statistics.median(walls[who]):.2f} GB/s  "
              f"CPU {statistics.median(cpus[who]):.2f} s/GB")
    for ours, theirs in (("weighbridge pack", "tar | zstd -T0"), ("weighbridge unpack", "zstd -dc | tar x")):
        print(export_bench.line(f"{ours} / theirs", [a / b for a, b in zip(walls[ours], walls[theirs])], "x"))
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([["export", "contender", "wall_s", "cpu_s", "peak_rss", "bytes", "result_bytes"], *rows])
    for result, _ in contenders.values():
        remove(result)


if __name__ == "__main__":
    main()
