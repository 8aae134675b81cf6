"""The program as a command: usage, help, where output goes, exit status, reports, progress, interruption, and the
names under which it stands in for others.  What an export contains is tested elsewhere."""
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import checkpoints
from conftest import ROOT, SANITIZER, Program, tree

COMMANDS = ["export", "export-draft", "batch", "plan", "inspect", "verify", "lora insert", "lora process", "lora merge", "reduce-vocab", "pack",
            "unpack", "help", "version"]
PROGRAMS = ["tensorrt-edgellm-export-llm", "tensorrt-edgellm-export-draft", "tensorrt-edgellm-insert-lora",
            "tensorrt-edgellm-process-lora", "tensorrt-edgellm-merge-lora", "tensorrt-edgellm-reduce-vocab"]
CONTENT = "target eagle-base eagle-draft reduced-vocab merge-lora fp8-kv-cache chat-template no-chat-template strict overwrite resume zero-points"
OPTIONS = {
    "export": CONTENT + " pack memory threads io device gpu-feed gpu-memory strict-device report trace sink quiet verbose progress help",
    "plan": CONTENT + " memory threads io device gpu-feed gpu-memory strict-device report json quiet verbose progress help",
    "export-draft": "target base-model strict overwrite resume zero-points memory threads io device gpu-feed gpu-memory strict-device report trace sink quiet verbose progress help",
    "batch": "jobs keep-going memory threads io device gpu-feed gpu-memory strict-device report quiet verbose progress help",
    "inspect": "json help",
    "verify": "chat-template reduced-vocab eagle-draft merge-lora base-model json quiet verbose progress help",
    "lora insert": "quiet verbose help",
    "lora process": "strict overwrite quiet verbose help",
    "lora merge": "strict overwrite memory threads quiet verbose progress help",
    "reduce-vocab": "size corpus method max-samples d2t overwrite json quiet progress help",
    "pack": "overwrite memory threads json quiet verbose progress help",
    "unpack": "list test overwrite memory threads json quiet verbose progress help",
    "help": "help",
    "version": "help",
    PROGRAMS[0]: "model_dir output_dir is_eagle_base reduced_vocab_dir chat_template fp8_kv_cache device help",
    PROGRAMS[1]: "draft_model_dir output_dir base_model_dir device help",
    PROGRAMS[2]: "onnx_dir help",
    PROGRAMS[3]: "input_dir output_dir help",
    PROGRAMS[4]: "model_dir lora_dir output_dir device help",
    PROGRAMS[5]: "model_dir output_dir reduced_vocab_size method max_samples d2t_path corpus help",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoints.make(tmp_path_factory.mktemp("cli") / "model").path


@pytest.fixture(scope="module")
def exported(weighbridge, model):
    out = model.parent / "exported"
    weighbridge.ok("export", model, out)
    return out


@pytest.fixture
def named(weighbridge, tmp_path):
    """named(NAME) -> the program under that name"""
    def link(name):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(weighbridge.path)
        return Program(tmp_path / "bin" / name)
    return link


# ---------------------------------------------------------------------------------------------------- usage and help


@pytest.mark.parametrize("line, said", [
    ("", "no command"),
    ("--nonsense", "unknown option '--nonsense'"),
    ("exprt m o", "unknown command 'exprt': did you mean export?"),
    ("tensorrt-edgellm-export-llm", "unknown command"),
    ("help exprt", "unknown command 'exprt': did you mean export?"),
    ("export", "export needs MODEL OUT"),
    ("export m", "export needs MODEL OUT"),
    ("export m o x", "'x' is one operand too many"),
    ("export m o --overwite", "unknown option '--overwite': did you mean --overwrite?"),
    ("export m o --over", "unknown option '--over': did you mean --overwrite?"),
    ("export m o --json", "unknown option '--json'"),
    ("export m o --memory", "--memory needs a value: SIZE"),
    ("export m o --memory --overwrite", "--memory needs a value: SIZE"),
    ("export m o --memory=", "--memory '' is not a size"),
    ("export m o --memory 1.5G", "--memory '1.5G' is not a size"),
    ("export m o --memory 15M", "too little: at least 16777216 bytes"),
    ("export m o --memory 99999999999G", "too much"),
    ("export m o --threads 0", "--threads 0 is too little"),
    ("export m o --threads=-2", "--threads '-2' is not a whole number"),
    ("export m o --io mmapped", "--io 'mmapped' is not one of auto|uring|mmap|pread|fault"),
    ("export m o --device tpu", "--device 'tpu' is not one of cpu|auto[:LIST]|cuda|cuda:LIST|cuda:all"),
    ("export m o --device cuda:", "--device 'cuda:': expected numbers"),
    ("export m o --device cuda:0,", "--device 'cuda:0,': expected numbers"),
    ("export m o --device auto:1,1", "names device 1 twice"),
    ("export m o --device automatic", "--device 'automatic' is not one of cpu|auto"),
    ("export m o --device cuda:64", "--device 'cuda:64': expected numbers from 0 to 63"),
    ("export m o --device cuda:1,0,1", "names device 1 twice"),
    ("plan m --device cuda0", "--device 'cuda0' is not one of"),
    ("export m o --gpu-feed both", "--gpu-feed 'both' is not one of auto|direct|nccl"),
    ("export m o --gpu-memory 1M", "--gpu-memory 1M is too little: at least 16777216 bytes"),
    ("export m o --strict-device", "--strict-device are about GPUs: give --device, too"),
    ("export m o --device cpu --gpu-memory 1G", "are about GPUs"),
    ("export m o --progress maybe", "--progress 'maybe' is not one of auto|always|never"),
    ("export m o --strict=yes", "--strict takes no value"),
    ("export m o -q -v", "--quiet and --verbose contradict each other"),
    ("export m o --chat-template t --no-chat-template", "contradict each other"),
    ("export m o --io uring --io pread", "--io is given twice, as 'uring' and as 'pread'"),
    ("batch", "batch needs JOBS.json"),
    ("batch j --jobs 0", "--jobs 0 is too little"),
    ("plan", "plan needs MODEL [OUT]"),
    ("inspect", "inspect needs PATH"),
    ("verify o", "verify needs OUT MODEL"),
    ("lora", "unknown command 'lora': did you mean lora insert?"),
    ("lora proces a o", "unknown command 'lora proces': did you mean lora process?"),
    ("lora insert", "lora insert needs OUT"),
    ("lora process a", "lora process needs ADAPTER OUT"),
    ("lora merge m a", "lora merge needs MODEL ADAPTER OUT"),
    ("reduce-vocab m", "reduce-vocab needs MODEL OUT"),
    ("reduce-vocab m o --corpus c", "--size is missing"),
    ("reduce-vocab m o --size 3", "--corpus is missing"),
    ("reduce-vocab m o --corpus c --size 0", "--size 0 is too little"),
    ("reduce-vocab m o --corpus c --size 3 --method often", "is not one of input-aware|frequency"),
    ("pack o", "pack needs OUT FILE.wbz"),
    ("pack o f --memory 31M", "too little: at least 33554432 bytes"),
    ("unpack", "unpack needs FILE.wbz [OUT]"),
    ("unpack f", "unpack needs FILE.wbz and OUT, or one of --list and --test"),
    ("unpack f o --test", "no OUT: --list and --test write nothing"),
    ("unpack f -l -t", "--list and --test contradict each other"),
    ("version x", "unexpected operand 'x'"),
    ("--memory 1G", "no command"),
])
def test_usage_errors(weighbridge, tmp_path, line, said):
    r = weighbridge(*line.split(), cwd=tmp_path)
    assert r.status == 2
    assert r.stdout == ""
    assert re.fullmatch(r"weighbridge: error: [^\n]+\n", r.stderr), r.stderr
    assert said in r.stderr
    assert tree(tmp_path) == {}


def options_in(help_text):
    return " ".join(re.findall(r"^  (?:-\w, |    )--(\S+)", help_text, re.M))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option(weighbridge, command):
    words = command.split()
    text = weighbridge.ok("help", *words).stdout
    assert options_in(text) == OPTIONS[command]
    assert text.startswith(f"Usage: weighbridge {command}")
    assert "\nExample:\n  weighbridge " + command in text
    for option in re.split(r"^(?=  (?:-\w, |    )--)", text.split("\nExample:")[0], flags=re.M)[1:]:
        takes_value = re.match(r"\s+(?:-\w, )?--\S+ \S*[A-Z|]", option)
        assert bool(takes_value) == bool(re.search(r"\(default:|\(required\)", " ".join(option.split()))), option
    assert max(map(len, text.splitlines())) <= 110
    for spelling in ([*words, "--help"], ["--help", *words], [*words, "-h"], [*words, "--help", "x", "--what"]):
        assert weighbridge.ok(*spelling).stdout == text


def test_help_of_the_program(weighbridge):
    r = weighbridge.ok("--help")
    assert r.stderr == ""
    assert weighbridge.ok("help").stdout == weighbridge.ok("-h").stdout == r.stdout
    for name in COMMANDS + PROGRAMS:
        assert re.search(rf"^  {name}\b", r.stdout, re.M)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_the_other_names(weighbridge, named, name):
    text = weighbridge.ok("help", name).stdout
    assert options_in(text) == OPTIONS[name]
    assert named(name).ok("--help").stdout == text


def test_documentation_agrees_with_the_help(weighbridge):
    """docs/commands.md holds the very texts."""
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in COMMANDS + PROGRAMS:
        assert f"```\n{weighbridge.ok('help', name).stdout}```\n" in text, f"docs/commands.md: {name}"


def test_version(weighbridge):
    r = weighbridge.ok("--version")
    assert re.fullmatch(r"weighbridge \d+\.\d+\.\d+\n", r.stdout) and r.stderr == ""
    assert weighbridge.ok("version").stdout == r.stdout


# ---------------------------------------------------------------------------------------------------- streams and status


def test_export_says_what_it_did(weighbridge, model, tmp_path):
    out = tmp_path / "out"
    r = weighbridge.ok("export", model, out)
    again = weighbridge.ok("export", model, out, "--overwrite", "--report", tmp_path / "r.json")
    files = [p for p in out.iterdir()]
    assert re.fullmatch(rf"{out}: {len(files)} files, [\d.]+ [kM]B in [\d.]+ s \([\d.]+ GB/s\), peak memory [\d.]+ MiB\n"
                        r"\d+ tensors, 0 warnings\n", r.stdout), r.stdout
    assert re.search(r"\n\d+ tensors hashed, 0 warnings\n$", again.stdout), again.stdout
    assert r.stderr == ""


def test_options_stand_anywhere(weighbridge, model, tmp_path):
    a = weighbridge.ok("--memory", "64M", "export", "--threads=1", model, "--io", "pread", tmp_path / "a", "-q")
    b = weighbridge.ok("export", "--", model, tmp_path / "b")
    assert a.stdout == a.stderr == "" and b.stdout
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_warnings_go_to_stderr_and_are_counted(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "model", "mistral", config={"sliding_window": 32}).path
    r = weighbridge.ok("export", model, tmp_path / "out")
    assert re.fullmatch(r"weighbridge: warning: [^\n]*sliding[^\n]*\n", r.stderr), r.stderr
    assert r.stdout.endswith(" 1 warning\n")
    r = weighbridge.ok("export", model, tmp_path / "quiet", "-q")
    assert r.stdout == r.stderr == ""


def test_verbose_adds_notes(weighbridge, model, tmp_path):
    r = weighbridge.ok("export", model, tmp_path / "out", "-v")
    for word in ("read", "transform", "write"):
        assert re.search(rf"^weighbridge: note: {word}: [\d.]+ \w+ in [\d.]+ s of work, [\d.]+ GB/s; waited [\d.]+ s for the others$", r.stderr, re.M)
    assert all(line.startswith("weighbridge: note: ") for line in r.stderr.splitlines())


def test_failure_is_one_sentence_on_stderr(weighbridge, tmp_path):
    r = weighbridge("export", tmp_path / "none", tmp_path / "out")
    assert r.status == 1 and r.stdout == ""
    assert re.fullmatch(r"weighbridge: error: [^\n]*none[^\n]*\n", r.stderr), r.stderr
    assert tree(tmp_path) == {}


def test_control_characters_of_names_are_shown_as_text(weighbridge, tmp_path):
    ckpt = checkpoints.build()
    ckpt.tensors["evil\x1b[2J\x07name"] = checkpoints.Tensor("F16", (2,), b"abcd")
    model = ckpt.write(tmp_path / "model").path
    for r in (weighbridge("inspect", model), weighbridge("plan", model)):
        assert "evil\\x1b[2J\\x07name" in r.stdout
        assert "\x1b" not in r.stdout + r.stderr and "\x07" not in r.stdout + r.stderr


def test_no_gpu(weighbridge, model, exported, tmp_path):
    """What was asked for by name is refused before anything; auto goes on, and says so to those who ask."""
    env = {"WEIGHBRIDGE_CUDA": str(tmp_path / "none.so")}
    for device in ("cuda", "cuda:1", "cuda:all"):
        r = weighbridge("export", model, tmp_path / "out", "--device", device, env=env)
        assert r.status == 1 and r.stdout == ""
        assert re.fullmatch(r"weighbridge: error: no CUDA device: .*none\.so: cannot open [^\n]*, or use --device cpu\n", r.stderr), r.stderr
    assert tree(tmp_path) == {}
    for device in ("auto", "auto:1"):
        r = weighbridge.ok("export", model, tmp_path / "out", "--device", device, "--overwrite", "--report", tmp_path / "report", env=env)
        assert r.stderr == "" and tree(tmp_path / "out") == tree(exported)
        report = json.loads((tmp_path / "report").read_text())["device"]
        assert report["converts"] == "cpu" and report["why"].startswith("no CUDA device: ") and report["devices"] == []
        r = weighbridge.ok("export", model, tmp_path / "out", "--device", device, "--overwrite", "-v", env=env)
        assert "note: the CPU converts: no CUDA device: " in r.stderr


def test_no_cuda_library_is_needed(weighbridge):
    said = subprocess.run(["ldd", weighbridge.path], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in said and not re.search(r"cuda|cublas|nccl|nvidia", said, re.I), said


def test_plugin_is_found_where_it_is_installed(weighbridge, model, tmp_path):
    """Beside the program, and in lib beside the program's folder, whatever the program is called by."""
    (tmp_path / "prefix" / "bin").mkdir(parents=True)
    program = tmp_path / "prefix" / "bin" / "weighbridge"
    shutil.copy(weighbridge.path, program)
    (tmp_path / "called").symlink_to(program)
    for folder in ("prefix/lib", "prefix/bin"):  # the second comes first
        plugin = tmp_path / folder / "libweighbridge_cuda.so"
        plugin.parent.mkdir(exist_ok=True)
        plugin.write_text("this is no library")
        r = Program(tmp_path / "called").refuses("export", model, tmp_path / "out", "--device", "cuda")
        assert str(plugin.resolve().parent) in os.path.realpath(r.split("no CUDA device: ")[1].split(": ")[0]), r


def test_full_standard_output_is_an_error(weighbridge, model, tmp_path):
    with open("/dev/full", "wb") as full:
        r = subprocess.run([weighbridge.path, "inspect", model], stdout=full, stderr=subprocess.PIPE, text=True,
                           env={**os.environ, **SANITIZER})
    assert r.returncode == 1 and r.stderr == "weighbridge: error: standard output: No space left on device\n"


# ---------------------------------------------------------------------------------------------------- plan, inspect, verify


def test_plan_shows_and_writes_nothing(weighbridge, model, tmp_path):
    before = tree(model)
    r = weighbridge.ok("plan", model, tmp_path / "out", "--memory", "64M", "--progress", "always")
    assert r.stderr == ""
    for what in (r"^  model\.layers\.1\.mlp\.down_proj\.weight +\[96, 64\] +BF16 -> \S+ +\S+ +12288 +onnx_model\.data +model\.safetensors$",
                 r"^transforms, by source bytes$", r"^files to be written$", r"^  embedding\.safetensors +\d+ bytes",
                 r"^disk +[\d.]+ \w+ needed, [\d.]+ \w+ free$", r"^memory +[\d.]+ MiB of buffers in a budget of 64\.0 MiB: "):
        assert re.search(what, r.stdout, re.M), what
    assert "refused" not in r.stdout
    plan = weighbridge.ok("plan", model, tmp_path / "out", "--json").json
    assert plan["refused"] is None and len(plan["tensors"]) == r.stdout.count(" -> ") - 1
    assert tree(model) == before and tree(tmp_path) == {}


def test_plan_says_what_would_be_refused(weighbridge, tmp_path):
    ckpt = checkpoints.build()
    del ckpt.tensors["model.layers.1.mlp.up_proj.weight"]
    model = ckpt.write(tmp_path / "model").path
    r = weighbridge("plan", model, tmp_path / "out")
    assert r.status == 1
    assert re.search(r"^would be refused: .*model\.layers\.1\.mlp\.up_proj\.weight is missing", r.stdout, re.M | re.S)
    r = weighbridge("plan", model, tmp_path / "out", "-q")
    assert r.status == 1 and r.stdout.startswith("would be refused: ") and r.stderr == ""
    r = weighbridge("plan", model, "--json")
    assert r.status == 1 and "up_proj" in r.json["refused"]


def test_inspect_of_both_kinds(weighbridge, model, exported):
    r = weighbridge.ok("inspect", model)
    assert r.stderr == "" and r.stdout.startswith(f"{model}: checkpoint, safetensors, ")
    assert re.search(r"^  model\.norm\.weight +BF16 +\[64\] +128 +model\.safetensors +\d+$", r.stdout, re.M)
    assert re.search(r"^family: llama$", r.stdout, re.M) and "hidden_size 64" in r.stdout
    r = weighbridge.ok("inspect", exported)
    assert r.stdout.startswith(f"{exported}: export, onnx, ")
    assert re.search(r"^  weighbridge\.\w+ ", r.stdout, re.M)
    assert re.search(r"^  inputs_embeds +\S+ +\[batch_size, seq_len, 64\]$", r.stdout, re.M)
    assert weighbridge.ok("inspect", exported, "--json").json["kind"] == "export"


def test_inspect_reports_problems(weighbridge, tmp_path):
    ckpt = checkpoints.build()
    del ckpt.tensors["model.layers.1.mlp.up_proj.weight"]
    model = ckpt.write(tmp_path / "model").path
    r = weighbridge("inspect", model)
    assert r.status == 1 and "model.layers.1.mlp.down_proj.weight" in r.stdout
    assert re.search(r"^problem: .*model\.layers\.1\.mlp\.up_proj\.weight is missing", r.stdout, re.M | re.S), r.stdout
    r = weighbridge("inspect", model, "--json")
    assert r.status == 1 and len(r.json["problems"]) == 1


def test_verify_says_what_was_compared_and_what_differs(weighbridge, model, exported, tmp_path):
    r = weighbridge.ok("verify", exported, model)
    assert re.fullmatch(r"ok: \d+ tensors, \d+ files, [\d.]+ [kM]B compared\n", r.stdout) and r.stderr == ""
    assert weighbridge.ok("verify", exported, model, "-q").stdout == ""
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for name, data in tree(exported).items():
        (spoiled / name).write_bytes(data)
    data = bytearray((spoiled / "onnx_model.data").read_bytes())
    data[0] ^= 1
    (spoiled / "onnx_model.data").write_bytes(data)
    r = weighbridge("verify", spoiled, model)
    assert r.status == 1 and re.search(r"^tensor model\.\S+: .+\nnot ok: 1 difference in \d+ tensors", r.stdout), r.stdout
    said = r.stdout.splitlines()[0]
    r = weighbridge("verify", spoiled, model, "--json")
    assert r.status == 1 and r.json["ok"] is False and r.json["differences"][0]["what"] == "tensor"
    assert said == "tensor " + r.json["differences"][0]["text"]  # whose name is not said twice


# ---------------------------------------------------------------------------------------------------- --report


def test_report_is_written_whole(weighbridge, model, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("an older one")
    report.chmod(0o640)
    weighbridge.ok("export", model, tmp_path / "out", "--report", report)
    told = json.loads(report.read_text())
    times = {name: s["busy"] + s["waiting"] for name, s in told["stages"].items()}
    assert told["limit"] in (None, *times) and max(times.values()) < told["totals"]["wall"] * told["threads"]
    last = told["series"][-1]
    assert last["read"] == told["bytes"]["read"] and last["seconds"] <= told["totals"]["wall"]
    assert last["waiting"] == {name: s["waiting"] for name, s in told["stages"].items()}
    assert told["totals"]["wall"] > 0 and all(re.fullmatch("[0-9a-f]{16}", t["xxh3_4k"]) for t in told["tensors"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "report.json"] and report.stat().st_mode & 0o777 == 0o640


def test_report_of_a_failed_export_leaves_the_old_one(weighbridge, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("an older one")
    before = tree(tmp_path)
    weighbridge.refuses("export", tmp_path / "none", tmp_path / "out", "--report", report)
    assert tree(tmp_path) == before


def test_report_on_standard_output_is_all_of_it(weighbridge, model, tmp_path):
    r = weighbridge.ok("export", model, tmp_path / "out", "--report", "-")
    assert r.json["totals"]["wall"] > 0
    assert weighbridge.ok("plan", model, "--report=-").json["refused"] is None


def test_report_follows_a_link_and_spares_what_is_no_file(weighbridge, model, tmp_path):
    """A pipe stands for /dev/null here: a fault must not cost the machine its device."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    weighbridge.ok("export", model, tmp_path / "a", "--report", tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "real.json").read_text())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to pipe").symlink_to("pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    weighbridge.ok("plan", model, "--report", tmp_path / "to pipe")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "to pipe").is_symlink()
    assert json.loads(os.read(reader, 1 << 20))["refused"] is None
    os.close(reader)


def test_trace_shows_every_tile_and_changes_no_byte(weighbridge, model, exported, tmp_path):
    """One event for each tile read, transformed and written, on tracks with names, where none overlap."""
    trace, report = tmp_path / "trace.json", tmp_path / "report.json"
    trace.write_text("an older one")
    weighbridge.ok("export", model, tmp_path / "out", "--trace", trace, "--report", report, "--threads", 3)
    assert tree(tmp_path / "out") == tree(exported)
    told, events = json.loads(report.read_text()), json.loads(trace.read_text())["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"reader", "writer", "worker 1", "worker 2", "worker 3", "journal"} <= set(tracks.values())
    tensors, ends, reads = {t["name"] for t in told["tensors"]}, {}, []
    for e in sorted((e for e in events if e["ph"] == "X"), key=lambda e: (e["tid"], e["ts"])):
        assert e["ts"] >= ends.get(e["tid"], 0) - 0.01 and e["dur"] >= 0 and e["tid"] in tracks
        ends[e["tid"]] = e["ts"] + e["dur"]
        assert e["cat"] in ("read", "transform", "write", "wait") and e["args"].get("tensor") in {None, *tensors}
        reads += [e["args"]["tile"]] if e["name"] == "read" else []
    assert sorted(reads) == list(range(told["memory"]["tiles"]))
    moved = {cat: sum(e["args"].get("bytes", 0) for e in events if e.get("cat") == cat) for cat in ("read", "write")}
    assert moved["read"] == told["bytes"]["read"] and moved["write"] <= told["totals"]["written"]
    assert {e["name"] for e in events if e.get("cat") == "wait"} == {"wait for room", "wait for a tile", "wait for a slab"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "report.json", "trace.json"]


def test_trace_of_a_failed_export_leaves_the_old_one(weighbridge, model, tmp_path):
    trace = tmp_path / "trace.json"
    trace.write_text("an older one")
    weighbridge.refuses("export", model, tmp_path / "out", "--trace", trace, "--io", "fault",
                        env={"WEIGHBRIDGE_FAULT": "fail=3,error=5"})
    assert trace.read_text() == "an older one"
    assert {p.name for p in tmp_path.iterdir()} - {"out.partial"} == {"trace.json"}  # which keeps what was finished, if anything was


def test_trace_needs_a_file_of_its_own(weighbridge, model, exported, tmp_path):
    for options in (["--trace", "-"], ["--trace", tmp_path / "t", "--report", tmp_path / "t"],
                    ["--trace", tmp_path / "none" / "t"], ["--trace", exported / "t"], ["--trace", model / "t"]):
        said = weighbridge.refuses("export", model, exported, "--overwrite", *options)
        assert f"--trace {options[1]}" in said and list(tmp_path.iterdir()) == []
    said = weighbridge.refuses("export", model, tmp_path / "out", "--trace", "/dev/full")
    assert "--trace /dev/full: No space left" in said and "only its trace" in said
    assert (tmp_path / "out" / "model.onnx").exists()


def test_a_null_sink_does_all_but_write(weighbridge, model, exported, tmp_path):
    before, report = tree(exported), tmp_path / "report.json"
    r = weighbridge.ok("export", model, exported, "--sink", "null", "--report", report, "--memory", "16M")
    assert r.stdout.startswith("nothing was written") and tree(exported) == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    told = json.loads(report.read_text())
    assert told["totals"]["read"] >= told["bytes"]["read"] and told["io"]["sink"] == "null"
    assert told["totals"]["written"] >= sum(f["bytes"] for f in told["files"] if f["origin"] == "weights")
    assert all(t["xxh3_4k"] is None for t in told["tensors"])
    weighbridge.ok("export", model, tmp_path / "out", "--sink=null", "-q")
    assert not (tmp_path / "out").exists()
    for options in (["--pack", tmp_path / "a.wbz"], ["--resume"]):
        said = weighbridge.refuses("export", model, tmp_path / "out", "--sink", "null", *options, status=2)
        assert "--sink null writes nothing" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json"]


def test_report_that_cannot_be_written_stops_the_export_before_it_begins(weighbridge, model, exported, tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("none")
    before, older = tree(model), tree(exported)
    for report, said in ((tmp_path / "none" / "r.json", "No such file or directory"),
                         (tmp_path / "directory", "is a directory"),
                         (model / "r.json", "lies inside MODEL"), (model / "config.json", "lies inside MODEL"),
                         (exported / "r.json", "lies inside it"), (tmp_path / "dangling", "a link to what does not exist")):
        said_really = weighbridge.refuses("export", model, exported, "--overwrite", "--report", report)
        assert said in said_really and str(report) in said_really
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "directory"]
    assert tree(model) == before and tree(exported) == older


def test_reports_and_archives_do_not_take_each_others_place(weighbridge, model, tmp_path):
    """Whatever way their names are spelled."""
    (tmp_path / "link").symlink_to(tmp_path)
    other = tmp_path / "link" / ".." / tmp_path.name
    for options, said in ((["--pack", tmp_path / "x.wbz", "--report", other / "x.wbz"], "is where the archive goes"),
                          (["--pack", other / "x.wbz", "--trace", "x.wbz.partial"], "is where the archive goes"),
                          (["--report", tmp_path / "r.json", "--trace", other / "r.json"], "is the file of --report, too"),
                          (["--report", "r.json", "--trace", tmp_path / "link" / "r.json"], "is the file of --report, too"),
                          (["--report", other / "out"], "is OUT, or lies inside"), (["--report", "out.partial"], "is OUT, or lies inside"),
                          (["--trace", tmp_path / "out.old"], "is OUT, or lies inside")):
        assert said in weighbridge.refuses("export", model, tmp_path / "out", *options, cwd=tmp_path), options
        assert [p.name for p in tmp_path.iterdir()] == ["link"]


def test_names_that_killed_runs_have_left_are_passed_over(weighbridge, model, tmp_path):
    """In a container each run may have the same pid."""
    prefix = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no namespace of processes to be had")
    (tmp_path / "r.json.1-0.tmp").write_text("left")
    for forbidden in ("", "O_TMPFILE=EOPNOTSUPP"):
        weighbridge.ok("plan", model, "--report", tmp_path / "r.json", prefix=[*prefix, sys.executable, ROOT / "tests/e2e/forbid.py", forbidden],
                       env={"ASAN_OPTIONS": "detect_leaks=0"})
        assert json.loads((tmp_path / "r.json").read_text())["refused"] is None
        (tmp_path / "r.json").unlink()
        assert [p.name for p in tmp_path.iterdir()] == ["r.json.1-0.tmp"]


def test_a_file_of_another_in_a_sticky_directory(weighbridge, model):
    """Only its owner may replace it, so that is said before anything is written."""
    if os.geteuid():
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as folder:  # others may look in here, with a program and a model of their own
        folder = Path(folder)
        folder.chmod(0o1777)
        report, program = folder / "r.json", shutil.copy(weighbridge.path, folder)
        shutil.copytree(model, folder / "model")
        report.write_text("of root")
        report.chmod(0o666)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        r = subprocess.run([*nobody, program, "plan", folder / "model", "--report", report], capture_output=True, text=True)
        assert r.returncode == 1 and "belongs to somebody else" in r.stderr and report.read_text() == "of root"


def test_nobody_reads_the_warnings(weighbridge, model, tmp_path):
    """A pipe that is closed at its other end costs the messages, not the export."""
    (model / "tokenizer.json").rename(tmp_path / "tokenizer.json")  # which is worth a warning
    try:
        reader, writer = os.pipe()
        os.close(reader)
        run = subprocess.run([weighbridge.path, "export", model, tmp_path / "out"], stderr=writer, stdout=subprocess.PIPE)
        os.close(writer)
    finally:
        (tmp_path / "tokenizer.json").rename(model / "tokenizer.json")
    assert run.returncode == 0 and (tmp_path / "out" / "model.onnx").exists() and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_limit_on_the_size_of_files(weighbridge, model, exported, tmp_path):
    """Says which file, and what to do."""
    limit = ["prlimit", "--fsize=20000"]
    said = weighbridge.refuses("export", model, tmp_path / "out", prefix=limit)
    assert re.search(r"out.partial/\S+: no file may have its \d+ bytes here \(File too large\): raise the limit", said)
    said = weighbridge.refuses("pack", exported, tmp_path / "x.wbz", prefix=limit)
    assert "x.wbz" in said and "raise the limit" in said
    assert not [p.name for p in tmp_path.iterdir() if p.name != "out.partial"]


# ---------------------------------------------------------------------------------------------------- a terminal


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """1.2 GB of zeros: an export long enough to be watched and interrupted."""
    return checkpoints.write_sparse(tmp_path_factory.mktemp("big") / "model", {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8, "num_attention_heads": 32,
        "num_key_value_heads": 32, "head_dim": 64, "vocab_size": 16000})


# So many small operations that a run is still under way whenever a busy machine lets the test go on.
SLOW, FEW = ["--memory", "64M", "--io", "fault"], {"WEIGHBRIDGE_FAULT": "at_most=512"}


class OnTerminal:
    """A run whose standard error is a terminal."""

    def __init__(self, *command, env=None):
        self.master, slave = pty.openpty()
        self.run = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=slave, env={**os.environ, **SANITIZER, **(env or {})})
        os.close(slave)
        self.shown = b""

    def read_until(self, wanted, seconds=60):
        end = time.monotonic() + seconds
        while not wanted(self.shown):
            if time.monotonic() > end or not select.select([self.master], [], [], 1)[0]:
                if time.monotonic() > end:
                    pytest.fail(f"did not come: {self.shown[-500:]!r}")
                continue
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # closed by the last writer
                return
            self.shown += piece

    def end(self):
        """-> status, stdout, what the terminal showed"""
        self.read_until(lambda shown: False, 120)
        out = self.run.stdout.read().decode()
        status = self.run.wait(60)
        os.close(self.master)
        return status, out, self.shown.decode()


BAR = re.compile(rb"\r(?:\[#*\.*\]  )? *\d+%  [\d.]+ \w+ of [\d.]+ \w+  [\d.]+ GB/s  \S+ left(  limit: \w+)?")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bar_on_a_terminal_and_interruption(weighbridge_release, big, tmp_path, number):
    """The bar comes, a signal stops the run cleanly: the bar goes, nothing is published or left but what --resume needs."""
    out, report = tmp_path / "out", tmp_path / "report.json"
    t = OnTerminal(weighbridge_release.path, "export", big, out, *SLOW, "--report", report, env=FEW)
    t.read_until(BAR.search)
    t.run.send_signal(number)
    status, stdout, shown = t.end()
    assert status == 1 and stdout == ""
    assert re.search("\r {30,}\rweighbridge: error: interrupted; nothing was published\r\n(weighbridge: note: .*\r\n)?$", shown), shown[-300:]
    assert os.listdir(tmp_path) == (["out.partial"] if "--resume goes on" in shown else [])


def test_no_bar_where_none_is_wanted(weighbridge, model, tmp_path):
    for i, options in enumerate((["-q"], ["--progress", "never"])):
        t = OnTerminal(weighbridge.path, "export", model, tmp_path / str(i), *options)
        status, _, shown = t.end()
        assert status == 0 and shown == ""


def test_interruption_without_a_terminal_leaves_the_old_export(weighbridge_release, big, model, tmp_path):
    out = tmp_path / "out"
    weighbridge_release.ok("export", model, out)
    before = tree(tmp_path)
    run = subprocess.Popen([weighbridge_release.path, "export", big, out, "--overwrite", "--progress", "always", *SLOW],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **SANITIZER, **FEW})
    first = run.stderr.read(20)  # the bar: the weights move
    run.send_signal(signal.SIGINT)
    stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 1 and stdout == b""
    assert first.startswith(b"\r") and b"weighbridge: error: interrupted; nothing was published\n" in stderr
    shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    assert tree(tmp_path) == before


# ---------------------------------------------------------------------------------------------------- other names


def test_drop_in_export(named, weighbridge, model, tmp_path):
    """The reference's options; cuda is the CPU where there is no GPU, with a notice; an older export is replaced without
    asking."""
    program, out = named(PROGRAMS[0]), tmp_path / "out"
    r = program.ok("--model_dir", model, f"--output_dir={out}")
    assert re.fullmatch(rf"{PROGRAMS[0]}: note: device cuda: [^\n]*CPU[^\n]*\n", r.stderr)
    assert r.stdout.startswith(f"{out}: ")
    r = program.ok("--model", model, "--out", out, "--device", "cpu")
    assert r.stderr == ""
    weighbridge.ok("export", model, tmp_path / "plain")
    assert tree(out) == tree(tmp_path / "plain")
    assert "device cuda:1: " in program.ok("--model_dir", model, "--output_dir", out, "--device", "cuda:1").stderr


def test_drop_in_spares_what_is_no_export(named, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    said = named(PROGRAMS[0]).refuses("--model_dir", model, "--output_dir", out, "--device", "cpu")
    assert said.startswith(f"{PROGRAMS[0]}: error: ") and tree(out) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("name, line, said", [
    (PROGRAMS[0], "", "--model_dir is missing"),
    (PROGRAMS[0], "--model_dir m", "--output_dir is missing"),
    (PROGRAMS[0], "--model_dir m --output_dir o --device tpu", "--device 'tpu' is neither cpu nor cuda"),
    (PROGRAMS[0], "--model_dir m --output_dir o --overwrite", "unknown option '--overwrite'"),
    (PROGRAMS[0], "--model_dir m --output_dir o x", "unexpected operand 'x'"),
    (PROGRAMS[0], "--model_dir", "--model_dir needs a value: DIR"),
    (PROGRAMS[1], "--output_dir o", "--draft_model_dir is missing"),
    (PROGRAMS[5], "--model_dir m --output_dir o", "--reduced_vocab_size is missing"),
    (PROGRAMS[5], "--model_dir m --output_dir o --reduced_vocab_size 9", "--corpus FILE is needed: the program of this name"),
    (PROGRAMS[5], "--model_dir m --output_dir o --reduced_vocab_size 9 --corpus c --method input-aware", "is not one of"),
])
def test_drop_in_usage_errors(named, tmp_path, name, line, said):
    r = named(name)(*line.split())
    assert r.status == 2 and r.stdout == ""
    assert re.fullmatch(rf"{name}: error: [^\n]+\n", r.stderr) and said in r.stderr
