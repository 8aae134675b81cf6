#!/usr/bin/env bash
# Runs a command over simulated CUDA devices (tests/simcuda/sim.h says what they check and what more can be set), after
# building them and the program: build/cuda.
#
#     scripts/simcuda.sh [--devices N] [--schedule lazy|eager|random:SEED] [--memory SIZE] [--fail SPEC] -- COMMAND...
#     scripts/simcuda.sh --schedule eager -- build/cuda/weighbridge export MODEL OUT --device cuda
#
# SIZE: of each device's memory, such as 64M. Exit status: COMMAND's; 97 if something was reported, 98 at a deadlock.
. "$(dirname "$0")/lib.sh"

usage() {
    sed -n '5,8s/^# \?//p' "$0" >&2
    exit 2
}

# nvcc of the machine, of CUDA 13 or later, or of the private environment.
find_nvcc() {
    local release
    nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null || true)
    release=$("${nvcc:-false}" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p' || true)
    if [ "${release:-0}" -lt 13 ]; then
        step "Python environment with nvcc: .cache/venv-cuda" venv cuda
        nvcc=$(echo "$CACHE"/venv-cuda/lib/python3.*/site-packages/nvidia/cu13/bin/nvcc)
    fi
}

build() {
    cd "$ROOT"
    cmake -S . -B build/cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DWEIGHBRIDGE_TESTS=ON -DWEIGHBRIDGE_WERROR=ON \
        -DWEIGHBRIDGE_CUDA=ON -DWEIGHBRIDGE_NVCC="$nvcc"
    cmake --build build/cuda --target simcuda weighbridge
}

devices=1 schedule=lazy memory=256M fail=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [ $# -ge 2 ] || usage
    case $1 in
    --devices) devices=$2 ;;
    --schedule) schedule=$2 ;;
    --memory) memory=$2 ;;
    --fail) fail=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[ $# -ge 2 ] || usage
shift

find_nvcc
step "program, plugin and simulated devices: build/cuda" build
echo "simulated CUDA devices: $devices of $memory, schedule $schedule${fail:+, failing: $fail}" >&2
export SIMCUDA_DEVICES=$devices SIMCUDA_SCHEDULE=$schedule SIMCUDA_MEMORY=$memory LD_BIND_NOW=1
[ -z "$fail" ] || export SIMCUDA_FAIL=$fail
LD_LIBRARY_PATH=$ROOT/build/cuda/simcuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$@"
