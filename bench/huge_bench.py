#!/usr/bin/env python3
"""What metadata costs for a model of 405 billion parameters, and that memory stays bounded however much is read.

  bench/huge_bench.py [--layers N] [--plan-only] [--dir DIR] [--program PATH] [--csv FILE] [-- OPTIONS...]

Makes a checkpoint of Llama 3.1 405B's shapes once (126 layers, 191 shards with real headers; the weights are holes,
which take no room), measures `plan` three times, then an export of its first N layers (default 16: 111 GB; 126: all of it)
into --sink null. Holes are read at memory speed and nothing is written: this is about memory and metadata, not disks.
Memory is the peak that the kernel reports of the process. OPTIONS go to `weighbridge export`. Needs Python only.
"""
import argparse
import csv
import json
import os
import shutil
import sys
import tempfile

import export_bench

SHAPE, SHARDS = "llama-405b", 191


def make(directory, layers):
    """-> path of the checkpoint with the first `layers` layers, its bytes"""
    shape = list(export_bench.SHAPES[SHAPE])
    shards = max(1, round(SHARDS * layers / shape[1]))
    shape[1] = layers
    path = os.path.join(directory, f"{SHAPE}-{layers}-sparse")
    shutil.rmtree(path, ignore_errors=True)
    return path, export_bench.make(path, shape, shards, sparse=True)


def peak(report):
    with open(report) as f:
        return json.load(f)["totals"]["peak_rss"]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--layers", type=int, default=16, help="of the export")
    ap.add_argument("--plan-only", action="store_true")
    ap.add_argument("--dir", default="/tmp/weighbridge-bench")
    ap.add_argument("--program", default="build/release/weighbridge")
    ap.add_argument("--csv")
    ap.add_argument("options", nargs="*", help="for weighbridge export, after --")
    o = ap.parse_args()
    rows = []
    os.makedirs(o.dir, exist_ok=True)
    model, size = make(o.dir, export_bench.SHAPES[SHAPE][1])
    print(f"{SHAPE}: {size / 1e9:.1f} GB in {SHARDS} shards, of holes")
    for _ in range(3):
        wall, cpu, rss = export_bench.run([o.program, "plan", model, "-q"])
        print(f"plan: {wall:.2f} s, {cpu:.2f} s of CPU, peak {rss / 1e6:.0f} MB")
        rows.append([SHAPE, "plan", f"{wall:.3f}", f"{cpu:.3f}", rss, size])
    if not o.plan_only:
        part, size = make(o.dir, o.layers)
        with tempfile.TemporaryDirectory() as scratch:
            report = os.path.join(scratch, "report.json")
            command = [o.program, "export", part, os.path.join(scratch, "out"), "--sink", "null", "-q", "--report", report]
            wall, cpu, _ = export_bench.run([*command, *o.options])
            rss = peak(report)
        print(f"export of {o.layers} layers, {size / 1e9:.1f} GB, to --sink null: {wall:.1f} s ({size / wall / 1e9:.2f} GB/s), "
              f"{cpu:.1f} s of CPU, peak {rss / 1e6:.0f} MB")
        rows.append([f"{SHAPE} of {o.layers} layers", "export --sink null", f"{wall:.3f}", f"{cpu:.3f}", rss, size])
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([["shape", "what", "wall_s", "cpu_s", "peak_rss", "bytes"], *rows])


if __name__ == "__main__":
    sys.exit(main())
