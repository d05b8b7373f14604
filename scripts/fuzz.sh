#!/bin/sh
# Builds the fuzz targets with a nightly compiler and runs them: scripts/fuzz.sh SECONDS [TARGET]. Without a target all in turn, each for its share
# of the time, by risk. What breaks something is in the cache folder, under fuzz/found; what reached something new, under fuzz/corpus.
set -eu
. "$(dirname "$0")/common.sh"

seconds=${1:-60}
targets=${2:-books envelope bodies doors tokens names settings}
cargo +nightly --version >/dev/null 2>&1 </dev/null || die "a nightly compiler is needed for coverage counters (rustup toolchain install nightly)"
host=$(rustc +nightly -vV </dev/null | sed -n 's/^host: //p')
work=$cache/fuzz
mkdir -p "$work/found" "$work/logs"
CARGO_TARGET_DIR=$work/target
RUSTC_WRAPPER=$root/fuzz/instrument.sh
export CARGO_TARGET_DIR RUSTC_WRAPPER
(cd "$root/fuzz" && cargo +nightly build --release --locked --target "$host") >&2 </dev/null
program=$CARGO_TARGET_DIR/$host/release/fuzz

# Of 24 parts.
share() {
    [ -z "${2:-}" ] || { echo 24; return; }
    case $1 in books) echo 10 ;; envelope | bodies) echo 4 ;; doors) echo 3 ;; *) echo 1 ;; esac
}

printf '| target | seconds | runs | coverage | found |\n|---|---|---|---|---|\n'
found=0
for target in $targets; do
    time=$((seconds * $(share "$target" "${2:-}") / 24))
    mkdir -p "$work/corpus/$target"
    log=$work/logs/$target.log
    result="nothing"
    MESH_FUZZ_TARGET=$target nice -n 19 "$program" -max_total_time="$((time > 0 ? time : 1))" -max_len=4096 -print_final_stats=1 -print_pcs=0 \
        -artifact_prefix="$work/found/$target-" "$work/corpus/$target" "$root/fuzz/corpus/$target" >"$log" 2>&1 </dev/null || {
        result="see $log"
        found=1
    }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/^#[0-9]*.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '| %s | %s | %s | %s | %s |\n' "$target" "$time" "${runs:-?}" "${coverage:-?}" "$result"
done
exit "$found"
