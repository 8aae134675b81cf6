"""Casts, transposes and gathers of rows: kernels against the CPU, whatever the size, the alignment and the value."""
import os

import numpy as np
import pytest

from kernels import Case, blank, elements

ARCHES = ["80", "90"]
KINDS = ["bf16", "f32", "f16"]
ALL = "WEIGHBRIDGE_CUDA_ALL" in os.environ  # the whole matrix


def bytes_of(kind):
    return 4 if kind == "f32" else 2


def case(rng, what, kind, rows, cols, src_at=0, dst_at=0, src_gap=0, dst_gap=0, gather=False, x=None):
    """Gaps are bytes between rows; with `gather`, rows come in an order with repetitions out of a few more."""
    there = rows + 3 if gather else rows
    src_pitch, wide = cols * bytes_of(kind) + src_gap, rows if what == "transpose" else cols
    dst_pitch, dst_rows = wide * 2 + dst_gap, cols if what == "transpose" else rows
    src = np.zeros(src_at + there * src_pitch, np.uint8)
    x = elements(rng, kind, there * cols) if x is None else x
    at = src_at + np.arange(there)[:, None] * src_pitch + np.arange(cols * bytes_of(kind))
    src[at] = x.view(np.uint8).reshape(there, -1)
    buffers = {"src": src, "dst": blank(dst_at + dst_rows * dst_pitch + 64)}
    if gather:
        buffers["order"] = rng.integers(0, there, rows).astype(np.uint32).view(np.uint8)
    return Case(f"{what}/{kind}-f16", buffers, src=("src", src_at), dst=("dst", dst_at), src_pitch=src_pitch,
                dst_pitch=dst_pitch, rows=rows, cols=cols, order=("order", 0) if gather else None)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_every_value(arch, kind):
    x = np.arange(65536, dtype=np.uint16)
    case(None, "cast", kind, 1, 65536, x=x).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_cast_of_any_length(arch, kind):
    """Around a vector, a warp's step and a block's; special values stand at every place of a vector."""
    rng = np.random.default_rng(1)
    for n in [*range(1, 18), *range(248, 267), 511, 512, 513, 2047, 2048, 2049, 2056, 4096 + 263]:
        case(rng, "cast", kind, 1, n).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gather", [False, True])
def test_cast_at_any_address(arch, kind, gather):
    rng = np.random.default_rng(2)
    for src_at in range(0, 17) if ALL else (0, 1, 2, 4, 6, 8, 14, 16):
        for dst_at in range(0, 17) if ALL else (0, 1, 2, 8, 14):
            case(rng, "cast", kind, 2, 300, src_at, dst_at, gather=gather).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gather", [False, True])
def test_cast_of_rows(arch, kind, gather):
    """Rows with gaps; many short ones; few long ones; a block has more warps than there are rows or steps."""
    rng = np.random.default_rng(3)
    for rows, cols in [(1, 5), (3, 256), (5, 257), (17, 64), (9, 1000), (2, 2100)]:
        for src_gap, dst_gap in [(0, 0), (16, 0), (0, 16), (32, 48), (2, 6), (3, 5)]:
            case(rng, "cast", kind, rows, cols, src_gap=src_gap, dst_gap=dst_gap, gather=gather).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["reverse", "random:3"])
def test_a_small_grid_does_all(arch, kind, order):
    """Jobs larger than the grid: every loop over it goes round more than once."""
    rng = np.random.default_rng(4)
    case(rng, "cast", kind, 1, 9000).check(arch, grid=(1, 1, 1), order=order)
    case(rng, "cast", kind, 7, 2600, src_gap=4).check(arch, grid=(2, 3, 1), order=order)
    case(rng, "cast", kind, 40, 130, dst_gap=2).check(arch, grid=(1, 2, 1), order=order)


TILE_SIZES = [1, 2, 7, 8, 31, 33, 63, 64, 65, 127, 128, 129, 200]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", TILE_SIZES if ALL else [1, 2, 33, 63, 64, 65, 128, 129])
def test_transpose_of_any_size(arch, kind, rows):
    rng = np.random.default_rng(rows)
    for cols in TILE_SIZES if ALL else [1, 8, 31, 63, 64, 65, 128]:
        case(rng, "transpose", kind, rows, cols).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gather", [False, True])
def test_transpose_at_any_address(arch, kind, gather):
    """What is aligned takes the way by 16 bytes on that side, whatever the other does."""
    rng = np.random.default_rng(5)
    for src_at, src_gap in [(0, 0), (16, 16), (8, 0), (2, 2), (1, 0), (0, 7)]:
        for dst_at, dst_gap in [(0, 0), (16, 16), (4, 4), (2, 0), (0, 2), (1, 0), (0, 3)]:
            for rows, cols in [(64, 64), (128, 72), (66, 128)][:3 if ALL else 2]:
                case(rng, "transpose", kind, rows, cols, src_at, dst_at, src_gap, dst_gap, gather).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["reverse", "random:7"])
def test_transpose_in_any_order_of_threads(arch, kind, order):
    case(np.random.default_rng(6), "transpose", kind, 130, 190).check(arch, order=order)
    case(np.random.default_rng(6), "transpose", kind, 128, 192).check(arch, order=order)
