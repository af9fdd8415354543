// Guest is the one program in the pods of the test bed, in an image that holds nothing else.
//
//	guest pause               waits, and reaps what is left to it (the sandbox of every pod)
//	guest probe PATH          looks for a living SDS socket as pilot-agent does when it starts, then waits
//	guest look PATH           looks for one and ends; fails if there is none
//	guest sds PATH            subscribes to both secrets as Envoy does, prints the name of each that comes, accepts it, waits
//	guest replace PATH        tries to put another socket or folder in its place, then waits
//	guest reach PATH...       tells which of these sockets it can connect to, then waits
//	guest call PATH METHOD REQUEST   makes one gRPC call with this request (hexadecimal), then waits
//	guest attack KIND PATH... floods the agent behind these sockets until it is ended
//
// A look is one connection: HTTP/2's preface out, the server's SETTINGS back within a second. A probe looks once, at once: what
// it prints tells what the first container of a pod found.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 {
		act(os.Args[1], os.Args[2:])
	}
	wait()
}

func act(what string, args []string) {
	switch {
	case what == "probe":
		probe(args[0])
	case what == "look":
		if err := dial(args[0]); err != nil {
			fmt.Fprintf(os.Stderr, "nobody is there: %v\n", err)
			os.Exit(1)
		}
		os.Exit(0)
	case what == "sds":
		go func() {
			fmt.Printf("no more secrets: %v\n", sds(args[0]))
		}()
	case what == "replace":
		replace(args[0])
	case what == "reach":
		reach(args)
	case what == "call" && len(args) == 3:
		call(args[0], args[1], args[2])
	case what == "attack":
		attack(args[0], args[1:])
	}
}

func probe(path string) {
	began := time.Now()
	err := dial(path)
	if err != nil {
		fmt.Printf("probe failed after %v: %v\n", time.Since(began), err)
		return
	}
	fmt.Printf("probe answered after %v\n", time.Since(began))
	if err := os.Remove(path); err != nil {
		fmt.Printf("socket cannot be removed: %v\n", err)
	} else {
		fmt.Println("socket was removed")
	}
}

func dial(path string) error {
	connection, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	// The preface and an empty SETTINGS frame.
	if _, err := io.WriteString(connection, preface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(connection, head); err != nil {
		return err
	}
	if head[3] != frameSettings {
		return fmt.Errorf("the first frame is of type %d, expected SETTINGS", head[3])
	}
	return nil
}

func wait() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-end:
			return
		case <-children:
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if err != nil || pid <= 0 {
					break
				}
			}
		}
	}
}
