"""What is written, and when not: determinism, places that are refused, replacing, losses, ONNX rules."""
import itertools
import json
import os
import shutil
import struct
import subprocess

import checkpoints
import numpy as np
import onnx
import pytest
import xxhash
from checkpoints import Tensor, tensor
from conftest import tree


@pytest.fixture()
def model(tmp_path):
    return checkpoints.make(tmp_path / "model", "qwen3", shards=2).path


# ---------------------------------------------------------------------------------------------------- same bytes


def test_same_bytes_whatever_the_engine_threads_and_memory(weighbridge, tmp_path):
    config = {"vocab_size": 3001, "hidden_size": 160, "intermediate_size": 331, "num_hidden_layers": 3}
    for tied in (True, False):
        m = checkpoints.make(tmp_path / f"m{tied}", "llama", dtype="F32", shards=3, config={**config, "tie_word_embeddings": tied}).path
        seen = set()
        for i, (io, threads, memory) in enumerate(itertools.product(["uring", "pread", "auto"], [1, 2, 8], ["64M", "512M"])):
            out = tmp_path / "out"
            weighbridge.ok("export", m, out, "--overwrite", "--io", io, "--threads", threads, "--memory", memory)
            seen.add(tuple(sorted((n, xxhash.xxh3_64_hexdigest(b)) for n, b in tree(out).items())))
        assert len(seen) == 1


def test_same_bytes_with_every_instruction_set(weighbridge, tmp_path):
    m = checkpoints.make(tmp_path / "m", "llama", dtype="F32", config={"hidden_size": 136, "intermediate_size": 171}).path
    seen = []
    for isa in ("scalar", "avx2", "avx512", "neon"):
        weighbridge.ok("export", m, tmp_path / "out", "--overwrite", env={"WEIGHBRIDGE_ISA": isa})
        seen.append(tree(tmp_path / "out"))
    assert all(s == seen[0] for s in seen)


def test_short_transfers_give_the_same_bytes(weighbridge, model, tmp_path):
    weighbridge.ok("export", model, tmp_path / "a")
    weighbridge.ok("export", model, tmp_path / "b", "--io", "fault", env={"WEIGHBRIDGE_FAULT": "at_most=1000"})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_io_fault_leaves_nothing(weighbridge, model, tmp_path):
    failed = 0
    for n in range(1, 400, 7):
        r = weighbridge("export", model, tmp_path / "out", "--io", "fault", "--overwrite",
                        env={"WEIGHBRIDGE_FAULT": f"at_most=65536,fail={n},error=5"})
        if r.status == 0:
            break
        failed += 1
        assert "Input/output error" in r.stderr
        assert os.listdir(tmp_path) == ["model"] or "--resume" in r.stderr
    assert failed > 3 and r.status == 0


# ---------------------------------------------------------------------------------------------------- places


def untouched(weighbridge, tmp_path, words, *args):
    before = tree(tmp_path)
    said = weighbridge.refuses("export", *args)
    assert all(w in said for w in words), said
    assert tree(tmp_path) == before


def test_out_in_or_around_the_model(weighbridge, model, tmp_path):
    for out in (model, model / "sub", f"{model}/", tmp_path, f"{model}/../model", f"{tmp_path}/./model/x"):
        untouched(weighbridge, tmp_path, ["model"], model, out, "--overwrite")


def test_out_that_is_a_link(weighbridge, model, tmp_path):  # OPS-05
    (tmp_path / "link").symlink_to(model)
    untouched(weighbridge, tmp_path, ["link"], model, tmp_path / "link", "--overwrite")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    untouched(weighbridge, tmp_path, ["symbolic link"], model, tmp_path / "dangling")


def test_model_that_is_a_directory_of_links(weighbridge, model, tmp_path):  # OPS-05
    weighbridge.ok("export", model, tmp_path / "a", "--no-chat-template")
    cache = tmp_path / "cache"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "main").mkdir(parents=True)
    for i, f in enumerate(sorted(model.iterdir())):
        os.rename(f, cache / "blobs" / f"sha{i}")
        (cache / "snapshots" / "main" / f.name).symlink_to(f"../../blobs/sha{i}")
    weighbridge.ok("export", cache / "snapshots" / "main", tmp_path / "b", "--no-chat-template")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not any(p.is_symlink() for p in (tmp_path / "b").iterdir())


def test_out_that_exists(weighbridge, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    untouched(weighbridge, tmp_path, ["not empty", "not an export"], model, out)
    untouched(weighbridge, tmp_path, ["not an export"], model, out, "--overwrite")
    (tmp_path / "file").write_text("x")
    untouched(weighbridge, tmp_path, ["not a directory"], model, tmp_path / "file")
    untouched(weighbridge, tmp_path, ["parent"], model, tmp_path / "no" / "such" / "out")


def test_empty_out_is_used(weighbridge, model, tmp_path):
    (tmp_path / "out").mkdir()
    weighbridge.ok("export", model, tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").is_file() and not (tmp_path / "out.partial").exists()


def test_overwrite_replaces_an_export_whole(weighbridge, model, tmp_path):
    out = tmp_path / "out"
    weighbridge.ok("export", model, out)
    first = tree(out)
    (out / "lora_model.onnx").write_bytes(b"old")
    untouched(weighbridge, tmp_path, ["holds an export", "--overwrite"], model, out)
    weighbridge.ok("export", model, out, "--overwrite")
    assert tree(out) == first and sorted(os.listdir(tmp_path)) == ["model", "out"]


def test_failed_overwrite_keeps_the_old_export(weighbridge, model, tmp_path):  # OPS-07
    out = tmp_path / "out"
    weighbridge.ok("export", model, out)
    before = tree(tmp_path)
    r = weighbridge("export", model, out, "--overwrite", "--io", "fault", env={"WEIGHBRIDGE_FAULT": "fail=9,error=28"})
    assert r.status == 1 and "No space left" in r.stderr
    shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)  # for --resume, where something was finished
    assert tree(tmp_path) == before


def test_leftovers_of_an_earlier_run(weighbridge, model, tmp_path):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "something").write_text("of somebody else")
    untouched(weighbridge, tmp_path, ["out.partial", "not left by an earlier run"], model, tmp_path / "out")
    (partial / ".weighbridge-partial").write_text("")
    weighbridge.ok("export", model, tmp_path / "out")
    assert not partial.exists()


def test_no_room(weighbridge, tmp_path):  # OPS-07
    """Checked from the plan: a sparse checkpoint of 1 TB costs nothing to make and is refused at once."""
    try:
        checkpoints.write_sparse(tmp_path / "model", {
            "vocab_size": 2**23, "hidden_size": 65536, "num_hidden_layers": 1, "intermediate_size": 8, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True})
    except OSError:
        pytest.skip("this file system holds no sparse file of that size")
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out")
    assert "needs" in said and "free" in said and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- losses


LOSSES = [65504.0, 65519.99, 65520.0, 1e38, 5.9e-8, 2.9e-8, -0.0, float("inf"), float("nan"), -1e5, 1e-40]


def test_losses_are_counted_and_strict_refuses(weighbridge, tmp_path):  # NUM-01
    ckpt = checkpoints.build("llama", dtype="F32")
    name = "model.layers.1.mlp.up_proj.weight"
    values = np.zeros(96 * 64, np.float32)
    values[5:5 + len(LOSSES)] = LOSSES
    ckpt.tensors[name] = Tensor("F32", (96, 64), values.tobytes())
    ckpt.write(tmp_path / "model")
    r = weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--report", tmp_path / "report.json")
    t = next(t for t in json.loads((tmp_path / "report.json").read_text())["tensors"] if t["name"] == name)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
        assert t["overflow"] == int((np.isinf(half) & np.isfinite(values)).sum()) == 3
        assert t["flushed"] == int(((half == 0) & (values != 0)).sum()) == 2
    assert t["nan"] == 1 and t["worst"] == float(np.float32(1e38))
    assert name in r.stderr and "infinite" in r.stderr
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "strict", "--strict")
    assert name in said and "infinite" in said and "zero" in said and "NaN" in said
    assert sorted(os.listdir(tmp_path)) == ["model", "out", "report.json", "strict.partial"]  # for --resume without --strict


def test_all_bf16_values(weighbridge, tmp_path):
    """The 65,536 patterns through the whole program, against numpy."""
    ckpt = checkpoints.build("llama", config={"vocab_size": 1024})
    bits = np.arange(65536, dtype="<u2")
    ckpt.tensors["model.embed_tokens.weight"] = Tensor("BF16", (1024, 64), bits.tobytes())
    ckpt.write(tmp_path / "model")
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out")
    data = (tmp_path / "out" / "embedding.safetensors").read_bytes()
    got = np.frombuffer(data[8 + struct.unpack("<Q", data[:8])[0]:], "<f2")
    with np.errstate(over="ignore"):
        want = (bits.astype("<u4") << 16).view("<f4").astype("<f2")
    nan = np.isnan(want)
    assert (got.view("<u2")[~nan] == want.view("<u2")[~nan]).all() and np.isnan(got[nan]).all()


# ---------------------------------------------------------------------------------------------------- the files


def test_report_hashes_are_those_of_the_bytes(weighbridge, tmp_path):
    m = checkpoints.make(tmp_path / "m", "llama", config={"vocab_size": 70001, "hidden_size": 128, "num_hidden_layers": 1}).path
    weighbridge.ok("export", m, tmp_path / "out", "--report", tmp_path / "r.json", "--memory", "16M")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["memory"]["buffers"] <= 16 << 20
    g = onnx.load(tmp_path / "out" / "model.onnx").graph
    inline = {t.name: t.raw_data for t in onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph.initializer}
    whole = {t.name: t.raw_data for t in g.initializer}
    seen = 0
    for t in report["tensors"]:
        if t["file"] == "embedding.safetensors":
            raw = (tmp_path / "out" / t["file"]).read_bytes()[t["offset"]:t["offset"] + t["bytes"]]
        else:
            raw = whole[t["name"]]
            assert (t["file"] == "model.onnx") == bool(inline[t["name"]])
        blocks = b"".join(struct.pack("<Q", xxhash.xxh3_64_intdigest(raw[i:i + 4096])) for i in range(0, len(raw), 4096))
        assert xxhash.xxh3_64_hexdigest(blocks) == t["xxh3_4k"], t["name"]
        seen += 1
    assert seen == len(whole) + 1


def test_onnx_rules(weighbridge, model, tmp_path):  # ONNX-02, ONNX-03
    out = tmp_path / "out"
    weighbridge.ok("export", model, out)
    m = onnx.load(out / "model.onnx", load_external_data=False)
    end = 0
    for t in m.graph.initializer:
        e = {x.key: x.value for x in t.external_data}
        if e:
            assert e["location"] == "onnx_model.data" and int(e["offset"]) % 4096 == 0 and int(e["offset"]) >= end
            end = int(e["offset"]) + int(e["length"])
    data = out / "onnx_model.data"
    assert data.stat().st_size == end and data.stat().st_nlink == 1 and not data.is_symlink()
    onnx.checker.check_model(str(out / "model.onnx"))
    meta = {p.key: p.value for p in m.metadata_props}
    assert meta["weighbridge.target"] == "edgellm-0.5" and meta["weighbridge.version"]
    assert not any(str(tmp_path) in v for v in meta.values())


def test_exit_and_words_whenever_nothing_was_written(weighbridge, tmp_path):  # ONNX-07
    for args in ([tmp_path / "none", tmp_path / "out"], [tmp_path, tmp_path / "x" / "out"]):
        r = weighbridge("export", *args)
        assert r.status == 1 and r.stderr.strip() and not r.stdout.strip()


def test_hundreds_of_shards_with_few_files(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama", config={"num_hidden_layers": 30})
    a = ckpt.write(tmp_path / "a").path
    b = ckpt.write(tmp_path / "b", shards=len(ckpt.tensors)).path
    assert len(list(b.glob("*.safetensors"))) > 250
    weighbridge.ok("export", a, tmp_path / "out-a", "--no-chat-template")
    for memory in ("64M", "512M"):
        weighbridge.ok("export", b, tmp_path / "out-b", "--no-chat-template", "--overwrite", "--memory", memory,
                       prefix=["prlimit", "--nofile=64"])
        assert tree(tmp_path / "out-a") == tree(tmp_path / "out-b")


def test_odd_offsets(weighbridge, tmp_path):  # ST-07, ST-08
    ckpt = checkpoints.build("llama", dtype="F32")
    a = ckpt.write(tmp_path / "a").path
    weighbridge.ok("export", a, tmp_path / "out-a", "--no-chat-template")
    for odd in (1, 2, 3, 5):
        tensors = {"a.odd": Tensor("U8", (odd,), bytes(odd)), **ckpt.tensors}
        header, at, data = {}, 0, b""
        for name, t in tensors.items():
            header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + len(t.data)]}
            at, data = at + len(t.data), data + t.data
        b = ckpt.write(tmp_path / f"b{odd}").path
        for pad in (0, 1):
            checkpoints.write_raw_safetensors(b / "model.safetensors", json.dumps(header) + " " * pad, data)
            weighbridge.ok("export", b, tmp_path / "out-b", "--no-chat-template", "--overwrite")
            assert tree(tmp_path / "out-a") == tree(tmp_path / "out-b")


def test_odd_offsets_cost_no_memory(weighbridge_release, tmp_path):
    """ST-08: no tensor is copied whole to align it; the largest here has 131 MB, the buffers 16."""
    model = checkpoints.write_sparse(tmp_path / "model", {"vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 1,
                                                          "intermediate_size": 64}, first=[1])
    weighbridge_release.ok("export", model, tmp_path / "out", "--memory", "16M", "--report", tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["bytes"]["source"] > 260e6 and told["memory"]["buffers"] <= 16 << 20
    assert told["totals"]["peak_rss"] < 100e6


def test_valgrind_finds_nothing(weighbridge_release, model, tmp_path):
    if subprocess.run(["which", "valgrind"], capture_output=True).returncode:
        pytest.fail("valgrind is not installed: scripts/setup.sh --tests does it")
    weighbridge_release.ok("export", model, tmp_path / "a", "--no-chat-template")
    weighbridge_release.ok("export", model, tmp_path / "b", "--no-chat-template", "--io", "pread",
                           prefix=["valgrind", "-q", "--error-exitcode=98", "--leak-check=full"], env={"WEIGHBRIDGE_ISA": "avx2"})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
