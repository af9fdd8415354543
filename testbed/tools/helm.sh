#!/bin/sh
# Builds Helm, and the renderer of the plain manifests that uses its engine, into the user's cache and links them into .tools/.
#
# The cache folder is named by a digest of everything that goes in, so clones share it and a change makes a new one.
# Only a missing folder needs the network and Go, for a few minutes, once. Safe to run many times at once: one builds, the
# others wait, and the folder appears by one rename.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
source=$root/testbed/helm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ensign
digest=$(cat "$source"/go.* "$source"/*/*.go "$here/helm.sh" | sha256sum | cut -c1-16)
built=$cache/helm-$digest

version=v3.19.5
# The Kubernetes of the test bed, which Helm takes for the server's version where it asks none.
minor=34

build() {
    command -v go >/dev/null 2>&1 || {
        echo "setup: go is not on PATH; Go 1.25 or newer builds the test bed's Helm" >&2
        exit 1
    }
    staging=$(mktemp -d -p "$cache")
    trap 'rm -rf "$staging"' EXIT
    trap 'exit 130' INT TERM
    echo "setup: building Helm $version, once per machine (some minutes)"
    helm=helm.sh/helm/v3
    flags="-s -w -X $helm/internal/version.version=$version"
    for package in $helm/pkg/chartutil $helm/pkg/lint/rules; do
        flags="$flags -X $package.k8sVersionMajor=1 -X $package.k8sVersionMinor=$minor"
    done
    mkdir "$staging/bin"
    (cd "$source" && go build -buildvcs=false -ldflags "$flags" -o "$staging/bin/" $helm/cmd/helm ./manifests) >"$staging/log" 2>&1 || {
        echo "setup: Helm does not build; the compiler's last words:" >&2
        tail -n 30 "$staging/log" >&2
        exit 1
    }
    rm "$staging/log"
    chmod 755 "$staging"
    # Where there is no flock someone else may have been faster; theirs is the same, so either will do.
    mv -T "$staging" "$built" 2>/dev/null || [ -d "$built/bin" ]
}

if [ ! -d "$built/bin" ]; then
    mkdir -p "$cache"
    if command -v flock >/dev/null 2>&1; then
        exec 7>"$cache/helm.lock"
        flock 7
    fi
    [ -d "$built/bin" ] || build
fi

# In use today; what no clone has used for a week is of an older commit.
touch "$built"
find "$cache" -maxdepth 1 -name 'helm-*' -type d -mtime +7 -exec rm -rf {} + 2>/dev/null || true

mkdir -p "$root/.tools"
ln -sfn "$built/bin/helm" "$root/.tools/helm"
ln -sfn "$built/bin/manifests" "$root/.tools/manifests"
