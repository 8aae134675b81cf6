#!/usr/bin/env python3
"""Which stage of an export limits it, and the rate to expect: from the rates of a machine's parts, for the CPU and for GPUs.

  bench/model.py [--machine NAME] [--written W] [--devices N ...] [--set PART=RATE ...] [--bytes GB]
  bench/model.py --check [--shape llama-1.1b] [--dir DIR] [--program PATH] [--runs 3]

The formula.  Every byte that is read uses each part of the machine by some bytes; a part that does `rate` of them in a second allows
rate / use source bytes a second; the export does the least of these, for all stages work at once.  W: bytes written for one read.

  part      rate in GB/s                                  use on the CPU   use on N devices
  read      storage, reading alone                        1                1
  write     storage, writing alone                        W                W
  both      storage, all bytes while it does both         1 + W            1 + W
  memory    of the host, all bytes                        2 + 3 W          2 + 3 W    (in, worker or copy-in, copy-out, hash, out)
  workers   source bytes that all threads transform       1                -
            (of a cached source: 1 / (1 / transform + 1 / map), for they map its pages as well)
  hash      the writer's thread                           W                W
  pcie      of one device, each direction                 -                1 / N and W / N; feed nccl: 1 and W / N
  nvlink    out of the device that is fed (feed nccl)     -                (N - 1) / N
  kernels   source bytes that one device transforms       -                1 / N
  driver    tiles that one thread can start, in bytes     -                1

Seconds of an export: start + bytes / rate; start is the plan, and the first touch of the buffers (at what a host takes to hand
out memory, where this is a virtual machine).

Machines are examples from data sheets and public measurements, not measurements of ours.  --check measures this machine's parts,
predicts exports from (not) cached sources to (no) files on the CPU, does them, and prints predicted / measured.
"""
import argparse
import csv
import ctypes
import ctypes.util
import io
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time

import export_bench

INFINITE = float("inf")
# GB/s.  workers: 16 threads of 5 GB/s on servers; driver: 4 MiB tiles, 30 us each.
MACHINES = {
    "server-8gpu": {"read": 24, "write": 12, "both": 28, "memory": 300, "workers": 80, "hash": 15, "pcie": 50, "nvlink": 400,
                    "kernels": 1000, "driver": 140, "start": 0.6},
    "server-1nvme": {"read": 6.5, "write": 4, "both": 8, "memory": 150, "workers": 40, "hash": 15, "pcie": 25, "nvlink": INFINITE,
                     "kernels": 600, "driver": 140, "start": 0.4},
    "jetson-orin": {"read": 3, "write": 2, "both": 4, "memory": 100, "workers": 12, "hash": 6, "pcie": 30, "nvlink": INFINITE,
                    "kernels": 60, "driver": 70, "start": 0.5},
    "laptop": {"read": 3, "write": 2, "both": 3.5, "memory": 40, "workers": 20, "hash": 12, "pcie": 12, "nvlink": INFINITE,
               "kernels": 150, "driver": 140, "start": 0.3},
}
PARTS = list(next(iter(MACHINES.values())))


def uses(written, devices=0, feed="direct", read=True, write=True):
    """-> part: bytes of it that one source byte takes.  `read` false: the source is in the page cache; `write` false: nothing is written."""
    w = written if write else 0
    use = {"read": read * 1.0, "write": w, "both": (read + w) if read and write else 0.0, "memory": 2.0 + 3 * w, "hash": w}
    if not devices:
        return {**use, "workers": 1.0}
    ingest = 1.0 if feed == "nccl" else 1.0 / devices
    nvlink = (devices - 1) / devices if feed == "nccl" else 0.0
    return {**use, "pcie": max(ingest, written / devices), "nvlink": nvlink, "kernels": 1.0 / devices, "driver": 1.0}


def rate(machine, use):
    """-> GB/s of the source, the part that limits it"""
    allowed = {part: machine.get(part, INFINITE) / u for part, u in use.items() if u}
    limit = min(allowed, key=allowed.get)
    return allowed[limit], limit


def table(machine, written, devices, gigabytes):
    rows = [("CPU", uses(written))]
    for n in devices:
        rows.append((f"{n} GPU{'s' * (n > 1)}, direct", uses(written, n)))
        if n > 1:
            rows.append((f"{n} GPUs, nccl", uses(written, n, "nccl")))
    print(f"{'':<20} {'GB/s':>8}  {'limited by':<10} {'then by':<10} {gigabytes:.0f} GB take")
    for name, use in rows:
        got, limit = rate(machine, use)
        second = rate(machine, {**use, limit: 0})[1]
        print(f"{name:<20} {got:8.2f}  {limit:<10} {second:<10} {machine['start'] + gigabytes / got:.0f} s")


# ---- what this machine's parts do ----

def timed(command):
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def hash_seconds(buffer, size):
    """CPU time of the library's best variant over memory that no cache holds."""
    library = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    hash_ = getattr(library, "XXH3_64bits_dispatch", library.XXH3_64bits)
    hash_.argtypes, hash_.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
    begin = time.thread_time()
    hash_(ctypes.addressof(buffer), size)
    return time.thread_time() - begin


def measure_hash():
    size = 256 << 20
    data = (ctypes.c_char * size).from_buffer(bytearray(b"\1") * size)
    return size / min(hash_seconds(data, size) for _ in range(5)) / 1e9


def measure_mapping(paths, hash_rate):
    """GB/s at which one thread maps the pages of cached files: what hashing them takes longer than hashing memory."""
    seconds = size = 0
    for path in paths:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) as m:
            while f.read(1 << 24):
                pass
            view = (ctypes.c_char * len(m)).from_buffer(m)
            seconds += hash_seconds(view, len(m))
            size += len(m)
            del view
    more = seconds * 1e9 / size - 1 / hash_rate
    return 1 / more if more > 0 else INFINITE


def measure_start(o, buffers):
    """Seconds of an export of next to nothing, and of touching as much memory as a larger one does."""
    model, _, _ = export_bench.checkpoint(o.dir, "tiny")
    least = min(timed([o.program, "export", model, os.path.join(o.dir, "out"), "-q", "--sink", "null"]) for _ in range(o.runs))
    touch = []
    for _ in range(o.runs):
        time.sleep(3)
        begin = time.monotonic()
        with mmap.mmap(-1, buffers) as m:
            m.madvise(mmap.MADV_HUGEPAGE)
            for at in range(0, buffers, mmap.PAGESIZE):
                m[at] = 1
        touch.append(time.monotonic() - begin)
    return least + statistics.median(touch)


def measure_workers(bench, threads):
    """-> GB/s of all threads that transpose at once, GB/s of memory traffic that copies make meanwhile"""
    runs = [subprocess.Popen([bench, "--only", "transpose/bf16", "--csv", "--runs", "3", "--mib", "192"], stdout=subprocess.PIPE, text=True)
            for _ in range(threads)]
    rows = [[r for r in csv.DictReader(io.StringIO(run.communicate()[0])) if "whole" in r["shape"]] for run in runs]
    best = [max(r, key=lambda row: float(row["gb_per_s"])) for r in rows]
    return (sum(float(b["gb_per_s"]) for b in best),
            sum(2 * float(b["gb_per_s"]) / float(b["of_nt_copy"]) for b in best))


def measure(o, paths, size, written):
    raw, scratch = os.path.join(o.tools, "raw_io"), os.path.join(o.dir, "raw")

    def disk(write, *read):
        if os.path.exists(scratch):
            os.unlink(scratch)
        export_bench.drop_caches()
        return timed([raw, scratch, str(write), *read])

    read = statistics.median(disk(0, *paths) for _ in range(o.runs))
    write = statistics.median(disk(written) for _ in range(o.runs))
    both = statistics.median(disk(written, *paths) for _ in range(o.runs))
    os.unlink(scratch)
    workers, memory = measure_workers(os.path.join(o.tools, "transform_bench"), os.cpu_count())
    hash_ = measure_hash()
    return {"read": size / read / 1e9, "write": written / write / 1e9, "both": (size + written) / both / 1e9, "memory": memory,
            "workers": workers, "hash": hash_, "map": measure_mapping(paths, hash_) * os.cpu_count()}


# ---- and whether the formula holds ----

def export_once(o, model, paths, cached, files):
    out, report = os.path.join(o.dir, "out"), os.path.join(o.dir, "report.json")
    shutil.rmtree(out, ignore_errors=True)
    if cached:
        subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)
        os.sync()
    else:
        export_bench.drop_caches()
    timed([o.program, "export", model, out, "-q", "--report", report, *([] if files else ["--sink", "null"])])
    with open(report) as f:
        totals = json.load(f)["totals"]
    shutil.rmtree(out, ignore_errors=True)
    return totals


def check(o):
    model, paths, size = export_bench.checkpoint(o.dir, o.shape)
    written = export_bench.output_bytes(o.program, model, [])
    machine = measure(o, paths, size, written)
    machine["start"] = measure_start(o, export_bench.plan(o.program, model, [])["memory"]["buffers"])
    print(f"{o.shape}: {size / 1e9:.2f} GB read, {written / 1e9:.2f} GB written; {o.runs} runs each, load {os.getloadavg()[0]:.1f}")
    print("  ".join(f"{part} {machine[part]:.2f}" for part in machine) + "  (GB/s; start: s)")
    print(f"{'source':<12} {'output':<8} {'predicted':>10} {'measured':>10} {'ratio':>6}  limited by")
    for cached in (False, True):
        for files in (False, True):
            workers = 1 / (1 / machine["workers"] + 1 / machine["map"]) if cached else machine["workers"]
            got, limit = rate({**machine, "workers": workers}, uses(written / size, read=not cached, write=files))
            predicted = machine["start"] + size / got / 1e9
            runs = [export_once(o, model, paths, cached, files) for _ in range(o.runs)]
            seconds = statistics.median(r["wall"] for r in runs)
            print(f"{'cached' if cached else 'not cached':<12} {'files' if files else 'none':<8} {predicted:8.2f} s {seconds:8.2f} s "
                  f"{predicted / seconds:6.2f}  {limit}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--machine", choices=MACHINES, default="server-8gpu")
    ap.add_argument("--written", type=float, default=1.0, help="bytes written for one that is read")
    ap.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    ap.add_argument("--set", nargs="+", default=[], metavar="PART=RATE", help="GB/s; start in seconds")
    ap.add_argument("--bytes", type=float, default=140, help="GB of the checkpoint")
    ap.add_argument("--check", action="store_true", help="measure this machine (needs root for the page cache)")
    ap.add_argument("--shape", choices=export_bench.SHAPES, default="llama-1.1b")
    ap.add_argument("--dir", default="/tmp/weighbridge-bench")
    ap.add_argument("--program", default="build/release/weighbridge")
    ap.add_argument("--runs", type=int, default=3)
    o = ap.parse_args()
    o.tools = os.path.join(os.path.dirname(o.program), "bench")
    if o.check:
        return check(o)
    machine = dict(MACHINES[o.machine])
    for text in o.set:
        part, _, value = text.partition("=")
        if part not in PARTS:
            sys.exit(f"--set {text}: no such part; expected one of {', '.join(PARTS)}")
        machine[part] = float(value)
    print("  ".join(f"{part} {machine[part]:g}" for part in PARTS))
    table(machine, o.written, o.devices, o.bytes)


if __name__ == "__main__":
    main()
