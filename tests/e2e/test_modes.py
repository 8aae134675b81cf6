"""Ways to export a model besides the plain one, and that they compose: EAGLE3 base, FP8 KV cache, text parts of vision models."""
import itertools
import json
import shutil

import checkpoints
import int4
import numpy as np
import onnx
import pytest
import torch_file
from checkpoints import tensor
from conftest import tree
from test_drafts import Draft

CASES = {  # golden: checkpoint, options
    "llama__eagle_base": ("llama", ["--eagle-base"]),
    "qwen2_5__eagle_base": ("qwen2_5", ["--eagle-base"]),
    "llama_fp8kv": ("llama_kvfp8", ["--fp8-kv-cache"]),
    "llama_fp8kv__eagle_base": ("llama_kvfp8", ["--fp8-kv-cache", "--eagle-base"]),
    "qwen2_fp8kv": ("qwen2_kvfp8", ["--fp8-kv-cache"]),
    "qwen3_vl__eagle_base": ("qwen3_vl", ["--eagle-base"]),
    **{name: (name, []) for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3", "phi4mm")},
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    model, options = CASES[case]
    out = tmp_path / "out"
    weighbridge.ok("export", f"checkpoints/{model}", out, *options, cwd=golden)
    assert "0 differences" in compare(golden / "edgellm-0.5" / case, out, "--loose-json", "--execute")
    weighbridge.ok("verify", out, f"checkpoints/{model}", cwd=golden)


# ---------------------------------------------------------------------------------------------------- vision-language models


def without_path(out):
    files = tree(out)
    files["processed_chat_template.json"] = {**json.loads(files["processed_chat_template.json"]), "model_path": ""}
    return files


@pytest.mark.parametrize("family, prefixes", [
    ("qwen2_vl", ["model.", "model.language_model.", "language_model.model.", ""]),
    ("qwen3_vl", ["model.language_model.", "model.", "language_model.model."]),
    ("internvl3", ["language_model.model.", "model.language_model.", "model."]),
])
def test_the_same_bytes_under_every_prefix(family, prefixes, weighbridge, golden, tmp_path):
    """NAME-03: the prefix is probed; lm_head sits at the root or under language_model."""
    tensors = checkpoints.read_safetensors(golden / "checkpoints" / family / "model.safetensors")
    own = next(n for n in tensors if n.endswith("embed_tokens.weight")).removesuffix("embed_tokens.weight")
    seen = []
    for i, prefix in enumerate(prefixes):
        model = tmp_path / f"m{i}"
        shutil.copytree(golden / "checkpoints" / family, model)
        renamed = {(prefix + n.removeprefix(own) if n.startswith(own) else n.replace("language_model.lm_head", "lm_head")
                    if i else n): t for n, t in tensors.items()}
        checkpoints.write_safetensors(model / "model.safetensors", renamed)
        weighbridge.ok("export", model, tmp_path / f"o{i}")
        weighbridge.ok("verify", tmp_path / f"o{i}", model)
        seen.append(without_path(tmp_path / f"o{i}"))
    assert all(s == seen[0] for s in seen)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3"])
def test_the_vision_part_is_never_read(family, weighbridge, golden, tmp_path):
    """CFG-10: a re-saved config.json that says less, or nonsense, of the vision tower gives the same export."""
    outs = []
    for i, vision in enumerate([None, {}, {"num_heads": "many", "depth": -1, "deepstack_visual_indexes": []}, ...]):
        model = tmp_path / f"m{i}"
        shutil.copytree(golden / "checkpoints" / family, model)
        config = json.loads((model / "config.json").read_text())
        assert "vision_config" in config
        if vision is ...:
            del config["vision_config"]
        elif vision is not None:
            config["vision_config"] = vision
        (model / "config.json").write_text(json.dumps(config))
        weighbridge.ok("export", model, tmp_path / f"o{i}")
        outs.append(without_path(tmp_path / f"o{i}"))
    assert all(o == outs[0] for o in outs)


def test_mrope_in_both_spellings(weighbridge, golden, tmp_path):  # CFG-03
    outs = []
    for i, scaling in enumerate([{"type": "mrope", "mrope_section": [4, 4, 4]},
                                 {"type": "default", "rope_type": "default", "mrope_section": [4, 4, 4]}]):
        model = tmp_path / f"m{i}"
        shutil.copytree(golden / "checkpoints" / "qwen2_vl", model)
        config = json.loads((model / "config.json").read_text())
        config["rope_scaling"] = scaling
        (model / "config.json").write_text(json.dumps(config))
        weighbridge.ok("export", model, tmp_path / f"o{i}")
        files = without_path(tmp_path / f"o{i}")
        files["config.json"] = json.loads(files["config.json"])
        outs.append(files)
    assert outs[0] == outs[1]
    assert outs[0]["config.json"]["rope_scaling"] == {"type": "default", "mrope_section": [4, 4, 4], "rope_type": "default"}


def test_nested_and_flat_configurations(weighbridge, golden, tmp_path):
    """The same Qwen2-VL with its text keys at the top and under text_config."""
    outs = []
    for nest in (False, True):
        model = tmp_path / f"m{nest}"
        shutil.copytree(golden / "checkpoints" / "qwen2_vl", model)
        config = json.loads((model / "config.json").read_text())
        if nest:
            text = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "vision_config")}
            config = {"architectures": config["architectures"], "model_type": "qwen2_vl", "vision_config": {}, "text_config": text}
        (model / "config.json").write_text(json.dumps(config))
        weighbridge.ok("export", model, tmp_path / f"o{nest}")
        outs.append(without_path(tmp_path / f"o{nest}"))
    assert outs[0] == outs[1]


OMNI = {"architectures": ["Qwen3OmniForConditionalGeneration"], "model_type": "qwen3_omni", "enable_audio_output": True,
        "talker_config": {"text_config": {"hidden_size": 8, "num_hidden_layers": 1}}, "code2wav_config": {"hidden_size": 8}}


def omni(golden, path, tied):
    """Qwen3-VL's golden as the thinker of Qwen3-Omni, between a talker and the towers -> (it, the Qwen3-VL model)"""
    source = golden / "checkpoints" / "qwen3_vl"
    vl, thinker = path / "vl", path / "omni"
    shutil.copytree(source, vl)
    shutil.copytree(source, thinker)
    config = json.loads((source / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = tied
    tensors = checkpoints.read_safetensors(source / "model.safetensors")
    if not tied:
        tensors["lm_head.weight"] = tensor(np.random.RandomState(3).standard_normal((328, 88)) / 9, "F16")
    checkpoints.write_safetensors(vl / "model.safetensors", tensors)
    (vl / "config.json").write_text(json.dumps(config))
    renamed = {n.replace("model.language_model.", "thinker.model.").replace("model.visual.", "thinker.visual.")
               .replace("lm_head", "thinker.lm_head"): t for n, t in tensors.items()}
    for name in ("talker.model.layers.0.input_layernorm.weight", "talker.model.norm.weight", "talker.codec_head.weight",
                 "thinker.audio_tower.layers.0.fc1.weight", "code2wav.pre_transformer.layers.0.mlp.up_proj.weight"):
        renamed[name] = tensor(np.zeros((8, 8)), "F16")
    checkpoints.write_safetensors(thinker / "model.safetensors", renamed)
    text = {**config["text_config"], "model_type": "qwen3_omni_text"}
    (thinker / "config.json").write_text(json.dumps(
        {**OMNI, "thinker_config": {"model_type": "qwen3_omni_thinker", "text_config": text, "vision_config": {},
                                    "audio_config": {}}}))
    return thinker, vl


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", [[], ["--eagle-base"]])
def test_the_thinker_of_qwen3_omni_is_a_qwen3_vl(tied, options, weighbridge, golden, compare, tmp_path):
    thinker, vl = omni(golden, tmp_path, tied)
    weighbridge.ok("export", vl, tmp_path / "a", *options)
    weighbridge.ok("export", thinker, tmp_path / "b", *options)
    weighbridge.ok("verify", tmp_path / "b", thinker)
    a, b = without_path(tmp_path / "a"), without_path(tmp_path / "b")
    config, other = json.loads(b.pop("config.json")), json.loads(a.pop("config.json"))
    assert a == b
    assert config["model"] == "qwen3omnithinker" and {**config, "model": "qwen3vltext"} == other
    m = onnx.load(tmp_path / "b" / "model.onnx", load_external_data=False)
    assert [i.name for i in m.graph.input if "deepstack" in i.name] == [f"deepstack_embeds_{i}" for i in range(3)]
    names = [t.name for t in m.graph.initializer] + [n.name for n in m.graph.node]
    assert "model.layers.3.self_attn.q_norm.weight" in names and not any("thinker" in n or "talker" in n for n in names)
    if not tied:
        compare(tmp_path / "a", tmp_path / "b", "--only", "onnx", "--execute")
    elif not options:
        compare(golden / "edgellm-0.5" / "qwen3_vl", tmp_path / "b", "--only", "onnx", "--execute")


def test_the_thinker_s_template_is_rendered_and_its_talker_not_read(weighbridge, golden, tmp_path):
    thinker, _ = omni(golden, tmp_path, tied=True)
    unused = {u["pattern"] for u in weighbridge.ok("plan", thinker, "--json").json["unused"]}
    assert "talker.model.norm.weight" in unused and not any(u.startswith("thinker.model.") for u in unused)
    weighbridge.ok("export", thinker, tmp_path / "out")
    assert "image" in json.loads((tmp_path / "out" / "processed_chat_template.json").read_text())["content_types"]
    config = json.loads((thinker / "config.json").read_text())
    config["thinker_config"]["text_config"]["num_hidden_layers"] = 2
    (thinker / "config.json").write_text(json.dumps(config))
    said = weighbridge.refuses("export", thinker, tmp_path / "none")
    assert '"num_hidden_layers" is 2, expected at least 3' in said and not (tmp_path / "none").exists()


def test_wrapper_of_an_unknown_text_model(weighbridge, golden, tmp_path):
    model = tmp_path / "m"
    shutil.copytree(golden / "checkpoints" / "internvl3", model)
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["model_type"] = "internlm2"
    (model / "config.json").write_text(json.dumps(config))
    said = weighbridge.refuses("export", model, tmp_path / "out")
    assert "internlm2" in said and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- FP8 KV cache


def test_calibrated_checkpoint_without_the_option_is_a_plain_one(weighbridge, golden, tmp_path):
    weighbridge.ok("export", "checkpoints/llama_kvfp8", tmp_path / "out", cwd=golden)
    g = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    assert not any("scale" in t.name for t in g.initializer)
    assert g.input[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


def calibrated(layers=4, dtype="F16", family="llama"):
    ckpt = checkpoints.build(family, config={"num_hidden_layers": layers})
    for i in range(layers):
        for which, value in (("k", 1.5 + i), ("v", 100.0 / (i + 1))):
            ckpt.tensors[f"model.layers.{i}.self_attn.{which}_bmm_quantizer._amax"] = tensor(np.array(value), dtype)
    return ckpt


def scales(out):
    g = onnx.load(out / "model.onnx", load_external_data=False).graph
    return {t.name: np.frombuffer(t.raw_data, "<f4") for t in g.initializer if t.name.endswith("k_v_scale_quant_orig")}


@pytest.mark.parametrize("dtype, kind", [("F16", np.float16), ("F32", np.float32)])
def test_scales(dtype, kind, weighbridge, tmp_path):
    ckpt = calibrated(3, dtype)
    del ckpt.tensors["model.layers.1.self_attn.v_bmm_quantizer._amax"]
    ckpt.write(tmp_path / "model")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--fp8-kv-cache", "--strict")
    found = scales(tmp_path / "out")
    for i in range(3):
        k, v = (np.float32(kind(x)) / np.float32(448) for x in (1.5 + i, 100.0 / (i + 1)))
        want = [k, 1.0 if i == 1 else v]
        assert (found[f"model.layers.{i}.self_attn.k_v_scale_quant_orig"] == np.array(want, "<f4")).all()
    weighbridge.ok("verify", tmp_path / "out", tmp_path / "model")
    m = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    t = next(t for t in m.graph.initializer if t.name == "model.layers.2.self_attn.k_v_scale_quant_orig")
    t.raw_data = t.raw_data[4:] + t.raw_data[:4]
    onnx.save(m, tmp_path / "out" / "model.onnx")
    assert t.name in weighbridge("verify", tmp_path / "out", tmp_path / "model").stdout


def test_uncalibrated(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model").path
    r = weighbridge.ok("export", model, tmp_path / "out", "--fp8-kv-cache")
    assert "not calibrated" in r.stderr and all((s == 1).all() for s in scales(tmp_path / "out").values())
    said = weighbridge.refuses("export", model, tmp_path / "strict", "--fp8-kv-cache", "--strict")
    assert "not calibrated" in said and not (tmp_path / "strict").exists()


@pytest.mark.parametrize("bad", [np.zeros(()), np.array(np.inf), np.array(-1.0), np.ones(2)])
def test_bad_calibration_is_refused(bad, weighbridge, tmp_path):
    ckpt = calibrated(3)
    ckpt.tensors["model.layers.1.self_attn.k_bmm_quantizer._amax"] = tensor(bad, "F16")
    ckpt.write(tmp_path / "model")
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out", "--fp8-kv-cache")
    assert "model.layers.1.self_attn.k_bmm_quantizer._amax" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("layers, expected", [(3, [2, 1, 0]), (4, [2, 2, 1]), (6, [2, 3, 3])])
def test_eagle_layers(layers, expected, weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", config={"num_hidden_layers": layers}).path
    weighbridge.ok("export", model, tmp_path / "out", "--eagle-base")
    g = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    cast = next(n for n in g.node if n.output[0] == "hidden_states")
    concat = next(n for n in g.node if n.output[0] == cast.input[0])
    want = ["inputs_embeds" if i == 0 else f"/model/layers.{i - 1}/Add_1_output_0" for i in expected]
    assert list(concat.input) == want
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "eagle3_base"


def test_too_few_layers_for_eagle(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", config={"num_hidden_layers": 2}).path
    said = weighbridge.refuses("export", model, tmp_path / "out", "--eagle-base")
    assert "at least 3 layers" in said and "2" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_modes_compose(family, weighbridge, tmp_path):
    """Weights are those of the plain export, whatever the mode; each verifies; the checker takes it."""
    calibrated(4, family=family).write(tmp_path / "model")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "plain")
    plain = tree(tmp_path / "plain")
    for n, modes in enumerate(itertools.chain.from_iterable(itertools.combinations(["--eagle-base", "--fp8-kv-cache"], k)
                                                            for k in (1, 2))):
        out = tmp_path / f"out{n}"
        weighbridge.ok("export", tmp_path / "model", out, *modes)
        weighbridge.ok("verify", out, tmp_path / "model")
        onnx.checker.check_model(str(out / "model.onnx"))
        assert all((out / f).read_bytes() == plain[f] for f in ("onnx_model.data", "embedding.safetensors"))


# ---------------------------------------------------------------------------------------------------- INT4 in all of them


def as_qwen2_vl(ckpt):
    """The names and the configuration of a vision-language model around a Qwen2."""
    ckpt.config |= {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {},
                    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    ckpt.tensors = {n.replace("model.", "model.language_model.", 1): t for n, t in ckpt.tensors.items()}
    ckpt.tensors["model.visual.patch_embed.proj.weight"] = tensor(np.zeros((8, 3)), "F16")
    return ckpt


def int4_checkpoint(method, family):
    """Three layers, calibrated for an FP8 cache, zero points that don't fold, an order of groups where the format has one."""
    ckpt = checkpoints.build("qwen2" if family == "qwen2_vl" else family, config={"num_hidden_layers": 3, "intermediate_size": 128},
                             template=None)
    ckpt = int4.calm(as_qwen2_vl(ckpt) if family == "qwen2_vl" else ckpt)
    q = int4.quantize(ckpt, method, 32, False, desc_act=method != "awq")
    layers = next(iter(q.linears)).split("layers.")[0] + "layers."
    for i in range(3):
        for which in "kv":
            name = f"{layers}{i}.self_attn.{which}_bmm_quantizer._amax"
            q.checkpoint.tensors[name] = tensor(np.array(3.0 + i), "F16")
    return q


def vocabulary(folder, ids):
    folder.mkdir(exist_ok=True)
    checkpoints.write_safetensors(folder / "vocab_map.safetensors",
                                  {"vocab_map": checkpoints.Tensor("I32", (len(ids),), np.array(ids, "<i4").tobytes())})
    return folder


def constants(out):
    """{name: bytes} of every weight but lm_head, and the scales of the cache aside."""
    e = int4.Export(out)
    head = next(n.input[1] for n in e.graph.node if n.name == "/lm_head/MatMul")
    return {t.name: e.constants[t.name].tobytes() for t in e.graph.initializer
            if t.name != head and not t.name.endswith("k_v_scale_quant_orig")}


INT4_MODES = [c for k in (1, 2, 3) for c in itertools.combinations(["--eagle-base", "--fp8-kv-cache", "--reduced-vocab"], k)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen2_vl"])
@pytest.mark.parametrize("method", ["gptq", "awq", "compressed"])
def test_int4_composes(method, family, weighbridge, compare, tmp_path):
    """Weights are those of the plain mode in each; all together run; but for the FP8 cache, which rounds, they compute what plain
    weights do."""
    q = int4_checkpoint(method, family)
    q.checkpoint.write(tmp_path / "model")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "alone")
    alone = constants(tmp_path / "alone")
    found = int4.Export(tmp_path / "alone")
    for module, linear in q.linears.items():
        assert not linear.expected().same(found.linear(module.replace("language_model.", ""))), module
    given = {"--reduced-vocab": [vocabulary(tmp_path / "map", [9, 3, 200, 271, 4])]}
    for modes in INT4_MODES:
        out, options = tmp_path / "-".join(modes), [word for mode in modes for word in (mode, *given.get(mode, []))]
        weighbridge.ok("export", tmp_path / "model", out, *options)
        weighbridge.ok("verify", out, tmp_path / "model", *(options[options.index("--reduced-vocab"):] if "--reduced-vocab" in modes else []))
        onnx.checker.check_model(str(out / "model.onnx"))
        assert constants(out) == alone
        if modes == ("--eagle-base", "--reduced-vocab") and family in ("llama", "qwen2_vl"):
            int4.dequantized(q).write(tmp_path / "plain")
            weighbridge.ok("export", tmp_path / "plain", tmp_path / "dequantized", *options)
            compare(tmp_path / "dequantized", out, "--execute-only", "--atol", "0.01")
    if family == "llama":
        assert "--execute tree" in compare(out, out, "--execute-only")


@pytest.mark.parametrize("method, order", [("gptq", False), ("gptq", True), ("awq", False), ("compressed", True)])
def test_int4_drafts(method, order, weighbridge, compare, tmp_path):
    draft = Draft(tmp_path, ff=128)
    plain = int4.calm(checkpoints.Checkpoint(draft.config, draft.tensors))
    q = int4.quantize(plain, method, 32, False, order)
    assert len(q.linears) == 7
    q.checkpoint.write(tmp_path / "packed")
    int4.dequantized(q).write(tmp_path / "plain")
    for name in "packed", "plain":
        weighbridge.ok("export-draft", tmp_path / name, tmp_path / f"{name}-out")
    weighbridge.ok("verify", tmp_path / "packed-out", tmp_path / "packed")
    found = int4.Export(tmp_path / "packed-out")
    for module, linear in q.linears.items():
        assert not linear.expected().same(found.linear(module.replace("midlayer", "layers.0"))), module
    assert len(found.plugins) == 7
    compare(tmp_path / "plain-out", tmp_path / "packed-out", "--execute-only", "--atol", "0.01")
    (tmp_path / "packed" / "model.safetensors").unlink()
    torch_file.write(tmp_path / "packed" / "pytorch_model.bin", q.checkpoint.tensors)
    weighbridge.ok("export-draft", tmp_path / "packed", tmp_path / "bin-out")
    assert tree(tmp_path / "bin-out") == tree(tmp_path / "packed-out")


def test_drop_in_options(weighbridge, tmp_path):
    calibrated(4).write(tmp_path / "model")
    (tmp_path / "tensorrt-edgellm-export-llm").symlink_to(weighbridge.path.resolve())
    import conftest
    conftest.Program(tmp_path / "tensorrt-edgellm-export-llm").ok("--model_dir", tmp_path / "model", "--output_dir", tmp_path / "a",
                                                                  "--is_eagle_base", "--fp8_kv_cache")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "b", "--eagle-base", "--fp8-kv-cache")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
