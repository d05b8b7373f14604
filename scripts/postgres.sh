#!/bin/sh
# Prints the folder of Postgres' server programs (initdb, pg_ctl, postgres), 15 or newer; installs them where they are missing: make postgres
#
# MESH_PG_BIN   the folder to use; it is refused when it is too old or not whole
set -eu
. "$(dirname "$0")/common.sh"

floor=15

# version_in FOLDER: as in "15.18"; nothing where a program is missing or does not run.
version_in() {
    [ -x "$1/initdb" ] && [ -x "$1/pg_ctl" ] && [ -x "$1/postgres" ] || return 0
    "$1/postgres" --version 2>/dev/null </dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9][0-9.]*\).*$/\1/p'
}

if [ -n "${MESH_PG_BIN:-}" ]; then
    version=$(version_in "$MESH_PG_BIN")
    [ -n "$version" ] || die "MESH_PG_BIN=$MESH_PG_BIN does not hold initdb, pg_ctl and postgres; correct it, or unset it to have them found"
    at_least "$version" "$floor" ||
        die "MESH_PG_BIN=$MESH_PG_BIN is Postgres $version, and Mesh needs $floor or newer; correct it, or unset it to have one found"
    say "$version in $MESH_PG_BIN (MESH_PG_BIN)"
    real "$MESH_PG_BIN"
    exit 0
fi

# The folder of a program on PATH, with links followed: distributions link single programs out of the folder that has all.
beside() {
    program=$(command -v "$1") || return 0
    dirname "$(real "$program")"
}

# The folders where server programs may be: what PATH says first, then the systems' own places, newest version first.
places() {
    beside postgres
    beside initdb
    beside pg_ctl
    if have pg_config; then pg_config --bindir; fi
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin /usr/libexec/postgresql*; do
        if [ -d "$folder" ]; then echo "$folder"; fi
    done | sort -r
    echo /usr/local/pgsql/bin
}

# look: prints the first folder that will do; remembers what was too old.
look() {
    old=''
    IFS='
'
    for folder in $(places); do
        version=$(version_in "$folder")
        [ -n "$version" ] || continue
        if at_least "$version" "$floor"; then
            say "$version in $folder"
            printf '%s\n' "$folder"
            return 0
        fi
        old="$folder is Postgres $version"
    done
    unset IFS
    [ -z "$old" ] || say "$old, and Mesh needs $floor or newer; it is left alone and not used"
    return 1
}

look && exit 0
# Debian's package also starts a cluster of its own; Mesh does not touch it, its private one listens on a socket only.
install "Postgres (server programs)" postgresql postgresql-server postgresql@17 ||
    die "install the server programs of Postgres $floor or newer, or name their folder in MESH_PG_BIN, and run this again"
look || die "the system's package holds no Postgres $floor or newer; install one, or name its folder in MESH_PG_BIN, and run this again"
