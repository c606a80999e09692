#!/bin/sh
# Make or update a Python environment:  sh tools/env.sh FOLDER run|dev|docs|newest|lowest
#   run     the library, editable, at the versions in constraints.txt
#   dev     the same with everything that `make test` needs
#   docs    the same with what builds the site, and what looks at it in a browser (not the browser)
#   newest  the library as a user gets it (not editable), every dependency at its newest release
#   lowest  the same with everything that settings.ini names at the lowest version it allows (needs uv; Python 3.10)
# uv is used if it is on PATH (UV=/path/to/uv names another, UV=no goes without), else python -m venv and pip.
# PYTHON=/path/to/python chooses the interpreter.
set -eu

folder=$1 mode=$2
cd "$(dirname "$0")/.."
say() { printf '%s\n' "-- $*"; }
die() { printf '%s\n' "tools/env.sh: $*" >&2; exit 1; }

case $mode in
    run) what=.;; dev) what='.[dev]';; docs) what='.[dev,docs]';; newest|lowest) what='.[test]';;
    *) die "second argument is '$mode', should be run, dev, docs, newest or lowest";;
esac

uv=${UV:-$(command -v uv || true)}
if [ "$uv" = no ]; then uv=; fi
if [ $mode = lowest ]; then
    [ -n "$uv" ] || die "only uv can choose the lowest versions: install it (https://docs.astral.sh/uv/)"
    PYTHON=${PYTHON:-3.10}
fi

is_python() {  # $1: a command; $2: the newest minor version wanted
    command -v "$1" >/dev/null 2>&1 && "$1" -c "import sys; sys.exit(not (3,10) <= sys.version_info[:2] <= (3,$2))" >/dev/null 2>&1
}

find_python() {  # the versions that are tested first, then anything newer
    no_venv=
    for newest in 13 99; do
        for p in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
            is_python "$p" $newest || continue
            if "$p" -c 'import ensurepip, venv' >/dev/null 2>&1; then command -v "$p"; return; fi
            no_venv=$p
        done
    done
    if [ -n "$no_venv" ]; then
        die "$no_venv cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    elif [ -n "${PYTHON:-}" ]; then die "PYTHON=$PYTHON is not a Python 3.10 or newer"
    else
        die "no Python 3.10 or newer found. Install one (Debian, Ubuntu: apt-get install python3 python3-venv;" \
            "macOS: brew install python@3.12), or install uv, which brings its own; or name one: make PYTHON=/path/to/python3.12 ..."
    fi
}

if [ -e "$folder" ] && [ ! -e "$folder/pyvenv.cfg" ] && [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then
    die "'$folder' exists and is not a virtual environment; choose another folder: make VENV=..."
fi
if ! "$folder/bin/python" -c 'import sys; sys.exit(sys.version_info < (3,10))' >/dev/null 2>&1; then
    if [ -n "$uv" ]; then
        say "making $folder with uv"
        "$uv" venv --quiet --clear --python "${PYTHON:->=3.10,<3.14}" "$folder"
    else
        python=$(find_python) || exit 1
        say "making $folder with $python (installing is faster where uv is on PATH)"
        "$python" -m venv --clear "$folder"
    fi
fi

say "installing into $folder ($mode); the first time this fetches PyTorch, a few minutes"
if [ $mode = lowest ]; then
    rm -rf build
    "$uv" pip install --python "$folder/bin/python" --resolution lowest-direct --reinstall-package granularity_nb .
    "$uv" pip install --python "$folder/bin/python" "$what"  # the tests' own tools at any version; the rest stays as it is
elif [ $mode = newest ]; then
    rm -rf build  # setuptools would pack modules that were deleted since
    if [ -n "$uv" ]; then
        "$uv" pip install --python "$folder/bin/python" --upgrade --reinstall-package granularity_nb "$what"
    else
        "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$folder/bin/python" -m ensurepip >/dev/null
        "$folder/bin/python" -m pip install --quiet --upgrade pip
        "$folder/bin/python" -m pip install --quiet --upgrade --upgrade-strategy eager "$what"
    fi
else
    if [ -n "$uv" ]; then
        "$uv" pip install --python "$folder/bin/python" --constraint constraints.txt --editable "$what"
    else
        "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$folder/bin/python" -m ensurepip >/dev/null
        "$folder/bin/python" -m pip install --quiet --upgrade pip
        "$folder/bin/python" -m pip install --quiet --constraint constraints.txt --editable "$what"
    fi
fi

touch "$folder/.run"
case $mode in dev|docs) touch "$folder/.dev";; esac
if [ $mode = docs ]; then touch "$folder/.docs"; fi
