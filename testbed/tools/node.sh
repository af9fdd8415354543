#!/bin/sh
# Installs what a real node needs beside kubelet, as Debian 12 has it: containerd, runc, the CNI plugins. Needs root, once per
# machine. Other versions may do; these are the ones that the test bed was made with.
set -eu

wanted="nftables=1.0.6* containerd=1.6.20* runc=1.1.5* containernetworking-plugins=1.1.1* iproute2 util-linux binutils"

complete() {
    [ -x /usr/bin/containerd ] && [ -x /usr/sbin/runc ] && [ -x /usr/lib/cni/ptp ] && [ -x /usr/sbin/nft ] && command -v ip >/dev/null &&
        command -v unshare >/dev/null && command -v strip >/dev/null
}

if complete; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "node: this machine lacks a program of the test bed's nodes; install: $wanted" >&2
    exit 1
fi
# Two at once would meet at apt's own locks, and one would fail.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ensign
mkdir -p "$cache"
if command -v flock >/dev/null; then
    exec 8>"$cache/node.lock"
    flock 8
    if complete; then
        exit 0
    fi
fi
echo "node: installing $wanted, once per machine"
# Debian starts what it installs; nothing of it is to run here.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $wanted
