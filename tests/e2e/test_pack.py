"""pack, unpack and export --pack: the same tree comes back, the same bytes whatever the threads; damage is named, what is
hostile is refused; FILE.wbz and OUT appear whole or not at all.  docs/archive.md is read here by other code."""
import fcntl
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import time

import checkpoints
import numpy as np
import pytest
import xxhash
from conftest import SANITIZER, tree

CHUNK = 8 << 20
SKIPPED = 0x184D2A57
HEAD = struct.pack("<II12sIII", SKIPPED, 24, b"weighbridge", 1, CHUNK, 0)


# ---------------------------------------------------------------------------------------------------- the format, anew


def zstd(data, *options):
    options = options or [f"--stream-size={len(data)}"]  # a frame that says how much it holds
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


def entry(name, size=0, hash_=None, mode=0o644, kind=1):
    name = name.encode() if isinstance(name, str) else name
    hash_ = (xxhash.xxh3_64_intdigest(b"") if kind == 1 else 0) if hash_ is None else hash_
    return struct.pack("<HHIQQ", kind, mode, len(name), size, hash_) + name


def chunk(raw, frame, planes=1):
    return struct.pack("<IIIQ", raw, len(frame), planes, xxhash.xxh3_64_intdigest(frame))


def archive(entries, frames=(), head=HEAD, counts=None, at=None):
    """`frames`: (raw bytes, frame, planes)"""
    body = head + b"".join(frame for _, frame, _ in frames)
    index = struct.pack("<QQ", *(counts or (len(entries), len(frames)))) + b"".join(entries)
    index += b"".join(chunk(*f) for f in frames)
    foot = struct.pack("<IIQQQ8s", SKIPPED, 32, len(body) if at is None else at, len(index),
                       xxhash.xxh3_64_intdigest(index), b"wbz end\n")
    return body + struct.pack("<II", SKIPPED, len(index)) + index + foot


def of(data, name="f"):
    """An archive of one file in one chunk: entries and frames."""
    return [entry(name, len(data), xxhash.xxh3_64_intdigest(data))], [(len(data), zstd(data), 1)]


def read_archive(path):
    """-> {name: (mode, contents or None)}, planes of the chunks"""
    data = path.read_bytes()
    assert data.startswith(HEAD)
    magic, size, at, n, hash_, end = struct.unpack("<IIQQQ8s", data[-40:])
    assert (magic, size, end) == (SKIPPED, 32, b"wbz end\n") and at + 8 + n + 40 == len(data)
    assert struct.unpack("<II", data[at:at + 8]) == (SKIPPED, n)
    index = data[at + 8:-40]
    assert xxhash.xxh3_64_intdigest(index) == hash_
    entries_n, chunks_n = struct.unpack("<QQ", index[:16])
    entries, p, found, planes = [], 16, {}, []
    for _ in range(entries_n):
        kind, mode, n, size, hash_ = struct.unpack("<HHIQQ", index[p:p + 24])
        entries.append((index[p + 24:p + 24 + n].decode(), kind, mode, size, hash_))
        p += 24 + n
    chunks = [struct.unpack("<IIIQ", index[p + 20 * i:p + 20 * i + 20]) for i in range(chunks_n)]
    assert p + 20 * chunks_n == len(index)
    at = 32
    for name, kind, mode, size, hash_ in entries:
        contents = b""
        while len(contents) < size:
            raw, frame, split, sum_ = chunks[len(planes)]
            assert xxhash.xxh3_64_intdigest(data[at:at + frame]) == sum_ and raw <= CHUNK
            piece = zstd(data[at:at + frame], "-d")
            if split == 2:
                half = raw // 2
                joined = np.frombuffer(piece[:2 * half], np.uint8).reshape(2, half).T.tobytes()
                piece = joined + piece[2 * half:]
            assert len(piece) == raw
            contents += piece
            planes.append(split)
            at += frame
        found[name] = (mode, None if kind == 2 else contents)
        assert len(contents) == size and (kind == 2 or xxhash.xxh3_64_intdigest(contents) == hash_)
    assert len(planes) == chunks_n
    return found, planes


# ---------------------------------------------------------------------------------------------------- round trips


def modes(path):
    return {str(p.relative_to(path)): stat.S_IMODE(p.stat().st_mode) for p in path.rglob("*")}


@pytest.fixture(scope="module")
def exported(weighbridge, tmp_path_factory):
    d = tmp_path_factory.mktemp("pack")
    model = checkpoints.make(d / "model", "llama", config={"hidden_size": 512, "intermediate_size": 1024}).path
    weighbridge.ok("export", model, d / "out")
    return d / "out"


@pytest.fixture(scope="module")
def packed(weighbridge, exported):
    weighbridge.ok("pack", exported, exported.parent / "out.wbz")
    return exported.parent / "out.wbz"


def test_export_comes_back(weighbridge, exported, packed, tmp_path):
    r = weighbridge.ok("unpack", packed, tmp_path / "back")
    assert r.stdout.startswith(f"{tmp_path / 'back'}: {len(tree(exported))} files, ") and r.stderr == ""
    assert tree(tmp_path / "back") == tree(exported) and modes(tmp_path / "back") == modes(exported)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back"]
    assert packed.stat().st_size < 0.8 * sum(p.stat().st_size for p in exported.iterdir())


def test_other_code_reads_it(exported, packed):
    found, planes = read_archive(packed)
    assert {name: contents for name, (_, contents) in found.items()} == tree(exported)
    assert 2 in planes  # weights
    assert list(found) == sorted(found)


def test_any_zstd_reads_the_stream(packed, tmp_path):
    """Of chunks in one plane the contents are there as they are; all frames have zstd's own checksum."""
    subprocess.run(["zstd", "-q", "-t", packed], check=True)
    stream = subprocess.run(["zstd", "-q", "-d", "-c", packed], capture_output=True, check=True).stdout
    found, _ = read_archive(packed)
    assert len(stream) == sum(len(c) for _, c in found.values()) and found["config.json"][1] in stream


def test_any_tree_comes_back(weighbridge, tmp_path):
    """Empty files and directories, odd sizes, around the borders of chunks, names and modes of all kinds."""
    d = tmp_path / "in"
    (d / "a" / "b" / "empty dir").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name, size in {"empty": 0, "one": 1, "a/exactly": CHUNK, "a/more": CHUNK + 1, "a/less": CHUNK - 1, "a-b": 3,
                       "a/b/two and a bit": 2 * CHUNK + 12345, ".hidden": 5, "grüße\n": 7}.items():
        (d / name).write_bytes(rng.integers(0, 8, size, np.uint8).tobytes())
    (d / "one").chmod(0o755)
    (d / ".hidden").chmod(0o400)
    (d / "a" / "b" / "empty dir").chmod(0o711)
    weighbridge.ok("pack", d, tmp_path / "x.wbz")
    weighbridge.ok("unpack", tmp_path / "x.wbz", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(d) and modes(tmp_path / "back") == modes(d)
    found, planes = read_archive(tmp_path / "x.wbz")
    assert found["a/b/two and a bit"][1] == (d / "a/b/two and a bit").read_bytes() and set(planes) == {1}
    (tmp_path / "none").mkdir()
    weighbridge.ok("pack", tmp_path / "none", tmp_path / "none.wbz")
    weighbridge.ok("unpack", tmp_path / "none.wbz", tmp_path / "none back")
    assert tree(tmp_path / "none back") == {}


@pytest.mark.parametrize("dtype, align, split", [("F16", 1, True), ("BF16", 8, True), ("F32", 8, False), ("U8", 8, False)])
def test_planes_follow_the_headers_of_safetensors(weighbridge, tmp_path, dtype, align, split):
    """At any offset, also an odd one; the name of the file and of the tensor say nothing."""
    d = tmp_path / "in"
    d.mkdir()
    values = np.random.default_rng(2).standard_normal(300000).astype(np.float32) * 0.02
    data = {"F16": values.astype(np.float16).tobytes(), "BF16": (values.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
            "F32": values.tobytes(), "U8": values.astype(np.float16).tobytes()}[dtype]
    size = {"F16": 2, "BF16": 2, "F32": 4, "U8": 1}[dtype]
    header = json.dumps({"float16": {"dtype": dtype, "shape": [len(data) // size], "data_offsets": [0, len(data)]}})
    if align == 1 and (len(header) + 8) % 2 == 0:
        header = header.replace('"float16"', '"float16x"')
    checkpoints.write_raw_safetensors(d / "weights.bin", header, data, align)
    weighbridge.ok("pack", d, tmp_path / "x.wbz")
    found, planes = read_archive(tmp_path / "x.wbz")
    assert found["weights.bin"][1] == (d / "weights.bin").read_bytes()
    assert planes == ([1, 2] if split else [1])
    weighbridge.ok("unpack", tmp_path / "x.wbz", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(d)


def test_planes_follow_the_records_of_graphs(weighbridge, exported, packed, tmp_path):
    """Without model.onnx beside it nothing says what onnx_model.data holds."""
    (tmp_path / "in").mkdir()
    for name in ("onnx_model.data",):
        (tmp_path / "in" / name).write_bytes((exported / name).read_bytes())
    weighbridge.ok("pack", tmp_path / "in", tmp_path / "x.wbz")
    assert set(read_archive(tmp_path / "x.wbz")[1]) == {1}
    files = {f["name"]: f for f in weighbridge.ok("inspect", packed, "--json").json["files"]}
    assert files["onnx_model.data"]["split"] == files["onnx_model.data"]["chunks"] > 0


def test_planes_only_where_they_pay(weighbridge, tmp_path):
    """Called 16-bit floats, but the same two bytes all over: planes gain nothing."""
    d = tmp_path / "in"
    d.mkdir()
    data = np.random.default_rng(3).integers(0, 256, 1 << 20, np.uint8).tobytes()
    header = json.dumps({"x": {"dtype": "F16", "shape": [1 << 19], "data_offsets": [0, 1 << 20]}})
    checkpoints.write_raw_safetensors(d / "x.safetensors", header, data, 8)
    weighbridge.ok("pack", d, tmp_path / "x.wbz")
    assert set(read_archive(tmp_path / "x.wbz")[1]) == {1}


def test_same_bytes_whatever_the_run(weighbridge, exported, packed, tmp_path):
    again = tmp_path / "copy"
    subprocess.run(["cp", "-r", exported, again], check=True)  # other times, other order in the directory
    for i, options in enumerate((["--threads", 1], ["--threads", 7, "--memory", "1G"], ["--memory", "32M"])):
        weighbridge.ok("pack", again, tmp_path / f"{i}.wbz", *options)
        assert (tmp_path / f"{i}.wbz").read_bytes() == packed.read_bytes()
        weighbridge.ok("unpack", packed, tmp_path / str(i), *options)
        assert tree(tmp_path / str(i)) == tree(exported)


def test_export_packs_at_once(weighbridge, exported, packed, tmp_path):
    model, out, file = exported.parent / "model", tmp_path / "out", tmp_path / "out.wbz"
    r = weighbridge.ok("export", model, out, "--pack", file, "--report", tmp_path / "r.json")
    assert f"{file}: " in r.stdout and tree(out) == tree(exported) and file.read_bytes() == packed.read_bytes()
    report = json.loads((tmp_path / "r.json").read_text())["archive"]
    assert report["path"] == str(file) and report["archive_bytes"] == file.stat().st_size and report["files"] == len(tree(out))
    before = tree(tmp_path)
    for options, said in (([out, "--pack", file], "holds an export already"),
                          ([tmp_path / "new", "--pack", file], "is an archive already"),
                          ([tmp_path / "new", "--pack", tmp_path / "new" / "x.wbz"], "cannot be used"),
                          ([tmp_path / "new", "--pack", tmp_path / "new"], "is or lies inside"),
                          ([tmp_path / "new", "--pack", tmp_path / "new.partial"], "is or lies inside")):
        assert said in weighbridge.refuses("export", model, *options)
        assert tree(tmp_path) == before
    (tmp_path / "link").symlink_to(model)
    inside = tree(model)
    for place in (model / "x.wbz", tmp_path / "link" / "x.wbz", "x.wbz"):
        said = weighbridge.refuses("export", model, tmp_path / "new", "--pack", place, cwd=model)
        assert f"{place}: lies inside {model}, which is read from" in said and tree(model) == inside
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before
    assert "--memory 16M is too little for an archive: expected at least 32M" in weighbridge.refuses(
        "export", model, tmp_path / "new", "--pack", tmp_path / "new.wbz", "--memory", "16M", status=2)
    weighbridge.ok("export", model, out, "--pack", file, "--overwrite")
    assert tree(tmp_path) == before | {"r.json": before["r.json"]}


# ---------------------------------------------------------------------------------------------------- while an export writes


@pytest.fixture(scope="module")
def large(weighbridge, tmp_path_factory):
    """A model of several chunks, tied, in one shard; beside it, its export and the archive of that."""
    d = tmp_path_factory.mktemp("large")
    config = {"vocab_size": 12000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8,
              "head_dim": 64, "tie_word_embeddings": True}
    checkpoints.make(d / "model", "llama", config=config)
    weighbridge.ok("export", d / "model", d / "out", "-q")
    weighbridge.ok("pack", d / "out", d / "out.wbz", "-q")
    return d


def archive_of(report):
    return json.loads(report.read_text())["archive"]


@pytest.mark.parametrize("options, meanwhile", [
    (["--threads", 1], True), (["--threads", 7, "--memory", "1G", "--io", "pread"], True), (["--memory", "40M", "--io", "fault"], True),
    (["--memory", "39M"], False)])  # no room for both: one after the other
def test_export_packs_meanwhile(weighbridge, large, tmp_path, options, meanwhile):
    r = weighbridge.ok("export", large / "model", tmp_path / "out", "--pack", tmp_path / "x.wbz", "--report", tmp_path / "r.json",
                       *options, env={"WEIGHBRIDGE_FAULT": "at_most=300000"})
    assert tree(tmp_path / "out") == tree(large / "out") and "after the files were complete" in r.stdout
    assert (tmp_path / "x.wbz").read_bytes() == (large / "out.wbz").read_bytes()
    report = archive_of(tmp_path / "r.json")
    assert 0 < report["after"] <= report["wall"] and (report["after"] < report["wall"]) == meanwhile
    memory = json.loads((tmp_path / "r.json").read_text())["memory"]
    assert memory["buffers"] + meanwhile * report["threads"] * (18 << 20) <= memory["budget"]


@pytest.mark.parametrize("error", [5, 28])
def test_resumed_with_an_archive(weighbridge, large, tmp_path, error):
    """What an earlier run has written is packed, too; the failure of the export left no archive."""
    args = ["export", large / "model", tmp_path / "out", "--pack", tmp_path / "x.wbz", "-q"]
    for op in (1500, 2500, 5000, 10000):
        r = weighbridge(*args, "--io", "fault", "--threads", 1,
                        env={"WEIGHBRIDGE_JOURNAL": "0.001", "WEIGHBRIDGE_FAULT": f"at_most=16384,fail={op},error={error}"})
        assert r.status == 1 and os.strerror(error) in r.stderr and not (tmp_path / "out").exists(), r.stderr
        assert not (tmp_path / "x.wbz").exists() and not (tmp_path / "x.wbz.partial").exists()
        if "--resume goes on" in r.stderr:
            break
    weighbridge.ok(*args, "--resume", "--report", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["resumed"]["tensors"] > 0 and report["archive"]["after"] < report["archive"]["wall"]
    assert tree(tmp_path / "out") == tree(large / "out")
    assert (tmp_path / "x.wbz").read_bytes() == (large / "out.wbz").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"out", "x.wbz", "r.json"}


def test_refused_after_all_was_written(weighbridge, tmp_path):
    """--strict knows what was lost when the last weight is written: then packing is stopped, and no archive is left; what is converted is."""
    c = checkpoints.build("llama", config={"vocab_size": 12000, "hidden_size": 512})
    name = "model.layers.1.mlp.up_proj.weight"
    c.tensors[name] = checkpoints.tensor(np.full(c.tensors[name].shape, 1e30, np.float32), "BF16")
    c.write(tmp_path / "model")
    said = weighbridge.refuses("export", tmp_path / "model", tmp_path / "out", "--pack", tmp_path / "x.wbz", "--strict")
    assert "up_proj" in said and "--resume goes on" in said and {p.name for p in tmp_path.iterdir()} == {"model", "out.partial"}
    weighbridge.ok("export", tmp_path / "model", tmp_path / "out", "--pack", tmp_path / "x.wbz", "--resume", "--report", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["resumed"]["tensors"] == len(report["tensors"]) and report["bytes"]["read"] == 0


# ---------------------------------------------------------------------------------------------------- looking


def test_list_and_inspect(weighbridge, exported, packed):
    text = weighbridge.ok("unpack", "--list", packed).stdout
    assert text == weighbridge.ok("inspect", packed).stdout and "onnx_model.data" in text
    doc = weighbridge.ok("inspect", packed, "--json").json
    assert doc == weighbridge.ok("unpack", "-l", packed, "--json").json
    assert doc["kind"] == "archive" and doc["archive_bytes"] == packed.stat().st_size and doc["problems"] == []
    assert {f["name"]: (f["bytes"], f["xxh3"]) for f in doc["files"]} == {
        name: (len(data), f"{xxhash.xxh3_64_intdigest(data):016x}") for name, data in tree(exported).items()}


@pytest.mark.parametrize("options", [["--list"], ["--list", "--json"], ["--test"], ["OUT"]])
def test_what_is_no_archive(weighbridge, exported, packed, tmp_path, options):
    """A directory of another kind, too, is described by inspect alone."""
    (tmp_path / "empty dir").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("years of work")
    (tmp_path / "long").write_text("years of work" * 100)
    (tmp_path / "cut").write_bytes(packed.read_bytes()[:-1])
    before = tree(tmp_path)
    for path, said in ((exported, "is a directory, expected an archive"), (exported.parent / "model", "is a directory, expected an archive"),
                       ("empty dir", "is a directory, expected an archive"), ("empty", "is not an archive of weighbridge: it has 0 bytes"),
                       ("text", "is not an archive of weighbridge: it has 13 bytes"), ("long", "is not an archive of weighbridge: it does"),
                       ("none", "cannot be opened: No such file"), ("/dev/null", "is not a regular file"), ("cut", "is cut short or damaged")):
        r = weighbridge("unpack", path, *options, cwd=tmp_path)
        assert r.status == 1 and r.stdout == "" and r.stderr.startswith(f"weighbridge: error: {path}: {said}"), r
        assert r.stderr.count("\n") == 1 and tree(tmp_path) == before


def test_test_writes_nothing(weighbridge, packed, tmp_path):
    r = weighbridge.ok("unpack", "--test", packed, cwd=tmp_path)
    assert "tested" in r.stdout and tree(tmp_path) == {}
    doc = weighbridge.ok("unpack", "--test", packed, "--json").json
    assert doc["out"] is None and doc["archive"]["path"] == str(packed)


@pytest.mark.parametrize("options", [[], ["--test", "OUT"], ["--list", "OUT"], ["--test", "--list"]])
def test_unpack_wants_to_know_what(weighbridge, packed, tmp_path, options):
    weighbridge.refuses("unpack", packed, *options, status=2, cwd=tmp_path)
    assert tree(tmp_path) == {}


# ---------------------------------------------------------------------------------------------------- damage


def test_damaged_frames_are_named(weighbridge, packed, tmp_path):
    """Each by file, chunk and place; --test names all of them, and unpacking publishes nothing."""
    doc = weighbridge.ok("inspect", packed, "--json").json
    data, at, places = bytearray(packed.read_bytes()), 32, []
    for f in doc["files"]:
        if f["packed"] and f["name"] in ("config.json", "onnx_model.data", "tokenizer.json"):
            data[at + f["packed"] // 2] ^= 1
            places.append(f["name"])
        at += f["packed"]
    bad = tmp_path / "bad.wbz"
    bad.write_bytes(data)
    said = weighbridge.refuses("unpack", "--test", bad)
    assert len(places) == 3 and all(f'file "{name}", chunk ' in said for name in places) and "3 faults" in said
    assert said.index(places[0]) < said.index(places[1]) < said.index(places[2])
    for threads in (1, 4):
        said = weighbridge.refuses("unpack", bad, tmp_path / "out", "--threads", threads)
        assert said.count("\n") == 1 and f'file "{places[0]}", chunk 1 of 1 (bytes 0 to ' in said and "at byte " in said
    assert [p.name for p in tmp_path.iterdir()] == ["bad.wbz"]


def test_more_damage_than_a_message_holds(weighbridge, tmp_path):
    frames = [(1, zstd(b"x"), 1)] * 30
    entries = [entry(f"f{i:02}", 1, xxhash.xxh3_64_intdigest(b"x")) for i in range(30)]
    data = bytearray(archive(entries, frames))
    for i in range(30):
        data[32 + i * len(frames[0][1]) + 6] ^= 1
    (tmp_path / "x.wbz").write_bytes(data)
    said = weighbridge.refuses("unpack", "--test", tmp_path / "x.wbz", "--threads", 3)
    assert "30 faults" in said and "more" in said and '"f00"' in said and len(said) < 4096


# ---------------------------------------------------------------------------------------------------- hostile archives

X = xxhash.xxh3_64_intdigest(b"x" * 5)
FRAME = zstd(b"x" * 5)
ONE = [(5, FRAME, 1)]
HOSTILE = {
    "up": (archive([entry("../x")]), "leaves the directory"),
    "up within": (archive([entry("a", mode=0o755, kind=2, hash_=0), entry("a/../x")]), "leaves the directory"),
    "dot": (archive([entry("./x")]), "leaves the directory"),
    "absolute": (archive([entry("/etc/x")]), "is absolute"),
    "empty part": (archive([entry("a//x")]), "not written in the plain way"),
    "zero byte": (archive([entry(b"a\0b")]), "zero byte"),
    "twice": (archive([entry("a"), entry("a")]), "does not come before"),
    "through a file": (archive([entry("a"), entry("a/b")]), "in a directory that is none"),
    "symlink": (archive([entry("a", kind=3)]), "neither a file nor a directory"),
    "setuid": (archive([entry("a", mode=0o4755)]), "permission bits only"),
    "our mark": (archive([entry(".weighbridge-partial")]), "a name that is not for archives"),
    "long name": (archive([entry("n" * 256)]), "longer than any file system takes"),
    "chunk beyond its size": (archive([entry("f", CHUNK + 1, 0)], [(CHUNK + 1, zstd(bytes(CHUNK + 1)), 1)]), "expected 1 to"),
    "more than the chunk says": (archive([entry("f", 5, X)], [(5, zstd(b"x" * 6), 1)]), "not one zstd frame of the size"),
    "less than the chunk says": (archive([entry("f", 5, X)], [(5, zstd(b"x" * 4), 1)]), "not one zstd frame of the size"),
    "two frames": (archive([entry("f", 5, X)], [(5, FRAME + zstd(b""), 1)]), "not one zstd frame of the size"),
    "no frame": (archive([entry("f", 5, X)], [(5, b"nothing of that", 1)]), "not one zstd frame of the size"),
    "a bomb's size": (archive([entry("f", CHUNK, X)], [(CHUNK, FRAME, 1)]), "which no frame can have"),
    "three planes": (archive([entry("f", 5, X)], [(5, FRAME, 3)]), "3 byte planes"),
    "another file's checksum": (archive([entry("f", 5, X + 1)], ONE), "differ from its checksum"),
    "an empty file's checksum": (archive([entry("f", 0, 7)]), "is empty"),
    "chunks too few": (archive([entry("f", 6, X)], ONE), "have 5 bytes, the file has 6"),
    "chunks too many": (archive([entry("f", 5, X)], ONE * 2), "belong to no file"),
    "one chunk for two": (archive([entry("f", 3, X), entry("g", 2, X)], ONE), "the file has 3"),
    "counts beyond all": (archive([], counts=(1 << 60, 1 << 60)), "entries and"),
    "sizes beyond all": (archive([entry("f", 1 << 63, 0)]), "more bytes than any file system"),
    "an index elsewhere": (archive(*of(b"xxxxx"), at=40), "does not reach to its end"),
    "a later version": (archive([], head=HEAD[:20] + struct.pack("<III", 2, CHUNK, 0)), "version 2"),
    "other chunks": (archive([], head=HEAD[:24] + struct.pack("<II", 1 << 30, 0)), "head is damaged"),
    "no archive": (zstd(b"hello" * 100), "is not an archive"),
    "nothing": (b"", "is not an archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(weighbridge, tmp_path, case):
    data, said = HOSTILE[case]
    (tmp_path / "x.wbz").write_bytes(data)
    message = weighbridge.refuses("unpack", tmp_path / "x.wbz", tmp_path / "out")
    assert message.count("\n") == 1 and "x.wbz" in message and said in message, message
    assert [p.name for p in tmp_path.iterdir()] == ["x.wbz"]


def test_hostile_archives_are_what_makes_them_so(weighbridge, tmp_path):
    """The same maker makes right ones."""
    (tmp_path / "x.wbz").write_bytes(archive([entry("d", mode=0o755, kind=2), *of(b"x" * 5, "d/f")[0]], ONE))
    weighbridge.ok("unpack", tmp_path / "x.wbz", tmp_path / "out")
    assert tree(tmp_path / "out") == {"d": None, "d/f": b"x" * 5}


def test_more_than_the_disk_holds_is_refused_first(weighbridge, tmp_path):
    """A bomb by the book: 60,000 chunks of 8 MiB of zeros each, whose frames are there."""
    zeros = zstd(bytes(CHUNK))
    n = 60000
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    if free > n * CHUNK or free < 1 << 28:
        pytest.skip("the disk is not of a size for this test")
    (tmp_path / "x.wbz").write_bytes(archive([entry("f", n * CHUNK, 0)], [(CHUNK, zeros, 1)] * n))
    said = weighbridge.refuses("unpack", tmp_path / "x.wbz", tmp_path / "out")
    assert "needs" in said and "free" in said and not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- places


def test_links_and_other_things_are_not_packed(weighbridge, exported, tmp_path):
    d = tmp_path / "in"
    (d / "sub").mkdir(parents=True)
    (d / "sub" / "link").symlink_to(exported / "model.onnx")
    assert "sub/link: is a symbolic link" in weighbridge.refuses("pack", d, tmp_path / "x.wbz")
    (d / "sub" / "link").unlink()
    os.mkfifo(d / "pipe")
    assert "pipe: is neither a file nor a directory" in weighbridge.refuses("pack", d, tmp_path / "x.wbz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_what_is_there_stays(weighbridge, exported, packed, tmp_path):
    thesis, link, old = tmp_path / "thesis.wbz", tmp_path / "link.wbz", tmp_path / "old.wbz"
    thesis.write_text("years of work")
    old.write_bytes(packed.read_bytes())
    link.symlink_to("old.wbz")
    (tmp_path / "dir").mkdir()
    (tmp_path / "taken.wbz.partial").write_text("somebody's")
    before = tree(tmp_path)
    for file, said in ((thesis, "is not an archive"), (old, "--overwrite"), (link, "symbolic link"),
                       (tmp_path / "dir", "is not an archive"), (tmp_path / "none" / "x.wbz", "create it first"),
                       (tmp_path / "taken.wbz", "was not left by an earlier run"), (exported / "x.wbz", "lies inside")):
        assert said in weighbridge.refuses("pack", exported, file), file
        if file != old:
            assert said in weighbridge.refuses("pack", exported, file, "--overwrite"), file
    weighbridge.refuses("pack", tmp_path / "none", tmp_path / "x.wbz")
    assert tree(tmp_path) == before
    weighbridge.ok("pack", exported, old, "--overwrite")
    assert tree(tmp_path) == before


def test_a_beginning_is_taken_over(weighbridge, exported, packed, tmp_path):
    """However little of it a run that was killed has left; not what differs in a byte."""
    file, partial, begun_ = tmp_path / "x.wbz", tmp_path / "x.wbz.partial", packed.read_bytes()[:100]
    for n in (0, 1, 16, 31, 32, 100):
        if n:
            partial.write_bytes(begun_[:min(n, 20) - 1] + bytes([begun_[min(n, 20) - 1] ^ 1]) + begun_[min(n, 20):n])
            assert "was not left by an earlier run" in weighbridge.refuses("pack", exported, file)
        partial.write_bytes(begun_[:n])
        weighbridge.ok("pack", exported, file)
        assert file.read_bytes() == packed.read_bytes() and os.listdir(tmp_path) == ["x.wbz"]
        file.unlink()


MARK, OLDER = ".weighbridge-partial", "older export, to be removed\n"


def test_what_is_not_whole_is_not_packed(weighbridge, large, tmp_path):
    """Whatever it is called on the command line; what is published is whole, with a mark of its run on it, too."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    weighbridge.refuses("export", large / "model", out, "-q", "--threads", 1, "--io", "fault",
                        env={"WEIGHBRIDGE_JOURNAL": "0.001", "WEIGHBRIDGE_FAULT": "at_most=16384,fail=2500,error=5"})
    before = tree(tmp_path)
    assert f"out.partial/{MARK}" in before and "out.partial/model.onnx" in before
    (tmp_path / "link").symlink_to(partial)
    for place in (partial, f"{partial}/", tmp_path / "link", "."):
        said = weighbridge.refuses("pack", place, tmp_path / "x.wbz", cwd=partial)
        name = str(place).rstrip("/")
        assert f"{name}: was left by an interrupted run, or is being written" in said and "--resume" in said and said.count("\n") == 1
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before
    weighbridge.ok("export", large / "model", out, "-q", "--resume")
    (out / MARK).write_text(OLDER)
    before = tree(tmp_path)
    assert "has begun to remove the files" in weighbridge.refuses("pack", out, tmp_path / "x.wbz")
    assert tree(tmp_path) == before
    for mark in (b"", b"WBjournal"):
        (out / MARK).write_bytes(mark)
        weighbridge.ok("pack", out, tmp_path / "x.wbz", "--overwrite")
        assert (tmp_path / "x.wbz").read_bytes() == (large / "out.wbz").read_bytes()
    (out / MARK).unlink()
    out.rename(partial)  # a name says nothing without a mark
    weighbridge.ok("pack", partial, tmp_path / "x.wbz", "--overwrite")
    os.mkfifo(partial / MARK)
    assert "was left by" in weighbridge.refuses("pack", partial, tmp_path / "y.wbz")


def test_unpacking_replaces_exports_only(weighbridge, exported, packed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    assert "is not an export" in weighbridge.refuses("unpack", packed, out, "--overwrite")
    assert tree(out) == {"thesis.txt": b"years of work"}
    (out / "thesis.txt").unlink()
    weighbridge.ok("unpack", packed, out)
    (out / "config.json").write_text("{}")
    assert "--overwrite" in weighbridge.refuses("unpack", packed, out)
    weighbridge.ok("unpack", packed, out, "--overwrite")
    assert tree(out) == tree(exported) and sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_two_runs_do_not_meet(weighbridge, exported, tmp_path):
    partial = tmp_path / "x.wbz.partial"
    with open(partial, "wb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert "another run" in weighbridge.refuses("pack", exported, tmp_path / "x.wbz")
    weighbridge.ok("pack", exported, tmp_path / "x.wbz")
    assert [p.name for p in tmp_path.iterdir()] == ["x.wbz"]


# ---------------------------------------------------------------------------------------------------- what goes wrong


def rotations(path, block, n):
    """A file of a block `n` times, each time begun one byte later."""
    path.parent.mkdir()
    with open(path, "wb") as f:
        for i in range(n):
            f.write(block[i:] + block[:i])
    return path.parent


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """168 MB that do not shrink much."""
    return rotations(tmp_path_factory.mktemp("noise") / "in" / "noise", os.urandom(1 << 20), 160)


@pytest.fixture(scope="module")
def much(tmp_path_factory):
    """500 MB of hexadecimal digits, over which compression takes longer than a signal needs to be heard: unlike noise, they shrink,
    and within a chunk nothing repeats."""
    return rotations(tmp_path_factory.mktemp("much") / "in" / "noise", os.urandom(4 << 20).hex().encode(), 60)


def begun(weighbridge, path, *args):
    """Starts a run and waits until `path` has grown."""
    run = subprocess.Popen([str(a) for a in (weighbridge.path, *args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env={**os.environ, **SANITIZER})
    end = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < end:
        if path.exists() and path.stat().st_blocks * 512 > CHUNK:
            return run
        time.sleep(0.002)
    pytest.fail(f"it was over too soon: {run.communicate()}")


def stopped(weighbridge, number, undo, path, *args):
    """A run that a signal ended; a busy machine may deliver it to one that is as good as done: then again."""
    for _ in range(20):
        run = begun(weighbridge, path, *args)
        run.send_signal(number)
        run.communicate(timeout=60)
        if run.returncode:
            return
        undo()
    pytest.fail("the signal always came too late")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle(weighbridge, exported, much, tmp_path, number):
    """FILE.partial and OUT.partial at most; the older ones stay; the next run takes over."""
    file, out = tmp_path / "x.wbz", tmp_path / "out"
    weighbridge.ok("pack", exported, file)
    old = file.read_bytes()
    stopped(weighbridge, number, lambda: file.write_bytes(old), tmp_path / "x.wbz.partial", "pack", much, file, "--overwrite")
    left = {"x.wbz", "x.wbz.partial"} if number == signal.SIGKILL else {"x.wbz"}
    assert {p.name for p in tmp_path.iterdir()} == left and file.read_bytes() == old
    weighbridge.ok("pack", much, file, "--overwrite")
    stopped(weighbridge, number, lambda: shutil.rmtree(out), tmp_path / "out.partial" / "noise", "unpack", file, out)
    left = {"x.wbz", "out.partial"} if number == signal.SIGKILL else {"x.wbz"}
    assert {p.name for p in tmp_path.iterdir()} == left
    weighbridge.ok("unpack", file, out)
    assert {p.name for p in tmp_path.iterdir()} == {"x.wbz", "out"}
    assert (out / "noise").read_bytes() == (much / "noise").read_bytes()


def on_small_disk(tmp_path, size, *commands):
    """Runs shell commands where $DISK is a file system of that size; -> what they printed, or a skip."""
    (tmp_path / "disk").mkdir()
    script = f'mount -t tmpfs -o size={size} none "$DISK" || exit 77; ' + "; ".join(commands)
    r = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True,
                       env={**os.environ, **SANITIZER, "DISK": str(tmp_path / "disk")})
    if r.returncode == 77 or "unshare" in r.stderr:
        pytest.skip("no file system can be mounted here")
    return r.stdout, r.stderr


def test_no_room(weighbridge, noise, tmp_path):
    """Met while packing, known before unpacking; neither leaves anything."""
    out, err = on_small_disk(tmp_path, "20m", f'"{weighbridge.path}" pack "{noise}" "$DISK/x.wbz"', 'echo "status $?"; ls "$DISK"')
    assert out == "status 1\n" and "x.wbz.partial: " in err and "room" in err and err.count("\n") == 1
    weighbridge.ok("pack", noise, tmp_path / "x.wbz")
    (tmp_path / "disk").rmdir()
    out, err = on_small_disk(tmp_path, "20m", f'"{weighbridge.path}" unpack "{tmp_path}/x.wbz" "$DISK/out"', 'echo "status $?"; ls "$DISK"')
    assert out == "status 1\n" and "needs 167.8 MB" in err and "free" in err


def test_no_room_for_the_archive_of_an_export(weighbridge, large, tmp_path):
    """Packing stops the export when the first tensor is written, long before its end; with room for both it goes on."""
    export = f'"{weighbridge.path}" export "{large}/model" "{tmp_path}/out" --pack "$DISK/x.wbz" -q --memory 40M'
    slow = "WEIGHBRIDGE_JOURNAL=0.001 WEIGHBRIDGE_FAULT=delay=50000"  # one piece after the other
    out, err = on_small_disk(tmp_path, "9m", f'{slow} {export} --io fault', 'echo "status $?"; ls "$DISK"')
    assert out == "status 1\n" and "x.wbz.partial: " in err and "room" in err and "--resume goes on" in err, err
    assert {p.name for p in tmp_path.iterdir()} == {"disk", "out.partial"}
    weighbridge.ok("export", large / "model", tmp_path / "out", "--resume", "--pack", tmp_path / "x.wbz", "--report", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["resumed"]["bytes"] > 0 and report["bytes"]["read"] > 0  # some of the tensors were never come to
    assert tree(tmp_path / "out") == tree(large / "out")
    assert (tmp_path / "x.wbz").read_bytes() == (large / "out.wbz").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_export_killed_while_it_packs(weighbridge, large, tmp_path, number):
    """The older OUT and FILE stay; the next run goes on, or begins anew, and the archive is the same."""
    file, out = tmp_path / "x.wbz", tmp_path / "out"
    shutil.copytree(large / "out", out)
    (out / "config.json").write_text((out / "config.json").read_text() + "\n")  # another export
    weighbridge.ok("pack", out, file)
    old, before = file.read_bytes(), tree(out)
    args = ["export", large / "model", out, "--overwrite", "--pack", file, "-q"]

    def undo():
        shutil.rmtree(out)
        out.mkdir()
        for name, data in before.items():
            (out / name).write_bytes(data)
        file.write_bytes(old)

    stopped(weighbridge, number, undo, tmp_path / "x.wbz.partial", *args, "--threads", 1)
    assert file.read_bytes() == old and tree(out) == before
    left = {p.name for p in tmp_path.iterdir()} - {"x.wbz", "out"}
    assert left == {"x.wbz.partial", "out.partial"} if number == signal.SIGKILL else left <= {"out.partial"}
    weighbridge.ok(*args, "--resume")
    assert tree(out) == tree(large / "out") and file.read_bytes() == (large / "out.wbz").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"x.wbz", "out"}


def all_was_kept(weighbridge, large, args, tmp_path):
    """--resume converts nothing again: it packs and publishes."""
    weighbridge.ok(*args, "--resume", "--report", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["resumed"]["tensors"] == len(report["tensors"]) and report["bytes"]["read"] == 0
    assert tree(tmp_path / "out") == tree(large / "out")
    assert (tmp_path / "x.wbz").read_bytes() == (large / "out.wbz").read_bytes()
    assert not (tmp_path / "out.partial").exists() and not (tmp_path / "x.wbz.partial").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_is_converted_outlives_its_packing(weighbridge, large, tmp_path, number):
    """Also of a run that was shorter than the time between two entries of the journal: packing begins when it is over."""
    file, out = tmp_path / "x.wbz", tmp_path / "out"
    args = ["export", large / "model", out, "--pack", file, "-q", "--memory", "39M"]
    for _ in range(20):
        run = begun(weighbridge, tmp_path / "x.wbz.partial", *args, "--threads", 1)
        run.send_signal(number)
        said = run.communicate(timeout=60)[1].decode()
        if run.returncode:
            break
        shutil.rmtree(out)
        file.unlink()
    assert not out.exists() and not file.exists()
    if number == signal.SIGINT:
        assert run.returncode == 1 and said == (
            "weighbridge: error: interrupted; nothing was published\n"
            f"weighbridge: note: {out}.partial keeps what is finished: the same export with --resume goes on from there\n")
    all_was_kept(weighbridge, large, args, tmp_path)


def test_what_is_converted_outlives_a_full_disk(weighbridge, large, tmp_path):
    export = f'"{weighbridge.path}" export "{large}/model" "{tmp_path}/out" --pack "$DISK/x.wbz" -q --memory 39M'
    out, err = on_small_disk(tmp_path, "1m", export, 'echo "status $?"; ls "$DISK"')
    assert out == "status 1\n" and "x.wbz.partial: " in err and "room" in err and "--resume goes on" in err, err
    args = ["export", large / "model", tmp_path / "out", "--pack", tmp_path / "x.wbz", "-q", "--memory", "39M"]
    all_was_kept(weighbridge, large, args, tmp_path)


def anonymous_peak(*command):
    """-> bytes, as seen every few milliseconds"""
    run, peak = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL), 0
    while run.poll() is None:
        with open(f"/proc/{run.pid}/status") as f:
            peak = max([peak] + [int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon")])
        time.sleep(0.002)
    assert run.returncode == 0
    return peak


def test_memory_is_bounded(weighbridge_release, noise, tmp_path):
    """The peak of anonymous memory follows --memory, not the file."""
    for args in (["pack", noise, tmp_path / "x.wbz"], ["unpack", tmp_path / "x.wbz", tmp_path / "out"]):
        peak = anonymous_peak(weighbridge_release.path, *args, "--memory", "40M", "--threads", 8)
        assert 8 << 20 < peak < 48 << 20
    assert (tmp_path / "out" / "noise").read_bytes() == (noise / "noise").read_bytes()


def test_memory_is_bounded_while_an_export_packs(weighbridge_release, large, tmp_path):
    peak = anonymous_peak(weighbridge_release.path, "export", large / "model", tmp_path / "out", "--pack", tmp_path / "x.wbz",
                          "--memory", "64M", "--threads", 8, "-q")
    assert 18 << 20 < peak < 72 << 20


def test_source_that_changes_is_noticed(weighbridge, noise, tmp_path):
    d = tmp_path / "in"
    subprocess.run(["cp", "-r", noise, d], check=True)
    run = begun(weighbridge, tmp_path / "x.wbz.partial", "pack", d, tmp_path / "x.wbz")
    (d / "later").write_text("x")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1 and b"was changed while it was packed" in err
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
