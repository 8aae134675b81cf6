"""Every case of the list of public bug reports has a test that names it: `grep -rn EAGLE-05 tests` finds it.

A case counts where its id stands in a test: for Python from its first decorator to its last line (a comment behind `def` or a
docstring is the usual place), for C in the comment over it or in its body.  To add cases: a line in CASES.
"""
import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CASES = """
ST-01 ST-03 ST-07 ST-08 ST-09 ST-11 ST-15 ST-18 ST-19
CFG-02 CFG-03 CFG-05 CFG-08 CFG-10 CFG-11
NAME-03 NAME-05 NAME-06 NAME-08
TIE-04 TIE-05
GPTQ-03 GPTQ-04 GPTQ-07 GPTQ-08 GPTQ-10 GPTQ-12 GPTQ-14
AWQ-01 AWQ-04 AWQ-06
CT-03 CT-04 CT-05 CT-07
EAGLE-01 EAGLE-02 EAGLE-03 EAGLE-05 EAGLE-09 EAGLE-11
VOCAB-01 VOCAB-04
LORA-02 LORA-03 LORA-04 LORA-06
TMPL-01 TMPL-04 TMPL-05
ONNX-02 ONNX-03 ONNX-06 ONNX-07
NUM-01
OPS-02 OPS-05 OPS-06 OPS-07
""".split()


def python_tests(text):
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            yield "\n".join(lines[first - 1:node.end_lineno])


def c_tests(text):
    """A function of cmocka's, with the comment right over it."""
    for m in re.finditer(r"(?:/\*(?:[^*]|\*(?!/))*\*/\n)?static void \w+\(void \*\*state\)\n\{.*?\n\}\n", text, re.S):
        yield m.group()


@pytest.fixture(scope="module")
def named():
    found = set()
    for path, tests in [*((p, python_tests) for p in TESTS.glob("e2e/test_*.py") if p != Path(__file__).resolve()),
                        *((p, c_tests) for p in TESTS.glob("unit/test_*.c"))]:
        for test in tests(path.read_text(encoding="utf-8")):
            found |= set(re.findall(r"\b[A-Z]{2,5}-\d\d\b", test))
    return found


@pytest.mark.parametrize("case", CASES)
def test_case_has_a_test(case, named):
    assert case in named, f"no test names {case}"


def test_what_counts_as_named():
    assert list(python_tests('# AA-01\n@mark("BB-02")\ndef test_x():  # CC-03\n    """DD-04"""\n\n\ndef helper():  # EE-05\n    pass\n')) == [
        '@mark("BB-02")\ndef test_x():  # CC-03\n    """DD-04"""']
    assert list(c_tests("/* AA-01 */\n\n/* BB-02 */\nstatic void x(void **state)\n{\n    /* CC-03 */\n}\n\n/* DD-04 */\nint y;\n")) == [
        "/* BB-02 */\nstatic void x(void **state)\n{\n    /* CC-03 */\n}\n"]
