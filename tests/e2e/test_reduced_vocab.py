"""A reduced vocabulary: the rows of lm_head that a map lists, in its order, and nothing else of the export changes."""
import json
import random
import shutil

import checkpoints
import numpy as np
import onnx
import pytest
from checkpoints import Tensor, write_safetensors
from conftest import tree
from onnx import numpy_helper

CASES = {  # golden: checkpoint, map, options
    "llama__reduced": ("llama", "reduced_vocab_320", []),
    "llama__eagle_base_reduced": ("llama", "reduced_vocab_320", ["--eagle-base"]),
    "qwen2__reduced_unsorted": ("qwen2", "reduced_vocab_328_unsorted", []),
}
ODD = {"vocab_size": 61, "hidden_size": 72, "bos_token_id": 1, "eos_token_id": 2}  # nothing is a multiple of 16


def write_map(folder, ids, name="vocab_map", dtype="I32", shape=None):
    a = np.array(ids, {"I32": np.int32, "I64": np.int64, "F32": np.float32}[dtype])
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "vocab_map.safetensors", {name: Tensor(dtype, a.shape if shape is None else shape, a.tobytes())})
    return folder


def pick(vocab, n, seed=0):
    """Any n ids, runs of neighbours among them."""
    rng = random.Random(seed)
    ids = list(range(vocab))
    while len(ids) > n:
        at = rng.randrange(len(ids))
        del ids[at:at + min(rng.randrange(1, 4), len(ids) - n)]
    blocks = [ids[i:i + 5] for i in range(0, n, 5)]
    rng.shuffle(blocks)
    return sum(blocks, [])


def initializers(out):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(out / "model.onnx").graph.initializer}


def head_of(out):
    m = onnx.load(out / "model.onnx")
    name = next(n.input[1] for n in m.graph.node if n.name == "/lm_head/MatMul")
    return next(numpy_helper.to_array(t) for t in m.graph.initializer if t.name == name)


@pytest.mark.parametrize("case", CASES)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    name, vocab, options = CASES[case]
    model, vocab, out = f"checkpoints/{name}", f"checkpoints/{vocab}", tmp_path / "out"
    weighbridge.ok("export", model, out, "--reduced-vocab", vocab, *options, cwd=golden)
    assert "0 differences" in compare(golden / "edgellm-0.5" / case, out, "--loose-json", "--execute")
    weighbridge.ok("verify", out, model, cwd=golden)
    weighbridge.ok("verify", out, model, "--reduced-vocab", vocab, cwd=golden)
    assert (out / "vocab_map.safetensors").read_bytes() == (golden / vocab / "vocab_map.safetensors").read_bytes()


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
@pytest.mark.parametrize("options", [[], ["--eagle-base"]])
def test_only_the_head_changes(family, options, weighbridge, tmp_path):  # VOCAB-04
    model = checkpoints.make(tmp_path / "model", family, config={**ODD, "num_hidden_layers": 3}).path
    ids = pick(61, 17)
    vocab, whole, out = write_map(tmp_path / "map", ids), tmp_path / "whole", tmp_path / "out"
    weighbridge.ok("export", model, whole, *options)
    weighbridge.ok("export", model, out, "--reduced-vocab", vocab, *options)
    weighbridge.ok("verify", out, model)
    np.testing.assert_array_equal(head_of(out), head_of(whole)[:, ids])
    a, b = tree(whole), tree(out)
    assert b.pop("vocab_map.safetensors") == (vocab / "vocab_map.safetensors").read_bytes()
    assert a.keys() == b.keys()
    assert {k for k in a if a[k] != b[k]} == {"config.json", "model.onnx", "onnx_model.data"}
    old, new = (json.loads(f["config.json"]) for f in (a, b))
    assert list(new) == [*old, "reduced_vocab_size"] and new == {**old, "reduced_vocab_size": 17}
    old, new = initializers(whole), initializers(out)
    assert sum(old[k].tobytes() != new[k].tobytes() for k in old.keys() & new.keys()) <= 1
    logits = onnx.load(out / "model.onnx", load_external_data=False).graph.output[0]
    assert logits.name == "logits" and logits.type.tensor_type.shape.dim[-1].dim_value == 17


def test_ids_in_the_padding_of_the_vocabulary(weighbridge, tmp_path):  # VOCAB-01: the matrix's rows rule
    model = checkpoints.make(tmp_path / "model").path  # 272 rows, 259 tokens
    ids = [271, 0, 258, 259, 260]
    weighbridge.ok("export", model, tmp_path / "whole")
    weighbridge.ok("export", model, tmp_path / "out", "--reduced-vocab", write_map(tmp_path / "map", ids))
    np.testing.assert_array_equal(head_of(tmp_path / "out"), head_of(tmp_path / "whole")[:, ids])


@pytest.mark.parametrize("n", [1, 5, 272])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_any_size_of_a_map(n, family, weighbridge, tmp_path):
    """A head of 1 or 5 rows of 64 stands in model.onnx itself; one of all rows is a permutation."""
    model = checkpoints.make(tmp_path / "model", family).path
    ids = list(np.random.RandomState(1).permutation(272)[:n])
    vocab = write_map(tmp_path / "map", ids)
    weighbridge.ok("export", model, tmp_path / "whole")
    weighbridge.ok("export", model, tmp_path / "out", "--reduced-vocab", vocab)
    weighbridge.ok("verify", tmp_path / "out", model)
    np.testing.assert_array_equal(head_of(tmp_path / "out"), head_of(tmp_path / "whole")[:, ids])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A head of which 16M hold neither all nor what is kept: tied, 24001 rows of 512."""
    base = tmp_path_factory.mktemp("large")
    config = {"vocab_size": 24001, "hidden_size": 512, "num_hidden_layers": 1}
    model = checkpoints.make(base / "model", "qwen2", config=config, shards=2).path
    return model, write_map(base / "map", pick(24001, 15001))


def test_same_bytes_whatever_the_engine_threads_and_memory(large, weighbridge_release, tmp_path):
    model, vocab = large
    first, paneled = None, set()
    for i, (memory, io, threads) in enumerate([("16M", "uring", 1), ("16M", "pread", 3), ("16M", "fault", 2),
                                               ("64M", "auto", 8), ("512M", "pread", 2), ("512M", "fault", 1)]):
        out = tmp_path / "out"
        weighbridge_release.ok("export", model, out, "--reduced-vocab", vocab, "--memory", memory, "--io", io,
                               "--threads", threads, "--overwrite", "--report", tmp_path / "report.json")
        report = json.loads((tmp_path / "report.json").read_text())
        paneled.add(report["memory"]["paneled"])
        head = next(t for t in report["tensors"] if "source_rows" in t)
        assert head["source_rows"] == 15001 and head["shape"] == [512, 15001]
        assert head["transform"] == "transpose/bf16-f16" and head["source"] == "model.embed_tokens.weight"
        assert report["memory"]["buffers"] <= report["memory"]["budget"]
        files = tree(out)
        first = first or files
        assert files == first
    assert paneled >= {0, 1}
    weighbridge_release.ok("verify", out, model)


def test_only_what_is_kept_is_read(weighbridge, tmp_path):
    sizes = {}
    for family in ("llama", "qwen2"):
        model = checkpoints.make(tmp_path / family, family, config=ODD).path
        whole = weighbridge.ok("plan", model, "--json").json
        part = weighbridge.ok("plan", model, "--json", "--reduced-vocab", write_map(tmp_path / "map", [3, 4, 9] * 5)).json
        sizes[family] = part["bytes"]["read"] - whole["bytes"]["read"]
    assert sizes == {"llama": (15 - 61) * 72 * 2, "qwen2": 15 * 72 * 2}  # tied: the embedding is read whole besides


def test_memory_is_bounded_and_the_head_never_whole(weighbridge_release, tmp_path):
    """64M, a head of 100003 rows of 512 (102 MB), 24001 kept."""
    config = {"vocab_size": 100003, "hidden_size": 512, "num_hidden_layers": 1}
    ckpt = checkpoints.build("llama", config={**config, "vocab_size": 8})
    rows = np.random.RandomState(0).randint(0, 2**14, (100003, 512)).astype(np.uint16)
    ckpt.config["vocab_size"] = 100003
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        ckpt.tensors[name] = Tensor("BF16", rows.shape, rows.tobytes())
    ckpt.write(tmp_path / "model")
    ids = pick(100003, 24001)
    weighbridge_release.ok("export", tmp_path / "model", tmp_path / "out", "--memory", "64M", "--threads", 2,
                           "--reduced-vocab", write_map(tmp_path / "map", ids), "--report", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    if "asan" not in str(weighbridge_release.path):  # which keeps freed memory and shadows the rest
        assert report["totals"]["peak_rss"] < 90 << 20
    weighbridge_release.ok("verify", tmp_path / "out", tmp_path / "model")
    np.testing.assert_array_equal(head_of(tmp_path / "out").T.view(np.uint16)[:50],
                                  (rows[ids[:50]].astype(np.uint32) << 16).view(np.float32).astype(np.float16)
                                  .view(np.uint16))


# ---------------------------------------------------------------------------------------------------- what is refused


def test_maps_that_are_wrong(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", config=ODD).path
    maps = {
        "id": (dict(ids=[5, 3, 61, -1]), "vocab_map[2] is 61, expected a token id from 0 to 60"),
        "below": (dict(ids=[0, -7]), "vocab_map[1] is -7, expected a token id from 0 to 60"),
        "long": (dict(ids=[1] * 62), "vocab_map holds 62 token ids, expected 1 to 61"),
        "empty": (dict(ids=[]), "vocab_map holds 0 token ids"),
        "wide": (dict(ids=[1, 2], dtype="I64"), "vocab_map is stored as I64, expected I32"),
        "float": (dict(ids=[1, 2], dtype="F32"), "vocab_map is stored as F32, expected I32"),
        "matrix": (dict(ids=[1, 2], shape=(2, 1)), "vocab_map has 2 dimensions, expected 1"),
        "scalar": (dict(ids=[1], shape=()), "vocab_map has 0 dimensions, expected 1"),
        "name": (dict(ids=[1, 2], name="map"), "has no tensor vocab_map"),
    }
    for name, (arguments, _) in maps.items():
        write_map(tmp_path / name, **arguments)
    whole = (write_map(tmp_path / "cut", [1, 2, 3]) / "vocab_map.safetensors")
    whole.write_bytes(whole.read_bytes()[:-4])
    (write_map(tmp_path / "noise", [1]) / "vocab_map.safetensors").write_bytes(random.Random(1).randbytes(300))
    (tmp_path / "none").mkdir()
    maps |= {name: (None, "vocab_map.safetensors") for name in ("cut", "noise", "none", "no such directory")}
    before = tree(tmp_path)
    for name, (_, words) in maps.items():
        said = weighbridge.refuses("export", model, tmp_path / "out", "--reduced-vocab", tmp_path / name)
        assert words in said and str(tmp_path / name / "vocab_map.safetensors") in said, (name, said)
        plan = weighbridge("plan", model, "--json", "--reduced-vocab", tmp_path / name)
        assert plan.status == 1 and words in plan.json["refused"], name
    assert tree(tmp_path) == before


def test_ids_that_come_twice_are_a_warning(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", config=ODD).path
    ids = [9, 9, 4, 60, 9, 4]
    r = weighbridge.ok("export", model, tmp_path / "out", "--reduced-vocab", write_map(tmp_path / "map", ids))
    assert "3 of its 6 token ids have come before" in r.stderr
    weighbridge.ok("export", model, tmp_path / "whole")
    np.testing.assert_array_equal(head_of(tmp_path / "out"), head_of(tmp_path / "whole")[:, ids])
    weighbridge.ok("verify", tmp_path / "out", model)


# ---------------------------------------------------------------------------------------------------- verify


@pytest.fixture(scope="module")
def exported(weighbridge, tmp_path_factory):
    base = tmp_path_factory.mktemp("reduced")
    model = checkpoints.make(base / "model", "qwen2", config=ODD).path
    weighbridge.ok("export", model, base / "out", "--reduced-vocab", write_map(base / "map", pick(61, 17)))
    return model, base / "map", base / "out"


def differences(weighbridge, *args):
    r = weighbridge("verify", *args, "--json")
    assert r.status == 1 and r.json["differences"], "not noticed"
    return {d["name"] for d in r.json["differences"]}, " ".join(d["text"] for d in r.json["differences"])


def flip(path, at, bit=0x10):
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_any_byte_of_the_head_and_the_map(weighbridge, exported, tmp_path):
    model, vocab, _ = exported
    out = tmp_path / "out"
    shutil.copytree(exported[2], out)
    m = onnx.load(out / "model.onnx", load_external_data=False)
    head = next(t for t in m.graph.initializer if list(t.dims) == [72, 17])
    place = {x.key: int(x.value) for x in head.external_data if x.key != "location"}
    rng = random.Random(2)
    for at in [0, place["length"] - 1, *(rng.randrange(place["length"]) for _ in range(12))]:
        flip(out / "onnx_model.data", place["offset"] + at)
        assert differences(weighbridge, out, model)[0] == {head.name}
        flip(out / "onnx_model.data", place["offset"] + at)
    size = (out / "vocab_map.safetensors").stat().st_size
    for at in [0, size - 1, size - 4, *(rng.randrange(size) for _ in range(6))]:
        flip(out / "vocab_map.safetensors", at, 1)
        names, text = differences(weighbridge, out, model)
        assert names == {"vocab_map.safetensors"} and "is not the map" in text
        assert "vocab_map.safetensors" in differences(weighbridge, out, model, "--reduced-vocab", vocab)[0]
        flip(out / "vocab_map.safetensors", at, 1)
    (out / "vocab_map.safetensors").unlink()
    assert differences(weighbridge, out, model)[0] == {"vocab_map.safetensors"}
    assert differences(weighbridge, out, model, "--reduced-vocab", vocab)[0] == {"vocab_map.safetensors"}


def test_another_map(weighbridge, exported, tmp_path):
    model, vocab, out = exported
    other = write_map(tmp_path / "other", pick(61, 17, seed=3))
    assert "is not the map" in differences(weighbridge, out, model, "--reduced-vocab", other)[1]
    weighbridge.ok("export", model, tmp_path / "whole")
    assert "is not the map" in differences(weighbridge, tmp_path / "whole", model, "--reduced-vocab", vocab)[1]


def test_drop_in_option(weighbridge, exported, tmp_path):
    model, vocab, out = exported
    name = tmp_path / "tensorrt-edgellm-export-llm"
    name.symlink_to(weighbridge.path)
    type(weighbridge)(name).ok("--model_dir", model, "--output_dir", tmp_path / "o", "--reduced_vocab_dir", vocab,
                               "--device", "cpu")
    assert tree(tmp_path / "o") == tree(out)
