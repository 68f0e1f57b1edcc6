package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// aside is a held call whose connection net/http does not serve meanwhile. While it
// serves one, it keeps 10 KiB of buffers and two goroutines, whose stacks have seen a
// handshake and a judgement and do not become small again. What waits here is the
// call, its connection, and one goroutine that has seen nothing.
//
//	setAside  takes the connection; the handler returns, and net/http lets go
//	wait      sleeps where the client would be seen to leave, until the gate wakes it
//	back      gives the connection to Server.decided, with a head of our own making
//	          ahead of what the client sends: net/http reads it, and the answer is
//	          written as any other, on a connection that goes on as any other
//
// If we crash meanwhile, the client sees its connection end, as it does anyway.
type aside struct {
	x    *exchange
	conn *lintConn
	call *gate.Waiting

	blind bool // the client has begun another request, and is looked at no more
	woken chan struct{}
	mu    sync.Mutex
	over  bool // nobody sleeps any more

	permit  *gate.Permit
	refusal *gate.Refusal
}

var longAgo = time.Unix(1, 0)

// left is the context of a call whose client went away.
var left = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// setAside answers false, and leaves everything as it was, where a call cannot be
// set aside: streams of HTTP/2, which cost little, and bodies that were not read to
// their end.
func (x *exchange) setAside(call *gate.Waiting) bool {
	if x.conn.lint == nil || x.body != nil && !x.body.whole {
		return false
	}
	lint := x.conn.lint
	// Before net/http forgets it, so that a stop finds it in one place or the other; a
	// call that comes to be held while we stop waits in net/http.
	if !x.s.aside.add(lint) || x.s.stopping.Err() != nil {
		x.s.aside.remove(lint)
		return false
	}
	_, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.s.aside.remove(lint)
		return false
	}
	// What is still to be handed out of an earlier call's wait stands behind it.
	sent, _ := rw.Reader.Peek(rw.Reader.Buffered())
	lint.again = append(append([]byte(nil), sent...), lint.again...)
	a := &aside{x: x.alone(), conn: lint, call: call, woken: make(chan struct{}, 1)}
	x.req = nil // the line of the log comes with the answer
	ctx := context.Background()
	if lint.readAhead() {
		ctx = left
	}
	a.blind = lint.begun()
	go a.wait(ctx)
	return true
}

// alone is x without net/http's request and answer, which hold on to its buffers.
func (x *exchange) alone() *exchange {
	y, r := *x, x.r
	y.w = nil
	y.r = &http.Request{
		Method: r.Method, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: r.Header, Host: r.Host, RequestURI: r.RequestURI, Close: r.Close,
	}
	if y.body != nil {
		y.body.src, y.body.control = http.NoBody, nil
	}
	return &y
}

// wait owns the connection until it is given back.
func (a *aside) wait(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil { // a panic costs one call
			s := a.x.s
			s.log.Error("panic while a call waited", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			s.gate.Fault("panic", fmt.Errorf("wait for a decision: panic: %v", p))
			if a.permit != nil {
				a.permit.Done(gate.Outcome{State: evidence.StateRefused, Error: "the sidecar failed before it sent the call"})
			}
			_ = a.conn.Close()
			s.aside.remove(a.conn)
		}
	}()
	a.call.Start(a.wake)
	for {
		// In this order: who is woken after the first line does not fall asleep.
		_ = a.conn.SetReadDeadline(time.Time{})
		if a.call.Look(ctx) {
			break
		}
		switch {
		case a.blind:
			<-a.woken
		case a.conn.readable():
			if a.conn.readOn() {
				ctx = left
			}
			a.blind = a.conn.begun()
		}
	}
	a.back(ctx)
}

// wake ends the sleep, or the next one.
func (a *aside) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return
	}
	_ = a.conn.SetReadDeadline(longAgo)
	select {
	case a.woken <- struct{}{}:
	default:
	}
}

// back gives the connection to net/http again.
//
//go:noinline
func (a *aside) back(ctx context.Context) {
	a.permit, a.refusal = a.call.End(ctx)
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
	_ = a.conn.SetReadDeadline(time.Time{})
	a.conn.again = append(headAgain(a.x.r), a.conn.again...)
	a.conn.aside = a
	if a.x.s.decided.give(a.conn) {
		return
	}
	// Only after a Shutdown whose time was over.
	if a.permit != nil {
		a.permit.Done(gate.Outcome{State: evidence.StateRefused, Error: "the sidecar is stopping"})
	}
	a.x.s.aside.remove(a.conn)
}

// headAgain is the head of a call like r but without a body. It says what net/http
// must know to answer: whether there may be a body, and whether the connection stays.
func headAgain(r *http.Request) []byte {
	connection := "keep-alive"
	if r.Close {
		connection = "close"
	}
	return fmt.Appendf(nil, "%s / HTTP/1.%d\r\nHost: aside.invalid\r\nConnection: %s\r\n\r\n", r.Method, r.ProtoMinor, connection)
}

// resume goes on with the call where net/http serves its connection again.
func (a *aside) resume(w http.ResponseWriter, r *http.Request) {
	x := a.x
	x.w, x.r = w, x.r.WithContext(r.Context())
	defer x.s.aside.remove(a.conn)
	defer x.end()
	x.checked(a.permit, a.refusal)
}

// begun says that the client has sent more than the call, which is looked at no more
// then, as in net/http.
func (c *lintConn) begun() bool { return len(c.again) > 0 || len(c.buf) > 0 }

// readAhead gives what TLS has read and not handed out: it takes records together.
// It answers whether their end was among them.
func (c *lintConn) readAhead() (gone bool) {
	if _, ok := c.Conn.(*tls.Conn); !ok || c.begun() {
		return false
	}
	_ = c.SetReadDeadline(longAgo)
	return c.readOn()
}

// readOn reads; what came is there again for the next reader. It answers whether
// the client is gone.
//
//go:noinline
func (c *lintConn) readOn() (gone bool) {
	var some [64]byte
	n, err := c.Read(some[:])
	if n > 0 {
		c.again = append(c.again, some[:n]...)
		return false
	}
	return err != nil && !isTimeout(err)
}

// readable waits until a read would not wait, which it answers with true, or a
// deadline comes. It looks at the socket and not into TLS, for the sake of its stack.
func (c *lintConn) readable() bool {
	raw := c.socket()
	if raw == nil {
		return true // whoever reads then waits
	}
	c.mu.Lock()
	err := c.apply()
	c.reading = true
	c.mu.Unlock()
	if err == nil {
		err = awaitReadable(raw)
	}
	c.mu.Lock()
	c.reading = false
	c.mu.Unlock()
	return !isTimeout(err)
}

// socket is the TCP connection at the bottom, nil where there is none.
func (c *lintConn) socket() syscall.RawConn {
	below := c.Conn
	if secure, ok := below.(*tls.Conn); ok {
		below = secure.NetConn()
	}
	if p, ok := below.(*peekedConn); ok {
		if len(p.prefix) > 0 {
			return nil
		}
		below = p.Conn
	}
	tcp, ok := below.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
