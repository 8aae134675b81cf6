"""One export by several processes that mpirun starts: the bytes and the report of one process, whatever their number; a rank
that fails says why and ends all; another number of ranks goes on from what some have left.

    WEIGHBRIDGE_KILLS=200 scripts/test.sh -k killed_at_calls     # the long way
"""
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import checkpoints
import int4
import numpy as np
import pytest
from conftest import SANITIZER, tree
from test_resume import JOURNAL, KILLS, QUICK, contents, finished, goes_on_from_all, syscalls  # noqa: F401 (a fixture)

# Tests may run as root, on fewer processors than ranks, without ssh; libmpi's own leaks are not ours.
MPI = {"OMPI_MCA_plm": "isolated", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
       "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "WEIGHBRIDGE_JOURNAL": "0.001",
       "ASAN_OPTIONS": SANITIZER["ASAN_OPTIONS"].replace("detect_leaks=1", "detect_leaks=0")}
pytestmark = pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun: install openmpi-bin and libopenmpi-dev")
SMALL = {"num_hidden_layers": 2, "vocab_size": 3000}


def ranks(n, only=None, **env):
    """The prefix that starts n ranks; `env` for the rank `only`."""
    names = " ".join(f"{k}='{v}'" for k, v in env.items())
    script = f'[ "$OMPI_COMM_WORLD_RANK" != "{only}" ] || export {names}; exec "$0" "$@"'
    return ["mpirun", "-np", str(n), *(["sh", "-c", script] if env else [])]


@pytest.fixture()
def model(tmp_path):
    return checkpoints.make(tmp_path / "model", "llama", dtype="F32", shards=3, config=SMALL).path


def comparable(report):
    return {t["name"]: t for t in json.loads(report.read_text())["tensors"]}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_bytes_and_the_report_of_one_process(n, weighbridge, model, tmp_path):
    weighbridge.ok("export", model, tmp_path / "one", *QUICK, "--report", tmp_path / "one.json")
    r = weighbridge.ok("export", model, tmp_path / "some", "--no-chat-template", "--report", tmp_path / "some.json",
                       prefix=ranks(n), env=MPI)
    assert tree(tmp_path / "some") == tree(tmp_path / "one")
    assert comparable(tmp_path / "some.json") == comparable(tmp_path / "one.json")
    assert r.stdout.count("tensors hashed") == 1, "one rank reports"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "one", "one.json", "some", "some.json"]


def test_an_archive(weighbridge, model, tmp_path):
    """No rank sees what the others have written: it is packed afterwards."""
    weighbridge.ok("export", model, tmp_path / "one", *QUICK, "--pack", tmp_path / "one.wbz")
    weighbridge.ok("export", model, tmp_path / "some", *QUICK, "--pack", tmp_path / "some.wbz", "--report", tmp_path / "r.json",
                   prefix=ranks(2), env=MPI)
    archive = json.loads((tmp_path / "r.json").read_text())["archive"]
    assert archive["after"] == archive["wall"] and (tmp_path / "some.wbz").read_bytes() == (tmp_path / "one.wbz").read_bytes()


def test_more_ranks_than_tensors(weighbridge, tmp_path):
    """Of a tied head, embedding and matrix come from one source, which one rank reads."""
    path = checkpoints.make(tmp_path / "model", "llama", config={"num_hidden_layers": 1, "tie_word_embeddings": True}).path
    weighbridge.ok("export", path, tmp_path / "one", *QUICK)
    weighbridge.ok("export", path, tmp_path / "many", *QUICK, prefix=ranks(12), env=MPI)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_four_bits(weighbridge, tmp_path):
    """Tiles that read several tensors, in whatever shard."""
    q = int4.quantize(checkpoints.build("llama", config=SMALL | {"intermediate_size": 192}), "gptq", 32, False)
    q.checkpoint.write(tmp_path / "model", shards=3)
    weighbridge.ok("export", tmp_path / "model", tmp_path / "one", *QUICK)
    weighbridge.ok("export", tmp_path / "model", tmp_path / "some", *QUICK, prefix=ranks(3), env=MPI)
    assert tree(tmp_path / "some") == tree(tmp_path / "one")


def test_a_draft(weighbridge, golden, tmp_path):
    draft = golden / "checkpoints" / "llama_eagle3"
    weighbridge.ok("export-draft", draft, tmp_path / "one", "-q")
    weighbridge.ok("export-draft", draft, tmp_path / "some", "-q", prefix=ranks(2), env=MPI)
    assert tree(tmp_path / "some") == tree(tmp_path / "one")


# ---------------------------------------------------------------------------------------------------- failures


def test_what_all_ranks_see_is_said_once(weighbridge, model, tmp_path):
    (model / "model-00002-of-00003.safetensors").unlink()
    said = weighbridge.refuses("export", model, tmp_path / "out", prefix=ranks(3), env=MPI)
    assert said.count("weighbridge: error") == 1 and "rank 0 of 3: " in said and "model-00002-of-00003" in said
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_an_out_that_is_taken(weighbridge, model, tmp_path):
    weighbridge.ok("export", model, tmp_path / "out", *QUICK)
    before = tree(tmp_path / "out")
    said = weighbridge.refuses("export", model, tmp_path / "out", *QUICK, prefix=ranks(2), env=MPI)
    assert said.count("weighbridge: error") == 1 and "--overwrite" in said
    assert tree(tmp_path / "out") == before
    weighbridge.ok("export", model, tmp_path / "out", *QUICK, "--overwrite", prefix=ranks(2), env=MPI)
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_rank_that_cannot_read_on_ends_all(only, weighbridge, model, tmp_path):
    """The others stop, one message is left, and it is this rank's."""
    weighbridge.ok("export", model, tmp_path / "out", *QUICK)
    before = tree(tmp_path / "out")
    prefix = ranks(3, only, WEIGHBRIDGE_FAULT="at_most=4096,fail=5,error=5")
    said = weighbridge.refuses("export", model, tmp_path / "out", *QUICK, "--overwrite", "--io", "fault", prefix=prefix, env=MPI)
    assert said.count("weighbridge: error") == 1 and f"rank {only} of 3: " in said and "Input/output error" in said
    assert tree(tmp_path / "out") == before


def test_a_rank_that_sees_another_checkpoint(weighbridge, model, tmp_path):
    """As where a path is no shared file system."""
    other = checkpoints.make(tmp_path / "other", "llama", dtype="F32", shards=3, config=SMALL | {"rms_norm_eps": 1e-3}).path
    script = f'[ "$OMPI_COMM_WORLD_RANK" != 1 ] || set -- "$1" "{other}" "$3" -q --no-chat-template; exec "$0" "$@"'
    said = weighbridge.refuses("export", model, tmp_path / "out", *QUICK,
                               prefix=["mpirun", "-np", "2", "sh", "-c", script], env=MPI)
    assert "rank 1 of 2: " in said and "not those of rank 0" in said
    assert not (tmp_path / "out").exists()


def test_without_the_plugin(weighbridge, model, tmp_path):
    """Several processes that do not know of each other must not begin."""
    env = {"OMPI_COMM_WORLD_SIZE": "2", "WEIGHBRIDGE_MPI": str(tmp_path / "none.so")}
    said = weighbridge.refuses("export", model, tmp_path / "out", *QUICK, env=env)
    assert "2 processes were started together" in said and "-DWEIGHBRIDGE_MPI=ON" in said
    assert not (tmp_path / "out.partial").exists()


def test_the_program_needs_no_mpi(weighbridge):
    needs = subprocess.run(["ldd", weighbridge.path], capture_output=True, text=True, check=True).stdout
    assert "mpi" not in needs and "libjansson" in needs


# ---------------------------------------------------------------------------------------------------- going on


def start(weighbridge, n, *args):
    return subprocess.Popen([*ranks(n), str(weighbridge.path), *map(str, args)], env={**os.environ, **SANITIZER, **MPI},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def end(job, out):
    """Kills it and its ranks, which are no children of ours."""
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    is_dead(out, lambda: subprocess.run(["pkill", "-KILL", "-f", str(out)]))


def is_dead(out, kill=lambda: None):
    """Waits until no rank has a hold of the output: a killed process takes its time."""
    partial = out.with_name(out.name + ".partial")
    for _ in range(600):
        kill()
        if not partial.exists():
            return
        fd = os.open(partial, os.O_RDONLY)
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        finally:
            os.close(fd)
    pytest.fail(f"{partial} is still locked")


def test_another_number_of_ranks_goes_on(weighbridge, model, tmp_path):
    """Three ranks are killed at some time with all that they are; two, or one, end in the same bytes and report."""
    weighbridge.ok("export", model, tmp_path / "one", *QUICK, "--report", tmp_path / "one.json")
    whole = tree(tmp_path / "one")
    for trial in range(6):
        out, report = tmp_path / f"out{trial}", tmp_path / f"out{trial}.json"
        job = start(weighbridge, 3, "export", model, out, *QUICK, "--io", "fault")
        time.sleep(random.Random(trial).uniform(0.3, 2.5))
        end(job, out)
        if out.exists():  # perhaps with the mark of a publication that is not tidied up
            assert contents(out) == whole
            continue
        n = 1 + trial % 2
        weighbridge.ok("export", model, out, *QUICK, "--resume", "--report", report, prefix=ranks(n) if n > 1 else (), env=MPI)
        assert tree(out) == whole
        assert comparable(report) == comparable(tmp_path / "one.json")
        assert not out.with_name(out.name + ".partial").exists()


def test_what_all_ranks_made_is_kept_when_it_is_refused(weighbridge, tmp_path):
    ckpt = checkpoints.build("llama", dtype="F32", config=SMALL)
    name = "model.layers.1.mlp.up_proj.weight"
    ckpt.tensors[name] = checkpoints.tensor(np.full(ckpt.tensors[name].shape, 1e38), "F32")
    model = ckpt.write(tmp_path / "model", shards=3).path
    weighbridge.ok("export", model, tmp_path / "one", *QUICK)
    said = weighbridge.refuses("export", model, tmp_path / "out", *QUICK, "--strict", prefix=ranks(3), env=MPI)
    assert "up_proj" in said
    goes_on_from_all(weighbridge, model, tmp_path / "out", said, tmp_path / "one")


def test_what_ranks_left_is_taken_over(weighbridge, model, tmp_path):
    """A failing disk stops rank 2 late: what all three had finished is not made again."""
    weighbridge.ok("export", model, tmp_path / "one", *QUICK, "--report", tmp_path / "one.json")
    out, report = tmp_path / "out", tmp_path / "report.json"
    for op in range(100, 3, -4):
        prefix = ranks(3, 2, WEIGHBRIDGE_FAULT=f"at_most=4096,fail={op},error=5")
        r = weighbridge("export", model, out, *QUICK, "--io", "fault", prefix=prefix, env=MPI)
        if (tmp_path / "out.partial" / f"{JOURNAL}.1").exists():
            break
        assert r.status == 0, r.stderr  # so many operations rank 2 does not need
        shutil.rmtree(out)
    assert r.status == 1 and "rank 2 of 3: " in r.stderr and "--resume goes on from there" in r.stderr
    weighbridge.ok("export", model, out, *QUICK, "--resume", "--report", report)
    assert tree(out) == tree(tmp_path / "one")
    assert comparable(report) == comparable(tmp_path / "one.json")
    assert json.loads(report.read_text())["resumed"]["tensors"] > 0


class Killable:
    """An export by three ranks, of which one dies at a call of its own that changes a file, and mpirun ends the others at once."""

    def __init__(self, program, syscalls, model, path):
        self.program, self.syscalls, self.model, self.path = program, syscalls, model, path
        self.out, self.partial, self.archive, self.report = (path / n for n in ("out", "out.partial", "x.wbz", "r.json"))
        self.command = ["export", model, self.out, *QUICK, "--pack", self.archive, "--threads", 1, "--io", "pread", "--resume", "--overwrite"]
        program.ok("export", model, path / "one", *QUICK, "--pack", path / "one.wbz", "--report", path / "one.json")
        self.whole, self.packed = tree(path / "one"), (path / "one.wbz").read_bytes()
        self.all = sum(t["file"] != "model.onnx" for t in comparable(path / "one.json").values())

    def clear(self):
        for p in (self.out, self.partial):
            shutil.rmtree(p, ignore_errors=True)
        self.archive.unlink(missing_ok=True)

    def by_ranks(self, only, what):
        env = {**self.syscalls(what), "SYSCALLS_BELOW": self.path, "WEIGHBRIDGE_JOURNAL": "100"}  # so it has one entry
        r = self.program(*self.command, prefix=ranks(3, only, **env), env={**MPI, "OMPI_MCA_odls_base_sigkill_timeout": "0"}, any_status=True)
        is_dead(self.out)
        return r

    def after_the_last_weight(self, only):
        """-> numbers of the calls of rank `only` after all ranks have said that their tensors are written and recorded"""
        calls = re.findall(r"^(\d+) (\w+) (/.*)$", self.by_ranks(only, "list").stderr, re.M)
        last = max(i for i, (_, _, file) in enumerate(calls) if file.endswith((".data", ".safetensors")))
        recorded = next(i for i, (_, call, file) in enumerate(calls) if i > last and call == "fdatasync" and f"/{JOURNAL}" in file)
        assert [int(n) for n, _, _ in calls] == list(range(1, len(calls) + 1))
        return list(range(recorded + 2, len(calls) + 1))

    def recorded(self):
        return len({tensor for journal in self.partial.glob(f"{JOURNAL}*") for tensor in finished(journal)})

    def goes_on(self, n):
        """By n ranks, from all that was made: no weight is read again."""
        published = contents(self.out)
        assert published == self.whole or (published is None and self.recorded() == self.all)
        self.program.ok(*self.command, "--report", self.report, prefix=ranks(n) if n > 1 else (), env=MPI)
        report = json.loads(self.report.read_text())
        assert published or (report["resumed"]["tensors"], report["bytes"]["read"]) == (self.all, 0)
        assert tree(self.out) == self.whole and self.archive.read_bytes() == self.packed
        assert comparable(self.report) == comparable(self.path / "one.json")
        assert {p.name for p in self.path.iterdir()} - {"left"} == {"model", "one", "one.json", "one.wbz", "out", "x.wbz", "r.json"}


def some(points, most):
    """At even distances, the first among them."""
    return points[::-(-len(points) // max(1, most))]


@pytest.mark.parametrize("only", [0, 1])
def test_killed_at_calls_after_the_last_weight(only, weighbridge_release, syscalls, model, tmp_path):  # noqa: F811
    """While records change hands, an archive is packed, both are published: what is finished stands in some journal at each moment."""
    k = Killable(weighbridge_release, syscalls, model, tmp_path)
    points = k.after_the_last_weight(only)
    assert len(points) >= (1 if only else 15)
    for i, n in enumerate(some(points, KILLS // 3)):
        k.clear()
        assert k.by_ranks(only, f"kill={n}").status == 137
        k.goes_on(1 + i % 2)


def test_a_journal_that_cannot_take_over(weighbridge_release, syscalls, model, tmp_path):  # noqa: F811
    """Rank 0 has no room for the others' records: these keep theirs."""
    k = Killable(weighbridge_release, syscalls, model, tmp_path)
    first = k.after_the_last_weight(0)[0]
    for n, error, words in ((first, 28, "No space left on device"), (first + 1, 5, "Input/output error")):
        k.clear()
        r = k.by_ranks(0, f"fail={n},error={error}")
        assert r.status == 1 and "rank 0 of 3: " in r.stderr and words in r.stderr and "--resume goes on" in r.stderr, r.stderr
        assert len(list(k.partial.glob(f"{JOURNAL}.*"))) == 2
        k.goes_on(2)


def test_killed_at_calls_while_it_takes_over(weighbridge_release, syscalls, model, tmp_path):  # noqa: F811
    """One process that goes on from what three have left, each in a journal of its own."""
    k = Killable(weighbridge_release, syscalls, model, tmp_path)
    first = k.after_the_last_weight(0)[0]
    k.clear()
    k.by_ranks(0, f"kill={first}")
    assert len(list(k.partial.glob(f"{JOURNAL}.*"))) == 2 and k.recorded() == k.all
    k.partial.rename(tmp_path / "left")
    shutil.copytree(tmp_path / "left", k.partial)
    env = {"SYSCALLS_BELOW": str(tmp_path)}
    total = int(weighbridge_release(*k.command, env={**syscalls("count"), **env}).stderr.split()[0])
    for n in some(range(1, total + 1), KILLS):
        k.clear()
        shutil.copytree(tmp_path / "left", k.partial)
        assert weighbridge_release(*k.command, env={**syscalls(f"kill={n}"), **env}, any_status=True).status == -9
        k.goes_on(1)
