#!/bin/sh
# Checks what a build needs: Rust and a C compiler; with the argument "check" also rustfmt and clippy. Silent when all is there.
set -eu
. "$(dirname "$0")/common.sh"
cd "$root"

needed=$(sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml)
if ! have cargo || ! have rustc; then
    die "Rust is missing: install Rust $needed or newer (rustup, or the system's packages), open a new shell and run this again"
fi
version=$(rustc --version </dev/null | sed -n 's/^rustc \([0-9.]*\).*$/\1/p')
at_least "$version" "$needed" ||
    die "rustc is version ${version:-unknown}, and Mesh needs $needed or newer: update it (with rustup: rustup update stable) and run this again"

# Rust links with it, and one dependency (ring) has C and assembly sources.
if [ -z "${CC:-}" ] && ! have cc; then
    install "a C compiler" "gcc libc6-dev" gcc - || die "install a C compiler (Debian: gcc libc6-dev, macOS: xcode-select --install) and run this again"
    have cc || die "a C compiler was installed and there is still no 'cc' on PATH; set CC to its name"
fi

if [ "${1:-}" = check ]; then
    for part in rustfmt clippy; do
        case $part in rustfmt) command='cargo fmt' ;; *) command='cargo clippy' ;; esac
        $command --version >/dev/null 2>&1 </dev/null && continue
        if have rustup; then
            say "$part is missing: installing it (rustup component add $part)"
            rustup component add "$part" >&2 </dev/null || die "$part could not be installed; is this machine online?"
        else
            die "$part is missing: install it from where this Rust came from, and run this again"
        fi
    done
fi

# Cargo judges by a file's time whether it was built, and clones share one target folder: a file that is older than another clone's
# build would count as built, with that clone's text and paths. So sources count as new where another clone was built last.
if [ -n "${CARGO_TARGET_DIR:-}" ] && [ "$(cat "$CARGO_TARGET_DIR/.clone" 2>/dev/null)" != "$root" ]; then
    find . \( -path ./.git -o -path ./bin \) -prune -o -type f -exec touch {} +
    mkdir -p "$CARGO_TARGET_DIR"
    printf '%s\n' "$root" >"$CARGO_TARGET_DIR/.clone"
fi
