package main

// A pod that wants its socket to be another's: everything that a root without privileges can try on a folder.

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// replace tries each way once and tells what became of it.
func replace(socket string) {
	folder := filepath.Dir(socket)
	in := func(name string) string { return filepath.Join(folder, name) }
	ways := []struct {
		name string
		try  func() error
	}{
		{"remove the socket", func() error { return os.Remove(socket) }},
		{"rename the socket", func() error { return os.Rename(socket, in("old.sock")) }},
		{"link the socket", func() error { return os.Link(socket, in("another.sock")) }},
		{"close the socket", func() error { return os.Chmod(socket, 0) }},
		{"give the socket away", func() error { return os.Chown(socket, 1337, 1337) }},
		{"make a file", func() error { return os.WriteFile(in("file"), nil, 0o644) }},
		{"make a folder", func() error { return os.Mkdir(in("folder"), 0o755) }},
		{"make a symlink", func() error { return os.Symlink("/etc", in("link")) }},
		{"make a device", func() error { return syscall.Mknod(in("device"), syscall.S_IFCHR|0o666, 1<<8|3) }},
		{"listen beside it", func() error {
			_, err := net.Listen("unix", in("new.sock"))
			return err
		}},
		{"close the folder", func() error { return os.Chmod(folder, 0) }},
		{"remove the folder", func() error { return os.Remove(folder) }},
		{"rename the folder", func() error { return os.Rename(folder, folder+".old") }},
		{"unmount the folder", func() error { return syscall.Unmount(folder, syscall.MNT_DETACH) }},
		{"make the mount writable", func() error {
			return syscall.Mount("", folder, "", syscall.MS_REMOUNT|syscall.MS_BIND, "")
		}},
		{"mount over the folder", func() error { return syscall.Mount("tmpfs", folder, "tmpfs", 0, "") }},
	}
	refused := 0
	for _, way := range ways {
		if err := way.try(); err != nil {
			fmt.Printf("cannot %s: %v\n", way.name, err)
			refused++
		} else {
			fmt.Printf("could %s\n", way.name)
		}
	}
	fmt.Printf("replace: %d of %d refused\n", refused, len(ways))
}
