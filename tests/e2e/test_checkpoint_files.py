"""Bad, odd and unusual weight files through the program (cases ST-01 to ST-19, CFG-11): refused in one sentence that
says what to do, with nothing written, or converted to the same bytes as the plain file."""
import json
import os
import shutil

import checkpoints
import pytest
from checkpoints import Tensor, write_raw_safetensors
from conftest import exported, tree

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 4988025760\n"


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(weighbridge, model, *words, inspected=True):
    """By every command that reads a model, and nothing is left behind."""
    before = tree(model.parent)
    said = weighbridge.refuses("export", model, model.parent / "out")
    assert not inspected or weighbridge.refuses("inspect", model) == said
    assert weighbridge("plan", model).status == 1
    assert all(word in said for word in words), said
    assert tree(model.parent) == before
    return said


@pytest.fixture
def model(tmp_path):
    return checkpoints.make(tmp_path / "model").path


@pytest.fixture
def raw(tmp_path):
    """A model directory whose model.safetensors has this header and so many bytes of data."""
    def write(header, data_bytes):
        ckpt = checkpoints.make(tmp_path / "model")
        text = header if isinstance(header, str) else json.dumps(header)
        write_raw_safetensors(ckpt.path / "model.safetensors", text, bytes(data_bytes))
        return ckpt.path
    return write


@pytest.mark.parametrize("second", ['"a"', '"\\u0061"'])
def test_duplicate_names(second, raw, weighbridge):  # ST-01
    e = [json.dumps(entry("F16", [2], i, i + 4)) for i in (0, 4)]
    refused(weighbridge, raw(f'{{"a":{e[0]},{second}:{e[1]}}}', 8), "model.safetensors", f"key {second} is there twice")


def test_holes(raw, weighbridge):  # ST-03
    refused(weighbridge, raw({"a": entry("F16", [4], 0, 8), "b": entry("F16", [4], 16, 24)}, 24),
            "hole of 8 bytes at offset 8 of the data", 'before tensor "b"')


def test_trailing_bytes(model, weighbridge):  # ST-03
    with open(model / "model.safetensors", "ab") as f:
        f.write(b"12345")
    refused(weighbridge, model, "model.safetensors: 5 bytes behind the last tensor, at offset")


@pytest.mark.parametrize("length", range(8))
def test_headers_of_any_length(length, weighbridge, tmp_path):  # ST-07
    ckpt = checkpoints.build("llama")
    one = exported(weighbridge, ckpt.write(tmp_path / "plain").path, tmp_path / "a")
    header, data = {"odd": entry("U8", [3], 0, 3)}, b"odd"
    for name, t in ckpt.tensors.items():
        header[name] = entry(t.dtype, list(t.shape), len(data), len(data) + len(t.data))
        data += t.data
    text = json.dumps(header)
    text += " " * ((length - len(text)) % 8)
    model = ckpt.write(tmp_path / "odd").path
    write_raw_safetensors(model / "model.safetensors", text, data)
    assert exported(weighbridge, model, tmp_path / "b") == one


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "X99"])
def test_unknown_dtypes_that_nobody_needs(dtype, weighbridge, tmp_path):  # ST-09
    ckpt = checkpoints.build("llama")
    one = exported(weighbridge, ckpt.write(tmp_path / "plain").path, tmp_path / "a")
    ckpt.tensors["unused.scale"] = Tensor(dtype, (3, 5), b"1234567")
    assert exported(weighbridge, ckpt.write(tmp_path / "model").path, tmp_path / "b") == one


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4", "X99"])
def test_unknown_dtypes_that_are_needed(dtype, weighbridge, tmp_path):  # ST-09
    ckpt, name = checkpoints.build("llama"), "model.layers.1.self_attn.q_proj.weight"
    ckpt.tensors[name] = Tensor(dtype, ckpt.tensors[name].shape, ckpt.tensors[name].data)
    said = weighbridge.refuses("export", ckpt.write(tmp_path / "model").path, tmp_path / "out")
    assert name in said and dtype in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["BF16", "X99"])
def test_ranges_are_checked_whatever_the_dtype(dtype, raw, weighbridge):  # ST-09
    refused(weighbridge, raw({"a": entry(dtype, [4], 0, 8)}, 7), "model.safetensors: truncated: ")


def cut(path, n):
    os.truncate(path, n if n >= 0 else path.stat().st_size + n)


def test_all_truncated_shards_in_one_run(weighbridge, tmp_path):  # ST-11
    model = checkpoints.make(tmp_path / "model", shards=9).path
    index = json.loads((model / "model.safetensors.index.json").read_text())
    shard = [model / file for file in sorted(set(index["weight_map"].values()))]  # that hold tensors
    whole = [s.stat().st_size for s in shard]
    data = 8 + int.from_bytes(shard[2].read_bytes()[:8], "little")
    for i, n in (0, 0), (1, 4), (2, data), (4, -1):
        cut(shard[i], n)
    shard[5].unlink()
    said = refused(weighbridge, model, "5 faults",
                   f"{shard[0].name}: truncated: 0 of at least 10 bytes",
                   f"{shard[1].name}: truncated: 4 of at least 10 bytes",
                   f"{shard[2].name}: truncated: {data} of {whole[2]} bytes",
                   f"{shard[4].name}: truncated: {whole[4] - 1} of {whole[4]} bytes",
                   f"{shard[5].name}: is not there")
    assert shard[3].name not in said


def test_at_most_twenty_lines(weighbridge, tmp_path):  # ST-11
    ckpt = checkpoints.make(tmp_path / "model")
    (ckpt.path / "model.safetensors").unlink()
    where = {name: f"{i:02d}.safetensors" for i, name in enumerate([f"t{n}" for n in range(23)])}
    for file in where.values():
        (ckpt.path / file).write_bytes(b"")
    (ckpt.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    said = refused(weighbridge, ckpt.path, "23 faults", "and 3 more")
    assert said.count("truncated: 0 of") == 20


def test_an_index_of_one_file(weighbridge, tmp_path):  # ST-15
    ckpt = checkpoints.build("qwen3")
    one = exported(weighbridge, ckpt.write(tmp_path / "plain").path, tmp_path / "a")
    model = ckpt.write(tmp_path / "model").path
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(ckpt.tensors, "model.safetensors")}))
    assert exported(weighbridge, model, tmp_path / "b") == one


@pytest.mark.parametrize("file, words", [
    (None, ["holds no weights", "model.safetensors"]),
    ("model.gguf", ["model.gguf (a GGUF file)", "give the checkpoint that it was made from"]),
    ("consolidated.00.pth", ["consolidated.00.pth (a PyTorch pickle)", "save"]),
    ("model.safetensors.incomplete", ["(an unfinished download)"]),
])
def test_no_weights_that_we_can_read(file, words, model, weighbridge):  # ST-19
    (model / "model.safetensors").unlink()
    if file:
        (model / file).write_bytes(b"?")
    refused(weighbridge, model, *words)


def test_an_adapter_is_no_model(weighbridge, tmp_path):  # CFG-11
    model = tmp_path / "adapter"
    model.mkdir()
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B", "r": 8}')
    checkpoints.write_safetensors(model / "adapter_model.safetensors", {"x": Tensor("U8", (1,), b"1")})
    refused(weighbridge, model, "this is a LoRA adapter, not a model", '"Qwen/Qwen3-0.6B"', "merged",
            inspected=False)  # that says what it is


def test_a_hub_cache_of_links(weighbridge, tmp_path):
    plain = checkpoints.make(tmp_path / "plain", shards=2).path
    one = exported(weighbridge, plain, tmp_path / "a")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "main", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(plain.iterdir())):
        shutil.copy(file, blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert exported(weighbridge, snapshot, tmp_path / "b") == one
    (snapshot / "model-00002-of-00002.safetensors").resolve().unlink()
    said = weighbridge.refuses("export", snapshot, tmp_path / "c")
    assert "model-00002-of-00002.safetensors: is a link to a file that is not there" in said


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_git_lfs_pointers(file, weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", shards=2).path
    (model / file).write_text(LFS)
    refused(weighbridge, model, f"{file}: is a Git LFS pointer, not the file of 4988025760 bytes", "git lfs pull")


def test_one_file_of_another_name(weighbridge, tmp_path):
    ckpt = checkpoints.make(tmp_path / "model")
    one = exported(weighbridge, ckpt.path, tmp_path / "a")
    (ckpt.path / "model.safetensors").rename(ckpt.path / "gptq_model-4bit-128g.safetensors")
    assert exported(weighbridge, ckpt.path, tmp_path / "b") == one
    shutil.copy(ckpt.path / "gptq_model-4bit-128g.safetensors", ckpt.path / "copy.safetensors")
    refused(weighbridge, ckpt.path, "has 2 weight files and no model.safetensors.index.json",
            "copy.safetensors, gptq_model-4bit-128g.safetensors")


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors"])
def test_an_index_that_leads_out(file, weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", shards=2).path
    checkpoints.write_safetensors(tmp_path / "secret.safetensors", {"x": Tensor("U8", (1,), b"1")})
    index = json.loads((model / "model.safetensors.index.json").read_text())
    index["weight_map"]["x"] = file
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(weighbridge, model, f'has "{file}" for tensor "x", expected a file inside the directory')


def test_an_index_that_is_wrong(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", shards=2).path
    index = json.loads((model / "model.safetensors.index.json").read_text())
    name, file = next(iter(index["weight_map"].items()))
    index["weight_map"][name] = other = "model-00002-of-00002.safetensors"
    assert file != other
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(weighbridge, model, f'puts tensor "{name}" into {other}, which does not hold it; it is in {file}')


def test_many_shards_need_few_descriptors(weighbridge, tmp_path):
    """The export may keep a few open; opening must not need one for each."""
    ckpt = checkpoints.build("llama")
    for i in range(191):
        ckpt.tensors[f"unused.{i}"] = Tensor("U8", (1,), b"x")
    model = ckpt.write(tmp_path / "model").path
    (model / "model.safetensors").unlink()
    names, where = list(ckpt.tensors), {}
    for i in range(191):
        part = {n: ckpt.tensors[n] for n in names[i::191]}
        file = f"model-{i + 1:05d}-of-00191.safetensors"
        checkpoints.write_safetensors(model / file, part)
        where.update(dict.fromkeys(part, file))
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    said = weighbridge.ok("inspect", model, "--json", prefix=["prlimit", "--nofile=64"]).json
    assert len(said["tensors"]) == len(names)
