#!/bin/sh
# Prints the path of a current nats-server: one that is there, or else the version pinned in nats/, built with Go: make nats-server
#
# NATS_SERVER_BIN   a nats-server to use; it is refused when it is too old
# MESH_CACHE        the cache folder (otherwise $XDG_CACHE_HOME/mesh, otherwise ~/.cache/mesh)
set -eu
. "$(dirname "$0")/common.sh"

# Older servers let any device publish as any other over a leaf link.
floor=2.14.3
pinned=$(sed -n 's|^.*github.com/nats-io/nats-server/v2 v\([0-9.]*\).*$|\1|p' "$root/nats/go.mod")
[ -n "$pinned" ] || die "nats/go.mod names no version of nats-server"

# version_of PROGRAM: as in "2.15.2"; nothing where it does not run or is something else.
version_of() {
    "$1" --version 2>/dev/null </dev/null | sed -n 's/^nats-server: v\([0-9][0-9.]*\).*$/\1/p'
}

if [ -n "${NATS_SERVER_BIN:-}" ]; then
    version=$(version_of "$NATS_SERVER_BIN")
    [ -n "$version" ] || die "NATS_SERVER_BIN=$NATS_SERVER_BIN is not a nats-server that runs here; correct it, or unset it to have $pinned built"
    at_least "$version" "$floor" ||
        die "NATS_SERVER_BIN=$NATS_SERVER_BIN is nats-server $version, and Mesh needs $floor or newer; correct it, or unset it to have $pinned built"
    say "$version in $NATS_SERVER_BIN (NATS_SERVER_BIN)"
    real "$NATS_SERVER_BIN"
    exit 0
fi

if have nats-server; then
    found=$(command -v nats-server)
    version=$(version_of "$found")
    if [ -n "$version" ] && at_least "$version" "$floor"; then
        say "$version in $found"
        real "$found"
        exit 0
    fi
    say "$found is version ${version:-unknown}, and Mesh needs $floor or newer; it is left alone and not used"
fi

built=$cache/tools/nats-server-$pinned
is_built() {
    [ -x "$built" ] && [ "$(version_of "$built")" = "$pinned" ]
}

if ! is_built; then
    lock nats-server
    if ! is_built; then
        go=$("$root/scripts/go.sh")
        say "building $pinned with $("$go" version | cut -d' ' -f3) into $built (about 100 CPU seconds)"
        mkdir -p "$cache/tools"
        work=$(mktemp -d "$cache/tools/.nats-server.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        trap 'exit 1' HUP INT TERM
        # go.sum pins the checksum of every source; a local go.work or GOFLAGS must not change what is built.
        (cd "$root/nats" && GOTOOLCHAIN=local GOWORK=off GOFLAGS='' CGO_ENABLED=0 \
            "$go" build -trimpath -buildvcs=false -o "$work/nats-server" github.com/nats-io/nats-server/v2 >&2 </dev/null) ||
            die "nats-server $pinned could not be built (see above); is this machine online? NATS_SERVER_BIN names a ready one"
        mv "$work/nats-server" "$built"
        is_built || die "the nats-server just built does not say that it is $pinned"
    fi
fi
say "$pinned in $built"
real "$built"
