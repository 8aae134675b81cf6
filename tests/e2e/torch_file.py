"""Writes pytorch_model.bin as torch.save does, without PyTorch: a zip file of a pickle and raw storages.

    torch_file.write(path / "pytorch_model.bin", checkpoints.build("llama").tensors)

    items = {name: torch_file.Item.of(t, key) ...}                   # or: spoil, then write
    entries = torch_file.entries(torch_file.pickled(items), storages)
    torch_file.write_zip(path, entries, compressed=("pytorch_model/data/0",))

`read` goes the other way by Python's own pickle module, with stubs in place of PyTorch's functions.
"""
import io
import pickle
import zipfile
from dataclasses import dataclass

from checkpoints import Tensor

STORAGES = {"BOOL": "BoolStorage", "U8": "ByteStorage", "I8": "CharStorage", "I16": "ShortStorage", "I32": "IntStorage",
            "I64": "LongStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F32": "FloatStorage",
            "F64": "DoubleStorage"}
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
FOLDER = "pytorch_model"
METADATA = {"": {"version": 1}, "model": {"version": 2}}  # of each module's version


@dataclass
class Item:
    """A tensor as the pickle describes it."""
    dtype: str
    shape: tuple
    key: str
    elements: int  # of the storage
    first: int = 0
    strides: tuple = None  # None: row by row
    parameter: bool = False

    @classmethod
    def of(cls, t, key, **kwargs):
        return cls(t.dtype, tuple(t.shape), key, len(t.data) // SIZES[t.dtype], **kwargs)


def row_by_row(shape):
    strides, inner = [], 1
    for n in reversed(shape):
        strides.append(inner)
        inner *= max(n, 1)
    return tuple(reversed(strides))


class Pickler:
    """The instructions of protocol 2 that torch.save's pickler writes, in its order, memo included."""

    def __init__(self):
        self.out, self.memo, self.kept = bytearray(b"\x80\x02"), {}, 0

    def add(self, *parts):
        for part in parts:
            self.out += part if isinstance(part, bytes) else part.encode()

    def put(self, shared=None):
        if shared:
            self.memo[shared] = self.kept
        self.add(b"q" + bytes([self.kept]) if self.kept < 256 else b"r" + self.kept.to_bytes(4, "little"))
        self.kept += 1

    def got(self, shared):
        """Writes what is in the memo already, if it is."""
        n = self.memo.get(shared)
        if n is not None:
            self.add(b"h" + bytes([n]) if n < 256 else b"j" + n.to_bytes(4, "little"))
        return n is not None

    def text(self, s, shared=False):
        if not (shared and self.got(s)):
            data = s.encode()
            self.add(b"X", len(data).to_bytes(4, "little"), data)
            self.put(s if shared else None)

    def name(self, module, name):
        if not self.got((module, name)):
            self.add(f"c{module}\n{name}\n")
            self.put((module, name))

    def number(self, n):
        if 0 <= n < 1 << 8:
            self.add(b"K", bytes([n]))
        elif 0 <= n < 1 << 16:
            self.add(b"M", n.to_bytes(2, "little"))
        elif -1 << 31 <= n < 1 << 31:
            self.add(b"J", n.to_bytes(4, "little", signed=True))
        else:
            data = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
            self.add(b"\x8a", bytes([len(data)]), data)

    def numbers(self, values):
        self.add("" if 0 < len(values) < 4 else "(" if values else ")")
        for n in values:
            self.number(n)
        if values:
            self.add({1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(values), b"t"))
            self.put()

    def ordered_dict(self):
        self.name("collections", "OrderedDict")
        self.add(")R")
        self.put()

    def storage(self, item):
        self.add("(")
        self.text("storage", shared=True)
        self.name("torch", STORAGES[item.dtype])
        self.text(item.key)
        self.text("cpu", shared=True)
        self.number(item.elements)
        self.add("t")
        self.put()
        self.add("Q")

    def tensor(self, item):
        self.name("torch._utils", "_rebuild_tensor_v2")
        self.add("(")
        self.storage(item)
        self.number(item.first)
        self.numbers(item.shape)
        self.numbers(row_by_row(item.shape) if item.strides is None else item.strides)
        self.add(b"\x89")
        self.ordered_dict()
        self.add("t")
        self.put()
        self.add("R")
        self.put()

    def parameter(self, item):
        self.name("torch._utils", "_rebuild_parameter")
        self.tensor(item)
        self.add(b"\x89")
        self.ordered_dict()
        self.add(b"\x87")
        self.put()
        self.add("R")
        self.put()

    def value(self, v):
        if isinstance(v, Item):
            (self.parameter if v.parameter else self.tensor)(v)
        elif isinstance(v, dict):
            self.add("}")
            self.put()
            self.items(v)
        elif isinstance(v, bytes):  # any instructions
            self.add(v)
        elif isinstance(v, str):
            self.text(v)
        elif v is None:
            self.add("N")
        elif isinstance(v, bool):
            self.add(b"\x88" if v else b"\x89")
        else:
            self.number(v)

    def items(self, d):
        pairs = list(d.items())
        for i in range(0, len(pairs), 1000):
            batch = pairs[i:i + 1000]
            self.add("(" if len(batch) > 1 else "")
            for name, v in batch:
                self.text(name)
                self.value(v)
            self.add("u" if len(batch) > 1 else "s")


def pickled(items, state_dict=False):
    """Of a dict; `state_dict`: as model.state_dict() gives it, an OrderedDict with an attribute."""
    p = Pickler()
    if state_dict:
        p.ordered_dict()
        p.items(items)
        p.add("}")
        p.put()
        p.text("_metadata")
        p.ordered_dict()
        p.items(METADATA)
        p.add("sb")
    else:
        p.value(items)
    return bytes(p.out) + b"."


def entries(pickle_bytes, storages, byteorder=b"little"):
    """Everything that torch.save puts into the zip file, by name."""
    out = {"data.pkl": pickle_bytes, ".format_version": b"1", ".storage_alignment": b"64", "byteorder": byteorder,
           **{f"data/{key}": data for key, data in storages.items()}, "version": b"3\n",
           ".data/serialization_id": b"0" * 40}
    return {f"{FOLDER}/{name}": data for name, data in out.items() if data is not None}


def write_zip(path, all_entries, compressed=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for name, data in all_entries.items():
            z.writestr(name, data, zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED)


def describe(tensors, **kwargs):
    """-> items and storages, one for each tensor"""
    return ({name: Item.of(t, str(i), **kwargs) for i, (name, t) in enumerate(tensors.items())},
            {str(i): t.data for i, t in enumerate(tensors.values())})


def write(path, tensors, state_dict=False, **kwargs):
    items, storages = describe(tensors, **kwargs)
    write_zip(path, entries(pickled(items, state_dict), storages))


# ---------------------------------------------------------------------------------------------------- reading

DTYPES = {storage: dtype for dtype, storage in STORAGES.items()}


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        return {"_rebuild_tensor_v2": self.tensor, "_rebuild_parameter": lambda t, *rest: t,
                "OrderedDict": dict}.get(name) or DTYPES[name]

    @staticmethod
    def persistent_load(pid):
        return pid

    @staticmethod
    def tensor(storage, first, shape, strides, requires_grad, hooks):
        return Item(storage[1], shape, storage[2], storage[4], first, strides)


def read(path):
    """-> {name: (Item, Tensor)} of row-by-row tensors"""
    with zipfile.ZipFile(path) as z:
        folder = z.namelist()[0].split("/")[0]
        items = Unpickler(io.BytesIO(z.read(f"{folder}/data.pkl"))).load()
        out = {}
        for name, item in items.items():
            assert item.strides == row_by_row(item.shape)
            size, n = SIZES[item.dtype], 1
            for length in item.shape:
                n *= length
            data = z.read(f"{folder}/data/{item.key}")
            assert len(data) == item.elements * size
            out[name] = (item, Tensor(item.dtype, item.shape, data[item.first * size:(item.first + n) * size]))
        return out
