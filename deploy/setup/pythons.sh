#!/bin/sh
# Runs the agent's own tests under every Python that it should run on and this machine has:
#
#     sh deploy/setup/pythons.sh .make/pythons
#
# Each gets an environment with all that a device installs, from the registry that pip is set to; the
# agent itself is the one of this folder. What this machine lacks is named. The exit status is 1 if any test fails.
set -u

folder=${1:?where environments are made}
versions=${PYTHONS:-3.10 3.11 3.12 3.13}
tests="tests/unit/agent tests/unit/core tests/unit/wire tests/unit/profiles"
needs_onnx=tests/unit/agent/workers/test_named_inputs.py # which the agent never has
bad=0

find_python() { # on the path, or where pyenv keeps them; a name on the path may lead nowhere
    for found in "$(command -v "python$1")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        "$found" -c '' 2>/dev/null && echo "$found" && return
    done
    return 1
}

for version in $versions; do
    python=$(find_python "$version") || {
        echo "== Python $version: not on this machine"
        continue
    }
    place=$folder/$version
    if [ ! -e "$place/installed" ]; then
        echo "== Python $version: making $place"
        rm -rf "$place"
        { "$python" -m venv "$place" &&
            "$place/bin/python" -m pip --disable-pip-version-check --quiet install \
                '.[onnx]' pytest pytest-rerunfailures hypothesis &&
            touch "$place/installed"; } || { bad=1; continue; }
    fi
    echo "== Python $version: $("$place/bin/python" --version)"
    # Word splitting of $tests is meant.
    # shellcheck disable=SC2086
    PYTHONPATH=$PWD:$PWD/protos "$place/bin/python" -m pytest -q -p no:cacheprovider \
        --ignore "$needs_onnx" $tests || bad=1
done
exit $bad
