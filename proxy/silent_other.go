//go:build !unix

package proxy

import (
	"net"
	"syscall"
)

// silent cannot be told here, so that no connection is kept.
func silent(net.Conn) bool { return false }

// awaitReadable leaves the waiting to the read that follows.
func awaitReadable(syscall.RawConn) error { return nil }
