"""Fixtures of the end-to-end tests: the program as users run it, and where the goldens lie.

    def test_refuses(weighbridge, tmp_path):
        r = weighbridge("export", tmp_path / "no such model", tmp_path / "out")
        assert r.status == 1 and "no such model" in r.stderr

WEIGHBRIDGE names the program (default: build/asan, then build/release, then build); WEIGHBRIDGE_RELEASE the one
without sanitizers, for tests where speed matters.  A sanitizer's finding, a signal or any other status than 0, 1, 2
fails the test at once: it can't pass for a refusal.

WEIGHBRIDGE_SKIPS names a list of tests that may be skipped (.ci/skips); then any other skip is a failure of the session.
"""
import fnmatch
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in scripts/onnx_run.py; before a test imports numpy
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell; what it starts would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
BUILDS = ["build/asan/weighbridge", "build/release/weighbridge", "build/weighbridge"]
# In frames that this moves to the heap GCC 12 puts vectors of 64 bytes at multiples of 32, where their stores are faults.
AFTER_RETURN = int("avx512f" not in Path("/proc/cpuinfo").read_text())
SANITIZER = {
    "ASAN_OPTIONS": f"exitcode=99:detect_leaks=1:detect_stack_use_after_return={AFTER_RETURN}:strict_string_checks=1",
    "LSAN_OPTIONS": "exitcode=99",
    "UBSAN_OPTIONS": "exitcode=99:print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "exitcode=99:halt_on_error=1",
}
# For what is to be done in the middle of a run with --io fault: it takes 15 ms for each MB, on any machine.
SLOWLY = {"WEIGHBRIDGE_FAULT": "at_most=65536,delay=1000"}


def may_be_skipped():
    """Patterns of the list, or None: there is none."""
    path = os.environ.get("WEIGHBRIDGE_SKIPS")
    return [line.split("#")[0].strip() for line in (ROOT / path).read_text().splitlines()] if path else None


def unexpected_skips(terminal):
    """(test, why) of those that are not on the list."""
    patterns = may_be_skipped()
    return [(report.nodeid, report.longrepr[2]) for report in terminal.stats.get("skipped", [])
            if patterns is not None and not any(fnmatch.fnmatchcase(report.nodeid.split("::")[-1], p.replace("[", "[[]"))
                                                for p in patterns if p)]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal and unexpected_skips(terminal) and not session.exitstatus:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    for test, why in unexpected_skips(terminalreporter):
        terminalreporter.write_line(f"SKIPPED, and not on the list of what may be: {test}: {why}", red=True)


@dataclass
class Result:
    status: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


class Program:
    """The program at `path`; calling it runs it and returns a Result."""

    def __init__(self, path):
        self.path = Path(path)

    def __call__(self, *args, env=None, timeout=300, prefix=(), any_status=False, **kwargs):
        """`env` adds variables; `prefix` is a command to run it under (`["prlimit", "--nofile=64"]`)."""
        command = [str(a) for a in (*prefix, self.path, *args)]
        run = subprocess.run(command, env={**os.environ, **SANITIZER, **(env or {})}, timeout=timeout,
                             stdin=kwargs.pop("stdin", subprocess.DEVNULL), capture_output=True, **kwargs)
        r = Result(run.returncode, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace"))
        if not any_status and r.status not in (0, 1, 2):
            pytest.fail(f"{' '.join(command)}: status {r.status}\n{r.stdout[-2000:]}\n{r.stderr[-8000:]}")
        return r

    def ok(self, *args, **kwargs):
        r = self(*args, **kwargs)
        if r.status == 1 and "io_uring is not to be had here" in r.stderr:  # only where --io uring names it; CI allows no such skip
            pytest.skip(r.stderr.strip().split("\n")[-1])
        assert r.status == 0, f"weighbridge {' '.join(map(str, args))}: status {r.status}\n{r.stderr[-4000:]}"
        return r

    def refuses(self, *args, status=1, **kwargs):
        """-> what it said"""
        r = self(*args, **kwargs)
        assert r.status == status, f"weighbridge {' '.join(map(str, args))}: status {r.status}\n{r.stderr[-4000:]}"
        assert r.stderr.strip(), "refused without a word"
        return r.stderr


def program(variable, builds):
    """An absolute path is taken as it is; there is no skipping: no program, no test run."""
    given = os.environ.get(variable)
    for path in [given] if given else builds:
        path = ROOT / path
        if path.is_file():
            return Program(path)
    pytest.fail(f"{given or ', '.join(builds)}: no such program; build it (scripts/test.sh does) or set {variable}")


@pytest.fixture(scope="session")
def weighbridge():
    return program("WEIGHBRIDGE", BUILDS)


@pytest.fixture(scope="session")
def weighbridge_release(weighbridge):
    """Where speed matters; the other one where there is no release build."""
    if "WEIGHBRIDGE_RELEASE" in os.environ or (ROOT / BUILDS[1]).is_file():
        return program("WEIGHBRIDGE_RELEASE", BUILDS[1:2])
    return weighbridge


@pytest.fixture(scope="session")
def golden():
    """golden / "checkpoints" / "llama", golden / "edgellm-0.5" / "llama", golden / "compare_onnx.py" """
    return GOLDEN


@pytest.fixture(scope="session")
def compare(golden):
    """compare(A, B, *options) runs compare_onnx.py and fails with its differences."""
    def run(a, b, *options):
        r = subprocess.run([sys.executable, golden / "compare_onnx.py", a, b, *options], capture_output=True, text=True)
        assert r.returncode == 0, f"{a} and {b} differ\n{r.stdout[-6000:]}\n{r.stderr[-2000:]}"
        return r.stdout
    return run


def tree(path):
    """What lies under `path`: {relative name: bytes, or link target}; to show that nothing was written."""
    path = Path(path)
    return {str(p.relative_to(path)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None
            for p in sorted(path.rglob("*"))}


def exported(weighbridge, model, out):
    """-> everything in the output but the model's path"""
    weighbridge.ok("export", model, out)
    weighbridge.ok("verify", out, model)
    files = tree(out)
    files.pop("processed_chat_template.json", None)
    return files
