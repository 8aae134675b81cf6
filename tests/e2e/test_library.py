"""The library as its users have it: the public header, the shared and the static file, an installed tree."""
import os
import subprocess

import checkpoints
import pytest
from conftest import ROOT, tree

USE = r"""
#include <stdio.h>
#include <string.h>
#include <weighbridge.h>

static int calls, warnings;
static int progress(void *user, const struct wb_progress *p) { calls += *(int *)user == 7 && p->to_write > 0; return 0; }
static void warning(void *user, const char *text) { warnings += *(int *)user == 7 && *text; }

int main(int argc, char **argv)
{
    int seven = 7;
    struct wb_options o = { .model = argv[1], .out = argv[2], .progress = progress, .warning = warning, .user = &seven };
    struct wb_error e = { 0 };
    char *json = NULL;

    if (argc != 3 || wb_export(&o, &json, &e))
        return fprintf(stderr, "%s\n", e.message), 1;
    if (!strstr(json, "\"xxh3_4k\"") || e.status != WB_OK)
        return 2;
    wb_free(json);
    if (!wb_export(&o, NULL, &e) || e.status != WB_FAILED || !strstr(e.message, "overwrite"))
        return 3;
    if (wb_verify(&o, &json, &e) || !strstr(json, "\"ok\": true"))
        return 4;
    wb_free(json);
    if (wb_plan(&(struct wb_options){ .model = argv[1], .target = "none" }, &json, &e) != -1 || e.status != WB_USAGE)
        return 5;
    puts(wb_version());
    return calls && warnings ? 0 : 6;
}
"""


@pytest.fixture(scope="module")
def build(weighbridge_release):
    return weighbridge_release.path.parent


@pytest.mark.parametrize("how", ["shared", "static"])
def test_a_program_of_somebody_else(how, build, tmp_path):
    (tmp_path / "use.c").write_text(USE)
    model = checkpoints.make(tmp_path / "model", "mistral", config={"sliding_window": 8}).path
    if how == "shared":
        link = [f"-L{build}", "-lweighbridge", f"-Wl,-rpath,{build}"]
    else:
        deps = subprocess.run(["pkg-config", "--libs", "jansson", "liburing", "libprotobuf-c", "libxxhash", "libzstd"],
                              capture_output=True, text=True, check=True).stdout.split()
        triplet = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
        link = [build / "libweighbridge.a", f"/usr/lib/{triplet}/openblas-openmp/libopenblas.a", "-lgomp", *deps, "-lm", "-lpthread"]
    subprocess.run(["gcc", "-std=c17", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}", tmp_path / "use.c", "-o",
                    tmp_path / "use", *link], check=True)
    r = subprocess.run([tmp_path / "use", model, tmp_path / "out"], capture_output=True, text=True)
    assert r.returncode == 0, (r.returncode, r.stderr)
    assert r.stdout.strip().count(".") == 2


def test_shared_library_exports_the_front_door_only(build):
    r = subprocess.run(["nm", "-D", "--defined-only", build / "libweighbridge.so"], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in r.stdout.splitlines()}
    assert names == {"wb_version", "wb_export", "wb_plan", "wb_inspect", "wb_verify", "wb_lora_insert",
                     "wb_lora_process", "wb_lora_merge", "wb_reduce_vocab", "wb_pack", "wb_batch",
                     "wb_unpack", "wb_list", "wb_ranks_join", "wb_ranks_first",
                     "wb_ranks_leave", "wb_free"}


def test_installed_tree(build, tmp_path):
    subprocess.run(["cmake", "--install", build, "--prefix", tmp_path / "usr"], check=True, capture_output=True)
    bin_ = tmp_path / "usr" / "bin"
    assert {"weighbridge"} | {f"tensorrt-edgellm-{name}" for name in ("export-llm", "export-draft", "insert-lora", "process-lora", "merge-lora",
                                                                  "reduce-vocab")} <= set(
        os.listdir(bin_))
    assert (tmp_path / "usr" / "include" / "weighbridge.h").is_file()
    model = checkpoints.make(tmp_path / "model").path
    subprocess.run([bin_ / "tensorrt-edgellm-export-llm", "--model_dir", model, "--output_dir", tmp_path / "a"], check=True,
                   capture_output=True)
    subprocess.run([bin_ / "weighbridge", "export", model, tmp_path / "b"], check=True, capture_output=True)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_same_bytes_from_every_build(tmp_path):
    """gcc and clang, with and without sanitizers: whichever of them have been built."""
    model = checkpoints.make(tmp_path / "model", "llama", dtype="F32", config={"hidden_size": 136, "vocab_size": 999}).path
    seen = {}
    for name in ("asan", "release", "clang", "tsan"):
        program = ROOT / "build" / name / "weighbridge"
        if program.is_file():
            prefix = ["setarch", "-R"] if name == "tsan" else []
            subprocess.run([*prefix, program, "export", model, tmp_path / name], check=True, capture_output=True)
            seen[name] = tree(tmp_path / name)
    if not seen:
        pytest.skip("no build in build/asan, build/release, build/clang or build/tsan")
    first = next(iter(seen.values()))
    assert all(s == first for s in seen.values()), list(seen)
