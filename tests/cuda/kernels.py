"""Runs a transform's kernels from nvcc's PTX, started as src/transform/launch.c says, and its definition on the CPU.

    case = Case("cast/bf16-f16", src=("in", 0), dst=("out", 0), rows=1, cols=9, buffers={"in": array, "out": array})
    case.check("80")            # both give the same bytes, in the whole of every buffer, and the same counters

Pointers of a job are (name of a buffer, offset); buffers are arrays of bytes.  On the device a buffer begins at an
address aligned to 256, as an allocation does, so offsets are what its alignment is tried by.
"""
import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np

import ptx_run

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cuda"
CANARY = 0xA5


class Counters(Structure):
    _fields_ = [("overflow", c_uint64), ("flushed", c_uint64), ("nan", c_uint64), ("worst", c_uint32),
                ("clamped", c_uint64), ("clamped_most", c_uint32)]

    def values(self):
        return {name: getattr(self, name) for name, _ in self._fields_}


class Pack4(Structure):
    _fields_ = [("inputs", c_uint32), ("group", c_uint32), ("zero_add", c_uint8), ("clamp", c_bool)]


class Extra(Structure):
    _fields_ = [("at", c_void_p), ("pitch", c_size_t)]


class Job(Structure):
    _fields_ = [("src", c_void_p), ("src_pitch", c_size_t), ("dst", c_void_p), ("dst_pitch", c_size_t), ("rows", c_size_t),
                ("cols", c_size_t), ("pack", POINTER(Pack4)), ("first", c_size_t), ("zeros", Extra), ("g_idx", Extra),
                ("counters", Counters)]


JOB_FN = ctypes.CFUNCTYPE(None, POINTER(Job))


class Transform(Structure):
    _fields_ = [("name", c_char_p), ("kind", c_int), ("src", c_int), ("dst", c_int), ("cut", c_int), ("ref", JOB_FN),
                ("fast", c_void_p * 4)]


class Launch(Structure):
    _fields_ = [("kernel", c_char_p), ("grid", c_uint32 * 3), ("block", c_uint32 * 3), ("args_n", c_uint32),
                ("arg", c_uint64 * 12)]


class Memory(Structure):
    _fields_ = [("counters", c_void_p), ("scratch", c_void_p), ("order", c_void_p)]


@functools.cache
def library():
    lib = ctypes.CDLL(str(BUILD / "tests" / "libtransforms.so"))
    lib.launch_job.restype = lib.launch_scratch.restype = c_size_t
    return lib


@functools.cache
def transforms():
    n = c_size_t.in_dll(library(), "transforms_n").value
    return {t.name.decode(): t for t in (Transform * n).in_dll(library(), "transforms")}


@functools.cache
def ptx(arch):
    """Kernel name -> the translated file that has it."""
    found = {}
    for path in sorted((BUILD / "cuda").glob(f"*.compute_{arch}.ptx")):
        code = ptx_run.Ptx(str(path))
        assert not code.refused, code.refused
        found.update(dict.fromkeys(code.kernels, code))
    return found


def address(i):
    """Of buffer i on the device; no buffer is as large as the distance to the next."""
    return (i + 1) << 40


class Case:
    def __init__(self, transform, buffers, src, dst, order=None, pack=None, zeros=(None, 0), g_idx=None, **fields):
        self.transform, self.buffers = transforms()[transform], buffers
        self.src, self.dst, self.order, self.zeros, self.g_idx, self.fields = src, dst, order, zeros, g_idx, fields
        self.pack = Pack4(**pack) if pack else None
        self.memory = []  # access patterns of the last run

    def job(self, at):
        """`at`: name of a buffer -> its address."""
        def pointer(place):
            return at(place[0]) + place[1] if place else None

        job = Job(src=pointer(self.src), dst=pointer(self.dst), zeros=Extra(pointer(self.zeros[0]), self.zeros[1]),
                  g_idx=Extra(pointer(self.g_idx), 0), **self.fields)
        if self.pack:
            job.pack = ctypes.pointer(self.pack)
        return job

    def on_cpu(self):
        """(buffers, counters) behind the definition; a gather is made row by row."""
        buffers = {name: b.copy() for name, b in self.buffers.items()}
        job = self.job(lambda name: buffers[name].ctypes.data)
        if not self.order:
            self.transform.ref(byref(job))
            return buffers, job.counters.values()
        total, rows, src, dst = Counters(), job.rows, job.src, job.dst
        step = 2 if self.transform.name.startswith(b"transpose") else job.dst_pitch
        for r, at in enumerate(buffers[self.order[0]].view(np.uint32)[:rows]):
            job.rows, job.src, job.dst = 1, src + int(at) * job.src_pitch, dst + r * step
            self.transform.ref(byref(job))
            library().counters_add(byref(total), byref(job.counters))
        return buffers, total.values()

    def launches(self, names):
        at = {name: address(i) for i, name in enumerate(names)}
        job = self.job(at.__getitem__)
        memory = Memory(at["counters"], at["scratch"], at[self.order[0]] if self.order else None)
        out = (Launch * 2)()
        n = library().launch_job(byref(self.transform), byref(job), byref(memory), out)
        assert n <= 2, "refused"
        return out[:n]

    def on_device(self, arch, order="forward", grid=None):
        """The same from the kernels; `order` of the threads, `grid` in place of the launch's own."""
        counters = np.zeros(ctypes.sizeof(Counters), np.uint8)
        scratch = np.full(max(library().launch_scratch(byref(self.transform), byref(self.job(lambda name: 1))), 4), CANARY, np.uint8)
        buffers = {name: b.copy() for name, b in self.buffers.items()} | {"counters": counters, "scratch": scratch}
        names, self.memory = list(buffers), []
        for launch in self.launches(names):
            kernel, args = launch.kernel.decode(), list(launch.arg[:launch.args_n])
            for i, value in enumerate(args):
                if value >= address(0):
                    args[i] = ptx_run.At(buffers[names[(value >> 40) - 1]], value & ((1 << 40) - 1))
            written = [buffers[self.dst[0]], counters, scratch]
            readonly = [i for i, a in enumerate(args) if isinstance(a, ptx_run.At) and not any(a.buffer is b for b in written)]
            code = ptx(arch)[kernel]
            code.order = order
            result = code.launch(kernel, grid or tuple(launch.grid), tuple(launch.block), *args, readonly=readonly)
            assert not result.problems, result.problems
            self.memory += [m | {"kernel": kernel} for m in result.memory]
        del buffers["counters"], buffers["scratch"]
        return buffers, Counters.from_buffer_copy(counters).values()

    def check(self, arch, **kwargs):
        want, want_counters = self.on_cpu()
        got, counters = self.on_device(arch, **kwargs)
        for name in want:
            wrong = np.flatnonzero(want[name] != got[name])
            assert not len(wrong), f"{name}: {len(wrong)} bytes wrong, first at {wrong[0]}: {self.fields}"
        assert counters == want_counters, self.fields


def blank(n):
    return np.full(n, CANARY, np.uint8)


SPECIAL = {  # bit patterns of each kind of value that a cast treats in its own way, and their neighbours
    "f32": [0, 1, 0x007fffff, 0x00800000, 0x33000000, 0x33000001, 0x32ffffff, 0x387fc000, 0x387fe000, 0x38800000, 0x3f800000,
            0x3f801000, 0x3f803000, 0x3f801001, 0x477fe000, 0x477fefff, 0x477ff000, 0x7f7fffff, 0x7f800000, 0x7f800001,
            0x7fc00000, 0x7fbfffff, 0x7fffffff],
    "bf16": [0, 1, 0x3300, 0x3301, 0x32ff, 0x387f, 0x3880, 0x3f80, 0x477f, 0x4780, 0x7f7f, 0x7f80, 0x7f81, 0x7fc0, 0x7fff],
    "f16": [0, 1, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0x7c00, 0x7c01, 0x7e00, 0x7fff],
}


def elements(rng, kind, n, ordinary=0.5):
    """Bits of n elements: ordinary ones, any bits at all, and special ones at every place."""
    bits = np.uint32 if kind == "f32" else np.uint16
    top = 8 * bits().itemsize - 1
    x = rng.integers(0, 1 << (top + 1), n, dtype=np.uint64)
    special = rng.choice(SPECIAL[kind], n).astype(np.uint64) | rng.integers(0, 2, n, dtype=np.uint64) << np.uint64(top)
    normal = rng.standard_normal(n).astype(np.float32)
    normal = (normal.astype(np.float16).view(np.uint16) if kind == "f16" else normal.view(np.uint32) >> (16 if kind == "bf16" else 0)).astype(np.uint64)
    pick = rng.random(n)
    return np.where(pick < ordinary, normal, np.where(pick < (1 + ordinary) / 2, special, x)).astype(bits)
