"""INT4 checkpoints: goldens, bytes against the slow reference int4.py, numbers against the dequantized model, and what is refused
(cases GPTQ-*, AWQ-*, CT-*)."""
import importlib.util
import json
import math
import os
import random
import re
import shutil

import checkpoints
import int4
import numpy as np
import onnx
import pytest
from checkpoints import Tensor, write_safetensors
from conftest import ROOT, tree

GOLDENS = {  # golden: checkpoint
    **{name: name for name in ("llama_gptq_g128", "llama_gptq_g128_desc", "llama_gptq_gm1", "llama_gptq_v2", "llama_gptq_fold",
                               "qwen2_gptq_g32_desc", "qwen2_gptq_g64")},
    "llama_gptq_fold of the folded twin": "llama_gptq_fold_equiv",
}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
KERNEL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 32}
METHODS = ["gptq", "awq", "compressed"]
UP, DOWN, GATE, K = (f"model.layers.0.{m}" for m in ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj", "self_attn.k_proj"))
PACKED = {"gptq": "qweight", "awq": "qweight", "compressed": "weight_packed"}
ZEROS = {"gptq": "qzeros", "awq": "qzeros", "compressed": "weight_zero_point"}


def small(family="llama", config=None, dtype="BF16", seed=0):
    return int4.calm(checkpoints.build(family, dtype, {**SMALL, **(config or {})}, None, seed))


def export(weighbridge, ckpt, tmp_path, *options, name="out"):
    """-> where, what was said; verified"""
    out = tmp_path / name
    if not isinstance(ckpt, checkpoints.Checkpoint):
        ckpt = ckpt.checkpoint
    ckpt.write(tmp_path / f"{name}-model")
    said = weighbridge.ok("export", ckpt.path, out, *options).stderr
    weighbridge.ok("verify", out, ckpt.path)
    return out, said


def refused(weighbridge, ckpt, tmp_path, *words, options=()):
    if not isinstance(ckpt, checkpoints.Checkpoint):
        ckpt = ckpt.checkpoint
    ckpt.write(tmp_path / "model")
    before = tree(tmp_path)
    said = weighbridge.refuses("export", ckpt.path, tmp_path / "out", *options).replace(str(tmp_path), "")
    missing = [w for w in words if not re.search(rf"\b{w}\b" if isinstance(w, int) else re.escape(w), said)]
    assert not missing, (missing, said)
    assert tree(tmp_path) == before
    return said


def check_bytes(out, linears, zero_points="exact"):
    """Every linear, and no other, is a plugin node with the constants that the slow reference makes."""
    found = int4.Export(out)
    assert set(found.plugins) == set(linears)
    wrong = {m: faults for m, linear in linears.items() if (faults := linear.expected(zero_points).same(found.linear(m)))}
    assert not wrong, wrong
    return found


def the_ops():
    spec = importlib.util.spec_from_file_location("compare_onnx", ROOT / "tests" / "golden" / "compare_onnx.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_ops()


def worst(said):
    return max(float(d) for d in re.findall(r"max abs diff ([\d.e+-]+)", said))


def check_numbers(weighbridge, compare, out, q, tmp_path, *options, label=""):
    """The graph computes what the plain export of the dequantized weights does."""
    plain, _ = export(weighbridge, int4.dequantized(q), tmp_path, *options, name="dequantized")
    said = compare(plain, out, "--execute-only", "--atol", "0.01")
    assert "--execute decode" in said and "0 differences" in said
    print(f"{label or out.name}: largest difference {worst(said):g}")
    return plain


# ---------------------------------------------------------------------------------------------------- goldens


@pytest.mark.parametrize("case", GOLDENS)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    model, out = f"checkpoints/{GOLDENS[case]}", tmp_path / "out"
    weighbridge.ok("export", model, out, cwd=golden)
    said = compare(golden / "edgellm-0.5" / case.split()[0], out, "--loose-json", "--execute")
    assert "0 differences" in said and "--execute decode" in said
    weighbridge.ok("verify", out, model, cwd=golden)


@pytest.mark.parametrize("case", ["llama_gptq_g128", "llama_gptq_g128_desc"])
def test_inserted_golden(case, weighbridge, golden, compare, tmp_path):
    weighbridge.ok("export", f"checkpoints/{case}", tmp_path / "out", cwd=golden)
    weighbridge.ok("lora", "insert", tmp_path / "out")
    said = compare(golden / "edgellm-0.5" / f"{case}__lora_inserted", tmp_path / "out", "--loose-json", "--execute")
    assert "0 differences" in said
    weighbridge.ok("verify", tmp_path / "out", f"checkpoints/{case}", cwd=golden)


def asymmetric_golden(golden):
    model = golden / "checkpoints" / "llama_gptq_asym"
    tensors = checkpoints.read_safetensors(model / "model.safetensors")
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return model, tensors, {m: int4.read_gptq(tensors, m) for m in modules}


def test_asymmetric_golden(weighbridge, golden, compare, tmp_path):
    model, tensors, linears = asymmetric_golden(golden)
    weighbridge.ok("export", model, tmp_path / "out")
    weighbridge.ok("verify", tmp_path / "out", model)
    check_bytes(tmp_path / "out", linears)
    shutil.copytree(model, tmp_path / "plain")
    (tmp_path / "plain" / "quantize_config.json").unlink()
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "plain" / "model.safetensors", int4.dequantized_tensors(tensors))
    weighbridge.ok("export", tmp_path / "plain", tmp_path / "dequantized")
    said = compare(tmp_path / "dequantized", tmp_path / "out", "--execute-only", "--atol", "0.01")
    print(f"llama_gptq_asym: largest difference {worst(said):g}")


def test_awq_without_its_tensors(weighbridge, golden, tmp_path):
    said = weighbridge.refuses("export", "checkpoints/llama_awq_fails", tmp_path / "out", cwd=golden)
    assert '"awq"' in said and ".qweight" in said and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- bytes


def random_model(seed):
    """Shapes that the layout allows: in a multiple of 64, out of 8.  -> checkpoint, a group size that divides every in"""
    r = random.Random(seed)
    head_dim, heads = r.choice([(16, 4), (32, 4), (16, 8), (32, 6), (64, 3)])
    config = {"hidden_size": 64 * r.randint(1, 3), "intermediate_size": 64 * r.randint(1, 4), "num_hidden_layers": 1,
              "num_attention_heads": heads, "head_dim": head_dim, "num_key_value_heads": r.choice([1, heads])}
    sizes = [config["hidden_size"], config["intermediate_size"], heads * head_dim]
    groups = [g for g in (32, 64, 128, -1) if all(s % g == 0 for s in sizes)]
    return checkpoints.build(r.choice(["llama", "qwen2", "qwen3", "llama_bias"]), config=config, template=None, seed=seed), r.choice(groups)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("method", METHODS)
def test_bytes_of_random_models(method, seed, weighbridge, tmp_path):
    ckpt, group = random_model(seed)
    r = random.Random(1000 + seed)
    sym, order = r.random() < 0.4, method != "awq" and r.random() < 0.6
    v2, scales = r.random() < 0.3, r.choice(["F16", "F16", "BF16", "F32"] if method == "compressed" else ["F16"])
    q = int4.quantize(ckpt, method, group, sym, order, v2, scales=scales, seed=seed)
    out, _ = export(weighbridge, q, tmp_path)
    found = check_bytes(out, q.linears)
    if not sym:  # the numbers of one linear, to less than the roundings of its two products and of their sum
        ops, linear = the_ops(), q.linears[DOWN]
        said = found.product(DOWN, np.eye(linear.nibbles.shape[1]), ops).T.astype(np.float64)
        scale, zero = linear.scales.astype(np.float16).astype(float)[linear.g_idx].T, linear.zeros[linear.g_idx].T
        room = (abs(linear.nibbles - 8.0) + abs(8.0 - zero) + abs(linear.nibbles - 1.0 * zero)) * abs(scale) / 2048 + 2**-24
        assert (abs(said - linear.matrix()) <= 1.001 * room).all()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_bytes_of_fused_linears(method, wrapped, weighbridge, golden, tmp_path):
    """Phi-4-multimodal's qkv_proj and gate_up_proj, also by the names that PEFT gives them, as quantizers leave it."""
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 1}
    source, rng = golden / "checkpoints" / "phi4mm", np.random.RandomState(0)
    shapes = {"embed_tokens": (304, 128), "norm": (128,), "layers.0.input_layernorm": (128,), "layers.0.post_attention_layernorm": (128,),
              "layers.0.self_attn.qkv_proj": (192, 128), "layers.0.self_attn.o_proj": (128, 128),
              "layers.0.mlp.gate_up_proj": (384, 128), "layers.0.mlp.down_proj": (128, 192)}
    plain = checkpoints.Checkpoint(json.loads((source / "config.json").read_text()) | sizes,
                                   {f"model.{n}.weight": checkpoints.tensor(rng.standard_normal(s), "F16") for n, s in shapes.items()},
                                   {p.name: p.read_bytes() for p in source.glob("*token*.json")})
    q = int4.quantize(plain, method, 32, False, method != "awq")
    if wrapped:
        q.checkpoint.tensors = {n.replace("_proj.", "_proj.base_layer."): t for n, t in q.checkpoint.tensors.items()}
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


@pytest.mark.parametrize("sym", [True, False])
def test_the_same_linears_in_every_format_give_the_same_bytes(sym, weighbridge, tmp_path):
    ckpt, seen = small("qwen2"), []
    stores = {"gptq": int4.gptq, "gptq_v2": lambda v: int4.gptq(v, True), "awq": int4.awq, "compressed": int4.compressed}
    linears = int4.quantize(ckpt, "awq", 32, sym).linears
    for name, store in stores.items():
        q = int4.quantize(ckpt, name.split("_")[0], 32, sym, v2=name == "gptq_v2")
        for module, linear in linears.items():
            q.replace(module, linear, store)
        out, _ = export(weighbridge, q, tmp_path, name=name)
        seen.append((out / "onnx_model.data").read_bytes())
        check_bytes(out, linears)
    assert all(s == seen[0] for s in seen)


def random_parts(rng, method, rows, cols, group, order):
    """A packed linear of any bytes, without the matrix it stands for: for sizes at which the slow packing is too slow."""
    groups = cols // group

    def words(*shape):
        return int4.ints(rng.integers(-2**31, 2**31, shape, np.int32))

    g_idx = int4.ints(rng.permutation(cols) // group if order else np.arange(cols) // group)
    scales = rng.random((groups, rows), np.float32) / 1024
    if method == "compressed":
        return {"weight_packed": words(rows, cols // 8), "weight_zero_point": words(rows // 8, groups), "weight_g_idx": g_idx,
                "weight_scale": checkpoints.tensor(scales.T, "BF16"), "weight_shape": int4.ints((rows, cols), "I64")}
    parts = {"qzeros": words(groups, rows // 8), "scales": checkpoints.tensor(scales, "F16")}
    if method == "awq":
        return parts | {"qweight": words(cols, rows // 8)}
    return parts | {"qweight": words(cols // 8, rows), "g_idx": g_idx}


@pytest.mark.parametrize("method, order, mode, group", [
    ("gptq", False, "exact", 128), ("gptq", True, "exact", 128), ("awq", False, "exact", 128), ("compressed", False, "exact", 128),
    ("compressed", True, "exact", 128), ("gptq", False, "clamp", 32), ("awq", False, "clamp", 256)])
def test_large_matrices_in_little_memory(method, order, mode, group, weighbridge_release, tmp_path):
    """Three matrices of 16M, packed, in a budget of 16M: same bytes whatever the engine, threads and memory."""
    config = {"hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 1, "vocab_size": 8, "head_dim": 16,
              "num_attention_heads": 4, "num_key_value_heads": 4, "bos_token_id": 1, "eos_token_id": 2}
    few = checkpoints.build("llama", config={**config, "intermediate_size": 8}, template=None)
    few.config["intermediate_size"] = config["intermediate_size"]
    rng = np.random.default_rng(1)
    for module, rows, cols in (GATE, 8192, 4096), (UP, 8192, 4096), (DOWN, 4096, 8192):
        del few.tensors[module + ".weight"]
        few.tensors |= {f"{module}.{part}": t for part, t in random_parts(rng, method, rows, cols, group, order).items()}
    few.config["quantization_config"] = {
        "gptq": int4.gptq_config(group, False, order), "awq": int4.awq_config(group),
        "compressed": int4.compressed_config(int4.compressed_group(group, False, order), ignore=["lm_head", "re:.*self_attn"])}[method]
    few.write(tmp_path / "model")
    first = None
    for memory, io, threads in ("512M", "auto", 8), ("16M", "uring", 1), ("16M", "pread", 3), ("16M", "fault", 2):
        out = tmp_path / "out"
        weighbridge_release.ok("export", few.path, out, "--zero-points", mode, "--memory", memory, "--io", io, "--threads", threads,
                               "--overwrite", "--report", tmp_path / "report.json")
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["memory"]["buffers"] <= report["memory"]["budget"]
        if memory == "16M" and "asan" not in str(weighbridge_release.path):  # which keeps freed memory and shadows the rest
            assert report["totals"]["peak_rss"] < 48 << 20
            print(f"{method} order {order} {mode} {io}: peak {report['totals']['peak_rss'] / 2**20:.1f} MiB of 16M")
        files = tree(out)
        first = first or files
        assert files == first
    weighbridge_release.ok("verify", out, few.path)


@pytest.mark.parametrize("method, order, mode", [("gptq", True, "exact"), ("awq", False, "clamp"), ("compressed", True, "clamp")])
def test_every_tensor_in_a_file_of_its_own(method, order, mode, weighbridge, tmp_path):
    """Zero points and orders are read from other files than the weights they go with, and few of these are open at once."""
    q = int4.quantize(small(config={"num_hidden_layers": 8}), method, 32, False, order)
    one, _ = export(weighbridge, q, tmp_path, "--zero-points", mode, name="one")
    many = q.checkpoint.write(tmp_path / "many", shards=len(q.checkpoint.tensors)).path
    assert len(list(many.glob("*.safetensors"))) > 150
    for io in "uring", "pread":
        weighbridge.ok("export", many, tmp_path / "out", "--zero-points", mode, "--overwrite", "--io", io, "--threads", 2,
                       prefix=["prlimit", "--nofile=64"])
        assert tree(tmp_path / "out") == tree(one)


# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("family, method, group, sym, order", [
    ("llama", "awq", 32, False, False), ("llama", "awq", 64, True, False), ("qwen3", "awq", -1, False, False),
    ("qwen2", "compressed", 32, False, False), ("llama", "compressed", 64, True, False), ("llama", "compressed", -1, False, False),
    ("qwen3", "compressed", 32, False, True), ("llama", "gptq", 32, False, False), ("qwen2", "gptq", 32, False, True),
    ("qwen3", "gptq", -1, False, False), ("llama", "gptq", 32, True, True)])
def test_numbers(family, method, group, sym, order, weighbridge, compare, tmp_path):
    q = int4.quantize(small(family, {"num_hidden_layers": 2}), method, group, sym, order)
    out, _ = export(weighbridge, q, tmp_path)
    check_numbers(weighbridge, compare, out, q, tmp_path, label=f"{family} {method} group {group} sym {sym} order {order}")


def test_the_tolerance_tells_zero_points(weighbridge, compare, tmp_path):
    q = int4.quantize(small(), "awq", 32, False)
    out, _ = export(weighbridge, q, tmp_path, "--zero-points", "clamp")
    with pytest.raises(AssertionError, match="max abs diff") as difference:
        check_numbers(weighbridge, compare, out, q, tmp_path)
    assert worst(str(difference.value)) > 0.1


@pytest.mark.parametrize("method, order", [("awq", False), ("gptq", True), ("compressed", True)])
def test_numbers_with_adapters(method, order, weighbridge, compare, tmp_path):
    """lora_model.onnx of both: A sees the activation as it was, the product joins what the zero points add."""
    q = int4.quantize(small("qwen3"), method, 32, False, order)
    out, _ = export(weighbridge, q, tmp_path)
    plain, _ = export(weighbridge, int4.dequantized(q), tmp_path, name="plain")
    for o in out, plain:
        weighbridge.ok("lora", "insert", o)
    inputs = {o: [i.name for i in int4.Export(o, "lora_model.onnx").graph.input] for o in (out, plain)}
    assert sorted(inputs[out]) == sorted(inputs[plain])
    said = compare(plain, out, "--execute-only", "--atol", "0.01")
    assert "lora_model.onnx: --execute decode" in said


def test_zero_points_and_nibbles_at_both_ends(weighbridge, compare, tmp_path):  # AWQ-01
    q = int4.quantize(small(), "awq", 32, False)
    linear = q.linears[UP]
    rng = np.random.RandomState(3)
    linear.zeros[:] = np.where(rng.rand(*linear.zeros.shape) < 0.5, 3, 12)
    linear.nibbles[:] = np.where(rng.rand(*linear.nibbles.shape) < 0.5, 0, 15)
    q.replace(UP, linear, int4.awq)
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    check_numbers(weighbridge, compare, out, q, tmp_path)
    x = rng.standard_normal((5, 64)).astype(np.float16)
    product = int4.Export(out).product(UP, x, the_ops())
    assert abs(product - x.astype(float) @ linear.matrix().T.astype(float)).max() < 0.02


@pytest.mark.parametrize("group", [32, -1])
def test_sums_that_no_fp16_holds(group, weighbridge, tmp_path):  # AWQ-01
    """Activations that sum to more than 65504 in a group, where the product does not."""
    q = int4.quantize(small(), "awq", group, False)
    linear = q.linears[UP]
    linear.zeros[:] = 5
    linear.zeros[0, 0] = 0
    linear.nibbles[:] = np.where(np.random.RandomState(3).rand(*linear.nibbles.shape) < 0.5, 0, 10)
    linear.nibbles[0, 0] = 15
    linear.scales[:] = np.float16(1e-3)
    q.replace(UP, linear, int4.awq)
    out, _ = export(weighbridge, q, tmp_path)
    x = np.full((1, 64), 4000, np.float16)
    product, exact = int4.Export(out).product(UP, x, the_ops()), x.astype(float) @ linear.matrix().T.astype(float)
    assert np.isfinite(product).all() and abs(product - exact).max() < 1


# ---------------------------------------------------------------------------------------------------- zero points


def foldable(linear, rng):
    """Zero points 7 to 9, and no nibble that leaves 0..15 with them."""
    linear.zeros[:] = rng.randint(7, 10, linear.zeros.shape)
    shift = linear.zeros[linear.g_idx].T - 8
    linear.nibbles[:] = np.clip(linear.nibbles, np.maximum(shift, 0), 15 + np.minimum(shift, 0))
    assert linear.folds()
    return linear


@pytest.mark.parametrize("method", METHODS)
def test_zero_points_that_fold_are_folded(method, weighbridge, tmp_path):
    """No node beside the plugin; decided for each module by itself; every way with zero points takes them."""
    store = {"gptq": int4.gptq, "awq": int4.awq, "compressed": int4.compressed}[method]
    q = int4.quantize(small(), method, 32, False)
    for module, linear in q.linears.items():
        if module != UP:
            q.replace(module, foldable(linear, np.random.RandomState(1)), store)
    assert not q.linears[UP].folds()
    out, _ = export(weighbridge, q, tmp_path)
    found = check_bytes(out, q.linears)
    assert [m for m in q.linears if found.correction(m)[0] is not None] == [UP]
    q.replace(UP, foldable(q.linears[UP], np.random.RandomState(2)), store)
    files = [tree(export(weighbridge, q, tmp_path, "--zero-points", way, name=way)[0]) for way in ("exact", "clamp", "refuse")]
    assert all(f["onnx_model.data"] == files[0]["onnx_model.data"] for f in files)


@pytest.mark.parametrize("method", METHODS)
def test_clamping_on_request(method, weighbridge, tmp_path):
    """The report counts the nibbles of each tensor."""
    q = int4.quantize(small(), method, 32, False)
    out, said = export(weighbridge, q, tmp_path, "--zero-points", "clamp", "--report", tmp_path / "report.json")
    check_bytes(out, q.linears, "clamp")
    report = json.loads((tmp_path / "report.json").read_text())
    counted = {t["name"]: t["clamped"] for t in report["tensors"] if t.get("clamped")}
    outside = {m: int(((v.folded() < 0) | (v.folded() > 15)).sum()) for m, v in q.linears.items()}
    assert counted == {int4.Export(out).plugins[m].input[1]: n for m, n in outside.items()} and "clamp" in said
    most = max(t["clamped_most"] for t in report["tensors"])
    assert report["totals"]["clamped"] == sum(outside.values()) and report["totals"]["clamped_most"] == most
    assert most == max(int(np.abs(v.folded() - np.clip(v.folded(), 0, 15)).max()) for v in q.linears.values())


@pytest.mark.parametrize("method", METHODS)
def test_refusing_on_request(method, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32, False, only=r".*up_proj")
    refused(weighbridge, q, tmp_path, f"{UP}.{ZEROS[method]}", "--zero-points", options=["--zero-points", "refuse"])


def test_an_unknown_way_with_zero_points(weighbridge, tmp_path):
    model = small().write(tmp_path / "model").path
    said = weighbridge.refuses("export", model, tmp_path / "out", "--zero-points", "ignore", status=2)
    assert all(word in said for word in ("ignore", "exact", "clamp", "refuse"))


# ---------------------------------------------------------------------------------------------------- GPTQ


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("label", ["gptq", "gptq_v2", None])
def test_symmetric_zeros_tell_their_version(v2, label, weighbridge, tmp_path):
    """All 7 is v1 and all 8 is v2, whatever the label says."""
    q = int4.quantize(small(), "gptq", 32, True, v2=v2, label=label)
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


@pytest.mark.parametrize("v2, label", [(False, "gptq"), (True, "gptq_v2"), (False, None)])
def test_other_zeros_need_the_label(v2, label, weighbridge, tmp_path):
    q = int4.quantize(small(), "gptq", 32, False, v2=v2, label=label)
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


@pytest.mark.parametrize("both", [False, True])
def test_the_label_by_its_later_name(both, weighbridge, tmp_path):
    """GPTQModel came to call it "format", and writes both for a while."""
    q = int4.quantize(small(), "gptq", 32, False, v2=True, label="gptq_v2" if both else None)
    q.checkpoint.config["quantization_config"]["format"] = "gptq_v2"
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    q.checkpoint.config["quantization_config"]["format"] = "gptq" if both else "marlin"
    refused(weighbridge, q, tmp_path, '"format" is', *(['"gptq_v2"', "remove the wrong one"] if both else ["marlin"]))


@pytest.mark.parametrize("place", ["config", "meta"])
def test_rotated_weights_are_refused(place, weighbridge, tmp_path):
    q = int4.quantize(small(), "gptq", 32)
    config = q.checkpoint.config["quantization_config"]
    (config if place == "config" else config.setdefault("meta", {}))["rotation"] = "hadamard"
    refused(weighbridge, q, tmp_path, '"rotation" is set')


def test_zeros_at_both_ends_of_v1(weighbridge, compare, tmp_path):  # GPTQ-03
    """A stored 15 is 16, a stored 0 is 1: added after the nibble was cut out."""
    q = int4.quantize(small(), "gptq", 32, False)
    linear = q.linears[UP]
    linear.zeros[0, :], linear.zeros[1, ::2] = 16, 1
    q.replace(UP, linear, int4.gptq)
    stored = int4.unpack_int32(int4.array(q.checkpoint.tensors[UP + ".qzeros"]), 1)
    assert (stored[0] == 15).all() and (stored[1, ::2] == 0).all()
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    check_numbers(weighbridge, compare, out, q, tmp_path)


def test_zeros_at_both_ends_of_v2(weighbridge, tmp_path):  # GPTQ-03
    q = int4.quantize(small(), "gptq", 32, False, v2=True)
    linear = q.linears[UP]
    linear.zeros[0, :], linear.zeros[1, :] = 0, 15
    q.replace(UP, linear, lambda v: int4.gptq(v, True))
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def without_zeros(q, modules=None):
    for module in modules or q.linears:
        groups = len(q.linears[module].zeros)
        q.checkpoint.tensors[module + ".qzeros"] = Tensor("I32", (groups, 0), b"")
    return q


@pytest.mark.parametrize("order", [False, True])
def test_empty_zeros_are_symmetric(order, weighbridge, tmp_path):  # GPTQ-04
    q = without_zeros(int4.quantize(small(), "gptq", 32, True, order))
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def test_some_empty_zeros(weighbridge, tmp_path):  # GPTQ-04
    q = without_zeros(int4.quantize(small(), "gptq", 32, True), [UP, K])
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def test_empty_zeros_of_an_asymmetric_model(weighbridge, tmp_path):  # GPTQ-04
    q = without_zeros(int4.quantize(small(), "gptq", 32, False), [UP])
    refused(weighbridge, q, tmp_path, UP + ".qzeros", "sym")


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("where", ["config.json", "quantize_config.json"])
def test_other_bits(bits, where, weighbridge, tmp_path):  # GPTQ-07
    q = int4.quantize(small(), "gptq", -1, True, True)
    q.checkpoint.config["quantization_config"]["bits"] = bits
    if where != "config.json":
        q.checkpoint.files[where] = q.checkpoint.config.pop("quantization_config")
    refused(weighbridge, q, tmp_path, where, "bits", bits, 4)


@pytest.mark.parametrize("method", ["awq", "compressed"])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_bits_elsewhere(method, bits, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32)
    config = q.checkpoint.config["quantization_config"]
    if method == "awq":
        config["bits"] = bits
    else:
        config["config_groups"]["group_0"]["weights"]["num_bits"] = bits
    refused(weighbridge, q, tmp_path, "config.json", "bits", bits, 4)


def test_one_group_in_any_order_is_no_order(weighbridge, tmp_path):  # GPTQ-08
    q = int4.quantize(small(), "gptq", -1, True, True)
    out, _ = export(weighbridge, q, tmp_path)
    found = check_bytes(out, q.linears)
    assert all(found.linear(m).group == len(v.g_idx) and found.linear(m).permute_idx is None for m, v in q.linears.items())


def test_an_order_that_is_none(weighbridge, tmp_path):
    """desc_act, and every g_idx ascends: nothing is gathered."""
    q = int4.quantize(small(), "gptq", 32, True)
    q.checkpoint.config["quantization_config"]["desc_act"] = True
    out, _ = export(weighbridge, q, tmp_path)
    assert not any(n.name.startswith("/model/layers") and "proj" in n.name and n.op_type == "Gather"
                   for n in check_bytes(out, q.linears).graph.node)


def test_an_order_without_the_key(weighbridge, compare, tmp_path):
    """desc_act false, and g_idx mixes the groups: what a weight's scale is, the tensor says."""
    q = int4.quantize(small(), "gptq", 32, False, True)
    q.checkpoint.config["quantization_config"]["desc_act"] = False
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    check_numbers(weighbridge, compare, out, q, tmp_path)


def test_uploads_of_2023(weighbridge, tmp_path):  # GPTQ-10
    """quantize_config.json alone, without quant_method, and weights in a file with a free name."""
    q = int4.quantize(small(), "gptq", 32, True, True)
    expected, _ = export(weighbridge, q, tmp_path, name="new")
    old = q.checkpoint.config.pop("quantization_config")
    q.checkpoint.files["quantize_config.json"] = {k: v for k, v in old.items() if k not in ("quant_method", "checkpoint_format")}
    q.checkpoint.write(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.rename(file.with_name("Tiny-GPTQ-4bit-32g.act.order.safetensors"))
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out")
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model")
    check_bytes(tmp_path / "out", q.linears)
    assert (tmp_path / "out" / "onnx_model.data").read_bytes() == (expected / "onnx_model.data").read_bytes()
    assert not (tmp_path / "out" / "quantize_config.json").exists()
    for name in "gptq_model-4bit-128g.safetensors", "another.safetensors":
        write_safetensors(tmp_path / "model" / name, {"x": checkpoints.tensor(np.zeros(2), "F16")})
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "two")
    assert "another.safetensors" in said and not (tmp_path / "two").exists()


@pytest.mark.parametrize("method", METHODS)
def test_quantization_told_beside_the_text_model(method, weighbridge, tmp_path):
    """InternVL as lmdeploy quantizes it: "quantization_config" in "llm_config" alone."""
    q = int4.quantize(small("qwen2"), method, 32, False)
    q.checkpoint.config = {"model_type": "internvl_chat", "llm_config": q.checkpoint.config}
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def test_the_key_of_2024(weighbridge, tmp_path):
    """compressed-tensors wrote "compression_config" before it took the key of the others."""
    q = int4.quantize(small(), "compressed", 32, False)
    q.checkpoint.config["compression_config"] = q.checkpoint.config.pop("quantization_config")
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


@pytest.mark.parametrize("absent", ["-1", "no tensor"])
def test_no_order_is_the_plain_one(absent, weighbridge, tmp_path):  # GPTQ-12
    q = int4.quantize(small(), "gptq", 32, False)
    for module, linear in q.linears.items():
        if absent == "-1":
            q.checkpoint.tensors[module + ".g_idx"] = int4.ints(np.full_like(linear.g_idx, -1))
        else:
            del q.checkpoint.tensors[module + ".g_idx"]
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def first_becomes(value):
    def change(g_idx):
        g_idx[5] = value
    return change


def uneven(g_idx):
    g_idx[np.flatnonzero(g_idx == 0)[0]] = 1


@pytest.mark.parametrize("method", ["gptq", "compressed"])
@pytest.mark.parametrize("change", [first_becomes(-1), first_becomes(2), first_becomes(-2), first_becomes(2**31 - 1), uneven],
                         ids=["-1", "groups", "-2", "large", "uneven"])
def test_bad_orders(method, change, weighbridge, tmp_path):  # GPTQ-12
    q = int4.quantize(small(), method, 32, True, True)
    name = {"gptq": "g_idx", "compressed": "weight_g_idx"}[method]
    g_idx = q.linears[UP].g_idx.copy()
    change(g_idx)
    q.checkpoint.tensors[f"{UP}.{name}"] = int4.ints(g_idx)
    refused(weighbridge, q, tmp_path, f"{UP}.{name}")


PARTS = [("gptq", "qweight"), ("gptq", "qzeros"), ("gptq", "scales"), ("gptq", "g_idx"), ("awq", "qweight"), ("awq", "qzeros"),
         ("awq", "scales"), ("compressed", "weight_packed"), ("compressed", "weight_scale"), ("compressed", "weight_zero_point"),
         ("compressed", "weight_g_idx"), ("compressed", "weight_shape")]


@pytest.mark.parametrize("method, part, fault", [(*p, f) for p in PARTS for f in ("rows", "columns", "dtype", "rank")
                                                 if (p[1], f) != ("weight_shape", "rank")])
def test_wrong_shapes_and_dtypes(method, part, fault, weighbridge, tmp_path):  # GPTQ-12
    q = int4.quantize(small(), method, 32, False, method != "awq")
    name = f"{UP}.{part}"
    t = q.checkpoint.tensors[name]
    a = int4.array(t)
    bad = {"rows": lambda: a[:-1], "columns": lambda: a[..., :-1], "rank": lambda: a[..., None], "dtype": lambda: a}[fault]()
    kind = "I16" if fault == "dtype" else t.dtype
    data = np.zeros(bad.shape, "<i2").tobytes() if fault == "dtype" else np.ascontiguousarray(bad).tobytes()
    q.checkpoint.tensors[name] = Tensor(kind, bad.shape, data)
    refused(weighbridge, q, tmp_path, name)


@pytest.mark.parametrize("method, part", [p for p in PARTS if p[1] not in ("g_idx", "weight_g_idx", "weight_shape")])
def test_missing_parts(method, part, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32, False)
    del q.checkpoint.tensors[f"{UP}.{part}"]
    refused(weighbridge, q, tmp_path, UP)


@pytest.mark.parametrize("head_dim", [20, 4])
def test_out_that_is_no_multiple_of_8(head_dim, weighbridge, tmp_path):  # GPTQ-14
    config = {"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": head_dim}
    q = int4.quantize(small(config=config), "gptq", 32, only=r".*k_proj")
    refused(weighbridge, q, tmp_path, K, head_dim, 8)


@pytest.mark.parametrize("method", METHODS)
def test_in_that_is_no_multiple_of_64(method, weighbridge, tmp_path):  # GPTQ-14
    q = int4.quantize(small(config={"intermediate_size": 96}), method, 32, only=r".*down_proj")
    refused(weighbridge, q, tmp_path, DOWN, 96, 64)


def test_out_48(weighbridge, compare, tmp_path):  # GPTQ-14
    """Fits the layout, not the kernel."""
    q = int4.quantize(small(config={"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 48}), "gptq", 64)
    assert q.linears[K].nibbles.shape[0] == 48
    out, said = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    check_numbers(weighbridge, compare, out, q, tmp_path)
    assert "128" in said


@pytest.mark.parametrize("heads, words", [(2**27, "at most 16777216"), (2**20, "has 268435456 zero points")])
def test_sizes_that_no_model_has(heads, words, weighbridge, tmp_path):
    """A header that promises terabytes, and a file that takes no room on disk: refused before memory is asked for."""
    config = {"hidden_size": 128, "num_attention_heads": heads, "head_dim": 16, "num_key_value_heads": 1, "num_hidden_layers": 1}
    plain = checkpoints.build("llama", config={"num_hidden_layers": 1}, template=None)
    q_proj, out = "model.layers.0.self_attn.q_proj", heads * 16
    sizes = {name: ("BF16", shape, 2) for name, shape in checkpoints.shapes({**plain.config, **config}).items()}
    del sizes[q_proj + ".weight"]
    sizes |= {f"{q_proj}.{part}": (dtype, (16, cols), bytes) for part, dtype, cols, bytes in
              (("qweight", "I32", out, 4), ("qzeros", "I32", out // 8, 4), ("scales", "F16", out, 2))}
    header, at = {}, 0
    for name, (dtype, shape, size) in sizes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size * math.prod(shape)]}
        at += size * math.prod(shape)
    plain.config |= config | {"quantization_config": int4.gptq_config(8, False, False)}
    plain.tensors = {}
    model = plain.write(tmp_path / "model").path
    checkpoints.write_raw_safetensors(model / "model.safetensors", json.dumps(header), b"")
    os.truncate(model / "model.safetensors", (model / "model.safetensors").stat().st_size + at)
    assert words in weighbridge.refuses("export", model, tmp_path / "out")


def test_groups_that_do_not_divide(weighbridge, tmp_path):
    """128 into 192: the last group is half a one."""
    q = int4.quantize(small(config={"intermediate_size": 192}), "gptq", 64, only=r".*down_proj")
    v = q.linears[DOWN]
    half = int4.Linear(v.nibbles, v.zeros[:2], v.scales[:2], np.arange(192) // 128)
    q.replace(DOWN, half, int4.gptq)
    q.checkpoint.config["quantization_config"]["group_size"] = 128
    refused(weighbridge, q, tmp_path, DOWN, 128, 192)


@pytest.mark.parametrize("group, config, warned", [(128, KERNEL, False), (64, KERNEL, True), (32, KERNEL, True),
                                                   (128, {**KERNEL, "num_key_value_heads": 2}, True)])
@pytest.mark.parametrize("method", METHODS)
def test_limits_of_the_kernel(method, group, config, warned, weighbridge, tmp_path):
    """Groups of 128 and out in multiples of 128 run; others export, with a word; --strict refuses them."""
    q = int4.quantize(small(config=config), method, group)
    _, said = export(weighbridge, q, tmp_path)
    assert ("128" in said) == warned
    if warned:
        refused(weighbridge, q, tmp_path, 128, options=["--strict"])
    else:
        export(weighbridge, q, tmp_path, "--strict", name="strict")


MIXED = r".*(q|k|up|down)_proj"


@pytest.mark.parametrize("method", METHODS)
def test_some_linears_are_plain(method, weighbridge, compare, tmp_path):
    q = int4.quantize(small("qwen2", {"num_hidden_layers": 2}), method, 32, False, only=MIXED)
    config = q.checkpoint.config["quantization_config"]
    config |= {"gptq": {"modules_in_block_to_quantize": [["self_attn.q_proj", "self_attn.k_proj"], ["mlp.up_proj", "mlp.down_proj"]],
                        "dynamic": {"-:.*(v|o|gate)_proj.*": {}}},
               "awq": {"modules_to_not_convert": ["v_proj", "o_proj", "gate_proj"]},
               "compressed": {"ignore": ["lm_head", "re:.*gate_proj$", "re:.*[vo]_proj"]}}[method]
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    check_numbers(weighbridge, compare, out, q, tmp_path)


def test_one_layer_is_plain(weighbridge, compare, tmp_path):
    q = int4.quantize(small(config={"num_hidden_layers": 3}), "gptq", 32, False, True, only=r".*layers\.[02]\..*_proj")
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    check_numbers(weighbridge, compare, out, q, tmp_path)


def test_a_module_with_other_bits(weighbridge, tmp_path):
    """`dynamic` can give a module 8 bits: its tensor has twice the words."""
    q = int4.quantize(small(), "gptq", 32)
    q.checkpoint.config["quantization_config"]["dynamic"] = {"+:.*up_proj.*": {"bits": 8}}
    q.checkpoint.tensors[UP + ".qweight"] = int4.ints(np.zeros((16, 128)))
    refused(weighbridge, q, tmp_path, UP + ".qweight")


@pytest.mark.parametrize("method", METHODS)
def test_biases_follow_the_configuration(method, weighbridge, tmp_path):
    """Writers add zero biases where the architecture has none: left out; those it has are added behind the plugin."""
    store = {f"{m}.bias": checkpoints.tensor(np.zeros(v.nibbles.shape[0]), "F16")
             for m, v in int4.quantize(small(), method, 32).linears.items()}
    q = int4.quantize(small(), method, 32, False)
    plain, _ = export(weighbridge, q, tmp_path, name="without")
    q.checkpoint.tensors |= store
    out, _ = export(weighbridge, q, tmp_path, name="with")
    assert (out / "onnx_model.data").read_bytes() == (plain / "onnx_model.data").read_bytes()


# ---------------------------------------------------------------------------------------------------- lm_head


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_head(method, weighbridge, compare, tmp_path):
    q = int4.quantize(small(), method, 32, False, only=f"{int4.LINEAR.pattern}|lm_head")
    if method == "compressed":
        q.checkpoint.config["quantization_config"]["ignore"] = []
    out, _ = export(weighbridge, q, tmp_path)
    check_numbers(weighbridge, compare, out, q, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_head_can_not_be_reduced(method, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32, only=f"{int4.LINEAR.pattern}|lm_head")
    ids = np.arange(8, dtype=np.int32)
    (tmp_path / "map").mkdir()
    write_safetensors(tmp_path / "map" / "vocab_map.safetensors", {"vocab_map": Tensor("I32", (8,), ids.tobytes())})
    refused(weighbridge, q, tmp_path, "lm_head", options=["--reduced-vocab", tmp_path / "map"])


# ---------------------------------------------------------------------------------------------------- AWQ


def test_one_group_of_awq(weighbridge, compare, tmp_path):  # AWQ-04
    q = int4.quantize(small(), "awq", -1, False)
    out, _ = export(weighbridge, q, tmp_path)
    found = check_bytes(out, q.linears)
    assert all(found.linear(m).group == len(v.g_idx) for m, v in q.linears.items())


def test_old_keys_of_awq(weighbridge, tmp_path):  # AWQ-06
    q = int4.quantize(small(), "awq", 64, False)
    expected, _ = export(weighbridge, q, tmp_path, name="new")
    old = {"quant_method": "awq", "zero_point": True, "w_bit": 4, "q_group_size": 64, "version": "GEMM"}
    q.checkpoint.config["quantization_config"] = old
    out, _ = export(weighbridge, q, tmp_path, name="old")
    check_bytes(out, q.linears)
    assert (out / "onnx_model.data").read_bytes() == (expected / "onnx_model.data").read_bytes()
    q.checkpoint.config["quantization_config"] = {**old, "bits": 4, "group_size": 64}
    export(weighbridge, q, tmp_path, name="both")


@pytest.mark.parametrize("both", [{"w_bit": 4, "bits": 3}, {"w_bit": 3, "bits": 4}, {"group_size": 32}, {"q_group_size": 128}])
def test_old_and_new_keys_that_disagree(both, weighbridge, tmp_path):  # AWQ-06
    q = int4.quantize(small(), "awq", 64)
    q.checkpoint.config["quantization_config"] |= {"q_group_size": 64, "w_bit": 4, **both}
    refused(weighbridge, q, tmp_path, *(["w_bit"] if "w_bit" in both else ["q_group_size", "group_size"]))


@pytest.mark.parametrize("version", ["gemv", "gemv_fast", "marlin", "exllama"])
def test_other_versions_of_awq(version, weighbridge, tmp_path):
    q = int4.quantize(small(), "awq", 64)
    q.checkpoint.config["quantization_config"]["version"] = version
    refused(weighbridge, q, tmp_path, version, "gemm")


@pytest.mark.parametrize("method", METHODS)
def test_plain_tensors_under_a_label(method, weighbridge, tmp_path):
    """The config says quantized, no tensor is packed."""
    ckpt = small()
    ckpt.config["quantization_config"] = int4.quantize(ckpt, method, 32).checkpoint.config["quantization_config"]
    refused(weighbridge, ckpt, tmp_path, ckpt.config["quantization_config"]["quant_method"], PACKED[method])


@pytest.mark.parametrize("method", METHODS)
def test_packed_tensors_without_a_label(method, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32)
    del q.checkpoint.config["quantization_config"]
    refused(weighbridge, q, tmp_path, "model.layers.0.", "quantiz")


@pytest.mark.parametrize("method, other", [("gptq", "awq"), ("awq", "gptq"), ("compressed", "gptq"), ("gptq", "compressed")])
def test_tensors_of_another_method(method, other, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32)
    q.checkpoint.config["quantization_config"] = int4.quantize(small(), other, 32).checkpoint.config["quantization_config"]
    refused(weighbridge, q, tmp_path, PACKED[method if {method, other} == {"gptq", "awq"} else other])


def with_group_size(q, method, group):
    config = q.checkpoint.config["quantization_config"]
    (config["config_groups"]["group_0"]["weights"] if method == "compressed" else config)["group_size"] = group
    return q


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", [64, 128, -1])
def test_group_sizes_that_the_scales_contradict(method, group, weighbridge, tmp_path):
    q = with_group_size(int4.quantize(small(), method, 32), method, group)
    refused(weighbridge, q, tmp_path, f"{UP}.{'weight_scale' if method == 'compressed' else 'scales'}")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", [0, -2, "32", 32.5, 2**40])
def test_group_sizes_that_are_none(method, group, weighbridge, tmp_path):
    refused(weighbridge, with_group_size(int4.quantize(small(), method, 32), method, group), tmp_path, "group_size")


ODD = [None, "", "x", "4", 4.5, -1, 2**63 - 1, True, [], {}, [None], {"a": None}]


def places(value, path=()):
    """Every key of the configuration, nested ones too."""
    for key in value if isinstance(value, dict) else []:
        yield (*path, key)
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize("method", METHODS)
def test_odd_values_in_the_configuration(method, weighbridge, tmp_path):
    """Any value for any key: the right bytes or a refusal, nothing else."""
    q = int4.quantize(small(), method, 32)
    config = q.checkpoint.config["quantization_config"]
    q.checkpoint.write(tmp_path / "model")
    r, keys, right = random.Random(4), list(places(config)), 0
    for i in range(40):
        bad = json.loads(json.dumps(config))
        *above, last = r.choice(keys)
        at = bad
        for key in above:
            at = at[key]
        at[last] = r.choice(ODD)
        q.checkpoint.config["quantization_config"] = bad
        checkpoints.write_json(tmp_path / "model" / "config.json", q.checkpoint.config)
        out = tmp_path / f"out{i}"
        status = weighbridge("export", tmp_path / "model", out).status
        assert out.exists() == (status == 0), bad
        if status == 0:
            right += 1
            check_bytes(out, q.linears)
    assert 0 < right < 40


# ---------------------------------------------------------------------------------------------------- compressed-tensors


def test_in_100(weighbridge, tmp_path):  # CT-03
    q = int4.quantize(small(config={"intermediate_size": 100}), "compressed", -1, only=r".*down_proj")
    assert int4.array(q.checkpoint.tensors[DOWN + ".weight_packed"]).shape == (64, 13)
    refused(weighbridge, q, tmp_path, DOWN, 100, 64)


@pytest.mark.parametrize("shape", [(128, 56), (128, 128), (64, 128), (-128, 64), (0, 0), (2**62, 4)])
def test_a_shape_that_lies(shape, weighbridge, tmp_path):  # CT-03
    q = int4.quantize(small(), "compressed", 32)
    q.checkpoint.tensors[UP + ".weight_shape"] = int4.ints(shape, "I64")
    refused(weighbridge, q, tmp_path, UP + ".weight_shape")


def test_two_groups_and_patterns(weighbridge, compare, tmp_path):  # CT-04
    q = int4.quantize(small(), "compressed", 32, False, only=r".*self_attn\.\w+_proj")
    coarse = int4.quantize(small(), "compressed", 64, True, only=r".*(up|down)_proj")
    for module, linear in coarse.linears.items():
        q.replace(module, linear, int4.compressed)
        del q.checkpoint.tensors[module + ".weight"]
    q.checkpoint.config["quantization_config"] = int4.compressed_config(
        int4.compressed_group(32, False, targets=[r"re:.*self_attn\..*"]),
        int4.compressed_group(64, True, targets=[r"re:.*(up|down)_proj$"]), ignore=["lm_head", "re:.*gate_proj$"])
    out, said = export(weighbridge, q, tmp_path)
    found = check_bytes(out, q.linears)
    assert (found.linear(K).group, found.linear(UP).group) == (32, 64) and GATE not in found.plugins
    assert "ignore" not in said
    check_numbers(weighbridge, compare, out, q, tmp_path)


def test_the_format_in_the_group(weighbridge, tmp_path):  # CT-04
    q = int4.quantize(small(), "compressed", 32)
    config = q.checkpoint.config["quantization_config"]
    config["format"] = "mixed-precision"
    config["config_groups"]["group_0"]["format"] = "pack-quantized"
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)
    del config["format"]
    export(weighbridge, q, tmp_path, name="only")


def test_unknown_keys_are_reported(weighbridge, tmp_path):  # CT-04
    q = int4.quantize(small(), "compressed", 32)
    q.checkpoint.config["quantization_config"]["transmogrification"] = {"a": 1}
    _, said = export(weighbridge, q, tmp_path)
    assert "transmogrification" in said


@pytest.mark.parametrize("format", ["naive-quantized", "int-quantized", "float-quantized", "marlin-24", "nvfp4-pack-quantized", "dense"])
@pytest.mark.parametrize("inside", [False, True])
def test_other_formats(format, inside, weighbridge, tmp_path):
    q = int4.quantize(small(), "compressed", 32)
    config = q.checkpoint.config["quantization_config"]
    (config["config_groups"]["group_0"] if inside else config)["format"] = format
    refused(weighbridge, q, tmp_path, format, "pack-quantized")


@pytest.mark.parametrize("change, words", [
    ({"type": "float"}, ["type", "float"]), ({"strategy": "tensor"}, ["strategy", "tensor"]),
    ({"strategy": "block"}, ["strategy", "block"])])
def test_other_schemes(change, words, weighbridge, tmp_path):
    q = int4.quantize(small(), "compressed", 32)
    q.checkpoint.config["quantization_config"]["config_groups"]["group_0"]["weights"] |= change
    refused(weighbridge, q, tmp_path, *words)


@pytest.mark.parametrize("which", ["input_activations", "output_activations"])
def test_quantized_activations(which, weighbridge, tmp_path):
    q = int4.quantize(small(), "compressed", 32)
    q.checkpoint.config["quantization_config"]["config_groups"]["group_0"][which] = {"num_bits": 8, "type": "int"}
    refused(weighbridge, q, tmp_path, which)


def test_a_quantized_cache(weighbridge, tmp_path):
    """FP8 scales of a KV cache are not read from here: said, or refused, never ignored in silence."""
    q = int4.quantize(small(), "compressed", 32)
    q.checkpoint.config["quantization_config"]["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    q.checkpoint.write(tmp_path / "model")
    assert "kv_cache_scheme" in weighbridge("export", tmp_path / "model", tmp_path / "out").stderr


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F16"])
@pytest.mark.parametrize("sym", [True, False])
def test_scales_in_other_dtypes(dtype, sym, weighbridge, tmp_path):
    q = int4.quantize(small(), "compressed", 32, sym, scales=dtype)
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def test_an_order_of_minus_ones(weighbridge, tmp_path):
    q = int4.quantize(small(), "compressed", 32, False)
    for module, linear in q.linears.items():
        q.checkpoint.tensors[module + ".weight_g_idx"] = int4.ints(np.full_like(linear.g_idx, -1))
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


def test_an_unused_zero_point(weighbridge, compare, tmp_path):
    """Asymmetric, and all zero points are 8: stored, and fold."""
    q = int4.quantize(small(), "compressed", 32, True)
    q.checkpoint.config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = False
    for module, linear in q.linears.items():
        q.checkpoint.tensors[module + ".weight_zero_point"] = int4.ints(int4.pack_int32(linear.zeros.T, 0))
    out, _ = export(weighbridge, q, tmp_path)
    check_bytes(out, q.linears)


# ---------------------------------------------------------------------------------------------------- other quantizers


def stored(name, dtype, shape, size):
    return {name: Tensor(dtype, shape, bytes(int(np.prod(shape)) * size))}


@pytest.mark.parametrize("config, tensors, words", [
    ({"quant_method": "bitsandbytes", "load_in_8bit": True},  # CT-05
     stored(UP + ".weight", "I8", (128, 64), 1) | stored(UP + ".SCB", "F32", (128,), 4), ["bitsandbytes"]),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, stored(UP + ".weight", "U8", (4096, 1), 1), ["bitsandbytes"]),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]},  # CT-07
     stored(UP + ".weight", "F8_E4M3", (128, 64), 1) | stored(UP + ".weight_scale_inv", "F32", (1, 1), 4), ["fp8"]),
    (None, stored(UP + ".weight", "F8_E4M3", (128, 64), 1) | stored(UP + ".weight_scale_inv", "F32", (1, 1), 4), [UP]),
    (None, stored(UP + ".weight", "I8", (128, 64), 1) | stored(UP + ".SCB", "F32", (128,), 4), [UP]),
    ({"group_size": 64, "bits": 4},
     stored(UP + ".weight", "U32", (128, 8), 4) | stored(UP + ".scales", "F16", (128, 1), 2) | stored(UP + ".biases", "F16", (128, 1), 2),
     ["quant_method", "MLX"])])
def test_other_quantizers(config, tensors, words, weighbridge, tmp_path):
    ckpt = small()
    ckpt.tensors |= tensors
    if config:
        ckpt.config["quantization_config"] = config
    refused(weighbridge, ckpt, tmp_path, *words)


# ---------------------------------------------------------------------------------------------------- plan, inspect, verify


@pytest.mark.parametrize("method, word", [("gptq", "gptq"), ("awq", "awq"), ("compressed", "compressed-tensors")])
def test_inspect_and_plan_know_the_format(method, word, weighbridge, tmp_path):
    q = int4.quantize(small(), method, 32, False, method != "awq")
    q.checkpoint.write(tmp_path / "model")
    assert word in weighbridge.ok("inspect", tmp_path / "model").stdout.lower()
    plan = weighbridge.ok("plan", tmp_path / "model", "--json").json
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out")
    assert plan["bytes"]["written"] >= (tmp_path / "out" / "onnx_model.data").stat().st_size if "written" in plan["bytes"] else True
    assert not any("qweight" in n for n in plan) and UP in json.dumps(plan)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", ["qweight", "scales", "correction", "permute_idx"])
def test_verify_names_what_was_changed(method, constant, weighbridge, tmp_path):
    if (method, constant) == ("awq", "permute_idx"):
        pytest.skip("AWQ has no order")
    q = int4.quantize(small(), method, 32, False, method != "awq")
    out, _ = export(weighbridge, q, tmp_path)
    e = int4.Export(out)
    plugin = e.plugins[UP]
    name = {"qweight": lambda: plugin.input[1], "scales": lambda: plugin.input[2],
            "correction": lambda: e.correction(UP)[0], "permute_idx": lambda: e.maker[plugin.input[0]].input[1]}[constant]()
    model = onnx.load(out / "model.onnx", load_external_data=False)
    t = next(t for t in model.graph.initializer if t.name == name)
    if t.data_location == onnx.TensorProto.EXTERNAL:
        at = int(next(x.value for x in t.external_data if x.key == "offset"))
        data = bytearray((out / "onnx_model.data").read_bytes())
        data[at] ^= 1
        (out / "onnx_model.data").write_bytes(data)
    else:
        t.raw_data = bytes([t.raw_data[0] ^ 1]) + t.raw_data[1:]
        onnx.save(model, out / "model.onnx")
    r = weighbridge("verify", out, q.checkpoint.path)
    assert r.status == 1 and name in r.stdout + r.stderr
