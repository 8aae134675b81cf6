"""4-bit weights, their zero points and the order of groups: kernels against the CPU, for every storage, cut and address."""
import numpy as np
import pytest

from kernels import Case, blank, elements
from test_casts import ALL, ARCHES

STORAGES = ["in", "in-act", "awq", "out"]


def nibbles(rng, words, low, high):
    x = rng.integers(low, high, (words, 8), dtype=np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)
    return np.bitwise_or.reduce(x, axis=1).astype(np.uint32)


def shifted(x, at):
    """The bytes of x, `at` bytes into a buffer."""
    return np.concatenate([np.zeros(at, np.uint8), x.view(np.uint8).reshape(-1)])


def g_idx_of(rng, inputs, group):
    return rng.permutation(np.arange(inputs) // group).astype(np.uint32)


def case(rng, storage, inputs, outputs, group, zeros, clamp=True, first=0, act=False, src_at=0, dst_at=0, zeros_at=0):
    """Panels are cells `first`.. of a larger matrix whose zero points are given from that cell's group on."""
    panel, by_output = storage in ("in", "awq"), storage == "out"
    groups = (first * 64 + inputs - 1) // group - first * 64 // group + 1 if panel else inputs // group
    low, high = (0, 16) if clamp or not zeros else (2, 14)
    buffers = {"src": shifted(nibbles(rng, inputs * outputs // 8, low, high), src_at),
               "dst": blank(dst_at + inputs * outputs // 2 + 64)}
    fields = {"rows": inputs // 64 if panel else 1, "cols": outputs // 4 if panel else outputs // 8, "first": first,
              "src_pitch": {"in": 32, "awq": 32, "in-act": 4}.get(storage, 0) * outputs + 4 * inputs * by_output,
              "dst_pitch": inputs * 2 if panel else 0}
    if zeros:
        add = int(rng.integers(0, 2))
        buffers["zeros"] = shifted(nibbles(rng, groups * outputs // 8, *((0, 16) if clamp else (6 - add, 11 - add))), zeros_at)
        fields["zeros"] = (("zeros", zeros_at), groups * 4 if by_output else outputs // 2)
    if act:
        buffers["g_idx"] = g_idx_of(rng, inputs, group).view(np.uint8)
        fields["g_idx"] = ("g_idx", 0)
    pack = {"inputs": inputs, "group": group, "zero_add": add if zeros else 0, "clamp": bool(zeros and clamp)}
    return Case(f"pack4/{storage}", buffers, src=("src", src_at), dst=("dst", dst_at), pack=pack, **fields)


def acts(storage):
    return {"in-act": [True], "out": [False, True]}.get(storage, [False])


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("zeros, clamp", [(False, False), (True, False), (True, True)])
def test_packing_of_any_size(arch, storage, zeros, clamp):
    """Around a unit, a warp and a block in both directions."""
    rng = np.random.default_rng(1)
    sizes = [(64, 8), (64, 136), (128, 248), (192, 256), (256, 264), (1088, 16), (64, 520)]
    for inputs, outputs in sizes + ([(i, o) for i in (64, 320, 960, 1024) for o in (8, 24, 128, 512, 528)] if ALL else []):
        for group in (8, 32, 64, 128, inputs):
            for act in acts(storage):
                if inputs % group == 0:
                    case(rng, storage, inputs, outputs, group, zeros, clamp, act=act).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("storage", ["in", "awq"])
def test_packing_of_a_part(arch, storage):
    """A panel that begins within a group."""
    rng = np.random.default_rng(2)
    for first, group in [(1, 64), (1, 128), (3, 128), (3, 192), (5, 16), (7, 1024)]:
        case(rng, storage, 192, 40, group, True, first=first).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("storage", STORAGES)
def test_packing_at_any_address(arch, storage):
    rng = np.random.default_rng(3)
    places = range(0, 17) if ALL else (0, 1, 2, 4, 8)
    for src_at in places:
        for dst_at in places:
            for act in acts(storage):
                case(rng, storage, 128, 40, 64, True, act=act, src_at=src_at, dst_at=dst_at, zeros_at=src_at % 5).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("order", ["reverse", "random:5"])
def test_packing_in_any_order_of_threads(arch, storage, order):
    rng = np.random.default_rng(4)
    case(rng, storage, 256, 136, 64, True, act=storage == "in-act").check(arch, order=order)


def order_case(g_idx, group, src_at=0, dst_at=0):
    buffers = {"src": shifted(g_idx, src_at), "dst": blank(dst_at + len(g_idx) * 8 + 16)}
    return Case("group-order", buffers, src=("src", src_at), dst=("dst", dst_at), rows=1, cols=1,
                pack={"inputs": len(g_idx), "group": group, "zero_add": 0, "clamp": False})


@pytest.mark.parametrize("arch", ARCHES)
def test_group_order(arch):
    """Shuffled, sorted, all the same, and no groups at all: a permutation in every case, the same one."""
    rng = np.random.default_rng(5)
    for inputs, group in [(64, 8), (64, 64), (128, 32), (1088, 64), (640, 128)]:
        for g_idx in (g_idx_of(rng, inputs, group), np.arange(inputs) // group, np.zeros(inputs), rng.integers(0, 1 << 32, inputs)):
            order_case(g_idx.astype(np.uint32), group).check(arch)
    for src_at, dst_at in [(1, 0), (0, 1), (2, 2), (4, 4), (3, 6)]:
        order_case(g_idx_of(rng, 128, 32), 32, src_at, dst_at).check(arch)


def zeros_case(rng, storage, kind, units, groups, add, src_at=0, dst_at=0, zeros_at=0):
    scales = elements(rng, kind, units * 8 * groups)
    by_output, pitch = storage == "out", scales.itemsize * 8
    buffers = {"src": shifted(scales, src_at), "zeros": shifted(nibbles(rng, units * groups, 0, 16), zeros_at),
               "dst": blank(dst_at + units * groups * 16 + 32)}
    return Case(f"zeros/{storage}-{kind}", buffers, src=("src", src_at), dst=("dst", dst_at), rows=units if by_output else 1,
                cols=groups, src_pitch=pitch * (groups if by_output else units), dst_pitch=units * 16,
                zeros=(("zeros", zeros_at), groups * 4 if by_output else units * 4),
                pack={"inputs": groups * 64, "group": 64, "zero_add": add, "clamp": False})


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("storage", ["in", "awq", "out"])
@pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
def test_corrections(arch, storage, kind):
    rng = np.random.default_rng(6)
    for units, groups in [(1, 1), (3, 5), (2, 63), (5, 65), (127, 2), (129, 3), (16, 16)]:
        for add in (0, 1):
            zeros_case(rng, storage, kind, units, groups, add).check(arch)
    for src_at, dst_at, zeros_at in [(1, 0, 0), (2, 0, 2), (0, 2, 1), (0, 1, 4), (8, 8, 8)]:
        zeros_case(rng, storage, kind, 5, 19, 1, src_at, dst_at, zeros_at).check(arch)
