# Shared by the scripts that find, install or build what Mesh needs on a machine. Sourced, not run.
#
# Every script prints its one result on stdout and tells its story on stderr, asks no question, and does nothing when all is there.

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${MESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh}
case $cache in /*) ;; *) cache=$(pwd)/$cache ;; esac
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

may_be_root() {
    [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2 </dev/null
}

# install WHAT APT DNF BREW: the system's packages of each manager ("-" where it has none). Returns 1, having said why, where that fails.
install() {
    if have apt-get && [ "$2" != - ]; then
        command="apt-get install $2"
    elif have dnf && [ "$3" != - ]; then
        command="dnf install $3"
    elif have brew && [ "$4" != - ]; then
        command="brew install $4"
    else
        say "$1 is missing, and no package manager known here (apt-get, dnf, brew) has it"
        return 1
    fi
    if [ "${command%% *}" != brew ] && ! may_be_root; then
        say "$1 is missing, and installing it ($command) needs root, or sudo without a password"
        return 1
    fi
    say "$1 is missing: installing it ($command)"
    # shellcheck disable=SC2086 # several packages
    case $command in
    apt-get*) apt update && apt install -y --no-install-recommends $2 ;;
    dnf*) as_root dnf install -y -q $3 >&2 </dev/null ;;
    *) brew install --quiet $4 >&2 </dev/null ;;
    esac && return 0
    say "$1 could not be installed ($command failed, see above); is this machine online?"
    return 1
}

# venv NAME PACKAGES NOTE: finds or makes a Python folder with these packages (pip's words, separated by blanks), and prints its python.
venv() {
    lock "$1"
    folder=$cache/$1
    if [ "$(cat "$folder/mesh-installed" 2>/dev/null)" != "$2" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || install "python3 with venv" python3-venv python3 python3 >&2 ||
            die "needs python3 with venv; install it and run this again"
        say "installing $2 into $folder ($3)"
        [ -x "$folder/bin/python" ] || python3 -m venv "$folder" || die "could not make $folder"
        # shellcheck disable=SC2086  # a list of words
        "$folder/bin/python" -m pip install --disable-pip-version-check --quiet $2 >&2 || die "could not install $2"
        echo "$2" >"$folder/mesh-installed"
    fi
    echo "$folder/bin/python"
}
