package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

const (
	method = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
	secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// subscriptions are what Envoy asks for, one stream for each.
var subscriptions = map[uint32]string{1: "default", 3: "ROOTCA"}

// sds subscribes to both secrets as Envoy does and accepts what comes, until the server ends it.
func sds(path string) error {
	connection, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, preface); err != nil {
		return err
	}
	if err := write(connection, frameSettings, 0, 0, nil); err != nil {
		return err
	}
	// A client's streams are odd, and begin in this order (RFC 9113, section 5.1.1).
	for _, stream := range []uint32{1, 3} {
		if err := write(connection, frameHeaders, flagEndHeaders, stream, headers(method)); err != nil {
			return err
		}
		if err := write(connection, frameData, 0, stream, whole(request(subscriptions[stream], nil, nil))); err != nil {
			return err
		}
	}
	received := map[uint32][]byte{}
	for {
		kind, flags, stream, payload, err := read(connection)
		if err != nil {
			return err
		}
		switch {
		case (kind == frameSettings || kind == framePing) && flags&flagAck == 0:
			if kind == frameSettings {
				payload = nil
			}
			err = write(connection, kind, flagAck, 0, payload)
		case kind == frameData && subscriptions[stream] != "":
			received[stream], err = take(connection, stream, append(received[stream], payload...))
			if err == nil && len(payload) > 0 {
				err = refill(connection, stream, len(payload))
			}
		case kind == frameReset || kind == frameGoAway:
			return fmt.Errorf("the server ended it with a frame of type %d", kind)
		}
		if err != nil {
			return err
		}
	}
}

// take accepts each whole message, and gives what is left.
func take(connection net.Conn, stream uint32, bytes []byte) ([]byte, error) {
	// One byte that says whether it is compressed, four of length.
	for len(bytes) >= 5 {
		end := 5 + int(binary.BigEndian.Uint32(bytes[1:]))
		if len(bytes) < end {
			break
		}
		fields := parse(bytes[5:end])
		version, nonce := fields[1], fields[5]
		fmt.Printf("%s arrived, version %s\n", subscriptions[stream], version)
		if err := write(connection, frameData, 0, stream, whole(request(subscriptions[stream], version, nonce))); err != nil {
			return nil, err
		}
		bytes = bytes[end:]
	}
	return bytes, nil
}

// refill gives the server back the room that it used, of the connection and of the stream.
func refill(connection net.Conn, stream uint32, used int) error {
	room := binary.BigEndian.AppendUint32(nil, uint32(used))
	for _, whose := range []uint32{0, stream} {
		if err := write(connection, frameWindowUpdate, 0, whose, room); err != nil {
			return err
		}
	}
	return nil
}

func write(connection net.Conn, kind, flags byte, stream uint32, payload []byte) error {
	size := len(payload)
	frame := []byte{byte(size >> 16), byte(size >> 8), byte(size), kind, flags}
	frame = binary.BigEndian.AppendUint32(frame, stream)
	_, err := connection.Write(append(frame, payload...))
	return err
}

func read(connection net.Conn) (kind, flags byte, stream uint32, payload []byte, err error) {
	head := make([]byte, 9)
	if _, err = io.ReadFull(connection, head); err != nil {
		return
	}
	payload = make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	_, err = io.ReadFull(connection, payload)
	return head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload, err
}

// whole is a message of which nothing is held back.
func whole(content []byte) []byte {
	return message(len(content), content)
}

// request is Envoy's DiscoveryRequest: version_info, resource_names, type_url, response_nonce.
func request(name string, version, nonce []byte) []byte {
	var bytes []byte
	for number, value := range map[byte][]byte{1: version, 3: []byte(name), 4: []byte(secret), 5: nonce} {
		if len(value) > 0 {
			bytes = binary.AppendUvarint(append(bytes, number<<3|2), uint64(len(value)))
			bytes = append(bytes, value...)
		}
	}
	return bytes
}

// parse gives the last of each field of a message that has a length: of a DiscoveryResponse all that matters here.
func parse(bytes []byte) map[uint64][]byte {
	fields := map[uint64][]byte{}
	for len(bytes) > 0 {
		tag, size := binary.Uvarint(bytes)
		bytes = bytes[max(size, 1):]
		value, size := binary.Uvarint(bytes)
		bytes = bytes[min(max(size, 1), len(bytes)):]
		if tag&7 == 2 {
			end := min(value, uint64(len(bytes)))
			fields[tag>>3], bytes = bytes[:end], bytes[end:]
		}
	}
	return fields
}
