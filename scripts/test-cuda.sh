#!/usr/bin/env bash
# CUDA without a GPU: nvcc's PTX for sm_80 and sm_90 is run on the processor and compared with the CPU's transforms, the
# machine code is held to its rules, and simulated devices (tests/simcuda) must find planted faults and export what the CPU
# does. Sets itself up with a compiler of its own from PyPI (110 MB).
#
#     scripts/test-cuda.sh [--all] [ARGUMENTS FOR PYTEST]        # --all: the whole matrix
#     scripts/test-cuda.sh --exports [ARGUMENTS FOR PYTEST]      # only exports and the plugin over simulated devices
#     scripts/test-cuda.sh --mutate [NAME...]                    # tests/cuda/mutate.py
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

cuda=$CACHE/venv-cuda/lib/python3.*/site-packages/nvidia/cu13/bin

build() {
    cmake -S . -B build/cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DWEIGHBRIDGE_TESTS=ON -DWEIGHBRIDGE_WERROR=ON \
        -DWEIGHBRIDGE_CUDA=ON -DWEIGHBRIDGE_NVCC="$(echo $cuda/nvcc)" -DWEIGHBRIDGE_CUDA_ARCHITECTURES="$architectures"
    cmake --build build/cuda --target cuda_kernels transforms simcuda weighbridge weighbridge_cuda gpu_devices gpu_bench
}

architectures="80;87;90;100;110;120"
tests=(tests/cuda)
mutate=
case "${1-}" in
--all)
    export WEIGHBRIDGE_CUDA_ALL=1
    shift
    ;;
--exports) # the simulation runs PTX: machine code for one architecture is enough
    architectures=90
    tests=(tests/cuda/test_exports.py tests/cuda/test_devices.py)
    shift
    ;;
--mutate)
    mutate=1
    shift
    ;;
esac
step "Debian packages (scripts/setup.sh --tests)" scripts/setup.sh --tests
step "Python environment with nvcc: .cache/venv-cuda" venv cuda
step "kernels and the CPU's transforms: build/cuda" build
PATH=$(echo $cuda):$PATH
if [ -n "$mutate" ]; then
    exec .cache/venv-cuda/bin/python tests/cuda/mutate.py "$@"
fi
exec .cache/venv-cuda/bin/python -m pytest -n "$(nproc)" --dist worksteal "${tests[@]}" "$@"
