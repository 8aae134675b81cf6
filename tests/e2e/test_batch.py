"""Many exports in one process: the bytes of single ones, whatever happens on the way; what is done again and what is not."""
import json
import os
import shutil
import signal
import subprocess
import time

import checkpoints
import pytest
from conftest import SANITIZER, SLOWLY, tree
from test_drafts import Draft
from test_resume import OFTEN, SMALL, broken, contents, records, small_disk, syscalls  # noqa: F401 (fixtures)

QUICK = {"no-chat-template": True}


class Batch:
    """JOBS.json in a directory, with the models beside it."""

    def __init__(self, weighbridge, path):
        self.weighbridge, self.path, self.jobs = weighbridge, path, []
        path.mkdir()
        self.file = path / "JOBS.json"

    def add(self, model, out, **options):
        self.jobs.append({"model": model, "out": out, **{k.replace("_", "-"): v for k, v in options.items()}})
        return self

    def write(self, document=None):
        self.file.write_text(json.dumps(self.jobs if document is None else document))
        return self.file

    def run(self, *args, **kwargs):
        return self.weighbridge("batch", self.write(), *args, **kwargs)

    def statuses(self, *args, status=0, **kwargs):
        """Runs it; -> {out: status} by its JSON lines"""
        r = self.run("--report", "-", *args, **kwargs)
        assert r.status == status, (r.stdout, r.stderr)
        lines = [json.loads(line) for line in r.stdout.splitlines()]
        assert len(lines) == len(self.jobs) == len({line["index"] for line in lines})
        return {line["out"]: line["status"] for line in lines}

    def refused(self, *words, status=2, document=None):
        before = tree(self.path)
        self.write(document)
        said = self.weighbridge.refuses("batch", self.file, "--keep-going", status=status)
        assert all(word in said for word in words), said
        assert {**tree(self.path), "JOBS.json": 0} == {**before, "JOBS.json": 0}


def single(weighbridge, batch, job, out):
    """The same export alone, from the directory of JOBS.json. -> its files"""
    options = [word for key, value in job.items() if key not in ("model", "out", "draft", "pack", "overwrite") and value
               for word in ([f"--{key}"] if value is True else [f"--{key}", value])]
    weighbridge.ok("export-draft" if job.get("draft") else "export", job["model"], out, *options, "-q", cwd=batch.path)
    return tree(out)


@pytest.fixture()
def batch(weighbridge, tmp_path):
    b = Batch(weighbridge, tmp_path / "batch")
    checkpoints.make(b.path / "llama", "llama")
    checkpoints.make(b.path / "qwen", "qwen3", dtype="F32")
    return b


# ---------------------------------------------------------------------------------------------------- what comes out


def test_twenty_jobs_three_bad_ones_killed_half_way(weighbridge_release, tmp_path):
    b = Batch(weighbridge_release, tmp_path / "batch")
    Draft(b.path, vocab=272).write()
    for name, family, dtype in (("llama", "llama", "BF16"), ("mistral", "mistral", "F16"), ("qwen", "qwen3", "F32")):
        checkpoints.make(b.path / name, family, dtype=dtype, config={"num_hidden_layers": 3})
    checkpoints.make(b.path / "large", "llama", shards=2, config={"vocab_size": 16000, "hidden_size": 512, "num_hidden_layers": 8,
                                                                  "intermediate_size": 1024, "num_attention_heads": 8,
                                                                  "head_dim": 64})
    (b.path / "empty").mkdir()
    for i in range(5):
        b.add(("llama", "mistral", "qwen")[i % 3], f"first{i}", **(QUICK if i else {}))
    b.add("none", "bad0").add("large", "half", **QUICK).add("empty", "bad1").add("llama", "bad2", target="none")
    b.add("draft", "draft-out", draft=True, pack="draft.wbz").add("llama", "eagle", eagle_base=True, **QUICK)
    for i in range(9):
        b.add(("llama", "mistral", "qwen")[i % 3], f"last{i}", strict=i % 2 == 0, **QUICK)
    assert len(b.jobs) == 20

    run = subprocess.Popen([weighbridge_release.path, "batch", b.write(), "--keep-going", "--threads", "1", "-q", "--io", "fault"],
                           env={**os.environ, **SANITIZER, **OFTEN, **SLOWLY}, stderr=subprocess.DEVNULL)
    while run.poll() is None and records(b.path / "half.partial") < 3:
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    done = [job["out"] for job in b.jobs if (b.path / job["out"]).exists()]
    assert len(done) == 5 and not (b.path / "half").exists()

    report = tmp_path / "report.jsonl"
    r = b.run("--keep-going", "--report", report)
    lines = {line["out"]: line for line in map(json.loads, report.read_text().splitlines())}
    assert r.status == 1 and len(lines) == 20
    for out, words in (("bad0", "no such directory"), ("bad1", "holds no weights"), ("bad2", 'target "none" is unknown')):
        assert lines[out]["status"] == "failed" and lines[out]["message"].startswith(f"{out}: ") and words in lines[out]["message"]
        assert r.stderr.count(f"weighbridge: error: {out}: ") == 1 and not (b.path / out).exists()
    assert "3 of 20 jobs failed" in r.stderr and len(r.stderr.splitlines()) == 4 + r.stderr.count("warning")
    assert [out for out in done if lines[out]["status"] == "skipped"] == done
    assert lines["half"]["resumed"]["tensors"] >= 3
    assert "20 jobs: 12 done, 5 skipped, 3 failed, 0 interrupted, 0 not begun" in r.stdout

    for job in b.jobs:
        if not job["out"].startswith("bad"):
            assert tree(b.path / job["out"]) == single(weighbridge_release, b, job, tmp_path / "single" / job["out"])
    weighbridge_release.ok("unpack", b.path / "draft.wbz", tmp_path / "unpacked")
    assert tree(tmp_path / "unpacked") == tree(b.path / "draft-out")
    assert not list(b.path.glob("*.partial"))
    again = b.statuses("--keep-going", status=1)
    assert list(again.values()).count("skipped") == 17 and list(again.values()).count("failed") == 3


@pytest.fixture(autouse=True)
def place_for_singles(tmp_path):
    (tmp_path / "single").mkdir()


def test_at_once_with_a_shared_budget(batch, weighbridge, tmp_path):
    for i in range(6):
        batch.add(("llama", "qwen")[i % 2], f"out{i}", **QUICK)
    assert set(batch.statuses("--jobs", 3, "--memory", "48M").values()) == {"done"}
    for i in range(6):
        assert tree(batch.path / f"out{i}") == single(weighbridge, batch, batch.jobs[i], tmp_path / "single" / f"{i}")
    assert "share the memory of a GPU" in weighbridge.refuses("batch", batch.file, "--jobs", 3, "--device", "cuda", status=2)
    assert "--gpu-feed nccl is for one job at a time" in weighbridge.refuses(
        "batch", batch.file, "--jobs", 3, "--device", "cuda:all", "--gpu-memory", "300M", "--gpu-feed", "nccl", status=2)
    assert "--memory 47M is too little for 3 jobs at once: expected at least 48M, 16M for each" in weighbridge.refuses(
        "batch", batch.file, "--jobs", 3, "--memory", "47M", status=2)


def test_a_share_of_the_memory_has_room_for_an_archive(batch):
    batch.add("llama", "a", pack="a.wbz", **QUICK).add("qwen", "b", **QUICK)
    said = "a: --memory 40M is too little: each of 2 jobs at once has 20M of it, and an archive needs 32M: give 64M, or fewer --jobs"
    r = batch.run("--jobs", 2, "--memory", "40M")
    assert r.status == 1 and said in r.stderr and not (batch.path / "b").exists()
    r = batch.run("--memory", "16M")
    assert r.status == 1 and "a: --memory 16M is too little for an archive: expected at least 32M" in r.stderr
    assert batch.statuses("--jobs", 2, "--memory", "64M") == {"a": "done", "b": "done"}
    assert batch.statuses("--jobs", 2, "--memory", "40M") == {"a": "skipped", "b": "skipped"}


def test_defaults_and_paths_from_elsewhere(batch, weighbridge, tmp_path):
    """What comes out is what export makes in the directory of JOBS.json, from wherever batch is started."""
    job = {"model": "llama", "out": "out/"}
    batch.write({"defaults": {"strict": True, "no-chat-template": True}, "jobs": [job, {**job, "out": "with", "no-chat-template": False}]})
    weighbridge.ok("batch", "batch/JOBS.json", "-q", cwd=tmp_path)
    assert tree(batch.path / "out") == single(weighbridge, batch, {**job, **QUICK}, tmp_path / "single" / "a")
    assert tree(batch.path / "with") == single(weighbridge, batch, job, tmp_path / "single" / "b")
    r = weighbridge.ok("batch", "JOBS.json", cwd=batch.path)
    assert "0 done, 2 skipped" in r.stdout


def test_an_adapter_inside_the_model_and_beside_jobs(weighbridge, golden, tmp_path):
    b = Batch(weighbridge, tmp_path / "batch")
    shutil.copytree(golden / "checkpoints" / "llama", b.path / "model")
    shutil.copytree(golden / "checkpoints" / "lora_llama", b.path / "model" / "inside")
    shutil.copytree(golden / "checkpoints" / "lora_llama", b.path / "beside")
    b.add("model", "a", merge_lora="inside", **QUICK).add("model", "b", merge_lora="beside", **QUICK)
    assert b.statuses() == {"a": "done", "b": "done"}
    assert tree(b.path / "a") == tree(b.path / "b") == single(weighbridge, b, b.jobs[0], tmp_path / "single" / "a")
    config = b.path / "beside" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 3}))
    assert b.statuses() == {"a": "skipped", "b": "done"}


def test_warnings_have_their_out_in_front(weighbridge, tmp_path):
    b = Batch(weighbridge, tmp_path / "batch")
    checkpoints.make(b.path / "model", "mistral", config={"sliding_window": 8})
    r = b.add("model", "first", **QUICK).add("model", "second", strict=True, **QUICK).run("--report", tmp_path / "r", "--keep-going")
    lines = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert r.status == 1 and "weighbridge: warning: first: " in r.stderr and "weighbridge: error: second: " in r.stderr
    assert [len(line["warnings"]) for line in sorted(lines, key=lambda line: line["index"])] == [1, 0]


# ---------------------------------------------------------------------------------------------------- done again or skipped


def test_only_what_changed_is_done_again(batch):
    out = batch.path / "o1"
    for i in range(3):
        batch.add(("llama", "qwen", "llama")[i], f"o{i}", **(QUICK if i else {}))
    assert batch.statuses() == {"o0": "done", "o1": "done", "o2": "done"}
    only = {"o0": "skipped", "o1": "done", "o2": "skipped"}
    none = dict.fromkeys(only, "skipped")
    before = tree(out)

    weights = batch.path / "qwen" / "model.safetensors"
    for change in (lambda: os.utime(weights),
                   lambda: (batch.path / "qwen" / "tokenizer.json").write_text(
                       (batch.path / "qwen" / "tokenizer.json").read_text() + "\n"),
                   lambda: batch.jobs[1].update({"strict": True}),
                   lambda: batch.jobs[1].update({"fp8-kv-cache": True, "strict": False}),
                   lambda: (out / "onnx_model.data").write_bytes(b"touched"),
                   lambda: (out / "config.json").unlink(),
                   lambda: shutil.rmtree(out)):
        assert batch.statuses() == none
        change()
        assert batch.statuses() == only
    assert tree(out).keys() == before.keys() and tree(out)["model.onnx"] != before["model.onnx"]
    batch.jobs[1]["overwrite"] = True  # which says nothing of what is in OUT
    (out / "lora_model.onnx").write_bytes(b"somebody's")
    assert batch.statuses() == none


def test_an_archive_belongs_to_its_job(batch, weighbridge):
    batch.add("llama", "out", pack="out.wbz", **QUICK)
    packed = batch.path / "out.wbz"
    assert batch.statuses() == {"out": "done"} and packed.exists()
    assert batch.statuses() == {"out": "skipped"}
    packed.unlink()
    assert batch.statuses() == {"out": "done"} and packed.exists()
    os.rename(packed, batch.path / "foreign.wbz")
    batch.jobs[0]["pack"] = "foreign.wbz"  # OUT is ours, this is not
    assert "is an archive already" in batch.run().stderr


def test_what_the_state_does_not_name_is_not_replaced(batch, weighbridge):
    weighbridge.ok("export", "llama", "out", "-q", "--no-chat-template", cwd=batch.path)
    batch.add("qwen", "out", **QUICK).add("llama", "other", **QUICK)
    before = tree(batch.path / "out")
    assert batch.statuses(status=1) == {"out": "failed", "other": "not begun"}
    assert tree(batch.path / "out") == before and not (batch.path / "other").exists()
    assert batch.statuses("--keep-going", status=1) == {"out": "failed", "other": "done"}
    batch.jobs[0]["overwrite"] = True
    assert batch.statuses() == {"out": "done", "other": "skipped"}
    assert tree(batch.path / "out") != before


def test_a_partial_of_another_export_is_begun_anew(batch, weighbridge):
    checkpoints.make(batch.path / "small", "llama", dtype="F32", config=SMALL)
    broken(weighbridge, batch.path / "small", batch.path / "out")
    batch.add("llama", "out", **QUICK)
    assert batch.statuses() == {"out": "done"}
    batch.add("llama", "plain", **QUICK)
    assert batch.statuses() == {"out": "skipped", "plain": "done"} and tree(batch.path / "out") == tree(batch.path / "plain")


# ---------------------------------------------------------------------------------------------------- interrupted


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    config = {"vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
              "num_attention_heads": 8, "head_dim": 64}
    return checkpoints.make(tmp_path_factory.mktemp("larger") / "model", "llama", config=config).path


def test_a_signal_stops_all_and_the_next_run_goes_on(weighbridge_release, larger, tmp_path):
    b = Batch(weighbridge_release, tmp_path / "batch")
    for i in range(4):
        b.add(str(larger), f"out{i}", **QUICK)
    command = [weighbridge_release.path, "batch", b.write(), "--jobs", "2", "--threads", "2", "--report", tmp_path / "r", "--io", "fault"]
    run = subprocess.Popen(command, env={**os.environ, **SANITIZER, **OFTEN, **SLOWLY}, stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE)
    while run.poll() is None and not all(records(b.path / f"out{i}.partial") > 1 for i in (0, 1)):
        time.sleep(0.001)
    run.send_signal(signal.SIGINT)
    said = run.communicate()[1].decode()
    assert run.returncode == 1 and said == "weighbridge: error: interrupted; the same batch goes on from there\n"
    lines = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert sorted(line["status"] for line in lines) == ["interrupted", "interrupted", "not begun", "not begun"]
    assert [line["resumable"] for line in lines if line["status"] == "interrupted"] == [True, True]
    assert not any((b.path / f"out{i}").exists() for i in range(4))
    r = b.run("--jobs", 2, "--report", tmp_path / "r")
    lines = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert r.status == 0 and sum(line["resumed"]["tensors"] > 1 for line in lines) == 2
    whole = single(weighbridge_release, b, b.jobs[0], tmp_path / "single" / "whole")
    assert all(tree(b.path / f"out{i}") == whole for i in range(4)) and not list(b.path.glob("*.partial"))


def test_one_batch_of_the_same_jobs_at_a_time(weighbridge_release, larger, tmp_path):
    b = Batch(weighbridge_release, tmp_path / "batch").add(str(larger), "out", **QUICK)
    run = subprocess.Popen([weighbridge_release.path, "batch", b.write(), "-q", "--io", "fault"], env={**os.environ, **SLOWLY})
    while not (b.path / "out.partial").exists():
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGSTOP)
    try:
        assert "another batch is doing these jobs" in weighbridge_release.refuses("batch", b.file)
    finally:
        run.send_signal(signal.SIGCONT)
    assert run.wait() == 0


def test_killed_at_system_calls(weighbridge_release, syscalls, tmp_path):  # noqa: F811
    """Also between a publication and the state that tells of it: the next run ends with all there is to have."""
    b = Batch(weighbridge_release, tmp_path / "batch")
    checkpoints.make(b.path / "llama", "llama", config={"num_hidden_layers": 1})
    b.add("llama", "a", **QUICK).add("llama", "b", fp8_kv_cache=True, **QUICK)
    expected = [single(weighbridge_release, b, job, tmp_path / "single" / job["out"]) for job in b.jobs]
    command = ["batch", b.write(), "-q", "--threads", 1, "--io", "pread"]
    total = int(weighbridge_release(*command, env=syscalls("count")).stderr.split()[0])
    for n in range(1, total + 1, 5):
        for path in [*b.path.glob("[ab]"), *b.path.glob("[ab].*")]:
            shutil.rmtree(path)
        for path in b.path.glob("JOBS.json.*"):
            path.unlink()
        r = weighbridge_release(*command, env=syscalls(f"kill={n}"), any_status=True)
        assert r.status in (0, -9), r
        assert all(contents(b.path / job["out"]) in (None, whole) for job, whole in zip(b.jobs, expected))
        r = weighbridge_release.ok(*command)
        assert [tree(b.path / job["out"]) for job in b.jobs] == expected, n
        assert sorted(os.listdir(b.path)) == ["JOBS.json", "JOBS.json.state", "a", "b", "llama"], n
    assert total > 60


def test_without_keep_going_nothing_begins_after_a_failure(batch, weighbridge):
    for i in range(3):
        batch.add("llama", f"out{i}", **QUICK)
    r = batch.run("--io", "fault", "--report", "-", env={"WEIGHBRIDGE_FAULT": "at_most=65536,fail=4,error=5"})
    statuses = [json.loads(line)["status"] for line in r.stdout.splitlines()]
    assert r.status == 1 and statuses[-1] == "not begun" and "failed" in statuses
    assert "weighbridge: error: out" in r.stderr and "Input/output error" in r.stderr
    assert set(batch.statuses().values()) <= {"done", "skipped"}


# ---------------------------------------------------------------------------------------------------- refused


JOB = {"model": "llama", "out": "out", **QUICK}


@pytest.mark.parametrize("document, words", [
    ({}, ["its jobs are nothing"]),
    ([], ["an empty list"]),
    ({"jobs": "text"}, ["its jobs are a string"]),
    ({"jobs": [JOB], "job": 1}, ['key "job" is unknown']),
    ([JOB, 3], ["jobs[1] is an integer"]),
    ([JOB, {"out": "b"}], ['jobs[1]: key "model" is missing']),
    ([{"model": "llama"}], ['jobs[0]: key "out" is missing']),
    ([JOB, {**JOB, "out": "b", "eagle_base": True}], ['jobs[1]: key "eagle_base" is unknown', "eagle-base"]),
    ([{**JOB, "memory": "1G"}], ['jobs[0]: key "memory" is not an option of one job']),
    ([{**JOB, "strict": "yes"}], ['jobs[0]: key "strict" is a string, expected true or false']),
    ([{**JOB, "target": 5}], ['jobs[0]: key "target" is an integer, expected a text']),
    ([{**JOB, "out": ""}], ['jobs[0]: key "out" is empty']),
    ({"defaults": {"out": "x"}, "jobs": [JOB]}, ['defaults: key "out" is of one job only']),
    ({"defaults": {"x": "x"}, "jobs": [JOB]}, ['defaults: key "x" is unknown']),
    ([JOB, {**JOB, "out": "./out/"}], ['jobs[1]: key "out"', '"out" of jobs[0]']),
    ([JOB, {**JOB, "out": "out/inner"}], ['jobs[1]: key "out"', '"out" of jobs[0]']),
    ([JOB, {**JOB, "out": "out.partial"}], ['jobs[1]: key "out"', "(.partial, .old)"]),
    ([{**JOB, "out": "qwen/out"}, {**JOB, "model": "qwen", "out": "b"}], ['jobs[0]: key "out"', '"model" of jobs[1]']),
    ([{**JOB, "pack": "x.wbz"}, {**JOB, "out": "b", "pack": "x.wbz"}], ['jobs[1]: key "pack"', '"pack" of jobs[0]']),
])
def test_a_wrong_jobs_file(batch, document, words):
    batch.refused("JOBS.json: ", *words, document=document)


def test_where_the_report_may_not_lie(batch, weighbridge, tmp_path):
    batch.add("llama", "out", **QUICK)
    assert batch.statuses() == {"out": "done"}
    before = tree(batch.path)
    for name, key in (("out", "out"), ("llama", "model")):
        said = weighbridge.refuses("batch", batch.file, "--report", batch.path / name / "r.jsonl", status=2)
        assert f'r.jsonl: is, or lies inside, "{key}" of jobs[0]: choose' in said
    assert tree(batch.path) == before
    (tmp_path / "r.jsonl").write_text("older")
    weighbridge.refuses("batch", batch.file, "--report", tmp_path / "r.jsonl", "--jobs", 1, "--memory", "1", status=2)
    weighbridge.refuses("batch", tmp_path / "none.json", "--report", tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_text() == "older"
    assert "--report" in weighbridge.refuses("batch", batch.file, "--report", tmp_path / "none" / "r.jsonl")


def test_the_report_takes_no_file_of_the_batch(batch, weighbridge, tmp_path):
    """Under any name: from elsewhere, through links to it and to its directory."""
    (batch.path / "given.json").write_text('{"chat": "template"}')
    batch.add("llama", "out", pack="x.wbz", chat_template="given.json").add("qwen", "other", **QUICK)
    assert set(batch.statuses("--keep-going", status=1).values()) == {"failed", "done"}
    (tmp_path / "link").symlink_to(batch.path)
    (tmp_path / "jobs.link").symlink_to(batch.file)
    before = tree(tmp_path)
    for place, words in (("batch/JOBS.json", "is JOBS.json itself"), ("jobs.link", "is JOBS.json itself"),
                         ("link/JOBS.json.state", "where this batch remembers"), ("link/JOBS.json.state.partial", "remembers what is done"),
                         ("batch/x.wbz", '"pack" of jobs[0]: '), ("link/../batch/x.wbz.partial", '"pack" of jobs[0] while that is written'),
                         ("link/other.partial", '"out" of jobs[1] while'), ("batch/other.old", '"out" of jobs[1] while'),
                         ("batch/out", '"out" of jobs[0]: '), ("batch/given.json", '"chat-template" of jobs[0]: ')):
        for jobs in ("batch/JOBS.json", "link/JOBS.json"):
            said = weighbridge.refuses("batch", jobs, "--report", place, "--keep-going", status=2, cwd=tmp_path)
            assert words in said and said.startswith(f"weighbridge: error: --report {place}: "), said
    assert tree(tmp_path) == before
    weighbridge.refuses("batch", "jobs.link", "--report", "jobs.link.state", status=2, cwd=tmp_path)
    assert tree(tmp_path) == before


def test_a_wrong_file(batch, weighbridge):
    batch.file.write_text('[{"model": "llama", "model": "x"}]')
    assert "JOBS.json: " in weighbridge.refuses("batch", batch.file, status=2)
    assert "cannot be opened" in weighbridge.refuses("batch", batch.path / "none.json")


def test_a_damaged_state(batch, weighbridge):
    """What the advice promises is what comes of it."""
    batch.add("llama", "out", **QUICK).add("qwen", "new", **QUICK)
    weighbridge.ok("export", "llama", "out", "-q", "--no-chat-template", cwd=batch.path)
    state = batch.path / "JOBS.json.state"
    for text, found in (("{", ": not valid JSON: "), ('{"outs": 3}', ': "outs" is an integer, expected an object'), ("{}", ': "outs" is nothing')):
        state.write_text(text)
        said = weighbridge.refuses("batch", batch.write())
        assert said.startswith(f"weighbridge: error: {state}{found}") and said.count("\n") == 1, said
        assert said.endswith(': remove this state, and all jobs are done again; those whose "out" or "pack" is there need '
                             '"overwrite": true for it\n')
    state.unlink()
    assert batch.statuses("--keep-going", status=1) == {"out": "failed", "new": "done"}
    batch.jobs[0]["overwrite"] = True
    assert batch.statuses() == {"out": "done", "new": "skipped"}


@pytest.mark.parametrize("options, words", [
    ({}, 'taken: holds an export already: give another directory, or "overwrite": true to replace it'),
    ({"overwrite": True, "out": "other"}, 'other: is not empty and is not an export '),
    ({"overwrite": True, "out": "other"}, 'give another directory; "overwrite": true replaces exports only'),
    ({"pack": "JOBS.json.state", "out": "a"}, "exists and is not an archive"),
    ({"pack": "x.wbz", "out": "a"}, 'is an archive already: give another name, or "overwrite": true to replace it'),
    ({"eagle-draft": "qwen"}, 'taken: "eagle-draft" goes with "eagle-base": give both'),
    ({"base-model": "qwen"}, 'taken: "base-model" goes with "draft": give both'),
    ({"chat-template": "none.json", "no-chat-template": True}, '"chat-template" and "no-chat-template": true exclude each other'),
    ({"out": "a--strict", "pack": "a--strict/x.wbz"}, "a--strict/x.wbz: its directory"),
])
def test_a_job_is_told_of_keys(batch, weighbridge, options, words):
    """Not of options, which it does not have."""
    weighbridge.ok("export", "llama", "taken", "-q", "--no-chat-template", "--pack", "x.wbz", cwd=batch.path)
    (batch.path / "other").mkdir()
    (batch.path / "other" / "thesis").write_text("years of work")
    batch.add("llama", "good", **QUICK)
    assert batch.statuses() == {"good": "done"}
    batch.jobs.append({"model": "llama", "out": "taken", **QUICK, **options})
    r = batch.run("--report", "-")
    line = json.loads(r.stdout.splitlines()[-1])
    assert r.status == 1 and line["status"] == "failed" and words in line["message"] and line["message"] in r.stderr, r.stderr


def test_all_are_looked_at_first(batch):
    batch.add("llama", "good", **QUICK).add("none", "bad").add("llama", "worse", zero_points="often")
    r = batch.run()
    assert r.status == 1 and "2 of 3 jobs cannot be done, so none was begun" in r.stderr
    assert "error: bad: " in r.stderr and "error: worse: " in r.stderr
    assert sorted(os.listdir(batch.path)) == ["JOBS.json", "llama", "qwen"]


def test_room_for_all_together(weighbridge, tmp_path, small_disk):  # noqa: F811
    place, grow = small_disk
    b = Batch(weighbridge, tmp_path / "batch")
    checkpoints.make(b.path / "model", "llama", dtype="F32", config=SMALL)
    for i in range(4):
        b.add("model", str(place / f"out{i}"), **QUICK)
    r = b.run()
    assert r.status == 1 and "out3: needs " in r.stderr and "beside what the jobs before it need there" in r.stderr
    assert "so none was begun" in r.stderr and not os.listdir(place)
    grow(8)
    assert set(b.statuses().values()) == {"done"}
