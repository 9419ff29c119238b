#!/bin/sh
# A real arm64 userland for tests: an emulator, Debian's arm64 Python, and arm64 wheels.
#
#   sh deploy/setup/arm64.sh [FOLDER] [PYTHON]
#
# Nothing is installed on this machine and no root is needed: apt resolves and downloads into FOLDER
# with a state of its own, from the mirrors that this machine is configured with, and pip downloads
# from the index that it is configured with. Run again, it does nothing. Where it cannot be done,
# FOLDER/why says why not, and the tests that need it say the same.
set -u
folder=${1:-.make/arm64}
python=${2:-python3}
here=$(cd "$(dirname "$0")" && pwd)
lock=$here/../locks/main.txt

# What the agent installs, with its dependencies resolved here: pip evaluates the markers of this
# interpreter, and the lock holds the versions.
wheels="numpy onnxruntime ai-edge-litert grpcio protobuf paho-mqtt cryptography tuf"
# The folders of the part that is kept; all else is taken away at the end.
tags="manylinux_2_36 manylinux_2_34 manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014"

mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 1
key=$(cat "$0" "$lock" | sha256sum | cut -c1-16)
[ "$(cat "$folder/ready" 2>/dev/null)" = "$key" ] && exit 0

give_up() {
    echo "$1" >"$folder/why"
    echo "== No arm64 userland: $1"
    echo "   the tests on emulated arm64 boards are skipped"
    exit 0
}

attempt() { # what to call it, then the command; twice, since mirrors and networks have moments
    what=$1; shift
    "$@" >>"$folder/setup.log" 2>&1 && return
    sleep 2
    "$@" >>"$folder/setup.log" 2>&1 || give_up "$what failed, see $folder/setup.log"
}

case $(uname -m) in
    aarch64|arm64) give_up "this machine is arm64 itself: nothing to emulate" ;;
esac
[ -r /etc/os-release ] && . /etc/os-release
[ "${ID:-}" = debian ] && command -v apt-get >/dev/null 2>&1 ||
    give_up "it is made from Debian's packages, and this is ${PRETTY_NAME:-no Debian}"

began=$(date +%s)
echo "== Making an arm64 userland in $folder (about 300 MB)"
rm -rf "$folder/root" "$folder/site" "$folder/apt" "$folder/qemu-aarch64" "$folder/why" "$folder/ready"
: >"$folder/setup.log"

state=$folder/apt
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/sources" "$folder/root"
: >"$state/status"
# The suites of this release on the mirrors that this machine uses, and nobody else's.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
    2>>"$folder/setup.log" | sort -u | while read -r uri suite component; do
    case "$suite/$component" in
        "$VERSION_CODENAME/main"|"$VERSION_CODENAME-updates/main")
            [ -r "$keyring" ] && echo "deb [signed-by=$keyring] $uri $suite main" || echo "deb $uri $suite main" ;;
    esac
done >"$state/sources/debian.list"
[ -s "$state/sources/debian.list" ] || give_up "apt names no mirror of $VERSION_CODENAME"

isolated() { # apt with a state of its own, where nothing is installed yet
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Architectures::="$native" \
        -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::State::lists="$state/lists" \
        -o Dir::Cache="$state/cache" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$state/sources" \
        -o APT::Install-Recommends=0 -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
        -o Acquire::Languages=none "$@"
}
native=$(dpkg --print-architecture)

attempt "reading Debian's package lists" isolated update
attempt "downloading Debian's arm64 Python" isolated -y -d install python3-minimal libpython3-stdlib libstdc++6 libatomic1
for package in "$state"/cache/archives/*.deb; do
    dpkg -x "$package" "$folder/root" || give_up "unpacking $package failed"
done

emulator=$(command -v qemu-aarch64-static || true)
if [ -n "$emulator" ]; then
    ln -s "$emulator" "$folder/qemu-aarch64"
else
    download() { (cd "$state" && isolated download "qemu-user-static:$native"); }
    attempt "downloading qemu-user-static" download
    dpkg --fsys-tarfile "$state"/qemu-user-static_*.deb | tar -x -C "$state" ./usr/bin/qemu-aarch64-static &&
        mv "$state/usr/bin/qemu-aarch64-static" "$folder/qemu-aarch64" || give_up "unpacking qemu failed"
fi

version=$(basename "$(ls -d "$folder"/root/usr/bin/python3.[0-9]* | head -1)")
platforms=""
for tag in $tags; do platforms="$platforms --platform ${tag}_aarch64"; done
# shellcheck disable=SC2086  # lists of words are meant
attempt "downloading arm64 wheels" "$python" -m pip install --quiet --disable-pip-version-check \
    --no-compile --only-binary=:all: $platforms --implementation cp --python-version "${version#python}" \
    --constraint "$lock" --target "$folder/site" $wheels

"$folder/qemu-aarch64" -L "$folder/root" "$folder/root/usr/bin/$version" \
    -c 'import platform, sqlite3, ssl; assert platform.machine() == "aarch64"' >>"$folder/setup.log" 2>&1 ||
    give_up "the arm64 Python does not run, see $folder/setup.log"
rm -rf "$state"
echo "$version" >"$folder/python"
echo "$key" >"$folder/ready"
echo "   done in $(($(date +%s) - began)) s"
