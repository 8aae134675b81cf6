"""verify passes on what export wrote, and names whatever byte was changed since."""
import random
import shutil

import checkpoints
import numpy as np
import onnx
import pytest
from conftest import tree


@pytest.fixture(scope="module", params=["qwen3", "qwen2", "llama_bias"])
def exported(request, weighbridge, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    config = {"num_hidden_layers": 3, "hidden_size": 72, "intermediate_size": 88}
    model = checkpoints.make(base / "model", request.param, config=config).path
    weighbridge.ok("export", model, base / "out")
    weighbridge.ok("verify", base / "out", model)
    return model, base / "out"


@pytest.fixture()
def spoilt(exported, tmp_path):
    """-> model, a copy of the export to spoil"""
    shutil.copytree(exported[1], tmp_path / "out")
    return exported[0], tmp_path / "out"


def differences(weighbridge, out, model):
    r = weighbridge("verify", out, model, "--json")
    assert r.status == 1, "not noticed"
    assert r.json["ok"] is False and r.json["differences"]
    return {d["name"] for d in r.json["differences"]}, " ".join(d["text"] for d in r.json["differences"])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_any_byte_of_the_data_file(weighbridge, spoilt):
    model, out = spoilt
    data = out / "onnx_model.data"
    places = sorted((int({x.key: x.value for x in t.external_data}["offset"]),
                     int({x.key: x.value for x in t.external_data}["length"]), t.name)
                    for t in onnx.load(out / "model.onnx", load_external_data=False).graph.initializer if t.external_data)
    rng = random.Random(7)
    for at in [0, data.stat().st_size - 1, *(rng.randrange(data.stat().st_size) for _ in range(25))]:
        inside = [name for off, n, name in places if off <= at < off + n]
        flip(data, at)
        names, text = differences(weighbridge, out, model)
        assert (inside and set(inside) == names) or (not inside and f" {at} " in text), (at, text)
        flip(data, at)
    weighbridge.ok("verify", out, model)


def test_length_of_the_data_file(weighbridge, spoilt):
    model, out = spoilt
    data = out / "onnx_model.data"
    whole = data.read_bytes()
    for other in (whole + b"\0", whole[:-1], b""):
        data.write_bytes(other)
        assert "onnx_model.data" in differences(weighbridge, out, model)[0]
    data.unlink()
    assert "onnx_model.data" in differences(weighbridge, out, model)[1]


def test_inline_initializers(weighbridge, spoilt):
    model, out = spoilt
    m = onnx.load(out / "model.onnx", load_external_data=False)
    inline = [t for t in m.graph.initializer if not t.external_data]
    assert len(inline) > 5
    for t in inline:
        right = t.raw_data
        t.raw_data = right[:3] + bytes([right[3] ^ 1]) + right[4:]
        onnx.save(m, out / "model.onnx")
        assert differences(weighbridge, out, model)[0] == {t.name}
        t.raw_data = right


def test_every_side_file(weighbridge, spoilt):
    model, out = spoilt
    names = sorted(p.name for p in out.iterdir() if p.name not in ("model.onnx", "onnx_model.data"))
    assert {"config.json", "embedding.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
            "processed_chat_template.json"} <= set(names)
    rng = random.Random(3)
    for name in names:
        size = (out / name).stat().st_size
        for at in {0, size - 1, *(rng.randrange(size) for _ in range(4))}:
            flip(out / name, at)
            said, text = differences(weighbridge, out, model)
            assert said & {name, "embedding"}, (name, at, text)
            flip(out / name, at)
        (out / name).rename(out / "aside")
        assert name in differences(weighbridge, out, model)[1]
        (out / "aside").rename(out / name)
    weighbridge.ok("verify", out, model)


def test_swapped_weights(weighbridge, spoilt):
    """Equal shapes, right bytes, wrong place: by the nodes' inputs, by the initializers' names, and by both."""
    model, out = spoilt
    a, b = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    c, d = "model.layers.1.self_attn.k_proj.weight", "model.layers.2.self_attn.k_proj.weight"
    for x, y in ((a, b), (c, d)):
        for how in ("inputs", "initializers", "offsets"):
            m = onnx.load(out / "model.onnx", load_external_data=False)
            right = (out / "model.onnx").read_bytes()
            swap = {x: y, y: x}
            tensors = {t.name: t for t in m.graph.initializer}
            if how == "inputs":
                for n in m.graph.node:
                    n.input[:] = [swap.get(i, i) for i in n.input]
            elif how == "initializers":
                tensors[x].name, tensors[y].name = y, x
            else:
                for k in range(len(tensors[x].external_data)):
                    p, q = tensors[x].external_data[k], tensors[y].external_data[k]
                    p.value, q.value = q.value, p.value
            onnx.save(m, out / "model.onnx")
            names, text = differences(weighbridge, out, model)
            assert {x, y} <= names and "expected 0x" in text, (how, text)
            (out / "model.onnx").write_bytes(right)


def test_wrong_type_and_zeroed_tensor(weighbridge, spoilt):  # ONNX-06
    model, out = spoilt
    m = onnx.load(out / "model.onnx", load_external_data=False)
    t = next(t for t in m.graph.initializer if t.external_data)
    e = {x.key: int(x.value) for x in t.external_data if x.key != "location"}
    data = bytearray((out / "onnx_model.data").read_bytes())
    data[e["offset"]:e["offset"] + e["length"]] = bytes(e["length"])
    (out / "onnx_model.data").write_bytes(data)
    assert differences(weighbridge, out, model)[0] == {t.name}
    t.data_type = onnx.TensorProto.BFLOAT16
    onnx.save(m, out / "model.onnx")
    assert t.name in differences(weighbridge, out, model)[0]


@pytest.mark.parametrize("spoil", ["eps", "attribute", "input shape", "opset", "metadata", "node order", "extra node"])
def test_graph(spoil, weighbridge, spoilt):
    model, out = spoilt
    m = onnx.load(out / "model.onnx", load_external_data=False)
    if spoil == "eps":
        c = [n for n in m.graph.node if n.op_type == "Constant" and n.attribute[0].t.data_type == 1]
        c[1].attribute[0].t.raw_data = np.float32(1e-3).tobytes()
    elif spoil == "attribute":
        next(a for n in m.graph.node for a in n.attribute if a.name == "num_q_heads").i += 1
    elif spoil == "input shape":
        m.graph.input[0].type.tensor_type.shape.dim[2].dim_value += 1
    elif spoil == "opset":
        m.opset_import[0].version = 18
    elif spoil == "metadata":
        m.metadata_props[0].value = "0.0.9"
    elif spoil == "node order":
        nodes = list(m.graph.node)
        nodes[1], nodes[2] = nodes[2], nodes[1]
        del m.graph.node[:]
        m.graph.node.extend(nodes)
    else:
        m.graph.node.add(op_type="Identity", input=["inputs_embeds"], output=["copy"], name="more")
    onnx.save(m, out / "model.onnx")
    differences(weighbridge, out, model)


def test_another_checkpoint(weighbridge, exported, tmp_path):
    model, out = exported
    ckpt = checkpoints.build("qwen3" if "qwen3" in str(model) else "qwen2" if "qwen2" in str(model) else "llama_bias", seed=5,
                             config={"num_hidden_layers": 3, "hidden_size": 72, "intermediate_size": 88})
    ckpt.write(tmp_path / "other")
    assert len(differences(weighbridge, out, tmp_path / "other")[0]) > 20


@pytest.mark.parametrize("spoil", ["empty", "cut", "noise", "no metadata", "offset", "dims", "location"])
def test_broken_model_onnx(spoil, weighbridge, spoilt):
    model, out = spoilt
    file = out / "model.onnx"
    whole = file.read_bytes()
    m = onnx.load(file, load_external_data=False)
    t = next(t for t in m.graph.initializer if t.external_data)
    entry = {x.key: x for x in t.external_data}
    if spoil in ("empty", "cut", "noise"):
        file.write_bytes({"empty": b"", "cut": whole[:len(whole) // 2], "noise": random.Random(1).randbytes(3000)}[spoil])
    else:
        if spoil == "no metadata":
            del m.metadata_props[:]
        elif spoil == "offset":
            entry["offset"].value = str(2**64 - 4096)
        elif spoil == "dims":
            t.dims[0] = 2**62
        else:
            entry["location"].value = "../../etc/passwd"
        onnx.save(m, file)
    r = weighbridge("verify", out, model)
    assert r.status == 1 and (r.stdout + r.stderr).strip()
    assert weighbridge("inspect", out).status == (0 if spoil == "no metadata" else 1)


def test_given_template(weighbridge, tmp_path):
    given = tmp_path / "given.json"
    given.write_text('{"roles": {"system": {"prefix": "a", "suffix": "b"}, "user": {"prefix": "c", "suffix": "d"}, '
                     '"assistant": {"prefix": "e", "suffix": "f"}}}')
    model = checkpoints.make(tmp_path / "model").path
    out = tmp_path / "out"
    weighbridge.ok("export", model, out, "--chat-template", given)
    weighbridge.ok("verify", out, model, "--chat-template", given)
    weighbridge.ok("verify", out, model)
    file = out / "processed_chat_template.json"
    file.write_text(file.read_text().replace('"a"', '"z"'))
    assert "processed_chat_template.json" in differences(weighbridge, out, model)[0]
    before = tree(tmp_path)
    weighbridge("verify", out, model, "--chat-template", given)
    assert tree(tmp_path) == before
