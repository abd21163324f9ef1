package main

import (
	"hash/crc32"
	"net"
)

// loopback returns a TCP connection whose other end reads, and tells a checksum each time that so
// many bytes have come.
func loopback(w *workspace, size int64) (connection net.Conn, received <-chan uint64, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	connection, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	other, err := listener.Accept()
	if err != nil {
		connection.Close()
		return nil, nil, err
	}
	checksums := make(chan uint64, 1)
	go func() {
		defer close(checksums)
		defer other.Close()
		buffer := make([]byte, 256<<10)
		for left, sum := size, uint32(0); ; {
			n, err := other.Read(buffer[:min(int64(len(buffer)), left)])
			if err != nil {
				return
			}
			sum = crc32.Update(sum, castagnoli, buffer[:n])
			if left -= int64(n); left == 0 {
				checksums <- uint64(sum)
				left, sum = size, 0
			}
		}
	}()
	w.later(connection.Close)
	return connection, checksums, nil
}
