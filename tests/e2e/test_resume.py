"""What is left when an export dies, and how another one goes on from it: killed at any time and at any system call, stopped
by a signal, by a full disk, by any I/O that fails; and what must not be gone on with.

    WEIGHBRIDGE_KILLS=200 scripts/test.sh -k random_times     # the long way
"""
import bisect
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from conftest import SANITIZER, SLOWLY, tree
from test_drafts import Draft

HERE = Path(__file__).parent
JOURNAL, ASIDE = ".weighbridge-partial", ".weighbridge-aside"
OFTEN = {"WEIGHBRIDGE_JOURNAL": "0.001"}  # seconds between two entries
KILLS = int(os.environ.get("WEIGHBRIDGE_KILLS", "12"))
SMALL = {"num_hidden_layers": 1, "vocab_size": 3000}
QUICK = ["-q", "--no-chat-template"]


@pytest.fixture()
def model(tmp_path):
    return checkpoints.make(tmp_path / "model", "llama", dtype="F32", shards=2, config=SMALL).path


def contents(out):
    """What an export holds, but for the mark of one whose publication was killed: the next run removes it."""
    return {name: data for name, data in tree(out).items() if name not in (JOURNAL, ASIDE)} if out.exists() else None


def report_of(path):
    return {t["name"]: t for t in json.loads(path.read_text())["tensors"]}


def finished(journal):
    """-> (file, offset) of each tensor that it says is finished"""
    try:
        text = journal.read_bytes()
    except FileNotFoundError:
        return []
    if len(text) < 32:
        return []
    record, head = struct.unpack("<QQ", text[8:24])
    starts = range(32 + head, len(text) - record + 1, record) if record else ()  # the head is written last
    return [(*struct.unpack("<I", text[at + record - 16:at + record - 12]), *struct.unpack("<Q", text[at:at + 8])) for at in starts]


def records(partial):
    """How many tensors the journal of OUT.partial says are finished."""
    return len(finished(partial / JOURNAL))


def broken(weighbridge, model, out, command="export", args=QUICK, at_least=1):
    """An export that an I/O error ends with something finished before; how much, the threads' luck has a say in."""
    for op in range(30, 2000, 5):
        r = weighbridge(command, model, out, *args, "--threads", 1, "--io", "fault",
                        env={**OFTEN, "WEIGHBRIDGE_FAULT": f"at_most=4096,fail={op},error=5"})
        assert r.status == 1 and "Input/output error" in r.stderr, r.stderr
        if f"{out}.partial keeps what is finished: the same export with --resume goes on from there" in r.stderr:
            assert not out.exists()
            if records(out.with_name(out.name + ".partial")) >= at_least:
                return
        else:
            assert not out.with_name(out.name + ".partial").exists()
    pytest.fail("nothing was ever finished")


@pytest.fixture(params=[False, True], ids=["", "hashed"])
def half(weighbridge, model, tmp_path, request):
    """OUT.partial with some tensors finished, whose hashes are known where a report was to tell them."""
    broken(weighbridge, model, tmp_path / "out", args=[*QUICK, *(["--report", tmp_path / "half.json"] if request.param else [])])
    return tmp_path / "out"


# ---------------------------------------------------------------------------------------------------- going on


def test_ends_in_the_same_bytes_and_report(weighbridge, half, model, tmp_path):
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK, "--report", tmp_path / "whole.json")
    weighbridge.ok("export", model, half, *QUICK, "--resume", "--report", tmp_path / "out.json")
    assert tree(half) == tree(tmp_path / "whole")
    assert report_of(tmp_path / "out.json") == report_of(tmp_path / "whole.json")
    whole, report = (json.loads((tmp_path / n).read_text()) for n in ("whole.json", "out.json"))
    assert 0 < report["resumed"]["tensors"] < len(report["tensors"]) and whole["resumed"] == {"tensors": 0, "bytes": 0}
    assert report["bytes"]["read"] < whole["bytes"]["read"]
    assert sorted(os.listdir(tmp_path)) == ["model", "out", "out.json", "whole", "whole.json"]


@pytest.mark.parametrize("how", [["--threads", 8], ["--memory", "16M"], ["--io", "pread"], ["--io", "auto", "--threads", 3]])
def test_another_budget_engine_and_number_of_threads(weighbridge, model, half, tmp_path, how):
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK)
    weighbridge.ok("export", model, half, *QUICK, "--resume", *how)
    assert tree(half) == tree(tmp_path / "whole")


@pytest.mark.parametrize("vocab,hidden,edged", [(70001, 128, 1), (9001, 1024, 0)])
def test_tensors_in_row_panels_and_tied_ones(weighbridge, tmp_path, vocab, hidden, edged):
    """A tied head that leaves in panels under the small budget. One of short runs is hashed by reading it back, now or by the next
    run, as is what a run without a report has finished."""
    config = {"vocab_size": vocab, "hidden_size": hidden, "num_hidden_layers": 1, "tie_word_embeddings": True}
    model = checkpoints.make(tmp_path / "model", "llama", config=config).path
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK, "--report", tmp_path / "whole.json")
    weighbridge.ok("export", model, tmp_path / "small", *QUICK, "--memory", "16M", "--report", tmp_path / "small.json")
    assert tree(tmp_path / "small") == tree(tmp_path / "whole")
    assert report_of(tmp_path / "small.json") == report_of(tmp_path / "whole.json")
    memory = json.loads((tmp_path / "small.json").read_text())["memory"]
    assert (memory["paneled"], memory["edged"]) == (1, edged)

    def fails_at(op, *report):
        r = weighbridge("export", model, tmp_path / "out", *QUICK, "--memory", "16M", "--io", "fault", "--threads", 1, "--overwrite",
                        *report, env={**OFTEN, "WEIGHBRIDGE_FAULT": f"at_most=65536,fail={op},error=5"})
        return r.status == 1

    ops = bisect.bisect_left(range(20000), True, lo=1, key=lambda op: not fails_at(op))
    resumed = 0
    for i, op in enumerate([ops * k // 8 for k in range(2, 8)] + [ops - 16, ops - 8, ops - 4, ops - 1]):
        assert fails_at(op, *(["--report", tmp_path / "failed.json"] if i % 2 else []))
        weighbridge.ok("export", model, tmp_path / "out", *QUICK, "--resume", "--overwrite", "--report", tmp_path / "out.json")
        assert tree(tmp_path / "out") == tree(tmp_path / "whole")
        assert report_of(tmp_path / "out.json") == report_of(tmp_path / "whole.json")
        resumed += json.loads((tmp_path / "out.json").read_text())["resumed"]["tensors"]
    assert resumed > 2  # how many, the time between two records has a say in


def goes_on_from_all(weighbridge, model, out, said, whole, *args):
    """All was converted when it was refused: --resume publishes it, and reads no weight."""
    report = out.with_name("all.json")
    assert f"weighbridge: note: {out}.partial keeps what is finished: the same export with --resume goes on from there\n" in said
    weighbridge.ok("export", model, out, *QUICK, "--resume", *args, "--report", report)
    assert tree(out) == tree(whole) and not out.with_name(out.name + ".partial").exists()
    all_ = json.loads(report.read_text())
    assert all_["resumed"]["tensors"] == sum(t["file"] != "model.onnx" for t in all_["tensors"]) and all_["bytes"]["read"] == 0


def test_losses_counted_before_are_reported_and_refused(weighbridge, tmp_path):
    """--strict must not be fooled by an interruption; so counters are part of the journal."""
    ckpt = checkpoints.build("llama", dtype="F32", config=SMALL)
    shape = ckpt.tensors["model.embed_tokens.weight"].shape
    ckpt.tensors["model.embed_tokens.weight"] = checkpoints.tensor(np.full(shape, 1e38), "F32")
    model = ckpt.write(tmp_path / "model").path
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK, "--report", tmp_path / "whole.json")
    broken(weighbridge, model, tmp_path / "out")
    weighbridge.ok("export", model, tmp_path / "out", *QUICK, "--resume", "--report", tmp_path / "out.json")
    assert any(t["overflow"] for t in report_of(tmp_path / "whole.json").values())
    assert report_of(tmp_path / "out.json") == report_of(tmp_path / "whole.json")
    broken(weighbridge, model, tmp_path / "strict")
    said = weighbridge.refuses("export", model, tmp_path / "strict", *QUICK, "--resume", "--strict")
    assert "infinite" in said and not (tmp_path / "strict").exists()
    goes_on_from_all(weighbridge, model, tmp_path / "strict", said, tmp_path / "whole")
    said = weighbridge.refuses("export", model, tmp_path / "anew", *QUICK, "--strict")
    assert "infinite" in weighbridge.refuses("export", model, tmp_path / "anew", *QUICK, "--strict", "--resume")
    goes_on_from_all(weighbridge, model, tmp_path / "anew", said, tmp_path / "whole")


def test_drafts_too(weighbridge, tmp_path):
    draft = Draft(tmp_path, vocab=3000, draft_vocab=700).write()
    weighbridge.ok("export-draft", draft, tmp_path / "whole")
    broken(weighbridge, draft, tmp_path / "out", "export-draft", [])
    weighbridge.ok("export-draft", draft, tmp_path / "out", "--resume", "--report", tmp_path / "out.json")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert json.loads((tmp_path / "out.json").read_text())["resumed"]["tensors"] > 0


@pytest.mark.parametrize("options", [["llama_gptq_asym", "--zero-points", "clamp"], ["llama", "--merge-lora", "{}/lora_llama"]])
def test_4_bit_weights_and_merged_ones(weighbridge, golden, tmp_path, options):
    """With what each tensor lost by them; and another scale of the adapter is another export."""
    where = tmp_path / "checkpoints"
    shutil.copytree(golden / "checkpoints" / options[0], where / "model")
    shutil.copytree(golden / "checkpoints" / "lora_llama", where / "lora_llama")
    options = [*QUICK, *(o.format(where) for o in options[1:])]
    weighbridge.ok("export", where / "model", tmp_path / "whole", *options, "--report", tmp_path / "whole.json")
    broken(weighbridge, where / "model", tmp_path / "out", args=options, at_least=3)
    config = where / "lora_llama" / "adapter_config.json"
    text = config.read_text()
    config.write_text(json.dumps({**json.loads(text), "lora_alpha": 3}))
    if "--merge-lora" in options:
        refused(weighbridge, where / "model", tmp_path / "out", ["was begun with merge_lora "], *options[1:])
    config.write_text(text)
    weighbridge.ok("export", where / "model", tmp_path / "out", *options, "--resume", "--report", tmp_path / "out.json")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert report_of(tmp_path / "out.json") == report_of(tmp_path / "whole.json")


def test_nothing_to_resume_begins(weighbridge, model, tmp_path):
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK)
    for left in (None, b"", b"wbjrnl2\0", os.urandom(500)):
        if left is not None:
            (tmp_path / "out.partial").mkdir()
            (tmp_path / "out.partial" / JOURNAL).write_bytes(left)
            (tmp_path / "out.partial" / "onnx_model.data").write_bytes(b"of another run")
        weighbridge.ok("export", model, tmp_path / "out", *QUICK, "--resume", "--overwrite")
        assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not (tmp_path / "out.partial").exists()


def test_without_resume_what_is_left_is_removed(weighbridge, model, half, tmp_path):
    weighbridge.ok("export", model, half, *QUICK, "--report", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["resumed"]["tensors"] == 0
    assert not (tmp_path / "out.partial").exists()


def test_a_torn_journal_is_read_up_to_the_tear(weighbridge, model, tmp_path):
    half = tmp_path / "out"
    broken(weighbridge, model, half, at_least=3)
    journal = half.with_name("out.partial") / JOURNAL
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK)
    whole, found = journal.read_bytes(), set()
    kept = tmp_path / "kept"
    shutil.copytree(half.with_name("out.partial"), kept)
    for cut in (0, 1, 87, 88, 100, 176, 200):
        for damage in (whole[:len(whole) - cut], whole[:len(whole) - cut - 1] + b"\xff" + whole[len(whole) - cut:]):
            shutil.rmtree(half.with_name("out.partial"), ignore_errors=True)
            shutil.copytree(kept, half.with_name("out.partial"))
            journal.write_bytes(damage)
            weighbridge.ok("export", model, half, *QUICK, "--resume", "--report", tmp_path / "r.json")
            assert tree(half) == tree(tmp_path / "whole")
            found.add(json.loads((tmp_path / "r.json").read_text())["resumed"]["tensors"])
            shutil.rmtree(half)
    assert len(found) >= 4


# ---------------------------------------------------------------------------------------------------- refusals


def refused(weighbridge, model, out, words, *args):
    before = tree(out.parent)
    said = weighbridge.refuses("export", model, out, "-q", "--resume", *args)
    assert all(w in said for w in words) and said.count("\n") == 1, said
    assert tree(out.parent) == before


def test_other_options_are_refused(weighbridge, model, half):  # OPS-02
    refused(weighbridge, model, half, ["out.partial: was begun with fp8_kv_cache 0, and this run has 1"],
            "--no-chat-template", "--fp8-kv-cache")
    refused(weighbridge, model, half, ["was begun with chat_template none, and this run has model"])
    weighbridge.ok("export", model, half, *QUICK, "--resume")


def test_changed_sources_are_refused(weighbridge, model, half):  # OPS-02
    shard = model / "model-00002-of-00002.safetensors"
    st, data = shard.stat(), shard.read_bytes()
    words = ["out.partial: the source \"model-00002-of-00002.safetensors\" is not the file that it was begun with"]
    os.utime(shard, ns=(st.st_atime_ns, st.st_mtime_ns + 1))
    refused(weighbridge, model, half, [*words, "the time of its last change"], "--no-chat-template")
    shard.rename(model / "before")
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # other bytes, all else the same
    os.utime(shard, ns=(st.st_atime_ns, st.st_mtime_ns))
    refused(weighbridge, model, half, [*words, "its inode"], "--no-chat-template")
    (model / "before").rename(shard)
    os.utime(shard, ns=(st.st_atime_ns, st.st_mtime_ns))
    weighbridge.ok("export", model, half, *QUICK, "--resume")


def test_another_configuration_is_refused(weighbridge, model, half):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.25}))
    refused(weighbridge, model, half, ["was begun with another graph"], "--no-chat-template")


def test_files_that_are_not_what_the_journal_says(weighbridge, model, half, tmp_path):
    data = half.with_name("out.partial") / "onnx_model.data"
    os.truncate(data, data.stat().st_size - 1)
    said = weighbridge.refuses("export", model, half, *QUICK, "--resume")
    assert "onnx_model.data: has" in said and "begin anew" in said and not half.exists()


def test_a_data_file_that_is_gone(weighbridge, model, half, tmp_path):
    (half.with_name("out.partial") / "onnx_model.data").unlink()
    said = weighbridge.refuses("export", model, half, *QUICK, "--resume")
    assert "onnx_model.data: is gone" in said and "run without --resume to begin anew" in said
    assert said.count("\n") == 1 and not half.exists()  # and no word of going on
    weighbridge.ok("export", model, tmp_path / "whole", *QUICK)
    weighbridge.ok("export", model, half, *QUICK)
    assert tree(half) == tree(tmp_path / "whole")


def test_never_through_a_link(weighbridge, model, half, tmp_path):
    data = half.with_name("out.partial") / "onnx_model.data"
    data.rename(tmp_path / "precious")
    before = (tmp_path / "precious").read_bytes()
    data.symlink_to(tmp_path / "precious")
    said = weighbridge.refuses("export", model, half, *QUICK, "--resume")
    assert "onnx_model.data" in said and (tmp_path / "precious").read_bytes() == before


# ---------------------------------------------------------------------------------------------------- signals


@pytest.fixture(scope="session")
def larger(tmp_path_factory):
    """100 MB."""
    config = {"vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 16,
              "num_attention_heads": 8, "head_dim": 64}
    return checkpoints.make(tmp_path_factory.mktemp("larger") / "model", "llama", shards=3, config=config).path


def start(program, *args, env=None):
    return subprocess.Popen([str(a) for a in (program.path, *args)], env={**os.environ, **SANITIZER, **OFTEN, **(env or {})},
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def stop_with_something_done(program, number, *args, at_least=2):
    """Stops a run as soon as its journal has some records; -> status, what it said."""
    run = start(program, *args, "--io", "fault", env=SLOWLY)
    while run.poll() is None and records(args[2].with_name(args[2].name + ".partial")) < at_least:
        time.sleep(0.001)
    run.send_signal(number)
    said = run.communicate()[1].decode()
    return run.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_something_to_go_on_with(weighbridge_release, larger, tmp_path, number):
    out = tmp_path / "out"
    weighbridge_release.ok("export", larger, tmp_path / "whole", *QUICK, "--report", tmp_path / "whole.json")
    status, said = stop_with_something_done(weighbridge_release, number, "export", larger, out, *QUICK, "--threads", 1)
    assert status == 1 and said == (
        "weighbridge: error: interrupted; nothing was published\n"
        f"weighbridge: note: {out}.partial keeps what is finished: the same export with --resume goes on from there\n")
    assert not out.exists()
    weighbridge_release.ok("export", larger, out, *QUICK, "--resume", "--report", tmp_path / "r.json")
    assert tree(out) == tree(tmp_path / "whole") and json.loads((tmp_path / "r.json").read_text())["resumed"]["tensors"] > 1
    assert report_of(tmp_path / "r.json") == report_of(tmp_path / "whole.json")  # hashes too, which the first run did not take
    assert not (tmp_path / "out.partial").exists()


def test_a_killed_run_leaves_no_files_of_its_reports(weighbridge_release, larger, tmp_path):
    """They have no names until they are whole; nor do those of a run that is ended in order where files must have names."""
    out, reports = tmp_path / "out", [*QUICK, "--report", tmp_path / "report.json", "--trace", tmp_path / "trace.json"]
    for nameless, how in ((True, signal.SIGKILL), (False, signal.SIGTERM)):
        prefix = [] if nameless else [sys.executable, HERE / "forbid.py", "O_TMPFILE=EOPNOTSUPP"]
        run = subprocess.Popen(list(map(str, [*prefix, weighbridge_release.path, "export", larger, out, *reports, "--io", "fault"])),
                               env={**os.environ, **OFTEN, **SLOWLY}, stderr=subprocess.DEVNULL)
        while not (tmp_path / "out.partial" / JOURNAL).exists():
            time.sleep(0.001)
        run.send_signal(signal.SIGSTOP)
        there = os.listdir(tmp_path)
        run.send_signal(how)
        run.send_signal(signal.SIGCONT)
        assert run.wait() in (-how, 1, 128 + how)
        assert len([name for name in there if name.endswith(".tmp")]) == (0 if nameless else 2), there
        assert {*os.listdir(tmp_path)} <= {"out.partial"}
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    prefix = [sys.executable, HERE / "forbid.py", "O_TMPFILE=EOPNOTSUPP"]
    weighbridge_release.ok("export", larger, out, *reports, prefix=prefix)
    assert {*os.listdir(tmp_path)} == {"out", "report.json", "trace.json"}


def test_a_second_run_into_the_same_place_is_refused(weighbridge_release, larger, tmp_path):
    out = tmp_path / "out"
    first = start(weighbridge_release, "export", larger, out, *QUICK, "--io", "fault", env=SLOWLY)
    while not (tmp_path / "out.partial" / JOURNAL).exists():
        assert first.poll() is None
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    try:
        for more in ([], ["--resume"], ["--overwrite"]):
            assert "another run is writing to" in weighbridge_release.refuses("export", larger, out, *QUICK, *more)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 0 and sorted(os.listdir(tmp_path)) == ["out"]


def meanwhile(program, change, model, out, *args):
    """A run that is stopped for a moment as soon as it writes, for something to be done then; -> what it said, as it fails."""
    run = start(program, "export", model, out, *QUICK, *args, "--io", "fault", env=SLOWLY)
    while not (out.with_name(out.name + ".partial") / "onnx_model.data").exists():
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGSTOP)
    change()
    run.send_signal(signal.SIGCONT)
    said = run.communicate()[1].decode()
    assert run.returncode == 1, said
    return said


@pytest.mark.parametrize("args", [[], ["--overwrite"]])
def test_an_out_that_becomes_anothers_meanwhile(weighbridge_release, larger, tmp_path, args):
    """It stays; what was converted is published once it is out of the way."""
    out, other = tmp_path / "out", tmp_path / "other"
    weighbridge_release.ok("export", larger, tmp_path / "whole", *QUICK)
    if args:
        shutil.copytree(tmp_path / "whole", out)

    def change():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")

    said = meanwhile(weighbridge_release, change, larger, out, *args)
    assert f"{out}: is no longer what it was" in said if args else f"cannot be renamed to {out}" in said, said
    assert tree(out) == {"thesis.txt": b"years of work"}
    out.rename(other)
    goes_on_from_all(weighbridge_release, larger, out, said, tmp_path / "whole", *args)
    assert tree(other) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("args, strange", [([], True), (["--overwrite"], True), ([], False), (["--pack", "{}.wbz", "--memory", "39M"], True)])
def test_a_partial_that_is_moved_meanwhile(weighbridge_release, larger, tmp_path, args, strange):
    """What has its name by then is neither published nor packed nor removed; with its name back it is gone on from."""
    out, partial, moved = tmp_path / "out", tmp_path / "out.partial", tmp_path / "moved"
    args = [a.format(out) for a in args]
    weighbridge_release.ok("export", larger, tmp_path / "whole", *QUICK)
    if "--overwrite" in args:
        shutil.copytree(tmp_path / "whole", out)

    def change():
        partial.rename(moved)
        if strange:
            partial.mkdir()
            (partial / "thesis.txt").write_text("years of work")

    said = meanwhile(weighbridge_release, change, larger, out, *args)
    assert f"{partial}: is no longer the directory that this run has written to" in said and said.count("\n") == 1, said
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "moved"} | set(["out"] * ("--overwrite" in args) + ["out.partial"] * strange)
    if strange:
        assert tree(partial) == {"thesis.txt": b"years of work"}
        partial.rename(tmp_path / "thesis")
    moved.rename(partial)
    weighbridge_release.ok("export", larger, out, *QUICK, "--resume", *args, "--report", tmp_path / "r.json")
    assert tree(out) == tree(tmp_path / "whole") and json.loads((tmp_path / "r.json").read_text())["bytes"]["read"] == 0


def test_killed_at_random_times(weighbridge_release, larger, tmp_path):
    """The older export or the new one, whole; and --resume, which is killed too, ends in the same bytes."""
    other = checkpoints.make(tmp_path / "other", "llama", config=SMALL).path
    weighbridge_release.ok("export", other, tmp_path / "old", *QUICK)
    began = time.monotonic()
    weighbridge_release.ok("export", larger, tmp_path / "new", *QUICK)
    took = time.monotonic() - began
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new")
    out, seed = tmp_path / "out", random.randrange(1 << 30)
    rng = random.Random(seed)
    print(f"seed {seed}, {took:.2f} s uninterrupted")
    killed = finished = 0
    while killed < KILLS:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        for _ in range(50):
            how = ["--threads", rng.choice([1, 2, 5]), "--memory", rng.choice(["16M", "64M", "512M"]), "--io",
                   rng.choice(["auto", "pread"])]
            run = start(weighbridge_release, "export", larger, out, *QUICK, "--overwrite", "--resume", *how)
            time.sleep(rng.random() * took * 1.1)
            run.kill()
            said = run.communicate()[1].decode()
            assert run.returncode in (0, -9), said
            assert contents(out) in (old, new), sorted(contents(out))
            killed += run.returncode == -9
            finished += records(tmp_path / "out.partial") > 0
            if run.returncode == 0 or killed >= KILLS:
                break
        weighbridge_release.ok("export", larger, out, *QUICK, "--overwrite", "--resume")
        assert tree(out) == new and sorted(os.listdir(tmp_path)) == ["new", "old", "other", "out"]
    print(f"{killed} kills, {finished} of them with something finished")
    assert finished


# ---------------------------------------------------------------------------------------------------- every system call


@pytest.fixture(scope="session")
def syscalls(tmp_path_factory):
    """-> environment in which the calls of syscalls.c stand in front of libc's"""
    shim = tmp_path_factory.mktemp("syscalls") / "syscalls.so"
    source = os.path.join(os.path.dirname(__file__), "syscalls.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    return lambda what: {"LD_PRELOAD": str(shim), "SYSCALLS": what, **OFTEN}


def whole_somewhere(out, old, new):
    """OUT is the old or the new export; or, without exchange, the old one has stepped aside for a moment."""
    aside = out.with_name("out.old")
    return contents(out) in (old, new) or (not out.exists() and aside.exists() and contents(aside) == old)


def test_a_whole_export_is_no_leftover(weighbridge_release, syscalls, model, tmp_path):
    """Another run that was killed just before its end may have published OUT.old, which its mark does not make ours."""
    for name in ("out", "out.old"):
        weighbridge_release.ok("export", model, tmp_path / name, *QUICK)
    mark = tmp_path / "out.old" / JOURNAL
    for text in (b"", b"wbjrnl 1" + bytes(40)):
        mark.write_bytes(text)
        before = tree(tmp_path / "out.old"), tree(tmp_path / "out")
        error = weighbridge_release.refuses("export", model, tmp_path / "out", *QUICK, "--overwrite", env=syscalls("no_exchange"))
        assert "out.old" in error and (tree(tmp_path / "out.old"), tree(tmp_path / "out")) == before
    mark.write_bytes(b"older export, to be removed\n")  # this one is
    weighbridge_release.ok("export", model, tmp_path / "out", *QUICK, "--overwrite", env=syscalls("no_exchange"))
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


def test_every_io_that_fails(weighbridge, model, tmp_path):
    """Each op of the engine in turn: a clean error, nothing lost (the sanitizer sees leaks), and another run goes on."""
    other = checkpoints.make(tmp_path / "other", "llama", config={"num_hidden_layers": 1}).path
    weighbridge.ok("export", other, tmp_path / "old", *QUICK)
    shutil.copytree(tmp_path / "old", tmp_path / "out")
    weighbridge.ok("export", model, tmp_path / "new", *QUICK)
    old, new, out = tree(tmp_path / "out"), tree(tmp_path / "new"), tmp_path / "out"
    for n in range(1, 1000):
        r = weighbridge("export", model, out, *QUICK, "--overwrite", "--threads", 1 + n % 2, "--io", "fault",
                        env={**OFTEN, "WEIGHBRIDGE_FAULT": f"at_most=65536,fail={n},error={(5, 28)[n % 2]}"})
        if r.status == 0:
            break
        assert re.match(r"weighbridge: error: .*: (read|write) of \d+ bytes at|.*no room for", r.stderr), r.stderr
        assert contents(out) == old
        if n % 5 == 0:
            weighbridge.ok("export", model, tmp_path / "out", *QUICK, "--overwrite", "--resume")
            assert tree(out) == new
            shutil.rmtree(out)
            shutil.copytree(tmp_path / "old", out)
    assert n > 30 and tree(out) == new and not (tmp_path / "out.partial").exists()


# ---------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture()
def small_disk(tmp_path):
    """A file system of 3 MiB that can grow: disk(size in MiB)"""
    place = tmp_path / "disk"
    place.mkdir()
    r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3M", "weighbridge-test", place], capture_output=True, text=True)
    if r.returncode:
        pytest.skip(f"mounting is refused here: {r.stderr.strip()}")
    yield place, lambda mib: subprocess.run(["mount", "-o", f"remount,size={mib}M", place], check=True)
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("what", ["lie", "lie,no_fallocate"])
def test_a_disk_that_fills_up(weighbridge_release, syscalls, tmp_path, small_disk, what):  # OPS-07
    """Space is checked first; here that check is lied to, so the disk is full when files get their room, or later."""
    place, grow = small_disk
    model = checkpoints.make(tmp_path / "large", "llama", config={"num_hidden_layers": 1, "vocab_size": 20000}).path
    weighbridge_release.ok("export", model, tmp_path / "new", *QUICK)
    new, out = tree(tmp_path / "new"), place / "out"
    assert sum(len(data) for data in new.values()) > 3 << 20
    before = tree(place)
    said = weighbridge_release.refuses("export", model, out, *QUICK)
    assert "out: needs " in said and "are free: make room or give another place" in said and tree(place) == before
    said = weighbridge_release.refuses("export", model, out, *QUICK, "--io", "pread", "--threads", 1, env=syscalls(what))
    assert "no room for" in said and "No space left on device" in said and not out.exists()
    assert os.listdir(place) == (["out.partial"] if "--resume goes on" in said else [])
    grow(30)
    weighbridge_release.ok("export", model, out, *QUICK, "--resume")
    assert tree(out) == new and os.listdir(place) == ["out"]


def test_room_that_an_earlier_run_holds_counts(weighbridge_release, model, small_disk):
    """Neither --resume nor a new beginning needs room for what stands in OUT.partial a second time."""
    place, grow = small_disk
    grow(1)
    for how in ([], ["--resume"]):
        broken(weighbridge_release, model, place / "out")
        weighbridge_release.ok("export", model, place / "out", *QUICK, *how)
        shutil.rmtree(place / "out")


# ---------------------------------------------------------------------------------------------------- sources that change


def test_a_source_that_changes_during_the_run(weighbridge_release, larger, tmp_path):
    """Also one that had been read already: what is published is of one checkpoint."""
    model = tmp_path / "model"
    shutil.copytree(larger, model)
    for change in (lambda f: os.utime(f), lambda f: os.truncate(f, 1000), lambda f: f.unlink()):
        shard = model / "model-00001-of-00003.safetensors"
        data = shard.read_bytes()
        time.sleep(0.02)
        run = start(weighbridge_release, "export", model, tmp_path / "out", *QUICK, "--threads", 1, "--io", "fault", env=SLOWLY)
        while not records(tmp_path / "out.partial") and run.poll() is None:
            time.sleep(0.001)
        change(shard)
        said = run.communicate()[1].decode()
        assert run.returncode == 1 and "model-00001-of-00003.safetensors: " in said, said
        assert re.search("has changed|too early|cannot be opened", said) and not (tmp_path / "out").exists()
        shard.write_bytes(data)


@pytest.mark.parametrize("what", ["", ",no_exchange"])
@pytest.mark.parametrize("fails", ["kill={}", "fail={},error=28"])
def test_at_every_system_call(weighbridge_release, syscalls, model, tmp_path, what, fails):
    """Killed by, or with an error from, each call in turn that changes the file system."""
    other = checkpoints.make(tmp_path / "other", "llama", config={"num_hidden_layers": 1}).path
    weighbridge_release.ok("export", other, tmp_path / "old", *QUICK)
    weighbridge_release.ok("export", model, tmp_path / "new", *QUICK)
    old, new, out = tree(tmp_path / "old"), tree(tmp_path / "new"), tmp_path / "out"
    command = ["export", model, out, *QUICK, "--overwrite", "--resume", "--threads", 1, "--io", "pread"]
    shutil.copytree(tmp_path / "old", out)
    total = int(weighbridge_release(*command, env=syscalls("count" + what)).stderr.split()[0])
    for n in range(1, total + 1):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        r = weighbridge_release(*command, env=syscalls(fails.format(n) + what), any_status=True)
        assert r.status in (-9, 0, 1), r
        assert whole_somewhere(out, old, new), (n, os.listdir(tmp_path))
        if r.status == 1:
            assert re.fullmatch(r"weighbridge: error: .*No space left on device.*\n(weighbridge: note: .*\n)?", r.stderr), r.stderr
        weighbridge_release.ok(*command, env=syscalls(what))
        assert tree(out) == new and sorted(os.listdir(tmp_path)) == ["model", "new", "old", "other", "out"], n
    assert total > 40


@pytest.mark.parametrize("seconds", ["0.001", "1000"])
@pytest.mark.parametrize("memory,step", [("64M", 2), ("16M", 7)])
def test_pages_that_never_come_to_the_disk(weighbridge_release, syscalls, tmp_path, seconds, memory, step):
    """The kernel tells it once, to one of those who wait. Nothing is published that lacks them, or recorded as finished."""
    config = {"vocab_size": 70001, "hidden_size": 128, "num_hidden_layers": 1, "tie_word_embeddings": True}
    model = checkpoints.make(tmp_path / "model", "llama", config=config).path
    weighbridge_release.ok("export", model, tmp_path / "new", *QUICK)
    new, out, failed = tree(tmp_path / "new"), tmp_path / "out", 0
    for n in range(1, 200, step):
        r = weighbridge_release("export", model, out, *QUICK, "--memory", memory, "--threads", 1, "--io", "pread",
                                env={**syscalls(f"lost={n}"), "WEIGHBRIDGE_JOURNAL": seconds}, any_status=True)
        if r.status == 0:
            assert tree(out) == new
            break
        assert r.status == 1 and "Input/output error" in r.stderr and not out.exists(), r
        failed += 1
        weighbridge_release.ok("export", model, out, *QUICK, "--resume")
        assert tree(out) == new, n
        shutil.rmtree(out)
    assert failed >= 5
