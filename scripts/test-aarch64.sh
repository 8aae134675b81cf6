#!/usr/bin/env bash
# The whole program on aarch64, on any machine: cross-built with Debian's gcc, run under qemu-user.  All units by ctest, then
# end to end what depends on a processor: goldens, verify, merged adapters, archives, ways to read.  Fetches libraries for
# arm64 into .cache; the system's own packages stay as they are.
#
#     scripts/test-aarch64.sh [ARGUMENTS FOR PYTEST]    # -k 'golden and llama' takes the place of the -k below
#
# qemu-user passes on neither io_uring nor seccomp filters, Landlock and limits on memory.  So exports run on the engine
# pread, as the output says, and helper processes (a native Python) run without most of their fences.  What cannot be tested
# then is named below; any other skip is a failure.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

arm=$CACHE/arm64
out=$ROOT/build/aarch64
program=$out/weighbridge-qemu
apt=(-o APT::Architectures=arm64 -o APT::Architecture=arm64 -o "Dir::State=$arm/state" -o "Dir::Cache=$arm/cache"
    -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
packages=(libjansson4 libjansson-dev liburing2 liburing-dev libprotobuf-c1 libprotobuf-c-dev libxxhash0 libxxhash-dev
    libzstd1 libzstd-dev libopenblas-openmp-dev libcmocka0 libcmocka-dev) # libc and libgomp come with the cross compiler

# Units that may skip here, programs and single tests.
skipped_units=(
    fences                                        # seccomp: without it some of what the script tries would succeed
    numbers_whatever_the_locale                   # a machine without the locale
    test_pack4_avx512                             # x86-64
    test_transform_avx512                         # x86-64
    where_io_uring_is_forbidden_auto_does_without # seccomp; the test of what the report says takes its place
)

e2e=(tests/e2e/test_{golden,int4,drafts,reduced_vocab,lora_merge,verify,template_files,pack,io}.py)
left_out=(
    'test_verify and (qwen2 or llama_bias)'                    # time: the third model, qwen3, has all that the two have
    'test_int4 and not (golden or fused or both_ends or fold)' # time: refusals and spellings are no matter of processors
    'test_pack and (killed or no_room or source_that_changes)' # time: hundreds of megabytes
    'anonymous or bounded or pile_up'                          # the emulator's own memory counts; it is too slow to be watched
    'limit_is_never_hit or small_container'                    # the same
    'test_refusals and files3'                                 # a limit on memory
)
skipped='
test_an_engine_by_name_maps_nothing_and_mmap_all           # --io uring
test_files_in_memory                                       # the same, at its end
test_same_bytes_whatever_the_engine_threads_and_memory     # the same
'

libraries() {
    [ "$(cat "$arm/made-from" 2>/dev/null)" = "${packages[*]}" ] && return
    rm -rf "$arm"
    mkdir -p "$arm/state/lists/partial" "$arm/cache/archives/partial" "$arm/root"
    apt-get "${apt[@]}" update
    (cd "$arm" && apt-get "${apt[@]}" download "${packages[@]}" && for f in *.deb; do dpkg-deb -x "$f" root; done)
    echo "${packages[*]}" >"$arm/made-from"
}

build() {
    cmake -S . -B "$out" -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake -DCMAKE_BUILD_TYPE=Release \
        -DWEIGHBRIDGE_TESTS=ON -DWEIGHBRIDGE_WERROR=ON -DWEIGHBRIDGE_CUDA=OFF -DWEIGHBRIDGE_MPI=OFF
    cmake --build "$out" -j "$(nproc)"
    # By the path of qemu, since tests change PATH; -0, since the name that the program is called by may be a command.
    printf '#!/bin/sh\nexec "%s" -L /usr/aarch64-linux-gnu -0 "$0" "%s" "$@"\n' \
        "$(command -v qemu-aarch64)" "$out/weighbridge" >"$program"
    chmod +x "$program"
}

export_one() {
    (cd tests/golden && "$program" export checkpoints/llama "$out/export" --overwrite -v --report "$out/report.json")
}

# What kernels for large machines have. Not test_way: what the kernel says of its page cache counts pages of this machine.
pages_of_64_kib() {
    for unit in io map ring journal outdir archive filled merger; do
        qemu-aarch64 -p 65536 -L /usr/aarch64-linux-gnu "$out/tests/test_$unit"
    done
}

# What skipped among units, one a line: programs by status 77, tests of a program by cmocka.
skips() {
    sed -n 's/.*Test *#[0-9]*: \([a-z0-9_]*\) .*\*\*\*Skipped.*/\1/p' "$CACHE/ctest.log"
    sed -n 's/^\[  SKIPPED \] \([a-z0-9_]*\)$/\1/p' "$out/Testing/Temporary/LastTest.log"
}

step "Debian packages (scripts/setup.sh --tests)" scripts/setup.sh --tests
step "Python environment: .cache/venv-test" venv test
step "libraries for arm64: .cache/arm64/root" libraries
step "build for aarch64: build/aarch64" build

failed=0
ctest --test-dir "$out" --output-on-failure --timeout 600 -j "$(nproc)" | tee "$CACHE/ctest.log" || failed=1
echo "skipped, of single tests too:" $(skips | sort -u)
if skips | sort -u | grep -vxF "$(printf '%s\n' "${skipped_units[@]}")"; then
    echo "SKIPPED, and not on the list of what may be: what stands above" >&2
    failed=1
fi
step "units of files and memory on pages of 64 KiB" pages_of_64_kib

step "an export" export_one
sed -n -e 's/^ *"engine": "\(.*\)",*$/exports run on the engine \1/p' -e 's/^ *"refused": "\(.*\)",*$/    \1/p' "$out/report.json"
printf '%s' "$skipped" | cat .ci/skips - >"$out/skips"
left=$(printf ' or (%s)' "${left_out[@]}")
WEIGHBRIDGE=$program WEIGHBRIDGE_RELEASE=$program WEIGHBRIDGE_SKIPS=$out/skips \
    .cache/venv-test/bin/python -m pytest -n "$(nproc)" --dist worksteal "${e2e[@]}" -k "not (${left# or })" "$@" ||
    failed=1
exit $failed
