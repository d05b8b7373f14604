#!/bin/sh
# Prints the path of a Go command new enough for nats/: one that is there, or else the toolchain pinned in nats/toolchain.sum.
#
# Any Go from 1.18 on can fetch that toolchain as a module, so the Go that an older system packages is enough.
set -eu
. "$(dirname "$0")/common.sh"

needed=$(sed -n 's/^go \([0-9.]*\)$/\1/p' "$root/nats/go.mod")
pinned=$(sed -n 's/^golang.org\/toolchain v0.0.1-go\([0-9.]*\)\..*$/\1/p' "$root/nats/toolchain.sum" | head -n 1)

version_of() {
    GOTOOLCHAIN=local "$1" version 2>/dev/null </dev/null | sed -n 's/^go version go\([0-9][0-9.]*\).*$/\1/p'
}

# The newest Go on this machine, as "VERSION PATH"; nothing where there is none.
newest() {
    for candidate in "$(command -v go || :)" /usr/local/go/bin/go /usr/lib/go-*/bin/go /usr/lib/golang/bin/go \
        /opt/homebrew/bin/go "$HOME/go/bin/go" "$HOME/sdk"/go*/bin/go; do
        [ -n "$candidate" ] && [ -x "$candidate" ] || continue
        version=$(version_of "$candidate")
        [ -z "$version" ] || echo "$version $candidate"
    done | sort -t. -k1,1n -k2,2n -k3,3n | tail -n 1
}

found=$(newest)
if [ -z "$found" ]; then
    install Go golang-go golang go || die "install Go (any version from 1.18 on), or set NATS_SERVER_BIN to a nats-server, and run this again"
    found=$(newest)
    [ -n "$found" ] || die "Go was installed and is still not found on PATH; set NATS_SERVER_BIN to a nats-server"
fi
version=${found%% *} go=${found#* }
if at_least "$version" "$needed"; then
    echo "$go"
    exit 0
fi

at_least "$version" 1.18 || die "$go is Go $version, too old even to fetch Go $pinned; install 1.18 or newer, or set NATS_SERVER_BIN to a nats-server"
folder=$cache/tools/go-$pinned
if [ "$(version_of "$folder/bin/go")" = "$pinned" ]; then
    echo "$folder/bin/go"
    exit 0
fi

platform=$("$go" env GOOS)-$("$go" env GOARCH)
module=golang.org/toolchain@v0.0.1-go$pinned.$platform
sum=$(sed -n "s|^golang.org/toolchain v0.0.1-go$pinned\.$platform ||p" "$root/nats/toolchain.sum")
[ -n "$sum" ] || die "$go is Go $version, and nats/ needs $needed or newer; no newer one is pinned for $platform, so install it, or set NATS_SERVER_BIN"
say "$go is Go $version, and nats/ needs $needed or newer: fetching Go $pinned into $folder (65 MB)"
mkdir -p "$cache/tools"
work=$(mktemp -d "$cache/tools/.go.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
echo 'module fetch' >go.mod
answer=$(GOROOT='' GOPATH="$work/path" GOMODCACHE="$work/modules" GOTOOLCHAIN=local GOFLAGS='' GOWORK=off \
    "$go" mod download -json "$module" </dev/null) || die "Go $pinned could not be fetched (see above); is this machine online?"
got=$(printf '%s\n' "$answer" | sed -n 's/^.*"Sum": "\(.*\)".*$/\1/p')
[ "$got" = "$sum" ] || die "Go $pinned for $platform came with checksum $got, expected $sum; nothing was kept"

# A module can hold neither program bits nor go.mod files, so both are put back, as Go does with its own toolchains.
new=$work/modules/$module
chmod -R u+w "$new"
chmod +x "$new"/bin/* "$new"/pkg/tool/*/*
mv "$new/src/_go.mod" "$new/src/go.mod"
mv "$new/src/cmd/_go.mod" "$new/src/cmd/go.mod"
[ "$(version_of "$new/bin/go")" = "$pinned" ] || die "the Go $pinned just fetched does not run here"
rm -rf "$folder"
mv "$new" "$folder"
echo "$folder/bin/go"
