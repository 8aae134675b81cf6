"""LoRA adapters that are chosen at run time: `lora insert`, `lora process`, and their names in the reference.

Goldens, the two put together against a merged model, and what is refused (cases LORA-02, LORA-04)."""
import json
import os
import shutil

import checkpoints
import numpy as np
import onnx
import pytest
from adapters import CONFIG, NUMPY, Adapter, array, pair
from checkpoints import Tensor, tensor, write_safetensors
from conftest import Program, tree

INSERTED = ["llama", "qwen2", "qwen3", "phi4mm"]
FOREIGN = [*INSERTED, "llama_eagle3", "llama_gptq_g128", "llama_gptq_g128_desc"]
ADAPTERS = ["lora_llama", "lora_qwen2_bf16"]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


# ---------------------------------------------------------------------------------------------------- insert


@pytest.mark.parametrize("case", INSERTED)
def test_insert_golden(case, weighbridge, golden, compare, tmp_path):
    weighbridge.ok("export", f"checkpoints/{case}", tmp_path / "out", cwd=golden)
    before = tree(tmp_path / "out")
    r = weighbridge.ok("lora", "insert", tmp_path / "out")
    assert "lora_model.onnx" in r.stdout and "module" in r.stdout
    assert "0 differences" in compare(golden / "edgellm-0.5" / f"{case}__lora_inserted", tmp_path / "out", "--loose-json",
                                      "--execute")
    after = tree(tmp_path / "out")
    assert after.pop("lora_model.onnx") and after == before
    weighbridge.ok("verify", tmp_path / "out", f"checkpoints/{case}", cwd=golden)


def test_insert_golden_of_a_draft(weighbridge, golden, compare, tmp_path):
    weighbridge.ok("export-draft", "checkpoints/llama_eagle3", tmp_path / "out", "--base-model", "checkpoints/llama",
                   cwd=golden)
    weighbridge.ok("lora", "insert", tmp_path / "out")
    assert "0 differences" in compare(golden / "edgellm-0.5" / "llama_eagle3__lora_inserted", tmp_path / "out",
                                      "--loose-json", "--execute")


@pytest.mark.parametrize("case", FOREIGN)
def test_insert_into_the_exports_of_the_reference(case, weighbridge, golden, compare, tmp_path):
    """Quantized linears first, A on the activation that desc_act has not permuted; an older file is replaced."""
    theirs = golden / "edgellm-0.5" / f"{case}__lora_inserted"
    shutil.copytree(theirs, tmp_path / "out")
    (tmp_path / "out" / "lora_model.onnx").write_bytes(b"an older one")
    (tmp_path / "out" / "lora_model.onnx.partial").write_bytes(b"of a run that was killed")
    weighbridge.ok("lora", "insert", tmp_path / "out")
    assert "0 differences" in compare(theirs, tmp_path / "out", "--execute")
    assert not (tmp_path / "out" / "lora_model.onnx.partial").exists()


@pytest.fixture
def exported(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", "llama_bias").path
    weighbridge.ok("export", model, tmp_path / "out")
    return tmp_path / "out"


def inserted(weighbridge, out):
    weighbridge.ok("lora", "insert", out)
    return onnx.load(out / "lora_model.onnx", load_external_data=False)


def test_inputs_stand_behind_all_others(weighbridge, exported):
    base = onnx.load(exported / "model.onnx", load_external_data=False)
    lora = inserted(weighbridge, exported)
    n = len(base.graph.input)
    assert list(lora.graph.input)[:n] == list(base.graph.input)
    added = [i.name for i in lora.graph.input][n:]
    wanted = [f"model.layers.{i}.{module}.lora_{half}.weight" for i in range(2) for module, *_ in
              checkpoints.linears({**checkpoints.BASE, **checkpoints.FAMILIES["llama_bias"]}) for half in "AB"]
    assert added == wanted
    assert list(lora.graph.output) == list(base.graph.output) and lora.metadata_props == base.metadata_props
    # What was there is there, but for the name of what a linear gives: no consumer has changed.
    old = {node.name: node for node in base.graph.node}
    kept = [node for node in lora.graph.node if node.name in old]
    assert len(kept) == len(old)
    for node in kept:
        assert list(node.input) == list(old[node.name].input)
        assert node.output == old[node.name].output or node.output[0] == node.name + "/lora_base"


def test_fields_that_are_unknown_here_survive(weighbridge, exported):
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    model.doc_string = "a word of the author"
    model.graph.doc_string = "another"
    next(n for n in model.graph.node if n.op_type == "MatMul").doc_string = "a third"
    f = model.functions.add(name="f", domain="d")
    f.opset_import.add(domain="", version=20)
    onnx.save(model, exported / "model.onnx")
    lora = inserted(weighbridge, exported)
    assert lora.doc_string == model.doc_string and lora.graph.doc_string == "another" and lora.functions[0].name == "f"
    assert next(n for n in lora.graph.node if n.op_type == "MatMul").doc_string == "a third"


def changed(exported, change):
    model = onnx.load(exported / "model.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, exported / "model.onnx")


def q_proj(graph):
    return next(n for n in graph.node if n.name == "/model/layers.0/self_attn/q_proj/MatMul")


def rename(old, new):
    def change(graph):
        next(n for n in graph.node if n.name == old).name = new
    return change


def without_linears(graph):
    for n in graph.node:
        if n.op_type == "MatMul":
            n.op_type = "Gemm"


def fp32_weight(graph):
    next(t for t in graph.initializer if t.name == q_proj(graph).input[1]).data_type = onnx.TensorProto.FLOAT


def lora_input(graph):
    graph.input.add(name="model.layers.1.mlp.up_proj.lora_B.weight")


@pytest.mark.parametrize("change, said", [
    (without_linears, "has no linear that an adapter could change"),
    (rename("/model/layers.0/self_attn/q_proj/MatMul", ""), "its name does not say of which module"),
    (rename("/model/layers.0/self_attn/q_proj/MatMul", "MatMul_1"), "\"MatMul_1\""),
    (rename("/model/layers.0/self_attn/q_proj/MatMul", "/model/layers.0/self_attn/k_proj/MatMul_1"), "two linears in module"),
    (fp32_weight, "expected a matrix in fp16"),
    (lora_input, "has a value \"model.layers.1.mlp.up_proj.lora_B.weight\" already"),
])
def test_insert_refuses(change, said, weighbridge, exported):
    changed(exported, change)
    before = tree(exported)
    assert said in weighbridge.refuses("lora", "insert", exported)
    assert tree(exported) == before


def test_what_corrects_zero_points_is_no_linear(weighbridge, exported):
    """A quantized linear with a plain MatMul of its own module, and one inside it."""
    def change(graph):
        node = q_proj(graph)
        weight = node.input[1]
        node.op_type = "Int4GroupwiseGemmPlugin"
        node.domain = "trt"
        node.attribute.extend([onnx.helper.make_attribute("gemm_k", 64), onnx.helper.make_attribute("gemm_n", 64)])
        for i, name in enumerate(["/model/layers.0/self_attn/q_proj/MatMul_1", "/model/layers.0/self_attn/q_proj/zeros/MatMul"]):
            graph.node.append(onnx.helper.make_node("MatMul", [node.input[0], weight], [f"dead {i}"], name=name))

    changed(exported, change)
    lora = inserted(weighbridge, exported)
    names = [i.name for i in lora.graph.input if ".lora_A." in i.name]
    assert names[0] == "model.layers.0.self_attn.q_proj.lora_A.weight" and len(names) == 14


def test_insert_into_what_is_not_whole(weighbridge, exported):
    partial = exported.with_name("out.partial")
    (exported / ".weighbridge-partial").write_text("older export, to be removed\n")
    before = tree(exported)
    assert "has begun to remove the files" in weighbridge.refuses("lora", "insert", exported)
    assert tree(exported) == before
    (exported / ".weighbridge-partial").write_bytes(b"")
    shutil.copytree(exported, partial)
    before = tree(partial)
    assert f"{partial}: was left by an interrupted run" in weighbridge.refuses("lora", "insert", partial)
    assert tree(partial) == before
    weighbridge.ok("lora", "insert", exported)  # published: it is whole


def test_insert_writes_through_no_link(weighbridge, exported, tmp_path):
    (tmp_path / "link").symlink_to(exported)
    before = tree(tmp_path)
    for spelling in (tmp_path / "link", f"{tmp_path / 'link'}/"):
        assert "symbolic link" in weighbridge.refuses("lora", "insert", spelling)
    assert "model.onnx" in weighbridge.refuses("lora", "insert", tmp_path / "model")
    assert "model.onnx" in weighbridge.refuses("lora", "insert", tmp_path / "nothing")
    assert tree(tmp_path) == before
    (tmp_path / "else").write_bytes(b"not to be touched")
    (exported / "lora_model.onnx").symlink_to(tmp_path / "else")
    weighbridge.ok("lora", "insert", exported)
    assert (tmp_path / "else").read_bytes() == b"not to be touched" and not (exported / "lora_model.onnx").is_symlink()


# ---------------------------------------------------------------------------------------------------- process


@pytest.mark.parametrize("case", ADAPTERS)
def test_process_golden(case, weighbridge, golden, compare, tmp_path):
    """The very bytes, header included."""
    weighbridge.ok("lora", "process", golden / "checkpoints" / case, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(golden / "edgellm-0.5" / f"{case}__processed")


def processed(weighbridge, adapter, tmp_path, *options, name="adapter"):
    weighbridge.ok("lora", "process", adapter.write(tmp_path / name), tmp_path / f"{name}-out", *options)
    return checkpoints.read_safetensors(tmp_path / f"{name}-out" / "processed_adapter_model.safetensors")


def expected_b(b, dtype, scale):
    """The product is rounded in the adapter's own dtype first."""
    b = np.asarray(b, NUMPY[dtype])
    return (b.astype(np.float32) * np.float32(scale)).astype(NUMPY[dtype]).astype(np.float16).T


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("r, k, n", [(4, 6, 10), (5, 5, 5), (1, 1, 1), (8, 8, 3), (3, 70, 3), (33, 129, 257)])
def test_process_shapes(dtype, r, k, n, weighbridge, tmp_path):
    """A and B are told apart by their names: square ones are transposed like all others."""
    a, b = pair(r, k, n, seed=r * k + n)
    out = processed(weighbridge, Adapter({"r": r, "lora_alpha": 2.5 * r / 3}).add(Q, a, b, dtype), tmp_path)
    assert list(out) == [f"model.layers.0.self_attn.q_proj.lora_{half}.weight" for half in "AB"]
    got_a, got_b = (array(t) for t in out.values())
    assert got_a.dtype == got_b.dtype == np.float16
    assert got_a.tobytes() == np.asarray(a, NUMPY[dtype]).astype(np.float16).T.tobytes()
    assert got_b.tobytes() == expected_b(b, dtype, 2.5 * r / 3 / r).tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_value_is_scaled_right(dtype, weighbridge, tmp_path):
    bits = np.arange(65536, dtype=np.uint16)
    b = bits.view(NUMPY[dtype]).reshape(-1, 4)
    adapter = Adapter({"lora_alpha": 2.8}).add(Q, np.ones((4, 3)), np.zeros((16384, 4)), dtype)
    adapter.tensors[f"{Q}.lora_B.weight"] = Tensor(dtype, (16384, 4), b.tobytes())
    got = array(list(processed(weighbridge, adapter, tmp_path).values())[1])
    with np.errstate(all="ignore"):
        want = expected_b(b, dtype, 0.7)
    nan = np.isnan(want)
    assert (np.isnan(got) == nan).all() and (got.view(np.uint16)[~nan] == want.copy().view(np.uint16)[~nan]).all()


@pytest.mark.parametrize("config, scales", [
    ({}, (2, 2)),
    ({"lora_alpha": 3.0}, (0.75, 0.75)),
    ({"use_rslora": True}, (4, 4)),
    ({"r": 9, "rank_pattern": {"v_proj": 4, "q_proj": 4}}, (2, 2)),
    ({"alpha_pattern": {"q_proj": 2}}, (0.5, 2)),
    ({"alpha_pattern": {"layers.0.self_attn.v_proj": 2, "v_proj": 99}, "use_rslora": True}, (4, 1)),
    ({"alpha_pattern": {"^model.layers.0.self_attn.v_proj": 2, "^q_proj": 1, "j": 1}}, (2, 0.5)),
    ({"rank_pattern": {}, "alpha_pattern": None, "modules_to_save": [], "bias": ..., "peft_type": ...}, (2, 2)),
])
def test_scale(config, scales, weighbridge, tmp_path):
    a, b = pair()
    out = processed(weighbridge, Adapter(config).add(Q, a, b).add(Q.replace("q_proj", "v_proj"), a, b), tmp_path)
    for which, scale in zip("qv", scales):
        got = array(out[f"model.layers.0.self_attn.{which}_proj.lora_B.weight"])
        assert got.tobytes() == expected_b(b, "F32", scale).tobytes(), which


@pytest.mark.parametrize("prefix", ["base_model.model.model.", "base_model.model.", "model.", "", "base_model.model.model.language_model.",
                                    "base_model.model.language_model.model.", "base_model.model.thinker.model.",
                                    "base_model.model.model.text_model."])
def test_names_in_the_wild(prefix, weighbridge, tmp_path):  # LORA-02
    name = "layers.3.mlp.down_proj"
    out = processed(weighbridge, Adapter().add(prefix + name, *pair()), tmp_path)
    assert list(out) == [f"model.{name}.lora_{half}.weight" for half in "AB"]


def test_adapter_name_within_the_keys(weighbridge, tmp_path):
    adapter = Adapter().add(Q, *pair())
    adapter.tensors = {k.replace(".weight", ".default.weight"): v for k, v in adapter.tensors.items()}
    assert list(processed(weighbridge, adapter, tmp_path))[0] == "model.layers.0.self_attn.q_proj.lora_A.weight"


def test_what_cannot_be_applied_is_left_out_and_said(weighbridge, tmp_path):
    adapter = Adapter().add(Q, *pair()).add("base_model.model.lm_head", *pair(seed=1))
    adapter.add("base_model.model.model.visual.blocks.0.attn.qkv", *pair(seed=2))
    adapter.tensors["base_model.model.model.norm.weight"] = tensor(np.ones(6), "F32")
    path = adapter.write(tmp_path / "adapter")
    r = weighbridge.ok("lora", "process", path, tmp_path / "out")
    for word in ["\"lm_head\"", "model.visual.blocks.0.attn.qkv", "base_model.model.model.norm.weight"]:
        assert word in r.stderr
    assert len(checkpoints.read_safetensors(tmp_path / "out" / "processed_adapter_model.safetensors")) == 2
    said = weighbridge.refuses("lora", "process", path, tmp_path / "strict", "--strict")
    assert "lm_head" in said and not (tmp_path / "strict").exists()
    assert "warning" not in weighbridge.ok("lora", "process", path, tmp_path / "quiet", "-q").stderr


def test_nothing_for_the_decoder(weighbridge, tmp_path):  # LORA-02
    path = Adapter().add("base_model.model.visual.blocks.0.qkv", *pair()).add("lm_head", *pair()).write(tmp_path / "adapter")
    said = weighbridge.refuses("lora", "process", path, tmp_path / "out")
    assert "none of its 2 modules" in said and "\"lm_head\"" in said


def test_losses_are_counted(weighbridge, tmp_path):
    a, b = pair()
    a[0, 0], a[1, 1], b[0, 0], b[1, 1] = 1e6, 1e-9, 60000, np.nan
    path = Adapter().add(Q, a, b).write(tmp_path / "adapter")
    said = weighbridge.ok("lora", "process", path, tmp_path / "out").stderr
    for half, loss in ("A", "1 of 24 values became infinite in fp16"), ("A", "1 of 24 values became zero in fp16"), \
            ("B", "1 of 40 values became infinite in fp16"), ("B", "1 of 40 values are NaN"):
        assert f"{Q}.lora_{half}.weight: {loss}" in said
    weighbridge.refuses("lora", "process", path, tmp_path / "strict", "--strict")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "out"]


@pytest.mark.parametrize("config, said", [
    ({"peft_type": "LOHA"}, ["\"peft_type\" is \"LOHA\"", "LORA"]),
    ({"peft_type": "ADALORA"}, ["ADALORA"]),
    ({"use_dora": True}, ["\"use_dora\"", "DoRA"]),
    ({"fan_in_fan_out": True}, ["\"fan_in_fan_out\""]),
    ({"modules_to_save": ["embed_tokens", "lm_head"]}, ["\"modules_to_save\""]),
    ({"bias": "all"}, ["\"bias\" is \"all\""]),
    ({"bias": "lora_only"}, ["\"bias\" is \"lora_only\""]),
    ({"lora_bias": True}, ["\"lora_bias\""]),
    ({"use_qalora": True}, ["\"use_qalora\""]),
    ({"layer_replication": [[0, 4], [2, 5]]}, ["\"layer_replication\""]),
    ({"trainable_token_indices": [1]}, ["\"trainable_token_indices\""]),
    ({"target_parameters": ["mlp.experts.gate_up_proj"]}, ["\"target_parameters\""]),
    ({"alora_invocation_tokens": [1]}, ["\"alora_invocation_tokens\""]),
    ({"r": ...}, ["\"r\" is missing"]),
    ({"lora_alpha": ...}, ["\"lora_alpha\" is missing"]),
    ({"lora_alpha": "16"}, ["\"lora_alpha\" is a string"]),
    ({"r": 8}, ["lora_A is [4, 6], expected [8, 6]"]),
    ({"r": 0}, ["expected [0, 6]"]),
    ({"rank_pattern": {"q_proj": 2}}, ["expected [2, 6]"]),
    ({"rank_pattern": {"layers\\.[0-3].*q_proj": 4}}, ["\"rank_pattern\"", "regular expression"]),
    ({"alpha_pattern": {"q_proj": "x"}}, ["\"alpha_pattern\"", "\"q_proj\""]),
    ({"alpha_pattern": [1]}, ["\"alpha_pattern\" is a list"]),
    ({"use_rslora": "yes"}, ["\"use_rslora\""]),
])
def test_settings_refused_by_name(config, said, weighbridge, tmp_path):
    path = Adapter(config).add(Q, *pair()).write(tmp_path / "adapter")
    text = weighbridge.refuses("lora", "process", path, tmp_path / "out")
    for word in said:
        assert word in text, text
    assert os.listdir(tmp_path) == ["adapter"]


def test_initialization_that_changes_the_base(weighbridge, tmp_path):
    path = Adapter({"init_lora_weights": "pissa"}).add(Q, *pair()).write(tmp_path / "adapter")
    assert "\"pissa\"" in weighbridge.ok("lora", "process", path, tmp_path / "out").stderr
    path = Adapter({"init_lora_weights": "gaussian"}).add(Q, *pair()).write(tmp_path / "adapter2")
    assert "warning" not in weighbridge.ok("lora", "process", path, tmp_path / "out2").stderr


def drop(name):
    return lambda t: t.pop(name)


def put(name, shape, dtype="F32"):
    return lambda t: t.update({name: tensor(np.ones(shape), dtype)})


@pytest.mark.parametrize("spoil, said", [
    (drop(f"{Q}.lora_B.weight"), ["q_proj", "has lora_A but no lora_B"]),
    (drop(f"{Q}.lora_A.weight"), ["q_proj", "has lora_B but no lora_A"]),
    (put(f"{Q}.lora_B.weight", (10, 3)), ["lora_A is [4, 6] and lora_B [10, 3]"]),  # LORA-04
    (put(f"{Q}.lora_A.weight", (4, 6, 1)), ["[4, 6, 1]", "expected a matrix"]),
    (put(f"{Q}.lora_A.weight", (4, 0)), ["[4, 0]"]),
    (put(f"{Q}.lora_A.default.weight", (4, 6)), ["has lora_A twice"]),
    (put(f"{Q}.lora_B.default.weight", (10, 4)), ["has lora_B twice"]),
    (put(f"{Q}.lora_magnitude_vector", (10,)), ["lora_magnitude_vector", "not supported"]),
    (put("base_model.model.model.embed_tokens.lora_embedding_A", (4, 6)), ["lora_embedding_A"]),
    (put("base_model.model.model.embed_tokens.weight", (70, 6)), ["embed_tokens.weight"]),  # a vocabulary that grew
    (put(f"{Q}.base_layer.bias", (10,)), ["base_layer.bias"]),
    (lambda t: t.clear(), ["has no lora_A.weight"]),
])
def test_tensors_refused_by_name(spoil, said, weighbridge, tmp_path):
    adapter = Adapter().add(Q, *pair())
    spoil(adapter.tensors)
    text = weighbridge.refuses("lora", "process", adapter.write(tmp_path / "adapter"), tmp_path / "out")
    for word in said:
        assert word in text, text
    assert os.listdir(tmp_path) == ["adapter"]


def test_one_module_under_two_names(weighbridge, tmp_path):
    adapter = Adapter().add(Q, *pair()).add("base_model.model.model.language_model.layers.0.self_attn.q_proj", *pair())
    assert "under two names" in weighbridge.refuses("lora", "process", adapter.write(tmp_path / "adapter"), tmp_path / "out")


def test_files_that_are_not_there(weighbridge, tmp_path):
    path = Adapter().add(Q, *pair()).write(tmp_path / "adapter")
    assert "adapter_config.json" in weighbridge.refuses("lora", "process", tmp_path, tmp_path / "out")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    assert "adapter_model.bin" in weighbridge.refuses("lora", "process", path, tmp_path / "out")
    (path / "adapter_model.bin").unlink()
    assert "adapter_model.safetensors" in weighbridge.refuses("lora", "process", path, tmp_path / "out")


def test_output_directory(weighbridge, tmp_path):
    path, out = Adapter().add(Q, *pair()).write(tmp_path / "adapter"), tmp_path / "out"
    weighbridge.ok("lora", "process", path, out)
    first = tree(out)
    assert "--overwrite" in weighbridge.refuses("lora", "process", path, out)
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, "lora_alpha": 1}))
    weighbridge.ok("lora", "process", path, out, "--overwrite")
    assert tree(out) != first and sorted(tree(out)) == sorted(first) and sorted(os.listdir(tmp_path)) == ["adapter", "out"]
    (out / "mine.txt").write_text("not to be lost")
    before = tree(tmp_path)
    weighbridge.refuses("lora", "process", path, out, "--overwrite")
    weighbridge.refuses("lora", "process", path, path / "inside")
    weighbridge.refuses("lora", "process", path, path, "--overwrite")
    assert tree(tmp_path) == before


# ---------------------------------------------------------------------------------------------------- together


def test_inserted_and_processed_is_merged(weighbridge, compare, tmp_path):
    """The graph with the processed adapter against the export of the merged weights, both run by numpy."""
    ckpt = checkpoints.build("qwen3")
    merged = checkpoints.build("qwen3")
    adapter, g = Adapter(), np.random.RandomState(7)
    for i in range(ckpt.config["num_hidden_layers"]):
        for module, n, k, _ in checkpoints.linears(ckpt.config):
            name = f"model.layers.{i}.{module}"
            a, b = (0.1 * g.standard_normal(s).astype(np.float32) for s in ((4, k), (n, 4)))
            adapter.add(f"base_model.model.{name}", a, b)
            w = array(ckpt.tensors[f"{name}.weight"]).astype(np.float32) + 2 * b @ a
            merged.tensors[f"{name}.weight"] = tensor(w, "F32")
    ckpt.write(tmp_path / "base")
    merged.write(tmp_path / "merged")
    for which in ("base", "merged"):
        weighbridge.ok("export", tmp_path / which, tmp_path / f"{which}-out")
    weighbridge.ok("lora", "insert", tmp_path / "base-out")
    fed = {name: array(t) for name, t in processed(weighbridge, adapter, tmp_path).items()}
    inputs = {i.name for i in onnx.load(tmp_path / "base-out" / "lora_model.onnx", load_external_data=False).graph.input}
    assert set(fed) <= inputs and len(fed) == 28
    bake(tmp_path / "base-out", fed)
    said = compare(tmp_path / "merged-out", tmp_path / "base-out", "--execute-only", "--atol", "0.01", "--only", "onnx")
    assert "--execute decode" in said


def bake(out, fed):
    """The adapter's matrices as constants: then the two graphs have one interface."""
    model = onnx.load(out / "lora_model.onnx", load_external_data=False)
    keep = [i for i in model.graph.input if i.name not in fed]
    del model.graph.input[:]
    model.graph.input.extend(keep)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a.copy(), name) for name, a in fed.items())
    onnx.save(model, out / "model.onnx")
    (out / "lora_model.onnx").unlink()


def test_names_of_the_reference(weighbridge, exported, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("insert", "process"):
        (tmp_path / "bin" / f"tensorrt-edgellm-{name}-lora").symlink_to(weighbridge.path)
    Program(tmp_path / "bin" / "tensorrt-edgellm-insert-lora").ok("--onnx_dir", exported)
    assert (exported / "lora_model.onnx").is_file()
    process = Program(tmp_path / "bin" / "tensorrt-edgellm-process-lora")
    path = Adapter().add(Q, *pair()).write(tmp_path / "adapter")
    weighbridge.ok("lora", "process", path, tmp_path / "ours")
    for _ in range(2):  # an older one is replaced without asking
        process.ok("--input_dir", path, "--output_dir", tmp_path / "theirs")
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    assert process("--input_dir", path).status == 2


# ---------------------------------------------------------------------------------------------------- verify


@pytest.fixture(scope="module")
def with_lora(weighbridge, tmp_path_factory):
    """-> model, an export of it with lora_model.onnx"""
    base = tmp_path_factory.mktemp("inserted")
    model = checkpoints.make(base / "model", "qwen2").path
    weighbridge.ok("export", model, base / "out")
    weighbridge.ok("lora", "insert", base / "out")
    weighbridge.ok("verify", base / "out", model)
    return model, base / "out"


def swap_inputs(m):
    node = next(n for n in m.graph.node if n.op_type == "Concat")
    node.input[:2] = [node.input[1], node.input[0]]


def spoil_inline(m):
    t = next(t for t in m.graph.initializer if t.raw_data)
    t.raw_data = bytes([t.raw_data[0] ^ 1]) + t.raw_data[1:]


def rename_rank(m):
    next(i for i in m.graph.input if "lora_B" in i.name).type.tensor_type.shape.dim[0].dim_param = "other"


def move(m):
    t = [t for t in m.graph.initializer if t.external_data][-1]
    next(p for p in t.external_data if p.key == "offset").value = "0"


@pytest.mark.parametrize("change, words", [
    (swap_inputs, ["Concat", "differs from what an insertion into model.onnx gives"]),
    (lambda m: m.graph.input.pop(), ["input: there are"]),
    (rename_rank, ["lora_B.weight: differs"]),
    (lambda m: m.graph.node.pop(-1), ["node: there are"]),
    (lambda m: m.graph.output[0].type.tensor_type.shape.dim.pop(), ["output logits: differs"]),
    (lambda m: m.graph.initializer.pop(), ["initializers: there are"]),
    (move, ["name, type, shape or place differ"]),
    (spoil_inline, [": name, type, shape or place differ"]),
    (lambda m: setattr(m, "ir_version", 8), ["IR version"]),
    (lambda m: setattr(m, "doc_string", "other"), ["has other fields"]),
    (lambda m: setattr(m.graph, "doc_string", "other"), ["has other fields"]),
    (lambda m: setattr(m.metadata_props[0], "value", "other"), ["metadata weighbridge."]),
    (lambda m: setattr(m.opset_import[0], "version", 20), ["opset"]),
])
def test_verify_names_what_is_not_the_insertion(change, words, weighbridge, with_lora, tmp_path):
    model, out = with_lora
    shutil.copytree(out, tmp_path / "out")
    m = onnx.load(out / "lora_model.onnx", load_external_data=False)
    change(m)
    onnx.save(m, tmp_path / "out" / "lora_model.onnx")
    r = weighbridge("verify", tmp_path / "out", model)
    lines = r.stdout.splitlines()
    assert r.status == 1 and all(line.split()[1] == "lora_model.onnx:" for line in lines[:-1]), r.stdout
    assert all(any(w in line for line in lines) for w in words), r.stdout
    weighbridge.ok("lora", "insert", tmp_path / "out")
    weighbridge.ok("verify", tmp_path / "out", model)


def test_verify_of_a_lora_model_that_cannot_be_read_or_made(weighbridge, with_lora, tmp_path):
    model, out = with_lora
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "lora_model.onnx").write_bytes(b"no protobuf")
    assert "lora_model.onnx" in weighbridge("verify", tmp_path / "out", model).stdout
    shutil.copy(out / "lora_model.onnx", tmp_path / "out" / "lora_model.onnx")
    shutil.copy(out / "lora_model.onnx", tmp_path / "out" / "model.onnx")
    said = weighbridge("verify", tmp_path / "out", model, "--json").json["differences"]
    assert any(d["name"] == "lora_model.onnx" and "LoRA" in d["text"] for d in said)


def test_verify_of_a_draft_with_lora_inputs(weighbridge, golden, tmp_path):
    weighbridge.ok("export-draft", "checkpoints/llama_eagle3", tmp_path / "out", cwd=golden)
    weighbridge.ok("lora", "insert", tmp_path / "out")
    files = weighbridge.ok("verify", tmp_path / "out", "checkpoints/llama_eagle3", "--json", cwd=golden).json["files"]
    (tmp_path / "out" / "lora_model.onnx").unlink()
    without = weighbridge.ok("verify", tmp_path / "out", "checkpoints/llama_eagle3", "--json", cwd=golden).json["files"]
    assert files == without + 1
