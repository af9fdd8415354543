#!/bin/sh
# Lays out the files of a program's image: the program, the shared libraries that its loader brings it, how names are resolved.
# Nothing else: no shell, no package. `make image` (testbed/src/image) lays out the same; a test compares the two.
# Arguments: the program, and the folder that becomes the root.
set -eu
program=$1 root=$2
mkdir -p "$root/etc"
install -m 755 "$program" "$root/$(basename "$program")"
ldd "$program" | tr ' \t' '\n\n' | grep '^/' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
