#!/bin/sh
# The first process of a node: its own mounts, its own network, containerd and kubelet, each started again when it ends.
#
# Runs as PID 1 of namespaces of its own, so that everything of the node ends with it. Arguments: the node's folder, its name, its
# address, the address of the machine, the folder with kubelet.
set -eu
folder=$1 name=$2 address=$3 gateway=$4 bin=$5
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
ip address add "$address/30" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
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
for image in "$folder"/images/*.tar; do
    ctr --address /run/containerd/containerd.sock --namespace k8s.io images import --snapshotter native "$image" >>"$folder/images.log" 2>&1
done
echo "node $name: images imported"
again "$folder/kubelet.log" kubelet --config="$folder/kubelet.yaml" --kubeconfig="$folder/kubelet.kubeconfig" \
    --hostname-override="$name" --node-ip="$address" --root-dir=/var/lib/kubelet &
wait
