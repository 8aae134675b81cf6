"""PEFT LoRA adapters with random matrices."""
import json

import ml_dtypes
import numpy as np
from checkpoints import tensor, write_safetensors

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"]}
NUMPY = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


class Adapter:
    """tensors by module: (A, B) as numpy; written as PEFT does."""

    def __init__(self, config=None, **modules):
        self.config = {**CONFIG, **(config or {})}
        self.tensors = {}

    def add(self, module, a, b, dtype="F32"):
        self.tensors[f"{module}.lora_A.weight"] = tensor(a, dtype)
        self.tensors[f"{module}.lora_B.weight"] = tensor(b, dtype)
        return self

    def write(self, path):
        path.mkdir()
        (path / "adapter_config.json").write_text(json.dumps({k: v for k, v in self.config.items() if v is not ...}))
        write_safetensors(path / "adapter_model.safetensors", self.tensors)
        return path


def pair(r=4, k=6, n=10, seed=0):
    g = np.random.RandomState(seed)
    return g.standard_normal((r, k)).astype(np.float32), g.standard_normal((n, r)).astype(np.float32)


def array(t):
    return np.frombuffer(t.data, NUMPY[t.dtype]).reshape(t.shape)
