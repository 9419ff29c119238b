#!/bin/sh
# Installs another version of the agent beside the one that runs, moves to it, and comes back to the
# old one unless the new one is healthy. Run as root:
#
#     upgrade.sh 'fitment[onnx]==1.2.0'
#
# Environments are ROOT/a and ROOT/b, and ROOT/current is a link to the one in use. The one that is
# not in use is made anew; the one that is in use is never written to. Slots go on serving meanwhile;
# at the end their servers are restarted, too.
set -eu

ROOT=${FITMENT_ROOT:-/opt/fitment}
UNIT=${FITMENT_UNIT:-fitment-agent.service}
SYSTEMCTL=${SYSTEMCTL:-systemctl}
PYTHON=${PYTHON:-python3}
HEALTHY_S=${FITMENT_HEALTHY_S:-60} # that the new agent must stay up

fail() {
    echo "upgrade: $*" >&2
    exit 1
}

point() { # the link is there at every moment: a rename replaces it
    rm -f "$ROOT/.current.new"
    ln -s "$1" "$ROOT/.current.new"
    mv -T "$ROOT/.current.new" "$ROOT/current"
    sync
}

install() {
    echo "upgrade: installing $* into $ROOT/$new"
    rm -rf "${ROOT:?}/$new"
    "$PYTHON" -m venv "$ROOT/$new"
    "$ROOT/$new/bin/python" -m pip --disable-pip-version-check --quiet install "$@"
    "$ROOT/$new/bin/fitment-agent" --version
}

restarts() {
    "$SYSTEMCTL" show --property NRestarts --value "$UNIT"
}

healthy() { # the unit is Type=notify: restart returns when the first round is over, or fails
    "$SYSTEMCTL" restart "$UNIT" || return 1
    before=$(restarts)
    waited=0
    while [ "$waited" -lt "$HEALTHY_S" ]; do
        sleep 1
        waited=$((waited + 1))
        "$SYSTEMCTL" --quiet is-active "$UNIT" || return 1
        [ "$(restarts)" = "$before" ] || return 1
    done
}

[ "$#" -gt 0 ] || fail "say what to install, as pip takes it: upgrade.sh 'fitment[onnx]==1.2.0'"
old=$(readlink "$ROOT/current" 2>/dev/null || true)
case $old in
a) new=b ;;
b) new=a ;;
*) fail "$ROOT/current must be a link to 'a' or 'b' (it is '$old'): see deploy/agent/README.md" ;;
esac

install "$@" || fail "it was not installed; $ROOT/$old goes on as it was"
point "$new"
if healthy; then
    # What serves still runs from the old environment, which the next upgrade removes.
    "$SYSTEMCTL" try-restart 'fitment-serve@*' ||
        echo "upgrade: restart the fitment-serve@ units by hand before the next upgrade" >&2
    echo "upgrade: $ROOT/$new has run for $HEALTHY_S s; $ROOT/$old is kept for the way back"
    exit 0
fi
echo "upgrade: $ROOT/$new is not healthy; going back to $ROOT/$old" >&2
point "$old"
"$SYSTEMCTL" restart "$UNIT" || fail "the old one does not start either: journalctl -u $UNIT"
fail "$ROOT/$old runs again; why the new one did not: journalctl -u $UNIT"
