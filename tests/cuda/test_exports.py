"""Exports by simulated devices (tests/simcuda): the same bytes as the CPU's, whatever devices, feed and schedule; and what
becomes of them when something fails.  The program and the plugin are those of build/cuda (WEIGHBRIDGE_CUDA_BUILD names another
build); the simulation ends a run with status 97 when it found a race, a leak or misuse, with 98 at a deadlock, so any status but
0 and 1 fails a test.

By default each golden takes a few of the ways (devices, feed, schedule), all of which come up; --all of scripts/test-cuda.sh
(WEIGHBRIDGE_CUDA_ALL) takes the whole matrix."""
import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import checkpoints  # noqa: E402
from adapters import Adapter  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
BUILD = ROOT / os.environ.get("WEIGHBRIDGE_CUDA_BUILD", "build/cuda")
ALL = bool(os.environ.get("WEIGHBRIDGE_CUDA_ALL"))

# Every golden that the CPU passes: command and options.
EAGLE = ["--eagle-base"]
CASES = {name: ["export", f"checkpoints/{name}"] for name in (
    "llama llama3_tied llama_bias llama_cast_edge llama_threshold llama_threshold2 qwen2 qwen2_5 deepseek_qwen qwen3 mistral internvl3 "
    "phi4mm qwen2_vl qwen2_5_vl qwen3_vl llama_gptq_g128 llama_gptq_g128_desc llama_gptq_gm1 llama_gptq_v2 llama_gptq_fold "
    "llama_gptq_fold_equiv llama_gptq_asym qwen2_gptq_g32_desc qwen2_gptq_g64").split()}
CASES |= {name: ["export-draft", f"checkpoints/{name}"] for name in (
    "llama_eagle3 llama_eagle3_2l llama_eagle3_bin qwen2_eagle3_bin qwen2_eagle3_mrope").split()}
CASES |= {
    "llama_fp8kv": ["export", "checkpoints/llama_kvfp8", "--fp8-kv-cache"],
    "qwen2_fp8kv": ["export", "checkpoints/qwen2_kvfp8", "--fp8-kv-cache"],
    "llama_fp8kv__eagle_base": ["export", "checkpoints/llama_kvfp8", "--fp8-kv-cache", *EAGLE],
    "llama__eagle_base": ["export", "checkpoints/llama", *EAGLE],
    "qwen2_5__eagle_base": ["export", "checkpoints/qwen2_5", *EAGLE],
    "qwen3_vl__eagle_base": ["export", "checkpoints/qwen3_vl", *EAGLE],
    "llama__reduced": ["export", "checkpoints/llama", "--reduced-vocab", "checkpoints/reduced_vocab_320"],
    "llama__eagle_base_reduced": ["export", "checkpoints/llama", *EAGLE, "--reduced-vocab", "checkpoints/reduced_vocab_320"],
    "qwen2__reduced_unsorted": ["export", "checkpoints/qwen2", "--reduced-vocab", "checkpoints/reduced_vocab_328_unsorted"],
    "llama_gptq_asym__clamp": ["export", "checkpoints/llama_gptq_asym", "--zero-points", "clamp"],
}
MERGES = {
    "llama": ["export", "checkpoints/llama", "--merge-lora", "checkpoints/lora_llama"],
    "qwen2": ["export", "checkpoints/qwen2", "--merge-lora", "checkpoints/lora_qwen2_bf16"],
    "llama__reduced": ["export", "checkpoints/llama", "--merge-lora", "checkpoints/lora_llama", "--reduced-vocab",
                       "checkpoints/reduced_vocab_320"],
}

Way = collections.namedtuple("Way", "devices feed schedule")
WAYS = [Way(n, feed, schedule) for n in (1, 2, 4) for feed in ("direct", "nccl") if n > 1 or feed == "direct"
        for schedule in ("lazy", "eager", *(f"random:{seed}" for seed in range(1, 6)))]
EACH = 35 if ALL else 2  # ways that a case takes


def some_ways(cases):
    """(case, way): all of them, or a few of each case such that each way comes up."""
    pairs = []
    for i, case in enumerate(cases):
        pairs += [(case, WAYS[(i * EACH + k) % len(WAYS)]) for k in range(EACH)]
    return [pytest.param(case, way, id=f"{case}-{way.devices}-{way.feed}-{way.schedule}") for case, way in pairs]


class Run:
    def __init__(self, status, stderr, report, out):
        self.status, self.stderr, self.report, self.out = status, stderr, report, out

    @property
    def device(self):
        return self.report["device"]


def run(folder, case, way=None, *options, allowed=(0,), env=None, memory="256M", name="out"):
    """`case`: command, model, options; `way` None: the CPU."""
    out, report = folder / name, folder / f"{name}.json"
    command = [BUILD / "weighbridge", case[0], case[1], out, *case[2:], "--report", report, *options]
    if case[0] == "export":
        command.append("--no-chat-template")
    environment = dict(os.environ)
    if way:
        command += ["--device", "cuda:all", *(["--gpu-feed", way.feed] if way.devices > 1 else [])]
        environment |= {"SIMCUDA_DEVICES": str(way.devices), "SIMCUDA_SCHEDULE": way.schedule, "SIMCUDA_MEMORY": memory, "LD_BIND_NOW": "1",
                        "LD_LIBRARY_PATH": f"{BUILD}/simcuda", "WEIGHBRIDGE_NCCL_TIMEOUT": "3"}
    else:
        command += ["--device", "cpu"]
    r = subprocess.run([str(c) for c in command], cwd=GOLDEN, env={**environment, **(env or {})}, capture_output=True, text=True,
                       timeout=300)
    assert r.returncode in allowed, f"{' '.join(map(str, command))}: status {r.returncode}\n{r.stderr[-6000:]}"
    assert "simcuda:" not in r.stderr, r.stderr[-6000:]
    return Run(r.returncode, r.stderr, json.loads(report.read_text()) if report.exists() and r.returncode == 0 else None, out)


def files(out):
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def same(a, b):
    """Fails with the names of what differs."""
    a, b = files(a), files(b)
    assert a.keys() == b.keys()
    assert not [name for name in a if a[name] != b[name]]


@pytest.fixture(scope="session")
def cpu(tmp_path_factory):
    """cpu(case) -> the CPU's Run of it, made once"""
    made = {}

    def export(case):
        key = tuple(map(str, case))
        if key not in made:
            made[key] = run(tmp_path_factory.mktemp("cpu"), case)
        return made[key]
    return export


COUNTED = ("overflow", "flushed", "nan", "worst", "clamped", "clamped_most", "xxh3_4k")


def same_report(a, b):
    """Hashes and what casts have lost, of each tensor."""
    assert [[t.get(k) for k in ("name", *COUNTED)] for t in a.report["tensors"]] == \
        [[t.get(k) for k in ("name", *COUNTED)] for t in b.report["tensors"]]


@pytest.mark.parametrize("case, way", some_ways(CASES))
def test_same_bytes(case, way, cpu, tmp_path):
    want, got = cpu(CASES[case]), run(tmp_path, CASES[case], way)
    same(want.out, got.out)
    same_report(want, got)
    d = got.device
    assert d["converts"] == "cuda" and len(d["devices"]) == way.devices and not d["host_jobs"]
    assert d["feed"] == (way.feed if way.devices > 1 else None)
    assert all(v["name"].startswith("Simulated device") and not v["failed"] for v in d["devices"])
    assert sum(v["tiles"] for v in d["devices"]) == got.report["memory"]["tiles"] > 0
    assert sum(v["bytes"] for v in d["devices"]) == got.report["bytes"]["read"]


# ---------------------------------------------------------------------------------------------------- larger models


def make_model(folder, dtype, vocab, hidden, layers):
    """Tied, in two shards, with NaNs and a value that overflows."""
    config = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "vocab_size": vocab, "num_attention_heads": hidden // 64,
              "num_key_value_heads": 1, "head_dim": 64, "num_hidden_layers": layers}
    ckpt = checkpoints.build("qwen2", dtype, config=config)
    embedding = np.frombuffer(ckpt.tensors["model.embed_tokens.weight"].data, np.uint8).copy()
    embedding[:8] = 255
    embedding[-4:] = [0x7F, 0x7F, 0x7F, 0x7F] if dtype != "F16" else embedding[-4:]
    ckpt.tensors["model.embed_tokens.weight"] = checkpoints.Tensor(dtype, (vocab, hidden), embedding.tobytes())
    return ckpt.write(folder, shards=2).path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Many tensors."""
    folder = tmp_path_factory.mktemp("models")
    return {dtype: make_model(folder / dtype, dtype, 3001, 128, 6) for dtype in ("BF16", "F32", "F16")}


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """A head of 15.4 MB, which does not fit a device of 16M that has more to hold."""
    folder = tmp_path_factory.mktemp("large")
    return {dtype: make_model(folder / dtype, dtype, 24001, 320, 1) for dtype in ("BF16", "F32")}


MEMORIES = [("BF16", "16M", "16M"), ("F32", "64M", "16M"), ("F32", "16M", "100M")]
MORE_MEMORIES = [("F32", "16M", "16M"), ("BF16", "64M", "16M"), ("BF16", "16M", "100M")]


@pytest.mark.parametrize("dtype, memory, device", MEMORIES + MORE_MEMORIES if ALL else MEMORIES)
@pytest.mark.parametrize("way", [Way(1, "direct", "lazy"), Way(2, "nccl", "random:4")] if ALL else [Way(2, "direct", "random:3")],
                         ids=lambda w: f"{w.devices}-{w.feed}-{w.schedule}")
def test_any_memory(dtype, memory, device, way, large, cpu, tmp_path):
    case = ["export", large[dtype]]
    got = run(tmp_path, case, way, "--memory", memory, "--gpu-memory", device)
    same(cpu(case).out, got.out)
    same_report(cpu(case), got)
    assert (got.report["memory"]["paneled"] > 0) == (device == "16M")
    assert got.report["memory"]["edged"] == got.report["memory"]["paneled"]  # drains of runs are completed to whole blocks
    assert got.report["memory"]["device_bytes"] <= int(device[:-1]) << 20 and got.report["memory"]["buffers"] <= int(memory[:-1]) << 20
    assert not any(t["failed"] for t in got.device["devices"])


@pytest.mark.parametrize("feed", ["direct", "nccl"])
def test_a_slow_device(feed, models, cpu, tmp_path):
    """Others do more, and results of many turns come late."""
    case = ["export", models["BF16"]]
    got = run(tmp_path, case, Way(2, feed, "random:9"), env={"SIMCUDA_SLOW": "1"})
    same(cpu(case).out, got.out)
    same_report(cpu(case), got)


def test_nothing_is_written(models, tmp_path):
    got = run(tmp_path, ["export", models["BF16"]], Way(2, "direct", "lazy"), "--sink", "null")
    assert not got.out.exists() and sum(v["tiles"] for v in got.device["devices"]) == got.report["memory"]["tiles"]


def test_plan_says_what_devices_hold(models, tmp_path):
    env = {**os.environ, "SIMCUDA_DEVICES": "2", "LD_LIBRARY_PATH": f"{BUILD}/simcuda"}
    plan = json.loads(subprocess.run([BUILD / "weighbridge", "plan", models["F32"], "--device", "cuda:all", "--json"], env=env,
                                     capture_output=True, check=True).stdout)
    memory, device = plan["memory"], plan["device"]
    assert device["converts"] == "cuda" and [v["number"] for v in device["devices"]] == [0, 1]
    assert memory["panel_bytes"] >= 2 * 3001 * 128 and memory["paneled"] == 0  # the head as a whole
    assert memory["panel_bytes"] < memory["device_bytes"] <= memory["device_budget"] and memory["lanes"] == 3
    assert memory["buffers"] < memory["budget"]


# ---------------------------------------------------------------------------------------------------- merges


def neighbours(want, got):
    """How many values of the merged tensors are next to the CPU's in fp16; all others, and all other tensors, are the same."""
    near, ours = 0, {t["name"]: t for t in got.report["tensors"]}
    for t in want.report["tensors"]:
        if t["file"] == "model.onnx":
            assert t["xxh3_4k"] == ours[t["name"]]["xxh3_4k"]
            continue
        a, b = (np.fromfile(r.out / t["file"], np.int16, count=t["bytes"] // 2, offset=t["offset"]).astype(int) for r in (want, got))
        a, b = (np.where(v < 0, -32768 - v, v) for v in (a, b))  # in the order of the values
        assert np.abs(a - b).max(initial=0) <= ("lora_rank" in t), t["name"]
        near += np.count_nonzero(a - b)
    return near


MERGE_WAYS = WAYS if ALL else [Way(1, "direct", "lazy"), Way(2, "nccl", "random:1"), Way(4, "direct", "eager")]


@pytest.mark.parametrize("case", MERGES)
def test_merges(case, cpu, tmp_path):
    """One in the last place at most; the same whatever devices, feed and schedule."""
    seen = {}
    for way in MERGE_WAYS:
        got = run(tmp_path, MERGES[case], way, "--overwrite")
        seen[way] = files(got.out)
        assert not got.device["host_jobs"] and got.device["converts"] == "cuda"
    near = neighbours(cpu(MERGES[case]), got)
    print(f"{case}: {near} values off by one in the last place")
    assert all(out == seen[MERGE_WAYS[0]] for out in seen.values())
    subprocess.run([BUILD / "weighbridge", "verify", got.out, *MERGES[case][1:]], cwd=GOLDEN, check=True, capture_output=True)


def test_merges_whatever_the_tiles(large, models, cpu, tmp_path):
    """Row panels, several tiles a tensor, rows in an order of their own; an adapter that is too large is the host's."""
    adapter = Adapter()
    g = np.random.RandomState(1)
    for name, out in [("mlp.gate_proj", 640), ("self_attn.v_proj", 64)]:
        a, b = (0.1 * g.standard_normal(s).astype(np.float32) for s in ((4, 320), (out, 4)))
        adapter.add(f"base_model.model.model.layers.0.{name}", a, b)
    a, b = (0.1 * g.standard_normal(s).astype(np.float32) for s in ((4, 320), (24001, 4)))
    adapter.add("base_model.model.lm_head", a, b)
    case = ["export", large["BF16"], "--merge-lora", adapter.write(tmp_path / "adapter")]
    got = run(tmp_path, case, Way(2, "direct", "lazy"), "--gpu-memory", "16M")
    assert neighbours(cpu(case), got) < 3000 and not got.device["host_jobs"] and got.report["memory"]["paneled"]
    a, b = (0.01 * g.standard_normal(s).astype(np.float32) for s in ((512, 128), (3001, 512)))  # more than a quarter of 16M
    big = Adapter({"r": 512}).add("base_model.model.lm_head", a, b).write(tmp_path / "big")
    case = ["export", models["BF16"], "--merge-lora", big]
    got = run(tmp_path, case, Way(1, "direct", "lazy"), "--gpu-memory", "16M", name="big-out")
    same(cpu(case).out, got.out)  # by the CPU's own merge
    assert got.device["host_jobs"] > 0


# ---------------------------------------------------------------------------------------------------- failures

ERRORS = {"cudaMalloc": 2}  # out of memory; others: 700, an illegal address


def fails(spec, code=None):
    return {"SIMCUDA_FAIL": f"{spec}={code or ERRORS.get(spec.split(':')[0].split('@')[0], 700)}"}


@pytest.mark.parametrize("way", [Way(2, "direct", "lazy"), Way(2, "nccl", "random:2"), Way(4, "direct", "eager"), Way(4, "nccl", "lazy")],
                         ids=lambda w: f"{w.devices}-{w.feed}-{w.schedule}")
@pytest.mark.parametrize("spec", ["exec:kernel@1:3", "exec:copy@1:9", "cudaMalloc@1:2", "cudaLaunchKernelExC@1:4"])
def test_the_others_go_on(way, spec, models, cpu, tmp_path):
    case = ["export", models["BF16"]]
    got = run(tmp_path, case, way, env=fails(spec))
    same(cpu(case).out, got.out)
    same_report(cpu(case), got)
    assert got.device["converts"] == "cuda"
    assert [v["number"] for v in got.device["devices"] if v["failed"]] == [1]
    assert "device 1" in got.stderr and f"goes on with {way.devices - 1} device" in got.stderr


@pytest.mark.parametrize("spec", ["exec:kernel:7", "exec:copy:20", "cudaMalloc:3", "cudaHostRegister:1", "cudaEventSynchronize:4"])
def test_the_cpu_goes_on(spec, models, cpu, tmp_path):
    case = ["export", models["F32"]]
    got = run(tmp_path, case, Way(1, "direct", "lazy"), env=fails(spec))
    same(cpu(case).out, got.out)
    same_report(cpu(case), got)
    assert got.device["converts"] == "cpu" and got.device["why"] and "the CPU converts" in got.stderr


def test_what_is_finished_stays_so(models, cpu, tmp_path):
    """Near the end: what is done by then is not read again."""
    case = ["export", models["BF16"]]
    whole = run(tmp_path, case, Way(1, "direct", "eager"), name="whole")
    got = run(tmp_path, case, Way(1, "direct", "eager"), env=fails(f"exec:kernel:{whole.report['memory']['tiles'] - 1}"))
    same(cpu(case).out, got.out)
    assert got.device["converts"] == "cpu" and got.report["memory"]["tiles"] < whole.report["memory"]["tiles"]


def test_strict(models, cpu, tmp_path):
    """It stops; and --resume goes on from what is finished, by another device or none."""
    case = ["export", models["BF16"]]
    got = run(tmp_path, case, Way(1, "direct", "eager"), "--strict-device", allowed=(1,), env=fails("exec:kernel:30"))
    assert not got.out.exists() and "device 0" in got.stderr
    again = run(tmp_path, case, None, "--resume")
    same(cpu(case).out, again.out)
    assert again.report["resumed"]["tensors"] > 0
    got = run(tmp_path, case, Way(1, "direct", "eager"), "--strict-device", allowed=(1,), env=fails("cudaMalloc:2"), name="other")
    assert not got.out.exists() and not (tmp_path / "other.partial").exists()


def test_auto(models, cpu, tmp_path):
    """Devices where there are some, else the CPU, with the reason."""
    case = ["export", models["BF16"]]
    env = {"LD_LIBRARY_PATH": f"{BUILD}/simcuda", "SIMCUDA_DEVICES": "2"}
    command = [BUILD / "weighbridge", *case, tmp_path / "a", "--device", "auto", "--no-chat-template", "--report", tmp_path / "a.json"]
    subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True)
    assert json.loads((tmp_path / "a.json").read_text())["device"]["converts"] == "cuda"
    command = [BUILD / "weighbridge", *case, tmp_path / "b", "--device", "auto", "--no-chat-template", "-v", "--report", tmp_path / "b.json"]
    r = subprocess.run(command, env={**os.environ, **env, **fails("cudaGetDeviceCount:1", 100)}, check=True, capture_output=True, text=True)
    d = json.loads((tmp_path / "b.json").read_text())["device"]
    assert d["converts"] == "cpu" and d["why"].startswith("no CUDA device: ") and d["why"] in r.stdout
    same(tmp_path / "a", tmp_path / "b")


def test_why_none_opens(models, cpu, tmp_path):
    """The first reason, not that none is left."""
    case = ["export", models["BF16"]]
    got = run(tmp_path, case, Way(1, "direct", "lazy"), allowed=(1,), env=fails("cudaMemGetInfo:1", 2))
    assert re.search("error: no CUDA device: device 0 .*free memory", got.stderr) and not got.out.exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_device_that_is_too_small_is_left_out(models, cpu, tmp_path):
    case = ["export", models["BF16"]]
    got = run(tmp_path, case, Way(2, "direct", "lazy"), env={"SIMCUDA_SMALL": "24K"})
    same(cpu(case).out, got.out)
    assert got.device["converts"] == "cuda" and [bool(v["failed"]) for v in got.device["devices"]] == [False, True]
    assert "device 1" in got.stderr and "left out" in got.stderr
    got = run(tmp_path, case, Way(2, "direct", "lazy"), "--strict-device", allowed=(1,), env={"SIMCUDA_SMALL": "24K"}, name="strict")
    assert not got.out.exists()


def test_a_device_that_keeps_all_to_row_panels_is_left_out(large, cpu, tmp_path):
    case, small = ["export", large["BF16"]], {"SIMCUDA_SMALL": "18M"}  # whose head takes 15.4 MB
    got = run(tmp_path, case, Way(2, "direct", "lazy"), env=small)
    same(cpu(case).out, got.out)
    assert [bool(v["failed"]) for v in got.device["devices"]] == [False, True] and not got.report["memory"]["paneled"]
    assert re.search(r"device 1 \(Simulated device 1\) is left out: .* free, .* the others have", got.stderr)
    for options, env in (["--strict-device"], small), (["--gpu-memory", "16M"], small), ([], {"SIMCUDA_SMALL": "17M", "SIMCUDA_MEMORY": "18M"}):
        got = run(tmp_path, case, Way(2, "direct", "lazy"), "--overwrite", *options, env=env)  # as asked, or no better without it
        same(cpu(case).out, got.out)
        assert got.report["memory"]["paneled"] and all(v["tiles"] and not v["failed"] for v in got.device["devices"])


def test_memory_that_cannot_be_pinned(models, cpu, tmp_path):
    """No device will do, with or without NCCL."""
    case = ["export", models["BF16"]]
    got = run(tmp_path, case, Way(2, "direct", "lazy"), env=fails("cudaHostRegister:1", 2))
    same(cpu(case).out, got.out)
    assert got.device["converts"] == "cpu" and "without NCCL" not in got.stderr


def counts(path):
    return {name: int(n) for name, n in (line.split() for line in path.read_text().splitlines())}


SWEPT = [Way(1, "direct", "lazy"), Way(2, "direct", "random:1"), Way(2, "nccl", "lazy")]
CODES = {"cudaMalloc": 2, "cudaHostRegister": 2, "cudaGetDeviceCount": 100}


def code_of(name):
    return CODES.get(name, 2 if name.startswith("nccl") else 13 if name.startswith("cublas") else 700)


@pytest.mark.parametrize("case", ["plain", "merge"])
@pytest.mark.parametrize("way", SWEPT if ALL else SWEPT[2:], ids=lambda w: f"{w.devices}-{w.feed}-{w.schedule}")
def test_every_failing_call(way, case, cpu, tmp_path):
    """The first and the last call of each kind (with --all: every one) fails: a run that is complete, or a clean refusal that leaves
    nothing behind.  Of a merge by default only what it has more than other exports."""
    few = case == "merge" and not ALL
    case = CASES["llama_threshold"] if case == "plain" else MERGES["qwen2"]
    run(tmp_path, case, way, env={"SIMCUDA_COUNT": str(tmp_path / "counts")}, name="base")
    counts = {name: int(n) for name, n in (line.split() for line in (tmp_path / "counts").read_text().splitlines())}
    if few:
        counts = {name: n for name, n in counts.items() if name.startswith(("cublas", "ncclB", "exec:product"))}
    ended = collections.Counter()
    for name, n in counts.items():
        for i in range(1, n + 1) if ALL else sorted({1, n}):
            got = run(tmp_path, case, way, "--overwrite", allowed=(0, 1), env={"SIMCUDA_FAIL": f"{name}:{i}={code_of(name)}"})
            ended[got.status] += 1
            if got.status == 0:
                neighbours(cpu(case), got)
            else:
                assert "weighbridge: error: " in got.stderr and not (tmp_path / "out.partial").exists(), (name, i, got.stderr)
    print(f"{way}: {sum(ended.values())} runs, {ended[0]} complete")
    assert len(counts) > (4 if few else 20) and ended[0] > 2 * ended[1]
