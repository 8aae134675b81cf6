"""`lora merge`: a checkpoint in fp16 with an adapter merged into it, and its name in the reference."""
import json
import os

import checkpoints
import numpy as np
import pytest
from adapters import Adapter, array
from checkpoints import read_safetensors, tensor
from conftest import Program, tree
from test_merge import GOLDENS, ODD, check, merged, random_adapter, weights_of, wrapped_phi


def all_tensors(folder):
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        out.update(read_safetensors(file))
    return out


@pytest.mark.parametrize("case", GOLDENS)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    """The tensors of the reference; config.json is the source's with its dtype set; and what is exported from it."""
    model, out = golden / "checkpoints" / case, tmp_path / "out"
    said = weighbridge.ok("lora", "merge", model, golden / "checkpoints" / GOLDENS[case], out).stdout
    assert "merged into them" in said
    got = read_safetensors(out / "model.safetensors")
    want = read_safetensors(golden / "edgellm-0.5" / f"{case}__lora_merged_hf" / "model.safetensors")
    assert got == want and len(want) > 20
    source, config = (json.loads((folder / "config.json").read_text()) for folder in (model, out))
    assert config == {**source, "torch_dtype": "float16"} and list(config) == list(source)
    reference = json.loads((golden / "edgellm-0.5" / f"{case}__lora_merged_hf" / "config.json").read_text())
    assert all(reference[k] == config[k] for k in source if k in reference and k not in ("torch_dtype", "sliding_window"))
    a, b = tree(model), tree(out)
    assert a.keys() == b.keys() and {k for k in a if a[k] != b[k]} == {"config.json", "model.safetensors"}
    weighbridge.ok("export", out, tmp_path / "export")
    assert "0 differences" in compare(golden / "edgellm-0.5" / f"{case}__lora_merged_export", tmp_path / "export", "--loose-json", "--execute")


@pytest.mark.parametrize("dtype, shards", [("BF16", 1), ("F32", 3), ("F16", 2)])
def test_shards_stay_what_they_are(dtype, shards, weighbridge, tmp_path):
    ckpt = checkpoints.build("qwen2_5", dtype, config=ODD)
    ckpt.tensors["model.some.scalar"] = tensor(np.float32(3.25), "F32")
    ckpt.tensors["model.rotary_emb.inv_freq"] = tensor(np.arange(7) / 8, "F32")
    adapter, pairs = random_adapter(ckpt, 5, config={"lora_alpha": 9}, modules=[n[:-7] for n in ckpt.tensors if n.endswith("proj.weight")])
    ckpt.files["notes.txt"] = "mine"
    model = ckpt.write(tmp_path / "model", shards=shards).path
    (model / ".hidden").write_text("not copied")
    (model / "onnx").mkdir()
    weighbridge.ok("lora", "merge", model, adapter.write(tmp_path / "adapter"), tmp_path / "out")
    got = all_tensors(tmp_path / "out")
    assert got.keys() == ckpt.tensors.keys()
    for name, t in ckpt.tensors.items():
        pair = pairs.get(name.removesuffix(".weight"))
        if pair:
            check(array(got[name]), merged(array(t), *pair, 9 / 5))
        else:
            assert got[name].dtype == "F16" and got[name].shape == t.shape
            assert got[name].data == array(t).astype(np.float16).tobytes(), name
    assert sorted(os.listdir(tmp_path / "out")) == sorted(f for f in os.listdir(model) if f not in (".hidden", "onnx"))
    for file in model.glob("*.safetensors"):
        assert read_safetensors(file).keys() == read_safetensors(tmp_path / "out" / file.name).keys()
    if shards > 1:
        old, new = (json.loads((f / "model.safetensors.index.json").read_text()) for f in (model, tmp_path / "out"))
        assert old["weight_map"] == new["weight_map"]
        assert new["metadata"]["total_size"] == sum(len(t.data) for t in got.values())
    for name in ("merged-export", "direct"):
        args = [tmp_path / "out"] if name == "merged-export" else [model, "--merge-lora", tmp_path / "adapter"]
        weighbridge.ok("export", args[0], tmp_path / name, *args[1:])
    one, other = weights_of(tmp_path / "merged-export"), weights_of(tmp_path / "direct")
    assert one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


def test_transformers_read_it(weighbridge, tmp_path):
    """By the safetensors library, which wants no holes."""
    safetensors = pytest.importorskip("safetensors.numpy")
    ckpt = checkpoints.build("llama", config=ODD)
    adapter, _ = random_adapter(ckpt, 4)
    ckpt.write(tmp_path / "model", shards=2)
    weighbridge.ok("lora", "merge", tmp_path / "model", adapter.write(tmp_path / "adapter"), tmp_path / "out")
    for file in (tmp_path / "out").glob("*.safetensors"):
        ours = read_safetensors(file)
        for name, a in safetensors.load_file(file).items():
            assert a.tobytes() == ours[name].data


def test_same_bytes_whatever_threads_and_memory(weighbridge_release, tmp_path):
    ckpt = checkpoints.build("llama", "F32", config={"vocab_size": 3001, "hidden_size": 640, "intermediate_size": 1331, "num_hidden_layers": 1})
    adapter, _ = random_adapter(ckpt, 8)
    ckpt.write(tmp_path / "model", shards=2)
    adapter.write(tmp_path / "adapter")
    seen = []
    for threads, memory in [(1, "512M"), (2, "16M"), (8, "32M"), (3, "64M")]:
        weighbridge_release.ok("lora", "merge", tmp_path / "model", tmp_path / "adapter", tmp_path / "out", "--overwrite",
                               "--threads", threads, "--memory", memory)
        seen.append(tree(tmp_path / "out"))
    assert all(s == seen[0] for s in seen)


def test_a_tied_head_becomes_one_of_its_own(weighbridge, tmp_path):
    ckpt = checkpoints.build("qwen2", config=ODD)
    g = np.random.RandomState(0)
    a, b = (0.1 * g.standard_normal(s).astype(np.float32) for s in ((4, 72), (61, 4)))
    ckpt.write(tmp_path / "model", shards=2)
    path = Adapter().add("base_model.model.lm_head", a, b).write(tmp_path / "adapter")
    r = weighbridge.ok("lora", "merge", tmp_path / "model", path, tmp_path / "out")
    assert "a tensor of its own" in r.stderr
    got, source = all_tensors(tmp_path / "out"), array(ckpt.tensors["model.embed_tokens.weight"])
    assert got["model.embed_tokens.weight"].data == source.astype(np.float16).tobytes()
    check(array(got["lm_head.weight"]), merged(source, a, b, 2))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    weighbridge.ok("export", tmp_path / "out", tmp_path / "one")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "other", "--merge-lora", path)
    for name in ("onnx_model.data", "embedding.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_wrapped_linears_lose_the_wrapper(weighbridge, golden, tmp_path):
    ckpt, pairs = wrapped_phi(golden, tmp_path / "model")
    r = weighbridge.ok("lora", "merge", tmp_path / "model", "vision-lora", tmp_path / "out")
    assert "64 tensors of adapters" in r.stderr
    got = all_tensors(tmp_path / "out")
    assert not any("lora_" in n or "base_layer" in n for n in got) and "vision-lora" not in os.listdir(tmp_path / "out")
    for module, (a, b) in pairs.items():
        check(array(got[module + ".weight"]), merged(array(ckpt.tensors[module + ".base_layer.weight"]), a, b, 2))
    weighbridge.ok("export", tmp_path / "out", tmp_path / "one")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "other", "--merge-lora", "vision-lora")
    assert (tmp_path / "one" / "onnx_model.data").read_bytes() == (tmp_path / "other" / "onnx_model.data").read_bytes()


def test_a_vision_tower_is_merged_too(weighbridge, golden, tmp_path):
    model = golden / "checkpoints" / "qwen2_vl"
    tensors = read_safetensors(model / "model.safetensors")
    name = next(n for n in tensors if "visual" in n and n.endswith("qkv.weight"))
    n, k = tensors[name].shape
    g = np.random.RandomState(0)
    a, b = (g.standard_normal(s).astype(np.float32) for s in ((4, k), (n, 4)))
    path = Adapter().add("base_model.model." + name.removesuffix(".weight"), a, b).write(tmp_path / "adapter")
    weighbridge.ok("lora", "merge", model, path, tmp_path / "out")
    check(array(read_safetensors(tmp_path / "out" / "model.safetensors")[name]), merged(array(tensors[name]), a, b, 2))


def test_refusals(weighbridge, golden, tmp_path):
    model = checkpoints.make(tmp_path / "model").path
    before = tree(model)

    def refused(said, *args):
        text = weighbridge.refuses("lora", "merge", *args)
        assert said in text, text

    q = "base_model.model.model.layers.0.self_attn.q_proj"
    good = Adapter().add(q, np.ones((4, 64)), np.ones((64, 4))).write(tmp_path / "good")
    other = Adapter().add(q.replace("layers.0", "layers.7"), np.ones((4, 64)), np.ones((64, 4))).write(tmp_path / "other")
    small = Adapter().add(q, np.ones((4, 32)), np.ones((64, 4))).write(tmp_path / "small")
    refused("1 of its 1 modules", model, other, tmp_path / "out")
    refused("[4, 32]", model, small, tmp_path / "out")
    refused("quantized", golden / "checkpoints" / "llama_gptq_g128", good, tmp_path / "out")
    refused("inside", model, good, model / "out")
    refused("inside", model, good, good / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    refused("not empty", model, good, tmp_path / "full", "--overwrite")
    refused("adapter_config.json", model, tmp_path / "nothing", tmp_path / "out")
    odd = checkpoints.build()
    odd.tensors["model.position_ids"] = checkpoints.Tensor("I64", (2,), bytes(16))
    refused("I64", odd.write(tmp_path / "odd").path, good, tmp_path / "out")
    assert not (tmp_path / "out").exists() and tree(model) == before


def test_overwrite_replaces_ours_only(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model").path
    path = Adapter().add("base_model.model.lm_head", np.ones((4, 64)), np.ones((272, 4))).write(tmp_path / "adapter")
    weighbridge.ok("lora", "merge", model, path, tmp_path / "out")
    assert "--overwrite" in weighbridge.refuses("lora", "merge", model, path, tmp_path / "out")
    weighbridge.ok("lora", "merge", model, path, tmp_path / "out", "--overwrite")
    other = checkpoints.make(tmp_path / "other").path
    before = tree(other)
    weighbridge.refuses("lora", "merge", model, path, other, "--overwrite")
    assert tree(other) == before


def test_name_of_the_reference(weighbridge, golden, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tensorrt-edgellm-merge-lora").symlink_to(weighbridge.path)
    program = Program(tmp_path / "bin" / "tensorrt-edgellm-merge-lora")
    model, adapter = golden / "checkpoints" / "llama", golden / "checkpoints" / "lora_llama"
    weighbridge.ok("lora", "merge", model, adapter, tmp_path / "ours")
    for device in ([], ["--device", "cpu"], ["--device", "cuda:0"]):
        program.ok("--model_dir", model, "--lora_dir", adapter, "--output_dir", tmp_path / "theirs", *device)
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    assert program("--model_dir", model).status == 2
