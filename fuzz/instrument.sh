#!/bin/sh
# What cargo calls instead of rustc (RUSTC_WRAPPER) when fuzz targets are built: coverage counters go into our own crates, and
# not into the arithmetic of curves and hashes, which would only be slowed down.
rustc=$1
shift
case "$CARGO_PKG_NAME" in
agent | bus | bus-schemas | fuzz | fuzz-targets | gateway | ledger-worker | quick)
	case " $* " in
	*" --crate-type bin "* | *" --crate-type lib "*)
		set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
			-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
		;;
	esac
	;;
esac
exec "$rustc" "$@"
