"""A model of 405 billion parameters: its weights are holes, its 191 headers are real."""
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "bench"))
import huge_bench  # noqa: E402


@pytest.fixture(scope="module")
def llama_405b(tmp_path_factory):
    path, size = huge_bench.make(str(tmp_path_factory.mktemp("huge")), 126)
    assert size == 811_706_777_600
    return path


def test_plan_of_405b_in_little_memory(weighbridge_release, llama_405b):
    """Twice the 200 MB that it may take: shared libraries count here, too."""
    r = weighbridge_release.ok("plan", llama_405b, "--json", prefix=["prlimit", "--as=400000000"])
    assert r.json["refused"] is None and r.json["bytes"]["source"] == 811_706_777_600
    assert r.json["memory"]["buffers"] <= 512 << 20 and len(r.json["tensors"]) == 1137
    assert r.json["memory"]["tiles"] > 190_000 and len({t["source_file"] for t in r.json["tensors"]}) == 191
    weighbridge_release.ok("plan", llama_405b, "--json", "--memory", "128M", prefix=["prlimit", "--as=400000000"])
