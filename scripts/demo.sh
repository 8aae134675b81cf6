#!/usr/bin/env bash
# From nothing to an answer: installs what is missing, builds weighbridge, makes a checkpoint of real weights
# (SmolLM2-135M-Instruct), exports it, checks the export, and answers a prompt with it, greedily.
#
#     scripts/demo.sh ["What is the capital of France?"]
#
# Everything lands in build/demo and .cache.  A second run reuses the downloads and the checkpoint.
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

prompt=${1:-What is the capital of France?}
python=.cache/venv-demo/bin/python
program=build/demo/weighbridge
model=.cache/smollm2/checkpoint
out=.cache/smollm2/export

build() {
    cmake -S . -B build/demo -G Ninja -DCMAKE_BUILD_TYPE=Release
    cmake --build build/demo
}

check() {
    "$python" -c 'import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=False)' "$1"
}

step "Debian packages (scripts/setup.sh)" scripts/setup.sh
step "build: $program" build
step "Python environment: .cache/venv-demo" venv demo
step "weights: SmolLM2-135M-Instruct into $model" env PYTHON=$python scripts/smollm2.sh
step "export: $(size $model) of bf16 into $out" $program export --overwrite $model $out
step "onnx.checker: $out/model.onnx and $(size $out/onnx_model.data) of data" check $out/model.onnx
step "verify: every tensor and side file recomputed" $program verify $out $model
echo >&2
echo "> $prompt"
$python scripts/onnx_run.py $out "$prompt"
