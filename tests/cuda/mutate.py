#!/usr/bin/env python3
"""Plants faults of concurrency and of memory in the product's own GPU code, one after the other, and says what finds them.

    scripts/test-cuda.sh --mutate [NAME...]

Each mutant is built in a copy of the tree and exports a small model over simulated devices, by both feeds and in all schedules.  It is
caught where the simulation reports something (a race, misuse, a leak, a deadlock), a page faults, the export ends with an error that the
unplanted program does not have, or its bytes or report differ from the CPU's: what the tests of test_exports.py look at.  Prints a table;
exit status 1 when a mutant was caught nowhere, or one no longer finds its place in the source.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEDULES = ["lazy", "eager", *(f"random:{seed}" for seed in range(1, 6))]
DEVICE, NCCL, CUDA, LAUNCH, CAST = ("src/pipeline/device.c", "src/gpu/nccl.c", "src/gpu/cuda.c", "src/transform/launch.c",
                                    "src/transform/cast.cu")

# name, what is planted, file, from, to, feeds; the rows of the table of faults of the design, in its order.
MUTANTS = [
    ("slot", "a pinned slot is refilled before its copy ended", DEVICE,
     "    turn_begun(d, t);\n    return 0;\n}\n\nstatic int tile_in(",
     "    turn_begun(d, t);\n    for (unsigned i = 0; i < t->tiles_n; i++)\n        ring_transformed(&d->run->ring, t->tile[i]);\n"
     "    t->tiles_n = 0;\n    return 0;\n}\n\nstatic int tile_in(", "both"),
    ("result", "results are read before the wait", DEVICE,
     "if (gpu_wait(d->gpu, t->device, t->end[GPU_OUT], e) || turn_trace(d, t, e))", "if (turn_trace(d, t, e))", "both"),
    ("lane", "a lane is used again while its results go out", DEVICE,
     "if (gpu_wait(d->gpu, t->device, t->end[GPU_OUT], e) ||", "if (gpu_wait(d->gpu, t->device, t->end[GPU_COMPUTE], e) ||", "both"),
    ("kernel", "kernels do not wait for the copy in", DEVICE,
     "goes_on_after(d, t, GPU_COMPUTE, GPU_IN, e)", "begins(d, t, GPU_COMPUTE, e)", "both"),
    ("out", "copies out do not wait for the kernels", DEVICE,
     "goes_on_after(d, t, GPU_OUT, GPU_COMPUTE, e)", "begins(d, t, GPU_OUT, e)", "both"),
    ("reads", "a kernel reads and writes past its blocks", LAUNCH, "    add_arg(l, cols);\n    add_at(l, m->counters);\n    return true;",
     "    add_arg(l, cols + (4u << 20));\n    add_at(l, m->counters);\n    return true;", "direct"),
    ("reads-on", "a kernel reads and writes past its tile, but not past the block", LAUNCH,
     "    add_arg(l, cols);\n    add_at(l, m->counters);\n    return true;",
     "    add_arg(l, cols + 7);\n    add_at(l, m->counters);\n    return true;", "direct"),
    ("counter", "counters are not cleared", DEVICE,
     "        gpu_clear(d->gpu, device, GPU_COMPUTE, v->counters, items * sizeof *v->counters, e) ||\n", "", "both"),
    ("host", "the host reads device memory", DEVICE, "c = more_than(&t->notes[i], seen);", "c = more_than(&t->copies[i], seen);", "direct"),
    ("other", "a kernel gets another device's memory", DEVICE, "    t->device = device;\n    if (events_make",
     "    t->device = device;\n    if (device)\n        d->device[device].counters = d->device[0].counters;\n    if (events_make", "direct"),
    ("send-other", "NCCL gets another device's memory", NCCL, "r = n->call.recv(dst, bytes,", "r = n->call.recv((void *)(uintptr_t)src, bytes,", "nccl"),
    ("freed", "memory is used after it was given back", DEVICE, "    d->run->ring.area[device].at = v->panels;",
     "    gpu_free(d->gpu, device, v->turn[0].results, e);\n    d->run->ring.area[device].at = v->panels;", "direct"),
    ("rank", "one rank leaves out a collective", NCCL,
     "for (unsigned i = 0; !r && i < g->n; i++)\n        r = n->call.all_reduce",
     "for (unsigned i = 1; !r && i < g->n; i++)\n        r = n->call.all_reduce", "both"),
    ("receive", "a send without its receive", NCCL, "    if (!r)\n        r = n->call.recv(", "    if (!r && !bytes)\n        r = n->call.recv(", "nccl"),
    ("group", "a collective outside a group", NCCL, "    r = nccl_of(g)->call.group_start();\n", "    r = NCCL_OK;\n", "both"),
    ("leak", "memory of a device is not given back", CUDA, "r = cudaFree(at);", "r = cudaSuccess;", "direct"),
    ("leak-event", "an event is not destroyed", CUDA, "r = cudaEventDestroy(v->event);", "r = cudaSuccess;", "direct"),
    ("leak-stream", "streams are not destroyed", CUDA, "            cudaStreamDestroy(d->stream[s]);\n", "            continue;\n", "direct"),
    ("leak-communicator", "NCCL's communicators are not destroyed", NCCL, "            (at_once ? n->call.abort : n->call.destroy)(n->comm[i]);",
     "            continue;", "nccl"),
]


class Tree:
    """A copy to plant in, and its build."""

    def __init__(self, folder):
        self.path = Path(folder) / "tree"
        shutil.copytree(ROOT, self.path, symlinks=True, ignore=shutil.ignore_patterns("build", ".git", ".cache", "__pycache__"))
        self.build_path = self.path / "build" / "cuda"
        nvcc = re.search(r"^WEIGHBRIDGE_NVCC\S*=(.*)$", (ROOT / "build/cuda/CMakeCache.txt").read_text(), re.M).group(1)
        self.call("cmake", "-S", self.path, "-B", self.build_path, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DWEIGHBRIDGE_TESTS=ON",
                  "-DWEIGHBRIDGE_CUDA=ON", f"-DWEIGHBRIDGE_NVCC={nvcc}")
        self.build()

    @staticmethod
    def call(*command):
        r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if r.returncode:
            sys.exit(f"{command[0]}: {r.stdout[-3000:]}{r.stderr[-3000:]}")

    def build(self):
        self.call("cmake", "--build", self.build_path, "--target", "simcuda", "weighbridge", "weighbridge_cuda")


def outcome(exports, case, way, want, folder):
    """'' or in a few words how it was caught."""
    for name in ("out", "out.partial"):
        shutil.rmtree(Path(folder) / name, ignore_errors=True)
    try:
        got = exports.run(Path(folder), case, way, allowed=range(-64, 256), name="out")
    except AssertionError as e:
        text = str(e)
        line = next((row for row in text.splitlines() if "simcuda:" in row), text.splitlines()[0])
        return line.split("simcuda:", 1)[-1].strip()[:100]
    except subprocess.TimeoutExpired:
        return "never ends"
    if got.status < 0:
        return f"killed by signal {-got.status}"
    if got.status:
        return f"exit status {got.status}: {got.stderr.strip().splitlines()[-1][:80] if got.stderr.strip() else ''}"
    if any(v["failed"] for v in got.device["devices"]) or got.device["converts"] != "cuda":
        return "a device was given up"
    try:
        exports.same(want.out, got.out)
        exports.same_report(want, got)
    except AssertionError:
        return "other bytes or counters"
    return ""


def try_mutant(exports, tree, mutant, case, want, folder):
    """-> for each feed and schedule: how it was caught"""
    name, _, file, old, new, feeds = mutant
    source = tree.path / file
    text = source.read_text()
    if text.count(old) != 1:
        sys.exit(f"{name}: its place in {file} comes {text.count(old)} times, not once: change the mutant")
    source.write_text(text.replace(old, new))
    try:
        tree.build()
        return {(feed, schedule): outcome(exports, case, exports.Way(2, feed, schedule), want, folder)
                for feed in ("direct", "nccl") if feeds in ("both", feed) for schedule in SCHEDULES}
    finally:
        source.write_text(text)


def row(mutant, found):
    cells = [f"{sum(bool(v) for (_, s), v in found.items() if s.startswith(kind))} of {sum(s.startswith(kind) for _, s in found)}"
             for kind in ("lazy", "eager", "random")]
    first = next((v for v in found.values() if v), "NOTHING")
    return f"| {mutant[1]} | {' | '.join(cells)} | {first} |"


def main():
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(folder)
        os.environ["WEIGHBRIDGE_CUDA_BUILD"] = str(tree.build_path)
        sys.path.insert(0, str(ROOT / "tests" / "cuda"))
        import test_exports as exports
        model = exports.make_model(Path(folder) / "model", "BF16", 3001, 128, 3)
        case = ["export", model]
        want = exports.run(Path(folder), case, name="cpu")
        good = [outcome(exports, case, exports.Way(2, feed, s), want, folder) for feed in ("direct", "nccl") for s in SCHEDULES]
        if any(good):
            sys.exit(f"without a fault: {next(filter(None, good))}")
        print("| planted | lazy | eager | random | first said |\n|---|---|---|---|---|", flush=True)
        missed = 0
        for mutant in MUTANTS:
            if len(sys.argv) > 1 and mutant[0] not in sys.argv[1:]:
                continue
            found = try_mutant(exports, tree, mutant, case, want, folder)
            print(row(mutant, found), flush=True)
            missed += not any(found.values())
        return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
