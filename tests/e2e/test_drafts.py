"""EAGLE3 drafts: goldens, the ways drafts are published (cases EAGLE-*), and what is refused."""
import json
import shutil
import struct

import checkpoints
import conftest
import numpy as np
import onnx
import pytest
from checkpoints import Tensor, tensor
from conftest import tree

GOLDENS = {"llama_eagle3": "llama", "llama_eagle3_2l": "llama", "qwen2_eagle3_mrope": "qwen2_vl", "llama_eagle3_bin": None,
           "qwen2_eagle3_bin": "qwen2"}


@pytest.mark.parametrize("case", GOLDENS)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    base = ["--base-model", f"checkpoints/{GOLDENS[case]}"] if GOLDENS[case] else []
    weighbridge.ok("export-draft", f"checkpoints/{case}", tmp_path / "out", *base, cwd=golden)
    assert "0 differences" in compare(golden / "edgellm-0.5" / case, tmp_path / "out", "--loose-json", "--execute")
    weighbridge.ok("verify", tmp_path / "out", f"checkpoints/{case}", cwd=golden)


class Draft:
    """A draft to spoil: config, tensors; write() makes the directory."""

    def __init__(self, tmp_path, vocab=272, draft_vocab=40, target=None, ff=96):
        h, q, kv, d = 64, 4, 2, 16
        self.path = tmp_path / "draft"
        self.config = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": h,
                       "intermediate_size": ff, "num_hidden_layers": 1, "num_attention_heads": q, "num_key_value_heads": kv,
                       "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "vocab_size": vocab,
                       "draft_vocab_size": draft_vocab}
        r = np.random.RandomState(5)
        shapes = {"fc.weight": (h, 3 * (target or h)), "norm.weight": (h,), "lm_head.weight": (draft_vocab, h)}
        m = "midlayer."
        shapes |= {m + n + ".weight": (h,) for n in ("input_layernorm", "hidden_norm", "post_attention_layernorm")}
        shapes |= {m + "self_attn.q_proj.weight": (q * d, 2 * h), m + "self_attn.k_proj.weight": (kv * d, 2 * h),
                   m + "self_attn.v_proj.weight": (kv * d, 2 * h), m + "self_attn.o_proj.weight": (h, q * d),
                   m + "mlp.gate_proj.weight": (ff, h), m + "mlp.up_proj.weight": (ff, h), m + "mlp.down_proj.weight": (h, ff)}
        self.tensors = {n: tensor(r.standard_normal(s), "BF16") for n, s in shapes.items()}
        self.d2t(np.arange(draft_vocab) * 3)
        self.tensors["t2d"] = Tensor("BOOL", (vocab,), bytes(vocab))

    def d2t(self, values, dtype="I64"):
        values = np.asarray(values, {"I64": "<i8", "I32": "<i4", "I16": "<i2"}[dtype])
        self.tensors["d2t"] = Tensor(dtype, values.shape, values.tobytes())

    def write(self):
        self.path.mkdir(exist_ok=True)
        checkpoints.write_safetensors(self.path / "model.safetensors", self.tensors)
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self.path


@pytest.fixture()
def draft(tmp_path):
    return Draft(tmp_path)


def exported(weighbridge, draft, tmp_path, *options, name="out"):
    r = weighbridge.ok("export-draft", draft.write(), tmp_path / name, *options)
    weighbridge.ok("verify", tmp_path / name, draft.path, *options)
    onnx.checker.check_model(str(tmp_path / name / "model.onnx"))
    return tree(tmp_path / name), r


def refused(weighbridge, draft, tmp_path, *words, options=()):
    draft.write()
    before = tree(tmp_path)
    said = weighbridge.refuses("export-draft", draft.path, tmp_path / "out", *options)
    assert all(w in said for w in words), said
    assert tree(tmp_path) == before


def d2t_of(out):
    raw = out["d2t.safetensors"]
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    assert list(head) == ["d2t"] and head["d2t"]["dtype"] == "I32"
    return np.frombuffer(raw[8 + n:], "<i4")


def test_files(weighbridge, draft, tmp_path):
    out, _ = exported(weighbridge, draft, tmp_path)
    assert set(out) == {"model.onnx", "onnx_model.data", "config.json", "d2t.safetensors"}
    assert (d2t_of(out) == np.arange(40) * 3).all()
    config = json.loads(out["config.json"])
    assert config["model_type"] == "eagle3_draft" and config["base_model_hidden_size"] == 192


def test_both_names_of_the_first_layer(weighbridge, draft, tmp_path):
    a, _ = exported(weighbridge, draft, tmp_path, name="a")
    draft.tensors = {n.replace("midlayer.", "layers.0."): t for n, t in draft.tensors.items()}
    b, _ = exported(weighbridge, draft, tmp_path, name="b")
    draft.tensors = {"model." + n if n not in ("t2d", "d2t", "lm_head.weight") else n: t for n, t in draft.tensors.items()}
    draft.tensors["model.lm_head.weight"] = draft.tensors.pop("lm_head.weight")
    draft.tensors["model.d2t"] = draft.tensors.pop("d2t")
    c, _ = exported(weighbridge, draft, tmp_path, name="c")
    assert a == b == c


def test_with_both_files_the_bin_wins(weighbridge, draft, tmp_path):
    import torch_file
    right, _ = exported(weighbridge, draft, tmp_path, name="a")
    tensors = dict(draft.tensors)
    draft.tensors = {n: Tensor(t.dtype, t.shape, bytes(len(t.data))) for n, t in tensors.items()}
    draft.write()
    torch_file.write(draft.path / "pytorch_model.bin", tensors)
    r = weighbridge.ok("export-draft", draft.path, tmp_path / "b")
    assert tree(tmp_path / "b") == right and r.status == 0


def test_narrower_than_its_target(weighbridge, tmp_path):
    draft = Draft(tmp_path, target=128)
    draft.config["target_hidden_size"] = 128
    out, _ = exported(weighbridge, draft, tmp_path)
    assert json.loads(out["config.json"])["base_model_hidden_size"] == 384


def test_defaults_are_the_class_s_not_the_target_s(weighbridge, draft, tmp_path):  # EAGLE-01
    base = checkpoints.make(tmp_path / "base", config={"rope_theta": 500000.0}).path
    del draft.config["rope_theta"]
    out, r = exported(weighbridge, draft, tmp_path, "--base-model", base, "-v")
    config = json.loads(out["config.json"])
    assert config["rope_theta"] == 10000.0 and config["rope_scaling"] is None and config["head_dim"] == 16
    assert '"rope_theta" is absent, 10000' in r.stderr


def test_no_lm_head(weighbridge, tmp_path):  # EAGLE-02
    base = checkpoints.make(tmp_path / "base").path
    draft = Draft(tmp_path, draft_vocab=272)
    draft.d2t(np.zeros(272))
    head = draft.tensors.pop("lm_head.weight")
    refused(weighbridge, draft, tmp_path, "lm_head.weight is missing")
    out, r = exported(weighbridge, draft, tmp_path, "--base-model", base)
    assert "no lm_head" in r.stderr
    draft.tensors["lm_head.weight"] = checkpoints.read_safetensors(base / "model.safetensors")["lm_head.weight"]
    again, _ = exported(weighbridge, draft, tmp_path, name="again")
    assert out == again
    small = Draft(tmp_path)
    del small.tensors["lm_head.weight"]
    shutil.rmtree(tmp_path / "out")
    refused(weighbridge, small, tmp_path, "lm_head.weight is missing", options=("--base-model", base))
    assert head.shape == (272, 64)


def test_no_d2t(weighbridge, tmp_path):  # EAGLE-03
    draft = Draft(tmp_path, draft_vocab=272)
    del draft.tensors["d2t"]
    out, _ = exported(weighbridge, draft, tmp_path)
    assert (d2t_of(out) == 0).all() and len(d2t_of(out)) == 272
    small = Draft(tmp_path)
    del small.tensors["d2t"]
    shutil.rmtree(tmp_path / "out")
    refused(weighbridge, small, tmp_path, "d2t", "40", "272")


@pytest.mark.parametrize("values, dtype, words", [
    (np.full(40, 300), "I64", ["d2t[0]", "300"]), (np.full(40, -1), "I64", ["d2t[0]", "-1"]),
    (np.full(40, 2**40), "I64", ["d2t[0]"]), (np.zeros(41), "I64", ["[41]", "[40]"]), (np.zeros(40), "I16", ["I16"]),
])
def test_bad_d2t(values, dtype, words, weighbridge, draft, tmp_path):
    draft.d2t(values, dtype)
    refused(weighbridge, draft, tmp_path, "d2t", *words)


def test_d2t_in_32_bits(weighbridge, draft, tmp_path):
    a, _ = exported(weighbridge, draft, tmp_path, name="a")
    draft.d2t(np.arange(40) * 3, "I32")
    b, _ = exported(weighbridge, draft, tmp_path, name="b")
    assert a == b


def test_layers_in_the_file_rule(weighbridge, draft, tmp_path):  # EAGLE-05
    a, _ = exported(weighbridge, draft, tmp_path, name="a")
    draft.config["num_hidden_layers"] = 40
    b, r = exported(weighbridge, draft, tmp_path, name="b")
    assert a == b and "is 40, but the file has 1" in r.stderr


def test_a_key_that_matches_nothing(weighbridge, draft, tmp_path):  # EAGLE-09
    draft.tensors = {n.replace("midlayer", "mid_layer"): t for n, t in draft.tensors.items()}
    refused(weighbridge, draft, tmp_path, "midlayer")
    again = Draft(tmp_path)
    again.tensors["extra_norm.weight"] = tensor(np.ones(64), "BF16")
    refused(weighbridge, again, tmp_path, "extra_norm.weight")


@pytest.mark.parametrize("key", ["fc_norm", "norm_output"])
def test_later_kinds_of_draft(key, weighbridge, draft, tmp_path):  # EAGLE-11
    draft.config[key] = True
    refused(weighbridge, draft, tmp_path, key)
    draft.config[key] = False
    exported(weighbridge, draft, tmp_path)


@pytest.mark.parametrize("spoil, words", [
    (lambda d: d.tensors.pop("fc.weight"), ["fc.weight", "not an EAGLE3 draft"]),
    (lambda d: d.tensors.pop("midlayer.hidden_norm.weight"), ["hidden_norm.weight is missing"]),
    (lambda d: d.config.pop("draft_vocab_size"), ["draft_vocab_size"]),
    (lambda d: d.config.update(draft_vocab_size=300), ["draft_vocab_size", "300", "272"]),
    (lambda d: d.config.update(bias=True), ["fc.bias is missing"]),
    (lambda d: d.config.update(model_type="qwen2"), ["self_attn.q_proj.bias"]),
])
def test_refusals(spoil, words, weighbridge, draft, tmp_path):
    spoil(draft)
    refused(weighbridge, draft, tmp_path, *words)


def test_base_of_another_model(weighbridge, draft, tmp_path):
    base = checkpoints.make(tmp_path / "base", config={"vocab_size": 100}).path
    refused(weighbridge, draft, tmp_path, "[100, 64]", "[272, 64]", options=("--base-model", base))
    refused(weighbridge, draft, tmp_path, "nowhere", options=("--base-model", tmp_path / "nowhere"))


@pytest.mark.parametrize("ids, expected", [([1, 11, 4], None), ([0, 3, 5], ["/model/layers.0/Add_1_output_0",
                                                                           "/model/layers.3/Add_1_output_0",
                                                                           "/model/layers.5/Add_1_output_0"])])
def test_the_draft_says_which_layers_it_reads(ids, expected, weighbridge, draft, tmp_path):
    base = checkpoints.make(tmp_path / "base", config={"num_hidden_layers": 8}).path
    draft.config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": ids}
    draft.write()
    if expected is None:
        assert "layer 11" in weighbridge.refuses("export", base, tmp_path / "out", "--eagle-base", "--eagle-draft", draft.path)
        return
    weighbridge.ok("export", base, tmp_path / "out", "--eagle-base", "--eagle-draft", draft.path)
    weighbridge.ok("verify", tmp_path / "out", base)
    weighbridge.ok("verify", tmp_path / "out", base, "--eagle-draft", draft.path)
    draft.config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [1, 3, 5]}
    draft.write()
    r = weighbridge("verify", tmp_path / "out", base, "--eagle-draft", draft.path, "--json")
    assert r.status == 1 and "eagle_layers" in r.stdout
    g = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    cast = next(n for n in g.node if n.output[0] == "hidden_states")
    assert list(next(n for n in g.node if n.output[0] == cast.input[0]).input) == expected


def test_wrong_uses(weighbridge, draft, tmp_path):
    draft.write()
    base = checkpoints.make(tmp_path / "base", config={"num_hidden_layers": 4}).path
    weighbridge.refuses("export", base, tmp_path / "out", "--eagle-draft", draft.path, status=2)
    weighbridge.ok("export", base, tmp_path / "plain", "-q", "--no-chat-template")
    assert "not the base" in weighbridge.refuses("verify", tmp_path / "plain", base, "--eagle-draft", draft.path, status=2)
    assert "is not an EAGLE3 draft" in weighbridge.refuses("verify", tmp_path / "plain", base, "--base-model", base, status=2)
    assert "draft" in weighbridge.refuses("export-draft", base, tmp_path / "out")


def test_swapped_weights_are_found(weighbridge, draft, tmp_path):
    exported(weighbridge, draft, tmp_path)
    file = tmp_path / "out" / "model.onnx"
    m = onnx.load(file, load_external_data=False)
    a, b = "layers.0.input_layernorm.weight", "layers.0.hidden_norm.weight"
    for n in m.graph.node:
        n.input[:] = [{a: b, b: a}.get(i, i) for i in n.input]
    onnx.save(m, file)
    r = weighbridge("verify", tmp_path / "out", draft.path)
    assert r.status == 1 and a in r.stdout and b in r.stdout


def test_drop_in_name(weighbridge, draft, tmp_path):
    base = checkpoints.make(tmp_path / "base").path
    (tmp_path / "tensorrt-edgellm-export-draft").symlink_to(weighbridge.path.resolve())
    draft.write()
    conftest.Program(tmp_path / "tensorrt-edgellm-export-draft").ok(
        "--draft_model_dir", draft.path, "--output_dir", tmp_path / "a", "--base_model_dir", base)
    weighbridge.ok("export-draft", draft.path, tmp_path / "b", "--base-model", base)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
