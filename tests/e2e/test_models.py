"""What config.json and the tensors' names may look like, and what is refused: cases CFG, NAME, TIE, ST-09, ST-18.

Every refusal: status 1, a message that names the fault, and nothing written.
"""
import copy
import json

import checkpoints
import numpy as np
import onnx
import pytest
from checkpoints import Tensor, tensor
from conftest import tree


def refused(weighbridge, ckpt, tmp_path, *words, options=(), write=True):
    if write:
        ckpt.write(tmp_path / "model")
    before = tree(tmp_path)
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out", *options)
    for word in words:
        assert word in said, said
    assert tree(tmp_path) == before, "something was written"
    plan = weighbridge("plan", tmp_path / "model", *options)
    assert plan.status == 1 and all(word in plan.stdout + plan.stderr for word in words)
    return said


def exported(weighbridge, ckpt, tmp_path, *options, name="model"):
    """-> everything in the output but the model's path"""
    ckpt.write(tmp_path / name)
    r = weighbridge.ok("export", tmp_path / name, tmp_path / f"{name}-out", *options)
    out = tree(tmp_path / f"{name}-out")
    out.pop("processed_chat_template.json", None)
    return out, r


# ---------------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize("kind", ["qwen", "gpt_neox", "gemma2", "phi3"])
def test_unknown_family_is_refused_by_name(kind, weighbridge, tmp_path):  # NAME-08
    ckpt = checkpoints.build(config={"model_type": kind, "architectures": ["X"]})
    ckpt.tensors = {"transformer.h.0.attn.c_attn.weight": tensor(np.zeros((4, 4)), "F16")}
    refused(weighbridge, ckpt, tmp_path, f'"{kind}"', "llama, mistral, qwen2, qwen3")


def test_architectures_may_be_missing(weighbridge, tmp_path):  # CFG-08
    a, _ = exported(weighbridge, checkpoints.build("qwen3"), tmp_path, name="a")
    b, _ = exported(weighbridge, checkpoints.build("qwen3", config={"architectures": ...}), tmp_path, name="b")
    c, _ = exported(weighbridge, checkpoints.build("qwen3", config={"architectures": ["Qwen3ForCausalLM"]}), tmp_path,
                    name="c")
    assert a == b == c


def test_architecture_stands_in_for_the_model_type(weighbridge, tmp_path):
    ckpt = checkpoints.build("mistral")
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    del ckpt.config["model_type"]
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b


def test_neither_type_nor_architecture(weighbridge, tmp_path):  # CFG-08
    ckpt = checkpoints.build()
    del ckpt.config["model_type"], ckpt.config["architectures"]
    refused(weighbridge, ckpt, tmp_path, "model_type", "architectures", "llama, mistral, qwen2, qwen3")


@pytest.mark.parametrize("config, words", [
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, ['"bitsandbytes"']),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ['"gptq"']),
    ({"quantization_config": {"quant_method": "future-quant"}}, ['"future-quant"']),
    ({"quantization_config": {"group_size": 64, "bits": 4}}, ["quant_method"]),
    ({"hidden_act": "gelu"}, ['"gelu"', "silu"]),
    ({"hidden_size": "64"}, ["hidden_size", "a string", "a whole number"]),
    ({"hidden_size": 0}, ["hidden_size"]),
    ({"hidden_size": -64}, ["hidden_size"]),
    ({"num_hidden_layers": 10**12}, ["num_hidden_layers"]),
    ({"num_attention_heads": 5}, ["num_attention_heads", "num_key_value_heads"]),
    ({"head_dim": ..., "hidden_size": 66}, ["head_dim", "66"]),
    ({"rms_norm_eps": "1e-5"}, ["rms_norm_eps"]),
    ({"rope_theta": "big"}, ["rope_theta"]),
    ({"rope_theta": 0}, ["rope_theta"]),
    ({"rope_scaling": [1]}, ["rope_scaling"]),
    ({"rope_parameters": "default"}, ["rope_parameters"]),
    ({"rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"}}, ["rope_theta", "10000", "20000"]),
    ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings"]),
    ({"attention_bias": 1}, ["attention_bias"]),
    ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer 1", '"sliding_attention"']),  # CFG-02
    ({"layer_types": ["full_attention"]}, ["layer_types", "1", "2"]),
])
def test_configurations_that_are_refused(config, words, weighbridge, tmp_path):
    ckpt = checkpoints.build()
    for key, value in config.items():
        if value is ...:
            del ckpt.config[key]
        else:
            ckpt.config[key] = value
    refused(weighbridge, ckpt, tmp_path, "config.json", *words)


@pytest.mark.parametrize("name, dtype", [("model.layers.0.mlp.up_proj.qweight", "I32"), ("model.layers.0.mlp.up_proj.SCB", "F32"),
                                         ("model.layers.0.mlp.up_proj.weight_scale_inv", "F32"),
                                         ("model.layers.1.self_attn.q_proj.weight_packed", "I32")])
def test_packed_tensors_that_the_config_hides(name, dtype, weighbridge, tmp_path):
    ckpt = checkpoints.build()
    ckpt.tensors[name] = Tensor(dtype, (4, 4), bytes(64))
    refused(weighbridge, ckpt, tmp_path, name, "quantiz")


# ---------------------------------------------------------------------------------------------------- spellings


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen2", "qwen3"])
def test_transformers_5_spelling(family, weighbridge, tmp_path):  # CFG-02
    ckpt = checkpoints.build(family)
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    ckpt.config = checkpoints.transformers5(ckpt.config)
    assert "rope_theta" not in ckpt.config
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    for out in (a, b):
        out["config.json"] = json.loads(out["config.json"])  # rope_scaling's keys come in the source's order
    assert a == b


def test_layer_types_all_full(weighbridge, tmp_path):  # CFG-02
    a, _ = exported(weighbridge, checkpoints.build(), tmp_path, name="a")
    b, _ = exported(weighbridge, checkpoints.build(config={"layer_types": ["full_attention"] * 2}), tmp_path, name="b")
    assert a == b


def test_rope_scaling_is_carried_over(weighbridge, tmp_path):
    for i, (scaling, expected) in enumerate([
        ({"type": "linear", "factor": 2.0}, {"type": "linear", "factor": 2.0, "rope_type": "linear"}),
        ({"rope_type": "dynamic", "factor": 4}, {"rope_type": "dynamic", "factor": 4}),
        ({"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "x": [1, 2.5, 1e-7]},) * 2,
        (None, None),
    ]):
        ckpt = checkpoints.build(config={"rope_scaling": scaling})
        out, _ = exported(weighbridge, ckpt, tmp_path, name=f"m{i}")
        assert json.loads(out["config.json"])["rope_scaling"] == expected


def test_mistral_without_rope_scaling_gets_null(weighbridge, tmp_path):
    ckpt = checkpoints.build("mistral")
    assert "rope_scaling" not in ckpt.config
    out, _ = exported(weighbridge, ckpt, tmp_path)
    assert b'"rope_scaling": null' in out["config.json"]


def test_head_dim_rules_over_the_quotient(weighbridge, tmp_path):  # CFG-05
    ckpt = checkpoints.build(config={"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16})
    out, _ = exported(weighbridge, ckpt, tmp_path)
    g = onnx.load_from_string(out["model.onnx"]).graph
    o_proj = next(t for t in g.initializer if t.name == "model.layers.0.self_attn.o_proj.weight")
    assert list(o_proj.dims) == [128, 64]
    assert g.input[1].type.tensor_type.shape.dim[4].dim_value == 16


def test_defaults_that_were_taken_are_told(weighbridge, tmp_path):
    ckpt = checkpoints.build(config={"num_key_value_heads": 4}, template=None)
    for key in ("rope_theta", "tie_word_embeddings", "num_key_value_heads"):
        del ckpt.config[key]
    ckpt.write(tmp_path / "model")
    plan = weighbridge.ok("plan", tmp_path / "model", "--json").json
    notes = " ".join(n["text"] for n in plan["notes"])
    assert all(k in notes for k in ('"rope_theta" is absent, 10000', '"tie_word_embeddings" is absent, false',
                                    '"num_key_value_heads" is absent, 4'))


def test_sliding_window_in_use(weighbridge, tmp_path):
    ckpt = checkpoints.build("mistral", config={"sliding_window": 128})
    said = exported(weighbridge, ckpt, tmp_path)[1].stderr
    assert "sliding window of 128" in said and "max_position_embeddings 256" in said
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "strict", "--strict")
    assert "--strict" in said and "sliding window" in said and not (tmp_path / "strict").exists()


@pytest.mark.parametrize("family, config", [
    ("mistral", {"sliding_window": 256}), ("mistral", {"sliding_window": None}),
    ("qwen2", {"sliding_window": 64, "use_sliding_window": False}),
    ("qwen2", {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}),
])
def test_sliding_window_not_in_use(family, config, weighbridge, tmp_path):
    _, r = exported(weighbridge, checkpoints.build(family, config=config), tmp_path, "--strict")
    assert "window" not in r.stderr


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("prefix", ["", "model.language_model.", "language_model.model.", "language_model.",
                                    "model.text_model."])
def test_prefix_is_probed_and_names_are_canonical(prefix, weighbridge, tmp_path):  # NAME-03
    ckpt = checkpoints.build("qwen2_5")
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    head = "language_model.lm_head.weight" if prefix == "language_model.model." else "lm_head.weight"
    ckpt.tensors = {n.replace("model.", prefix, 1) if n.startswith("model.") else head: t for n, t in ckpt.tensors.items()}
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b


def test_two_decoders_are_ambiguous(weighbridge, tmp_path):
    ckpt = checkpoints.build()
    ckpt.tensors.update({n.replace("model.", "language_model.model."): t for n, t in ckpt.tensors.items() if "model." in n})
    refused(weighbridge, ckpt, tmp_path, '"model."', '"language_model.model."')


def test_missing_tensor_stops_before_the_first_write(weighbridge, tmp_path):  # NAME-05
    ckpt = checkpoints.build()
    ckpt.tensors["model.layers.1.mlp.up_projection.weight"] = ckpt.tensors.pop("model.layers.1.mlp.up_proj.weight")
    refused(weighbridge, ckpt, tmp_path, "model.layers.1.mlp.up_proj.weight is missing")


def test_hole_in_the_layers(weighbridge, tmp_path):  # NAME-06
    ckpt = checkpoints.build(config={"num_hidden_layers": 3})
    for name in [n for n in ckpt.tensors if ".layers.1." in n]:
        del ckpt.tensors[name]
    refused(weighbridge, ckpt, tmp_path, "model.layers.1.mlp.down_proj.weight is missing")


def test_layers_beyond_the_last_are_ignored_with_one_line(weighbridge, tmp_path):  # NAME-06
    ckpt = checkpoints.build()
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    more = checkpoints.build(config={"num_hidden_layers": 3})
    more.config["num_hidden_layers"] = 2
    more.tensors["model.mtp_layers.0.weight"] = tensor(np.zeros(3), "F32")
    b, _ = exported(weighbridge, more, tmp_path, name="b")
    assert a == b
    plan = weighbridge.ok("plan", tmp_path / "b", "--json").json
    assert {u["pattern"]: u["tensors"] for u in plan["unused"]}["model.layers.N.mlp.up_proj.weight"] == 1
    assert sum("ignored" in n["text"] for n in plan["notes"]) == 1


def test_many_missing_names_are_grouped(weighbridge, tmp_path):  # OPS-06
    ckpt = checkpoints.build(config={"num_hidden_layers": 2})
    ckpt.config["num_hidden_layers"] = 10
    said = refused(weighbridge, ckpt, tmp_path, "72 needed tensors", "model.layers.N.mlp.up_proj.weight (8 of them")
    assert len(said.splitlines()) <= 22


def test_more_layers_than_the_file_can_have(weighbridge, tmp_path):
    ckpt = checkpoints.build()
    ckpt.config["num_hidden_layers"] = 2000
    refused(weighbridge, ckpt, tmp_path, "num_hidden_layers", "2000", "21 tensors")


@pytest.mark.parametrize("name, spoil, words", [
    ("model.layers.0.self_attn.k_proj.weight", lambda t: Tensor(t.dtype, (16, 128), t.data), ["[16, 128]", "[32, 64]"]),
    ("model.norm.weight", lambda t: Tensor(t.dtype, (1, 64), t.data), ["[1, 64]", "[64]"]),
    ("lm_head.weight", lambda t: Tensor(t.dtype, (136, 128), t.data), ["[136, 128]", "[272, 64]"]),
    ("model.layers.1.self_attn.q_proj.weight", lambda t: Tensor("I16", t.shape, t.data), ["I16", "F32, BF16 or F16"]),
    ("model.layers.1.self_attn.q_proj.weight", lambda t: Tensor("X99", t.shape, t.data), ["X99"]),  # ST-09
    ("model.layers.1.self_attn.q_proj.weight", lambda t: Tensor("F8_E4M3", t.shape, t.data[: len(t.data) // 2]), ["F8_E4M3"]),
])
def test_unfit_tensors(name, spoil, words, weighbridge, tmp_path):
    ckpt = checkpoints.build()
    ckpt.tensors[name] = spoil(ckpt.tensors[name])
    refused(weighbridge, ckpt, tmp_path, name, *words)


def test_unknown_dtype_is_fine_where_it_is_not_needed(weighbridge, tmp_path):  # ST-09
    ckpt = checkpoints.build()
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    ckpt.tensors["vision.scale"] = Tensor("F8_E8M0", (3,), b"abc")
    ckpt.tensors["vision.x"] = Tensor("X99", (2, 2), b"abcde")
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b


def test_stray_bias_is_ignored(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama")
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    ckpt.tensors["model.layers.0.self_attn.q_proj.bias"] = tensor(np.ones(64), "BF16")
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b


def test_mixed_dtypes_and_a_dtype_that_lies(weighbridge, compare, tmp_path):  # ST-18
    ckpt = checkpoints.build("llama", dtype="BF16")
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    for i, (name, t) in enumerate(ckpt.tensors.items()):  # bf16 widens to f32 without loss
        if i % 2:
            wide = np.frombuffer(t.data, "<u2").astype("<u4") << 16
            ckpt.tensors[name] = Tensor("F32", t.shape, wide.tobytes())
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b
    weighbridge.ok("verify", tmp_path / "b-out", tmp_path / "b")


# ---------------------------------------------------------------------------------------------------- tying


def test_tied_needs_no_head_and_ignores_one(weighbridge, tmp_path):  # TIE-05
    ckpt = checkpoints.build("llama", config={"tie_word_embeddings": True})
    assert "lm_head.weight" not in ckpt.tensors
    a, _ = exported(weighbridge, ckpt, tmp_path, name="a")
    ckpt.tensors["lm_head.weight"] = tensor(np.ones((272, 64)), "F16")
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b


def test_untied_needs_its_head(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama")
    del ckpt.tensors["lm_head.weight"]
    refused(weighbridge, ckpt, tmp_path, "lm_head.weight is missing")


@pytest.mark.parametrize("top, text, tied, contradiction", [(..., True, True, False), (False, True, True, True),
                                                            (True, False, False, True), (True, ..., True, False)])
def test_tying_is_looked_for_at_every_level(top, text, tied, contradiction, weighbridge, tmp_path):  # TIE-04
    ckpt = checkpoints.build("llama", config={"tie_word_embeddings": False})
    if tied:
        del ckpt.tensors["lm_head.weight"]
    del ckpt.config["tie_word_embeddings"]
    if top is not ...:
        ckpt.config["tie_word_embeddings"] = top
    ckpt.config["text_config"] = {} if text is ... else {"tie_word_embeddings": text}
    _, r = exported(weighbridge, ckpt, tmp_path)
    assert ("tie_word_embeddings" in r.stderr) == contradiction
    strict = weighbridge("export", tmp_path / "model", tmp_path / "strict", "--strict")
    assert strict.status == (1 if contradiction else 0)


def test_vision_keys_are_never_read(weighbridge, tmp_path):  # CFG-10
    a, _ = exported(weighbridge, checkpoints.build("qwen2"), tmp_path, name="a")
    ckpt = checkpoints.build("qwen2", config={"vision_config": {}})
    ckpt.tensors["visual.blocks.0.attn.qkv.weight"] = tensor(np.zeros((3, 3)), "BF16")
    b, _ = exported(weighbridge, ckpt, tmp_path, name="b")
    assert a == b


def test_old_llama_without_newer_keys(weighbridge, tmp_path):
    """transformers 4.28: no num_key_value_heads, no rope_theta, max_sequence_length beside max_position_embeddings."""
    new = checkpoints.build("llama", config={"num_key_value_heads": 4, "head_dim": 16})
    a, _ = exported(weighbridge, new, tmp_path, name="a")
    old = copy.deepcopy(new)
    for key in ("num_key_value_heads", "rope_theta", "head_dim", "rope_scaling", "attention_bias", "mlp_bias"):
        del old.config[key]
    old.config["max_sequence_length"] = 2048
    b, _ = exported(weighbridge, old, tmp_path, name="b")
    assert a == b
