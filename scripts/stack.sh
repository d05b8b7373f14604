# A stack of its own for one script: `mesh dev` with folders nobody else uses, and an orderly end. Sourced by bash scripts, not run.
#
# Sets: root, here (a temporary folder, removed at the end), dev (process id of mesh dev), stopped (its exit code), $here/ready.json, MESH_CONFIG_HOME, MESH_HOME, PATH.
# A script that sources it may define `on_failure REASON`, which is called before the end.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$(mktemp -d "${TMPDIR:-/tmp}/mesh-$(basename "$0" .sh).XXXXXX")
here=$(cd "$here" && pwd -P)
export MESH_CONFIG_HOME=$here/config MESH_HOME=$here/home
unset MESH_CONTEXT
PATH=${MESH_BIN_DIR:-$root/bin}:$PATH
export PYTHONDONTWRITEBYTECODE=1
dev='' stopped=''

fail() {
    trap - ERR
    if declare -F on_failure >/dev/null; then on_failure "$*" >&2; else echo "$(basename "$0" .sh): $*" >&2; fi
    local log
    for log in "$here"/dev.log "$here"/last.err "$here"/data/logs/*; do
        [[ -s $log ]] || continue
        printf '\n-- the last lines of %s\n' "${log#"$here"/}" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}

# until_true SECONDS WHAT COMMAND...: looks again until the command succeeds.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null; do
        ((SECONDS < end)) || fail "waited in vain for $what"
        sleep 0.05
    done
}

# limited SECONDS COMMAND...: ends with 124 where the time is over.
limited() { if command -v timeout >/dev/null 2>&1; then timeout "$@"; else shift && "$@"; fi; }

# field FILE POINTER: one value of a JSON file.
field() { python3 "$root/scripts/field.py" "$@"; }

is_ready() {
    kill -0 "$dev" 2>/dev/null || fail 'mesh dev ended'
    grep '"event":"ready"' "$here/dev.out" >"$here/ready.json" 2>/dev/null
}

# start_stack OPTION...: with free ports and its data in the temporary folder; returns when it is ready.
start_stack() {
    local program
    for program in mesh python3; do
        command -v "$program" >/dev/null || fail "no $program here; run: make build"
    done
    mesh dev --random-ports --data-dir "$here/data" -o json "$@" </dev/null >"$here/dev.out" 2>"$here/dev.log" &
    dev=$!
    until_true 90 'mesh dev to be ready' is_ready
}

stop_stack() {
    [[ -n $dev ]] || return 0
    local end=$((SECONDS + 15))
    kill -TERM "$dev" 2>/dev/null || true
    while kill -0 "$dev" 2>/dev/null && ((SECONDS < end)); do sleep 0.1; done
    # Past its own limit of 10 s. What it started ends with it: each child watches its parent.
    kill -KILL "$dev" 2>/dev/null || true
    stopped=0
    wait "$dev" 2>/dev/null || stopped=$?
    dev=''
}

finish() {
    local status=$?
    trap - EXIT ERR
    stop_stack
    rm -rf "$here"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
