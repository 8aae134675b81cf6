#!/usr/bin/env bash
# A disk about as fast as memory, for benches on machines whose own disk bounds every program alike: ext4 on a loop device over
# a file in tmpfs.  Every page of it is written once first, so that no run pays for memory that a host hands out late.  Its
# writes take time of the processors (one copy by the kernel), as those of a real disk do not.  Needs root and the memory.
#
#     bench/memory_disk.sh make DIR [MIB]      # 8800 MiB, mounted at DIR
#     bench/export_bench.py --dir DIR/bench --state all --runs 7
#     bench/memory_disk.sh end DIR
set -euo pipefail

usage() {
    sed -n 's/^# \{0,1\}//p' "$0" >&2
    exit 2
}

make() {
    mkdir -p "$dir" "$dir.memory"
    mount -t tmpfs -o size="$((mib + 64))m" weighbridge-bench "$dir.memory"
    dd if=/dev/zero of="$dir.memory/disk" bs=1M count="$mib" status=none
    device=$(losetup --find --show --direct-io=on "$dir.memory/disk")
    mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$device"
    mount -o nodiscard "$device" "$dir"
}

end() {
    device=$(findmnt -n -o SOURCE "$dir")
    umount "$dir"
    losetup --detach "$device"
    umount "$dir.memory"
    rmdir "$dir.memory"
}

[ $# -ge 2 ] || usage
dir=$2 mib=${3:-8800}
case "$1" in
make) make ;;
end) end ;;
*) usage ;;
esac
