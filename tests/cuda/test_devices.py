"""The plugin (src/gpu) over simulated devices: everything of gpu.h by tests/gpu/devices.c, what is said of each call that
fails, and NCCL that never ends.  Status 97 or 98 of a run would be a race, a leak, misuse or a deadlock."""
import os
import re
import subprocess

import pytest

from kernels import BUILD, transforms

PROGRAM = BUILD / "tests" / "gpu_devices"
STAND_INS = BUILD / "simcuda"
ALL = "WEIGHBRIDGE_CUDA_ALL" in os.environ
FINE, FAILED, NONE = 0, 3, 77
ALL_RIGHT = r"(device \d: Simulated device \d, 0\.3 GB\n)+all right\n"


def run(which="cuda:all", *parts, devices=2, schedule="lazy", path=STAND_INS, env=None, **settings):
    """-> (status, stdout, stderr)"""
    env = {**os.environ, "WEIGHBRIDGE_CUDA": str(BUILD / "libweighbridge_cuda.so"), "LD_LIBRARY_PATH": str(path), "LD_BIND_NOW": "1",
           "SIMCUDA_DEVICES": str(devices), "SIMCUDA_SCHEDULE": schedule, **{f"SIMCUDA_{k.upper()}": str(v) for k, v in settings.items()},
           **(env or {})}
    r = subprocess.run([PROGRAM, which, *parts], env=env, capture_output=True, text=True, timeout=60)
    return r.returncode, r.stdout, r.stderr


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("schedule", ["lazy", "eager", *(f"random:{seed}" for seed in range(1, 6))])
def test_all_is_right(devices, schedule):
    status, out, said = run(devices=devices, schedule=schedule)
    assert (status, said) == (FINE, "") and re.fullmatch(ALL_RIGHT, out), (status, out, said)
    assert out.count("device") == 2 * devices


@pytest.mark.parametrize("which, numbers", [("cuda", [0]), ("cuda:2", [2]), ("cuda:3,1", [3, 1]), ("cuda:all", [0, 1, 2, 3])])
def test_which_devices(which, numbers):
    status, out, said = run(which, devices=4)
    assert (status, said) == (FINE, "")
    assert [int(n) for n in re.findall(r"^device (\d)", out, re.M)] == numbers


def test_there_is_none():
    for env, says in [
            ({}, "there is no NVIDIA driver: install it, or use --device cpu"),
            ({"SIMCUDA_FAIL": "cudaGetDeviceCount:1=100"}, "the NVIDIA driver finds none: check nvidia-smi"),
            ({"SIMCUDA_FAIL": "cudaGetDeviceCount:1=35"}, "the NVIDIA driver is for CUDA "),
            ({"SIMCUDA_FAIL": "cudaGetDeviceCount:1=802"}, "802")]:
        status, out, said = run(path=STAND_INS if env else "/nowhere", env=env)
        assert (status, out) == (NONE, "") and re.fullmatch(r"no CUDA device: [^\n]+\n", said) and says in said, said
    assert run("cuda:2,5")[2] == "no CUDA device: device 2 was asked for, but there are 2, numbered from 0\n"
    assert run("cuda:1", devices=1)[2] == "no CUDA device: device 1 was asked for, but there is 1, numbered from 0\n"


def counts(tmp_path, **settings):
    assert run(count=tmp_path / "counts", **settings)[0] == FINE
    return {name: int(n) for name, n in (line.split() for line in (tmp_path / "counts").read_text().splitlines())}


IGNORED = {"cudaGetLastError", "ncclCommAbort", "ncclCommDestroy", "cudaStreamSynchronize", "cudaStreamDestroy", "cublasDestroy_v2",
           "cudaLibraryUnload"}  # at the end, or what they say is known already
CODES = {"cudaMalloc": 2, "cudaHostRegister": 2, "cudaGetDeviceCount": 100, "nccl": 2, "cublas": 7}
DEVICE = r"device (?P<device>[01]) \((Simulated device (?P=device)|\?)\): "
SAYS = {
    "cudaGetDeviceCount": r"no CUDA device: ",
    "cudaMalloc": DEVICE + r"has no room: [\d.]+ \wB? ?\w* asked for, [\d.]+ MB of 268\.4 MB free: give less by --gpu-memory",
    "cudaHostRegister": r"CUDA cannot pin 4\.19 MB of the host's memory: ",
    "nccl": r"NCCL, 2 devices: ",
    "cublas": DEVICE + r"[a-zA-Z ]+: cuBLAS says ",
    "exec:comm": rf"({DEVICE}its work failed: |NCCL, 2 devices: ).*",
    "cuda": DEVICE + r"[\w .]+: \w+ \(cudaErrorIllegalAddress, 700\), of this or of something queued before",
    "exec": DEVICE + r"[\w .]+: \w+ \(cudaErrorIllegalAddress, 700\), of this or of something queued before",
}


def of(table, name, otherwise=None):
    return next((table[k] for k in table if name.startswith(k)), otherwise)


@pytest.mark.parametrize("schedule", ["lazy", "eager", "random:1"] if ALL else ["lazy", "random:1"])
def test_every_failing_call_is_named(schedule, tmp_path):
    """One sentence with the device, what was done, and CUDA's words; nothing leaks, nothing hangs."""
    failures = 0
    for name, n in counts(tmp_path, schedule=schedule).items():
        for i in range(1, n + 1) if ALL else sorted({1, n // 2 + 1, n}):
            status, _, said = run(schedule=schedule, fail=f"{name}:{i}={of(CODES, name, 700)}")
            assert status in (FINE, FAILED, NONE), (name, i, status, said)
            if status == FINE:  # what fails while all is closed, or is told otherwise
                assert said == ""
            else:
                assert re.match(of(SAYS, name), said) or "cannot be used" in said, (name, i, said)
                assert said.count("\n") == 1 and name not in IGNORED, (name, i, said)
                failures += 1
    assert failures > 60


@pytest.mark.parametrize("schedule", ["lazy", "random:2"])
def test_the_device_that_fails_is_named(schedule):
    for spec in ("exec:kernel@1:1", "exec:copy@1:2", "exec:product@1:1", "cudaLaunchKernelExC@1:3"):
        status, _, said = run(schedule=schedule, fail=f"{spec}=719")
        assert status == FAILED and said.startswith("device 1 (Simulated device 1): ") and "719" in said, said


def stuck(how, *parts, **settings):
    env = {"STUCK_NCCL": how, "WEIGHBRIDGE_NCCL_TIMEOUT": "0.4"}
    return run("cuda:all", "exchange", path=f"{STAND_INS}/stuck:{STAND_INS}", env=env, **settings)


BOTH = r"rank 0 \(device 0, Simulated device 0\), rank 1 \(device 1, Simulated device 1\)"


@pytest.mark.parametrize("schedule", ["lazy", "eager", "random:1"])
def test_nccl_that_does_not_come_up(schedule):
    status, _, said = stuck("init", schedule=schedule)
    assert status == FAILED and re.fullmatch(rf"NCCL, 2 devices: {BOTH} are not connected within 0\.4 s: [^\n]*\n", said), said


@pytest.mark.parametrize("schedule", ["lazy", "eager", "random:1"])
def test_an_exchange_that_does_not_end(schedule):
    """It is broken off, and closing goes as usual."""
    status, _, said = stuck("exchange", schedule=schedule)
    assert status == FAILED, said
    assert re.fullmatch(rf"broken off: rank 0\nbroken off: rank 1\nNCCL, 2 devices: no end of what {BOTH} have to do within 0\.4 s: [^\n]*\n", said), said


def test_an_exchange_that_cannot_be_broken_off():
    """What does not answer is left alone: that it is, the simulation tells at the end."""
    status, _, said = stuck("deaf")
    assert status == 97 and f"no end of what rank 0" in said and "broken off: rank 1" in said
    assert "never waited for" in said or "LEAK" in said, said


@pytest.mark.parametrize("schedule", ["lazy", "random:1"])
def test_a_rank_that_fails_is_named(schedule):
    status, _, said = stuck("rank", schedule=schedule)
    assert status == FAILED and said.endswith("NCCL, 2 devices: rank 1 (device 1, Simulated device 1): remote error (6)\n"), said


def test_a_library_that_is_missing(tmp_path):
    """NCCL only for several devices, cuBLAS only for a merge."""
    for name in ("libcudart.so.13",):
        (tmp_path / name).symlink_to(STAND_INS / name)
    (tmp_path / "kernels").symlink_to(STAND_INS / "kernels")
    (tmp_path / "libnccl.so.2").write_text("")
    (tmp_path / "libcublas.so.13").write_text("")
    status, _, said = run("cuda:all", "copy", "cast", path=tmp_path)
    assert (status, said) == (FINE, "")
    status, _, said = run("cuda:all", "exchange", path=tmp_path)
    assert status == FAILED and said.startswith("2 devices work together by NCCL, which does not load: ") and "libnccl.so.2" in said
    status, _, said = run("cuda:0", "exchange", path=tmp_path)
    assert (status, said) == (FINE, "")
    status, _, said = run("cuda:0", "merge", path=tmp_path)
    assert status == FAILED and said.startswith("device 0 (Simulated device 0): needs cuBLAS of CUDA 13 for a LoRA merge: ") and "libcublas.so.13" in said


def test_only_known_symbols_are_needed():
    """What the plugin takes from cudart the stand-in has: a call that it lacks must not come up late."""
    def symbols(option, path):
        lines = subprocess.run(["nm", "-D", option, path], capture_output=True, text=True, check=True).stdout.splitlines()
        return {line.split()[-1].split("@")[0] for line in lines}

    needed = {s for s in symbols("--undefined-only", BUILD / "libweighbridge_cuda.so") if s.startswith(("cuda", "nccl", "cublas"))}
    assert len(needed) > 20 and not [s for s in needed if not s.startswith("cuda")]
    assert needed <= symbols("--defined-only", STAND_INS / "libcudart.so.13")
    assert symbols("--defined-only", BUILD / "libweighbridge_cuda.so") == {"weighbridge_gpu_calls"}


def bench(*options, env=None):
    env = {**os.environ, "WEIGHBRIDGE_CUDA": str(BUILD / "libweighbridge_cuda.so"), "LD_LIBRARY_PATH": str(STAND_INS), "SIMCUDA_DEVICES": "1",
           **(env or {})}
    return subprocess.run([BUILD / "bench" / "gpu_bench", "--mib", "1", "--runs", "1", "--csv", *options], env=env, capture_output=True,
                          text=True, timeout=300)


def test_bench():
    """Every transform comes up and is right; what fails, and where there is no device, the exit status says."""
    r = bench()
    assert r.returncode == 0 and "the times mean nothing" in r.stderr, r.stderr
    rows = [line.split(",") for line in r.stdout.splitlines()[1:]]
    names = {row[1] for row in rows}
    assert set(transforms()) <= names and {"cast/bf16-f16 gathered", "pack4/out by group", "merge: all", "copy out"} <= names
    assert all(row[-1] in ("0", "-") for row in rows) and sum(row[-1] == "-" for row in rows) == 4
    r = bench(env={"SIMCUDA_FAIL": "exec:kernel:3=719"})
    assert r.returncode == 1 and "gpu_bench: device 0 (Simulated device 0): " in r.stderr
    r = bench(env={"LD_LIBRARY_PATH": "/nowhere"})
    assert r.returncode == NONE and r.stderr.startswith("skipped: no CUDA device: ") and not r.stdout
