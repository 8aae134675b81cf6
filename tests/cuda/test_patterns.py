"""How kernels touch memory where everything is aligned: 32-byte sectors of each warp's access against the fewest that its
bytes fit in, and passes over the banks of shared memory against the fewest.  `-s` prints the figures of bench/README.md."""
from collections import defaultdict

import numpy as np
import pytest

import test_casts
import test_packs
from test_casts import ARCHES, KINDS

IDEAL = {"global": 1.0, "shared": 1.0}
NEAR = {"global": 1.05, "shared": 1.0}  # group order: what a group takes begins anywhere in a sector
CASES = {f"cast/{k}": (lambda rng, k=k: test_casts.case(rng, "cast", k, 4, 2048), IDEAL) for k in KINDS}
CASES |= {f"cast/{k} of gathered rows": (lambda rng, k=k: test_casts.case(rng, "cast", k, 16, 2048, gather=True), IDEAL) for k in KINDS}
CASES |= {f"transpose/{k}": (lambda rng, k=k: test_casts.case(rng, "transpose", k, 256, 320), IDEAL) for k in KINDS}
CASES |= {f"pack4/{s}": (lambda rng, s=s, a=s == "in-act": test_packs.case(rng, s, 512, 256, 128, True, act=a), NEAR if s == "in-act" else IDEAL)
          for s in ("in", "in-act", "awq", "out")}
# A word of the row for each of its eight nibbles, wherever the order has it: what the rows of the other storages spare.
CASES["pack4/out in group order"] = (lambda rng: test_packs.case(rng, "out", 512, 256, 128, True, act=True), {"global": 4.0, "shared": 1.0})
CASES |= {f"zeros/{s}-{k}": (lambda rng, s=s, k=k: test_packs.zeros_case(rng, s, k, 256, 64, 0), IDEAL)
          for s in ("in", "awq", "out") for k in ("f16", "bf16")}
# Eight floats a thread, as two loads: each takes every sector of its warp's by half.
CASES |= {f"zeros/{s}-f32": (lambda rng, s=s: test_packs.zeros_case(rng, s, "f32", 256, 64, 0), {"global": w, "shared": 1.0})
          for s, w in (("in", 1.6), ("awq", 1.6), ("out", 1.0))}
# Eight bytes of a place as two stores: a few KB of a whole tensor.
CASES["group-order"] = (lambda rng: test_packs.order_case(test_packs.g_idx_of(rng, 1024, 128), 128), {"global": 1.5, "shared": 1.0})


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", CASES)
def test_access_patterns(arch, name):
    make, most = CASES[name]
    case = make(np.random.default_rng(1))
    case.on_device(arch)
    got, ideal = defaultdict(int), defaultdict(int)
    for m in case.memory:
        got[m["space"]] += m["got"]
        ideal[m["space"]] += m["ideal"]
    for space in got:
        print(f"sm_{arch} {name:28} {space:7} {got[space]:7} of {ideal[space]:7} {got[space] / ideal[space]:.2f}")
        assert got[space] <= most[space] * ideal[space]
