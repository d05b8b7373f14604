#!/bin/sh
# Finds or makes the Python folder with the reference that the embed kind is measured against, and prints its python.
# About 6 GB, because the default build of torch brings libraries for graphics cards; they are not used.
#
# MESH_CACHE   the cache folder (otherwise $XDG_CACHE_HOME/mesh, otherwise ~/.cache/mesh)
set -eu
. "$(dirname "$0")/common.sh"

venv venv-bench 'sentence-transformers==6.2.0 transformers==5.23.0 torch==2.15.0' '6 GB, some minutes'
