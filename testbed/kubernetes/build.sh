#!/bin/sh
# Builds the Kubernetes, cert-manager and CoreDNS of the test bed into the user's cache and links them to .tools/kubernetes.
#
# The cache folder is named by a digest of everything that goes in, so clones share it and a change makes a new one.
# Only a missing folder needs the network and Go: about ten minutes on two cores, once; after that the links are all.
# Safe to run many times at once: one builds, the others wait, and the folder appears by one rename.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ensign
digest=$(cd "$here" && find . -type f \( -name '*.go' -o -name 'go.*' -o -name build.sh \) | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
built=$cache/kubernetes-$digest

kubernetes=v1.34.4
cert_manager=v1.19.5
version=k8s.io/component-base/version
client_version=k8s.io/client-go/pkg/version

build() {
    command -v go >/dev/null 2>&1 || {
        echo "setup: go is not on PATH; Go 1.25 or newer builds the Kubernetes of the test bed" >&2
        exit 1
    }
    staging=$cache/kubernetes-staging-$$
    rm -rf "$staging"
    compiler=
    trap 'rm -rf "$staging"' EXIT
    trap 'kill $compiler 2>/dev/null; exit 130' INT TERM
    mkdir -p "$staging/bin" "$staging/crds"
    echo "setup: building Kubernetes $kubernetes, cert-manager $cert_manager and CoreDNS for the test bed, once per machine (some ten minutes)"
    begin=$(date +%s)

    # Without these stamps clients see a server of version v0.0.0.
    flags="-s -w -X github.com/cert-manager/cert-manager/pkg/util.AppVersion=$cert_manager"
    for package in $version $client_version; do
        flags="$flags -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=34"
    done
    (cd "$here" && exec go build -v -buildvcs=false -ldflags "$flags" -o "$staging/bin/" ./kube ./certmanager ./coredns) >"$staging/log" 2>&1 &
    compiler=$!
    while kill -0 $compiler 2>/dev/null; do
        sleep 1
        now=$(($(date +%s) - begin))
        if [ $((now % 30)) -eq 0 ]; then
            echo "setup: building Kubernetes: $(grep -vc '^go: ' "$staging/log" || true) packages, $((now / 60)) min $((now % 60)) s"
        fi
    done
    wait $compiler || {
        echo "setup: Kubernetes does not build; the compiler's last words:" >&2
        tail -n 30 "$staging/log" >&2
        exit 1
    }

    for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl rsa-key; do
        ln -s kube "$staging/bin/$name"
    done
    for name in cert-manager-controller cert-manager-webhook; do
        ln -s certmanager "$staging/bin/$name"
    done
    cp "$(cd "$here" && go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)"/deploy/crds/*.yaml "$staging/crds/"
    chmod -R u+w "$staging/crds"
    rm "$staging/log"
    chmod 755 "$staging"
    # Where there is no flock someone else may have been faster; theirs is the same, so either will do.
    mv -T "$staging" "$built" 2>/dev/null || [ -d "$built/bin" ]
    trap - EXIT INT TERM
    now=$(($(date +%s) - begin))
    echo "setup: Kubernetes is built, in $((now / 60)) min $((now % 60)) s"
}

mkdir -p "$cache"
if [ ! -d "$built/bin" ]; then
    # Not only for thrift: two such builds at once would need the memory twice.
    if command -v flock >/dev/null 2>&1; then
        exec 8>"$cache/kubernetes.lock"
        flock 8
    fi
    [ -d "$built/bin" ] || build
fi

# In use today; what no clone has used for a week is of an older commit.
touch "$built"
find "$cache" -maxdepth 1 -name 'kubernetes-*' -type d -mtime +7 -exec rm -rf {} + 2>/dev/null || true

mkdir -p "$root/.tools"
ln -sfn "$built" "$root/.tools/kubernetes"
