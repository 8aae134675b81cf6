"""Directories whose names are no UTF-8 or hold control characters: they work, every document stays JSON, and no message breaks
its line or reaches the terminal as a command."""
import json
import os
import subprocess

import checkpoints
import pytest
from conftest import SANITIZER, tree

NAMES = {"latin": b"mod\xe9l", "bell": b"mod\x07el", "escape": b"mo\x1b[31mdel", "line": b"model\nok: nothing wrong",
         "c1": b"mod\xc2\x9bel", "accent": "modèl €".encode()}


def run(weighbridge, *args):
    r = subprocess.run([os.fsencode(a) for a in (weighbridge.path, *args)], capture_output=True, timeout=120,
                       env={**os.environ, **SANITIZER})
    assert r.returncode in (0, 1), r.stderr
    for text in ("" if "--json" in args else r.stdout.decode(), r.stderr.decode()):  # valid UTF-8
        assert not any(ord(c) < 32 and c != "\n" or 0x7f <= ord(c) < 0xa0 for c in text), text
    return r


@pytest.mark.parametrize("kind", NAMES)
def test_documents_are_json_and_messages_clean(kind, weighbridge, tmp_path):
    base = tmp_path / os.fsdecode(NAMES[kind])
    base.mkdir()
    ckpt = checkpoints.build()
    model, out, report = base / "model", base / "out", tmp_path / "report.json"
    ckpt.write(model)
    assert run(weighbridge, "export", model, out, "--report", report).returncode == 0
    for text in (report.read_bytes(), (out / "processed_chat_template.json").read_bytes(),
                 run(weighbridge, "inspect", model, "--json").stdout, run(weighbridge, "inspect", out, "--json").stdout,
                 run(weighbridge, "plan", model, "--json").stdout, run(weighbridge, "verify", out, model, "--json").stdout):
        document = json.loads(text.decode())
    assert document["ok"] and document["model"].endswith("/model")
    assert ("?" in document["model"]) == (kind == "latin")
    assert run(weighbridge, "inspect", model).returncode == run(weighbridge, "verify", out, model).returncode == 0

    del ckpt.tensors["model.layers.1.mlp.up_proj.weight"], ckpt.tensors["model.norm.weight"]
    checkpoints.write_safetensors(model / "model.safetensors", ckpt.tensors)
    before = tree(tmp_path)
    r = run(weighbridge, "export", model, base / "none")
    assert r.returncode == 1 and tree(tmp_path) == before
    lines = r.stderr.decode().splitlines()
    assert len(lines) == 3 and lines[0].startswith("weighbridge: error: ") and all(x.startswith("    ") for x in lines[1:]), lines
    refused = json.loads(run(weighbridge, "plan", model, "--json").stdout.decode())["refused"]
    assert refused.count("\n") == 2 and not any(ord(c) < 32 and c != "\n" for c in refused)
    assert run(weighbridge, "export", base / "nowhere", base / "none").stderr.count(b"\n") == 1
