# Sourced by the scripts beside it: where things lie, steps with their times, and a private Python environment.
set -euo pipefail
export LC_ALL=C.UTF-8

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache # downloads, Python environments, the demo's model; safe to delete
LOG=$CACHE/log
mkdir -p "$CACHE"

# step TITLE COMMAND...: runs quietly and prints the time it took; on failure ends the script with what it said.
step() {
    local title=$1 begin=$EPOCHREALTIME status
    shift
    printf '%-66s' "$title" >&2
    set +e # not `if ! "$@"`, which would switch off errexit inside a function that is run here
    (set -e && "$@") </dev/null >"$LOG" 2>&1
    status=$?
    set -e
    if [ $status -ne 0 ]; then
        printf ' FAILED\n' >&2
        tail -n 60 "$LOG" >&2
        exit 1
    fi
    awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%7.1f s\n", b - a }' >&2
}

# size PATH: in MiB, what du would say of the files' lengths.
size() {
    echo "$(($(du -sbL "$1" | cut -f1) / 1048576)) MiB"
}

# venv NAME: .cache/venv-NAME holds exactly the versions of scripts/requirements-NAME.txt; remade when those change.
venv() {
    local home=$CACHE/venv-$1 want
    want=$(cat "$ROOT"/scripts/requirements-*.txt | sha256sum)
    if [ "$(cat "$home/made-from" 2>/dev/null)" != "$want" ]; then
        rm -rf "$home"
        /usr/bin/python3 -m venv "$home"
        "$home/bin/pip" install --no-deps --only-binary :all: -r "$ROOT/scripts/requirements-$1.txt"
        echo "$want" >"$home/made-from"
    fi
}
