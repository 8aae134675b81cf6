"""bench/report.py: one HTML file, from the report and the trace of an export.  And that every script can be run."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import checkpoints
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import report as bench_report  # noqa: E402


def sample(seconds, read, written, *waiting):
    return {"seconds": seconds, "read": read, "written": written, "waiting": dict(zip(bench_report.STAGES, waiting))}


SERIES = [sample(0, 0, 0, 0, 0, 0), sample(2, 4e9, 1e9, 0, 2, 1), sample(2, 4e9, 1e9, 0, 2, 1), sample(4, 6e9, 5e9, 2, 6, 1)]


def test_rates_and_shares():
    assert bench_report.rates(SERIES, "read") == [(0, 2, 2.0), (2, 4, 1.0)]
    assert bench_report.rates(SERIES, "written") == [(0, 2, 0.5), (2, 4, 2.0)]
    assert bench_report.shares(SERIES, "read", 1) == [(0, 2, 1.0), (2, 4, 0.0)]
    assert bench_report.shares(SERIES, "transform", 2) == [(0, 2, 0.5), (2, 4, 0.0)]
    assert bench_report.shares(SERIES, "write", 1) == [(0, 2, 0.5), (2, 4, 1.0)]


def test_a_trace_of_any_length_becomes_columns():
    events = [{"tid": 1, "ts": i * 10.0, "dur": 5.0, "cat": "read"} for i in range(10000)]
    events.append({"tid": 2, "ts": 0.0, "dur": 100000.0, "cat": "wait"})
    tracks = bench_report.columns(events, 100000.0)
    assert len(tracks[1]) == len(tracks[2]) == bench_report.COLUMNS
    assert sum(k["read"] for k in tracks[1].values()) == pytest.approx(50000)
    assert sum(k["wait"] for k in tracks[2].values()) == pytest.approx(100000)


def draw(*args):
    return subprocess.run([sys.executable, ROOT / "bench" / "report.py", *map(str, args)], capture_output=True, text=True)


def test_an_export_is_drawn(weighbridge, tmp_path):
    model = checkpoints.make(tmp_path / "a <b>model&").path
    report, trace, out = tmp_path / "report.json", tmp_path / "trace.json", tmp_path / "out.html"
    weighbridge.ok("export", model, tmp_path / "out", "--report", report, "--trace", trace)
    for extra in ([], ["--trace", trace]):
        r = draw(report, *extra, "-o", out)
        assert r.returncode == 0 and r.stdout == r.stderr == ""
        text = out.read_text()
        page = ET.fromstring(text.split("\n", 1)[1])  # well-formed, whatever the names
        assert "a <b>model&" in page.find("body/h1").text
        assert {line.get("id") for line in page.iter("polyline")} == {
            "read", "write", "read-busy", "transform-busy", "write-busy"}
        assert "http" not in text and "<script" not in text  # needs nothing else
        tracks = [g.find("text").text for g in page.iter("g")]
        assert ("reader" in tracks and "worker 1" in tracks) == bool(extra)
        assert all(rect.get("fill") in bench_report.COLOUR.values() for rect in page.iter("rect"))


def test_what_is_no_report_is_said(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"model": "x"}))
    r = draw(tmp_path / "plan.json", "-o", tmp_path / "out.html")
    assert r.returncode == 1 and "plan.json: has no \"series\"" in r.stderr and not (tmp_path / "out.html").exists()


def test_scripts_can_be_run():
    scripts = [path for folder in ("bench", "scripts", "tests", ".ci") for path in (ROOT / folder).rglob("*")
               if path.is_file() and "golden" not in path.parts and path.read_bytes()[:2] == b"#!"]
    assert len(scripts) > 15
    assert not [str(path) for path in scripts if not os.access(path, os.X_OK)]


def test_gpu_bench_compares_the_hashes_of_a_report(weighbridge, tmp_path):
    """There is no card where tests run; so what it takes from a report is tried by itself."""
    loader = importlib.machinery.SourceFileLoader("gpu_bench", str(ROOT / "bench" / "gpu"))
    bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_bench", loader))
    loader.exec_module(bench)
    model = checkpoints.make(tmp_path / "model").path
    report = json.loads(weighbridge.ok("export", model, tmp_path / "out", "--no-chat-template", "--report", "-", "-q").stdout)
    hashes = bench.hashes(report)
    assert len(hashes) == len(report["tensors"]) > 10 and all(len(h) == 16 for h in hashes.values())
