#!/bin/sh
# Finds the ONNX Runtime library, or fetches it into the cache folder, and prints its path.
#
# MESH_ONNXRUNTIME   a library that exists already; it is used as it is
# MESH_CACHE         the cache folder (otherwise $XDG_CACHE_HOME/mesh, otherwise ~/.cache/mesh)
set -eu
. "$(dirname "$0")/common.sh"
. "$root/scripts/wheel.sh"

version=1.31.1
library=libonnxruntime.so.$version

if [ -n "${MESH_ONNXRUNTIME:-}" ]; then
    [ -f "$MESH_ONNXRUNTIME" ] || die "MESH_ONNXRUNTIME=$MESH_ONNXRUNTIME is not a file; unset it to fetch the library"
    echo "$MESH_ONNXRUNTIME"
    exit 0
fi

case "$(uname -s)/$(uname -m)" in
Linux/x86_64 | Linux/amd64)
    platform=manylinux_2_28_x86_64 sha256=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3
    notices=143764b952fdb1a7c69ce653bfba74a7744d6a8a573bfb73e235fba356c83de3
    ;;
Linux/aarch64 | Linux/arm64)
    platform=manylinux_2_28_aarch64 sha256=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467
    notices=143764b952fdb1a7c69ce653bfba74a7744d6a8a573bfb73e235fba356c83de3
    ;;
*) die "no library is pinned for $(uname -s) on $(uname -m); set MESH_ONNXRUNTIME to an ONNX Runtime library, 1.24 or newer" ;;
esac
pins="
$sha256  capi/$library
2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c  LICENSE
$notices  ThirdPartyNotices.txt
"

final=$cache/onnxruntime
lock onnxruntime
if printf '%s\n' "$pins" | complete "$final" && [ "$(readlink "$final/libonnxruntime.so")" = "capi/$library" ]; then
    echo "$final/libonnxruntime.so"
    exit 0
fi

say "fetching ONNX Runtime $version (24 MB) into $final"
work=$(mktemp -d "$cache/.onnxruntime.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
# The library is the same for every Python, so one is named and the machine's own does not matter.
wheel=$(fetch_wheel "$work" onnxruntime "$version" --python-version 3.12 --implementation cp --abi cp312 --platform "$platform")
printf '%s\n' "$pins" | unpack "$wheel" onnxruntime "$work/new"
ln -s "capi/$library" "$work/new/libonnxruntime.so"
put "$work/new" "$final"
echo "$final/libonnxruntime.so"
