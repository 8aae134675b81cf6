"""Merging a LoRA adapter into the weights: `export --merge-lora`, `verify --merge-lora`.

Goldens; a plain numpy merge for whatever shapes, dtypes, ranks and patterns; modes composed; and what is refused (cases
LORA-02, LORA-03, LORA-04, LORA-06)."""
import itertools
import json
import os

import checkpoints
import numpy as np
import onnx
import pytest
import xxhash
from adapters import NUMPY, Adapter, array
from checkpoints import read_safetensors, tensor
from conftest import tree
from onnx import numpy_helper
from test_reduced_vocab import head_of, write_map

GOLDENS = {"llama": "lora_llama", "qwen2": "lora_qwen2_bf16"}
ODD = {"hidden_size": 72, "intermediate_size": 101, "vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}


# ---------------------------------------------------------------------------------------------------- references


def merged(w, a, b, scale):
    """[out, in] in fp16: the weight rounded, the product in fp32, one rounding of the sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.asarray(w).astype(np.float16).astype(np.float32)
        product = np.asarray(b).astype(np.float32) @ np.asarray(a).astype(np.float32)
        return (w + product * np.float32(scale)).astype(np.float16)


def ulps(x, y):
    """How far apart fp16 values are, in steps."""
    def place(v):
        h = np.asarray(v).view(np.uint16).astype(np.int32)
        return np.where(h & 0x8000, -(h & 0x7fff), h)
    return np.abs(place(x) - place(y))


def check(got, want):
    """Equal, but for a few values whose sums another order rounds to a neighbour."""
    got, want = np.ascontiguousarray(got), np.ascontiguousarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype == np.float16
    with np.errstate(invalid="ignore"):
        near = (ulps(got, want) <= 1) | (np.abs(got.astype(np.float32) - want.astype(np.float32)) < 2 ** -21)  # where terms cancel
    assert near.all() and (got != want).sum() <= 2 + want.size // 200


def weights_of(out):
    """canonical module -> [in, out], from the names of the nodes that use it"""
    m = onnx.load(out / "model.onnx")
    by_name = {t.name: t for t in m.graph.initializer}
    return {n.name.strip("/").removesuffix("/MatMul").replace("/", "."): numpy_helper.to_array(by_name[n.input[1]])
            for n in m.graph.node if n.op_type == "MatMul" and n.input[1] in by_name}


def random_adapter(ckpt, rank=4, dtype="F32", modules=None, config=None, prefix="base_model.model.", seed=3):
    """-> an adapter of every linear, or of `modules`; and {module: (A, B)} as they are stored"""
    g, adapter, pairs = np.random.RandomState(seed), Adapter({"r": rank, **(config or {})}), {}
    for name, t in ckpt.tensors.items():
        module = name.removesuffix(".weight").removesuffix(".base_layer")
        if len(t.shape) != 2 or "embed_tokens" in name or (modules is not None and module not in modules):
            continue
        r = (config or {}).get("rank_pattern", {}).get(module.split(".")[-1], rank)
        a, b = (0.1 * g.standard_normal(s) for s in ((r, t.shape[1]), (t.shape[0], r)))
        adapter.add(prefix + module, a, b, dtype)
        pairs[module] = tuple(array(adapter.tensors[f"{prefix}{module}.lora_{half}.weight"]) for half in "AB")
    return adapter, pairs


def check_export(out, ckpt, pairs, scale):
    """Every linear of the export: merged where the adapter has it, the checkpoint's elsewhere."""
    seen = 0
    for module, w in weights_of(out).items():
        source = array(ckpt.tensors[f"{module}.weight"])
        if module in pairs:
            check(w.T, merged(source, *pairs[module], scale(module) if callable(scale) else scale))
            seen += 1
        else:
            assert w.tobytes() == source.astype(np.float16).T.tobytes(), module
    assert seen == len(pairs)


# ---------------------------------------------------------------------------------------------------- goldens


@pytest.mark.parametrize("case", GOLDENS)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    model, adapter, out = f"checkpoints/{case}", f"checkpoints/{GOLDENS[case]}", tmp_path / "out"
    said = weighbridge.ok("export", model, out, "--merge-lora", adapter, cwd=golden).stdout
    assert "modules of checkpoints/lora_" in said
    said = compare(golden / "edgellm-0.5" / f"{case}__lora_merged_export", out, "--loose-json", "--execute")
    assert "0 differences" in said and "--execute decode" in said
    said = weighbridge.ok("verify", out, model, "--merge-lora", adapter, cwd=golden).stdout
    assert "off by one in the last place" in said


# ---------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("dtype, factors, rank", [("BF16", "F32", 1), ("F32", "BF16", 3), ("F16", "F16", 8), ("BF16", "BF16", 16),
                                                  ("F32", "F32", 64)])
def test_every_linear(dtype, factors, rank, weighbridge, tmp_path):
    ckpt = checkpoints.build("llama", dtype, config=ODD)
    adapter, pairs = random_adapter(ckpt, rank, factors, config={"lora_alpha": 7})
    ckpt.write(tmp_path / "model", shards=2)
    adapter.write(tmp_path / "adapter")
    report = tmp_path / "report.json"
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", tmp_path / "adapter", "--report", report)
    check_export(tmp_path / "out", ckpt, pairs, 7 / rank)
    told = json.loads(report.read_text())
    assert told["merge_lora"] == {"adapter": str(tmp_path / "adapter"), "modules": 15, "merged": 15, "left_out": 0}
    assert sum("lora_rank" in t for t in told["tensors"]) == 15
    meta = {p.key: p.value for p in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert meta["weighbridge.merge_lora"].startswith("15 modules, xxh3:") and str(tmp_path) not in str(meta)
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model", "--merge-lora", tmp_path / "adapter")


@pytest.mark.parametrize("config, scale", [
    ({"use_rslora": True, "lora_alpha": 6}, lambda m: 6 / 2),
    ({"lora_alpha": 6, "alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 1}},
     lambda m: 3 / 4 if m.endswith("q_proj") else 1 / 4 if m.endswith("layers.1.mlp.up_proj") else 6 / 4),
    ({"lora_alpha": 6, "rank_pattern": {"down_proj": 2, "o_proj": 7}},
     lambda m: 6 / 2 if m.endswith("down_proj") else 6 / 7 if m.endswith("o_proj") else 6 / 4),
    ({"lora_alpha": 6, "use_rslora": True, "rank_pattern": {"down_proj": 9}}, lambda m: 6 / 3 if m.endswith("down_proj") else 3),
])
def test_scales(config, scale, weighbridge, tmp_path):
    ckpt = checkpoints.build("qwen3", config=ODD)
    adapter, pairs = random_adapter(ckpt, 4, config=config)
    ckpt.write(tmp_path / "model")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", adapter.write(tmp_path / "adapter"))
    check_export(tmp_path / "out", ckpt, pairs, scale)


def test_values_that_overflow_or_are_no_numbers(weighbridge, tmp_path):
    """Counted after the sum; a weight that is infinite in fp16 stays so."""
    ckpt = checkpoints.build("llama", "F32")
    name = "model.layers.0.mlp.up_proj"
    w = np.zeros((96, 64), np.float32)
    w[0, :4] = 1e6, -1e6, np.nan, 60000
    ckpt.tensors[name + ".weight"] = tensor(w, "F32")
    ckpt.write(tmp_path / "model")
    a, b = np.zeros((4, 64)), np.zeros((96, 4))
    a[0], b[0, 0] = 1, 10000
    adapter = Adapter().add("base_model.model." + name, a, b).write(tmp_path / "adapter")
    report = tmp_path / "report.json"
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", adapter, "--report", report)
    got = weights_of(tmp_path / "out")[name].T
    check(got[:, 3:], merged(w, a, b, 2)[:, 3:])
    assert got[0, 0] == np.inf and got[0, 1] == -np.inf and np.isnan(got[0, 2]) and got[0, 3] == np.inf and got[0, 4] == 20000
    told = next(t for t in json.loads(report.read_text())["tensors"] if t.get("lora_rank"))
    assert (told["overflow"], told["nan"], told["flushed"]) == (3, 1, 0)
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model", "--merge-lora", adapter)


def test_matrices_that_stand_inside_the_graph(weighbridge, tmp_path):
    """Too small for the data file."""
    ckpt = checkpoints.build("llama", config={"hidden_size": 8, "head_dim": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
                                              "intermediate_size": 12})
    adapter, pairs = random_adapter(ckpt, 2)
    ckpt.write(tmp_path / "model")
    adapter.write(tmp_path / "adapter")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", tmp_path / "adapter")
    m = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    assert sum(len(t.raw_data) > 0 and len(t.dims) == 2 for t in m.graph.initializer) == 14
    check_export(tmp_path / "out", ckpt, pairs, 4)
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model", "--merge-lora", tmp_path / "adapter")


# ---------------------------------------------------------------------------------------------------- same bytes


def test_same_bytes_whatever_the_engine_threads_and_memory(weighbridge_release, tmp_path):
    """Matrices of more than a tile and of more than a block on either side."""
    ckpt = checkpoints.build("llama", "F32", config={"vocab_size": 3001, "hidden_size": 640, "intermediate_size": 1331,
                                                     "num_hidden_layers": 1})
    adapter, pairs = random_adapter(ckpt, 8)
    ckpt.write(tmp_path / "model", shards=2)
    adapter.write(tmp_path / "adapter")
    seen = set()
    for io, threads, memory in [*itertools.product(["auto", "pread"], [1, 2, 8], ["16M", "512M"]), ("uring", 64, "64M")]:
        weighbridge_release.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", tmp_path / "adapter", "--overwrite",
                               "--io", io, "--threads", threads, "--memory", memory)
        seen.add(tuple(sorted((n, xxhash.xxh3_64_hexdigest(b)) for n, b in tree(tmp_path / "out").items())))
    assert len(seen) == 1
    check_export(tmp_path / "out", ckpt, pairs, 1)


def test_same_bytes_with_every_instruction_set(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama", config=ODD)
    adapter, _ = random_adapter(ckpt, 8)
    ckpt.write(tmp_path / "model")
    adapter.write(tmp_path / "adapter")
    seen = []
    for isa in ("scalar", "avx2", "avx512", "neon"):
        weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", tmp_path / "adapter", "--overwrite",
                       env={"WEIGHBRIDGE_ISA": isa})
        seen.append(tree(tmp_path / "out"))
    assert all(s == seen[0] for s in seen)


def test_memory_is_bounded(weighbridge_release, tmp_path):
    """A head of 82 MB and an adapter of 14 MB in a budget of 32 MiB: neither is ever whole in memory."""
    ckpt = checkpoints.build("llama", "BF16", config={"vocab_size": 20011, "hidden_size": 2048, "num_hidden_layers": 1})
    adapter, pairs = random_adapter(ckpt, 160, "F32", modules=["lm_head"], config={"lora_alpha": 160})
    ckpt.write(tmp_path / "model")
    adapter.write(tmp_path / "adapter")
    r = weighbridge_release.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", tmp_path / "adapter", "--memory", "32M",
                               "--threads", 2, "--report", "-")
    assert r.json["memory"]["buffers"] <= 32 << 20
    assert r.json["totals"]["peak_rss"] < 56 << 20, r.json["totals"]
    a, b = pairs["lm_head"]
    check(head_of(tmp_path / "out").T[::9], merged(array(ckpt.tensors["lm_head.weight"])[::9], a, b[::9], 1))


def test_the_blas_starts_with_the_first_merge(weighbridge_release, exported):
    """Its start wants memory for each processor, and waits for ever where there is none."""
    limit = ["prlimit", f"--data={64 << 20}", "--"]
    weighbridge_release.ok("version", prefix=limit, timeout=20)
    weighbridge_release.ok("export", exported / "model", exported / "limited", "--memory", "16M", "--threads", 1, prefix=limit, timeout=60)


# ---------------------------------------------------------------------------------------------------- modes


def test_modes_compose(weighbridge, golden, tmp_path):
    """EAGLE base, FP8 cache and a reduced vocabulary change no merged weight: rows of the head are rows of the head."""
    model, adapter = golden / "checkpoints" / "llama_kvfp8", golden / "checkpoints" / "lora_llama"
    ids = [5, 6, 7, 319, 100, 101, 3, 47, 48, 49]
    vocab = write_map(tmp_path / "map", ids)
    for name, options in {"plain": [], "all": ["--eagle-base", "--fp8-kv-cache", "--reduced-vocab", vocab]}.items():
        weighbridge.ok("export", model, tmp_path / name, "--merge-lora", adapter, *options)
        weighbridge.ok("verify", tmp_path / name, model, "--merge-lora", adapter)
    one, other = weights_of(tmp_path / "plain"), weights_of(tmp_path / "all")
    assert other.pop("lm_head").tobytes() == one.pop("lm_head")[:, ids].tobytes()
    assert one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


@pytest.mark.parametrize("seed", range(4))
def test_a_reduced_head_is_rows_of_the_whole(seed, weighbridge, tmp_path):
    g = np.random.RandomState(seed)
    ckpt = checkpoints.build("llama", config={**ODD, "vocab_size": 211, "hidden_size": 520})
    adapter, pairs = random_adapter(ckpt, 33, modules=["lm_head"], config={"lora_alpha": 33})
    ckpt.write(tmp_path / "model")
    adapter.write(tmp_path / "adapter")
    ids = [int(i) for i in g.randint(0, 211, 120)]
    vocab = write_map(tmp_path / "map", ids)
    for name, options in {"whole": [], "reduced": ["--reduced-vocab", vocab]}.items():
        weighbridge.ok("export", tmp_path / "model", tmp_path / name, "--merge-lora", tmp_path / "adapter", *options)
    whole = head_of(tmp_path / "whole")
    check(whole.T, merged(array(ckpt.tensors["lm_head.weight"]), *pairs["lm_head"], 1))
    assert head_of(tmp_path / "reduced").tobytes() == np.ascontiguousarray(whole[:, ids]).tobytes()
    weighbridge.ok("verify", tmp_path / "reduced", tmp_path / "model", "--merge-lora", tmp_path / "adapter")


def test_a_tied_head_leaves_the_embedding(weighbridge, tmp_path):
    """What the adapter was trained to do: PEFT's merge would change the embedding with it."""
    ckpt = checkpoints.build("qwen2", config=ODD)
    g = np.random.RandomState(0)
    a, b = 0.1 * g.standard_normal((4, 72)), 0.1 * g.standard_normal((61, 4))
    adapter = Adapter().add("base_model.model.lm_head", a, b)
    ckpt.write(tmp_path / "model")
    adapter.write(tmp_path / "adapter")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", tmp_path / "adapter")
    source = array(ckpt.tensors["model.embed_tokens.weight"])
    check(head_of(tmp_path / "out").T, merged(source, a.astype(np.float32), b.astype(np.float32), 2))
    embedding = read_safetensors(tmp_path / "out" / "embedding.safetensors")["embedding"]
    assert embedding.data == source.astype(np.float16).tobytes()
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model", "--merge-lora", tmp_path / "adapter")


def wrapped_phi(golden, path):
    """Phi-4-multimodal as it is published: linears wrapped by PEFT, two adapters in the file, and one as a directory."""
    ckpt = checkpoints.Checkpoint(json.loads((golden / "checkpoints" / "phi4mm" / "config.json").read_text()),
                                  read_safetensors(golden / "checkpoints" / "phi4mm" / "model.safetensors"))
    g = np.random.RandomState(1)
    for name in [n for n in ckpt.tensors if "proj" in n]:
        module, t = name.removesuffix(".weight"), ckpt.tensors.pop(name)
        ckpt.tensors[module + ".base_layer.weight"] = t
        for which, r in (("speech", 6), ("vision", 4)):
            ckpt.tensors[f"{module}.lora_A.{which}.weight"] = tensor(g.standard_normal((r, t.shape[1])), "BF16")
            ckpt.tensors[f"{module}.lora_B.{which}.weight"] = tensor(g.standard_normal((t.shape[0], r)), "BF16")
    ckpt.tensors["model.embed_tokens_extend.image_embed.img_projection.0.weight"] = tensor(g.standard_normal((8, 8)), "BF16")
    ckpt.write(path)
    adapter, pairs = random_adapter(checkpoints.Checkpoint({}, {k: v for k, v in ckpt.tensors.items() if "base_layer" in k}), 4, "BF16")
    adapter.write(path / "vision-lora")
    return ckpt, pairs


def test_an_adapter_inside_the_model(weighbridge, golden, tmp_path):
    ckpt, pairs = wrapped_phi(golden, tmp_path / "model")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "base")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", "vision-lora")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "same", "--merge-lora", tmp_path / "model" / "vision-lora")
    assert tree(tmp_path / "out") == tree(tmp_path / "same")
    base, got = weights_of(tmp_path / "base"), weights_of(tmp_path / "out")
    assert len(pairs) == 16
    for module, (a, b) in pairs.items():
        source = array(ckpt.tensors[module + ".base_layer.weight"])
        assert base[module].tobytes() == source.astype(np.float16).T.tobytes()
        check(got[module].T, merged(source, a, b, 2))
    assert base["lm_head"].tobytes() == got["lm_head"].tobytes()
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model", "--merge-lora", "vision-lora")


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.model.language_model.", "base_model.model.language_model.model.",
                                    "", "base_model.model.model.text_model."])
def test_prefixes(prefix, weighbridge, tmp_path):  # LORA-02
    ckpt = checkpoints.build("llama", config=ODD)
    plain, pairs = random_adapter(ckpt, 4)
    ckpt.write(tmp_path / "model")
    adapter = Adapter()
    adapter.tensors = {prefix + n.removeprefix("base_model.model.").removeprefix("model." if prefix.endswith("model.") and prefix.count("model.") > 2
                                                                                  else "\0"): t for n, t in plain.tensors.items()}
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--merge-lora", adapter.write(tmp_path / "adapter"))
    check_export(tmp_path / "out", ckpt, pairs, 2)


def test_modules_that_the_model_does_not_have(weighbridge, tmp_path):  # LORA-02
    ckpt = checkpoints.build("llama", config=ODD)
    adapter, _ = random_adapter(ckpt, 4, modules=["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"])
    ckpt.write(tmp_path / "model")
    adapter.add("base_model.model.model.layers.9.self_attn.q_proj", np.ones((4, 72)), np.ones((64, 4)))
    text = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out", "--merge-lora", adapter.write(tmp_path / "some"))
    assert "1 of its 3 modules" in text and "2 are" in text and "layers.9.self_attn.q_proj" in text
    none = Adapter().add("base_model.model.transformer.h.0.attn.c_attn", np.ones((4, 72)), np.ones((64, 4))).write(tmp_path / "none")
    text = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out", "--merge-lora", none)
    assert "1 of its 1 modules" in text and "0 are" in text and "c_attn" in text
    assert sorted(os.listdir(tmp_path)) == ["model", "none", "some"]
    assert "would be refused" in weighbridge("plan", tmp_path / "model", "--merge-lora", none).stdout


def test_modules_outside_the_decoder(weighbridge, golden, tmp_path):
    """A vision tower's are left out with a warning; when there are no others, the adapter would have no effect."""
    model = golden / "checkpoints" / "qwen2_vl"
    tensors = read_safetensors(model / "model.safetensors")
    tower = next(n for n in tensors if "visual" in n and n.endswith("qkv.weight"))
    module, (n, k) = tower.removesuffix(".weight"), tensors[tower].shape
    only = Adapter().add("base_model.model." + module, np.ones((4, k)), np.ones((n, 4)))
    text = weighbridge.refuses("export", model, tmp_path / "out", "--merge-lora", only.write(tmp_path / "only"))
    assert "no effect" in text and module in text
    q = next(n for n in tensors if n.endswith("layers.0.self_attn.q_proj.weight"))
    both = only.add("base_model.model." + q.removesuffix(".weight"), *(np.ones(s) for s in ((4, tensors[q].shape[1]), (tensors[q].shape[0], 4))))
    r = weighbridge.ok("export", model, tmp_path / "out", "--merge-lora", both.write(tmp_path / "both"))
    assert "1 of its 2 modules lie outside" in r.stderr
    weighbridge.refuses("export", model, tmp_path / "strict", "--merge-lora", tmp_path / "both", "--strict")


# ---------------------------------------------------------------------------------------------------- refusals


def test_an_adapter_of_another_size(weighbridge, tmp_path):  # LORA-04
    model = checkpoints.make(tmp_path / "model").path
    adapter = Adapter({"r": 8}).add("base_model.model.model.layers.0.self_attn.q_proj", np.ones((8, 32)), np.ones((64, 8)))
    text = weighbridge.refuses("export", model, tmp_path / "out", "--merge-lora", adapter.write(tmp_path / "adapter"))
    assert "[8, 32]" in text and "[64, 8]" in text and "[64, 64]" in text and "32 inputs" in text and "q_proj" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tensors, config, said", [
    ({"base_model.model.model.embed_tokens.weight": (70, 64), "base_model.model.lm_head.weight": (70, 64)},
     {"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save"),  # LORA-03
    ({"base_model.model.model.embed_tokens.weight": (70, 64)}, {}, "model.embed_tokens.weight"),  # LORA-03, resized
    ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 272)}, {}, "lora_embedding_A"),
    ({"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": (64,)}, {"use_dora": True}, "use_dora"),
    ({"base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias": (64,)}, {"lora_bias": True}, "lora_bias"),
    ({"base_model.model.model.layers.0.input_layernorm.weight": (64,)}, {}, "input_layernorm"),
    ({}, {"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({}, {"bias": "all"}, "bias"),
    ({}, {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ({}, {"peft_type": "IA3"}, "peft_type"),
    ({}, {"rank_pattern": {"layers.[01].mlp": 4}}, "rank_pattern"),
])
def test_features_refused_by_name(tensors, config, said, weighbridge, tmp_path):
    ckpt = checkpoints.build()
    adapter, _ = random_adapter(ckpt, 4, config=config)
    ckpt.write(tmp_path / "model")
    for name, shape in tensors.items():
        adapter.tensors[name] = tensor(np.ones(shape), "F32")
    text = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out", "--merge-lora", adapter.write(tmp_path / "adapter"))
    assert said in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("base", ["llama_gptq_g128", "qwen2_gptq_g64"])
def test_a_quantized_base(base, weighbridge, golden, tmp_path):  # LORA-06
    adapter = Adapter().add("base_model.model.model.layers.0.self_attn.q_proj", np.ones((4, 64)), np.ones((64, 4)))
    text = weighbridge.refuses("export", golden / "checkpoints" / base, tmp_path / "out", "--merge-lora", adapter.write(tmp_path / "adapter"))
    assert "quantized" in text and "lora process" in text
    assert not (tmp_path / "out").exists()


def test_a_draft(weighbridge, golden, tmp_path):
    text = weighbridge("export-draft", golden / "checkpoints" / "llama_eagle3", tmp_path / "out", "--merge-lora", "x").stderr
    assert "--merge-lora" in text and not (tmp_path / "out").exists()


def test_no_adapter(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model").path
    assert "adapter_config.json" in weighbridge.refuses("export", model, tmp_path / "out", "--merge-lora", tmp_path / "nothing")
    assert "adapter_config.json" in weighbridge.refuses("export", model, tmp_path / "out", "--merge-lora", model)


# ---------------------------------------------------------------------------------------------------- verify


@pytest.fixture(scope="module")
def exported(weighbridge, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("merged")
    ckpt = checkpoints.build("llama", config=ODD)
    adapter, _ = random_adapter(ckpt, 4)
    ckpt.write(tmp / "model")
    adapter.write(tmp / "adapter")
    weighbridge.ok("export", tmp / "model", tmp / "out", "--merge-lora", tmp / "adapter")
    weighbridge.ok("export", tmp / "model", tmp / "plain")
    return tmp


def test_verify_wants_the_adapter(weighbridge, exported):
    assert "--merge-lora ADAPTER" in weighbridge.refuses("verify", exported / "out", exported / "model", status=2)
    assert "no LoRA adapter was merged" in weighbridge.refuses("verify", exported / "plain", exported / "model", "--merge-lora",
                                                               exported / "adapter", status=2)
    r = weighbridge.ok("verify", exported / "out", exported / "model", "--merge-lora", exported / "adapter", "--json").json
    assert r["ok"] and r["merged"] > 20000 and r["neighbours"] <= r["merged"] // 200


def test_verify_sees_another_scale(weighbridge, exported, tmp_path):
    ckpt = checkpoints.build("llama", config=ODD)
    other, _ = random_adapter(ckpt, 4, config={"lora_alpha": 9})
    r = weighbridge("verify", exported / "out", exported / "model", "--merge-lora", other.write(tmp_path / "other"))
    assert r.status == 1 and "metadata weighbridge.merge_lora" in r.stdout and "16 differences" in r.stdout


def test_verify_sees_another_adapter(weighbridge, exported, tmp_path):
    ckpt = checkpoints.build("llama", config=ODD)
    other, _ = random_adapter(ckpt, 4, seed=4)
    r = weighbridge("verify", exported / "out", exported / "model", "--merge-lora", other.write(tmp_path / "other"))
    assert r.status == 1 and "15 differences" in r.stdout


def test_verify_accepts_the_next_value_and_no_other(weighbridge, exported, tmp_path):
    m = onnx.load(exported / "out" / "model.onnx", load_external_data=False)
    t = next(t for t in m.graph.initializer if t.name == next(n for n in m.graph.node if n.name == "/lm_head/MatMul").input[1])
    off = int(next(e.value for e in t.external_data if e.key == "offset"))
    data = (exported / "out" / "onnx_model.data").read_bytes()
    counts = []
    for step in (0, 1, 3):
        spoilt = bytearray(data)
        spoilt[off] ^= step
        (exported / "out" / "onnx_model.data").write_bytes(spoilt)
        r = weighbridge("verify", exported / "out", exported / "model", "--merge-lora", exported / "adapter", "--json")
        counts.append((r.status, r.json["neighbours"]))
    (exported / "out" / "onnx_model.data").write_bytes(data)
    assert counts[0][0] == counts[1][0] == 0 and abs(counts[1][1] - counts[0][1]) == 1
    assert counts[2][0] == (1 if data[off] & 3 in (0, 3) else counts[2][0])
