#!/usr/bin/env bash
# Builds with AddressSanitizer and UndefinedBehaviorSanitizer and runs all tests: units by ctest, then end to end by pytest.
# A release build is made too, for the tests where speed matters.  Without arguments also exports by simulated GPUs, where
# their emulator runs (x86-64): a part of scripts/test-cuda.sh.  Sets itself up: packages, Python environments.
#
#     scripts/test.sh [ARGUMENTS FOR PYTEST]
#
# WEIGHBRIDGE_SKIPS names a list of tests that may be skipped, such as .ci/skips; then any other skip is a failure.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

build() {
    cmake --preset "$1" -DWEIGHBRIDGE_CUDA=OFF # scripts/test-cuda.sh makes a build with the plugin
    cmake --build --preset "$1"
}

step "Debian packages (scripts/setup.sh --tests)" scripts/setup.sh --tests
step "Python environment: .cache/venv-test" venv test
step "build with sanitizers: build/asan" build asan
step "build for speed: build/release" build release

failed=0
ctest --test-dir build/asan --output-on-failure -j "$(nproc)" | tee "$CACHE/ctest.log" || failed=1
for test in $(sed -n 's/.*Test *#[0-9]*: \([a-z0-9_]*\) .*\*\*\*Skipped.*/\1/p' "$CACHE/ctest.log"); do
    if [ -n "${WEIGHBRIDGE_SKIPS:-}" ] && ! grep -qw "^$test" "$WEIGHBRIDGE_SKIPS"; then
        echo "SKIPPED, and not on the list of what may be: $test" >&2
        failed=1
    fi
done
WEIGHBRIDGE=build/asan/weighbridge WEIGHBRIDGE_RELEASE=build/release/weighbridge \
    .cache/venv-test/bin/python -m pytest -n "$(nproc)" --dist worksteal tests/e2e "$@" || failed=1
if [ $# -eq 0 ] && [ "$(uname -m)" = x86_64 ]; then
    scripts/test-cuda.sh --exports || failed=1
fi
exit $failed
