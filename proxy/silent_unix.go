//go:build unix

package proxy

import (
	"errors"
	"net"
	"syscall"
)

// silent says whether a connection is open and has nothing to read.
func silent(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	still := false
	err = raw.Read(func(fd uintptr) bool {
		still = nothingToRead(fd)
		return true
	})
	return err == nil && still
}

// awaitReadable waits until a connection has something to read, or its end, or its
// deadline comes.
func awaitReadable(raw syscall.RawConn) error {
	return raw.Read(func(fd uintptr) bool { return !nothingToRead(fd) })
}

func nothingToRead(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return errors.Is(err, syscall.EAGAIN)
}
