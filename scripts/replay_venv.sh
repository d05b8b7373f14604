#!/bin/sh
# Finds or makes the Python folder in which examples/replay.py runs (nats-py and nkeys, some 20 MB), and prints its python.
#
# MESH_CACHE   the cache folder (otherwise $XDG_CACHE_HOME/mesh, otherwise ~/.cache/mesh)
set -eu
. "$(dirname "$0")/common.sh"

venv=$cache/venv-replay
wanted='nats-py==2.16.0 nkeys==0.2.1'

lock venv-replay
if [ "$(cat "$venv/mesh-installed" 2>/dev/null)" = "$wanted" ]; then
    echo "$venv/bin/python"
    exit 0
fi
python3 -c 'import ensurepip, venv' 2>/dev/null || install "python3 with venv" python3-venv python3 python3 >&2 ||
    die "needs python3 with venv; install it and run this again"
say "installing $wanted into $venv"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || die "could not make $venv"
# shellcheck disable=SC2086  # a list of words
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet $wanted >&2 || die "could not install $wanted"
echo "$wanted" >"$venv/mesh-installed"
echo "$venv/bin/python"
