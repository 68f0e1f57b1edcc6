package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// upstreams are the transports to the providers. All dial through one dialer
// and follow no proxy, redirect or cookie of their own.
type upstreams struct {
	pooled  *http.Transport // HTTP/2 or HTTP/1.1, connections kept
	upgrade *http.Transport // HTTP/1.1, a connection for each call, which it may make its own
	kept    *upConns        // HTTP/1.1, connections kept, for bodies that were read whole
}

func newUpstreams(d *dialer, answerTimeout time.Duration) *upstreams {
	w := newUpConns(d, answerTimeout)
	make := func(protos ...string) *http.Transport {
		t := &http.Transport{
			Proxy:       nil, // the environment's proxy is most likely this sidecar
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return d.dial(ctx, addr) },
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				conn, err := d.dialTLS(ctx, addr, protos)
				if c, ok := conn.(*tls.Conn); ok && err == nil && len(protos) > 1 {
					w.learn(addr, c.ConnectionState().NegotiatedProtocol)
				}
				return conn, err
			},
			DisableCompression:    true,
			MaxIdleConns:          2048,
			MaxIdleConnsPerHost:   512,
			IdleConnTimeout:       90 * time.Second,
			ResponseHeaderTimeout: answerTimeout,
			ExpectContinueTimeout: 2 * time.Second,
			// Answers are bounded as requests are, if more generously.
			MaxResponseHeaderBytes: 1 << 20,
			WriteBufferSize:        8 << 10,
			ReadBufferSize:         8 << 10,
		}
		return t
	}
	u := &upstreams{pooled: make("h2", "http/1.1"), upgrade: make("http/1.1"), kept: w}
	u.pooled.ForceAttemptHTTP2 = true
	u.pooled.HTTP2 = &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second}
	u.upgrade.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	u.upgrade.MaxIdleConnsPerHost = -1
	return u
}

// alone sends a call on a connection of its own, in the protocol that t and the
// upstream agree on. There is no other connection to go on with, and nobody who
// would: the call is written once, whatever the upstream does with it. A kept
// connection would do that too, but one that turns out dead leaves a person to find
// out what became of what they approved. release must be called after the answer.
func alone(t *http.Transport, req *http.Request) (resp *http.Response, release func(), err error) {
	conn, err := t.NewClientConn(req.Context(), req.URL.Scheme, req.URL.Host)
	if err != nil {
		return nil, nil, err
	}
	release = func() { _ = conn.Close() }
	// t's patience begins with the last byte of the call. An upstream that leaves no
	// room for a stream, or for a body, would never come to that, and this call is
	// not given up when its agent is.
	stuck := time.AfterFunc(2*t.ResponseHeaderTimeout, release)
	defer stuck.Stop()
	if resp, err = conn.RoundTrip(req); err != nil {
		release()
		return nil, nil, err
	}
	return resp, release, nil
}

func (u *upstreams) closeIdle() {
	u.pooled.CloseIdleConnections()
	u.upgrade.CloseIdleConnections()
	u.kept.closeIdle()
}
