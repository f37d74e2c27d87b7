#!/usr/bin/env bash
# Runs every notebook (./run_all.sh [options], see --help) or the tests (./run_all.sh test [options of pytest]),
# in the active Python where it has all that pyproject.toml asks for, else in .venv, which is made or repaired here.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
stamp=$venv/minconv.stamp # written last: without it, or with another hash, the set-up was not finished

unset PYTHONDONTWRITEBYTECODE # packages are compiled at their first import, not one by one at every set-up

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3 python; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$name"
            return
        fi
    done
    cat >&2 << 'END'
run_all.sh needs Python 3.11 or newer with venv, and found none. Install it, for example:
  Debian, Ubuntu:  sudo apt install python3 python3-venv        (Debian 12, Ubuntu 24.04 or newer)
  macOS:           brew install python@3.11
  anywhere:        conda create -n minconv python=3.11 && conda activate minconv
END
    return 1
}

# Has this Python every requirement of pyproject.toml, and does a kernel started in notebooks/ find this minconv?
ready() {
    (cd "$root/notebooks" && "$1" - 2> /dev/null) << 'END'
import tomllib
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads(Path("../pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for requirement in map(Requirement, project["dependencies"] + extras["notebooks"] + extras["tests"]):
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)
for name in ("papermill", "ipykernel", "nbval"):
    import_module(name)
assert Path(find_spec("minconv").origin).resolve().parent == Path("../minconv").resolve()
END
}

inputs_hash() {
    "$1" -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())' \
        "$root/requirements.lock" "$root/pyproject.toml"
}

# Waits for another ./run_all.sh that sets up, or for the pip of one that was killed: it holds the open folder still.
alone() {
    command -v flock > /dev/null || return 0
    exec 9< "$root"
    if ! flock -n 9; then
        echo "Waiting for another ./run_all.sh in $root to finish its set-up."
        flock 9 || true # a file system without locks
    fi
}

make_venv() {
    local python=$1 torch
    torch=$(grep '^torch==' "$root/requirements.lock")
    echo "Setting up $venv with $("$python" -V), once: a few hundred MB are downloaded, which takes minutes."
    mkdir -p "$venv"
    echo unfinished > "$stamp"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name "${stamp##*/}" -exec rm -rf {} +
    "$python" -m venv "$venv"
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-compile)
    # what is downloaded is checked against its hash; torch comes in several builds, which bring their own GPU libraries
    echo "[1/3] the packages of requirements.lock"
    "${pip[@]}" --no-deps --require-hashes -r <(sed '/^torch==/d; s/ # --hash/ --hash/' "$root/requirements.lock")
    echo "[2/3] $torch"
    "${pip[@]}" "$torch" -c "$root/requirements.lock"
    echo "[3/3] minconv"
    "${pip[@]}" --no-deps --no-build-isolation -e "$root"
    ready "$venv/bin/python" || {
        echo "run_all.sh: $venv lacks something that pyproject.toml asks for; is requirements.lock in step?" >&2
        return 1
    }
    inputs_hash "$python" > "$stamp"
    export MINCONV_SET_UP=$SECONDS
    echo "Set up in $SECONDS s."
}

# Sets $python to one that has everything.
set_up() {
    for python in python3 python; do
        if ready "$python"; then return; fi
    done
    local base
    base=$(find_python)
    python=$venv/bin/python
    alone
    if [[ -f $stamp && $(cat "$stamp") == "$(inputs_hash "$base")" ]] && ready "$python"; then return; fi
    if [[ -e $venv && ! -f $stamp ]]; then
        echo "run_all.sh: $venv was not made here and lacks packages; move it away, or install -e '.[all]' in it" >&2
        return 1
    fi
    make_venv "$base"
}

start() {
    exec 9<&- # what runs now is no set-up
    exec "$python" "$@"
}

# The notebooks are replayed beside the tests, each with half of the cores: threads that wait for a core lose time.
run_tests() {
    exec 9<&-
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(getconf _NPROCESSORS_ONLN) + 1) / 2))}
    local log status=0
    log=$(mktemp)
    "$python" -m pytest --nbval notebooks > "$log" 2>&1 &
    trap 'kill $! 2> /dev/null || true; rm -f "$log"' EXIT
    "$python" -m pytest --slow || status=$?
    wait $! || status=$?
    cat "$log"
    exit "$status"
}

if [[ ${1-} == test ]]; then
    shift
    set_up
    cd "$root"
    if [[ $# -eq 0 ]]; then run_tests; fi
    start -m pytest --nbval --slow --override-ini "testpaths=tests notebooks" "$@"
fi
checker=$(find_python)
"$checker" "$root/minconv/artifact/options.py" "$@" # exits 2 on a wrong option, before a long set-up
for option in "$@"; do
    if [[ $option == -h || $option == --help ]]; then exit; fi
done
set_up
start -P -m minconv.artifact.run "$@"
