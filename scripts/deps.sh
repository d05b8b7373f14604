#!/bin/sh
# Finds, installs or builds all that Mesh needs at run time, and prints where it is as shell assignments:
#
#     eval "$(scripts/deps.sh)"
#
# nats-server, Postgres' server programs, the ONNX Runtime library and the model; each script says what it does on stderr.
set -eu
. "$(dirname "$0")/common.sh"
cd "$root"

# assign NAME VALUE: quoted for a shell.
assign() {
    printf "export %s='%s'\n" "$1" "$(printf '%s' "$2" | sed "s/'/'\\\\''/g")"
}

server=$(scripts/nats-server.sh)
postgres=$(scripts/postgres.sh)
scripts/onnxruntime.sh >&2
scripts/model.sh >&2

assign NATS_SERVER_BIN "$server"
assign MESH_PG_BIN "$postgres"
assign MESH_ONNXRUNTIME "${MESH_ONNXRUNTIME:-$cache/onnxruntime/libonnxruntime.so}"
assign MESH_MODEL_DIR "${MESH_MODEL_DIR:-$cache/models/all-MiniLM-L6-v2}"
