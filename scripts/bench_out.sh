# Reads `--out FILE.json` from the arguments of a benchmark into `out` (empty without it). Sourced by bash scripts, not run.
out=''
while (($#)); do
    case $1 in
    --out) out=${2:?--out needs a file} && shift 2 ;;
    --out=*) out=${1#--out=} && shift ;;
    *) echo "usage: scripts/$(basename "$0") [--out FILE.json]" >&2 && exit 2 ;;
    esac
done
