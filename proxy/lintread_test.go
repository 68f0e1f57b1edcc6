package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// deadlined notes the read deadlines that reach a connection.
type deadlined struct {
	net.Conn
	mu  sync.Mutex
	set []time.Time
}

func (c *deadlined) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.set = append(c.set, t)
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c *deadlined) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.set)
}

func lintPipe(t *testing.T) (*lintConn, *deadlined, net.Conn) {
	a, b := net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	below := &deadlined{Conn: a}
	return &lintConn{Conn: below, door: &doorway{}, maxHead: 8 << 10}, below, b
}

func TestDeadlinesWaitForARead(t *testing.T) {
	c, below, peer := lintPipe(t)
	for i := range 9 {
		_ = c.SetReadDeadline(time.Now().Add(time.Duration(i+1) * time.Minute))
	}
	if n := below.count(); n != 0 {
		t.Errorf("%d deadlines were set, and nobody reads", n)
	}
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 100))
		read <- err
	}()
	for below.count() < 1 {
		time.Sleep(time.Millisecond)
	}
	_ = c.SetReadDeadline(time.Now().Add(-time.Second))
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read that waits: %v", err)
	}
	// Who takes the connection over finds no deadline on it.
	c.release()
	go func() { _, _ = peer.Write([]byte("x")) }()
	if _, err := below.Read(make([]byte, 1)); err != nil {
		t.Errorf("a read after the release: %v", err)
	}
}

func TestBackgroundReadParks(t *testing.T) {
	c, below, peer := lintPipe(t)
	one := func() chan error {
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		return read
	}
	for range 100 {
		read := one()
		if time.Now().Nanosecond()%2 == 0 {
			time.Sleep(time.Microsecond)
		}
		_ = c.SetReadDeadline(time.Unix(1, 0))
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	if n := below.count(); n != 0 {
		t.Errorf("%d deadlines reached the connection", n)
	}
	// A client that leaves is noticed all the same.
	began := time.Now()
	read := one()
	_ = peer.Close()
	if err := <-read; err == nil || errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
