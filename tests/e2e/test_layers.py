"""Every #include of our own points to the same folder or to one on its left; the program knows the public header only."""
import re

from conftest import ROOT

ORDER = [["base"], ["io", "gpu"], ["mpi"], ["transform", "checkpoint"], ["model"], ["graph"], ["emit"], ["pipeline", "archive"], ["front"]]


def rank(folder):
    return next(i for i, level in enumerate(ORDER) if folder in level)


def includes():
    for file in sorted(f for f in (ROOT / "src").rglob("*") if f.suffix in (".c", ".h", ".cu", ".cuh")):
        for name in re.findall(r'#include "([^"]+)"', file.read_text()):
            yield file, file.parent.name, name


def test_includes_point_to_the_left():
    n = 0
    for file, folder, name in includes():
        if folder == "cli":
            continue
        assert "/" in name, f"{file}: {name} names no folder"
        target = name.split("/")[0]
        assert target == folder or rank(target) < rank(folder), f"{file} includes {name}"
        n += 1
    assert n > 100


def test_the_program_uses_the_front_door():
    for file, folder, name in includes():
        if folder == "cli":
            assert name == "weighbridge.h" or name.startswith("cli/"), f"{file} includes {name}"
    for file in (ROOT / "src" / "cli").glob("*.c"):
        assert not re.search(r"#include <(base|io|model|graph|emit|archive|pipeline|front)/", file.read_text())


def test_no_family_or_format_is_named_outside_its_table():
    """Adding a family is a row: no other code asks for one."""
    names = re.compile(r'"(llama|mistral|qwen2|qwen3|gptq|awq)"')
    for file in sorted((ROOT / "src").rglob("*.[ch]")):
        if file.name not in ("families.c",) and not file.name.startswith("stored"):
            assert not names.search(file.read_text()), file
