"""Rules for what ptxas made, for every architecture: wide loads and stores, no spills, no double precision.

pack4/awq and the gathers read words of 4 bytes by design, a warp side by side: they have no 16-byte loads."""
import functools
import re
import subprocess

import pytest

from kernels import BUILD

ARCHES = ["80", "87", "90", "100", "110", "120"]
REGISTERS_MOST = 64  # of a thread: four blocks of 256 threads to an SM
LOADS_16 = {"cast": ["bf16", "f16", "f32"], "transpose": ["bf16", "f16", "f32"], "pack4": ["in", "in_act", "out"],
            "zeros_group": ["f16", "bf16", "f32"], "merge": ["f16", "bf16", "f32"]}
STORES_16 = {**LOADS_16, "pack4": ["in", "in_act", "awq", "out"], "zeros_out": ["f16", "bf16", "f32"]}
RULES = [("LDG", LOADS_16), ("STG", STORES_16)]


def dump(option):
    return "".join(subprocess.run(["cuobjdump", option, str(f)], capture_output=True, text=True, check=True).stdout
                   for f in sorted((BUILD / "cuda").glob("*.fatbin")))


@functools.cache
def instructions():
    """(architecture, kernel) -> its instructions."""
    found, arch, code = {}, None, []
    for line in dump("-sass").splitlines():
        if m := re.search(r"arch = sm_(\w+)|code for sm_(\w+)", line):
            arch = m.group(1) or m.group(2)
        elif m := re.search(r"Function : (\S+)", line):
            code = found[arch, m.group(1)] = []
        elif m := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d\s+)?(.*?)\s*;", line):
            code.append(m.group(1))
    return found


@functools.cache
def usage():
    """(architecture, kernel) -> {"REG": 40, "STACK": 0, ...}."""
    found, arch, kernel = {}, None, None
    for line in dump("-res-usage").splitlines():
        if m := re.search(r"arch = sm_(\w+)", line):
            arch = m.group(1)
        elif m := re.search(r"Function (\w+):", line):
            kernel = m.group(1)
        elif "REG:" in line:
            found[arch, kernel] = {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", line)}
    return found


def kernels():
    return sorted({kernel for _, kernel in instructions()})


def test_all_are_there():
    assert len(kernels()) == 23
    assert sorted(instructions()) == sorted(usage()) == sorted((a, k) for a in ARCHES for k in kernels())
    assert all(len(code) > 50 for code in instructions().values())


@pytest.mark.parametrize("arch", ARCHES)
def test_16_bytes_at_once(arch):
    for what, of in RULES:
        for family, variants in of.items():
            for variant in variants:
                code = instructions()[arch, f"gpu_{family}_{variant}"]
                assert any(re.match(what + r"\.\S*\.128\b", i) for i in code), (family, variant, what)


@pytest.mark.parametrize("arch", ARCHES)
def test_no_memory_of_a_threads_own(arch):
    for (a, kernel), code in instructions().items():
        if a == arch:
            assert not [i for i in code if re.match(r"LDL|STL", i)], kernel
            assert usage()[arch, kernel]["STACK"] == 0 and usage()[arch, kernel]["LOCAL"] == 0, kernel


@pytest.mark.parametrize("arch", ARCHES)
def test_registers(arch):
    for (a, kernel), used in usage().items():
        if a == arch:
            print(arch, kernel, used["REG"])
            assert used["REG"] <= REGISTERS_MOST, kernel


@pytest.mark.parametrize("arch", ARCHES)
def test_no_double_precision(arch):
    for (a, kernel), code in instructions().items():
        if a == arch:
            assert not [i for i in code if re.search(r"\.F64|^D(ADD|MUL|FMA|SETP)\b", i)], kernel
