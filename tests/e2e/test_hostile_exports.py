"""Exports that strangers made: verify and inspect answer, whatever a model.onnx says, and a graph that computes something
else than ours does not pass."""
import shutil

import checkpoints
import onnx
import pytest
from checkpoints import Tensor


@pytest.fixture(scope="module")
def exported(weighbridge, tmp_path_factory):
    """-> model, an export, an export as EAGLE base.  The checkpoint has tensors that no export needs, of types and sizes
    that none could use."""
    base = tmp_path_factory.mktemp("hostile")
    ckpt = checkpoints.build("llama", config={"num_hidden_layers": 3})
    ckpt.tensors["model.layers.0.self_attn.q_proj.bias"] = Tensor("I32", (64,), bytes(256))
    ckpt.tensors["model.layers.9.mlp.up_proj.weight"] = Tensor("F16", (5, 0), b"")
    model = ckpt.write(base / "model").path
    weighbridge.ok("export", model, base / "out")
    weighbridge.ok("export", model, base / "eagle", "--eagle-base")
    return model, base / "out", base / "eagle"


def answers(weighbridge, out, model, change, tmp_path, raw=lambda b: b):
    """verify and inspect of a copy whose model.onnx was changed -> (verify's result, inspect's)"""
    shutil.copytree(out, tmp_path / "out")
    m = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    change(m)
    (tmp_path / "out" / "model.onnx").write_bytes(raw(m.SerializeToString()))
    return weighbridge("verify", tmp_path / "out", model, "--json"), weighbridge("inspect", tmp_path / "out", "--json")


def names_and_text(result):
    assert result.status == 1 and result.json["ok"] is False
    assert all(set(d) == {"what", "name", "text"} for d in result.json["differences"])
    return {d["name"] for d in result.json["differences"]}, " ".join(d["text"] for d in result.json["differences"])


@pytest.mark.parametrize("where", ["function", "sparse initializer", "training"])
def test_fields_that_we_never_write(where, weighbridge, exported, tmp_path):
    """A function that redefines MatMul leaves every node as it is."""
    def change(m):
        if where == "function":
            m.functions.add(name="MatMul", domain="")
        elif where == "training":
            m.training_info.add()
        else:
            m.graph.sparse_initializer.add()
    verified, inspected = answers(weighbridge, exported[1], exported[0], change, tmp_path)
    assert "fields that this version does not write" in names_and_text(verified)[1]
    assert inspected.status == 0


@pytest.mark.parametrize("layers", ["90000000,1,2", "4,1,2", "4294967295,0,0"])
def test_states_that_the_model_does_not_have(layers, weighbridge, exported, tmp_path):
    def change(m):
        next(p for p in m.metadata_props if p.key == "weighbridge.eagle_layers").value = layers
    verified, _ = answers(weighbridge, exported[2], exported[0], change, tmp_path)
    assert verified.status == 1 and "weighbridge.eagle_layers names state" in verified.stderr


def test_bias_of_a_type_that_no_weight_has(weighbridge, exported, tmp_path):
    """The graph says that an initializer is the bias which the export leaves out, and which is stored as I32."""
    def change(m):
        node = next(n for n in m.graph.node if n.name == "/model/layers.0/self_attn/q_proj/MatMul")
        out, node.output[0] = node.output[0], "unbiased"
        m.graph.node.append(onnx.helper.make_node("Add", ["mine", "unbiased"], [out]))
        m.graph.initializer.append(onnx.TensorProto(name="mine", data_type=10, dims=[64], raw_data=bytes(128)))
    names, text = names_and_text(answers(weighbridge, exported[1], exported[0], change, tmp_path)[0])
    assert "mine" in names and "is used as layers.0.self_attn.q_proj.bias" in text


def test_matrix_without_elements(weighbridge, exported, tmp_path):
    """More layers than the model has, so that a weight of the last one is compared with the stray tensor of [5, 0]."""
    def change(m):
        for _ in range(7):
            m.graph.node.add(op_type="AttentionPlugin", domain="trt")
        t = next(t for t in m.graph.initializer if t.name == "model.layers.2.mlp.up_proj.weight")
        t.dims[0] = 0
        next(x for x in t.external_data if x.key == "length").value = "0"
    names, text = names_and_text(answers(weighbridge, exported[1], exported[0], change, tmp_path)[0])
    assert "model.layers.2.mlp.up_proj.weight" in names and "is used as layers.9.mlp.up_proj.weight" in text


@pytest.mark.parametrize("old, new", [(b"onnx_model.data", b"onnx\xffmodel.data"), (b"layers.1", b"layers\xff1"),
                                      (b"layers.1", b"layers\n1"), (b"batch_size", b"batch\x80size")])
def test_names_that_are_no_text(old, new, weighbridge, exported, tmp_path):
    verified, inspected = answers(weighbridge, exported[1], exported[0], lambda m: None, tmp_path, lambda b: b.replace(old, new))
    names, text = names_and_text(verified)
    assert "\n" not in text
    assert len(inspected.json["tensors"]) == len(onnx.load(exported[1] / "model.onnx", load_external_data=False).graph.initializer)
    assert all(t["name"] and t["file"] and len(t["shape"]) > 0 for t in inspected.json["tensors"])
    assert len(inspected.json["inputs"][0]["shape"]) == 3


def test_nothing_has_a_name(weighbridge, exported, tmp_path):
    def change(m):
        for t in m.graph.initializer:
            t.ClearField("name")
            del t.external_data[1:]
        for n in m.graph.node:
            n.ClearField("name")
            n.ClearField("op_type")
        for v in (*m.graph.input, *m.graph.output):
            v.ClearField("name")
            v.ClearField("type")
    verified, inspected = answers(weighbridge, exported[1], exported[0], change, tmp_path)
    names_and_text(verified)
    assert inspected.json["inputs"][0] == {"name": None, "dtype": inspected.json["inputs"][0]["dtype"], "shape": []}


def test_long_names_end_within_the_sentence(weighbridge, exported, tmp_path):
    """A text that is cut in the middle of a character would be no JSON."""
    def change(m):
        for i, t in enumerate(m.graph.initializer):
            t.name = "x" * i + "é" * 2000
    names, text = names_and_text(answers(weighbridge, exported[1], exported[0], change, tmp_path)[0])
    assert all(name.endswith("é" * 2000) or name == "model.onnx" or name.startswith("/") for name in names)
    assert "éé..." in text


def test_claims_beyond_all_sizes(weighbridge, exported, tmp_path):
    def change(m):
        for i, t in enumerate(t for t in m.graph.initializer if t.external_data):
            t.dims[:] = [[2**62, 1], [2**62, 2], [2**63 - 1, 2**63 - 1], [-1, 3]][i % 4]
            next(x for x in t.external_data if x.key == "length").value = str(2**63 if i % 4 == 0 else 2**64 - 1)
    verified, inspected = answers(weighbridge, exported[1], exported[0], change, tmp_path)
    names_and_text(verified)
    assert inspected.status == 1 and 0 < inspected.json["bytes"] < 2**63
    assert all(0 <= t["bytes"] < 2**63 for t in inspected.json["tensors"])


def test_sizes_without_a_name_or_number(weighbridge, exported, tmp_path):
    def change(m):
        m.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    assert answers(weighbridge, exported[1], exported[0], change, tmp_path)[1].json["inputs"][0]["shape"] == ["batch_size", "?", 64]


def test_values_in_other_fields_than_raw_data(weighbridge, exported, tmp_path):
    def change(m):
        t = next(t for t in m.graph.initializer if not t.external_data)
        t.ClearField("raw_data")
        t.int32_data.extend([0] * 64)
    verified, inspected = answers(weighbridge, exported[1], exported[0], change, tmp_path)
    assert "has no raw_data" in names_and_text(verified)[1]
    assert inspected.status == 1 and any("has no raw_data" in p for p in inspected.json["problems"])
