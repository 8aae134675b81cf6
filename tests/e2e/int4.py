"""INT4 linears: every format that checkpoints store them in, and what an export must hold.  Slow and obvious, by the rules.

    q = int4.quantize(checkpoints.build("llama", config=...), "gptq", group=32, sym=False, desc_act=True)
    q.checkpoint.write(tmp_path / "model")                  # what the program reads
    int4.dequantized(q).write(tmp_path / "plain")           # the same model with plain fp32 weights
    q.linears["model.layers.0.mlp.up_proj"].expected()      # the bytes that belong into its plugin node

    int4.Export(out).linear("model.layers.0.mlp.up_proj")   # the bytes that are there, found by data flow
    int4.read_gptq(tensors, module)                         # a Linear, from a file's tensors

Shares no code with the exporter nor with compare_onnx.py; test_int4_reference.py holds it against the goldens.
"""
import copy
import re
import zlib
from dataclasses import dataclass

import checkpoints
import ml_dtypes
import numpy as np
import onnx
from checkpoints import Tensor, tensor
from onnx import numpy_helper

LINEAR = re.compile(r"(?:.*\.)?(?:layers\.\d+|midlayer)\.(?:self_attn|mlp)\.\w+_proj")
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

# ---------------------------------------------------------------------------------------------------- the plugin's layout

PAIRS = [0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27, 4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31]
WITHIN_8 = [0, 2, 4, 6, 1, 3, 5, 7]
OF_32 = [PAIRS[eight + i] for eight in range(0, 32, 8) for i in WITHIN_8]  # place -> which of each 32 of k lies there
OF_64 = OF_32 + [32 + k for k in OF_32]


def pack_plugin(nibbles):
    """[out, in] of 0..15 -> int8 [out/2, in]: blocks of 4 rows by 64 columns, 4 nibbles to a 16-bit word, low one first."""
    rows, cols = nibbles.shape
    assert rows % 4 == 0 and cols % 64 == 0
    words = np.zeros((rows // 4, cols), "<u2")
    for n in range(0, rows, 4):
        for k in range(0, cols, 64):
            line = [int(nibbles[n + row, k + place]) for row in range(4) for place in OF_64]
            for word in range(64):
                a, b, c, d = line[4 * word:4 * word + 4]
                words[n // 4, k + word] = a | b << 4 | c << 8 | d << 12
    return words.view(np.int8).reshape(rows // 2, cols)


def unpack_plugin(packed):
    rows, cols = packed.shape[0] * 2, packed.shape[1]
    words = np.ascontiguousarray(packed).view("<u2").reshape(rows // 4, cols)
    nibbles = np.zeros((rows, cols), np.uint8)
    for n in range(0, rows, 4):
        for k in range(0, cols, 64):
            line = [int(word) >> shift & 15 for word in words[n // 4, k:k + 64] for shift in (0, 4, 8, 12)]
            for row in range(4):
                for i, place in enumerate(OF_64):
                    nibbles[n + row, k + place] = line[64 * row + i]
    return nibbles


# ---------------------------------------------------------------------------------------------------- one linear


@dataclass
class Linear:
    """weight[n][k] = (nibbles[n][k] - zeros[g][n]) * scales[g][n], where g = g_idx[k]."""
    nibbles: np.ndarray  # [out, in], 0..15, in the activation's own order
    zeros: np.ndarray  # [groups, out], 0..16
    scales: np.ndarray  # [groups, out], fp16, or what the file has
    g_idx: np.ndarray  # [in]

    def matrix(self):
        """[out, in] fp32: exact, since 5 bits times 11 bits fit."""
        scales = self.scales.astype(np.float16).astype(np.float32)
        return (self.nibbles.astype(np.float32) - self.zeros[self.g_idx].T) * scales[self.g_idx].T

    def order(self):
        """Rows of group 0, of group 1, ...; ascending within each."""
        return [k for g in range(len(self.scales)) for k in range(len(self.g_idx)) if self.g_idx[k] == g]

    def folded(self):
        return self.nibbles.astype(int) - self.zeros[self.g_idx].T + 8

    def folds(self):
        return bool(((self.folded() >= 0) & (self.folded() <= 15)).all())

    def expected(self, zero_points="exact"):
        order = self.order()
        scales = self.scales.astype(np.float16)
        whole = self.folds() or zero_points == "clamp"
        nibbles = np.clip(self.folded(), 0, 15) if whole else self.nibbles
        return Stored(qweight=pack_plugin(nibbles[:, order]), scales=scales, group=len(self.g_idx) // len(scales),
                      permute_idx=None if order == sorted(order) else np.array(order, np.int64),
                      correction=None if whole else ((8 - self.zeros) * scales.astype(np.float32)).astype(np.float16))


@dataclass
class Stored:
    """The constants of one linear in an export."""
    qweight: np.ndarray
    scales: np.ndarray
    group: int
    permute_idx: np.ndarray = None
    correction: np.ndarray = None  # [groups, out] fp16

    def same(self, other):
        """Names of what differs."""
        def equal(a, b):
            return a is b if a is None or b is None else a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        parts = [p for p in ("qweight", "scales", "permute_idx", "correction") if not equal(getattr(self, p), getattr(other, p))]
        return parts + ["group_size"] * (self.group != other.group)


def random_order(rng, cols, groups):
    """Each input's group: as many in each, mixed; not in order."""
    g_idx = np.repeat(np.arange(groups), cols // groups)
    while groups > 1 and (np.diff(g_idx) >= 0).all():
        rng.shuffle(g_idx)
    return g_idx


def round_to_int4(weight, g_idx, sym, rng, dtype="F16"):
    """Round to nearest by the extremes of each group.  Asymmetric: groups are shifted, so that zero points spread over 1 to 15, which
    every format can store."""
    groups, rows = g_idx.max() + 1, len(weight)
    zeros, scales = np.zeros((groups, rows), int), np.zeros((groups, rows), FLOATS[dtype])
    nibbles = np.zeros(weight.shape, np.uint8)
    for g in range(groups):
        w = weight[:, g_idx == g]
        if not sym:
            w = w + 0.5 * rng.standard_normal((rows, 1)) * w.std()
        low, high = np.minimum(w.min(1), 0), np.maximum(w.max(1), 0)
        scales[g] = np.maximum(-low, high) / 7 if sym else (high - low) / 15
        step = scales[g].astype(np.float32)
        zeros[g] = 8 if sym else np.clip(np.rint(-low / step), 1, 15)
        nibbles[:, g_idx == g] = np.clip(np.rint(w / step[:, None]) + zeros[g][:, None], 0, 15)
    return Linear(nibbles, zeros, scales, g_idx)


# ---------------------------------------------------------------------------------------------------- formats of checkpoints


def pack_int32(values, axis, positions=range(8)):
    """Eight nibbles to an int32 along `axis`: bits 4p..4p+3 hold the positions[p]-th of them.  Missing ones are 0."""
    v = np.moveaxis(np.asarray(values), axis, 0)
    words = np.zeros((-(-len(v) // 8), *v.shape[1:]), np.uint32)
    for i, row in enumerate(v):
        words[i // 8] |= (row.astype(np.uint32) & 15) << np.uint32(4 * list(positions).index(i % 8))
    return np.ascontiguousarray(np.moveaxis(words, 0, axis)).view(np.int32)


def unpack_int32(words, axis, positions=range(8)):
    w = np.moveaxis(np.asarray(words).view(np.uint32), axis, 0)
    values = np.zeros((len(w) * 8, *w.shape[1:]), np.uint8)
    for i in range(len(values)):
        values[i] = w[i // 8] >> np.uint32(4 * list(positions).index(i % 8)) & 15
    return np.moveaxis(values, 0, axis)


def ints(array, dtype="I32"):
    a = np.ascontiguousarray(array, {"I32": "<i4", "I64": "<i8"}[dtype])
    return Tensor(dtype, a.shape, a.tobytes())


def floats(array):
    dtype = next(name for name, kind in FLOATS.items() if kind == array.dtype)
    return Tensor(dtype, array.shape, np.ascontiguousarray(array).tobytes())


def array(t):
    return np.frombuffer(t.data, {"I32": "<i4", "I64": "<i8", **FLOATS}[t.dtype]).reshape(t.shape)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def gptq(linear, v2=False):
    stored = linear.zeros if v2 else linear.zeros - 1
    assert ((stored >= 0) & (stored <= 15)).all()
    return {"qweight": ints(pack_int32(linear.nibbles.T, 0)), "qzeros": ints(pack_int32(stored, 1)),
            "scales": floats(linear.scales), "g_idx": ints(linear.g_idx)}


def read_gptq(tensors, module, v2=False):
    """A stored zero of 15 is 16 in v1: what the quantizer subtracted is added after the nibble was cut out."""
    qweight, qzeros, scales, g_idx = (array(tensors[f"{module}.{part}"]) for part in ("qweight", "qzeros", "scales", "g_idx"))
    return Linear(unpack_int32(qweight, 0).T, unpack_int32(qzeros, 1).astype(int) + (not v2), scales, g_idx)


def awq(linear):
    return {"qweight": ints(pack_int32(linear.nibbles.T, 1, AWQ_ORDER)), "qzeros": ints(pack_int32(linear.zeros, 1, AWQ_ORDER)),
            "scales": floats(linear.scales)}


def compressed(linear, actorder=False):
    """Signed values are stored with 8 added, and so are zero points: nibble - zero is what they say."""
    parts = {"weight_packed": ints(pack_int32(linear.nibbles, 1)), "weight_scale": floats(np.ascontiguousarray(linear.scales.T)),
             "weight_shape": ints(linear.nibbles.shape, "I64")}
    if (linear.zeros != 8).any():
        parts["weight_zero_point"] = ints(pack_int32(linear.zeros.T, 0))
    if actorder:
        parts["weight_g_idx"] = ints(linear.g_idx)
    return parts


# ---------------------------------------------------------------------------------------------------- quantization_config


def gptq_config(group, sym, desc_act, label="gptq"):
    """`label` is checkpoint_format; None leaves it out, as old files do."""
    config = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": desc_act, "sym": sym, "damp_percent": 0.01,
              "static_groups": False, "true_sequential": True}
    return config | ({"checkpoint_format": label} if label else {})


def awq_config(group, sym=False):
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": not sym, "version": "gemm",
            "modules_to_not_convert": None}


def compressed_group(group, sym, actorder=False, targets=("Linear",)):
    weights = {"num_bits": 4, "type": "int", "symmetric": sym, "strategy": "channel" if group == -1 else "group",
               "group_size": None if group == -1 else group, "actorder": "group" if actorder else None, "block_structure": None,
               "dynamic": False, "observer": "minmax", "observer_kwargs": {}}
    return {"targets": list(targets), "weights": weights, "input_activations": None, "output_activations": None}


def compressed_config(*groups, ignore=("lm_head",)):
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "global_compression_ratio": None, "kv_cache_scheme": None, "ignore": list(ignore),
            "config_groups": {f"group_{i}": g for i, g in enumerate(groups)}}


# ---------------------------------------------------------------------------------------------------- whole checkpoints


@dataclass
class Quantized:
    checkpoint: checkpoints.Checkpoint
    linears: dict  # module -> Linear
    plain: checkpoints.Checkpoint  # what it was made of

    def replace(self, module, linear, store):
        """Another linear in the place of `module`: q.replace(m, linear, int4.awq)"""
        self.linears[module] = linear
        for part, t in store(linear).items():
            self.checkpoint.tensors[f"{module}.{part}"] = t


def plain_float(t):
    return array(t).astype(np.float32)


def calm(ckpt):
    """Weights such that logits stay below 3, as in the goldens: a tolerance of 0.01 is then some steps of fp16, not less than one."""
    tied = ckpt.config.get("tie_word_embeddings")
    for name, t in ckpt.tensors.items():
        head = name.endswith("embed_tokens.weight") if tied else name.endswith("lm_head.weight")
        if head or name.endswith(("_proj.weight", "fc.weight")):
            w = plain_float(t)
            ckpt.tensors[name] = tensor(w * (0.7 * t.shape[1] ** -0.5 / w.std()), t.dtype)
    return ckpt


def split(cols, group):
    size = cols if group == -1 else group
    assert cols % size == 0, f"in {cols} is not a multiple of group {size}"
    return cols // size


def quantize(plain, method, group=32, sym=True, desc_act=False, v2=False, label=..., only=LINEAR, scales="F16", seed=0):
    """Every linear of the decoder layers whose name matches `only`; desc_act gives each its own random order of groups.

    `label` is GPTQ's checkpoint_format, right unless given."""
    q = Quantized(copy.deepcopy(plain), {}, plain)
    q.checkpoint.tensors = {}
    for name, t in plain.tensors.items():
        module = name.removesuffix(".weight")
        if module == name or not re.fullmatch(only, module):
            q.checkpoint.tensors[name] = t
            continue
        rng = np.random.RandomState(zlib.crc32(f"{seed} {module}".encode()))
        cols = t.shape[1]
        groups = split(cols, group)
        g_idx = random_order(rng, cols, groups) if desc_act else np.arange(cols) // (cols // groups)
        linear = round_to_int4(plain_float(t), g_idx, sym, rng, scales)
        store = {"gptq": lambda v: gptq(v, v2), "awq": awq, "compressed": lambda v: compressed(v, desc_act)}[method]
        q.replace(module, linear, store)
    if label is ...:
        label = "gptq_v2" if v2 else "gptq"
    q.checkpoint.config["quantization_config"] = {
        "gptq": lambda: gptq_config(group, sym, desc_act, label), "awq": lambda: awq_config(group, sym),
        "compressed": lambda: compressed_config(compressed_group(group, sym, desc_act))}[method]()
    return q


def dequantized(q):
    """The same model with these weights in fp32, so that the one rounding is the exporter's."""
    plain = copy.deepcopy(q.plain)
    for module, linear in q.linears.items():
        plain.tensors[module + ".weight"] = tensor(linear.matrix(), "F32")
    return plain


def dequantized_tensors(tensors, v2=False):
    """The tensors of a GPTQ file with plain weights in the place of the packed ones."""
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    packed = {f"{m}.{part}" for m in modules for part in ("qweight", "qzeros", "scales", "g_idx")}
    plain = {name: t for name, t in tensors.items() if name not in packed}
    return plain | {m + ".weight": tensor(read_gptq(tensors, m, v2).matrix(), "F32") for m in modules}


# ---------------------------------------------------------------------------------------------------- exports

PLUGIN = "Int4GroupwiseGemmPlugin"


class Export:
    """The INT4 linears of an exported graph, found by following values, not by the names of constants."""

    def __init__(self, out, file="model.onnx"):
        self.model = onnx.load(out / file)
        self.graph = self.model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        for n in self.graph.node:
            if n.op_type == "Constant":
                self.constants[n.output[0]] = numpy_helper.to_array(n.attribute[0].t)
        self.maker = {o: n for n in self.graph.node for o in n.output}
        self.plugins = {self.module(n): n for n in self.graph.node if n.op_type == PLUGIN}

    @staticmethod
    def module(node):
        """/model/layers.0/mlp/up_proj/... -> model.layers.0.mlp.up_proj; the reference's wrapper is no part of it."""
        path = node.name.strip("/").split("/")[:-1]
        return ".".join(p for p in path if p != "module_to_wrap")

    def consumers(self, value):
        return [n for n in self.graph.node if value in n.input]

    def correction(self, module):
        """The name of the constant that sums of blocks are multiplied with, in fp32, to be added to the plugin's output; and
        the sum."""
        for add in self.consumers(self.plugins[module].output[0]):
            for value in add.input if add.op_type == "Add" else []:
                cast = self.maker.get(value)
                matmul = self.maker.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
                if matmul is not None and matmul.op_type == "MatMul":
                    return self.maker[matmul.input[1]].input[0], add.output[0]
        return None, self.plugins[module].output[0]

    def linear(self, module):
        plugin = self.plugins[module]
        sizes = {a.name: a.i for a in plugin.attribute}
        found = Stored(self.constants[plugin.input[1]], self.constants[plugin.input[2]], sizes["group_size"])
        assert (sizes["gemm_n"], sizes["gemm_k"]) == (found.scales.shape[1], found.qweight.shape[1])
        gather = self.maker.get(plugin.input[0])
        if gather is not None and gather.op_type == "Gather":
            found.permute_idx = self.constants[gather.input[1]]
            assert [(a.name, a.i) for a in gather.attribute] == [("axis", 2)]
        constant, _ = self.correction(module)
        if constant is not None:
            found.correction = self.constants[constant]
        return found

    def part(self, module):
        """A model of this linear alone, before its bias: activation -> product."""
        plugin = self.plugins[module]
        x, (_, y) = plugin.input[0], self.correction(module)
        gather = self.maker.get(x)
        if gather is not None and gather.op_type == "Gather":
            x = gather.input[0]
        needed, stack = [], [y]
        while stack:
            node = self.maker.get(stack.pop())
            if node is not None and node not in needed:
                needed.append(node)
                stack += [value for value in node.input if value != x]
        nodes = [n for n in self.graph.node if n in needed]
        used = {value for n in nodes for value in n.input}
        half = onnx.TensorProto.FLOAT16
        graph = onnx.helper.make_graph(nodes, module, [onnx.helper.make_tensor_value_info(x, half, [1, None, None])],
                                       [onnx.helper.make_tensor_value_info(y, half, [1, None, None])],
                                       [t for t in self.graph.initializer if t.name in used])
        return onnx.helper.make_model(graph, opset_imports=self.model.opset_import), x

    def product(self, module, x, ops):
        """What the graph makes of the activation x [rows, in]."""
        from onnx.reference import ReferenceEvaluator
        model, name = self.part(module)
        return ReferenceEvaluator(model, new_ops=ops).run(None, {name: x[None].astype(np.float16)})[0][0]
