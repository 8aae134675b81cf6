"""Writes the files of a Hugging Face checkpoint from numpy arrays: safetensors, shards with their index, JSON.

A tensor is a `Tensor(dtype, shape, data)` with safetensors' name of the dtype and the raw bytes.
"""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Tensor:
    dtype: str  # "F32", "F16", "BF16", "I64", ... as in a safetensors header
    shape: tuple
    data: bytes


def tensor(array, dtype):
    """A float array in one of the three dtypes of checkpoints, rounded to nearest even."""
    a = np.ascontiguousarray(array, np.float32)
    if dtype == "F32":
        return Tensor(dtype, a.shape, a.tobytes())
    if dtype == "F16":
        return Tensor(dtype, a.shape, a.astype(np.float16).tobytes())
    if dtype != "BF16":
        raise ValueError(f"no float dtype {dtype}")
    bits = a.view(np.uint32)
    rounded = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
    return Tensor(dtype, a.shape, (np.where(np.isnan(a), bits | 0x400000, rounded) >> 16).astype(np.uint16).tobytes())


def write_safetensors(path, tensors, metadata=None):
    """Tensors in the order given, without gaps; the header is padded with spaces to a multiple of 8."""
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [end, end + len(t.data)]}
        end += len(t.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.writelines(t.data for t in tensors.values())


def write_shards(folder, tensors, shards):
    """One model.safetensors, or `shards` files of about equal size and their index."""
    folder = Path(folder)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
        return
    total = sum(len(t.data) for t in tensors.values())
    parts, done = [{} for _ in range(shards)], 0
    for name, t in tensors.items():
        parts[min(done * shards // total, shards - 1)][name] = t
        done += len(t.data)
    where = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, part, {"format": "pt"})
        where.update(dict.fromkeys(part, file))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
