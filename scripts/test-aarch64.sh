#!/usr/bin/env bash
# The transforms on aarch64: cross-built with Debian's gcc, run under qemu-user, so that the NEON variants are tested on
# any machine.  Fetches cmocka for arm64 into .cache; the system's own packages stay as they are.
#
#     scripts/test-aarch64.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

arm=$CACHE/arm64
apt=(-o APT::Architectures=arm64 -o APT::Architecture=arm64 -o "Dir::State=$arm/state" -o "Dir::Cache=$arm/cache"
    -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)

packages() {
    [ -n "$(command -v aarch64-linux-gnu-gcc)" ] && [ -n "$(command -v qemu-aarch64)" ] || scripts/setup.sh --tests
}

cmocka() {
    [ -e "$arm/root/usr/include/cmocka.h" ] && return
    mkdir -p "$arm/state/lists/partial" "$arm/cache/archives/partial" "$arm/root"
    apt-get "${apt[@]}" update
    (cd "$arm" && apt-get "${apt[@]}" download libcmocka0 libcmocka-dev && for f in *.deb; do dpkg-deb -x "$f" root; done)
}

build() {
    aarch64-linux-gnu-gcc -std=c17 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wconversion -Werror -Isrc \
        -I"$arm/root/usr/include" tests/unit/test_transform.c src/transform/*.c src/base/dtype.c src/base/arena.c \
        -L"$arm/root/usr/lib/aarch64-linux-gnu" -lcmocka -lm -o "$arm/test_transform"
}

run() {
    LD_LIBRARY_PATH= qemu-aarch64 -L /usr/aarch64-linux-gnu \
        -E "LD_LIBRARY_PATH=$arm/root/usr/lib/aarch64-linux-gnu" "$arm/test_transform"
}

step "cross compiler and qemu-user" packages
step "cmocka for arm64" cmocka
step "build for aarch64" build
run
