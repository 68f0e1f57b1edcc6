package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST has the same value
// (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// originalDst asks the kernel where a connection was going before it was
// redirected here. Without a redirect it answers an error or our own address.
func originalDst(c net.Conn) (netip.AddrPort, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, errors.New("not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the original destination: %w", err)
	}
	peer, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, errors.New("not a TCP connection")
	}
	var dst netip.AddrPort
	var fault error
	err = raw.Control(func(fd uintptr) {
		if peer.AddrPort().Addr().Unmap().Is4() {
			// struct sockaddr_in is 16 bytes; IPv6Mreq is 20, and GetsockoptIPv6Mreq
			// is the call of x/sys that takes any level and name.
			m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, soOriginalDst)
			if err != nil {
				fault = err
				return
			}
			b := m.Multiaddr
			dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
			return
		}
		// struct sockaddr_in6 is 28 bytes and the first member of IPv6MTUInfo.
		m, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.IPPROTO_IPV6, soOriginalDst)
		if err != nil {
			fault = err
			return
		}
		port := (*[2]byte)(unsafe.Pointer(&m.Addr.Port)) // network order in memory
		dst = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), uint16(port[0])<<8|uint16(port[1]))
	})
	if err == nil {
		err = fault
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the original destination: %w", err)
	}
	return dst, nil
}

// setMark marks a socket before it connects, so that redirect rules can let it
// pass. It needs CAP_NET_ADMIN.
func setMark(mark uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var fault error
		err := c.Control(func(fd uintptr) {
			fault = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		})
		if err == nil {
			err = fault
		}
		if err != nil {
			return fmt.Errorf("mark the connection (needs CAP_NET_ADMIN): %w", err)
		}
		return nil
	}
}
