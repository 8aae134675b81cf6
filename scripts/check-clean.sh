#!/usr/bin/env bash
# Shows that a bare machine is enough: makes a minimal Debian bookworm (debootstrap --variant=minbase) in a temporary
# directory, puts the committed files of this repository into it and nothing else, and runs scripts/demo.sh there, which
# must say Paris, then scripts/test.sh.
#
#     scripts/check-clean.sh [demo|test|all [ARGUMENTS FOR PYTEST]]        (default all; as root; needs debootstrap and git)
#
# Packages come from where this machine gets its own: apt's and pip's configuration, CA certificates and proxy variables are
# carried over.  What is mounted inside is in a mount namespace of this script and goes with it.  KEEP=1 leaves the directory.
set -euo pipefail

what=${1:-all}
case $what in demo | test | all) ;; *)
    sed -n 's/^#     \(scripts.*\)/usage: \1/p' "$0" >&2
    exit 2
    ;;
esac
pytest_arguments=("${@:2}")
cd "$(dirname "$0")/.."
if [ "${WEIGHBRIDGE_UNSHARED-}" != 1 ]; then
    WEIGHBRIDGE_UNSHARED=1 exec unshare --mount --propagation private scripts/check-clean.sh "$what" "${pytest_arguments[@]}"
fi

home=$(mktemp -d "${TMPDIR:-/tmp}/weighbridge-clean.XXXXXX")
root=$home/root
finish() {
    umount -l "$root"/proc "$root"/dev/shm "$root"/dev/pts 2>/dev/null || true
    [ "${KEEP-}" = 1 ] && echo "kept: $root" || rm -rf --one-file-system "$home"
}
trap finish EXIT

# apt's first mirror for plain bookworm, whichever of its two formats names it
mirror() {
    {
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '$1 == "URIs:" { print $2 }'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            awk '$1 == "deb" { sub(/\[[^]]*\] */, ""); print $2 }'
    } | head -n 1
}

# copy PATH...: those that exist, to the same place inside
copy() {
    local path
    for path; do
        if [ -e "$path" ]; then
            mkdir -p "$root$(dirname "$path")"
            cp -rL "$path" "$root$(dirname "$path")/"
        fi
    done
}

# inside COMMAND...: inside, with nothing of this machine's environment but proxies and pip's settings
inside() {
    local kept=() name
    for name in $(compgen -e | grep -iE '^(https?_proxy|no_proxy|pip_(index_url|extra_index_url|trusted_host|default_timeout))$'); do
        kept+=("$name=${!name}")
    done
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        PIP_CERT=/etc/host-ca.crt SSL_CERT_FILE=/etc/host-ca.crt "${kept[@]}" "$@"
}

echo "== a minimal bookworm"
debootstrap --variant=minbase bookworm "$root" "$(mirror)" >"$home/debootstrap.log" ||
    { tail "$home/debootstrap.log"; exit 1; }
rm -f "$root/etc/apt/sources.list"
copy /etc/apt/apt.conf /etc/apt/apt.conf.d /etc/apt/auth.conf /etc/apt/auth.conf.d /etc/apt/sources.list \
    /etc/apt/sources.list.d /etc/pip.conf /root/.config/pip /root/.pip /usr/local/share/ca-certificates /etc/resolv.conf /etc/hosts
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/host-ca.crt"
echo 'Acquire::https::CAInfo "/etc/host-ca.crt";' >"$root/etc/apt/apt.conf.d/99host-ca"
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"

mkdir "$root/weighbridge"
git archive HEAD | tar -x -C "$root/weighbridge"

if [ "$what" != test ]; then
    echo "== scripts/demo.sh"
    inside sh -c 'cd /weighbridge && scripts/demo.sh' | tee "$home/answer"
    grep -q Paris "$home/answer"
fi
if [ "$what" != demo ]; then
    echo "== scripts/test.sh"
    inside sh -c 'cd /weighbridge && exec scripts/test.sh "$@"' test "${pytest_arguments[@]}"
fi
echo "== a bare machine is enough"
