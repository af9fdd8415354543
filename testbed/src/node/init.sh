#!/bin/sh
# The first process of a node: its own mounts, its own network, then containerd, kubelet and kube-proxy, each started again when
# it ends.
#
# Runs as PID 1 of namespaces of its own, so that everything of the node ends with it. Arguments: the node's folder, the
# folder with images, its name, its address, the address of the machine, the folder with kubelet; then the ways to the pods of
# other nodes, each a range and an address.
set -eu
folder=$1 images=$2 name=$3 address=$4 gateway=$5 bin=$6
shift 6
export PATH="$bin:/usr/sbin:/usr/bin:/sbin:/bin"

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
for place in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods; do
    mkdir -p "$folder$place" "$place"
    mount --bind "$folder$place" "$place"
done
# Mounts that kubelet makes must reach containers that ask for them.
mount --make-rshared /var/lib/kubelet
mount --make-rshared /run

until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
while [ $# -gt 1 ]; do
    ip route add "$1" via "$2"
    shift 2
done
echo 1 > /proc/sys/net/ipv4/ip_forward

again() {
    log=$1
    shift
    while :; do
        "$@" >>"$log" 2>&1 || true
        sleep 0.2
    done
}

again "$folder/containerd.log" containerd --config "$folder/containerd.toml" &
until ctr --address /run/containerd/containerd.sock version >/dev/null 2>&1; do sleep 0.1; done
snapshotter=$(sed -n 's/^ *snapshotter = "\(.*\)"$/\1/p' "$folder/containerd.toml")
for image in "$images"/*.tar; do
    ctr --address /run/containerd/containerd.sock --namespace k8s.io images import --snapshotter "$snapshotter" "$image" \
        >>"$folder/images.log" 2>&1
done
echo "node $name: images imported"
again "$folder/kubelet.log" kubelet --config="$folder/kubelet.yaml" --kubeconfig="$folder/kubelet.kubeconfig" \
    --hostname-override="$name" --node-ip="$address" --root-dir=/var/lib/kubelet &
# The limits of the connection table are the machine's, not ours.
again "$folder/kube-proxy.log" kube-proxy --kubeconfig="$folder/kube-proxy.kubeconfig" --hostname-override="$name" \
    --proxy-mode=nftables --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
    --metrics-bind-address=127.0.0.1:10249 --healthz-bind-address=127.0.0.1:10256 &
wait
