"""The simulated devices (tests/simcuda): what is right passes in every schedule, and every planted fault is caught.

A row of FAULTS: what planted.c does wrong, the exit status, what must be said; in all schedules, or as told by schedule.
Nothing else may be said but what follows from it."""
import re
import signal
import subprocess

import pytest

from kernels import BUILD, ROOT

PLANTED = BUILD / "tests" / "simcuda" / "simcuda_planted"
STAND_INS = BUILD / "simcuda"
SCHEDULES = ["lazy", "eager", "random:1"]
REPORTED, DEADLOCK, FAULT, WRONG, FAILED = 97, 98, -signal.SIGSEGV, 3, 4
FINE = 0, r"^0 wrong\n$"
CODE = {"no memory": 2, "launch failure": 719}


def run(fault="", schedule="lazy", devices=2, program=PLANTED, **settings):
    env = {"SIMCUDA_SCHEDULE": schedule, "SIMCUDA_DEVICES": str(devices), "SIMCUDA_DEADLOCK_MS": "300",
           **{f"SIMCUDA_{name.upper()}": str(value) for name, value in settings.items()}}
    done = subprocess.run([program, BUILD / "cuda" / "cast.fatbin", fault], env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def check(got, want):
    status, text = got
    assert status == want[0] and re.search(want[1], text, re.S), (want, got)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("schedule", ["lazy", "eager", *(f"random:{seed}" for seed in range(8))])
def test_what_is_right_passes(schedule, devices):
    check(run(schedule=schedule, devices=devices), FINE)


@pytest.mark.parametrize("slow", [0, 1])
def test_what_is_right_passes_with_a_slow_device(slow):
    check(run(schedule="random:3", slow=slow), FINE)


@pytest.mark.parametrize("order", ["reverse", "random:5"])
def test_what_is_right_passes_in_any_order_of_threads(order):
    check(run(threads=order), FINE)


PINNED = r"FAULT: the host touched pinned memory 0x\w+, at \d+ of the block 0x\w+ of 286720 bytes, while a copy %s it is pending"
RACE = r"RACE: operation \d+ \((%s)\) \w+ offset \d+ of a block of 40006 bytes of device 0, operation \d+ \((?!\1)(%s)\)"
BOTH = r"cudaMemcpyAsync|gpu_cast_bf16"
BAD_READ = r"KERNEL gpu_cast_bf16 block \d+,\d+,\d+ thread \d+,\d+,\d+ PTX line \d+ source \S+: read of \d+ bytes at 0x\w+ is illegal on device %d"
NO_DEVICE_OF = "is in no live block of this device, but another device's"
FAULTS = {
    # the table of the design
    "refill": {"lazy": (FAULT, PINNED % "from"), "eager": FINE, "random:1": None},
    "read-early": {"lazy": (FAULT, PINNED % "into"), "eager": (0, "0 wrong"), "random:1": None},
    "reuse": (REPORTED, RACE % (BOTH, BOTH)),
    "no-wait": (REPORTED, RACE % (BOTH, BOTH)),
    "past-the-end": (REPORTED, (BAD_READ % 0) + r".*write of \d+ bytes at 0x\w+ is illegal on device 0"),
    "not-cleared": (WRONG, "wrong: counters"),
    "host-reads-device": (FAULT, r"FAULT: the host touched address 0x\w+ of device 0\n"),
    "foreign-kernel": (REPORTED, BAD_READ % 1),
    "foreign-broadcast": (REPORTED, "INVALID ncclBroadcast on device 1: .*" + NO_DEVICE_OF),
    "use-after-free": (REPORTED, BAD_READ % 0),
    "missing-rank": (DEADLOCK, r"DEADLOCK: .*rank 0 broadcasts with root 0 \(200080 bytes\)"),
    "no-receive": (DEADLOCK, r"DEADLOCK: .*rank 0 sends to 1 \(200080 bytes\)"),
    "both-send-first": (DEADLOCK, r"DEADLOCK: .*rank 1 sends to 0 \(200080 bytes\).*rank 0 sends to 1"),
    "no-group": (REPORTED, "NCCL: ncclBroadcast without a group, by a thread that speaks for several ranks"),
    # and more
    "threads-race": (REPORTED, r"RACE: operation \d+ \(cudaM\w+Async\) \w+ offset 0 of a block of 48 bytes of device 0"),
    "pageable": (REPORTED, r"PAGEABLE cudaMemcpyAsync: the memory at 0x\w+ is not registered"),
    "direction": (REPORTED, "INVALID cudaMemcpyAsync: its direction does not fit its addresses"),
    "long-copy": (REPORTED, "INVALID cudaMemcpyAsync: 1 rows of 40007 bytes, .* overrun a block of 40006 bytes"),
    "bad-free": (REPORTED, r"INVALID cudaFree: 0x\w+ is no live block of a device"),
    "never-recorded": (REPORTED, "INVALID cudaStreamWaitEvent: the event was never recorded"),
    "never-waited": {"lazy": (REPORTED, r"EXIT with operation \d+ \(cudaMemsetAsync\) of device 0"), "eager": (REPORTED, "LEAK"),
                     "random:1": None},
    "unregister-early": {"lazy": (REPORTED, "INVALID cudaHostUnregister: a copy from or into the block"), "eager": FINE,
                         "random:1": None},
    "foreign-stream": (REPORTED, "INVALID gpu_cast_bf16: for device 1 on a stream of device 0"),
    "not-portable": (REPORTED, "INVALID cudaHostRegister: without cudaHostRegisterPortable"),
    "blocking-stream": (REPORTED, "INVALID cudaStreamCreateWithFlags: a stream that the default stream waits for"),
    "default-stream": (REPORTED, "INVALID cublasGemmEx: on the default stream"),
    "dead-stream": (REPORTED, r"INVALID cudaMemsetAsync: 0x\w+ is no stream, or one that was destroyed"),
    "dead-event": (REPORTED, r"INVALID cudaEventRecord: 0x\w+ is no event, or one that was destroyed"),
    "registered-twice": (REPORTED, "error 712: cudaHostRegister"),
    "not-registered": (REPORTED, r"INVALID cudaHostUnregister: 0x\w+ is not registered"),
    "wide-block": (REPORTED, "INVALID launch of gpu_cast_bf16: grid 1,1,1, block 32,64,1, shared 0"),
    "roots-differ": (REPORTED, "NCCL: rank 0 and rank 1 disagree"),
    "destroyed-twice": (REPORTED, r"INVALID ncclCommDestroy: 0x\w+ is no communicator, or one that was destroyed"),
    "device-twice": (REPORTED, "INVALID ncclCommInitAll: device 0 does not exist, or is named twice"),
    "sizes-differ": (REPORTED, "NCCL: rank 1 sends 200079 bytes, rank 0 takes 200080"),
    "short-lda": (REPORTED, "INVALID cublasGemmEx: m 40, n 24, k 4, .* leading dimensions 39, 4, 40"),
    "no-fatbin": (REPORTED, "INVALID cudaLibraryLoadData: .* is no fatbin"),
    "no-kernel": (REPORTED, "error 500: cudaLibraryGetKernel"),
    "memory-leak": (REPORTED, "LEAK: a block of 200080 bytes of device 0 was not freed\nsimcuda: 1 problem\n"),
    "pinned-leak": (REPORTED, r"LEAK: 286720 bytes at 0x\w+ are still registered\nsimcuda: 1 problem\n"),
    "event-leak": (REPORTED, "LEAK: 2 events were not destroyed\nsimcuda: 1 problem\n"),
    "stream-leak": (REPORTED, r"LEAK: stream \d+ of device 0 was not destroyed\nsimcuda: 1 problem\n"),
    "communicator-leak": (REPORTED, "LEAK: 2 communicators were not destroyed\nsimcuda: 1 problem\n"),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, schedule):
    want = FAULTS[fault][schedule] if isinstance(FAULTS[fault], dict) else FAULTS[fault]
    if want:  # else: by some seeds only, below
        check(run(fault, schedule), want)


@pytest.mark.parametrize("fault", ["refill", "read-early"])
def test_what_depends_on_the_time_is_caught_by_some_seed(fault):
    found = [run(fault, f"random:{seed}") for seed in range(30)]
    right = [FAULTS[fault]["lazy"][0], 0]
    assert any(status == FAULT for status, _ in found) and all(status in right for status, _ in found), found


def test_all_plants_are_tested():
    source = (ROOT / "tests" / "simcuda" / "planted.c").read_text()
    assert set(re.findall(r'planted\("([a-z-]+)"\)', source)) == set(FAULTS) | {"untouched"}


def test_a_process_that_opens_no_device_is_left_alone(tmp_path):
    count = tmp_path / "count"
    assert run("untouched", count=count) == (0, "")
    assert not count.exists()


# ---- failures on demand ----

def counts(path, **settings):
    check(run(count=path, **settings), FINE)
    return {name: int(n) for name, n in (line.split() for line in path.read_text().splitlines())}


def test_calls_and_operations_are_counted(tmp_path):
    n = counts(tmp_path / "count")
    assert n["cudaMalloc"] == 2 + 2 + 2 * 3 + 4 and n["cudaFree"] == n["cudaMalloc"]
    assert n["exec:kernel"] == n["cudaLaunchKernelExC"] == 5
    assert n["exec:copy"] == n["cudaMemcpyAsync"] + n["cudaMemcpy2DAsync"]
    assert n["exec:set"] == n["cudaMemsetAsync"] == 2 and n["exec:product"] == n["cublasGemmEx"] == 4
    assert n["exec:comm"] == 3 * 2 and n["ncclAllReduce"] == 4 and n["ncclSend"] == n["ncclBroadcast"] == 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_nth_call_fails(schedule):
    for n in (1, 3, 12):
        status, text = run(schedule=schedule, fail=f"cudaMalloc:{n}=2")
        assert status == REPORTED and text.startswith("error 2: cudaMalloc("), text  # and what it then leaves behind
    check(run(schedule=schedule, fail="cudaMalloc:15=2"), FINE)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["copy", "set", "kernel", "product"])
def test_the_nth_operation_breaks_its_device(kind, schedule):
    status, text = run(schedule=schedule, fail=f"exec:{kind}:1=719")
    assert status == REPORTED and text.startswith("error 719: cuda"), text
    assert "EXIT" not in text and "RACE" not in text  # what was under way is over


def test_a_failure_can_be_one_devices():
    assert run(fail="cudaMalloc@1:4=2")[0] == 0
    assert "error 2: cudaMalloc" in run(fail="cudaMalloc@1:3=2")[1]


def test_a_broken_device_leaves_its_partners_waiting():
    status, text = run(fail="exec:comm@1:1=719")
    assert status == DEADLOCK and "rank 0 broadcasts with root 0" in text, text


@pytest.mark.parametrize("call, code", [("ncclCommInitAll", 3), ("ncclGroupEnd", 1), ("ncclSend", 1), ("ncclBroadcast", 1),
                                        ("ncclAllReduce", 1), ("cublasCreate_v2", 3), ("cublasGemmEx", 13)])
def test_calls_of_the_other_libraries_fail(call, code):
    status, text = run(fail=f"{call}:1={code}")
    assert status == REPORTED and re.match(rf"error {code}: (ncclGroupEnd|{call})\(", text), text


def test_every_call_can_fail(tmp_path):
    """With what it then leaves behind: nothing hangs, and each failure is seen by the program."""
    for name, n in counts(tmp_path / "count").items():
        if not name.startswith("exec:") and name != "cudaGetLastError":
            for at in {1, n}:
                status, text = run(fail=f"{name}:{at}=1")
                assert status == REPORTED and text.startswith("error 1: ") or status == FAILED, (name, at, status, text)


@pytest.mark.parametrize("name, value", [("fail", "cudaMalloc"), ("fail", "cudaMalloc:0=2"), ("schedule", "random"),
                                         ("devices", "9"), ("memory", "lots")])
def test_settings_that_mean_nothing_are_refused(name, value):
    status, text = run(**{name: value})
    assert status == 2 and f"SIMCUDA_{name.upper()} is '{value}', expected" in text


def test_memory_has_a_limit():
    assert run(memory="700K")[0] == 0
    status, text = run(memory="512K")
    assert text.startswith("error 2: cudaMalloc("), text


def test_no_devices():
    status, text = run(devices=0)
    assert (status, text) == (FAILED, "error 100: cudaGetDeviceCount(&devices)\n")


# ---- the libraries ----

def symbols(path, *options):
    lines = subprocess.run(["nm", "-D", *options, path], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[-1] for line in lines}


def exported():
    return set().union(*(symbols(p, "--defined-only") for p in STAND_INS.glob("lib*.so.*")))


def test_the_plugin_finds_all_its_symbols():
    """With the versions that it was linked to, those of NVIDIA's libraries."""
    plugin = BUILD / "libweighbridge_cuda.so"
    needed = {s for s in symbols(plugin, "--undefined-only") if s.startswith("cuda")}
    assert needed and needed <= {s.replace("@@", "@") for s in exported()}
    by_name = set(re.findall(r'"((?:nccl|cublas)[A-Z]\w+)"', "".join(p.read_text() for p in (ROOT / "src" / "gpu").glob("*.c"))))
    assert by_name and by_name <= {s.split("@")[0] for s in exported()}


def test_sonames():
    for path in STAND_INS.glob("lib*.so.*"):
        dump = subprocess.run(["objdump", "-p", path], capture_output=True, text=True, check=True).stdout
        assert re.search(r"SONAME\s+(\S+)", dump).group(1) == path.name
