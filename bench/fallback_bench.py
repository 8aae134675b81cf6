#!/usr/bin/env python3
"""What each fallback of I/O costs: exports where io_uring, O_DIRECT or both are refused, against `dd` (buffered read and
write, flushed) of the same bytes, runs interleaved.

  bench/fallback_bench.py [--shape qwen2.5-0.5b] [--layers N] [--runs 5] [--dir DIR] [--program PATH] [--csv FILE] [-- OPTIONS...]

Cold (page cache dropped; needs root) and warm. Refusals are those of tests/e2e/forbid.py (seccomp). Prints medians,
ranges and ratios round by round; exit status 1 where the median of a ratio is above 1.3. OPTIONS go to `weighbridge export`.
"""
import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import export_bench as bench

FORBID = Path(__file__).resolve().parents[1] / "tests" / "e2e" / "forbid.py"
RUNGS = {  # name: (refused, options)
    "uring, O_DIRECT": ("", ["--io", "uring"]),
    "mmap": ("", ["--io", "mmap"]),
    "auto": ("", []),
    "no io_uring: pread, O_DIRECT": ("io_uring_setup=EPERM", []),
    "no O_DIRECT: uring, buffered": ("O_DIRECT=EINVAL", ["--io", "uring"]),
    "neither: pread, buffered": ("io_uring_setup=ENOSYS,O_DIRECT=EINVAL", ["--io", "pread"]),
    "no cachestat, no fallocate": ("cachestat=ENOSYS,fallocate=EOPNOTSUPP", []),
}
WORST = 1.3


def busy():
    """Seconds that all processors were at work, and seconds since the machine began"""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (sum(v[:8]) - v[3] - v[4]) / os.sysconf("SC_CLK_TCK"), time.monotonic()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shape", choices=[s for s in bench.SHAPES if s not in bench.FOUR_BITS], default="qwen2.5-0.5b")
    ap.add_argument("--layers", type=int)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--dir", default="/tmp/weighbridge-bench")
    ap.add_argument("--program", default="build/release/weighbridge")
    ap.add_argument("--csv")
    ap.add_argument("options", nargs="*")
    o = ap.parse_args()
    shape = list(bench.SHAPES[o.shape])
    shape[1] = o.layers or shape[1]
    model, out = Path(o.dir) / f"{o.shape}-{shape[1]}-3", Path(o.dir) / "out"
    if not model.is_dir():
        shutil.rmtree(f"{model}.making", ignore_errors=True)
        bench.make(f"{model}.making", shape, 3)
        os.rename(f"{model}.making", model)
    shards = sorted(str(f) for f in model.glob("*.safetensors"))
    size = sum(os.path.getsize(f) for f in shards)
    dd = ["sh", "-c", 'mkdir "$0" && for f; do dd if="$f" of="$0/${f##*/}" bs=4M conv=fsync status=none || exit 1; done', str(out), *shards]
    contenders = {"dd": ("", dd)} | {
        name: (refused, [o.program, "export", str(model), str(out), "-q", "--no-chat-template", *options, *o.options])
        for name, (refused, options) in RUNGS.items()}
    print(f"{o.shape}: {shape[1]} layers, {size / 1e9:.2f} GB in {len(shards)} files; {o.runs} rounds")
    rows, failed = [], False
    for state in ("cold", "warm"):
        walls, cpu, began, own = {name: [] for name in contenders}, {name: [] for name in contenders}, busy(), 0
        for _ in range(o.runs):
            for name, (refused, command) in contenders.items():
                shutil.rmtree(out, ignore_errors=True)
                os.sync()
                if state == "cold":
                    bench.drop_caches()
                else:
                    subprocess.run(["cat", *shards], stdout=subprocess.DEVNULL, check=True)
                wall, seconds, *_ = bench.run([sys.executable, str(FORBID), refused, *command])
                walls[name].append(wall)
                cpu[name].append(seconds / (size / 1e9))
                own += seconds
                rows.append([o.shape, state, name, f"{wall:.3f}", f"{seconds:.3f}", size])
        ended = busy()
        print(f"-- {state}; besides these runs {(ended[0] - began[0] - own) / (ended[1] - began[1]):.1f} processors were busy")
        for name, w in walls.items():
            ratios = [a / b for a, b in zip(w, walls["dd"])]
            worst = statistics.median(ratios) > WORST
            failed |= worst
            print(f"{bench.line(name, w)}  CPU per GB {statistics.median(cpu[name]):.2f} s  / dd {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} - {max(ratios):.2f}){'  TOO SLOW' if worst else ''}")
    shutil.rmtree(out, ignore_errors=True)
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([["shape", "state", "contender", "wall_s", "cpu_s", "bytes"], *rows])
    sys.exit(failed)


if __name__ == "__main__":
    main()
