#!/bin/sh
# Finds or makes the Python folder in which examples/replay.py runs (nats-py and nkeys, some 20 MB), and prints its python.
#
# MESH_CACHE   the cache folder (otherwise $XDG_CACHE_HOME/mesh, otherwise ~/.cache/mesh)
set -eu
. "$(dirname "$0")/common.sh"

venv venv-replay 'nats-py==2.16.0 nkeys==0.2.1' '20 MB'
