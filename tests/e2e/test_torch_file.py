"""pytorch_model.bin: read in place like safetensors, and nothing in it runs (ST-19)."""
import collections
import json
import pickle
import shutil
import zipfile

import checkpoints
import pytest
import torch_file
from conftest import exported, tree

BINS = ["llama_eagle3_bin", "qwen2_eagle3_bin"]  # written by PyTorch


@pytest.mark.parametrize("name", BINS)
def test_the_tests_own_writer_writes_what_torch_writes(name, golden):
    path = golden / "checkpoints" / name / "pytorch_model.bin"
    items = {key: item for key, (item, _) in torch_file.read(path).items()}
    assert torch_file.pickled(items) == zipfile.ZipFile(path).read("pytorch_model/data.pkl")


def test_the_tests_own_writer_writes_state_dicts_as_python_does():
    d = collections.OrderedDict(a=1, b=70000)
    d._metadata = collections.OrderedDict(torch_file.METADATA)
    theirs, ours = pickle.dumps(d, 2), torch_file.pickled(d, state_dict=True)
    # Python's pickler remembers that "version" is one string; torch's own files differ there too
    assert pickle.loads(ours) == pickle.loads(theirs) and vars(pickle.loads(ours)) == vars(d)
    assert ours[:ours.index(b"version")] == theirs[:theirs.index(b"version")]


@pytest.mark.parametrize("name", BINS)
def test_inspect_lists_what_torch_wrote(name, weighbridge, golden):
    model = golden / "checkpoints" / name
    said = weighbridge("inspect", model, "--json").json
    file, expected = (model / "pytorch_model.bin").read_bytes(), torch_file.read(model / "pytorch_model.bin")
    assert said["container"] == "PyTorch zip"
    assert [t["name"] for t in said["tensors"]] == sorted(expected)
    for t in said["tensors"]:
        want = expected[t["name"]][1]
        assert (t["dtype"], tuple(t["shape"]), t["file"]) == (want.dtype, want.shape, "pytorch_model.bin")
        assert file[t["offset"]:t["offset"] + t["bytes"]] == want.data, t["name"]
    text = weighbridge("inspect", model).stdout
    assert "PyTorch zip" in text and all(key in text for key in expected)


def as_bin(ckpt, path, **kwargs):
    """The checkpoint with pytorch_model.bin in place of model.safetensors."""
    ckpt.write(path)
    (path / "model.safetensors").unlink()
    torch_file.write(path / "pytorch_model.bin", ckpt.tensors, **kwargs)
    return path


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_model_exports_to_the_same_bytes(dtype, weighbridge, tmp_path):
    ckpt = checkpoints.build("qwen2", dtype=dtype)
    ckpt.write(tmp_path / "safetensors")
    assert exported(weighbridge, tmp_path / "safetensors", tmp_path / "a") == exported(
        weighbridge, as_bin(ckpt, tmp_path / "bin", state_dict=True, parameter=True), tmp_path / "b")


def test_tied_weights_may_share_a_storage(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama")
    ckpt.tensors["lm_head.weight"] = ckpt.tensors["model.embed_tokens.weight"]
    ckpt.write(tmp_path / "safetensors")
    model = as_bin(ckpt, tmp_path / "bin")
    items, storages = torch_file.describe(ckpt.tensors)
    del storages[items["lm_head.weight"].key]
    items["lm_head.weight"] = items["model.embed_tokens.weight"]
    torch_file.write_zip(model / "pytorch_model.bin", torch_file.entries(torch_file.pickled(items), storages))
    one = exported(weighbridge, tmp_path / "safetensors", tmp_path / "a")
    assert exported(weighbridge, model, tmp_path / "b") == one


def test_shards_with_an_index(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama")
    model, names = as_bin(ckpt, tmp_path / "bin"), list(ckpt.tensors)
    one = exported(weighbridge, model, tmp_path / "a")
    (model / "pytorch_model.bin").unlink()
    where = {}
    for i, part in enumerate([names[:5], names[5:]]):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch_file.write(model / file, {name: ckpt.tensors[name] for name in part})
        where.update(dict.fromkeys(part, file))
    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert exported(weighbridge, model, tmp_path / "b") == one
    (model / "pytorch_model-00002-of-00002.bin").write_bytes(b"")
    said = weighbridge.refuses("export", model, tmp_path / "c")
    assert "pytorch_model-00002-of-00002.bin: truncated" in said


def test_safetensors_win(weighbridge, tmp_path):
    ckpt = checkpoints.make(tmp_path / "model")
    (ckpt.path / "pytorch_model.bin").write_bytes(b"anything")
    assert weighbridge.ok("inspect", ckpt.path, "--json").json["container"] == "safetensors"


def spoil_program(model, ckpt):
    """os.system in place of a tensor: Python's pickle module would run it."""
    mark = model.parent / "ran"
    items, storages = torch_file.describe(ckpt.tensors)
    text = f"touch {mark}".encode()
    items["w"] = b"cposix\nsystem\nX" + len(text).to_bytes(4, "little") + text + b"\x85R"
    torch_file.write_zip(model / "pytorch_model.bin", torch_file.entries(torch_file.pickled(items), storages))


def spoil_with(change):
    def spoil(model, ckpt):
        items, storages = torch_file.describe(ckpt.tensors)
        kwargs = change(items, storages) or {}
        zip_kwargs = {"compressed": kwargs.pop("compressed")} if "compressed" in kwargs else {}
        torch_file.write_zip(model / "pytorch_model.bin",
                             torch_file.entries(torch_file.pickled(items), storages, **kwargs), **zip_kwargs)
    return spoil


def transposed(items, storages):
    item = items["lm_head.weight"]
    item.shape, item.strides = item.shape[::-1], (1, item.shape[1])


def cut(n):
    def spoil(model, ckpt):
        with open(model / "pytorch_model.bin", "r+b") as f:
            f.truncate(n if n >= 0 else f.seek(0, 2) + n)
    return spoil


def legacy(model, ckpt):
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    (model / "pytorch_model.bin").write_bytes(magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\0.")


@pytest.mark.parametrize("spoil, words", [
    (spoil_program, ['"posix.system"', "can run any program", "safetensors.torch.save_file"]),
    (legacy, ["before PyTorch 1.6", "safetensors.torch.save_file"]),
    (spoil_with(lambda items, storages: {"compressed": ["pytorch_model/data/3"]}),
     ['"pytorch_model/data/3" is compressed', "zip -0 -r"]),
    (spoil_with(lambda items, storages: {"byteorder": b"big"}), ['byte order is "big"']),
    (spoil_with(transposed), ['tensor "lm_head.weight": has strides [1, 64]', ".contiguous()"]),
    (spoil_with(lambda items, storages: storages.pop("0") and None),
     ['"model.embed_tokens.weight"', 'storage "0" is not there']),
    (spoil_with(lambda items, storages: items.update(extra={"state_dict": 1})), ['has a dict under "extra"']),
    (cut(0), ["truncated: it is empty"]),
    (cut(3), ["truncated"]),
    (cut(40000), ["truncated: its 40000 bytes", "download it again"]),
    (cut(-1), ["truncated"]),
])
def test_refused(spoil, words, weighbridge, tmp_path):
    ckpt = checkpoints.build("llama")
    model = as_bin(ckpt, tmp_path / "model")
    spoil(model, ckpt)
    before = tree(tmp_path)
    said = weighbridge.refuses("export", model, tmp_path / "out")
    assert str(model / "pytorch_model.bin") in said and all(word in said for word in words), said
    assert tree(tmp_path) == before, "something was written, or the program in it ran"


def test_other_pickles_are_named_with_the_remedy(weighbridge, tmp_path):
    ckpt = checkpoints.make(tmp_path / "model")
    shutil.move(ckpt.path / "model.safetensors", ckpt.path / "model.pt")
    said = weighbridge.refuses("export", ckpt.path, tmp_path / "out")
    assert "model.pt (a PyTorch pickle)" in said and "safetensors" in said
