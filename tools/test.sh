#!/bin/sh
# Run the tests:  sh tools/test.sh PYTHON [sync|notebooks|pytest ...]   (all three if none is named)
set -eu
python=$1; shift
[ $# -gt 0 ] || set -- sync notebooks pytest
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python");; esac
cd "$(dirname "$0")/.."

# One process a core, one thread a process: more threads than cores make PyTorch many times slower, and a fixed number
# keeps sums in the same order everywhere.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 VECLIB_MAXIMUM_THREADS=1
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
workers=$((cores < 8 ? cores : 8))

failed=
run() {  # $1: what it is; the rest: the command. Goes on after a failure: all of them are worth knowing
    echo "== $1"
    shift
    "$@" || failed=yes
}
for part in "$@"; do
    case $part in
        sync)      run "package, notebooks and README in sync" "$python" tools/check.py;;
        notebooks) run "every notebook runs, $workers at a time" "$(dirname "$python")/nbdev_test" --n_workers $workers --timing;;
        pytest)    run "pytest" env MPLBACKEND=agg "$(dirname "$python")/pytest" tests;;  # python -m would import the checkout
        *)         echo "tools/test.sh: '$part' is not sync, notebooks or pytest" >&2; exit 2;;
    esac
done
if [ -n "$failed" ]; then echo "== FAILED, see above" >&2; exit 1; fi
