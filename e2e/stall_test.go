package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestStalledInOpening stops the process while connections are being opened, for
// longer than it waits for a client: 6 s, beyond its wait for the first byte in a
// CONNECT, or 12 s with ACTPASS_LONG, beyond those for a handshake and a head too.
// The clients were not late, and each gets its answer.
func TestStalledInOpening(t *testing.T) {
	t.Parallel()
	stall := 6 * time.Second
	if os.Getenv("ACTPASS_LONG") != "" {
		stall = 12 * time.Second
	}
	u := newUpstream(t)
	u.handle(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	sc := start(t, settings{front: u})
	conf := &tls.Config{RootCAs: sc.caPool(t), ServerName: "echo.example.test"}
	const get = "GET /x HTTP/1.1\r\nHost: echo.example.test\r\n\r\n"

	type client struct {
		name string
		conn net.Conn
		rest func(conn net.Conn) (net.Conn, error) // what it does once it can
	}
	var clients []client
	add := func(name string, rest func(net.Conn) (net.Conn, error)) {
		clients = append(clients, client{name, tunnelTo(t, sc.proxy, "echo.example.test:443"), rest})
	}
	shake := func(conn net.Conn) (net.Conn, error) {
		c := tls.Client(conn, conf)
		return c, c.Handshake()
	}
	add("before its hello", shake)

	// The hello is there, the rest of the handshake is not.
	gate := make(chan struct{})
	shaken := make(chan error, 1)
	var half *tls.Conn
	add("between the flights of its handshake", func(net.Conn) (net.Conn, error) {
		close(gate)
		return half, <-shaken
	})
	half = tls.Client(&secondWrite{Conn: clients[len(clients)-1].conn, until: gate}, conf)
	go func() { shaken <- half.Handshake() }()

	add("before its first head", nil)
	done, err := shake(clients[len(clients)-1].conn)
	must(t, err)
	clients[len(clients)-1].rest = func(net.Conn) (net.Conn, error) { return done, nil }

	add("in its first head", nil)
	begun, err := shake(clients[len(clients)-1].conn)
	must(t, err)
	_, err = io.WriteString(begun, get[:20])
	must(t, err)
	clients[len(clients)-1].rest = func(net.Conn) (net.Conn, error) { return begun, nil }
	time.Sleep(300 * time.Millisecond) // everything is where it should be

	must(t, sc.cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(stall)
	must(t, sc.cmd.Process.Signal(syscall.SIGCONT))
	for _, c := range clients {
		conn, err := c.rest(c.conn)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		text := get
		if c.name == "in its first head" {
			text = get[20:]
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, text)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: %v, %v", c.name, resp, err)
		}
		_ = conn.Close()
	}
}

// TestStalledInDialling stops the process while it dials for a call that a human has
// approved, for longer than a dial may take. It was not the upstream that was late:
// the call is sent, once, and the approval is not lost to a machine that stood still.
func TestStalledInDialling(t *testing.T) {
	if os.Getenv("ACTPASS_LONG") == "" {
		t.Skip("takes 12 s; set ACTPASS_LONG=1")
	}
	t.Parallel()
	u := newUpstream(t)
	u.handle(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"object":"refund"}`) })
	// Before it is an address that takes connections and says nothing for a while.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	behind, dialled, speak := u.tls, make(chan struct{}, 8), make(chan struct{})
	u.tls = ln.Addr().String()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			dialled <- struct{}{}
			go func() {
				defer c.Close()
				<-speak
				up, err := net.Dial("tcp", behind)
				if err != nil {
					return
				}
				defer up.Close()
				go func() { _, _ = io.Copy(up, c) }()
				_, _ = io.Copy(c, up)
			}()
		}
	}()
	sc := start(t, settings{front: u, hold: "1m"})
	conn := tls.Client(tunnelTo(t, sc.proxy, "api.stripe.com:443"), &tls.Config{RootCAs: sc.caPool(t), ServerName: "api.stripe.com"})
	_, err = io.WriteString(conn, heldCall("/v1/refunds", "stalled"))
	must(t, err)
	sc.approve(sc.pending())
	<-dialled
	must(t, sc.cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(12 * time.Second)
	must(t, sc.cmd.Process.Signal(syscall.SIGCONT))
	time.Sleep(100 * time.Millisecond) // so that what is over is found to be
	close(speak)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	body, _ := io.ReadAll(resp.Body)
	if n := len(u.requestsSeen()); resp.StatusCode != 200 || n != 1 {
		t.Errorf("%d %s, sent %d times", resp.StatusCode, body, n)
	}
}

// secondWrite holds back all writes after the first.
type secondWrite struct {
	net.Conn
	until chan struct{}
	n     int
}

func (s *secondWrite) Write(p []byte) (int, error) {
	if s.n++; s.n > 1 {
		<-s.until
	}
	return s.Conn.Write(p)
}

// tunnelTo opens a CONNECT.
func tunnelTo(t testing.TB, proxy, target string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", proxy)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	must(t, err)
	answer := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
	_, err = io.ReadFull(conn, answer)
	must(t, err)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Fatalf("CONNECT: %q", answer)
	}
	return conn
}
