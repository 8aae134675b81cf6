"""LoRA merges: the kernels around the product against the CPU's arithmetic, which merger.c does block by block.  The product
is cuBLAS's on a device; here it is given, so that every bit behind it can be compared."""
import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_bool, c_float, c_int, c_size_t, c_void_p

import numpy as np
import pytest

import ptx_run
from kernels import CANARY, Counters, Job, Launch, Memory, address, blank, elements, library, ptx, transforms
from test_casts import ALL, ARCHES, KINDS, bytes_of


class Factor(Structure):
    _fields_ = [("at", c_void_p), ("pitch", c_size_t), ("dtype", c_int)]


class Merge(Structure):
    _fields_ = [("a", Factor), ("b", Factor), ("order", c_void_p), ("rank", c_size_t), ("scale", c_float), ("room", c_void_p)]


class Product(Structure):
    _fields_ = [("a", c_void_p), ("b", c_void_p), ("c", c_void_p), ("rows", c_size_t), ("cols", c_size_t), ("rank", c_size_t)]


class MergeLaunch(Structure):
    _fields_ = [("before_n", c_size_t), ("after_n", c_size_t), ("before", Launch * 2), ("after", Launch * 2), ("product", Product)]


@functools.cache
def lib():
    it = library()
    it.launch_merge.restype = c_bool
    it.launch_merge_room.restype = c_size_t
    it.launch_merge_room.argtypes = [POINTER(Job), c_size_t]
    it.merge_add.argtypes = [c_void_p, c_void_p, c_void_p, c_size_t, c_float]
    it.widen.argtypes = [c_void_p, c_void_p, c_int, c_size_t]
    return it


def dtype(kind):
    return transforms()[f"cast/{kind}-f16"].src


class Case:
    """`gaps`: bytes between rows of the weights, of a and of b."""

    def __init__(self, rng, kind, a_kind, b_kind, rows, cols, rank, across=False, gather=False, scale=0.75, src_at=0, gaps=(0, 0, 0), special=False):
        self.kind, self.kinds, self.rows, self.cols, self.rank, self.scale = kind, (a_kind, b_kind), rows, cols, rank, scale
        self.across, self.gather, self.src_at = across, gather, src_at
        there = rows + 5 if gather else rows
        self.pitch = [n * bytes_of(k) + gap for n, k, gap in zip((cols, cols, rank), (kind, a_kind, b_kind), gaps)]
        self.src = self.matrix(rng, kind, rows, cols, self.pitch[0], src_at, special)
        self.a = self.matrix(rng, a_kind, rank, cols, self.pitch[1])
        self.b = self.matrix(rng, b_kind, there, rank, self.pitch[2])
        self.order = rng.integers(0, there, rows).astype(np.uint32)
        self.product = elements(rng, "f32", rows * cols, 0.5 if special else 1).view(np.float32)

    def matrix(self, rng, kind, rows, cols, pitch, at=0, special=False):
        out = np.zeros(at + rows * pitch, np.uint8)
        x = elements(rng, kind, rows * cols, 0.5 if special else 1).view(np.uint8).reshape(rows, -1)
        out[at + np.arange(rows)[:, None] * pitch + np.arange(x.shape[1])] = x
        return out

    def transform(self, kind):
        return transforms()[f"{'transpose' if self.across else 'cast'}/{kind}-f16"]

    def job(self, src, dst):
        return Job(src=src, src_pitch=self.pitch[0], dst=dst, dst_pitch=2 * (self.rows if self.across else self.cols),
                   rows=self.rows, cols=self.cols)

    def widened(self, kind, raw, pitch, rows, cols, order=None):
        out = np.zeros((rows, cols), np.float32)
        for r in range(rows):
            row = np.ascontiguousarray(raw[(order[r] if order is not None else r) * pitch:])
            lib().widen(out[r:].ctypes.data, row.ctypes.data, dtype(kind), cols)
        return out

    def on_cpu(self):
        n = self.rows * self.cols
        half, total, dst = np.zeros(n, np.uint16), np.zeros(n, np.float32), blank(n * 2)
        first = self.job(self.src.ctypes.data + self.src_at, half.ctypes.data)
        first.dst_pitch = self.cols * 2
        transforms()[f"cast/{self.kind}-f16"].ref(byref(first))
        with np.errstate(all="ignore"):
            lib().merge_add(total.ctypes.data, half.ctypes.data, self.product.ctypes.data, n, self.scale)
        second = self.job(total.ctypes.data, dst.ctypes.data)
        second.src_pitch = self.cols * 4
        self.transform("f32").ref(byref(second))
        first.counters.flushed = first.counters.nan = 0
        lib().counters_add(byref(second.counters), byref(first.counters))
        return total, dst, second.counters.values()

    def on_device(self, arch):
        """(a and b in fp32, sum, result, counters)"""
        n = self.rows * self.cols
        counters = np.zeros(ctypes.sizeof(Counters), np.uint8)
        room = np.full(lib().launch_merge_room(byref(self.job(0, 0)), self.rank), CANARY, np.uint8)
        self.buffers = {"src": self.src, "a": self.a, "b": self.b, "order": self.order.view(np.uint8), "room": room,
                        "dst": blank(n * 2), "counters": counters}
        at = {name: address(i) for i, name in enumerate(self.buffers)}
        merge = Merge(Factor(at["a"], self.pitch[1], dtype(self.kinds[0])), Factor(at["b"], self.pitch[2], dtype(self.kinds[1])),
                      at["order"] if self.gather else None, self.rank, self.scale, at["room"])
        job, memory, out = self.job(at["src"] + self.src_at, at["dst"]), Memory(at["counters"], None, None), MergeLaunch()
        assert lib().launch_merge(byref(self.transform(self.kind)), byref(job), byref(memory), byref(merge), byref(out))
        assert (out.before_n, out.after_n) == (2, 2)
        self.memory = []
        for launch in out.before:
            self.start(arch, launch)
        p = out.product
        assert (p.rows, p.cols, p.rank) == (self.rows, self.cols, self.rank)
        a, b, c = (self.floats(room, x - at["room"], k) for x, k in ((p.a, self.rank * self.cols), (p.b, self.rows * self.rank), (p.c, n)))
        factors = a.copy(), b.copy()
        c[:] = self.product
        for launch in out.after:
            self.start(arch, launch)
        return *factors, c, self.buffers["dst"], Counters.from_buffer_copy(counters).values()

    @staticmethod
    def floats(room, at, n):
        assert at % 256 == 0
        return room[at:at + n * 4].view(np.float32)

    def start(self, arch, launch):
        kernel, args = launch.kernel.decode(), list(launch.arg[:launch.args_n])
        names = list(self.buffers)
        for i, value in enumerate(args):
            if value >= address(0):
                args[i] = ptx_run.At(self.buffers[names[(value >> 40) - 1]], value & ((1 << 40) - 1))
        if kernel.startswith("gpu_merge"):
            args[6] = float(np.uint32(args[6]).view(np.float32))
        source = [self.src, self.a, self.b, self.buffers["order"]]
        readonly = [i for i, a in enumerate(args) if isinstance(a, ptx_run.At) and any(a.buffer is b for b in source)]
        result = ptx(arch)[kernel].launch(kernel, tuple(launch.grid), tuple(launch.block), *args, readonly=readonly)
        assert not result.problems, result.problems
        self.memory += [m | {"kernel": kernel} for m in result.memory]

    def check(self, arch):
        total, want, want_counters = self.on_cpu()
        a, b, c, dst, counters = self.on_device(arch)
        order = self.order if self.gather else None
        for mine, wide in ((a, self.widened(self.kinds[0], self.a, self.pitch[1], self.rank, self.cols)),
                           (b, self.widened(self.kinds[1], self.b, self.pitch[2], self.rows, self.rank, order))):
            assert np.array_equal(mine.view(np.uint32), wide.reshape(-1).view(np.uint32))
        same = (c.view(np.uint32) == total.view(np.uint32)) | np.isnan(c) & np.isnan(total)  # any NaN is as good as another
        assert same.all(), f"{(~same).sum()} sums wrong, first at {same.argmin()}"
        dst, want = dst.view(np.uint16), want.view(np.uint16)
        nan = (dst & 0x7fff > 0x7c00) & (want & 0x7fff > 0x7c00)
        wrong = np.flatnonzero((dst != want) & ~nan)
        assert not len(wrong), f"{len(wrong)} values wrong, first at {wrong[0]}"
        assert counters == want_counters


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("across", [False, True])
def test_merge_of_any_size(arch, kind, across):
    rng = np.random.default_rng(1)
    for rows, cols, rank in [(1, 1, 1), (3, 5, 2), (2, 127, 3), (9, 128, 8), (5, 129, 16), (33, 260, 4), (17, 1027, 7)]:
        Case(rng, kind, "f32", "bf16", rows, cols, rank, across).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_merge_of_any_value(arch, kind):
    """Overflow, underflow, infinities that cancel out, NaNs of the weights and of the product."""
    rng = np.random.default_rng(2)
    for scale in (1.0, 0.3, -2.0, 1e-30, 3e38, 0.0):
        Case(rng, kind, "f32", "f32", 40, 300, 2, scale=scale, special=True).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kinds", [(a, b) for a in KINDS for b in KINDS])
@pytest.mark.parametrize("gather", [False, True])
def test_factors(arch, kinds, gather):
    rng = np.random.default_rng(3)
    for gaps in [(0, 0, 0), (6, 10, 2)] + [(1, 3, 5)] * ALL:
        Case(rng, "bf16", *kinds, 21, 70, 40, gather=gather, gaps=gaps).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_merge_at_any_address(arch, kind):
    rng = np.random.default_rng(4)
    for src_at in range(17) if ALL else (0, 1, 2, 4, 8, 12):
        for gap in (0, 2, 7, 16):
            Case(rng, kind, "f32", "f32", 3, 140, 1, src_at=src_at, gaps=(gap, 0, 0)).check(arch)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_sectors(arch, kind):
    case = Case(np.random.default_rng(5), kind, "bf16", "f32", 8, 1024, 32)
    case.on_device(arch)
    for m in case.memory:
        if m["space"] == "global" and m["kernel"].startswith(("gpu_merge", "gpu_widen")):
            assert m["got"] == m["ideal"], m
