"""Whatever the machine refuses or the page cache holds: the same bytes, no memory beyond the promise, and -v says which way
the shards took. Kernels, containers and file systems that refuse things are stood in for by forbid.py and file_system.c."""
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkpoints
import pytest
from conftest import tree

HERE = Path(__file__).parent
QUICK = ["--no-chat-template"]
MODEL = {"num_hidden_layers": 2, "vocab_size": 20011, "hidden_size": 192, "intermediate_size": 500}


def on_disk():
    """Direct I/O and dropping from the cache are about file systems on disks."""
    with tempfile.TemporaryFile() as f:
        f.write(b"x" * (1 << 20))
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return cached(f.fileno()) == 0


def cached(file):
    """Pages of a file in the page cache, by mincore: an independent witness of what the program asks cachestat."""
    import ctypes
    fd = file if isinstance(file, int) else os.open(file, os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, size) as m:
        there = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        view = (ctypes.c_char * size).from_buffer(m)
        assert not libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), there)
        del view
    if fd is not file:
        os.close(fd)
    return sum(x & 1 for x in there)


def cachestat(fd):
    """-> pages in the cache, dirty ones among them; None: this kernel has no cachestat"""
    import ctypes
    whole, found = (ctypes.c_ulong * 2)(0, 0), (ctypes.c_ulong * 5)()
    if ctypes.CDLL(None, use_errno=True).syscall(451, fd, ctypes.byref(whole), ctypes.byref(found), 0):
        return None
    return found[0], found[1]


def drop(path):
    for f in sorted(Path(path).iterdir()):
        with open(f) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(path):
    for f in sorted(Path(path).iterdir()):
        f.read_bytes()


def ways(report):
    """-> which ways shards took, and why; those that hold no weights to stream take none"""
    return {(s["way"], s["why"]) for s in json.loads(report.read_text())["io"]["shards"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoints.make(tmp_path_factory.mktemp("io") / "model", "llama", dtype="F32", shards=3, config=MODEL).path


@pytest.fixture(scope="module")
def want(weighbridge, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("want") / "out"
    weighbridge.ok("export", model, out, *QUICK, "--io", "pread")
    return tree(out)


@pytest.fixture()
def export(weighbridge, model, want, tmp_path):
    """export(*options, **how) -> (how many shards took which way and why, standard error); the bytes are compared."""
    def run(*options, program=weighbridge, model=model, out=tmp_path / "out", **how):
        r = program("export", model, out, "-v", "--overwrite", *QUICK, "--report", tmp_path / "report.json", *options, **how)
        if r.status != 0 and ("seccomp: " in r.stderr or "uring" in options and "io_uring is not to be had here" in r.stderr):
            pytest.skip(r.stderr.strip())
        assert r.status == 0, r.stderr
        assert tree(out) == want
        return ways(tmp_path / "report.json"), r.stderr
    return run


def forbid(what):
    return [sys.executable, HERE / "forbid.py", what]


# ---------------------------------------------------------------------------------------------------- each rung


def test_cached_shards_are_mapped_and_cold_ones_read_direct(export, model):
    if not on_disk():
        pytest.skip("files are in memory here")
    warm(model)
    seen, said = export()
    assert seen == {("mapped", "cached")} and "shards mapped (cached)" in said
    drop(model)
    seen, said = export()
    assert seen == {("direct", "not cached")} and "shards read with O_DIRECT (not cached)" in said
    drop(model)
    (model / "model-00002-of-00003.safetensors").read_bytes()
    seen, said = export()
    assert seen == {("direct", "not cached"), ("mapped", "cached")}


def test_an_engine_by_name_maps_nothing_and_mmap_all(export, model):
    for cold in (False, True):
        for io in ("uring", "pread", "fault"):
            (drop if cold else warm)(model)
            assert not any(way == "mapped" for way, _ in export("--io", io)[0])
        drop(model)
        seen, said = export("--io", "mmap")
        assert seen == {("mapped", "asked for")} and "shards mapped (asked for)" in said


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_without_io_uring(export, model, error):
    for prepare in (warm, drop):
        prepare(model)
        said = export(prefix=forbid(f"io_uring_setup={error}"))[1]
        assert "engine pread" in said and f"io_uring is not to be had here" in said
        export("--io", "mmap", prefix=forbid(f"io_uring_setup={error}"))


@pytest.mark.parametrize("forbidden", ["", "io_uring_setup=EPERM"])
def test_the_report_says_which_engine_and_why(export, model, tmp_path, forbidden):
    """Whatever this machine has; some (containers, qemu-user) are without io_uring already."""
    warm(model)
    said = export(prefix=forbid(forbidden) if forbidden else ())[1]
    io = json.loads((tmp_path / "report.json").read_text())["io"]
    assert f"engine {io['engine']}, " in said
    if io["engine"] == "uring":
        assert not forbidden and io["refused"] is None and "io_uring" not in said
    else:
        assert io["engine"] == "pread" and io["refused"].startswith("io_uring is not to be had here")
        assert f"note: {io['refused']}\n" in said


def test_uring_by_name_where_it_is_forbidden(weighbridge, model, tmp_path):
    r = weighbridge("export", model, tmp_path / "out", "--io", "uring", prefix=forbid("io_uring_setup=EPERM"), any_status=True)
    if r.status == 77:
        pytest.skip(r.stderr.strip())
    assert r.status == 1 and "--io pread" in r.stderr and not (tmp_path / "out").exists()


def test_without_locked_memory(export, model):
    """RLIMIT_MEMLOCK 0 for one who may not lock more."""
    without = ["prlimit", "--memlock=0:0"]
    if os.geteuid() == 0:
        without += ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    for prepare in (warm, drop):
        prepare(model)
        export(prefix=without)


def test_without_o_direct(export, model):
    drop(model)
    seen, said = export(prefix=forbid("O_DIRECT=EINVAL"))
    assert "writes through the page cache" in said and not any(way == "direct" for way, _ in seen)
    if on_disk():
        assert seen == {("buffered", "no O_DIRECT there")} and "shards read through the page cache (no O_DIRECT there)" in said


def test_o_direct_that_is_taken_and_then_refused(export, model):
    """EINVAL at the first read: this shard goes on through the cache, and those that are opened later do not try."""
    drop(model)
    seen, _ = export("--io", "fault", "--threads", 1, env={"WEIGHBRIDGE_FAULT": "fail=1,error=22"})
    assert not on_disk() or ("buffered", "no O_DIRECT there") in seen


def test_kernels_that_know_less(export, model):
    """Before 6.5 there is no cachestat; some file systems know no fallocate, some profiles no advice."""
    warm(model)
    assert export(prefix=forbid("cachestat=ENOSYS"))[0] == {("mapped", "cached")}
    drop(model)
    seen = export(prefix=forbid("cachestat=ENOSYS"))[0]
    assert seen == ({("direct", "not cached")} if on_disk() else {("mapped", "cached")})
    export(prefix=forbid("fallocate=EOPNOTSUPP,fadvise64=ENOSYS,sync_file_range=ENOSYS,O_DIRECT=EINVAL,io_uring_setup=EPERM"))


def test_files_in_memory(export, model, want):
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shm:
        source = shutil.copytree(model, Path(shm) / "model")
        seen, said = export(model=source, out=Path(shm) / "out")
        assert seen == {("mapped", "file system in memory")} and "shards mapped (file system in memory)" in said
        export("--io", "pread", model=source, out=Path(shm) / "out")
        export("--io", "uring", model=source, out=Path(shm) / "out")


@pytest.fixture(scope="session")
def file_system(tmp_path_factory):
    shim = tmp_path_factory.mktemp("file_system") / "file_system.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, HERE / "file_system.c", "-ldl"], check=True)
    return lambda kind: {"LD_PRELOAD": str(shim), "FILE_SYSTEM": kind}


@pytest.mark.parametrize("kind", ["6969", "ff534d42", "65735546"])
def test_remote_file_systems(export, weighbridge_release, model, file_system, kind):
    drop(model)
    seen, said = export(program=weighbridge_release, env=file_system(kind))
    if on_disk():
        assert seen == {("buffered", "remote file system")}
        assert "shards read through the page cache (remote file system)" in said
    warm(model)
    assert export(program=weighbridge_release, env=file_system(kind))[0] == {("buffered", "cached")}


def test_a_stacked_file_system_is_seen_through(weighbridge_release, want, model, tmp_path):
    """overlayfs: cachestat knows nothing of the file below."""
    for d in ("upper", "work", "merged"):
        (tmp_path / d).mkdir()
    script = (f'mount -t overlay overlay -o lowerdir="{model}",upperdir=upper,workdir=work merged || exit 77; cat merged/* > /dev/null; '
              f'"{weighbridge_release.path}" export merged "{tmp_path}/out" -v --no-chat-template')
    r = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    if r.returncode == 77 or "unshare" in r.stderr:
        pytest.skip(f"no mounting: {r.stderr.strip()}")
    assert r.returncode == 0 and "shards mapped (cached)" in r.stderr, r.stderr
    assert tree(tmp_path / "out") == want


# ---------------------------------------------------------------------------------------------------- sources that shrink


def test_a_mapped_source_that_is_cut_short_while_it_is_read(weighbridge, tmp_path):
    """Cut at some time while it runs: it may be done already, but is never killed by a signal."""
    model = checkpoints.make(tmp_path / "model", "llama", dtype="F32", config={**MODEL, "vocab_size": 60000}).path
    shard = model / "model.safetensors"
    whole, refused = shard.read_bytes(), 0
    for k in range(12):
        shard.write_bytes(whole)
        run = subprocess.Popen([weighbridge.path, "export", model, tmp_path / "out", "--overwrite", "-q", "--io", "mmap", *QUICK],
                               stderr=subprocess.PIPE, text=True)
        while run.poll() is None and not list(tmp_path.glob("out.partial/onnx_model.data")):
            time.sleep(0.0005)
        time.sleep(k * 0.002)
        os.truncate(shard, 300000)
        said = run.communicate(timeout=120)[1]
        assert run.returncode in (0, 1), (run.returncode, said)
        if run.returncode:
            refused += 1
            assert "model.safetensors: " in said and any(w in said for w in ("cut short", "has changed", "read of")), said
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    assert refused


# ---------------------------------------------------------------------------------------------------- the page cache


def pages_left(path):
    return sum(cached(p) for p in Path(path).iterdir() if p.suffix in (".safetensors", ".data"))


@pytest.fixture()
def large(tmp_path):
    return checkpoints.make(tmp_path / "large", "llama", dtype="F32", shards=2, config={**MODEL, "vocab_size": 60000}).path


@pytest.mark.parametrize("io, forbidden", [("auto", None), ("mmap", None), ("pread", "O_DIRECT=EINVAL"), ("auto", "O_DIRECT=EINVAL")])
def test_the_page_cache_is_left_as_it_was(weighbridge_release, large, tmp_path, io, forbidden):
    if not on_disk():
        pytest.skip("files are in memory here")
    first, second = sorted(large.glob("*.safetensors"))
    headers = 64  # pages that the deciding half has read
    moving = 16  # that the kernel moves about at this moment, and are not to be seen; what is dropped is dropped by the thousand
    prefix = forbid(forbidden) if forbidden else []
    drop(large)
    first.read_bytes()
    before = cached(first)
    assert (before + moving) * mmap.PAGESIZE >= first.stat().st_size and cached(second) == 0
    r = weighbridge_release("export", large, tmp_path / "out", "--io", io, *QUICK, prefix=prefix, any_status=True)
    if r.status == 77:
        pytest.skip(r.stderr.strip())
    assert r.status == 0, r.stderr
    assert abs(cached(first) - before) <= moving
    assert cached(second) <= headers
    assert pages_left(tmp_path / "out") <= 16  # heads


@pytest.mark.parametrize("memory, forbidden, hidden, most", [
    ("16M", "", 512, 0), ("16M", "O_DIRECT=EINVAL", 512, 16), ("16M", "", 1024, 16), ("256M", "O_DIRECT=EINVAL", 512, 72)])
def test_pages_that_wait_for_the_disk_never_pile_up(weighbridge_release, tmp_path, memory, forbidden, hidden, most):
    """A tensor in row panels: nothing waits; without O_DIRECT, or with runs shorter than blocks, one panel, not the tensor. Of other
    tensors 64 MiB wait without O_DIRECT, and what has come to the disk goes."""
    if not on_disk():
        pytest.skip("files are in memory here")
    config = {"vocab_size": 150000 * 512 // hidden, "hidden_size": hidden, "num_hidden_layers": 1}
    model = checkpoints.write_sparse(tmp_path / "model", config)
    run = subprocess.Popen([*forbid(forbidden), weighbridge_release.path, "export", model, tmp_path / "out", "-q", *QUICK,
                            "--memory", memory])
    data, dirty, pages = tmp_path / "out.partial" / "onnx_model.data", 0, 0
    while run.poll() is None:
        try:
            fd = os.open(data, os.O_RDWR)
        except OSError:
            continue
        there = cachestat(fd)
        os.close(fd)
        if there is None:
            run.wait()
            pytest.skip("no cachestat, which tells of dirty pages")
        dirty, pages = max(dirty, there[1]), max(pages, there[0])
        time.sleep(0.002)
    assert run.returncode == 0
    assert (dirty > 16) == (most > 0) and dirty * mmap.PAGESIZE <= max(most << 20, 65536)  # heads
    if forbidden:
        assert pages * mmap.PAGESIZE <= (most + 64) << 20  # eight pieces are on their way there


# ---------------------------------------------------------------------------------------------------- memory


def peak_anonymous(command, env=None):
    """-> most RssAnon of a process while it runs, exit status"""
    run = subprocess.Popen([str(a) for a in command], stderr=subprocess.PIPE)
    peak = 0
    while run.poll() is None:
        try:
            status = Path(f"/proc/{run.pid}/status").read_text()
        except OSError:
            break
        if "RssAnon:" in status:
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)
        time.sleep(0.001)
    run.communicate()
    return peak, run.returncode


def test_no_more_memory_than_helps(weighbridge, tmp_path):
    """A head that is far larger than anything beside it is not given room for two of it: all of it would be touched."""
    config = {"vocab_size": 200000, "hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 8}
    model = checkpoints.write_sparse(tmp_path / "model", config)
    memory = weighbridge.ok("plan", model, "--memory", "4G", "--json", *QUICK).json["memory"]
    head = 200000 * 1024 * 2
    assert head + (64 << 20) <= memory["panel_bytes"] < head + (65 << 20) and memory["buffers"] < head + (160 << 20)


@pytest.mark.parametrize("io", ["auto", "mmap", "pread"])
@pytest.mark.parametrize("memory", [16, 64])
def test_anonymous_memory_stays_within_the_plan(weighbridge_release, large, tmp_path, io, memory):
    plan = weighbridge_release.ok("plan", large, "--memory", f"{memory}M", "--json").json
    buffers = plan["memory"]["buffers"]
    assert buffers <= memory << 20
    for prepare in (warm, drop):
        prepare(large)
        peak, status = peak_anonymous([weighbridge_release.path, "export", large, tmp_path / "out", "--overwrite", "-q", *QUICK,
                                       "--memory", f"{memory}M", "--io", io])
        assert status == 0 and peak > 1 << 20
        assert peak <= buffers + (8 << 20), f"{peak >> 20} MiB"  # besides buffers: metadata, stacks, libraries


def own_cgroup():
    """-> (directory of the memory cgroup this process is in, file of the limit), version 1 or 2"""
    for line in Path("/proc/self/cgroup").read_text().split():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/memory") / path.lstrip("/")):
                if (root / "memory.limit_in_bytes").exists():
                    return root, "memory.limit_in_bytes"
        if controllers == "" and (Path("/sys/fs/cgroup") / "cgroup.controllers").exists():
            return Path("/sys/fs/cgroup") / path.lstrip("/"), "memory.max"
    return None, None


@pytest.fixture()
def limited():
    """limited(bytes) -> prefix of a command that it runs under the limit, and how often the limit was hit so far"""
    parent, limit = own_cgroup()
    if not parent:
        pytest.skip("no memory cgroup here")
    group = parent / f"weighbridge-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(64 << 30))
    except OSError as e:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no memory cgroup of our own: {e}")

    def hits():
        if limit == "memory.max":
            return int((group / "memory.events").read_text().split("max ")[1].split()[0])
        return int((group / "memory.failcnt").read_text())

    def use(limit_bytes):
        (group / limit).write_text(str(limit_bytes))
        return ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"], hits

    yield use
    group.rmdir()


def test_a_memory_limit_is_never_hit(weighbridge_release, large, tmp_path, limited):
    """Buffers, metadata and what passes through the cache, cold, under a limit a little above --memory."""
    if not on_disk():
        pytest.skip("files are in memory here")
    prefix, hits = limited((64 + 16) << 20)
    drop(large)
    weighbridge_release.ok("export", large, tmp_path / "out", *QUICK, "--memory", "64M", prefix=prefix)
    assert hits() == 0


def test_the_default_memory_fits_a_small_container(weighbridge_release, large, tmp_path, limited):
    """Half of what a control group allows; more than that may be asked for, with a warning."""
    prefix, hits = limited(300 << 20)
    weighbridge_release.ok("export", large, tmp_path / "out", *QUICK, "--report", tmp_path / "report.json", prefix=prefix)
    memory = json.loads((tmp_path / "report.json").read_text())["memory"]
    assert memory["budget"] == 144 << 20 and hits() == 0  # in steps of 16 MiB
    assert "may be killed" in weighbridge_release.ok("plan", large, "--memory", "300M", prefix=prefix).stdout
    assert "may be killed" not in weighbridge_release.ok("plan", large, "--memory", "200M", prefix=prefix).stdout
