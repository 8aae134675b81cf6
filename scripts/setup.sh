#!/usr/bin/env bash
# Installs the Debian packages (bookworm) that weighbridge needs: to build, and for the demo; with --tests also what
# the tests and the checks of .ci/run need.  Does nothing, quickly, when they are there.
#
#     scripts/setup.sh [--tests]
set -euo pipefail

packages=(
    gcc libc6-dev cmake ninja-build pkg-config                                           # to build
    libjansson-dev liburing-dev libprotobuf-c-dev protobuf-c-compiler libxxhash-dev      # libraries
    libopenblas-openmp-dev                                                               # multiplies LoRA factors
    libzstd-dev                                                                          # compresses archives
    python3 python3-jinja2                                                               # renders chat templates
    python3-venv ca-certificates  # the demo, the tests, and the tokenizers package, which Debian does not have (reduce-vocab)
)
case "${1-}" in
'') ;;
--tests)
    packages+=(libcmocka-dev zstd clang libclang-rt-dev clang-format valgrind
        libopenmpi-dev openmpi-bin                             # exports by several processes
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user) # NEON code runs under qemu
    ;;
*)
    echo "usage: scripts/setup.sh [--tests]" >&2
    exit 2
    ;;
esac

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo "${as_root[@]}")
fi
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
