# Shared by the scripts that find, install or build what Mesh needs on a machine. Sourced, not run.
#
# Every script prints its one result on stdout and tells its story on stderr, asks no question, and does nothing when all is there.

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${MESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh}
me=$(basename "$0" .sh)

say() {
    echo "$me: $*" >&2
}

die() {
    say "$*"
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# at_least VERSION FLOOR: compares dotted numbers; what follows the numbers ("-RC.1") does not count.
at_least() {
    awk -v have="$1" -v floor="$2" 'BEGIN {
        split(have, a, "."); split(floor, b, ".")
        for (i = 1; i <= 3; i++) {
            if (a[i] + 0 > b[i] + 0) exit 0
            if (a[i] + 0 < b[i] + 0) exit 1
        }
        exit 0
    }'
}

# real PATH: absolute and without links, so that a link to the result can never point to itself.
real() {
    readlink -f "$1" 2>/dev/null || printf '%s\n' "$1"
}

# as_root COMMAND...: as root, or through sudo where that needs no password; 1 where it cannot be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# lock NAME: one build or fetch of a thing at a time; the second one then finds it there.
lock() {
    mkdir -p "$cache"
    if have flock; then
        exec 9>"$cache/.$1.lock"
        flock 9
    fi
}

refresh_apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -qq >&2 </dev/null
}

# install WHAT APT DNF BREW: the system's package of each manager ("-" where it has none). Returns 1, having said why, where that fails.
install() {
    if have apt-get && [ "$2" != - ]; then
        say "$1 is missing: installing it (apt-get install $2)"
        # shellcheck disable=SC2086 # several packages
        if refresh_apt && as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
            install -y -qq --no-install-recommends $2 >&2 </dev/null; then return 0; fi
    elif have dnf && [ "$3" != - ]; then
        say "$1 is missing: installing it (dnf install $3)"
        # shellcheck disable=SC2086
        if as_root dnf install -y -q $3 >&2 </dev/null; then return 0; fi
    elif have brew && [ "$4" != - ]; then
        say "$1 is missing: installing it (brew install $4)"
        # shellcheck disable=SC2086
        if brew install --quiet $4 >&2 </dev/null; then return 0; fi
    else
        say "$1 is missing, and no package manager known here (apt-get, dnf, brew) has it"
        return 1
    fi
    say "$1 could not be installed; this needs root or a sudo without password, and the network"
    return 1
}
